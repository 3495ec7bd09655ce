"""The FHIR door: routes, and one handler for each interaction (FHIR R4 http.html).

A handler says who may (authorize), reads its input, makes one call and returns. Errors become
OperationOutcomes in `exchange`, and nowhere else.
"""

from __future__ import annotations

import asyncio

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, compile_path

from interop.access import Letter
from interop.errors import MethodNotAllowed, NotFound
from interop.fhir import binary, write_routes
from interop.fhir.asynchronous import ROUTES as ASYNCHRONOUS
from interop.fhir.audit_log import RESOURCE_TYPE as AUDIT_EVENT
from interop.fhir.audit_log import AuditLog
from interop.fhir.bundling.routes import ROUTES as BUNDLES
from interop.fhir.capability import instance_statement
from interop.fhir.exchange import (
    BASE,
    BINARY,
    Answer,
    Exchange,
    endpoint,
    own_base,
    public_endpoint,
)
from interop.fhir.history_routes import ROUTES as HISTORIES
from interop.fhir.negotiation import MEDIA_TYPE, is_not_modified
from interop.fhir.operation_routes import ROUTES as OPERATIONS
from interop.fhir.reading import Reader
from interop.fhir.search.reindex_routes import ROUTES as REINDEXING
from interop.fhir.search.search_routes import ROUTES as SEARCHES
from interop.fhir.terminology.routes import ROUTES as TERMINOLOGY
from interop.fhir.validation.operation import ROUTES as VALIDATION
from interop.fhir.versions import Version
from interop.fhir.write_routes import refuse_audit_event
from storage.tenancy import SLUG

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class _OutsideWellKnown(StringConvertor):
    """Any path but /.well-known/..., which belongs to the authorization server."""

    regex = r"(?!\.well-known/).*"


class _Id(StringConvertor):
    """What may be an id: neither an operation ($) nor an interaction (_) of the type."""

    regex = r"[^/$_][^/]*"


register_url_convertor("fhir_path", _OutsideWellKnown())
register_url_convertor("fhir_id", _Id())


def routes() -> list[Route]:
    """The routes of all interactions; the last answers what no other does."""
    rest = [Route(path, unknown, methods=METHODS) for path in (BASE, f"{BASE}/{{path:fhir_path}}")]
    subjects = [
        *REINDEXING,
        *VALIDATION,
        *TERMINOLOGY,
        *BUNDLES,
        *HISTORIES,
        *OPERATIONS,
        *binary.ROUTES,
    ]
    return [*ASYNCHRONOUS, _READ, *subjects, *_INTERACTIONS, *rest]


@public_endpoint
async def metadata(request: Request) -> Response:
    """The CapabilityStatement: the same for every tenant, and so for names that are none."""
    if not SLUG.fullmatch(request.path_params["tenant"]):
        raise NotFound
    base = own_base(request)
    statement = await asyncio.to_thread(instance_statement)
    tag = statement.etag(base)
    # Kept by browsers, also for apps of other origins (interop/access/cross_origin.py).
    headers = {
        "ETag": tag,
        "Cache-Control": "public, max-age=3600",
        "Access-Control-Allow-Origin": "*",
        "Vary": "Accept",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Answer(statement.body(base), headers=headers, media_type=MEDIA_TYPE)


@endpoint
async def read(exchange: Exchange) -> Response:
    if exchange.resource_type == AUDIT_EVENT:
        return await _found(exchange, await _audit_log(exchange, "r").read(exchange.resource_id))
    version = await _reader(exchange).read(exchange.resource_type, exchange.resource_id)
    return await _found(exchange, version)


@endpoint
async def vread(exchange: Exchange) -> Response:
    refuse_audit_event(exchange)
    version_id = exchange.request.path_params["version_id"]
    version = await _reader(exchange).vread(
        exchange.resource_type, exchange.resource_id, version_id
    )
    return await _found(exchange, version)


@endpoint
async def unknown(exchange: Exchange) -> Response:
    """What no interaction answers: a method that the URL does not have, or no such URL."""
    allowed: set[str] = set()
    for route in (_READ, *REINDEXING, *HISTORIES, *_INTERACTIONS):
        if route.matches(exchange.request.scope)[0] is Match.PARTIAL:
            allowed |= route.methods or set()
    if allowed:
        listed = ", ".join(sorted(allowed))
        raise MethodNotAllowed(f"this URL supports {listed}", headers={"Allow": listed})
    raise NotFound(f"there is no such URL; see {own_base(exchange.request)}/metadata")


# Routes are matched from the top: what is asked most stands first.
_READ = Route(f"{BASE}/{{resource_type}}/{{resource_id}}", read, methods=["GET"])
_READ.path_regex = compile_path(f"{BASE}/{{resource_type}}/{{resource_id:fhir_id}}")[0]
_INTERACTIONS = [
    Route(f"{BASE}/metadata", metadata),
    *SEARCHES,
    *write_routes.ROUTES,
    Route(
        f"{BASE}/{{resource_type}}/{{resource_id}}/_history/{{version_id}}", vread, methods=["GET"]
    ),
]


def _reader(exchange: Exchange) -> Reader:
    filter_ = exchange.require("r")
    return Reader(exchange.database, exchange.caller, exchange.own_base, filter_)


def _audit_log(exchange: Exchange, letter: Letter) -> AuditLog:
    filter_ = exchange.require(letter)
    return AuditLog(exchange.database, exchange.caller, exchange.own_base, filter_)


async def _found(exchange: Exchange, version: Version) -> Response:
    if is_not_modified(exchange.request, version):
        return exchange.respond_version(304, version, b"")
    if exchange.resource_type == BINARY and binary.wants_native(exchange.request):
        return await binary.native(exchange, version)
    return exchange.respond_version(200, version, version.body or b"")
