"""Roles of a tenant: which there are, who holds them, where and for how long.

Nobody gives what they do not have: a user may assign a role, or put permissions into one, only
within the permissions that they hold themselves for all locations. The operator may give any.
What a permission means is decided in interop.access.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from interop.errors import BadRequest, Conflict, Forbidden, NotFound
from interop.identity import sessions
from interop.identity.actors import Actor, audit
from storage.database import Connection

CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
RESOURCE_SCOPES = ("ALL_LOCATIONS", "LOCATION", "TEAM", "SELF")


@dataclass(frozen=True, slots=True)
class Grant:
    """A role as it is given: where it holds and when."""

    role: str
    resource_scope: str = "ALL_LOCATIONS"
    location_id: UUID | None = None
    team_id: UUID | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """A role that a user holds."""

    id: UUID
    user_id: UUID
    grant: Grant


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the platform (`is_platform`) or of the tenant, with what it permits."""

    id: UUID
    code: str
    name: str
    description: str | None
    is_platform: bool
    permissions: tuple[str, ...]


_ROLES: LiteralString = (
    "SELECT r.id, r.code, r.name, r.description, r.tenant_id IS NULL,"
    " array_remove(array_agg(p.code ORDER BY p.code), NULL)"
    " FROM roles AS r"
    " LEFT JOIN role_permissions AS rp ON rp.role_id = r.id"
    " AND (rp.tenant_id IS NULL OR rp.tenant_id = %(tenant)s)"
    " LEFT JOIN permissions AS p ON p.id = rp.permission_id"
    " WHERE (r.tenant_id IS NULL OR r.tenant_id = %(tenant)s)"
)


def list_roles(connection: Connection, tenant_id: UUID) -> list[Role]:
    """The roles that can be given in this tenant; its own come after those of the platform."""
    rows = connection.execute(
        _ROLES + " GROUP BY r.id ORDER BY r.tenant_id NULLS FIRST, r.code", {"tenant": tenant_id}
    ).fetchall()
    return [_role(row) for row in rows]


def role(connection: Connection, tenant_id: UUID, code: str) -> Role:
    """A role by its code; the tenant's own one before the platform's. Raises NotFound."""
    row = connection.execute(
        _ROLES + " AND r.code = %(code)s GROUP BY r.id ORDER BY r.tenant_id NULLS LAST LIMIT 1",
        {"tenant": tenant_id, "code": code},
    ).fetchone()
    if row is None:
        known = ", ".join(found.code for found in list_roles(connection, tenant_id))
        raise NotFound(f"there is no role {code!r}; there are: {known}")
    return _role(row)


def create_role(
    connection: Connection,
    tenant_id: UUID,
    actor: Actor,
    code: str,
    name: str,
    permissions: Iterable[str],
    description: str | None = None,
) -> UUID:
    """Make a role of the tenant's own."""
    if not CODE.fullmatch(code):
        raise BadRequest(f"role code {code!r}: 2 to 64 of A-Z, 0-9 and '_', a letter first")
    if any(known.code == code for known in list_roles(connection, tenant_id)):
        raise Conflict(f"there is a role {code!r} already")
    ids = _permission_ids(connection, permissions)
    require_within(connection, tenant_id, actor, ids)
    row = connection.execute(
        "INSERT INTO roles (tenant_id, code, name, description) VALUES (%s, %s, %s, %s)"
        " RETURNING id",
        (tenant_id, code, name, description),
    ).fetchone()
    assert row is not None
    _write_permissions(connection, tenant_id, row[0], ids.values())
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "Role", row[0],
        action="role.create", permissions=sorted(ids),
    )  # fmt: skip
    return UUID(str(row[0]))


def set_permissions(
    connection: Connection, tenant_id: UUID, actor: Actor, code: str, permissions: Iterable[str]
) -> None:
    """Replace what a role of the tenant's own permits; a role of the platform stays as it is."""
    found = _own_role(connection, tenant_id, code)
    ids = _permission_ids(connection, permissions)
    require_within(connection, tenant_id, actor, set(ids) | set(found.permissions))
    connection.execute(
        "DELETE FROM role_permissions WHERE tenant_id = %s AND role_id = %s", (tenant_id, found.id)
    )
    _write_permissions(connection, tenant_id, found.id, ids.values())
    _end_sessions_of_holders(connection, tenant_id, found.id)
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "Role", found.id,
        action="role.permissions", permissions=sorted(ids),
    )  # fmt: skip


