"""DICOMweb services to which a tenant's objects are sent, with their secrets sealed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, LiteralString
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from interop.errors import BadRequest, Conflict, NotFound
from interop.events.egress import EgressRefused, check_url
from interop.key_outages import keys_needed
from storage.database import Connection, vault_of
from storage.encryption import place
from storage.tenants.changes import OPERATOR, Actor, record_change

TABLE: Final = "dicom_web_destinations"
SUBJECT: Final = "ROUTING_DESTINATION"
AUTHENTICATIONS: Final = ("NONE", "BASIC", "BEARER", "CLIENT_CREDENTIALS")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}")
_COLUMNS: LiteralString = "id, name, url, authentication, client_id, token_url, scope, active"


@dataclass(frozen=True, slots=True)
class WebDestination:
    """One service, without its secret."""

    id: UUID
    name: str
    url: str
    authentication: str
    client_id: str | None
    token_url: str | None
    scope: str | None
    active: bool

    def described(self) -> dict[str, Any]:
        return asdict(self) | {"id": str(self.id)}


def list_all(connection: Connection, tenant_id: UUID) -> list[WebDestination]:
    """The services of the tenant, by name."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM dicom_web_destinations WHERE tenant_id = %s ORDER BY name",
        (tenant_id,),
    ).fetchall()
    return [WebDestination(*row) for row in rows]


def find(connection: Connection, tenant_id: UUID, name: str) -> WebDestination | None:
    """One service by its name."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM dicom_web_destinations WHERE tenant_id = %s AND name = %s",
        (tenant_id, name),
    ).fetchone()
    return WebDestination(*row) if row else None


def with_secret(
    connection: Connection, tenant_id: UUID, destination_id: UUID
) -> tuple[WebDestination, str | None]:
    """One service and its secret, for whoever calls it. Raises NotFound."""
    row = connection.execute(
        f"SELECT secret_encrypted, {_COLUMNS} FROM dicom_web_destinations"
        " WHERE tenant_id = %s AND id = %s",
        (tenant_id, destination_id),
    ).fetchone()
    if row is None:
        raise NotFound()
    found = WebDestination(*row[1:])
    if row[0] is None:
        return found, None
    with keys_needed():
        return found, vault_of(connection).open(tenant_id, _place(found.id), row[0], connection)


def put(
    connection: Connection,
    tenant_id: UUID,
    name: str,
    values: Mapping[str, Any],
    secret: str | None,
    actor: Actor = OPERATOR,
) -> WebDestination:
    """Register a service, or change one; without a new secret it keeps its own.

    Raises BadRequest for what cannot be called or is not enough to be let in.
    """
    before = find(connection, tenant_id, name)
    wanted = {
        "url": None, "authentication": "NONE", "client_id": None, "token_url": None,
        "scope": None, "active": True,
    }  # fmt: skip
    if before is not None:
        wanted |= {key: getattr(before, key) for key in wanted}
    wanted |= {key: value for key, value in values.items() if value is not None}
    _check(
        name, wanted, has_secret=secret is not None or _has_secret(connection, before, tenant_id)
    )
    if before is not None and secret is None and wanted["authentication"] != "NONE":
        _keep_at_its_origin(before, wanted)
    id_ = before.id if before is not None else uuid4()
    sealed = None
    if secret is not None:
        with keys_needed():
            sealed = vault_of(connection).seal(tenant_id, _place(id_), secret, connection)
    connection.execute(
        "INSERT INTO dicom_web_destinations (tenant_id, id, name, url, authentication, client_id,"
        " token_url, scope, active, secret_encrypted) VALUES (%(tenant_id)s, %(id)s, %(name)s,"
        " %(url)s, %(authentication)s, %(client_id)s, %(token_url)s, %(scope)s, %(active)s,"
        " %(secret)s) ON CONFLICT (tenant_id, name) DO UPDATE SET url = excluded.url,"
        " authentication = excluded.authentication, client_id = excluded.client_id,"
        " token_url = excluded.token_url, scope = excluded.scope, active = excluded.active,"
        " secret_encrypted = coalesce(excluded.secret_encrypted,"
        " dicom_web_destinations.secret_encrypted)",
        {"tenant_id": tenant_id, "id": id_, "name": name, "secret": sealed, **wanted},
    )
    changed = {
        key: [getattr(before, key) if before else None, value]
        for key, value in wanted.items()
        if before is None or getattr(before, key) != value
    }
    if secret is not None:
        changed["secret"] = ["...", "..."]
    record_change(connection, tenant_id, SUBJECT, str(id_), changed, actor)
    found = find(connection, tenant_id, name)
    assert found is not None
    return found


def remove(
    connection: Connection, tenant_id: UUID, name: str, actor: Actor = OPERATOR
) -> WebDestination:
    """Forget a service that no rule and no delivery names. Raises NotFound, Conflict."""
    found = find(connection, tenant_id, name)
    if found is None:
        raise NotFound(f"there is no destination {name!r}")
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM dicom_routing_rules WHERE tenant_id = %(t)s"
        " AND web_destination_id = %(id)s) OR EXISTS (SELECT FROM dicom_deliveries"
        " WHERE tenant_id = %(t)s AND web_destination_id = %(id)s)",
        {"t": tenant_id, "id": found.id},
    ).fetchone()
    if row is not None and row[0]:
        raise Conflict(f"{name!r} has rules or deliveries; disable it instead")
    connection.execute(
        "DELETE FROM dicom_web_destinations WHERE tenant_id = %s AND id = %s",
        (tenant_id, found.id),
    )
    removed = {"removed": [name, None]}
    record_change(connection, tenant_id, SUBJECT, str(found.id), removed, actor)
    return found


def _has_secret(connection: Connection, before: WebDestination | None, tenant_id: UUID) -> bool:
    if before is None:
        return False
    row = connection.execute(
        "SELECT secret_encrypted IS NOT NULL FROM dicom_web_destinations"
        " WHERE tenant_id = %s AND id = %s",
        (tenant_id, before.id),
    ).fetchone()
    return row is not None and bool(row[0])


def _check(name: str, wanted: Mapping[str, Any], *, has_secret: bool) -> None:
    if not NAME.fullmatch(name):
        raise BadRequest(f"name {name!r}: 1 to 63 letters, digits, spaces, dots, dashes")
    kind = wanted["authentication"]
    if kind not in AUTHENTICATIONS:
        raise BadRequest(f"authentication {kind!r}: one of {', '.join(AUTHENTICATIONS)}")
    try:
        check_url(wanted["url"] or "")
        if kind == "CLIENT_CREDENTIALS":
            check_url(wanted["token_url"] or "")
    except EgressRefused as error:
        raise BadRequest(f"url and token_url: {error}") from error
    if kind != "NONE" and not has_secret:
        raise BadRequest(f"authentication {kind} needs a secret")
    if kind in ("BASIC", "CLIENT_CREDENTIALS") and not wanted["client_id"]:
        raise BadRequest(f"authentication {kind} needs a client_id")


def _keep_at_its_origin(before: WebDestination, wanted: Mapping[str, Any]) -> None:
    """A secret that was given for one origin is not shown to another (security.md F1)."""
    for name in ("url", "token_url"):
        if _origin(getattr(before, name)) != _origin(wanted[name]):
            raise BadRequest(f"{name} has another origin now: give the secret for it as well")


def _origin(url: str | None) -> tuple[str, str]:
    parts = urlsplit(url or "")
    return parts.scheme, parts.netloc.lower()


def _place(destination_id: UUID) -> str:
    return place(TABLE, "secret_encrypted", destination_id)
