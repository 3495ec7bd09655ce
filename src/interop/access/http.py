"""The caller of an HTTP request, from its bearer token.

A token that was verified is remembered for less than a minute with the rights behind it, so that a
client, session, role or membership that ended is refused within 60 s (security.md E8, D13) and a
busy one is not looked up on every request. One whose signing key was withdrawn is refused within
seconds, when this process reads the keys again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from anyio import to_thread
from starlette.requests import Request

from interop.access.costs import is_safe
from interop.access.grants import Grants
from interop.access.permissions import BREAK_GLASS
from interop.access.principals import PATIENT, Caller
from interop.errors import Forbidden, NotFound, Unauthorized
from interop.smart.token_state import ended
from interop.smart.tokens import Claims, TokenService
from storage.database import AsyncConnection, Database
from storage.emergency import find_access
from storage.memberships import client_purpose, membership
from storage.tenancy import Tenant
from storage.tenant_tree import GRANT_LEVELS, aaccess_level, ais_below

REMEMBER_SECONDS = 45.0
REMEMBER_TOKENS = 10_000
# api_clients.purpose: whoever works for others sees only whom has consented to that.
CARE, DATA_SHARING = "CARE", "DATA_SHARING"
# The header that names an access opened in an emergency, and an id that none has.
EMERGENCY_ACCESS = "Emergency-Access"
NO_ACCESS = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Standing:
    """A verified token and what stood behind it when it was last looked up."""

    claims: Claims
    required_consent: str | None = None
    user_type: str | None = None
    patient_id: UUID | None = None
    grants: Grants | None = None


class Authenticator:
    """Turns a token into what stands behind it."""

    def __init__(self, database: Database, tokens: TokenService) -> None:
        self._database = database
        self._tokens = tokens
        self._seen: dict[str, tuple[float, Standing]] = {}

    async def standing(self, token: str) -> Standing:
        """The token's claims, and the rights behind them. Raises Unauthorized."""
        keys = self._tokens.keys
        if keys.is_stale:
            await to_thread.run_sync(keys.refresh)
        now = time.monotonic()
        until, known = self._seen.get(token, (0.0, None))
        if (
            known is not None
            and until > now
            and known.claims.expires_at > time.time()
            and keys.verifies(known.claims.key_id)
        ):
            return known
        claims = await to_thread.run_sync(self._tokens.verify, token)
        standing = await self._looked_up(claims)
        if len(self._seen) >= REMEMBER_TOKENS:
            self._seen.clear()
        self._seen[token] = (now + REMEMBER_SECONDS, standing)
        return standing

    async def again(self, claims: Claims) -> Standing:
        """What stands behind a token that was verified earlier. Raises Unauthorized."""
        return await self._looked_up(claims)

    async def _looked_up(self, claims: Claims) -> Standing:
        if claims.client_id is None and claims.user_id is None:
            return Standing(claims, patient_id=claims.patient_id)  # the operator of this machine
        if claims.via_tenant_id is not None:
            return await self._delegated(claims, claims.via_tenant_id)
        async with self._database.async_connection(claims.tenant_id) as connection:
            if why := await ended(connection, claims):
                raise Unauthorized(why)
            required = await _required_consent(connection, claims.tenant_id, claims.client_id)
            if claims.user_id is None:
                return Standing(claims, required, patient_id=claims.patient_id)
            member = await membership(connection, claims.tenant_id, claims.user_id)
        if member is None:
            raise Unauthorized("the user of this token is no longer active here")
        own = member.patient_id if member.user_type == PATIENT else None
        return Standing(
            claims,
            required if claims.client_id is not None else None,
            member.user_type,
            claims.patient_id or own,
            Grants.of(claims.user_id, own, member.held),
        )

    async def _delegated(self, claims: Claims, home_id: UUID) -> Standing:
        """What a member of a parent tenant may do here: no more than at home, and than granted."""
        assert claims.user_id is not None  # only members act in another tenant
        async with self._database.async_connection(home_id) as connection:
            if why := await ended(connection, replace(claims, tenant_id=home_id)):
                raise Unauthorized(why)
            required = await _required_consent(connection, home_id, claims.client_id)
            level = await aaccess_level(connection, claims.user_id, home_id, claims.tenant_id)
            member = await membership(connection, home_id, claims.user_id)
        async with self._database.async_platform_connection() as registry:
            stands = await ais_below(registry, home_id, claims.tenant_id)
        if level not in GRANT_LEVELS or not stands or member is None or member.user_type == PATIENT:
            raise Unauthorized("the grant by which this token acts here has ended")
        held = {
            one.permission
            for one in member.held
            if one.resource_scope == "ALL_LOCATIONS"
            and (level == "MANAGE" or one.permission.startswith("view_"))
        }
        consent = required if claims.client_id is not None else None
        return Standing(claims, consent, member.user_type, None, Grants(frozenset(held)))


