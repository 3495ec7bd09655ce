"""The caller of an HTTP request, from its bearer token.

A token that was verified is remembered for less than a minute, so that a revoked client is
refused within 60 s (security.md E8) and a busy one is not looked up on every request.
"""

from __future__ import annotations

import time
from uuid import uuid4

from anyio import to_thread
from starlette.requests import Request

from interop.access.principals import Caller
from interop.errors import NotFound, Unauthorized
from interop.smart.tokens import Claims, TokenService
from storage.database import Database
from storage.tenancy import Tenant

REMEMBER_SECONDS = 45.0
REMEMBER_TOKENS = 10_000


class Authenticator:
    """Turns a request into a Caller."""

    def __init__(self, database: Database, tokens: TokenService) -> None:
        self._database = database
        self._tokens = tokens
        self._seen: dict[str, tuple[float, Claims]] = {}

    async def claims(self, token: str) -> Claims:
        """The token's claims, its client still active. Raises Unauthorized."""
        now = time.monotonic()
        known = self._seen.get(token)
        if known is not None and known[0] > now and known[1].expires_at > time.time():
            return known[1]
        claims = await to_thread.run_sync(self._tokens.verify, token)
        await self._require_active(claims)
        if len(self._seen) >= REMEMBER_TOKENS:
            self._seen.clear()
        self._seen[token] = (now + REMEMBER_SECONDS, claims)
        return claims

    async def _require_active(self, claims: Claims) -> None:
        if claims.client_id is None:
            return
        async with self._database.async_connection(claims.tenant_id) as connection:
            cursor = await connection.execute(
                "SELECT 1 FROM api_clients WHERE tenant_id = %s AND id = %s AND status = 'ACTIVE'",
                (claims.tenant_id, claims.client_id),
            )
            if await cursor.fetchone() is None:
                raise Unauthorized("the client of this token is no longer active")


async def caller_from(request: Request) -> Caller:
    """Authenticate a request to `/t/{tenant}/...`.

    Raises Unauthorized without a valid token, and NotFound when the token is of another tenant:
    whether that tenant exists is not for this caller to learn.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized(
            "an access token is required: 'Authorization: Bearer <token>', from "
            f"POST /t/{request.path_params.get('tenant', '{tenant}')}/oauth2/token",
            headers={"WWW-Authenticate": "Bearer"},
        )
    services = request.app.state.services
    try:
        claims = await services.authenticator.claims(token.strip())
    except Unauthorized as error:
        error.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
        raise
    tenant: Tenant | None = await services.tenants.aby_slug(request.path_params["tenant"])
    if tenant is None or tenant.id != claims.tenant_id or not tenant.is_active:
        raise NotFound()
    return Caller(
        tenant=tenant,
        actor_type="API_CLIENT" if claims.client_id else "SYSTEM",
        actor_id=claims.client_id,
        actor_name=claims.name,
        scopes=claims.scopes,
        request_id=request_id(request),
        remote_address=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent"),
    )


def request_id(request: Request) -> str:
    """The caller's X-Request-Id when it is short and plain, else a new one."""
    given = request.headers.get("x-request-id", "")
    if 0 < len(given) <= 64 and given.isascii() and given.isprintable():
        return given
    return uuid4().hex
