"""What happens around every route of /api/v1: who calls, may they, one audit row, one error form.

A route has its rule in access/routes.py, or the application is not built. The rule is asked before
the body is read, and a refusal is audited before it is answered; a stranger's after, so that the
time it takes tells nothing (access/refusals.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
from fastapi.routing import APIRoute
from psycopg_pool import PoolTimeout
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from interop.access.audit import INSERT_AUDIT, audit_parameters, begin_interaction
from interop.access.http import caller_from
from interop.access.principals import Caller
from interop.access.refusals import audit_stranger
from interop.access.routes import ROUTES
from interop.administration import problems
from interop.administration.rules import require
from interop.errors import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    ServerError,
    UnsupportedMediaType,
)
from interop.fhir import json

logger = logging.getLogger(__name__)

PREFIX = "/api/v1"
MAX_BODY = 256 * 1024
HEADERS = {
    "Cache-Control": "no-store",
    "Vary": "Authorization",
    "X-Content-Type-Options": "nosniff",
}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRequest(Request):
    """A request whose body is a JSON object of bounded size, read as strictly as FHIR's."""

    _object: dict[str, Any] | None = None

    async def body(self) -> bytes:
        if not hasattr(self, "_whole"):
            chunks: list[bytes] = []
            size = 0
            async for chunk in self.stream():
                size += len(chunk)
                if size > MAX_BODY:
                    raise PayloadTooLarge(f"the body may have {MAX_BODY} bytes at most")
                chunks.append(chunk)
            self._whole = b"".join(chunks)
        return self._whole

    async def json(self) -> dict[str, Any]:
        if self._object is None:
            body = await self.body()
            if body.lstrip()[:1] != b"{":
                raise BadRequest("the body must be a JSON object: {...}")
            self._object = json.loads(body)
        return self._object


class AdministrationRoute(APIRoute):
    """A route that asks its rule first."""

    def get_route_handler(self) -> Handler:
        answer = super().get_route_handler()
        # One rule, so one method.
        assert self.methods is not None and len(self.methods) == 1, self.path
        rule = ROUTES[next(iter(self.methods)), PREFIX + self.path]

        async def handle(given: Request) -> Response:
            interaction = begin_interaction()
            request = StrictRequest(given.scope, given.receive)
            try:
                caller = await caller_from(
                    request, even_suspended=rule.even_suspended, even_closed=rule.even_closed
                )
                require(caller, rule)
                if self.body_field is not None:
                    await _require_json(request)
                response = await answer(request)
            except Exception as error:
                response = await _refused(
                    request, self.path, problems.server_error(error), interaction.is_audited
                )
            response.headers.update(HEADERS)
            return response

        return handle


async def nothing_here(request: Request) -> Response:
    """What is under a tenant and no route: the same answers as elsewhere, and an audit row."""
    interaction = begin_interaction()
    try:
        await caller_from(request)
        allowed = _methods_of(request)
        if allowed:
            raise MethodNotAllowed(headers={"Allow": ", ".join(allowed)})
        raise NotFound("there is no such operation; /api/v1/openapi.json lists them")
    except ServerError as error:
        response = await _refused(request, "(none)", error, interaction.is_audited)
    response.headers.update(HEADERS)
    return response


def _methods_of(request: Request) -> list[str]:
    """The methods of the routes of this path."""
    found: set[str] = set()
    for route in request.app.router.routes:
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is Match.PARTIAL:
            found |= route.methods or set()
    return sorted(found)


async def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("Content-Type must be application/json")
    await request.json()


async def _refused(request: Request, path: str, error: ServerError, is_audited: bool) -> Response:
    """The answer to a request that was not done, with its audit row."""
    answer = problems.response(error)
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:
        answer.background = BackgroundTask(audit_stranger, request, error)
        return answer
    if is_audited:
        return answer
    parameters = audit_parameters(
        caller,
        _event(request, path, error),
        outcome="FAILURE",
        metadata={"status": error.http_status, "method": request.method, "route": path},
    )
    try:
        async with request.app.state.services.database.async_connection(
            caller.tenant.id
        ) as connection:
            await connection.execute(INSERT_AUDIT, parameters)
    except (psycopg.Error, PoolTimeout):
        # Nothing was shown or changed; the operator has to know.
        logger.exception("refusal_not_audited")
    return answer


def _event(request: Request, path: str, error: ServerError) -> str:
    if error.http_status == 403:
        return "ACCESS_DENIED"
    if request.method != "GET":
        return "CONFIG_CHANGED"
    return "AUDIT_LOG_USED" if path.endswith("/audit-events") else "CONFIG_VIEWED"
