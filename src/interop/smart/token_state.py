"""Whether what an access token says still holds: its client, user, session, grant and itself.

A verified token says what was true when it was issued. One statement over one connection tells
what has ended since; who remembers the answer does so for less than a minute (security.md E8).
"""

from __future__ import annotations

from typing import Any, LiteralString

from interop.smart.tokens import Claims
from storage.database import AsyncConnection

# In the order of REASONS; each is true while nothing has ended.
_STATE: LiteralString = """
SELECT
    %(client)s::uuid IS NULL OR EXISTS (
        SELECT FROM api_clients WHERE tenant_id = %(tenant)s AND id = %(client)s
            AND status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > now())),
    %(user)s::uuid IS NULL OR EXISTS (
        SELECT FROM user_tenants AS m JOIN users AS u ON u.id = m.user_id
        WHERE m.tenant_id = %(tenant)s AND m.user_id = %(user)s
            AND m.status = 'ACTIVE' AND u.status = 'ACTIVE'),
    %(session)s::uuid IS NULL OR EXISTS (
        SELECT FROM sessions WHERE tenant_id = %(tenant)s AND id = %(session)s
            AND user_id = %(user)s AND revoked_at IS NULL AND expires_at > now()),
    %(grant)s::uuid IS NULL OR EXISTS (
        SELECT FROM authorization_grants WHERE tenant_id = %(tenant)s AND id = %(grant)s
            AND revoked_at IS NULL AND expires_at > now()),
    NOT EXISTS (
        SELECT FROM revoked_access_tokens
        WHERE tenant_id = %(tenant)s AND token_id = %(token)s)
"""
REASONS = (
    "the client of this token is no longer active",
    "the user of this token is no longer active here",
    "the session of this token has ended",
    "what this token was issued for has been revoked",
    "this token was revoked",
)


async def ended(connection: AsyncConnection, claims: Claims) -> str | None:
    """Why the token no longer holds, None while it does. `connection` is the tenant's."""
    row = await (await connection.execute(_STATE, _values(claims))).fetchone()
    assert row is not None
    return next((why for why, holds in zip(REASONS, row, strict=True) if not holds), None)


def _values(claims: Claims) -> dict[str, Any]:
    return {
        "tenant": claims.tenant_id,
        "client": claims.client_id,
        "user": claims.user_id,
        "session": claims.session_id,
        "grant": claims.grant_id,
        "token": claims.token_id,
    }
