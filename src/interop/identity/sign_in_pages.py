"""Pages before there is a session: sign-in, second step, providers' buttons, invitations."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from anyio import to_thread
from starlette.responses import RedirectResponse, Response

from interop.errors import BadRequest
from interop.identity import challenges, invitations, pages, providers, sessions, sign_in
from interop.identity.pages import Field
from interop.identity.passwords import MIN_LENGTH
from interop.identity.visits import Visit, continue_path

CHALLENGE_COOKIE = "interop_sign_in"


async def show_sign_in(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/sign-in?continue=..."""
    onward = _continue(visit)
    action = visit.path("sign-in")
    fields = [
        Field("email", "E-mail address", "email", "username", visit.fields.get("email", ""),
              is_first=True),
        Field("password", "Password", "password", "current-password"),
    ]  # fmt: skip
    body = pages.alert(message) + pages.form(
        action, visit.token(action), fields, "Sign in", hidden={"continue": onward}
    )
    for provider in await to_thread.run_sync(_providers, visit):
        query = urlencode({"continue": onward})
        href = f"{visit.path('sign-in/oidc/')}{quote(provider.name)}?{query}"
        body += pages.link(href, f"Sign in with {provider.display_name}")
    return pages.document(f"Sign in to {visit.tenant.name}", body)


async def post_sign_in(visit: Visit) -> Response:
    """POST /t/{tenant}/sign-in"""
    result = await to_thread.run_sync(
        sign_in.with_password, visit.services, visit.tenant, visit.browser,
        visit.value("email"), visit.value("password"), _continue(visit),
    )  # fmt: skip
    if isinstance(result, sign_in.SecondStep):
        response = RedirectResponse(visit.path("sign-in/totp"), 303)
        set_challenge(visit, response, result.token)
        return response
    return finish(visit, result)


async def show_code(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/sign-in/totp"""
    token = visit.request.cookies.get(CHALLENGE_COOKIE)
    if token is None or not await to_thread.run_sync(_is_waiting, visit, token):
        return await show_sign_in(visit, message or "This sign-in has ended. Begin again.")
    action = visit.path("sign-in/totp")
    field = Field(
        "code", "Code", autocomplete="one-time-code", is_first=True,
        hint="Six digits of your authenticator app, or one of your recovery codes.",
    )  # fmt: skip
    form = pages.form(action, visit.token(action), [field], "Sign in")
    return pages.document("Enter your code", pages.alert(message) + form)


async def post_code(visit: Visit) -> Response:
    """POST /t/{tenant}/sign-in/totp"""
    token = visit.request.cookies.get(CHALLENGE_COOKIE, "")
    result = await to_thread.run_sync(
        sign_in.with_code, visit.services, visit.tenant, visit.browser, token, visit.value("code")
    )
    return finish(visit, result)


async def show_sign_out(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/sign-out"""
    action = visit.path("sign-out")
    form = pages.form(action, visit.token(action), [], "Sign out")
    return pages.document("Sign out", pages.alert(message) + form)


async def post_sign_out(visit: Visit) -> Response:
    """POST /t/{tenant}/sign-out"""
    await to_thread.run_sync(sign_in.sign_out, visit.services, visit.tenant, visit.browser)
    response = RedirectResponse(visit.path("sign-in"), 303)
    sessions.clear_cookie(response, visit.services, visit.tenant)
    return response


async def show_invitation(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/sign-in/invitation?token=..."""
    token = visit.fields.get("token") or visit.request.query_params.get("token", "")
    invitation = await to_thread.run_sync(_invitation, visit, token)
    if invitation is None:
        text = message or "This invitation has been used, or has ended. Ask for a new one."
        return pages.document("Invitation", pages.alert(text), 404)
    action = visit.path("sign-in/invitation")
    hint = f"At least {MIN_LENGTH} characters. If you have an account already, its password."
    fields = [
        Field("password", "Password", "password", "new-password", hint=hint, is_first=True),
        Field("repeated", "Password again", "password", "new-password"),
    ]
    form = pages.form(action, visit.token(action), fields, "Accept", hidden={"token": token})
    text = f"{invitation.full_name}, you are invited to sign in as {invitation.email}."
    body = pages.alert(message) + pages.paragraph(text) + form
    for provider in await to_thread.run_sync(_providers, visit):
        href = visit.path("sign-in/oidc/") + quote(provider.name)
        body += pages.link(href, f"Accept with {provider.display_name}")
    return pages.document(f"Welcome to {visit.tenant.name}", body)


async def post_invitation(visit: Visit) -> Response:
    """POST /t/{tenant}/sign-in/invitation"""
    password = visit.value("password")
    if password != visit.value("repeated"):
        raise BadRequest("the two passwords are not the same")
    await to_thread.run_sync(
        sign_in.accept_invitation, visit.services, visit.tenant, visit.browser,
        visit.value("token"), password,
    )  # fmt: skip
    return RedirectResponse(visit.path("sign-in"), 303)


def finish(visit: Visit, result: sign_in.SignedIn) -> Response:
    """Give the browser its new session and send it on its way."""
    path = result.continue_path
    if path.startswith(visit.path("oauth2/")):
        response = pages.onward(path)
    else:
        response = RedirectResponse(path, 303)
    sessions.set_cookie(response, visit.services, visit.tenant, result.token)
    response.delete_cookie(CHALLENGE_COOKIE, path=visit.path("sign-in"))
    return response


def set_challenge(visit: Visit, response: Response, token: str) -> None:
    """Bind the second step of a sign-in to this browser."""
    response.set_cookie(
        CHALLENGE_COOKIE,
        token,
        max_age=challenges.LIFETIME_SECONDS,
        path=visit.path("sign-in"),
        secure=sessions.is_https(visit.services),
        httponly=True,
        samesite="lax",
    )


def _continue(visit: Visit) -> str:
    asked = visit.fields.get("continue") or visit.request.query_params.get("continue")
    return continue_path(visit.tenant, asked)


def _providers(visit: Visit) -> list[providers.Provider]:
    with visit.services.database.connection(visit.tenant.id) as connection:
        return providers.list_enabled(connection, visit.tenant.id)


def _is_waiting(visit: Visit, token: str) -> bool:
    with visit.services.database.connection(visit.tenant.id) as connection:
        return challenges.is_open(connection, visit.tenant.id, "TOTP", token)


def _invitation(visit: Visit, token: str) -> invitations.Invitation | None:
    with visit.services.database.connection(visit.tenant.id) as connection:
        return invitations.find_by_token(connection, visit.tenant.id, token)
