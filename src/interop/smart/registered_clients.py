"""The clients of a tenant as its administrators see them: listed, disabled, given a new secret."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from interop.access.principals import Caller
from interop.errors import Conflict, NotFound
from interop.smart.clients import CLIENT_SECRET
from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection

_SELECT: LiteralString = (
    "SELECT id, client_id, name, scopes, authentication, grant_types, redirect_uris, jwks_uri,"
    " client_uri, launch_uri, purpose, rate_limit_per_minute, status, expires_at, last_used_at,"
    " created_at FROM api_clients WHERE tenant_id = %(tenant)s"
)


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """A client, active or not; its secret is known to nobody."""

    id: UUID
    client_id: str
    name: str
    scopes: list[str]
    authentication: str
    grant_types: list[str]
    redirect_uris: list[str]
    jwks_uri: str | None
    client_uri: str | None
    launch_uri: str | None
    purpose: str
    rate_limit_per_minute: int | None
    status: str
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


def list_clients(
    connection: Connection,
    tenant_id: UUID,
    *,
    after: tuple[datetime, UUID] | None = None,
    limit: int | None = None,
) -> list[RegisteredClient]:
    """Clients in the order of their registration, from (created_at, id) on if wanted."""
    created_at, client_id = after or (None, None)
    rows = connection.execute(
        _SELECT + " AND (%(at)s::timestamptz IS NULL OR (created_at, id) > (%(at)s, %(id)s))"
        " ORDER BY created_at, id LIMIT %(limit)s",
        {"tenant": tenant_id, "at": created_at, "id": client_id, "limit": limit},
    ).fetchall()
    return [RegisteredClient(*row) for row in rows]


def get_client(connection: Connection, tenant_id: UUID, client_id: UUID) -> RegisteredClient:
    """One client. Raises NotFound."""
    row = connection.execute(
        _SELECT + " AND id = %(id)s", {"tenant": tenant_id, "id": client_id}
    ).fetchone()
    if row is None:
        raise NotFound()
    return RegisteredClient(*row)


def disable_client(
    connection: Connection, tenant_id: UUID, client_id: UUID, by: Caller
) -> RegisteredClient:
    """Give it no token any more; those that are out there end within a minute."""
    _change(connection, tenant_id, client_id, "status = 'DISABLED'", {})
    _audit(connection, tenant_id, client_id, by, "client.disable")
    return get_client(connection, tenant_id, client_id)


def rotate_secret(connection: Connection, tenant_id: UUID, client_id: UUID, by: Caller) -> str:
    """A new secret, shown once; the old one is worth nothing at once. Raises Conflict."""
    found = get_client(connection, tenant_id, client_id)
    if found.authentication != CLIENT_SECRET:
        raise Conflict(f"this client proves itself by {found.authentication} and has no secret")
    secret = secrets.token_urlsafe(32)
    # As interop.smart.clients: 256 random bits need no slow hash.
    hashed = hashlib.sha256(secret.encode()).hexdigest()
    _change(connection, tenant_id, client_id, "client_secret_hash = %(hash)s", {"hash": hashed})
    _audit(connection, tenant_id, client_id, by, "client.secret")
    return secret


def _change(
    connection: Connection,
    tenant_id: UUID,
    client_id: UUID,
    assignment: LiteralString,
    values: dict[str, Any],
) -> None:
    changed = connection.execute(
        "UPDATE api_clients SET " + assignment + " WHERE tenant_id = %(tenant)s AND id = %(id)s",
        {"tenant": tenant_id, "id": client_id, **values},
    )
    if changed.rowcount != 1:
        raise NotFound()


def _audit(
    connection: Connection, tenant_id: UUID, client_id: UUID, by: Caller, action: str
) -> None:
    connection.execute(
        INSERT_AUDIT,
        system_audit(
            tenant_id,
            "CONFIG_CHANGED",
            "ApiClient",
            str(client_id),
            metadata={"action": action},
            actor_type=by.actor_type,
            user_id=by.user_id,
            api_client_id=by.client_id,
            request_id=by.request_id,
            ip_address=by.remote_address,
            user_agent=by.user_agent,
        ),
    )
