"""A member of a parent tenant asks for a token of a tenant below: one tenant, named, at a time.

`POST /t/{parent}/act-in/{child}` with the member's own token. The answer is a token for the child
alone: what is read and written with it is the child's, and the parent's own token opens nothing
there (security.md D13). It holds as long as the grant, the membership, the session and the client
behind it do; that is looked up again within a minute (interop.access.http).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.http import caller_from
from interop.access.principals import Caller
from interop.errors import Forbidden, NotFound, ServerError
from interop.smart.tokens import Subject
from storage.audit import INSERT_AUDIT, system_audit
from storage.tenancy import Tenant
from storage.tenant_tree import GRANT_LEVELS, access_level

if TYPE_CHECKING:
    from interop.services import Services

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


async def act_in(request: Request) -> Response:
    """POST /t/{tenant}/act-in/{target}"""
    services: Services = request.app.state.services
    try:
        caller = await caller_from(request)
        standing = await services.authenticator.standing(_token(request))
        target = await services.tenants.aby_slug(request.path_params["target"])
        session_id = standing.claims.session_id
        subject = Subject(
            user_id=caller.user_id, session_id=session_id, via_tenant_id=caller.tenant.id
        )
        body = await to_thread.run_sync(_issue, services, caller, target, subject)
    except ServerError as error:
        status = error.http_status
        answer = {"title": error.diagnostics, "status": status}
        return JSONResponse(
            answer, status, NO_STORE | error.headers, media_type="application/problem+json"
        )
    return JSONResponse(body, headers=NO_STORE)


def _issue(
    services: Services, caller: Caller, target: Tenant | None, subject: Subject
) -> dict[str, Any]:
    """The token, with its audit rows; a tenant without grant is answered like one that is not."""
    home = caller.tenant
    if caller.user_id is None or caller.patient_id is not None or subject.via_tenant_id is None:
        raise Forbidden("only a user acts in another tenant, without a patient in context")
    with services.database.connection(home.id) as connection:
        level = target and access_level(connection, caller.user_id, home.id, target.id)
        if target is None or level not in GRANT_LEVELS:
            connection.execute(INSERT_AUDIT, _audit(caller, home, "TOKEN_REFUSED", None, target))
    if target is None or level not in GRANT_LEVELS:
        raise NotFound()
    # The child learns of it before anybody can read anything there.
    for tenant in (target, home):
        with services.database.connection(tenant.id) as connection:
            connection.execute(INSERT_AUDIT, _audit(caller, tenant, "TOKEN_ISSUED", level, target))
    scopes = caller.scopes
    token = services.tokens.issue(target, caller.client_id, caller.actor_name, scopes, subject)
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": services.tokens.lifetime_seconds,
        "scope": str(scopes),
        "tenant": target.slug,
        "level": level,
    }


def _audit(
    caller: Caller, tenant: Tenant, event_type: str, level: str | None, target: Tenant | None
) -> dict[str, Any]:
    return system_audit(
        tenant.id,
        event_type,
        outcome="SUCCESS" if level else "FAILURE",
        actor_type="USER",
        user_id=caller.user_id,
        api_client_id=caller.client_id,
        request_id=caller.request_id,
        ip_address=caller.remote_address,
        user_agent=caller.user_agent,
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
