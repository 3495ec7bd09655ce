"""Invitations: a link, given to the inviter to pass on, that makes its holder a member.

Inviting says nothing about whether the address has an account: no user row is made or shown until
the link is used. Somebody without an account chooses a password; somebody who has one proves it
with the password that they have, so that an inviter cannot take an account over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from interop.errors import Conflict, NotFound
from interop.identity import roles, users
from interop.identity.actors import Actor, audit
from interop.identity.sessions import new_token, token_hash
from storage.database import Connection

_OPEN: LiteralString = "accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now()"
_COLUMNS: LiteralString = "id, email, full_name, user_type, expires_at"


@dataclass(frozen=True, slots=True)
class Invitation:
    """An open invitation."""

    id: UUID
    email: str
    full_name: str
    user_type: str
    expires_at: datetime


def invite(
    connection: Connection,
    tenant_id: UUID,
    actor: Actor,
    *,
    email: str,
    full_name: str,
    user_type: str,
    grants: Sequence[roles.Grant],
    lifetime: timedelta,
) -> tuple[Invitation, str]:
    """Make an invitation and the token of its link, which is stored only as a hash.

    An earlier open invitation of the same address ends. Raises Conflict for an active member.
    """
    address = users.normal_email(email)
    _require_no_member(connection, tenant_id, address)
    connection.execute(
        "UPDATE invitations SET revoked_at = now() WHERE tenant_id = %s AND email = %s AND "
        + _OPEN,
        (tenant_id, address),
    )
    token = new_token()
    row = connection.execute(
        "INSERT INTO invitations (tenant_id, token_hash, email, full_name, user_type,"
        " invited_by_id, expires_at) VALUES (%s, %s, %s, %s, %s, %s, now() + %s) RETURNING "
        + _COLUMNS,
        (
            tenant_id,
            token_hash(token),
            address,
            users.require_name(full_name),
            users.require_user_type(user_type),
            actor.user_id,
            lifetime,
        ),
    ).fetchone()
    assert row is not None
    made = Invitation(*row)
    for grant in grants:
        _promise(connection, tenant_id, actor, made.id, grant)
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "Invitation", made.id,
        action="invitation.create",
    )  # fmt: skip
    return made, token


def list_open(connection: Connection, tenant_id: UUID) -> list[Invitation]:
    """The invitations that can still be accepted; the newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM invitations WHERE tenant_id = %s AND {_OPEN}"
        " ORDER BY created_at DESC, id",
        (tenant_id,),
    ).fetchall()
    return [Invitation(*row) for row in rows]


def revoke(connection: Connection, tenant_id: UUID, actor: Actor, invitation_id: UUID) -> None:
    """End an open invitation. Raises NotFound."""
    ended = connection.execute(
        f"UPDATE invitations SET revoked_at = now() WHERE tenant_id = %s AND id = %s AND {_OPEN}",
        (tenant_id, invitation_id),
    )
    if ended.rowcount != 1:
        raise NotFound()
    audit(
        connection, tenant_id, actor, "CONFIG_CHANGED", "Invitation", invitation_id,
        action="invitation.revoke",
    )  # fmt: skip


def find_by_token(connection: Connection, tenant_id: UUID, token: str) -> Invitation | None:
    """The open invitation of a link, else None: used, expired, revoked and unknown are alike."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM invitations WHERE tenant_id = %s AND token_hash = %s AND {_OPEN}",
        (tenant_id, token_hash(token)),
    ).fetchone()
    return Invitation(*row) if row else None


def find_by_email(connection: Connection, tenant_id: UUID, email: str) -> Invitation | None:
    """The open invitation of an address that a provider has verified."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM invitations WHERE tenant_id = %s AND email = %s AND {_OPEN}",
        (tenant_id, email),
    ).fetchone()
    return Invitation(*row) if row else None


def accept(connection: Connection, tenant_id: UUID, invitation: Invitation, user_id: UUID) -> None:
    """Make `user_id` the member that was invited, once. Raises Conflict for a second time."""
    if users.insert_member(connection, tenant_id, user_id, invitation.user_type):
        # Who was disabled comes back with what the invitation gives, not with what they had.
        connection.execute(
            "DELETE FROM user_roles WHERE tenant_id = %s AND user_id = %s", (tenant_id, user_id)
        )
    used = connection.execute(
        "UPDATE invitations SET accepted_at = now(), accepted_user_id = %s"
        f" WHERE tenant_id = %s AND id = %s AND {_OPEN}",
        (user_id, tenant_id, invitation.id),
    )
    if used.rowcount != 1:
        raise Conflict("this invitation has been used, or has ended")
    rows = connection.execute(
        "SELECT i.role_id, r.code, i.resource_scope, i.location_id, i.team_id, i.valid_from,"
        " i.valid_until FROM invitation_roles AS i JOIN roles AS r ON r.id = i.role_id"
        " WHERE i.tenant_id = %s AND i.invitation_id = %s",
        (tenant_id, invitation.id),
    ).fetchall()
    for role_id, *terms in rows:
        roles.insert(connection, tenant_id, user_id, role_id, roles.Grant(*terms))


def _require_no_member(connection: Connection, tenant_id: UUID, email: str) -> None:
    row = connection.execute(
        "SELECT 1 FROM users AS u JOIN user_tenants AS m ON m.user_id = u.id"
        " WHERE m.tenant_id = %s AND u.email = %s AND m.may_sign_in AND m.status = 'ACTIVE'",
        (tenant_id, email),
    ).fetchone()
    if row is not None:
        raise Conflict(f"{email} is a member of this tenant already")


def _promise(
    connection: Connection, tenant_id: UUID, actor: Actor, invitation_id: UUID, grant: roles.Grant
) -> None:
    found = roles.role(connection, tenant_id, grant.role)
    roles.require_within(connection, tenant_id, actor, found.permissions)
    roles.require_grant(connection, tenant_id, grant)
    connection.execute(
        "INSERT INTO invitation_roles (tenant_id, invitation_id, role_id, resource_scope,"
        " location_id, team_id, valid_from, valid_until) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            tenant_id,
            invitation_id,
            found.id,
            grant.resource_scope,
            grant.location_id,
            grant.team_id,
            grant.valid_from,
            grant.valid_until,
        ),
    )
