"""What stands behind a token in one tenant: a client, or a member with the roles held now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from storage.database import AsyncConnection

_CLIENT: LiteralString = "SELECT purpose FROM api_clients WHERE tenant_id = %s AND id = %s"

# One row for each permission of each role that holds now, and one without where there is none. A
# role for a location holds for those below it as well.
_MEMBER: LiteralString = """
SELECT m.user_type, m.patient_id, p.code, held.resource_scope, held.team_id,
    CASE WHEN held.resource_scope = 'LOCATION' THEN (
        WITH RECURSIVE below AS (
            SELECT l.id FROM locations AS l
                WHERE l.tenant_id = m.tenant_id AND l.id = held.location_id
            UNION
            SELECT l.id FROM locations AS l JOIN below AS b ON l.parent_location_id = b.id
                WHERE l.tenant_id = m.tenant_id)
        SELECT array_agg(id) FROM below) END
FROM user_tenants AS m
JOIN users AS u ON u.id = m.user_id AND u.status = 'ACTIVE'
LEFT JOIN (
    user_roles AS held
    JOIN roles AS r ON r.id = held.role_id
        AND (r.tenant_id IS NULL OR r.tenant_id = held.tenant_id)
    JOIN role_permissions AS rp ON rp.role_id = r.id
        AND (rp.tenant_id IS NULL OR rp.tenant_id = held.tenant_id)
    JOIN permissions AS p ON p.id = rp.permission_id
) ON held.tenant_id = m.tenant_id AND held.user_id = m.user_id
    AND (held.valid_from IS NULL OR held.valid_from <= now())
    AND (held.valid_until IS NULL OR held.valid_until > now())
WHERE m.tenant_id = %s AND m.user_id = %s AND m.status = 'ACTIVE' AND m.may_sign_in
"""


@dataclass(frozen=True, slots=True)
class HeldPermission:
    """One permission of one role that a member holds now."""

    permission: str
    resource_scope: str
    team_id: UUID | None
    location_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """A user who is an active member of a tenant, and all that they may do there."""

    user_type: str
    patient_id: UUID | None
    held: tuple[HeldPermission, ...]


async def client_purpose(
    connection: AsyncConnection, tenant_id: UUID, client_id: UUID
) -> str | None:
    """For whom a client works (api_clients.purpose); None where there is no such client."""
    cursor = await connection.execute(_CLIENT, (tenant_id, client_id))
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def membership(
    connection: AsyncConnection, tenant_id: UUID, user_id: UUID
) -> Membership | None:
    """The user's active membership; None where there is none."""
    rows: list[tuple[Any, ...]] = await (
        await connection.execute(_MEMBER, (tenant_id, user_id))
    ).fetchall()
    if not rows:
        return None
    held = tuple(
        HeldPermission(code, scope, team_id, tuple(locations or ()))
        for _, _, code, scope, team_id, locations in rows
        if code is not None
    )
    return Membership(rows[0][0], rows[0][1], held)