def delete_role(connection: Connection, tenant_id: UUID, actor: Actor, code: str) -> None:
    """Remove a role of the tenant's own that nobody holds. Raises Conflict when somebody does."""
    found = _own_role(connection, tenant_id, code)
    holders = connection.execute(
        "SELECT (SELECT count(*) FROM user_roles WHERE tenant_id = %(tenant)s AND role_id = %(id)s)"
        " + (SELECT count(*) FROM invitation_roles"
        " WHERE tenant_id = %(tenant)s AND role_id = %(id)s)",
        {"tenant": tenant_id, "id": found.id},
    ).fetchone()
    assert holders is not None
    if holders[0]:
        raise Conflict(f"{holders[0]} users or invitations hold the role {code!r}; revoke it first")
    connection.execute("DELETE FROM roles WHERE tenant_id = %s AND id = %s", (tenant_id, found.id))
    audit(connection, tenant_id, actor, "CONFIG_CHANGED", "Role", found.id, action="role.delete")


def assignments(
    connection: Connection, tenant_id: UUID, user_id: UUID | None = None
) -> list[Assignment]:
    """The roles held by one user, or by everybody; also those not yet or no longer valid."""
    rows = connection.execute(
        "SELECT ur.id, ur.user_id, r.code, ur.resource_scope, ur.location_id, ur.team_id,"
        " ur.valid_from, ur.valid_until FROM user_roles AS ur JOIN roles AS r ON r.id = ur.role_id"
        " WHERE ur.tenant_id = %(tenant)s AND (%(user)s::uuid IS NULL OR ur.user_id = %(user)s)"
        " ORDER BY ur.user_id, r.code, ur.id",
        {"tenant": tenant_id, "user": user_id},
    ).fetchall()
    return [Assignment(row[0], row[1], Grant(*row[2:])) for row in rows]


def assign(
    connection: Connection, tenant_id: UUID, actor: Actor, user_id: UUID, grant: Grant
) -> UUID:
    """Give a role to a member; given again for the same unit, the newer terms hold.

    The user's sessions end, so that what they may do now is under a new token (security.md E8).
    """
    found = role(connection, tenant_id, grant.role)
    require_within(connection, tenant_id, actor, found.permissions)
    require_grant(connection, tenant_id, grant)
    assignment = insert(connection, tenant_id, user_id, found.id, grant)
    sessions.revoke_all(connection, tenant_id, user_id)
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "User", user_id,
        action="role.assign", role=str(found.id), assignment=str(assignment),
        resource_scope=grant.resource_scope,
    )  # fmt: skip
    return assignment


def revoke(
    connection: Connection, tenant_id: UUID, actor: Actor, user_id: UUID, assignment_id: UUID
) -> None:
    """Take one assignment back and end the user's sessions. Raises NotFound."""
    row = connection.execute(
        "DELETE FROM user_roles WHERE tenant_id = %s AND id = %s AND user_id = %s"
        " RETURNING role_id",
        (tenant_id, assignment_id, user_id),
    ).fetchone()
    if row is None:
        raise NotFound()
    sessions.revoke_all(connection, tenant_id, user_id)
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "User", user_id,
        action="role.revoke", role=str(row[0]), assignment=str(assignment_id),
    )  # fmt: skip


