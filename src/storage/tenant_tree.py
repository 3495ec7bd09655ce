"""The tree of tenants (a DSO and its practices) and who of a parent may look into a child.

Being above another tenant gives nothing by itself. A grant names a subtree, a member (or a role of
members) of the parent, a level and a period; it counts while the member is active, the parent is,
and the subtree still lies below the parent. A child sees neither its parent nor its siblings.
Nothing here is remembered: whoever remembers an answer must forget it within a minute (D13).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, LiteralString
from uuid import UUID

import psycopg

from storage.database import AsyncConnection, Connection, Database
from storage.tenants.changes import OPERATOR, Actor, record_change

Level = Literal["MEMBER", "READ", "MANAGE"]
GRANT_LEVELS = ("READ", "MANAGE")


class NotInTree(ValueError):
    """The tenant does not lie where it would have to."""


class UnknownGrant(ValueError):
    """There is no such grant that is still in force."""


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A tenant and how far it is from where the question began."""

    id: UUID
    slug: str
    name: str
    status: str
    depth: int


@dataclass(frozen=True, slots=True)
class ReadableTenant:
    """A tenant that a user may read, and by what right."""

    id: UUID
    slug: str
    name: str
    level: Level


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant of a parent tenant on a subtree below it."""

    id: UUID
    root_slug: str
    level: str
    user_id: UUID | None
    role_id: UUID | None
    valid_from: datetime
    valid_until: datetime | None


_ANCESTORS: LiteralString = (
    "SELECT t.id, t.slug, t.name, t.status, c.depth FROM tenant_closure c"
    " JOIN tenants t ON t.id = c.ancestor_id"
    " WHERE c.descendant_id = %s AND c.depth > 0 ORDER BY c.depth"
)
_DESCENDANTS: LiteralString = (
    "SELECT t.id, t.slug, t.name, t.status, c.depth FROM tenant_closure c"
    " JOIN tenants t ON t.id = c.descendant_id"
    " WHERE c.ancestor_id = %s AND c.depth > 0 ORDER BY c.depth, t.slug"
)

_IS_BELOW: LiteralString = (
    "SELECT 1 FROM tenant_closure c JOIN tenants home ON home.id = c.ancestor_id"
    " JOIN tenants t ON t.id = c.descendant_id WHERE c.ancestor_id = %s AND c.descendant_id = %s"
    " AND c.depth > 0 AND home.status = 'ACTIVE' AND t.status <> 'CLOSED'"
)

# The transaction is bound to the home tenant: memberships, roles and grants are its own rows.
# A role that is held for one location or team says nothing about whole tenants.
READABLE: LiteralString = """
WITH member AS (
    SELECT m.user_id FROM user_tenants AS m JOIN users AS u ON u.id = m.user_id
    WHERE m.tenant_id = %(tenant_id)s AND m.user_id = %(user_id)s
        AND m.status = 'ACTIVE' AND u.status = 'ACTIVE'
), granted AS (
    SELECT below.descendant_id, bool_or(g.level = 'MANAGE') AS manages
    FROM member
    JOIN tenants AS home ON home.id = %(tenant_id)s AND home.status = 'ACTIVE'
    JOIN tenant_grants AS g ON g.tenant_id = home.id
        AND g.valid_from <= %(now)s AND (g.valid_until IS NULL OR g.valid_until > %(now)s)
        AND (g.user_id = member.user_id OR EXISTS (
            SELECT FROM user_roles AS r
            WHERE r.tenant_id = %(tenant_id)s AND r.user_id = member.user_id
                AND r.role_id = g.role_id AND r.resource_scope = 'ALL_LOCATIONS'
                AND (r.valid_from IS NULL OR r.valid_from <= %(now)s)
                AND (r.valid_until IS NULL OR r.valid_until > %(now)s)))
    JOIN tenant_closure AS above ON above.ancestor_id = home.id
        AND above.descendant_id = g.root_tenant_id AND above.depth > 0
    JOIN tenant_closure AS below ON below.ancestor_id = g.root_tenant_id
    GROUP BY below.descendant_id
)
SELECT t.id, t.slug, t.name, 'MEMBER' FROM member JOIN tenants AS t ON t.id = %(tenant_id)s
WHERE t.status <> 'CLOSED'
UNION ALL
SELECT t.id, t.slug, t.name, CASE WHEN granted.manages THEN 'MANAGE' ELSE 'READ' END
FROM granted JOIN tenants AS t ON t.id = granted.descendant_id AND t.status <> 'CLOSED'
"""


def ancestors(connection: Connection, tenant_id: UUID) -> list[TreeNode]:
    """The tenants above, the nearest first."""
    return [TreeNode(*row) for row in connection.execute(_ANCESTORS, (tenant_id,))]


def descendants(connection: Connection, tenant_id: UUID) -> list[TreeNode]:
    """The tenants below, the nearest first."""
    return [TreeNode(*row) for row in connection.execute(_DESCENDANTS, (tenant_id,))]


def readable_tenants(
    connection: Connection, user_id: UUID, tenant_id: UUID, now: datetime | None = None
) -> list[ReadableTenant]:
    """What an active member of `tenant_id` may read: this tenant, and what grants open below it.

    `connection` is bound to `tenant_id`. Empty for whoever is no active member.
    """
    values = {"tenant_id": tenant_id, "user_id": user_id, "now": now or datetime.now(UTC)}
    found = [ReadableTenant(*row) for row in connection.execute(READABLE, values)]
    return sorted(found, key=lambda one: (one.level != "MEMBER", one.slug))


def access_level(
    connection: Connection,
    user_id: UUID,
    home_id: UUID,
    target_id: UUID,
    now: datetime | None = None,
) -> Level | None:
    """By what right a member of `home_id` acts in `target_id`; None: not at all.

    `connection` is bound to `home_id`.
    """
    readable = readable_tenants(connection, user_id, home_id, now)
    return next((one.level for one in readable if one.id == target_id), None)


def is_below(registry: Connection, home_id: UUID, target_id: UUID) -> bool:
    """Whether the platform's registry says so at this moment.

    A home in a database of its own has a copy of the tree, which may be some seconds old.
    """
    return registry.execute(_IS_BELOW, (home_id, target_id)).fetchone() is not None


async def ais_below(registry: AsyncConnection, home_id: UUID, target_id: UUID) -> bool:
    """The async twin of `is_below`."""
    cursor = await registry.execute(_IS_BELOW, (home_id, target_id))
    return await cursor.fetchone() is not None


async def aaccess_level(
    connection: AsyncConnection, user_id: UUID, home_id: UUID, target_id: UUID
) -> Level | None:
    """The async twin of `access_level`, for this moment."""
    values = {"tenant_id": home_id, "user_id": user_id, "now": datetime.now(UTC)}
    rows = await (await connection.execute(READABLE, values)).fetchall()
    return next((row[3] for row in rows if row[0] == target_id), None)


def place_below(
    database: Database, tenant_id: UUID, parent_id: UUID | None, actor: Actor = OPERATOR
) -> None:
    """Move a tenant, with all below it, under another one or to the top. Raises NotInTree."""
    with database.connection(tenant_id) as connection:
        # Written down where the tenant lives; the tree is the platform's, whose copies follow.
        said = {"parent": str(parent_id)}
        record_change(connection, tenant_id, "TENANT", str(tenant_id), said, actor)
        with database.platform_connection() as registry:
            _hang(registry, tenant_id, parent_id)


def _hang(registry: Connection, tenant_id: UUID, parent_id: UUID | None) -> None:
    try:
        changed = registry.execute(
            "UPDATE tenants SET parent_tenant_id = %s WHERE id = %s RETURNING id",
            (parent_id, tenant_id),
        ).fetchone()
    except psycopg.errors.CheckViolation as error:
        raise NotInTree("a tenant cannot lie below itself or below one of its own") from error
    except psycopg.errors.ForeignKeyViolation as error:
        raise NotInTree(f"there is no tenant {parent_id}") from error
    if changed is None:
        raise NotInTree(f"there is no tenant {tenant_id}")


def grant(
    database: Database,
    tenant_id: UUID,
    root_id: UUID,
    level: str,
    *,
    user_id: UUID | None = None,
    role_id: UUID | None = None,
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
    actor: Actor = OPERATOR,
) -> UUID:
    """Let a member, or every holder of a role, of `tenant_id` into the subtree of `root_id`.

    The subtree's root learns of it first, in its own audit trail. Raises NotInTree and ValueError.
    """
    if level not in GRANT_LEVELS:
        raise ValueError(f"level {level!r}: one of {', '.join(GRANT_LEVELS)}")
    if (user_id is None) == (role_id is None):
        raise ValueError("a grant names either a user or a role")
    said = {
        "grantor": str(tenant_id),
        "level": level,
        "user": str(user_id) if user_id else None,
        "role": str(role_id) if role_id else None,
        "until": valid_until.isoformat() if valid_until else None,
    }
    with database.connection(tenant_id) as connection:
        if not any(node.id == root_id for node in descendants(connection, tenant_id)):
            raise NotInTree("no tenant below this one has that id")
    with database.connection(root_id) as connection:
        record_change(connection, root_id, "TENANT_GRANT", None, said, actor)
    with database.connection(tenant_id) as connection:
        try:
            row = connection.execute(
                "INSERT INTO tenant_grants (tenant_id, root_tenant_id, user_id, role_id, level,"
                " valid_from, valid_until) VALUES (%s, %s, %s, %s, %s, coalesce(%s, now()), %s)"
                " RETURNING id",
                (tenant_id, root_id, user_id, role_id, level, valid_from, valid_until),
            ).fetchone()
        except psycopg.errors.ForeignKeyViolation as error:
            raise ValueError("the user is no member of this tenant, or the role not its") from error
        except psycopg.errors.CheckViolation as error:
            raise ValueError("valid_until must not be before valid_from") from error
        assert row is not None
        said["root"] = str(root_id)
        record_change(connection, tenant_id, "TENANT_GRANT", str(row[0]), said, actor)
    return UUID(str(row[0]))


def revoke(database: Database, tenant_id: UUID, grant_id: UUID, actor: Actor = OPERATOR) -> None:
    """End a grant now. Raises UnknownGrant."""
    with database.connection(tenant_id) as connection:
        row = connection.execute(
            "UPDATE tenant_grants SET valid_until = greatest(now(), valid_from)"
            " WHERE tenant_id = %s AND id = %s AND (valid_until IS NULL OR valid_until > now())"
            " RETURNING root_tenant_id",
            (tenant_id, grant_id),
        ).fetchone()
        if row is None:
            raise UnknownGrant(f"no grant {grant_id} of this tenant is in force")
        record_change(
            connection, tenant_id, "TENANT_GRANT", str(grant_id), {"revoked": True}, actor
        )
    with database.connection(row[0]) as connection:
        ended = {"revoked": str(grant_id), "grantor": str(tenant_id)}
        record_change(connection, row[0], "TENANT_GRANT", None, ended, actor)


def grants(connection: Connection, tenant_id: UUID) -> list[Grant]:
    """The grants of a tenant that are or will be in force. `connection` is bound to it."""
    rows = connection.execute(
        "SELECT g.id, t.slug, g.level, g.user_id, g.role_id, g.valid_from, g.valid_until"
        " FROM tenant_grants g JOIN tenants t ON t.id = g.root_tenant_id"
        " WHERE g.tenant_id = %s AND (g.valid_until IS NULL OR g.valid_until > now())"
        " ORDER BY t.slug, g.created_at",
        (tenant_id,),
    )
    return [Grant(*row) for row in rows]
