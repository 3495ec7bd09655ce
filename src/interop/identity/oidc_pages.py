"""The two addresses of a sign-in with a provider: out to it, and back from it."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from interop.identity.sign_in_pages import CHALLENGE_COOKIE, finish, set_challenge
from interop.identity.visits import Visit, continue_path


async def begin(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/sign-in/oidc/{provider}"""
    # Authlib takes half a second to load; who has no provider never waits for it.
    from interop.identity import oidc

    asked = visit.request.query_params.get("continue")
    name = visit.request.path_params["provider"]
    url, token = await oidc.begin(
        visit.services, visit.tenant, name, continue_path(visit.tenant, asked)
    )
    response = RedirectResponse(url, 303)
    set_challenge(visit, response, token)
    return response


async def callback(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/sign-in/oidc/{provider}/callback"""
    from interop.identity import oidc

    result = await oidc.complete(
        visit.services,
        visit.tenant,
        visit.browser,
        visit.request.path_params["provider"],
        visit.request.cookies.get(CHALLENGE_COOKIE, ""),
        dict(visit.request.query_params),
    )
    return finish(visit, result)
