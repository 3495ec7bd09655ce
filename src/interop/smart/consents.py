"""Which apps a user has agreed to, with which scopes; remembered until the user takes it back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from interop.access.scopes import Scopes
from interop.smart.clients import ApiClient
from storage.database import Connection
from storage.tenancy import Tenant


@dataclass(frozen=True, slots=True)
class ConnectedApp:
    """An app that may act for a user."""

    api_client_id: UUID
    name: str
    scopes: Scopes
    since: datetime


def is_remembered(
    connection: Connection, tenant: Tenant, user_id: UUID, client: ApiClient, scopes: Scopes
) -> bool:
    """Whether the user has agreed before to all of these scopes for this app."""
    row = connection.execute(
        "SELECT scopes FROM application_consents"
        " WHERE tenant_id = %s AND user_id = %s AND api_client_id = %s",
        (tenant.id, user_id, client.id),
    ).fetchone()
    if row is None:
        return False
    agreed = Scopes.parse(" ".join(row[0]), ignore_unknown=True)
    return set(scopes.context) <= set(agreed.context) and all(
        any(own.covers(scope) for own in agreed.granted) for scope in scopes.granted
    )


def remember(
    connection: Connection, tenant: Tenant, user_id: UUID, client: ApiClient, scopes: Scopes
) -> None:
    """Note what a user has agreed to; the newest agreement counts."""
    connection.execute(
        "INSERT INTO application_consents (tenant_id, user_id, api_client_id, scopes)"
        " VALUES (%s, %s, %s, %s) ON CONFLICT (tenant_id, user_id, api_client_id)"
        " DO UPDATE SET scopes = excluded.scopes, created_at = now()",
        (tenant.id, user_id, client.id, str(scopes).split()),
    )


def connected(connection: Connection, tenant: Tenant, user_id: UUID) -> list[ConnectedApp]:
    """The apps that a user has agreed to, by name."""
    rows = connection.execute(
        "SELECT c.id, c.name, a.scopes, a.created_at FROM application_consents AS a"
        " JOIN api_clients AS c ON c.tenant_id = a.tenant_id AND c.id = a.api_client_id"
        " WHERE a.tenant_id = %s AND a.user_id = %s ORDER BY c.name, c.id",
        (tenant.id, user_id),
    ).fetchall()
    return [
        ConnectedApp(id_, name, Scopes.parse(" ".join(scopes), ignore_unknown=True), since)
        for id_, name, scopes, since in rows
    ]


def take_back(connection: Connection, tenant: Tenant, user_id: UUID, api_client_id: UUID) -> int:
    """Forget an agreement and end every grant of it; returns how many grants ended."""
    connection.execute(
        "DELETE FROM application_consents"
        " WHERE tenant_id = %s AND user_id = %s AND api_client_id = %s",
        (tenant.id, user_id, api_client_id),
    )
    return connection.execute(
        "UPDATE authorization_grants SET revoked_at = now(), revocation_reason = 'USER_REQUEST'"
        " WHERE tenant_id = %s AND user_id = %s AND api_client_id = %s AND revoked_at IS NULL",
        (tenant.id, user_id, api_client_id),
    ).rowcount
