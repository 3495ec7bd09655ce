"""$reindex: have an index built anew, and ask how far it is.

POST begins it and GET tells, of one SearchParameter or, at the base, of everything that is indexed.
While one of the tenant's own parameters is being built, searches by it are refused; by R4's own
each resource is found by what it had until its rows are replaced.
"""

from __future__ import annotations

import asyncio

import orjson
from starlette.responses import Response
from starlette.routing import Route

from interop.access import Letter, decide
from interop.access.audit import INSERT_AUDIT, audit_parameters, mark_audited
from interop.access.routes import FHIR
from interop.errors import Forbidden, NotFound
from interop.fhir.exchange import Exchange, endpoint
from interop.fhir.lens import JsonObject
from interop.fhir.search import custom
from storage import search_definitions
from storage.database import Connection
from storage.search_definitions import EVERYTHING, READY, Definition

ACCEPTED = 202


@endpoint
async def begin(exchange: Exchange) -> Response:
    _require(exchange, "u")
    body = await asyncio.to_thread(_begun, exchange)
    return exchange.respond(ACCEPTED, body)


@endpoint
async def progress(exchange: Exchange) -> Response:
    _require(exchange, "r")
    return exchange.respond(200, await asyncio.to_thread(_told, exchange))


def _require(exchange: Exchange, letter: Letter) -> None:
    """Raises Forbidden unless the caller may do it to every SearchParameter of the tenant."""
    exchange.refuse_parameters()
    if not decide(exchange.caller, letter, custom.RESOURCE_TYPE).require().is_whole_tenant:
        raise Forbidden


def _begun(exchange: Exchange) -> bytes:
    with exchange.database.connection(exchange.caller.tenant.id) as connection:
        tenant_id = exchange.caller.tenant.id
        if not custom.rebuild(connection, tenant_id, exchange.resource_id or EVERYTHING):
            raise NotFound
        return _answer(exchange, connection)


def _told(exchange: Exchange) -> bytes:
    with exchange.database.connection(exchange.caller.tenant.id) as connection:
        return _answer(exchange, connection)


def _answer(exchange: Exchange, connection: Connection) -> bytes:
    """How far it is, and the audit row. Raises NotFound for what is not in force."""
    known = search_definitions.read(connection, exchange.caller.tenant.id).definitions
    id_ = exchange.resource_id or EVERYTHING
    found = next((one for one in known if one.definition_id == id_), None)
    if found is None and exchange.resource_id:
        raise NotFound
    audit = audit_parameters(
        exchange.caller,
        "FHIR_OPERATION",
        custom.RESOURCE_TYPE,
        exchange.resource_id or None,
        metadata={"operation": "$reindex"},
    )
    connection.execute(INSERT_AUDIT, audit)
    mark_audited()
    return orjson.dumps(_parameters(found))


def _parameters(found: Definition | None) -> JsonObject:
    status = found.status if found else READY
    counts = [
        {"name": name, "valueDecimal": value}
        for name, value in (("total", found.total), ("done", found.done))
    ] if found else []  # fmt: skip
    return {
        "resourceType": "Parameters",
        "parameter": [{"name": "status", "valueCode": status.lower()}, *counts],
    }


ROUTES = [
    Route(f"{FHIR}{path}/$reindex", handler, methods=[method])
    for path in ("/SearchParameter/{resource_id}", "")
    for method, handler in (("POST", begin), ("GET", progress))
]
