"""The viewer's token: a session's cookie is exchanged for it, and it stays in the page's memory.

It reads and searches images for ten minutes and nothing else, as the person whose session it is:
`interop.access` decides what they see, and what ends the session ends the token within a minute.
It is asked for by a POST of our own page: the cookie is SameSite, and Origin must be ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.policy import decide
from interop.access.principals import Caller
from interop.access.refusals import audit_stranger
from interop.access.scopes import Scopes
from interop.errors import ServerError, Unauthorized
from interop.identity import forms
from interop.identity.sessions import UserSession, current_session
from interop.smart.tokens import Subject
from interop.smart.user_caller import caller_of_session

if TYPE_CHECKING:
    from interop.services import Services

SCOPES = Scopes.parse("user/ImagingStudy.rs")
LIFETIME_SECONDS = 600
HEADERS = {"Cache-Control": "no-store", "Vary": "Cookie", "X-Content-Type-Options": "nosniff"}


async def serve_token(request: Request) -> Response:
    """POST /t/{tenant}/viewer/token?active=true|false

    `active` says whether a person did something in the page since it asked last; what the page
    does alone keeps no session alive.
    """
    services: Services = request.app.state.services
    caller: Caller | None = None
    try:
        forms.require_same_origin(request, services.settings.effective_public_url)
        caller, session = await _signed_in(request)
        decide(caller, "r", "ImagingStudy").require()
        token, seconds = await to_thread.run_sync(_issue, services, caller, session)
    except ServerError as error:
        after = None
        if caller is None:
            after = BackgroundTask(audit_stranger, request, error)
        else:
            await _audit(services, caller, "TOKEN_REFUSED", "FAILURE")
        body = {"error": error.issue_code, "message": error.diagnostics}
        return JSONResponse(body, error.http_status, HEADERS, background=after)
    await _audit(services, caller, "TOKEN_ISSUED", "SUCCESS")
    answer = {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": seconds,
        "user": str(session.user_id),
    }
    return JSONResponse(answer, headers=HEADERS)


async def _signed_in(request: Request) -> tuple[Caller, UserSession]:
    """Who is behind the cookie. Raises Unauthorized."""
    services: Services = request.app.state.services
    tenant = await services.tenants.aby_slug(request.path_params["tenant"])
    is_activity = request.query_params.get("active") == "true"
    session = None
    if tenant is not None:
        session = await current_session(services, tenant, request, is_activity=is_activity)
    if tenant is None or session is None:
        raise Unauthorized("there is no session, or it has ended: sign in")
    return await caller_of_session(services, tenant, session, request), session


def _issue(services: Services, caller: Caller, session: UserSession) -> tuple[str, int]:
    seconds = min(LIFETIME_SECONDS, services.tokens.lifetime_seconds)
    subject = Subject(user_id=session.user_id, session_id=session.id)
    token = services.tokens.issue(
        caller.tenant, None, session.user_name, SCOPES, subject, lifetime_seconds=seconds
    )
    return token, seconds


async def _audit(services: Services, caller: Caller, event_type: str, outcome: str) -> None:
    values = audit_parameters(caller, event_type, outcome=outcome, metadata={"for": "viewer"})
    async with services.database.async_connection(caller.tenant.id) as connection:
        await connection.execute(INSERT_AUDIT, values)
