"""Users of a tenant: members, their types, and the password by which they sign in.

A user is global and may be a member of several tenants; a tenant sees and changes only the
membership. Creating an account outright is the operator's: a tenant invites, so that it neither
learns who exists elsewhere nor chooses a password for them (interop.identity.invitations).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from interop.access.principals import PATIENT
from interop.errors import BadRequest, Conflict, Forbidden, NotFound
from interop.identity import passwords, roles, sessions
from interop.identity.actors import Actor, audit
from storage import quotas
from storage.database import Connection

USER_TYPES = (
    "DENTIST",
    "HYGIENIST",
    "ASSISTANT",
    "ADMIN",
    "FRONT_DESK",
    "PATIENT",
    "PAYER_ANALYST",
    "REGULATOR",
    "DEVELOPER",
)
# RFC 5321 4.5.3.1 gives the lengths; anything finer is for the mail server to judge.
EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,255}")
NAME_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Member:
    """A user as this tenant sees them."""

    user_id: UUID
    email: str | None
    full_name: str
    user_type: str
    status: str  # ACTIVE, INACTIVE (disabled here), DISABLED (everywhere)
    roles: tuple[str, ...]
    has_second_factor: bool
    last_activity_at: datetime | None


def normal_email(text: str) -> str:
    """The one spelling of an address under which it is stored and found. Raises BadRequest."""
    email = typed_email(text)
    if not EMAIL.fullmatch(email):
        raise BadRequest(f"e-mail address {text!r}: one address such as name@example.org")
    return email


def typed_email(text: str) -> str:
    """What somebody typed as an address, in the one spelling; it need not be one."""
    return unicodedata.normalize("NFKC", text).strip().casefold()[:320]


def require_user_type(user_type: str) -> str:
    if user_type not in USER_TYPES:
        raise BadRequest(f"user type {user_type!r}: one of {', '.join(USER_TYPES)}")
    return user_type


def require_name(text: str) -> str:
    name = " ".join(text.split())
    if not 0 < len(name) <= NAME_LENGTH or not name.isprintable():
        raise BadRequest(f"a name has 1 to {NAME_LENGTH} printable characters")
    return name


_MEMBERS: LiteralString = (
    "SELECT u.id, u.email, u.full_name, m.user_type,"
    " CASE WHEN u.status = 'DISABLED' THEN 'DISABLED'"
    "  WHEN m.status = 'ACTIVE' AND m.may_sign_in THEN 'ACTIVE' ELSE 'INACTIVE' END,"
    " ARRAY(SELECT DISTINCT r.code FROM user_roles AS ur JOIN roles AS r ON r.id = ur.role_id"
    "  WHERE ur.tenant_id = m.tenant_id AND ur.user_id = u.id ORDER BY r.code),"
    " EXISTS (SELECT FROM user_auth_identities AS i"
    "  WHERE i.user_id = u.id AND i.mfa_enabled_at IS NOT NULL),"
    " (SELECT max(s.last_activity_at) FROM sessions AS s"
    "  WHERE s.tenant_id = m.tenant_id AND s.user_id = u.id)"
    " FROM user_tenants AS m JOIN users AS u ON u.id = m.user_id"
    " WHERE m.tenant_id = %(tenant)s AND u.email IS NOT NULL"
)


def list_members(
    connection: Connection,
    tenant_id: UUID,
    *,
    after: tuple[str, UUID] | None = None,
    limit: int | None = None,
) -> list[Member]:
    """Everybody who is or was a member and can sign in, by name; from (name, id) on if wanted."""
    name, user_id = after or (None, None)
    rows = connection.execute(
        _MEMBERS + " AND (%(name)s::text IS NULL OR (u.full_name, u.id) > (%(name)s, %(user)s))"
        " ORDER BY u.full_name, u.id LIMIT %(limit)s",
        {"tenant": tenant_id, "name": name, "user": user_id, "limit": limit},
    ).fetchall()
    return [_member(row) for row in rows]


def get_member(connection: Connection, tenant_id: UUID, user_id: UUID) -> Member:
    """One of them. Raises NotFound."""
    row = connection.execute(
        _MEMBERS + " AND u.id = %(user)s", {"tenant": tenant_id, "user": user_id}
    ).fetchone()
    if row is None:
        raise NotFound()
    return _member(row)


def _member(row: tuple[Any, ...]) -> Member:
    user_id, email, name, kind, status, held, has_factor, last_activity = row
    return Member(user_id, email, name, kind, status, tuple(held), has_factor, last_activity)


def find_member(connection: Connection, tenant_id: UUID, email: str) -> UUID:
    """The user id of a member by e-mail. Raises NotFound, also for users of other tenants."""
    row = connection.execute(
        "SELECT u.id FROM users AS u JOIN user_tenants AS m ON m.user_id = u.id"
        " WHERE m.tenant_id = %s AND u.email = %s",
        (tenant_id, normal_email(email)),
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no user {email!r} in this tenant")
    return UUID(str(row[0]))


def create_user(
    connection: Connection,
    tenant_id: UUID,
    actor: Actor,
    *,
    email: str,
    full_name: str,
    user_type: str,
    password_hash: str | None,
    grants: Iterable[roles.Grant] = (),
) -> UUID:
    """Make an account a member with roles; the operator only.

    An account that exists becomes a member too, and keeps its own password: Conflict when a
    password is given for it, or when it is a member already.
    """
    if actor.actor_type != "SYSTEM":
        raise Forbidden("only the operator creates accounts; invite the user instead")
    address = normal_email(email)
    known = connection.execute(
        "SELECT u.id, EXISTS (SELECT FROM user_auth_identities AS i WHERE i.user_id = u.id)"
        " FROM users AS u WHERE u.email = %s",
        (address,),
    ).fetchone()
    if known and known[1] and password_hash is not None:
        raise Conflict(f"{address} has an account already, with a password or provider of its own")
    user_id = known[0] if known else insert_user(connection, address, full_name)
    if password_hash is not None:
        insert_password(connection, user_id, address, password_hash)
    if not insert_member(connection, tenant_id, user_id, user_type):
        raise Conflict(f"{address} is a member of this tenant already")
    for grant in grants:
        found = roles.role(connection, tenant_id, grant.role)
        roles.require_grant(connection, tenant_id, grant)
        roles.insert(connection, tenant_id, user_id, found.id, grant)
    audit(connection, tenant_id, actor, "CONFIG_CHANGED", "User", user_id, action="user.create")
    return user_id


def disable(
    connection: Connection,
    tenant_id: UUID,
    actor: Actor,
    user_id: UUID,
    *,
    everywhere: bool = False,
) -> None:
    """Keep a user out from now on: sessions end and no new one begins.

    In this tenant; `everywhere` is for the operator, and takes effect in all tenants at once.
    """
    _require_member(connection, tenant_id, user_id)
    if everywhere:
        _set_status(connection, actor, user_id, "DISABLED")
    else:
        _allow(connection, tenant_id, user_id, False)
    sessions.revoke_all(connection, tenant_id, user_id)
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "User", user_id,
        action="user.disable", everywhere=everywhere,
    )  # fmt: skip


def enable(
    connection: Connection,
    tenant_id: UUID,
    actor: Actor,
    user_id: UUID,
    *,
    everywhere: bool = False,
) -> None:
    """Let a user sign in again, in this tenant or (the operator) everywhere."""
    _require_member(connection, tenant_id, user_id)
    held = [a.grant.role for a in roles.assignments(connection, tenant_id, user_id)]
    for code in held:
        permissions = roles.role(connection, tenant_id, code).permissions
        roles.require_within(connection, tenant_id, actor, permissions)
    if everywhere:
        _set_status(connection, actor, user_id, "ACTIVE")
    _allow(connection, tenant_id, user_id, True)
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "User", user_id,
        action="user.enable", everywhere=everywhere,
    )  # fmt: skip


def set_user_type(
    connection: Connection, tenant_id: UUID, actor: Actor, user_id: UUID, user_type: str
) -> None:
    """Say what a member is; their sessions end, for what they may see can depend on it."""
    row = connection.execute(
        "UPDATE user_tenants AS m SET user_type = %s FROM user_tenants AS former"
        " WHERE m.tenant_id = %s AND m.user_id = %s"
        " AND former.tenant_id = m.tenant_id AND former.user_id = m.user_id"
        " RETURNING former.user_type",
        (require_user_type(user_type), tenant_id, user_id),
    ).fetchone()
    if row is None:
        raise NotFound()
    if row[0] == PATIENT:
        _require_seat(connection, tenant_id, user_type)
    sessions.revoke_all(connection, tenant_id, user_id)
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "User", user_id,
        action="user.type", user_type=user_type,
    )  # fmt: skip


def reset_password(
    connection: Connection, tenant_id: UUID, actor: Actor, user_id: UUID, password_hash: str
) -> None:
    """Give a member a new password, without a second factor; the operator only.

    The account may be a member of other tenants, whose administrators this one must not become.
    """
    if actor.actor_type != "SYSTEM":
        raise Forbidden("only the operator resets passwords")
    _require_member(connection, tenant_id, user_id)
    row = connection.execute("SELECT email FROM users WHERE id = %s", (user_id,)).fetchone()
    if row is None or row[0] is None:
        raise Conflict("this user has no e-mail address to sign in with")
    connection.execute(
        "DELETE FROM user_auth_identities WHERE user_id = %s AND provider = 'PASSWORD'", (user_id,)
    )
    insert_password(connection, user_id, row[0], password_hash)
    sessions.revoke_all(connection, tenant_id, user_id)
    audit(connection, tenant_id, actor, "CONFIG_CHANGED", "User", user_id, action="user.password")


def change_password(
    connection: Connection, tenant_id: UUID, actor: Actor, user_id: UUID, password_hash: str
) -> None:
    """Store the new password of a user who has just given the old one; all sessions end."""
    connection.execute(
        "UPDATE user_auth_identities SET password_hash = %s, password_algorithm = %s,"
        " password_changed_at = now() WHERE user_id = %s AND provider = 'PASSWORD'",
        (password_hash, passwords.ALGORITHM, user_id),
    )
    sessions.revoke_all(connection, tenant_id, user_id)
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "User", user_id,
        action="user.password_change",
    )  # fmt: skip


def insert_user(connection: Connection, email: str, full_name: str) -> UUID:
    """Write a row of users. Raises Conflict when another transaction has just made the same."""
    row = connection.execute(
        "INSERT INTO users (email, full_name) VALUES (%s, %s) ON CONFLICT (email) DO NOTHING"
        " RETURNING id",
        (email, require_name(full_name)),
    ).fetchone()
    if row is None:
        raise Conflict("an account with this e-mail address has just been made; try again")
    return UUID(str(row[0]))


def insert_password(connection: Connection, user_id: UUID, email: str, password_hash: str) -> None:
    connection.execute(
        "INSERT INTO user_auth_identities (user_id, provider, subject, password_hash,"
        " password_algorithm, password_changed_at) VALUES (%s, 'PASSWORD', %s, %s, %s, now())",
        (user_id, email, password_hash, passwords.ALGORITHM),
    )


def insert_member(connection: Connection, tenant_id: UUID, user_id: UUID, user_type: str) -> bool:
    """Make a user a member, again if they were disabled; False when they are an active one."""
    row = connection.execute(
        "INSERT INTO user_tenants AS m (tenant_id, user_id, user_type) VALUES (%s, %s, %s)"
        " ON CONFLICT (tenant_id, user_id) DO UPDATE SET user_type = excluded.user_type,"
        " status = 'ACTIVE', may_sign_in = true"
        " WHERE NOT (m.may_sign_in AND m.status = 'ACTIVE') RETURNING user_id",
        (tenant_id, user_id, require_user_type(user_type)),
    ).fetchone()
    if row is not None:
        _require_seat(connection, tenant_id, user_type)
    return row is not None


def _require_seat(connection: Connection, tenant_id: UUID, user_type: str) -> None:
    """Refuse the member just added when the organization's quota has no room (security.md D17)."""
    if user_type == PATIENT:
        return
    try:
        quotas.check_users(connection, tenant_id, adding=0)
    except quotas.QuotaExceeded as error:
        raise Conflict(f"the organization may have {error.limit} users, and has them") from error


def _require_member(connection: Connection, tenant_id: UUID, user_id: UUID) -> None:
    row = connection.execute(
        "SELECT 1 FROM user_tenants WHERE tenant_id = %s AND user_id = %s", (tenant_id, user_id)
    ).fetchone()
    if row is None:
        raise NotFound()


def _allow(connection: Connection, tenant_id: UUID, user_id: UUID, allowed: bool) -> None:
    row = connection.execute(
        "UPDATE user_tenants SET may_sign_in = %s, status = %s"
        " WHERE tenant_id = %s AND user_id = %s RETURNING user_type",
        (allowed, "ACTIVE" if allowed else "INACTIVE", tenant_id, user_id),
    ).fetchone()
    if allowed and row is not None:
        _require_seat(connection, tenant_id, row[0])


def _set_status(connection: Connection, actor: Actor, user_id: UUID, status: str) -> None:
    if actor.actor_type != "SYSTEM":
        raise Forbidden("only the operator disables or enables a user in every tenant")
    connection.execute("UPDATE users SET status = %s WHERE id = %s", (status, user_id))