async def _required_consent(
    connection: AsyncConnection, tenant_id: UUID, client_id: UUID | None
) -> str | None:
    """What patients must have consented to for a client, which says for whom it works."""
    purpose = None
    if client_id is not None:
        purpose = await client_purpose(connection, tenant_id, client_id)
    return None if purpose == CARE else (purpose or DATA_SHARING)


async def caller_from(
    request: Request, *, even_suspended: bool = False, even_closed: bool = False
) -> Caller:
    """Authenticate a request to `/t/{tenant}/...`.

    Raises Unauthorized without a valid token, and NotFound when the token is of another tenant:
    whether that tenant exists is not for this caller to learn. A suspended tenant is only read,
    unless `even_suspended`: resuming it is a change. A closed one is not there, unless
    `even_closed`.
    """
    services = request.app.state.services
    standing = await _standing(request, services.authenticator)
    claims = standing.claims
    tenant: Tenant | None = await services.tenants.aby_slug(request.path_params["tenant"])
    if tenant is None and even_closed:
        tenant = await to_thread.run_sync(
            services.tenants.even_closed, request.path_params["tenant"]
        )
    if tenant is None or tenant.id != claims.tenant_id:
        raise NotFound()
    if not (tenant.is_readable or even_closed):
        raise NotFound()
    is_change = not is_safe(request.method, request.scope["path"])
    if is_change and not (tenant.is_active or even_suspended):
        raise Forbidden("the organization is suspended: its data can be read and not changed")
    caller = Caller(
        tenant=tenant,
        actor_type="USER" if claims.user_id else "API_CLIENT" if claims.client_id else "SYSTEM",
        actor_id=claims.user_id or claims.client_id,
        actor_name=claims.name,
        scopes=claims.scopes,
        request_id=request_id(request),
        remote_address=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent"),
        client_id=claims.client_id,
        user_id=claims.user_id,
        user_type=standing.user_type,
        grants=standing.grants,
        patient_id=standing.patient_id,
        required_consent=standing.required_consent,
    )
    # For the audit row, should the request be refused later.
    request.state.caller = caller
    named = request.headers.get(EMERGENCY_ACCESS)
    return caller if named is None else await _in_emergency(services.database, caller, named)


async def _standing(request: Request, authenticator: Authenticator) -> Standing:
    """What stands behind the token of a request, or behind the one that it was accepted with."""
    accepted_with: Claims | None = getattr(request.state, "claims", None)
    if accepted_with is not None:
        return await authenticator.again(accepted_with)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized(
            "an access token is required: 'Authorization: Bearer <token>', from "
            f"POST /t/{request.path_params.get('tenant', '{tenant}')}/oauth2/token",
            headers={"WWW-Authenticate": "Bearer"},
        )
    try:
        return await authenticator.standing(token.strip())
    except Unauthorized as error:
        error.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
        raise


async def _in_emergency(database: Database, caller: Caller, named: str) -> Caller:
    """The caller with the record open that breaking the glass has opened. Raises Forbidden."""
    access = None
    if caller.user_id is not None and caller.grants and caller.grants.holds(BREAK_GLASS):
        try:
            access_id = UUID(named)
        except ValueError:
            access_id = NO_ACCESS
        async with database.async_connection(caller.tenant.id) as connection:
            access = await find_access(connection, caller.tenant.id, access_id, caller.user_id)
    if access is None:
        raise Forbidden(f"{EMERGENCY_ACCESS}: there is no such access, or its time is over")
    return replace(caller, emergency=access.id, emergency_patient_id=access.patient_id)


def request_id(request: Request) -> str:
    """The caller's X-Request-Id when it is short and plain, else a new one."""
    given = request.headers.get("x-request-id", "")
    if 0 < len(given) <= 64 and given.isascii() and given.isprintable():
        return given
    return uuid4().hex
