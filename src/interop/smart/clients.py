"""Service accounts of a tenant (`api_clients`): registration and the client-credentials check.

A secret is 256 random bits, so one SHA-256 is a sufficient hash: there is nothing to guess that
a slow hash would protect (unlike a password).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from uuid import UUID, uuid4

from interop.access.scopes import Scopes
from storage.database import Database
from storage.tenancy import Tenant


@dataclass(frozen=True, slots=True)
class ApiClient:
    """A registered client, without its secret."""

    id: UUID
    client_id: str
    name: str
    scopes: Scopes


def create_client(
    database: Database, tenant: Tenant, name: str, scopes: Scopes
) -> tuple[ApiClient, str]:
    """Register a client; the returned secret is shown once and not stored."""
    if not scopes.granted:
        raise ValueError("a client needs at least one scope, e.g. system/*.cruds")
    client = ApiClient(uuid4(), secrets.token_urlsafe(18), name, scopes)
    secret = secrets.token_urlsafe(32)
    with database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO api_clients (tenant_id, id, client_id, client_secret_hash, name, scopes)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (
                tenant.id,
                client.id,
                client.client_id,
                _hash(secret),
                name,
                [str(scope) for scope in scopes.granted],
            ),
        )
    return client, secret


def authenticate(
    database: Database, tenant: Tenant, client_id: str, secret: str
) -> ApiClient | None:
    """The client when the secret is its own and it is active, else None (same time either way)."""
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT id, name, scopes, client_secret_hash FROM api_clients"
            " WHERE tenant_id = %s AND client_id = %s AND status = 'ACTIVE'",
            (tenant.id, client_id),
        ).fetchone()
    expected = row[3] if row else _hash("")
    if not hmac.compare_digest(expected or "", _hash(secret)) or row is None:
        return None
    return ApiClient(row[0], client_id, row[1], Scopes.parse(" ".join(row[2])))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
