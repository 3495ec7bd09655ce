"""The addresses of sign-in and account pages under `/t/{tenant}`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interop.identity import account_pages as account
from interop.identity import oidc_pages
from interop.identity import sign_in_pages as signing
from interop.identity.visits import Handler, page, signed_in

Endpoint = Callable[[Request], Awaitable[Response]]


def routes() -> list[Route]:
    """Every page. GET shows; POST does, and needs the form that GET has shown."""
    return [
        _route("sign-in", page(signing.show_sign_in, signing.post_sign_in), "GET", "POST"),
        _route("sign-in/totp", page(signing.show_code, signing.post_code), "GET", "POST"),
        _route(
            "sign-in/invitation",
            page(signing.show_invitation, signing.post_invitation),
            "GET",
            "POST",
        ),
        _route(
            "sign-in/oidc/{provider}",
            page(oidc_pages.begin, otherwise=signing.show_sign_in),
            "GET",
        ),
        _route(
            "sign-in/oidc/{provider}/callback",
            page(oidc_pages.callback, otherwise=signing.show_sign_in),
            "GET",
        ),
        _route("sign-out", page(signing.show_sign_out, signing.post_sign_out), "GET", "POST"),
        _route("account", page(signed_in(account.show_account)), "GET"),
        _route(
            "account/password",
            page(signed_in(account.show_password), account.change_password),
            "GET",
            "POST",
        ),
        _route("account/sessions/end", _action(account.end_sessions), "POST"),
        _route("account/totp/begin", _action(account.begin_totp), "POST"),
        _route("account/totp/confirm", _action(account.confirm_totp), "POST"),
        _route("account/totp/disable", _action(account.disable_totp), "POST"),
    ]


def _action(post: Handler) -> Endpoint:
    """Something that the account page does; when it fails, that page says why."""
    return page(signed_in(account.show_account), post)


def _route(path: str, endpoint: Endpoint, *methods: str) -> Route:
    return Route(f"/t/{{tenant}}/{path}", endpoint, methods=list(methods))
