"""The page where a person sees the apps that they have let in, and takes that back
(`management_endpoint` of the SMART configuration)."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from uuid import UUID

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from interop.access.audit import audit_parameters
from interop.access.principals import Caller
from interop.errors import ServerError
from interop.identity.sessions import COOKIE, current_session, sign_in_url
from interop.smart import consents, pages
from interop.smart.errors import OAuthError
from interop.smart.forms import read_form
from interop.smart.scope_words import in_words
from interop.smart.user_caller import caller_of_session
from storage.audit import INSERT_AUDIT

if TYPE_CHECKING:
    from interop.services import Services

TITLE = "Connected apps"
PURPOSE = "connected-apps"


async def connected_apps(request: Request) -> Response:
    """GET /t/{tenant}/oauth2/apps"""
    caller = await _caller(request)
    if not isinstance(caller, Caller):
        return caller
    services: Services = request.app.state.services
    assert caller.user_id is not None
    user_id = caller.user_id

    def listed() -> list[consents.ConnectedApp]:
        with services.database.connection(caller.tenant.id) as connection:
            return consents.connected(connection, caller.tenant, user_id)

    token = pages.csrf_token(request.cookies.get(COOKIE, ""), PURPOSE)
    return pages.page(
        TITLE,
        "".join(_shown(app, token) for app in await to_thread.run_sync(listed))
        or "<p>You have not let any app in.</p>",
    )


async def disconnect(request: Request) -> Response:
    """POST /t/{tenant}/oauth2/apps: take back what one app was given."""
    caller = await _caller(request)
    if not isinstance(caller, Caller):
        return caller
    services: Services = request.app.state.services
    assert caller.user_id is not None
    user_id = caller.user_id
    try:
        form = await read_form(request)
        app_id = UUID(form.get("app", ""))
    except (OAuthError, ValueError):
        return pages.problem(TITLE, "The form is not complete.")
    if not pages.is_csrf_token(form.get("csrf", ""), request.cookies.get(COOKIE, ""), PURPOSE):
        return pages.problem(TITLE, "The form is not of this session.", 403)

    def take_back() -> None:
        with services.database.connection(caller.tenant.id) as connection:
            consents.take_back(connection, caller.tenant, user_id, app_id)
            values = audit_parameters(caller, "TOKEN_REVOKED", metadata={"app": str(app_id)})
            connection.execute(INSERT_AUDIT, {**values, "api_client_id": app_id})

    await to_thread.run_sync(take_back)
    return RedirectResponse(request.url.path, 303, {"Cache-Control": "no-store"})


async def _caller(request: Request) -> Caller | Response:
    """The person who is signed in, or where to sign in."""
    services: Services = request.app.state.services
    tenant = await services.tenants.aby_slug(request.path_params["tenant"])
    if tenant is None or not tenant.is_readable:
        return pages.problem(TITLE, "There is no such organization here.", 404)
    session = await current_session(services, tenant, request)
    if session is None:
        return RedirectResponse(sign_in_url(tenant, f"/t/{tenant.slug}/oauth2/apps"), 303)
    try:
        return await caller_of_session(services, tenant, session, request)
    except ServerError as error:
        return pages.problem(TITLE, error.diagnostics, error.http_status)


def _shown(app: consents.ConnectedApp, token: str) -> str:
    sentences = "".join(f"<li>{escape(text)}</li>" for text in in_words(app.scopes))
    return (
        f"<section><h2>{escape(app.name)}</h2><p class='quiet'>since {app.since:%Y-%m-%d}</p>"
        f"<ul>{sentences}</ul><form method='post'>{pages.hidden('csrf', token)}"
        f"{pages.hidden('app', str(app.api_client_id))}<button>Take back</button></form></section>"
    )


def apps_routes() -> list[Route]:
    path = "/t/{tenant}/oauth2/apps"
    return [
        Route(path, connected_apps, methods=["GET"]),
        Route(path, disconnect, methods=["POST"]),
    ]
