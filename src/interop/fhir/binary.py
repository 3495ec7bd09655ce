"""Binary in its own form: the bytes themselves instead of a resource (FHIR R4 binary.html).

What somebody stored is never shown as a page of this server: it is sent to be saved, never to be
guessed at, and without the right to run anything (security.md C10).
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interop.errors import BadRequest, NotAcceptable, PayloadTooLarge
from interop.fhir import gate, json, write_routes
from interop.fhir.exchange import BASE, BINARY, Exchange, endpoint
from interop.fhir.lens import JsonObject
from interop.fhir.negotiation import (
    ACCEPTED,
    MAX_BODY_BYTES,
    MEDIA_TYPE,
    QUICK_BYTES,
    XML_MEDIA_TYPE,
    limited_body,
    precondition,
)
from interop.fhir.versions import Version
from interop.fhir.writing import Writer

SECURITY_CONTEXT = "X-Security-Context"
UNKNOWN_TYPE = "application/octet-stream"
# A resource with these bytes as base64 must be one that could be sent as JSON.
MAX_RAW_BYTES = MAX_BODY_BYTES * 3 // 4 - 4096
# Pictures without scripts; SVG has them.
_PICTURES = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"))
_SANDBOX = "sandbox; default-src 'none'; frame-ancestors 'none'"
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:\s*;[\x20-\x7e]*)?")


def wants_native(request: Request) -> bool:
    """Whether the bytes are asked for: unless a form of FHIR is named, they are."""
    if "_format" in request.query_params:
        return False
    accept = request.headers.get("accept", "")
    return not any(_name(part) in ACCEPTED for part in accept.split(","))


async def native(exchange: Exchange, version: Version) -> Response:
    """The bytes of a Binary with their own media type. Raises NotAcceptable."""
    body = version.body or b"{}"
    if len(body) <= QUICK_BYTES:
        resource, content = _read(body)
    else:
        resource, content = await asyncio.to_thread(_read, body)
    declared = str(resource.get("contentType", ""))
    media_type = declared if _TYPE.fullmatch(declared) else UNKNOWN_TYPE
    _require_acceptable(exchange.request, media_type)
    headers = {
        **exchange.headers_of(version),
        "Content-Disposition": "attachment",
        "Accept-Ranges": "none",
        # Starlette adds a charset to text where this stands in `media_type`.
        "Content-Type": media_type,
    }
    if _name(media_type) not in _PICTURES:
        headers["Content-Security-Policy"] = _SANDBOX
    context = resource.get("securityContext", {}).get("reference", "")
    if context and context.isascii() and context.isprintable():
        headers[SECURITY_CONTEXT] = context
    return Response(content, headers=headers)


def _read(body: bytes) -> tuple[JsonObject, bytes]:
    resource = json.loads(body)
    return resource, base64.b64decode(resource.get("data", ""))


def _require_acceptable(request: Request, media_type: str) -> None:
    accept = request.headers.get("accept", "").strip()
    name = _name(media_type)
    ranges = {name, name.partition("/")[0] + "/*", "*/*", "*"}
    if accept and not ranges & {_name(part) for part in accept.split(",")}:
        raise NotAcceptable(
            f"Accept: {accept[:64]!r}; this Binary is {media_type[:64]}; accepted besides: "
            f"{MEDIA_TYPE}, {XML_MEDIA_TYPE}"
        )


def _name(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


# -- writing ----------------------------------------------------------------------------------


async def create(request: Request) -> Response:
    """POST of a resource, or of the bytes themselves."""
    request.path_params["resource_type"] = BINARY
    return await (write_routes.create(request) if _is_fhir(request) else _create(request))


async def update(request: Request) -> Response:
    """PUT of a resource, or of the bytes themselves."""
    request.path_params["resource_type"] = BINARY
    return await (write_routes.update(request) if _is_fhir(request) else _update(request))


@endpoint
async def _create(exchange: Exchange) -> Response:
    exchange.require("c")
    exchange.refuse_parameters()
    resource = await _from_bytes(exchange.request)
    return write_routes.written(exchange, await asyncio.to_thread(_created, exchange, resource))


@endpoint
async def _update(exchange: Exchange) -> Response:
    exchange.require("u")
    exchange.refuse_parameters()
    exchange.require_valid_id()
    resource = {**await _from_bytes(exchange.request), "id": exchange.resource_id}
    return write_routes.written(exchange, await asyncio.to_thread(_updated, exchange, resource))


def _created(exchange: Exchange, resource: JsonObject) -> Version:
    gate.check(resource, BINARY)
    return _writer(exchange).create(resource)


def _updated(exchange: Exchange, resource: JsonObject) -> Version:
    gate.check(resource, BINARY)
    condition = precondition(exchange.request)
    return _writer(exchange).update(exchange.resource_id, resource, condition)


def _writer(exchange: Exchange) -> Writer:
    return Writer(exchange.database, exchange.caller, exchange.own_base)


def _is_fhir(request: Request) -> bool:
    """Whether the body is a resource; a body without a media type is for FHIR to refuse."""
    given = _name(request.headers.get("content-type", ""))
    return not given or given in ACCEPTED


async def _from_bytes(request: Request) -> JsonObject:
    """The Binary that a body is the content of. Raises BadRequest and PayloadTooLarge."""
    content = await limited_body(request)
    if len(content) > MAX_RAW_BYTES:
        raise PayloadTooLarge(f"a Binary may have {MAX_RAW_BYTES} bytes")
    if not content:
        raise BadRequest("the body is empty; send the content, or a Binary resource as FHIR")
    data = await asyncio.to_thread(base64.b64encode, content)
    resource: dict[str, Any] = {
        "resourceType": BINARY,
        "contentType": request.headers["content-type"].strip(),
        "data": data.decode(),
    }
    if context := request.headers.get(SECURITY_CONTEXT):
        resource["securityContext"] = {"reference": context}
    return resource


ROUTES = [
    Route(f"{BASE}/{BINARY}", create, methods=["POST"]),
    Route(f"{BASE}/{BINARY}/{{resource_id}}", update, methods=["PUT"]),
]
