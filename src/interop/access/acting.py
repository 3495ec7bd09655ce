"""A member of a parent tenant asks for a token of a tenant below: one tenant, named, at a time.

`POST /t/{parent}/act-in/{child}` with the member's own token. The answer is a token for the child
alone: what is read and written with it is the child's, and the parent's own token opens nothing
there (security.md D13). It holds as long as the grant, the membership, the session and the client
behind it do; that is looked up again within a minute (interop.access.http).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from anyio import to_thread
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.http import caller_from
from interop.access.principals import Caller
from interop.access.refusals import audit_stranger
from interop.errors import Forbidden, NotFound, ServerError
from interop.smart.tokens import Subject
from storage.tenancy import Tenant
from storage.tenant_tree import GRANT_LEVELS, access_level, is_below

if TYPE_CHECKING:
    from interop.services import Services

NO_STORE = {"Cache-Control": "private, no-store", "Vary": "Authorization"}


async def act_in(request: Request) -> Response:
    """POST /t/{tenant}/act-in/{target}"""
    services: Services = request.app.state.services
    target: Tenant | None = None
    caller: Caller | None = None
    try:
        caller = await caller_from(request)
        session_id = (await services.authenticator.standing(_token(request))).claims.session_id
        target = await services.tenants.aby_slug(request.path_params["target"])
        body = await to_thread.run_sync(_issue, services, caller, target, session_id)
    except ServerError as error:
        after = None
        if caller is None:
            after = BackgroundTask(audit_stranger, request, error)
        else:
            async with services.database.async_connection(caller.tenant.id) as connection:
                refusal = _audit(caller, caller.tenant, "TOKEN_REFUSED", target, None)
                await connection.execute(INSERT_AUDIT, refusal)
        refused = {"error": error.issue_code, "message": error.diagnostics}
        headers = {**NO_STORE, **error.headers}
        return JSONResponse(refused, error.http_status, headers, background=after)
    return JSONResponse(body, headers=NO_STORE)


def _issue(
    services: Services, caller: Caller, target: Tenant | None, session_id: UUID | None
) -> dict[str, Any]:
    """The token, with its audit rows; a tenant without grant is answered like one that is not."""
    home = caller.tenant
    if caller.user_id is None or caller.patient_id is not None:
        raise Forbidden("only a user acts in another tenant, without a patient in context")
    if not caller.scopes.granted:
        raise Forbidden("the token's scopes permit nothing that could be done there")
    if target is None:
        raise NotFound()
    with services.database.connection(home.id) as connection:
        level = access_level(connection, caller.user_id, home.id, target.id)
    with services.database.platform_connection() as registry:
        stands = is_below(registry, home.id, target.id)
    if level not in GRANT_LEVELS or not stands:
        raise NotFound()
    # The child learns of it before anybody can read anything there.
    for tenant in (target, home):
        with services.database.connection(tenant.id) as connection:
            issued = _audit(caller, tenant, "TOKEN_ISSUED", target, level)
            connection.execute(INSERT_AUDIT, issued)
    subject = Subject(user_id=caller.user_id, session_id=session_id, via_tenant_id=home.id)
    token = services.tokens.issue(
        target, caller.client_id, caller.actor_name, caller.scopes, subject
    )
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": services.tokens.lifetime_seconds,
        "scope": str(caller.scopes),
        "tenant": target.slug,
        "level": level,
    }


def _audit(
    caller: Caller, tenant: Tenant, event_type: str, target: Tenant | None, level: str | None
) -> dict[str, Any]:
    return audit_parameters(
        replace(caller, tenant=tenant),
        event_type,
        outcome="SUCCESS" if level else "FAILURE",
        metadata={
            "member_of": str(caller.tenant.id),
            "acts_in": str(target.id) if target else None,
            "level": level,
        },
    )


def _token(request: Request) -> str:
    return request.headers["authorization"].partition(" ")[2].strip()


def routes() -> list[Route]:
    return [Route("/t/{tenant}/act-in/{target}", act_in, methods=["POST"])]
