"""The authorization endpoint of each tenant and its pages (RFC 6749 4.1, SMART App Launch 2.2).

One address, visited in turns: sign in, choose a patient, agree. Nothing is kept between the turns
but the app's own query, which is judged anew each time; a form carries what the person chose and a
token that only a page of this session can know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import psycopg
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.principals import Caller
from interop.errors import ServerError
from interop.identity.sessions import COOKIE, current_session, sign_in_url
from interop.smart import authorization_request, pages
from interop.smart.app_pages import apps_routes
from interop.smart.authorization_request import (
    Addressee,
    RefusedHere,
    RefusedToApp,
    addressee,
    parameters_of,
)
from interop.smart.clients import look_up
from interop.smart.errors import OAuthError
from interop.smart.forms import read_form
from interop.smart.launching import Launching
from interop.smart.token_response import issuer
from interop.smart.user_caller import caller_of_session
from storage.tenancy import Tenant

if TYPE_CHECKING:
    from interop.services import Services

CANNOT = "This app cannot be opened"


async def authorize(request: Request) -> Response:
    """GET /t/{tenant}/oauth2/authorize"""
    return await _answer(request, {})


async def authorize_by_post(request: Request) -> Response:
    """POST of the same by an app (authorize-post): continues as GET, with the person's cookie."""
    try:
        query = urlencode(await read_form(request))
    except OAuthError as error:
        return pages.problem(CANNOT, error.description, error.status)
    return RedirectResponse(f"{request.url.path}?{query}", 303, {"Cache-Control": "no-store"})


async def decide(request: Request) -> Response:
    """POST /t/{tenant}/oauth2/authorize/decision: what a person did on one of the pages."""
    try:
        form = await read_form(request)
    except OAuthError as error:
        return pages.problem(CANNOT, error.description, error.status)
    cookie = request.cookies.get(COOKIE, "")
    if not pages.is_csrf_token(form.get("csrf", ""), cookie, request.url.query):
        text = "The form is not of this session. Go back to the app and start again."
        return pages.problem(CANNOT, text, 403)
    return await _answer(request, form)


async def _answer(request: Request, form: dict[str, str]) -> Response:
    services: Services = request.app.state.services
    try:
        tenant = await services.tenants.aby_slug(request.path_params["tenant"])
        if tenant is None or not tenant.is_readable:
            raise RefusedHere("there is no such organization here")
        given = parameters_of(request.url.query)
        client_id = given.get("client_id", "")
        client = await to_thread.run_sync(look_up, services.database, tenant, client_id)
        to = addressee(client, given, issuer(services, tenant))
        try:
            return await _turn(services, tenant, request, to, given, form)
        except RefusedToApp as refusal:
            return _redirect(to.answer(error=refusal.error, error_description=refusal.description))
    except RefusedHere as refusal:
        return pages.problem(CANNOT, f"{refusal}.")
    except ServerError as error:
        return pages.problem(CANNOT, error.diagnostics, error.http_status)
    except psycopg.OperationalError:
        return pages.problem(CANNOT, "The server is busy. Try again in a moment.", 503)


async def _turn(
    services: Services,
    tenant: Tenant,
    request: Request,
    to: Addressee,
    given: dict[str, str],
    form: dict[str, str],
) -> Response:
    session = await current_session(services, tenant, request)
    is_silent = "none" in given.get("prompt", "").split()
    if session is None:
        if is_silent:
            raise RefusedToApp("login_required", "nobody is signed in")
        # RFC 9700 4.11.2: nobody is redirected anywhere by us who has not been recognised.
        back = f"/t/{tenant.slug}/oauth2/authorize?{request.url.query}"
        return _redirect(sign_in_url(tenant, back))
    caller = await caller_of_session(services, tenant, session, request)
    try:
        asked = authorization_request.read(to, given, f"{issuer(services, tenant)}/fhir/R4")
        launching = Launching(services, tenant, request, session, caller, to, asked, form)
        found = await launching.next()
    except RefusedToApp as refusal:
        await _audit_refusal(services, caller, to, refusal)
        raise
    return found if isinstance(found, Response) else _redirect(found)


async def _audit_refusal(
    services: Services, caller: Caller, to: Addressee, refusal: RefusedToApp
) -> None:
    metadata = {"error": refusal.error}
    values = audit_parameters(caller, "APP_AUTHORIZED", outcome="FAILURE", metadata=metadata)
    async with services.database.async_connection(caller.tenant.id) as connection:
        await connection.execute(INSERT_AUDIT, {**values, "api_client_id": to.client.id})


def _redirect(url: str) -> Response:
    # 303 and not 307: what the person typed must not be posted on (RFC 9700 4.12).
    return RedirectResponse(
        url, 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    )


def routes() -> list[Route]:
    base = "/t/{tenant}/oauth2"
    return [
        Route(f"{base}/authorize", authorize, methods=["GET"]),
        Route(f"{base}/authorize", authorize_by_post, methods=["POST"]),
        Route(f"{base}/authorize/decision", decide, methods=["POST"]),
        *apps_routes(),
    ]
