"""Media types, conditional headers and preferences of a FHIR request (FHIR R4 http.html).

JSON is the only format: what asks for another gets 406, what sends another gets 415.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from starlette.requests import Request

from interop.errors import BadRequest, NotAcceptable, PayloadTooLarge, UnsupportedMediaType
from interop.fhir.versions import Version, etag
from interop.fhir.writing import Precondition

MEDIA_TYPE = "application/fhir+json"
ACCEPTED = (MEDIA_TYPE, "application/json", "application/json+fhir", "text/json")
MAX_BODY_BYTES = 10 * 1024 * 1024

_ETAG = re.compile(r'(?:W/)?"([0-9]{1,18})"')
_QUALITY_ZERO = re.compile(r";\s*q=0(?:\.0*)?\s*$")


def require_json_answer(request: Request) -> None:
    """Raise NotAcceptable unless the client takes JSON; `_format` overrides Accept."""
    wanted = request.query_params.get("_format")
    if wanted is None:
        wanted = request.headers.get("accept", "*/*")
    elif "/" not in wanted and wanted != "json":
        raise NotAcceptable(f"_format={wanted[:32]!r}; accepted: json, {MEDIA_TYPE}")
    ranges = [part for part in wanted.split(",") if not _QUALITY_ZERO.search(part)]
    names = {part.partition(";")[0].strip().lower().replace(" ", "+") for part in ranges}
    if not names & {*ACCEPTED, "*/*", "application/*", "json", ""}:
        raise NotAcceptable(f"accepted media types: {MEDIA_TYPE}, application/json")


async def json_body(request: Request) -> bytes:
    """The body of a write. Raises UnsupportedMediaType and PayloadTooLarge."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ACCEPTED:
        raise UnsupportedMediaType(f"Content-Type {media_type[:64]!r}; accepted: {MEDIA_TYPE}")
    return await limited_body(request)


async def limited_body(request: Request) -> bytes:
    """The body, read no further than the limit."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"a resource may have {MAX_BODY_BYTES} bytes at most")
        chunks.append(chunk)
    return b"".join(chunks)


def precondition(request: Request) -> Precondition:
    """If-Match and If-None-Match of a write."""
    must_be_new = False
    if (none_match := request.headers.get("if-none-match")) is not None:
        if none_match.strip() != "*":
            raise BadRequest(f"If-None-Match: {none_match[:64]!r} on a write; accepted: *")
        must_be_new = True
    if (match := request.headers.get("if-match")) is None:
        return Precondition(must_be_new=must_be_new)
    found = _ETAG.fullmatch(match.strip())
    if found is None:
        raise BadRequest(f'If-Match: {match[:64]!r}; expected W/"<version>" as ETag gave it')
    return Precondition(int(found[1]), must_be_new)


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
