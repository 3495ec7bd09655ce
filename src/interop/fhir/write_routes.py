"""The interactions that write: create, update, patch, delete, and each on a condition.

FHIR R4 http.html#create, #update, #patch, #delete; what they do is in `writing` and `conditional`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interop.errors import BadRequest, MethodNotAllowed, UnsupportedMediaType
from interop.fhir import conditional, gate, json
from interop.fhir.audit_log import RESOURCE_TYPE as AUDIT_EVENT
from interop.fhir.exchange import BASE, Exchange, endpoint
from interop.fhir.lens import JsonObject
from interop.fhir.negotiation import (
    FORM_PARAMETERS,
    json_body,
    limited_body,
    precondition,
    preference,
)
from interop.fhir.outcomes import informational
from interop.fhir.patch import apply_fhirpath_patch, apply_json_patch
from interop.fhir.versions import Version
from interop.fhir.writing import Change, Writer, WriteSession, require_id

JSON_PATCH = "application/json-patch+json"
PARAMETERS = "Parameters"


@endpoint
async def create(exchange: Exchange) -> Response:
    refuse_audit_event(exchange)
    exchange.require("c")
    criteria = _none_exist(exchange)
    body = await json_body(exchange.request)

    def write() -> Version:
        resource = _accepted(body, exchange.resource_type)
        if criteria is None:
            return _writer(exchange).create(resource)
        return _writer(exchange).run(
            lambda session: conditional.create_unless(session, resource, criteria)
        )

    return written(exchange, await asyncio.to_thread(write))


@endpoint
async def update(exchange: Exchange) -> Response:
    refuse_audit_event(exchange)
    exchange.require("u")
    exchange.refuse_parameters()
    exchange.require_valid_id()
    body = await json_body(exchange.request)
    condition = precondition(exchange.request)

    def write() -> Version:
        resource = _accepted(body, exchange.resource_type)
        require_id(resource, exchange.resource_type, exchange.resource_id)
        return _writer(exchange).update(exchange.resource_id, resource, condition)

    return written(exchange, await asyncio.to_thread(write))


@endpoint
async def conditional_update(exchange: Exchange) -> Response:
    refuse_audit_event(exchange)
    exchange.require("u")
    body = await json_body(exchange.request)
    condition = precondition(exchange.request)
    criteria = exchange.request.url.query

    def write() -> Version:
        resource = _accepted(body, exchange.resource_type)
        return _writer(exchange).run(
            lambda session: conditional.update_where(session, resource, criteria, condition)
        )

    return written(exchange, await asyncio.to_thread(write))


@endpoint
async def patch(exchange: Exchange) -> Response:
    refuse_audit_event(exchange)
    exchange.require("u")
    exchange.refuse_parameters()
    change = await _change(exchange.request)
    condition = precondition(exchange.request)
    key = (exchange.resource_type, exchange.resource_id)
    return await _run(exchange, lambda session: session.patch(*key, change, condition))


@endpoint
async def conditional_patch(exchange: Exchange) -> Response:
    refuse_audit_event(exchange)
    exchange.require("u")
    change = await _change(exchange.request)
    condition = precondition(exchange.request)
    about = (exchange.resource_type, exchange.request.url.query)
    return await _run(
        exchange, lambda session: conditional.patch_where(session, *about, change, condition)
    )


@endpoint
async def delete(exchange: Exchange) -> Response:
    refuse_audit_event(exchange)
    exchange.require("d")
    exchange.refuse_parameters()
    version = await asyncio.to_thread(
        _writer(exchange).delete,
        exchange.resource_type,
        exchange.resource_id,
        precondition(exchange.request),
    )
    return _deleted(exchange, [version] if version else [])


@endpoint
async def conditional_delete(exchange: Exchange) -> Response:
    refuse_audit_event(exchange)
    exchange.require("d")
    condition = precondition(exchange.request)
    about = (exchange.resource_type, exchange.request.url.query)
    versions = await asyncio.to_thread(
        _writer(exchange).run,
        lambda session: conditional.delete_where(session, *about, condition),
    )
    return _deleted(exchange, versions)


def _none_exist(exchange: Exchange) -> str | None:
    """The criteria of a conditional create.

    They belong into the header. fhirpy and others send them as the query, where leaving them out
    would make a duplicate each time.
    """
    named = exchange.request.headers.get("if-none-exist")
    query = exchange.request.query_params.multi_items()
    asked = urlencode([pair for pair in query if pair[0] not in FORM_PARAMETERS])
    if named is not None and asked:
        raise BadRequest("criteria are in If-None-Exist and in the query; send them once")
    return asked or named


def refuse_audit_event(exchange: Exchange) -> None:
    """The server alone makes audit events, and none is ever changed (docs/audit.md)."""
    if exchange.resource_type == AUDIT_EVENT:
        raise MethodNotAllowed(
            "AuditEvent is made by the server and never changed; supported: read, search",
            headers={"Allow": "GET"},
        )


def patch_of(media_type: str, body: bytes) -> Change:
    """What a patch of a media type does to a resource. Raises UnsupportedMediaType."""
    if media_type == JSON_PATCH:
        # The reader takes objects only, which resources are; a JSON Patch is an array.
        members = json.loads(b'{"operations":' + body + b"}")
        operations = members.pop("operations")
        if members:
            raise BadRequest("a JSON Patch is one array of operations (RFC 6902)")
        return lambda resource: apply_json_patch(resource, operations)
    parameters = json.loads(body)
    gate.check(parameters, PARAMETERS)
    return lambda resource: apply_fhirpath_patch(resource, parameters)


async def _change(request: Request) -> Change:
    """The patch in a request's body."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == JSON_PATCH:
        body = await limited_body(request)
    else:
        try:
            body = await json_body(request)
        except UnsupportedMediaType as error:
            raise UnsupportedMediaType(
                f"{error.diagnostics} (a FHIRPath Patch), {JSON_PATCH}"
            ) from None
    return await asyncio.to_thread(patch_of, media_type, body)


