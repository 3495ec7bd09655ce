"""The viewer's page in a tenant, for people with a session there, and the script that sets it up.

The page holds nothing of anybody: images come by DICOMweb with the token that it is handed.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from interop.identity import pages, sessions
from interop.viewer.files import absent
from interop.viewer.headers import ISOLATION, NO_STORE, page_policy

if TYPE_CHECKING:
    from interop.identity.visits import Visit
    from interop.services import Services
    from storage.tenancy import Tenant

SETUP = resources.files("interop.viewer").joinpath("setup.js").read_text(encoding="utf-8")
# OHIF's own address of studies that are named in the query.
STUDIES, OPEN = "StudyInstanceUIDs", "viewer"


async def to_page(request: Request) -> Response:
    """GET /t/{tenant}/viewer: to the list of studies, or to those that the query names."""
    path = f"/t/{request.path_params['tenant']}/viewer/"
    if STUDIES in request.query_params:
        path += OPEN
    return RedirectResponse(_with_query(path, request), 303)


async def show_viewer(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/viewer/...: the page, whose address names what it shows."""
    viewer = visit.request.app.state.viewer.current()
    if viewer is None:
        return absent()
    path = visit.request.url.path
    if "." in path.rpartition("/")[2]:
        return PlainTextResponse("not found\n", 404)
    if visit.session is None:
        here = _with_query(path, visit.request)
        return RedirectResponse(sessions.sign_in_url(visit.tenant, here), 303)
    headers = {
        **ISOLATION,
        "Cache-Control": NO_STORE,
        "Content-Security-Policy": page_policy(viewer.inline_scripts),
        "X-Frame-Options": "DENY",
    }
    html = viewer.page(f"{root_of(visit.tenant)}/app-config.js")
    return HTMLResponse(html, headers=headers)


async def show_signed_in(visit: Visit, message: str | None) -> Response:
    """GET /t/{tenant}/viewer/signed-in: where a second window ends, beside a viewer that waits."""
    if visit.session is None:
        here = visit.request.url.path
        return RedirectResponse(sessions.sign_in_url(visit.tenant, here), 303)
    text = f"{visit.session.user_name}, close this window: the viewer goes on where it was."
    return pages.document("Signed in", pages.paragraph(text))


async def serve_app_config(request: Request) -> Response:
    """GET /t/{tenant}/viewer/app-config.js: what is this tenant's, and the code that uses it."""
    services: Services = request.app.state.services
    viewer = request.app.state.viewer.current()
    tenant = await services.tenants.aby_slug(request.path_params["tenant"])
    if tenant is None or not tenant.is_readable or viewer is None:
        return PlainTextResponse("not found\n", 404, {"Cache-Control": NO_STORE})
    given = json.dumps(configuration(services, tenant))
    headers = {
        **ISOLATION,
        "Cache-Control": NO_STORE,
        "Content-Type": "text/javascript; charset=utf-8",
    }
    return Response(f"const INTEROP = {given};\n{SETUP}", headers=headers)


def configuration(services: Services, tenant: Tenant) -> dict[str, Any]:
    """The addresses and choices that the script needs; the app's own are relative to the origin."""
    root = root_of(tenant)
    again = sessions.sign_in_url(tenant, f"{root}/signed-in")
    return {
        "organization": tenant.name,
        "root": root,
        "dicomweb": f"/t/{tenant.slug}/dicom-web",
        "token": f"{root}/token",
        "signIn": again,
        "signOut": f"/t/{tenant.slug}/sign-out",
        "showsNotice": services.settings.viewer_notice == "always",
    }


def root_of(tenant: Tenant) -> str:
    """The address of a tenant's viewer, below which OHIF keeps its own."""
    return f"/t/{tenant.slug}/viewer"


def _with_query(path: str, request: Request) -> str:
    return f"{path}?{request.url.query}" if request.url.query else path
