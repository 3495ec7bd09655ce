"""The addresses of the viewer: its files under /viewer, its page in each tenant."""

from __future__ import annotations

from starlette.routing import Route

from interop.identity.visits import page
from interop.viewer import files, hand_over, tenant_page

TENANT = "/t/{tenant}/viewer"


def routes() -> list[Route]:
    return [
        Route("/viewer", files.serve_entrance),
        Route("/viewer/", files.serve_entrance),
        Route("/viewer/{build}/{name:path}", files.serve_file),
        Route(TENANT, tenant_page.to_page),
        Route(f"{TENANT}/app-config.js", tenant_page.serve_app_config),
        Route(f"{TENANT}/signed-in", page(tenant_page.show_signed_in)),
        Route(f"{TENANT}/token", hand_over.serve_token, methods=["POST"]),
        Route(f"{TENANT}/{{path:path}}", page(tenant_page.show_viewer)),
    ]