def insert(
    connection: Connection, tenant_id: UUID, user_id: UUID, role_id: UUID, grant: Grant
) -> UUID:
    """Write one row of user_roles, for callers that have checked and audit it themselves."""
    row = connection.execute(
        "INSERT INTO user_roles (tenant_id, user_id, role_id, location_id, team_id,"
        " resource_scope, valid_from, valid_until) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (tenant_id, user_id, role_id, location_id, team_id) DO UPDATE SET"
        " resource_scope = excluded.resource_scope, valid_from = excluded.valid_from,"
        " valid_until = excluded.valid_until RETURNING id",
        (
            tenant_id,
            user_id,
            role_id,
            grant.location_id,
            grant.team_id,
            grant.resource_scope,
            grant.valid_from,
            grant.valid_until,
        ),
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def require_within(
    connection: Connection, tenant_id: UUID, actor: Actor, permissions: Iterable[str]
) -> None:
    """Raise Forbidden when `actor` would give a permission that they do not hold everywhere."""
    if actor.actor_type == "SYSTEM":
        return
    rows = connection.execute(
        "SELECT DISTINCT p.code FROM user_roles AS ur"
        " JOIN role_permissions AS rp ON rp.role_id = ur.role_id"
        " AND (rp.tenant_id IS NULL OR rp.tenant_id = ur.tenant_id)"
        " JOIN permissions AS p ON p.id = rp.permission_id"
        " WHERE ur.tenant_id = %s AND ur.user_id = %s AND ur.resource_scope = 'ALL_LOCATIONS'"
        " AND (ur.valid_from IS NULL OR ur.valid_from <= now())"
        " AND (ur.valid_until IS NULL OR ur.valid_until > now())",
        (tenant_id, actor.user_id),
    ).fetchall()
    missing = set(permissions) - {row[0] for row in rows}
    if missing:
        raise Forbidden(
            f"you do not hold {', '.join(sorted(missing))} for all locations and cannot give it"
        )


def require_grant(connection: Connection, tenant_id: UUID, grant: Grant) -> None:
    """Raise BadRequest for terms that mean nothing, or a unit that is not one of the tenant."""
    if grant.resource_scope not in RESOURCE_SCOPES:
        accepted = ", ".join(RESOURCE_SCOPES)
        raise BadRequest(f"resource scope {grant.resource_scope!r}: one of {accepted}")
    for scope, named in (("LOCATION", grant.location_id), ("TEAM", grant.team_id)):
        if (grant.resource_scope == scope) != (named is not None):
            raise BadRequest(
                f"a {scope.lower()} is named with the resource scope {scope}, and only then"
            )
    if grant.valid_from and grant.valid_until and grant.valid_until <= grant.valid_from:
        raise BadRequest("valid_until must be later than valid_from")
    checks: tuple[tuple[str, UUID | None, LiteralString], ...] = (
        ("location", grant.location_id, "SELECT 1 FROM locations WHERE tenant_id = %s AND id = %s"),
        ("team", grant.team_id, "SELECT 1 FROM teams WHERE tenant_id = %s AND id = %s"),
    )
    for name, unit, query in checks:
        if unit and connection.execute(query, (tenant_id, unit)).fetchone() is None:
            raise BadRequest(f"there is no {name} {unit}")


def _role(row: Sequence[Any]) -> Role:
    role_id, code, name, description, is_platform, permissions = row
    return Role(role_id, code, name, description, is_platform, tuple(permissions))


def _own_role(connection: Connection, tenant_id: UUID, code: str) -> Role:
    found = role(connection, tenant_id, code)
    if found.is_platform:
        raise Conflict(f"{code!r} is a role of the platform; make one of your own to change it")
    return found


def _permission_ids(connection: Connection, permissions: Iterable[str]) -> dict[str, UUID]:
    known: dict[str, UUID] = dict(
        connection.execute("SELECT code, id FROM permissions ORDER BY code").fetchall()
    )
    wanted = set(permissions)
    if unknown := wanted - set(known):
        raise BadRequest(
            f"unknown permissions: {', '.join(sorted(unknown))}; there are: {', '.join(known)}"
        )
    return {code: known[code] for code in sorted(wanted)}


def _write_permissions(
    connection: Connection, tenant_id: UUID, role_id: UUID, ids: Iterable[UUID]
) -> None:
    connection.cursor().executemany(
        "INSERT INTO role_permissions (tenant_id, role_id, permission_id) VALUES (%s, %s, %s)",
        [(tenant_id, role_id, permission) for permission in ids],
    )


def _end_sessions_of_holders(connection: Connection, tenant_id: UUID, role_id: UUID) -> None:
    connection.execute(
        "UPDATE sessions SET revoked_at = now() WHERE tenant_id = %(tenant)s"
        " AND revoked_at IS NULL AND user_id IN"
        " (SELECT user_id FROM user_roles WHERE tenant_id = %(tenant)s AND role_id = %(role)s)",
        {"tenant": tenant_id, "role": role_id},
    )
