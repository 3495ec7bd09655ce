"""One entry of a Bundle as a request of its own, through the very routes that single requests take.

So each entry is authorized, judged, audited and answered as it would be alone. The rate limits
have been charged for all entries together before (interop.access.gate.charge).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Message, Scope

from interop.errors import BadRequest
from interop.fhir import json
from interop.fhir.bundling.entries import Entry
from interop.fhir.exchange import BASE
from interop.fhir.lens import JsonObject
from interop.fhir.negotiation import MEDIA_TYPE
from interop.fhir.versions import http_date, instant
from storage.database import Database

# What of the outer request holds for each entry.
_KEPT: Final = frozenset({b"authorization", b"host", b"user-agent", b"emergency-access"})
_HEADERS: Final = {
    "ifNoneMatch": b"if-none-match",
    "ifModifiedSince": b"if-modified-since",
    "ifMatch": b"if-match",
    "ifNoneExist": b"if-none-exist",
}
_OUTCOME = b'{"resourceType":"OperationOutcome"'


@dataclass(slots=True)
class Reply:
    """What a request was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_error(self) -> bool:
        return self.status >= HTTPStatus.BAD_REQUEST

    def entry(self) -> JsonObject:
        """The answer as an entry of a response Bundle; resources stay the bytes they are."""
        response: JsonObject = {"status": status_line(self.status)}
        for name, header in (("location", "location"), ("etag", "etag")):
            if header in self.headers:
                response[name] = self.headers[header]
        if "last-modified" in self.headers:
            moment = parsedate_to_datetime(self.headers["last-modified"])
            response["lastModified"] = instant(moment)
        if not self.body:
            return {"response": response}
        if self.is_error or self.body.startswith(_OUTCOME):
            return {"response": {**response, "outcome": orjson.Fragment(self.body)}}
        return {"resource": orjson.Fragment(self.body), "response": response}


def status_line(status: int) -> str:
    """A status as Bundle.entry.response has it: "201 Created"."""
    return f"{status} {HTTPStatus(status).phrase}"


async def dispatch(request: Request, entry: Entry, database: Database | None = None) -> Reply:
    """Have the application answer an entry. With a `database`, what is read is read there."""
    scope, body = _scope(request, entry)
    if database is not None:
        scope["state"]["database"] = database
    # The router of the application: its middleware has seen the outer request.
    return await answer(request.app, scope, body)


async def answer(app: Starlette, scope: Scope, body: bytes) -> Reply:
    """What the routes of an application answer to a request."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app.router(scope, receive, send)
    start = next(message for message in messages if message["type"] == "http.response.start")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    content = b"".join(message.get("body", b"") for message in messages)
    return Reply(start["status"], headers, content)


def _scope(request: Request, entry: Entry) -> tuple[Scope, bytes]:
    content_type, body = _body(entry)
    base = BASE.format(tenant=request.path_params["tenant"])
    headers = [pair for pair in request.scope["headers"] if pair[0] in _KEPT]
    headers += [
        (b"accept", MEDIA_TYPE.encode()),
        (b"content-type", content_type.encode()),
        (b"x-request-id", request.state.request_id.encode()),
        (b"prefer", preferences(request).encode()),
    ]
    for name, value in entry.conditions.items():
        given = _http_time(value) if name == "ifModifiedSince" else value
        headers.append((_HEADERS[name], given.encode("utf-8", "replace")))
    # The form of the answer is the Bundle's.
    pairs = parse_qsl(entry.query, keep_blank_values=True)
    query = urlencode([pair for pair in pairs if pair[0] not in ("_format", "_pretty")])
    path = f"{base}/{entry.path}"
    scope = {
        key: value
        for key, value in request.scope.items()
        if key not in ("endpoint", "route", "path_params", "router")
    }
    scope |= {
        "method": entry.method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "state": _inherited(request),
    }
    return scope, body


def _inherited(request: Request) -> dict[str, Any]:
    """A request that is done later has no token any more, but what was behind it."""
    claims = getattr(request.state, "claims", None)
    return {} if claims is None else {"claims": claims}


def _http_time(moment: str) -> str:
    """An instant as the header has it."""
    try:
        return http_date(datetime.fromisoformat(moment))
    except ValueError:
        raise BadRequest(f"ifModifiedSince {moment[:32]!r} is no instant") from None


def preferences(request: Request) -> str:
    """The preferences of the Bundle for its entries: nothing is returned that nobody asked for."""
    given = ", ".join(request.headers.getlist("prefer"))
    kept = [part.strip() for part in given.split(",") if not part.strip().startswith("respond-")]
    if "return=" not in given:
        kept.append("return=minimal")
    return ", ".join(part for part in kept if part)


def _body(entry: Entry) -> tuple[str, bytes]:
    """(media type, body) of an entry's request."""
    resource = entry.resource
    if resource is None:
        return MEDIA_TYPE, b""
    if entry.method == "PATCH" and resource.get("resourceType") == "Binary":
        return patch_in_binary(entry, resource)
    return MEDIA_TYPE, json.dumps(resource)


def patch_in_binary(entry: Entry, binary: dict[str, Any]) -> tuple[str, bytes]:
    """http.html#patch: in a Bundle, a patch that is no FHIR resource comes in a Binary."""
    try:
        data = base64.b64decode(str(binary.get("data", "")), validate=True)
    except binascii.Error:
        raise BadRequest(
            "Binary.data is no base64", expression=f"{entry.place}.resource.data"
        ) from None
    return str(binary.get("contentType", "")).partition(";")[0].strip().lower(), data