async def _run(exchange: Exchange, work: Callable[[WriteSession], Version]) -> Response:
    return written(exchange, await asyncio.to_thread(_writer(exchange).run, work))


def _writer(exchange: Exchange) -> Writer:
    return Writer(exchange.database, exchange.caller, exchange.own_base)


def _accepted(body: bytes, resource_type: str) -> JsonObject:
    """The resource of a body, through the gate."""
    resource = json.loads(body)
    gate.check(resource, resource_type)
    return resource


def written(exchange: Exchange, version: Version) -> Response:
    """The answer to a write: as much of the version as Prefer asks for."""
    status = 201 if version.is_new else 200
    wanted = preference(exchange.request, "return")
    return exchange.respond_version(status, version, exchange.preferred_body(wanted, version))


def _deleted(exchange: Exchange, versions: list[Version]) -> Response:
    status, body = 204, b""
    if preference(exchange.request, "return") == "OperationOutcome":
        references = ", ".join(version.reference for version in versions) or "nothing"
        status, body = 200, informational(f"{references} was deleted")
    if len(versions) == 1:
        return exchange.respond_version(status, versions[0], body)
    return exchange.respond(status, body)


_TYPE = f"{BASE}/{{resource_type}}"
_ID = f"{_TYPE}/{{resource_id}}"

ROUTES = [
    Route(_TYPE, create, methods=["POST"]),
    Route(_ID, update, methods=["PUT"]),
    Route(_ID, patch, methods=["PATCH"]),
    Route(_ID, delete, methods=["DELETE"]),
    Route(_TYPE, conditional_update, methods=["PUT"]),
    Route(_TYPE, conditional_patch, methods=["PATCH"]),
    Route(_TYPE, conditional_delete, methods=["DELETE"]),
]
