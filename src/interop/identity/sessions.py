"""Browser sessions of people: made at sign-in, found by cookie, ended at once when revoked.

The cookie holds 256 random bits and the database only their SHA-256, so that a copy of the
database opens nothing. A session ends at its absolute limit, after the idle limit without a
request, when it is revoked, or when its user is no longer an active member of the tenant; the
row is read on every request, so each of these takes effect with the next one (security.md E8).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, LiteralString
from urllib.parse import urlencode
from uuid import UUID

from interop.identity.devices import Device
from storage.database import Connection

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from interop.services import Services
    from storage.tenancy import Tenant

COOKIE = "interop_session"
# Last activity is written at most this often: a page with forty images is one write, not forty.
ACTIVITY_SECONDS = 60

_IS_LIVE: LiteralString = (
    "s.tenant_id = %(tenant)s AND s.revoked_at IS NULL AND s.expires_at > now()"
    " AND s.last_activity_at > now() - make_interval(secs => %(idle)s)"
    " AND m.status = 'ACTIVE' AND m.may_sign_in AND u.status = 'ACTIVE'"
    # A password that was changed ends what was begun with the old one, in every tenant.
    " AND NOT ('pwd' = ANY(s.amr) AND EXISTS (SELECT FROM user_auth_identities AS i"
    " WHERE i.user_id = s.user_id AND i.provider = 'PASSWORD'"
    " AND i.password_changed_at > s.signed_in_at))"
)
_JOIN: LiteralString = (
    " FROM sessions AS s"
    " JOIN user_tenants AS m ON m.tenant_id = s.tenant_id AND m.user_id = s.user_id"
    " JOIN users AS u ON u.id = s.user_id WHERE "
)
_FIND: LiteralString = (
    "SELECT s.id, s.user_id, u.full_name, m.user_type, s.signed_in_at, s.amr, s.expires_at,"
    " s.last_activity_at < now() - make_interval(secs => %(activity)s)"
    + _JOIN
    + _IS_LIVE
    + " AND s.token_hash = %(hash)s"
)
_TOUCH: LiteralString = (
    "UPDATE sessions SET last_activity_at = now() WHERE tenant_id = %(tenant)s AND id = %(id)s"
    " AND last_activity_at < now() - make_interval(secs => %(activity)s)"
)


@dataclass(frozen=True, slots=True)
class UserSession:
    """A person who is signed in to one tenant."""

    id: UUID
    user_id: UUID
    user_name: str
    user_type: str
    signed_in_at: datetime
    amr: tuple[str, ...]  # RFC 8176: pwd, otp, mfa; fed for an external provider
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A live session as its user or an administrator sees it in a list."""

    id: UUID
    user_id: UUID
    device_name: str | None
    device_type: str | None
    operating_system: str | None
    ip_address: str | None
    user_agent: str | None
    created_at: datetime
    last_activity_at: datetime
    expires_at: datetime


def new_token() -> str:
    """256 random bits for a cookie or link."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is stored of a random token; it has too many bits to be guessed from its hash."""
    return hashlib.sha256(token.encode()).hexdigest()


async def current_session(
    services: Services, tenant: Tenant, request: Request, *, is_activity: bool = True
) -> UserSession | None:
    """The live session of the request's cookie in `tenant`, else None.

    What a page asks by itself, while nobody does anything, is no activity: the session may end.
    """
    token = request.cookies.get(COOKIE)
    if not token or not tenant.is_readable:
        return None
    values = {
        "tenant": tenant.id,
        "hash": token_hash(token),
        "idle": services.settings.session_idle_seconds,
        "activity": ACTIVITY_SECONDS,
    }
    async with services.database.async_connection(tenant.id) as connection:
        row = await (await connection.execute(_FIND, values)).fetchone()
        if row is None:
            return None
        if row[7] and is_activity:
            await connection.execute(_TOUCH, {**values, "id": row[0]})
    return UserSession(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), row[6])


def sign_in_url(tenant: Tenant, path_and_query: str) -> str:
    """Where a person without a session is sent, to come back to `path_and_query` afterwards."""
    return f"/t/{tenant.slug}/sign-in?" + urlencode({"continue": path_and_query})


def is_live(connection: Connection, tenant_id: UUID, session_id: UUID, idle_seconds: float) -> bool:
    """Whether the session behind an access token (`sid`) still stands."""
    row = connection.execute(
        "SELECT 1" + _JOIN + _IS_LIVE + " AND s.id = %(id)s",
        {"tenant": tenant_id, "id": session_id, "idle": idle_seconds},
    ).fetchone()
    return row is not None


