"""Responses of DICOMweb: ready JSON bytes, streamed multipart bodies, files sent by the server.

Everything carries `nosniff`, `private` caching that varies by token, and for what a browser might
run a sandbox; DICOM objects are attachments (security.md B1, C10, D10).
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.media_types import DICOM_JSON

CHUNK_BYTES = 1 << 20
GZIP_LEVEL = 3
# Below this gzip costs more than it saves.
GZIP_THRESHOLD = 1400

Headers = Mapping[str, str]

# With an entity tag a client may keep a copy, and must ask each time whether it still holds.
REVALIDATE = {
    "Cache-Control": "private, no-cache",
    "Vary": "Authorization, Accept, Accept-Encoding",
}


def entity_tag(*what: object) -> str:
    """A strong entity tag over everything that decides what the bytes are."""
    return f'"{sha256(repr(what).encode()).hexdigest()[:32]}"'


def is_current(request: Request, etag: str) -> bool:
    """Whether If-None-Match names the tag (RFC 9110 13.1.2, weak comparison)."""
    header = request.headers.get("if-none-match")
    if not header:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags


def not_modified(headers: Headers) -> Response:
    """304, with the headers that the answer would have had (RFC 9110 15.4.5)."""
    return Response(status_code=304, headers={**SECURITY_HEADERS, **headers})


def wanted_range(request: Request, etag: str) -> str | None:
    """The Range header, unless If-Range names another representation (RFC 9110 13.1.5)."""
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip() != etag:
        return None
    return request.headers.get("range")


def warning_headers(warnings: tuple[str, ...] | list[str], agent: str) -> dict[str, str]:
    """A Warning header as PS3.18 8.3.4 and RFC 7234 5.5 form it."""
    if not warnings:
        return {}
    return {"Warning": ", ".join(f'299 {agent}: "{text}"' for text in warnings)}


def json_response(
    body: bytes, media_type: str = DICOM_JSON, headers: Headers | None = None, status: int = 200
) -> Response:
    """A body that is JSON already."""
    return Response(
        body, status, media_type=media_type, headers={**SECURITY_HEADERS, **(headers or {})}
    )


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether Accept-Encoding admits gzip."""
    for part in (accept_encoding or "").lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() in ("gzip", "*"):
            quality = parameters.replace(" ", "").removeprefix("q=")
            return quality not in ("0", "0.", "0.0", "0.00", "0.000")
    return False


def compress(body: bytes) -> bytes:
    """Gzip with a fixed time stamp, so that equal bodies are equal bytes."""
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


class FileResponse(Response):
    """One whole local file: by `http.response.pathsend` where the server has it, else by chunks."""

    def __init__(self, path: Path, size: int, media_type: str, headers: Headers) -> None:
        super().__init__(None, media_type=media_type, headers={**SECURITY_HEADERS, **headers})
        self.headers["Content-Length"] = str(size)
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
        elif "http.response.pathsend" in scope.get("extensions", {}):
            await send({"type": "http.response.pathsend", "path": str(self._path)})
        else:
            with self._path.open("rb", buffering=0) as file:
                async for chunk in in_thread(iter(lambda: file.read(CHUNK_BYTES), b"")):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def in_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Take the items of a blocking iterator in worker threads, one at a time."""
    end = object()
    try:
        while (chunk := await to_thread.run_sync(next, chunks, end)) is not end:
            assert isinstance(chunk, bytes)
            yield chunk
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


class _Primed:
    """Chunks of which the first was taken; closing it closes what they come from."""

    def __init__(self, first: bytes, chunks: AsyncIterator[bytes]) -> None:
        self._first: bytes | None = first
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._chunks)

    async def aclose(self) -> None:
        await _close(self._chunks)


async def primed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Take the first chunk now, so that what fails at once is an error answer."""
    return _Primed(await anext(chunks, b""), chunks)


async def _close(chunks: object) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


class _Streamed(StreamingResponse):
    """A body of many chunks, of which HEAD takes none."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await super().__call__(scope, receive, send)
            return
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send({"type": "http.response.body", "body": b""})
        await _close(self.body_iterator)


def streamed(
    chunks: AsyncIterator[bytes],
    content_type: str,
    headers: Headers | None = None,
    *,
    status: int = 200,
    length: int | None = None,
) -> Response:
    """A body of many chunks. `length`, where it is known, becomes Content-Length."""
    response = _Streamed(
        chunks,
        status,
        headers={**SECURITY_HEADERS, **(headers or {}), "Content-Type": content_type},
    )
    if length is not None:
        response.headers["Content-Length"] = str(length)
    return response
