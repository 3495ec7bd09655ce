"""Who may administer the authorization server or start apps: by access token or browser session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.http import caller_from
from interop.access.principals import Caller
from interop.errors import BadRequest, Forbidden, ServerError, Unauthorized
from interop.fhir import json
from interop.identity.sessions import current_session
from interop.smart.errors import OAuthError
from interop.smart.forms import read_body
from interop.smart.user_caller import caller_of_session

if TYPE_CHECKING:
    from interop.services import Services


async def bearer_or_session(request: Request) -> Caller:
    """The caller by access token, else by the session cookie. Raises Unauthorized.

    A cookie counts only for JSON bodies: a form of another site cannot send one, and the cookie
    is not sent with a script of another site (SameSite).
    """
    if "authorization" in request.headers:
        return await caller_from(request)
    services: Services = request.app.state.services
    tenant = await services.tenants.aby_slug(request.path_params["tenant"])
    session = await current_session(services, tenant, request) if tenant else None
    if tenant is None or session is None:
        raise Unauthorized("an access token or a browser session is required")
    return await caller_of_session(services, tenant, session, request)


def require_manager(caller: Caller) -> None:
    """Raise Forbidden unless the caller may manage the organization's settings.

    The operator of the machine may; an app or service may not, whatever its scopes say.
    """
    if caller.actor_type == "SYSTEM":
        return
    is_user_itself = caller.user_id is not None and caller.client_id is None
    if not is_user_itself or caller.grants is None:
        raise Forbidden("this is for an administrator, signed in or by the operator's token")
    if not caller.grants.holds_everywhere("manage_settings"):
        raise Forbidden("the permission manage_settings for the whole organization is needed")


@asynccontextmanager
async def audited(request: Request, caller: Caller, event_type: str) -> AsyncIterator[None]:
    """Leave the one audit row of what is refused inside; what succeeds writes its own."""
    try:
        yield
    except (OAuthError, ServerError, ValueError) as refusal:
        metadata = {"error": getattr(refusal, "error", type(refusal).__name__)}
        values = audit_parameters(caller, event_type, outcome="FAILURE", metadata=metadata)
        services: Services = request.app.state.services
        async with services.database.async_connection(caller.tenant.id) as connection:
            await connection.execute(INSERT_AUDIT, values)
        raise


async def json_body(request: Request) -> dict[str, Any]:
    """A JSON object. Raises OAuthError `invalid_request`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise OAuthError("invalid_request", "the body must be application/json", 415)
    body = await read_body(request)
    try:
        return json.loads(body)
    except BadRequest as error:
        text = f"the body must be a JSON object: {error.diagnostics}"
        raise OAuthError("invalid_request", text) from error
