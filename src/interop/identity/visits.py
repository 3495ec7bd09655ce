"""One visit of a browser to a page of a tenant: what every page needs, checked in one place.

A page is a function of a Visit; a POST has its origin and form token checked before the function
runs, and a ServerError that it raises becomes the page again, with the reason, status and headers.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from interop.errors import BadRequest, Forbidden, NotFound, ServerError
from interop.identity import forms, pages, sessions
from interop.identity.actors import Actor
from interop.identity.devices import device_of
from interop.identity.passwords import PasswordRefused
from interop.identity.sign_in import Browser, refuse
from interop.identity.source_address import source_address

if TYPE_CHECKING:
    from interop.services import Services
    from storage.tenancy import Tenant

_PLAIN_PATH = re.compile(r"[!-\[\]-~]{1,2000}")


@dataclass(slots=True)
class Visit:
    """A request to a page, with the cookies that its response must set."""

    request: Request
    services: Services
    tenant: Tenant
    browser: Browser
    session: sessions.UserSession | None
    form_cookie: str
    fields: dict[str, str] = field(default_factory=dict)

    def path(self, rest: str) -> str:
        """The path of another page of this tenant."""
        return f"/t/{self.tenant.slug}/{rest}"

    def token(self, action: str) -> str:
        """The token of a form that this page shows."""
        keys, browser = self.services.master_key, self._binding
        return forms.issue(keys, self.tenant.id, action, browser)

    def value(self, name: str) -> str:
        """A field of the posted form. Raises BadRequest when it is not there."""
        if name not in self.fields:
            raise BadRequest(f"the form has no field {name!r}")
        return self.fields[name]

    @property
    def _binding(self) -> str:
        return forms.browser_of(self.form_cookie, self.browser.session_token)

    def require_form(self) -> None:
        """Raise Forbidden unless the posted form came from the page at this path."""
        forms.require_same_origin(self.request, self.services.settings.effective_public_url)
        action, token = self.request.url.path, self.fields.get(forms.FIELD)
        keys = self.services.master_key
        forms.require_token(keys, self.tenant.id, action, self._binding, token)


Show = Callable[[Visit, str | None], Awaitable[Response]]
Handler = Callable[[Visit], Awaitable[Response]]


def page(
    show: Show, post: Handler | None = None, *, otherwise: Show | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint: `show` answers GET; `otherwise` (or `show`) says what went wrong."""

    async def endpoint(request: Request) -> Response:
        try:
            visit = await _visit(request)
        except ServerError as error:
            return _failure(error)
        try:
            if post is not None and request.method == "POST":
                response = await _posted(visit, post)
            else:
                response = await show(visit, None)
        except (ServerError, PasswordRefused) as error:
            response = await _shown_again(visit, otherwise or show, error)
        for name, value in pages.HEADERS.items():
            response.headers.setdefault(name, value)
        _keep_form_cookie(visit, response)
        return response

    return endpoint


def signed_in(handler: Show) -> Show:
    """A page for people with a session; others are sent to sign in and come back."""

    async def show(visit: Visit, message: str | None) -> Response:
        if visit.session is None:
            here = visit.request.url.path
            return RedirectResponse(sessions.sign_in_url(visit.tenant, here), 303)
        return await handler(visit, message)

    return show


def continue_path(tenant: Tenant, text: str | None) -> str:
    """Where a sign-in leads: a path of this tenant on this server, whatever was asked for."""
    home = f"/t/{tenant.slug}/account"
    if not text or not _PLAIN_PATH.fullmatch(text):
        return home
    parts = urlsplit(text)
    path = unquote(parts.path)
    inside = text.startswith(f"/t/{tenant.slug}/") and path.startswith(f"/t/{tenant.slug}/")
    escapes = ".." in path.split("/") or "//" in path or "\\" in path
    return text if inside and not escapes and not parts.netloc else home


async def _visit(request: Request) -> Visit:
    services: Services = request.app.state.services
    tenant = await services.tenants.aby_slug(request.path_params["tenant"])
    if tenant is None or not tenant.is_readable:
        raise NotFound()
    session = await sessions.current_session(services, tenant, request)
    actor = Actor.of_request(request, services.settings, session.user_id if session else None)
    agent = request.headers.get("user-agent")
    device = device_of(agent, source_address(request, services.settings))
    browser = Browser(actor, device, request.cookies.get(sessions.COOKIE))
    cookie = request.cookies.get(forms.COOKIE) or sessions.new_token()
    return Visit(request, services, tenant, browser, session, cookie)


async def _posted(visit: Visit, post: Handler) -> Response:
    visit.fields = await forms.read_form(visit.request)
    try:
        visit.require_form()
    except Forbidden:
        user_id = visit.session.user_id if visit.session else None
        await to_thread.run_sync(
            refuse, visit.services, visit.tenant, visit.browser, "CROSS_SITE", user_id
        )
        raise
    return await post(visit)


async def _shown_again(visit: Visit, show: Show, error: ServerError | PasswordRefused) -> Response:
    if isinstance(error, ServerError) and error.http_status in (404, 405, 413, 415):
        return _failure(error)
    text = error.diagnostics if isinstance(error, ServerError) else str(error)
    response = await show(visit, text[:1].upper() + text[1:] + ".")
    response.status_code = error.http_status if isinstance(error, ServerError) else 422
    if isinstance(error, ServerError):
        response.headers.update(error.headers)
    return response


def _failure(error: ServerError) -> Response:
    response = pages.document("Not possible", pages.alert(error.diagnostics), error.http_status)
    response.headers.update(error.headers)
    return response


def _keep_form_cookie(visit: Visit, response: Response) -> None:
    if visit.request.cookies.get(forms.COOKIE) == visit.form_cookie:
        return
    response.set_cookie(
        forms.COOKIE,
        visit.form_cookie,
        path=f"/t/{visit.tenant.slug}",
        secure=sessions.is_https(visit.services),
        httponly=True,
        samesite="lax",
    )
