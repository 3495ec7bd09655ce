"""Pages of a signed-in person: their sessions, second step and password.

Whoever changes how an account is protected gives its password again, and goes on under a new
session token (security.md E8).
"""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from anyio import to_thread
from starlette.responses import RedirectResponse, Response

from interop.errors import BadRequest, NotFound, Unauthorized
from interop.identity import pages, passwords, sessions, sign_in, totp, users
from interop.identity.actors import audit
from interop.identity.pages import Field
from interop.identity.visits import Visit
from storage.database import Connection

PASSWORD = Field("password", "Your password", "password", "current-password")


async def show_account(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/account"""
    session = _session(visit)
    live, has_factor, has_password = await to_thread.run_sync(_overview, visit, session.user_id)
    body = pages.alert(message) + pages.heading("Where you are signed in")
    body += pages.session_list((one, one.id == session.id, _ending(visit, one.id)) for one in live)
    body += _form(visit, "account/sessions/end", [], "Sign out everywhere", {"session": "all"})
    if has_password:
        body += pages.heading("Two-step sign-in") + pages.paragraph("On." if has_factor else "Off.")
        action = "account/totp/disable" if has_factor else "account/totp/begin"
        body += _form(visit, action, [PASSWORD], "Switch off" if has_factor else "Set up")
        body += pages.heading("Password") + pages.link(visit.path("account/password"), "Change")
    body += pages.heading("Leave") + _form(visit, "sign-out", [], "Sign out")
    return pages.document(f"{session.user_name}, {visit.tenant.name}", body)


async def end_sessions(visit: Visit) -> Response:
    """POST /t/{tenant}/account/sessions/end: one session, or all of them."""
    await to_thread.run_sync(_end_sessions, visit, visit.value("session"))
    return RedirectResponse(visit.path("account"), 303)


async def begin_totp(visit: Visit) -> Response:
    """POST /t/{tenant}/account/totp/begin"""
    enrolment = await to_thread.run_sync(_begin_totp, visit, visit.value("password"))
    action = visit.path("account/totp/confirm")
    field = Field("code", "Code that the app shows now", autocomplete="one-time-code")
    body = pages.secret_lines(enrolment.secret, enrolment.uri)
    body += pages.form(action, visit.token(action), [field], "Switch on")
    return pages.document("Set up two-step sign-in", body)


async def confirm_totp(visit: Visit) -> Response:
    """POST /t/{tenant}/account/totp/confirm"""
    codes, token = await to_thread.run_sync(_confirm_totp, visit, visit.value("code"))
    body = pages.code_list(codes) + pages.link(visit.path("account"), "I have kept them")
    return _under(visit, pages.document("Two-step sign-in is on", body), token)


async def disable_totp(visit: Visit) -> Response:
    """POST /t/{tenant}/account/totp/disable"""
    token = await to_thread.run_sync(_disable_totp, visit, visit.value("password"))
    return _under(visit, RedirectResponse(visit.path("account"), 303), token)


async def show_password(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/account/password"""
    hint = f"At least {passwords.MIN_LENGTH} characters."
    fields = [
        PASSWORD,
        Field("new", "New password", "password", "new-password", hint=hint),
        Field("repeated", "New password again", "password", "new-password"),
    ]
    form = _form(visit, "account/password", fields, "Change password")
    return pages.document("Change your password", pages.alert(message) + form)


async def change_password(visit: Visit) -> Response:
    """POST /t/{tenant}/account/password: every other session of the user ends."""
    if visit.value("new") != visit.value("repeated"):
        raise BadRequest("the two new passwords are not the same")
    token = await to_thread.run_sync(
        _change_password, visit, visit.value("password"), visit.value("new")
    )
    return _under(visit, RedirectResponse(visit.path("account"), 303), token)


def _session(visit: Visit) -> sessions.UserSession:
    if visit.session is None:
        raise Unauthorized("your session has ended; sign in again")
    return visit.session


def _form(
    visit: Visit, rest: str, fields: list[Field], button: str, hidden: dict[str, str] | None = None
) -> str:
    action = visit.path(rest)
    return pages.form(action, visit.token(action), fields, button, hidden=hidden, is_main=False)


def _ending(visit: Visit, session_id: UUID) -> str:
    return _form(visit, "account/sessions/end", [], "Sign out", {"session": str(session_id)})


def _under(visit: Visit, response: Response, token: str) -> Response:
    sessions.set_cookie(response, visit.services, visit.tenant, token)
    return response


def _overview(visit: Visit, user_id: UUID) -> tuple[list[sessions.ListedSession], bool, bool]:
    idle = visit.services.settings.session_idle_seconds
    with visit.services.database.connection(visit.tenant.id) as connection:
        live = sessions.list_sessions(connection, visit.tenant.id, idle, user_id)
        has_password = connection.execute(
            "SELECT 1 FROM user_auth_identities WHERE user_id = %s AND provider = 'PASSWORD'",
            (user_id,),
        ).fetchone()
        return live, totp.is_enabled(connection, user_id), has_password is not None


def _end_sessions(visit: Visit, which: str) -> None:
    user_id, tenant_id = _session(visit).user_id, visit.tenant.id
    with visit.services.database.connection(tenant_id) as connection:
        if which == "all":
            sessions.revoke_all(connection, tenant_id, user_id)
            audit(
                connection, tenant_id, visit.browser.actor, "LOGOUT", "User", user_id, which="all"
            )
            return
        idle = visit.services.settings.session_idle_seconds
        mine = sessions.list_sessions(connection, tenant_id, idle, user_id)
        found = next((one.id for one in mine if str(one.id) == which), None)
        if found is None:
            raise NotFound("this session has ended already")
        sessions.revoke(connection, tenant_id, found)
        audit(connection, tenant_id, visit.browser.actor, "LOGOUT", "Session", found)


def _begin_totp(visit: Visit, password: str) -> totp.Enrolment:
    user_id = _session(visit).user_id
    sign_in.confirm_password(visit.services, visit.tenant, visit.browser, user_id, password)
    with visit.services.database.connection(visit.tenant.id) as connection:
        enrolment = totp.begin_enrolment(connection, user_id, visit.tenant.name)
        _changed(visit, connection, user_id, "totp.begin")
    return enrolment


def _confirm_totp(visit: Visit, code: str) -> tuple[list[str], str]:
    user_id = _session(visit).user_id
    with visit.services.database.connection(visit.tenant.id) as connection:
        codes = totp.confirm_enrolment(connection, user_id, code)
        _changed(visit, connection, user_id, "totp.enable")
        return codes, _renewed(visit, connection, ["pwd", "otp", "mfa"])


def _disable_totp(visit: Visit, password: str) -> str:
    user_id = _session(visit).user_id
    sign_in.confirm_password(visit.services, visit.tenant, visit.browser, user_id, password)
    with visit.services.database.connection(visit.tenant.id) as connection:
        totp.disable(connection, user_id)
        _changed(visit, connection, user_id, "totp.disable")
        return _renewed(visit, connection, ["pwd"])


def _change_password(visit: Visit, old: str, new: str) -> str:
    session = _session(visit)
    sign_in.confirm_password(visit.services, visit.tenant, visit.browser, session.user_id, old)
    with visit.services.database.connection(visit.tenant.id) as connection:
        row = connection.execute(
            "SELECT email FROM users WHERE id = %s", (session.user_id,)
        ).fetchone()
    passwords.require_acceptable(new, row[0] if row and row[0] else "", session.user_name)
    hashed = passwords.hash_password(new)
    with visit.services.database.connection(visit.tenant.id) as connection:
        users.change_password(
            connection, visit.tenant.id, visit.browser.actor, session.user_id, hashed
        )
        return _renewed(visit, connection, session.amr)


def _renewed(visit: Visit, connection: Connection, amr: list[str] | tuple[str, ...]) -> str:
    """A session of the same user under a new token; the old token is worth nothing."""
    session = _session(visit)
    return sessions.renew(connection, visit.tenant.id, session, visit.browser.device, amr)


def _changed(visit: Visit, connection: Connection, user_id: UUID, action: str) -> None:
    actor = replace(visit.browser.actor, user_id=user_id)
    audit(connection, visit.tenant.id, actor, "CONFIG_CHANGED", "User", user_id, action=action)
