"""POST to the base: batches and transactions (FHIR R4 http.html#transaction)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.gate import charge
from interop.errors import Forbidden, ServerError
from interop.fhir import json
from interop.fhir.bundling.batch import response_bundle, run_batch
from interop.fhir.bundling.dispatch import Reply, dispatch
from interop.fhir.bundling.entries import MAX_BUNDLE_BYTES, Entry, RequestBundle, read_bundle
from interop.fhir.bundling.transaction import Transaction
from interop.fhir.exchange import BASE, Exchange, endpoint
from interop.fhir.lens import Connection
from interop.fhir.negotiation import json_body, preference
from interop.fhir.writing import Writer, WriteSession
from storage.lent import LentDatabase

# Transactions of one process at a time. Their threads are their own: a transaction waits for what
# is read in it, which other threads do.
TRANSACTIONS = 4
# Keeps the response of a transaction, on its connection.
Keep = Callable[[Connection, bytes], None]
_threads = ThreadPoolExecutor(TRANSACTIONS, thread_name_prefix="transaction")


@endpoint
async def process(exchange: Exchange) -> Response:
    """Do what a Bundle asks. Each entry has its audit row; a Bundle without entries has one."""
    if not exchange.caller.scopes.granted:
        raise Forbidden("the token's scopes permit nothing on any resource")
    body = await json_body(exchange.request, MAX_BUNDLE_BYTES)
    bundle = await asyncio.to_thread(_read, body, exchange.own_base)
    await charge(exchange.request.scope, bundle.cost)
    if not bundle.entries:
        await _audit_empty(exchange)
    if bundle.type == "batch":
        return exchange.respond(200, await run_batch(exchange.request, bundle))
    return exchange.respond(200, await _run_transaction(exchange, bundle))


def _read(body: bytes, own_base: str) -> RequestBundle:
    return read_bundle(json.loads(body), own_base)


async def _run_transaction(exchange: Exchange, bundle: RequestBundle) -> bytes:
    """The transaction-response."""
    loop = asyncio.get_running_loop()
    wanted = preference(exchange.request, "return")
    writer = Writer(exchange.database, exchange.caller, exchange.own_base)

    def read(session: WriteSession, entry: Entry) -> Reply:
        lent = LentDatabase(exchange.database, session.connection, exchange.caller.tenant.id)
        answering = _answered(exchange.request, entry, lent)
        return asyncio.run_coroutine_threadsafe(answering, loop).result()

    # An answer for later is kept by the transaction itself (interop.fhir.asynchronous).
    keep: Keep | None = getattr(exchange.request.state, "on_commit", None)

    def work(session: WriteSession) -> bytes:
        answers = Transaction(session, bundle, wanted, read).run()
        response = response_bundle("transaction-response", answers)
        if keep is not None:
            keep(session.connection, response)
        return response

    return await loop.run_in_executor(_threads, copy_context().run, writer.run, work)


async def _answered(request: Request, entry: Entry, lent: LentDatabase) -> Reply:
    """The answer to an entry that reads. Raises what a request of its own would be refused with."""
    reply = await dispatch(request, entry, lent)
    if reply.is_error:
        raise _refusal(reply)
    return reply


def _refusal(reply: Reply) -> ServerError:
    kinds = [ServerError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    outcome = json.loads(reply.body)
    why = "; ".join(str(issue.get("diagnostics")) for issue in outcome.get("issue", ()))
    by_status = {kind.http_status: kind for kind in reversed(kinds)}
    return by_status.get(reply.status, ServerError)(why)


async def _audit_empty(exchange: Exchange) -> None:
    tenant_id = exchange.caller.tenant.id
    async with exchange.database.async_connection(tenant_id) as connection:
        await connection.execute(INSERT_AUDIT, audit_parameters(exchange.caller, "FHIR_BATCH"))


ROUTES = [Route(path, process, methods=["POST"]) for path in (BASE, f"{BASE}/")]
