"""Media types, conditional headers and preferences of a FHIR request (FHIR R4 http.html).

JSON and XML, by `_format` or else by Accept with its quality values; what asks for another form
gets 406, what sends another gets 415.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from starlette.requests import Request

from interop.errors import BadRequest, NotAcceptable, PayloadTooLarge, UnsupportedMediaType
from interop.fhir import json, xml
from interop.fhir.subsetting import Subset, parse_subset
from interop.fhir.versions import Version, etag
from interop.fhir.writing import Precondition

MEDIA_TYPE = "application/fhir+json"
XML_MEDIA_TYPE = "application/fhir+xml"
JSON_TYPES = (MEDIA_TYPE, "application/json", "application/json+fhir", "text/json")
XML_TYPES = (XML_MEDIA_TYPE, "application/xml", "application/xml+fhir", "text/xml")
ACCEPTED = (*JSON_TYPES, *XML_TYPES)
# Parameters about the form of an answer, of whatever interaction (http.html#parameters).
FORM_PARAMETERS = ("_format", "_pretty", "_summary", "_elements")
MAX_BODY_BYTES = 10 * 1024 * 1024
# Above it, a body is converted in a thread.
QUICK_BYTES = 16 * 1024

_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_VERSIONS = ("4.0", "4.0.1")


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is to look."""

    is_xml: bool = False
    is_pretty: bool = False
    subset: Subset | None = None

    @property
    def media_type(self) -> str:
        return XML_MEDIA_TYPE if self.is_xml else MEDIA_TYPE

    def written(self, body: bytes, *, is_page: bool) -> bytes:
        """An answer that was made as JSON, in this form."""
        resource = json.loads(body)
        if self.subset is not None and self.subset.cuts:
            resource = self.subset.of_page(resource) if is_page else self.subset.of(resource)
        if self.is_xml:
            return xml.to_xml(resource, pretty=self.is_pretty)
        return json.pretty(resource) if self.is_pretty else json.dumps(resource)


PLAIN = Form()
_PLAIN_ACCEPTS = frozenset((None, "", "*/*", MEDIA_TYPE, "application/json"))


def answer_form(request: Request) -> Form:
    """The form that the client asks for. Raises NotAcceptable.

    `PLAIN`, the bytes as they are stored, wherever that will do. Parts of resources are for
    `with_subset` to read.
    """
    accept = request.headers.get("accept")
    if accept in _PLAIN_ACCEPTS and not request.scope["query_string"]:
        return PLAIN
    return form_of(accept, request.query_params.multi_items())


def form_of(accept: str | None, parameters: Sequence[tuple[str, str]]) -> Form:
    """The same for a request's Accept and parameters."""
    given = dict(parameters)
    wanted = given.get("_format")
    is_xml = _is_xml_preferred(accept) if wanted is None else _is_xml_named(wanted)
    pretty = given.get("_pretty", "false")
    if pretty not in ("true", "false"):
        raise BadRequest(f"_pretty={pretty[:32]!r}; accepted: true, false")
    return Form(is_xml, pretty == "true") if is_xml or pretty == "true" else PLAIN


def with_subset(form: Form, parameters: Sequence[tuple[str, str]]) -> Form:
    """The form with the part of resources that `_summary` and `_elements` ask for."""
    if not any(name in ("_summary", "_elements") for name, _ in parameters):
        return form
    return Form(form.is_xml, form.is_pretty, parse_subset(parameters))


def _is_xml_named(wanted: str) -> bool:
    """http.html#mime-type: json, xml or a media type, whose + is often read as a space."""
    name = wanted.partition(";")[0].strip().lower().replace(" ", "+")
    if name in ("json", *JSON_TYPES) or name in ("*/*", ""):
        return False
    if name in ("xml", *XML_TYPES):
        return True
    raise NotAcceptable(
        f"_format={wanted[:32]!r}; accepted: json, xml, {MEDIA_TYPE}, {XML_MEDIA_TYPE}"
    )


def _is_xml_preferred(accept: str | None) -> bool:
    """RFC 9110 12.5.1: the most specific range decides, then the higher quality; JSON at a tie."""
    if accept is None or not accept.strip():
        return False
    ranges = [found for part in accept.split(",") if (found := _media_range(part))]
    as_json, as_xml = _quality(ranges, JSON_TYPES), _quality(ranges, XML_TYPES)
    if not as_json and not as_xml:
        raise NotAcceptable(
            f"Accept: {accept[:64]!r}; accepted media types: {MEDIA_TYPE}, {XML_MEDIA_TYPE}, "
            "application/json, application/xml, with fhirVersion=4.0 where it is given"
        )
    return as_xml > as_json


def _media_range(part: str) -> tuple[str, float] | None:
    """The type and quality of one range; None for what this server could never send."""
    name, *options = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for option in options:
        key, _, value = option.partition("=")
        if key.strip() == "q":
            quality = float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
        elif key.strip() == "fhirversion" and value.strip().strip('"') not in _VERSIONS:
            return None
    return name.replace(" ", "+"), quality


def _quality(ranges: Sequence[tuple[str, float]], types: Sequence[str]) -> float:
    exact = [quality for name, quality in ranges if name in types]
    if exact:
        return max(exact)
    broader = {name.partition("/")[0] + "/*" for name in types}
    for names in (broader, {"*/*", "*"}):
        found = [quality for name, quality in ranges if name in names]
        if found:
            return max(found)
    return 0.0


async def json_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The resource of a write as JSON, whichever form it came in, of `limit` bytes at most.

    Raises UnsupportedMediaType, PayloadTooLarge and MalformedXml.
    """
    given = request.headers.get("content-type", "")
    media_type, _, options = given.partition(";")
    media_type = media_type.strip().lower()
    found = re.search(r"fhirversion\s*=\s*\"?([^;\"\s]*)", options, re.IGNORECASE)
    if media_type not in ACCEPTED or (found and found[1] not in _VERSIONS):
        raise UnsupportedMediaType(
            f"Content-Type {given[:64]!r}; accepted: {MEDIA_TYPE}, {XML_MEDIA_TYPE}"
        )
    body = await limited_body(request, limit)
    if media_type in JSON_TYPES:
        return body
    if len(body) <= QUICK_BYTES:
        return _converted(body)
    return await asyncio.to_thread(_converted, body)


def _converted(body: bytes) -> bytes:
    return json.dumps(xml.from_xml(body))


async def limited_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The body, read no further than the limit."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(f"the body may have {limit} bytes at most")
        chunks.append(chunk)
    return b"".join(chunks)


def precondition(request: Request) -> Precondition:
    """If-Match and If-None-Match of a write."""
    return Precondition.of(request.headers.get("if-match"), request.headers.get("if-none-match"))


def is_not_modified(request: Request, version: Version) -> bool:
    """Whether the client has this version already (If-None-Match, If-Modified-Since)."""
    tags = request.headers.get("if-none-match")
    if tags is not None:
        known = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
        return "*" in known or etag(version.version).removeprefix("W/") in known
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        moment = parsedate_to_datetime(since)
    except (TypeError, ValueError):
        return False  # RFC 9110 13.1.3: a date that is not one is ignored
    return version.last_updated.replace(microsecond=0) <= _aware(moment)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def preference(request: Request, name: str) -> str | None:
    """The value of a Prefer header's preference (RFC 7240): return, handling."""
    for header in request.headers.getlist("prefer"):
        for part in re.split(r"[,;]", header):
            key, _, value = part.strip().partition("=")
            if key.strip().lower() == name:
                return value.strip().strip('"')
    return None
