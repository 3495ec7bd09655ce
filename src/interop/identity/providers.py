"""The OpenID Connect providers of a tenant: which there are, and how they are set up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID, uuid4

from interop.errors import BadRequest, NotFound
from interop.identity.actors import Actor, audit
from interop.key_outages import keys_needed
from storage.database import Connection, vault_of
from storage.encryption import place

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_COLUMNS: LiteralString = (
    "id, name, display_name, issuer, client_id, scopes, allowed_email_domains, may_link_by_email,"
    " is_enabled"
)


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider, without its client secret."""

    id: UUID
    name: str
    display_name: str
    issuer: str
    client_id: str
    scopes: tuple[str, ...]
    allowed_email_domains: tuple[str, ...]
    may_link_by_email: bool
    is_enabled: bool


def list_enabled(connection: Connection, tenant_id: UUID) -> list[Provider]:
    """The providers that the sign-in page offers."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM identity_providers WHERE tenant_id = %s AND is_enabled"
        " ORDER BY display_name, name",
        (tenant_id,),
    ).fetchall()
    return [_provider(row) for row in rows]


def find(connection: Connection, tenant_id: UUID, name: str) -> Provider:
    """An enabled provider by name. Raises NotFound."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM identity_providers"
        " WHERE tenant_id = %s AND name = %s AND is_enabled",
        (tenant_id, name),
    ).fetchone()
    if row is None:
        raise NotFound()
    return _provider(row)


def client_secret(connection: Connection, tenant_id: UUID, provider_id: UUID) -> str | None:
    """The secret by which this server proves itself to the provider; None for a public client."""
    row = connection.execute(
        "SELECT client_secret_encrypted FROM identity_providers WHERE tenant_id = %s AND id = %s",
        (tenant_id, provider_id),
    ).fetchone()
    if row is None or row[0] is None:
        return None
    with keys_needed():
        return vault_of(connection).open(tenant_id, _place(provider_id), row[0], connection)


def save(
    connection: Connection,
    tenant_id: UUID,
    actor: Actor,
    *,
    name: str,
    display_name: str,
    issuer: str,
    client_id: str,
    secret: str | None,
    allowed_email_domains: Sequence[str] = (),
    may_link_by_email: bool = False,
) -> UUID:
    """Set a provider up, or change the one of this name; it is enabled then."""
    if not NAME.fullmatch(name):
        raise BadRequest(f"provider name {name!r}: up to 63 of a-z, 0-9 and '-'")
    _require_https(issuer)
    known = connection.execute(
        "SELECT id FROM identity_providers WHERE tenant_id = %s AND name = %s FOR UPDATE",
        (tenant_id, name),
    ).fetchone()
    provider_id = known[0] if known else uuid4()
    connection.execute(
        "INSERT INTO identity_providers (tenant_id, id, name, display_name, issuer, client_id,"
        " client_secret_encrypted, allowed_email_domains, may_link_by_email, is_enabled)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, true)"
        " ON CONFLICT (tenant_id, name) DO UPDATE SET display_name = excluded.display_name,"
        " issuer = excluded.issuer, client_id = excluded.client_id, is_enabled = true,"
        " client_secret_encrypted = excluded.client_secret_encrypted,"
        " allowed_email_domains = excluded.allowed_email_domains,"
        " may_link_by_email = excluded.may_link_by_email",
        (
            tenant_id,
            provider_id,
            name,
            display_name,
            issuer,
            client_id,
            _sealed(connection, tenant_id, provider_id, secret) if secret else None,
            [domain.strip().casefold() for domain in allowed_email_domains],
            may_link_by_email,
        ),
    )
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "IdentityProvider", provider_id,
        action="provider.save",
    )  # fmt: skip
    return UUID(str(provider_id))


def disable(connection: Connection, tenant_id: UUID, actor: Actor, name: str) -> None:
    """Take a provider off the sign-in page; who signed in with it stays signed in."""
    row = connection.execute(
        "UPDATE identity_providers SET is_enabled = false WHERE tenant_id = %s AND name = %s"
        " RETURNING id",
        (tenant_id, name),
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no identity provider {name!r}")
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "IdentityProvider", row[0],
        action="provider.disable",
    )  # fmt: skip


def _provider(row: Sequence[Any]) -> Provider:
    provider_id, name, display, issuer, client_id, scopes, domains, may_link, is_enabled = row
    return Provider(
        provider_id, name, display, issuer, client_id, tuple(scopes), tuple(domains), may_link,
        is_enabled,
    )  # fmt: skip


def _require_https(issuer: str) -> None:
    # Loads an HTTP client, which the commands that change no provider need not wait for.
    from interop.events.egress import EgressRefused, check_url

    try:
        check_url(issuer)
    except EgressRefused as error:
        raise BadRequest(f"issuer {issuer!r}: {error}") from error


def _place(provider_id: UUID) -> str:
    return place("identity_providers", "client_secret_encrypted", provider_id)


def _sealed(connection: Connection, tenant_id: UUID, provider_id: UUID, secret: str) -> str:
    with keys_needed():
        return vault_of(connection).seal(tenant_id, _place(provider_id), secret, connection)
