"""Requests that are answered later: how far they are, their answers, and the worker that does them.

FHIR R4 async.html: 202 while the request runs; when it is done, 200 and a Bundle of type
batch-response whose one entry is the answer; DELETE cancels it or removes the answer. Only who
asked is told. The worker does a request through the very routes that would have answered it, with
the rights that are then behind the token.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import orjson
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.errors import Conflict, NotFound
from interop.fhir.bundling.batch import response_bundle
from interop.fhir.bundling.dispatch import Reply, answer
from interop.fhir.deferring import PLACE, asker_of, claims_of
from interop.fhir.exchange import BASE, Exchange, endpoint
from interop.fhir.outcomes import Issue, operation_outcome
from interop.services import Services
from storage import async_requests
from storage.async_requests import Answer
from storage.database import Connection

logger = logging.getLogger(__name__)

POLL_SECONDS = 1


@endpoint
async def status(exchange: Exchange) -> Response:
    """How far a request is, or its answer."""
    found = await asyncio.to_thread(_found, exchange)
    if not found.is_done:
        response = exchange.respond(202, b"")
        response.headers["X-Progress"] = "in progress"
        response.headers["Retry-After"] = str(POLL_SECONDS)
        return response
    entry = orjson.loads(found.body or "{}")
    response = exchange.respond(200, response_bundle("batch-response", [_spliced(entry)]))
    response.headers["Expires"] = format_datetime(found.expires_at, usegmt=True)
    return response


@endpoint
async def cancel(exchange: Exchange) -> Response:
    """Cancel a request, or remove its answer."""
    await asyncio.to_thread(_found, exchange, forget=True)
    return exchange.respond(202, b"")


def _found(exchange: Exchange, *, forget: bool = False) -> Answer:
    """The caller's own request, audited. Raises NotFound."""
    caller, tenant_id = exchange.caller, exchange.caller.tenant.id
    try:
        request_id = UUID(exchange.request.path_params["id"])
    except ValueError:
        raise NotFound from None
    with exchange.database.connection(tenant_id) as connection:
        found = async_requests.find(connection, tenant_id, request_id, asker_of(caller))
        if found is None:
            raise NotFound
        if forget:
            async_requests.forget(connection, tenant_id, request_id)
        metadata = {"asynchronous": str(request_id)}
        audit = audit_parameters(caller, "FHIR_OPERATION", metadata=metadata)
        connection.execute(INSERT_AUDIT, audit)
    return found


ROUTES = [
    Route(f"{BASE}/{PLACE}/{{id}}", status, methods=["GET"]),
    Route(f"{BASE}/{PLACE}/{{id}}", cancel, methods=["DELETE"]),
]


# -- the worker -----------------------------------------------------------------------------


class AsyncRequests:
    """Does accepted requests, on an event loop in a thread of its own, from the first one on."""

    def __init__(self, services: Services, routes: Callable[[], Sequence[BaseRoute]]) -> None:
        self._services = services
        self._routes = routes
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._app: Starlette | None = None

    def run(self, tenant_id: UUID, request_id: UUID) -> None:
        """Do one request; blocks until it is done. Safe to repeat."""
        with self._services.database.connection(tenant_id) as connection:
            begun = async_requests.begin(connection, tenant_id, request_id)
        if begun is None:
            return
        packed: dict[str, Any] = orjson.loads(begun[0])
        if packed["kind"] == "batch" and begun[1]:
            reply = _interrupted()
        else:
            doing = self._answered(tenant_id, request_id, packed)
            reply = asyncio.run_coroutine_threadsafe(doing, self._running_loop()).result()
        with self._services.database.connection(tenant_id) as connection:
            # A transaction has kept its answer itself.
            async_requests.finish(connection, tenant_id, request_id, reply.status, _text(reply))

    def forget(self, tenant_id: UUID, request_id: UUID) -> None:
        """Remove a request whose time is over."""
        with self._services.database.connection(tenant_id) as connection:
            async_requests.forget(connection, tenant_id, request_id)

    def close(self) -> None:
        """End the event loop, when no request is being done any more."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        closing = self._services.database.close_async()
        asyncio.run_coroutine_threadsafe(closing, loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._loop = None

    async def _answered(self, tenant_id: UUID, request_id: UUID, packed: dict[str, Any]) -> Reply:
        def on_commit(connection: Connection, body: bytes) -> None:
            """In the transaction itself: it is never done twice, and not when it was cancelled."""
            reply = Reply(200, {}, body)
            if not async_requests.finish(connection, tenant_id, request_id, 200, _text(reply)):
                raise Conflict("the request was cancelled; nothing was done")

        assert self._app is not None
        headers = {**packed["headers"], "host": "localhost"}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "scheme": "http",
            "server": None,
            "client": None,
            "root_path": "",
            "app": self._app,
            "method": packed["method"],
            "path": packed["path"],
            "raw_path": packed["path"].encode(),
            "query_string": packed["query"].encode("latin-1"),
            "headers": [(name.encode(), str(value).encode()) for name, value in headers.items()],
            "state": {"claims": claims_of(packed), "on_commit": on_commit},
        }
        return await answer(self._app, scope, packed["body"].encode())

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._app = Starlette(routes=list(self._routes()))
                self._app.state.services = self._services
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=loop.run_forever, name="fhir-async", daemon=True
                )
                self._thread.start()
                opening = self._services.database.open_async()
                asyncio.run_coroutine_threadsafe(opening, loop).result()
                self._loop = loop
        return self._loop


def _interrupted() -> Reply:
    """A batch that a worker had begun and did not end: its entries must not be done twice."""
    why = (
        "the server stopped while it did this batch; some of its entries may have been done."
        " Look at what is there, and send the rest again"
    )
    return Reply(500, {}, operation_outcome([Issue("incomplete", why)]))


def _text(reply: Reply) -> str:
    """The answer as it is kept: an entry, its resource as the text of its JSON."""
    entry = reply.entry()
    resource = entry.pop("resource", None)
    outcome = entry["response"].pop("outcome", None)
    if resource is not None:
        entry["resource_text"] = reply.body.decode()
    elif outcome is not None:
        entry["outcome_text"] = reply.body.decode()
    return orjson.dumps(entry).decode()


def _spliced(entry: dict[str, Any]) -> dict[str, Any]:
    """The same as an entry of a Bundle, every digit of its resource as it was."""
    if (text := entry.pop("resource_text", None)) is not None:
        return {"resource": orjson.Fragment(text), **entry}
    if (text := entry.pop("outcome_text", None)) is not None:
        entry["response"]["outcome"] = orjson.Fragment(text)
    return entry