def create(
    connection: Connection,
    tenant_id: UUID,
    user_id: UUID,
    device: Device,
    amr: Iterable[str],
    lifetime: timedelta,
) -> tuple[UUID, str]:
    """Start a session of a user who has just proved who they are; returns its id and token.

    The token is always new: whatever cookie the browser sent before means nothing afterwards.
    """
    token = new_token()
    row = connection.execute(
        "INSERT INTO sessions (tenant_id, user_id, token_hash, device_name, device_type,"
        " operating_system, ip_address, user_agent, amr, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, now() + %s) RETURNING id",
        (
            tenant_id,
            user_id,
            token_hash(token),
            device.name,
            device.type,
            device.operating_system,
            device.ip_address,
            device.user_agent,
            list(amr),
            lifetime,
        ),
    ).fetchone()
    assert row is not None
    return row[0], token


def renew(
    connection: Connection,
    tenant_id: UUID,
    session: UserSession,
    device: Device,
    amr: Iterable[str],
) -> str:
    """Replace a session by one under a new token, after what it is worth has changed.

    The absolute limit stays: renewing is no way to stay signed in for ever.
    """
    revoke(connection, tenant_id, session.id)
    session_id, token = create(
        connection, tenant_id, session.user_id, device, amr, timedelta(seconds=1)
    )
    connection.execute(
        "UPDATE sessions SET expires_at = %s WHERE tenant_id = %s AND id = %s",
        (session.expires_at, tenant_id, session_id),
    )
    return token


def list_sessions(
    connection: Connection, tenant_id: UUID, idle_seconds: float, user_id: UUID | None = None
) -> list[ListedSession]:
    """The live sessions of one user, or of everyone in the tenant; the newest activity first."""
    rows = connection.execute(
        "SELECT s.id, s.user_id, s.device_name, s.device_type, s.operating_system, s.ip_address,"
        " s.user_agent, s.created_at, s.last_activity_at, s.expires_at"
        + _JOIN
        + _IS_LIVE
        + " AND (%(user)s::uuid IS NULL OR s.user_id = %(user)s)"
        " ORDER BY s.last_activity_at DESC, s.id",
        {"tenant": tenant_id, "idle": idle_seconds, "user": user_id},
    ).fetchall()
    return [ListedSession(*row) for row in rows]


def revoke(connection: Connection, tenant_id: UUID, session_id: UUID) -> bool:
    """End one session; False when it had ended or never was."""
    return (
        connection.execute(
            "UPDATE sessions SET revoked_at = now()"
            " WHERE tenant_id = %s AND id = %s AND revoked_at IS NULL",
            (tenant_id, session_id),
        ).rowcount
        == 1
    )


def revoke_token(connection: Connection, tenant_id: UUID, token: str) -> tuple[UUID, UUID] | None:
    """End the session of a cookie; its id and user, or None when there was none."""
    return connection.execute(
        "UPDATE sessions SET revoked_at = now()"
        " WHERE tenant_id = %s AND token_hash = %s AND revoked_at IS NULL RETURNING id, user_id",
        (tenant_id, token_hash(token)),
    ).fetchone()


def revoke_all(connection: Connection, tenant_id: UUID, user_id: UUID) -> int:
    """End every session of a user in this tenant; returns how many there were."""
    return connection.execute(
        "UPDATE sessions SET revoked_at = now()"
        " WHERE tenant_id = %s AND user_id = %s AND revoked_at IS NULL",
        (tenant_id, user_id),
    ).rowcount


def set_cookie(response: Response, services: Services, tenant: Tenant, token: str) -> None:
    """Give the browser its session; script cannot read it and no other tenant's page gets it."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=services.settings.session_seconds,
        path=f"/t/{tenant.slug}",
        secure=is_https(services),
        httponly=True,
        samesite="lax",
    )


def clear_cookie(response: Response, services: Services, tenant: Tenant) -> None:
    """Take the session cookie away, with the same attributes with which it was set."""
    response.delete_cookie(
        COOKIE,
        path=f"/t/{tenant.slug}",
        secure=is_https(services),
        httponly=True,
        samesite="lax",
    )


def is_https(services: Services) -> bool:
    """Whether browsers reach this server over TLS, so that cookies may require it."""
    return services.settings.effective_public_url.startswith("https://")
