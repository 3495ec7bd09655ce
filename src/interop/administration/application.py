"""/api/v1 as one application, its OpenAPI document, and the page that shows it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interop.administration import (
    audit_routes,
    client_routes,
    entity_routes,
    key_routes,
    offboarding_routes,
    problems,
    quarantine_routes,
    query_tag_routes,
    quota_routes,
    role_routes,
    routing_routes,
    tenant_routes,
    user_routes,
)
from interop.administration.documentation import describe
from interop.administration.door import HEADERS, PREFIX, nothing_here

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def application() -> FastAPI:
    """The application; whoever mounts it under PREFIX gives it `state.services`."""
    api = FastAPI(
        title="dental-interop administration",
        version="1",
        openapi_url="/openapi.json",
        # FastAPI's own pages load scripts of third parties.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _outside},
    )
    for routes in (
        tenant_routes,
        offboarding_routes,
        quota_routes,
        user_routes,
        role_routes,
        client_routes,
        entity_routes,
        routing_routes,
        quarantine_routes,
        query_tag_routes,
        key_routes,
        audit_routes,
    ):
        api.router.routes.extend(routes.router.routes)
    api.router.routes.append(Route("/tenants/{tenant}/{rest:path}", nothing_here, methods=METHODS))
    describe(api, PREFIX)
    return api


async def _outside(request: Request, error: Exception) -> Response:
    """What is no address of a tenant at all."""
    answer = problems.response(problems.server_error(error))
    answer.headers.update(HEADERS)
    return answer
