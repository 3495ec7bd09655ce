"""Multipart messages: a push parser for bodies of any size, and the heads and tails of our own.

RFC 2046 5.1, RFC 2387 and PS3.18 8.7.1. The parser keeps one unfinished header block or one
delimiter's length of data and nothing else, so a 10 GB body costs no memory here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

from interop.errors import BadRequest, PayloadTooLarge

MAX_PARTS = 10_000
MAX_HEADER_BYTES = 16 << 10
# RFC 2046 5.1.1: at most 70 characters. Anything printable is taken, for senders who quote.
_BOUNDARY = re.compile(r"[!-~](?:[ -~]{0,68}[!-~])?")
_HEADERS_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part starts; `headers` has lower-case names."""

    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """Some bytes of the part that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part that began last is complete."""


Event = PartBegin | PartData | PartEnd


class MultipartParser:
    """Turns chunks of a multipart body into events. Raises BadRequest and PayloadTooLarge."""

    def __init__(self, boundary: str, *, max_parts: int = MAX_PARTS) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise BadRequest(
                "the boundary of the multipart body must be 1 to 70 printable characters"
            )
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The first delimiter stands at the very start: it has no line break of its own.
        self._buffer = bytearray(b"\r\n")
        self._max_parts = max_parts
        self._parts = 0
        self._state = "preamble"

    @property
    def is_finished(self) -> bool:
        """Whether the closing delimiter was seen; what follows is an epilogue and ignored."""
        return self._state == "epilogue"

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that `chunk` completes. Must be run to its end."""
        if self._state == "epilogue":
            return
        self._buffer += chunk
        while True:
            if self._state == "headers":
                begin = self._take_headers()
                if begin is None:
                    return
                yield begin
                self._state = "data"
            data, verdict = self._take_data()
            if data and self._state == "data":
                yield PartData(data)
            if verdict == "more":
                return
            if self._state == "data":
                yield PartEnd()
            if verdict == "close":
                self._state = "epilogue"
                self._buffer.clear()
                return
            self._state = "headers"

    def close(self) -> None:
        """The body has ended: raise BadRequest unless the closing delimiter was seen."""
        if self._state == "preamble":
            raise BadRequest(
                f"the multipart body does not contain its boundary {self._delimiter[4:].decode()!r}"
            )
        if self._state != "epilogue":
            raise BadRequest(
                f"the multipart body ends inside part {self._parts}: the closing delimiter "
                f"'{self._delimiter[2:].decode()}--' is missing"
            )

    def _take_headers(self) -> PartBegin | None:
        """The header block; the buffer begins with the line break of the delimiter's line."""
        end = self._buffer.find(_HEADERS_END, 0, MAX_HEADER_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_HEADER_BYTES:
                raise BadRequest(
                    f"part {self._parts + 1} has more than {MAX_HEADER_BYTES} bytes of headers"
                )
            return None
        if self._parts >= self._max_parts:
            raise PayloadTooLarge(
                f"the request has more than {self._max_parts} parts; send the rest in another one"
            )
        self._parts += 1
        headers = _parse_headers(bytes(self._buffer[:end]))
        del self._buffer[: end + len(_HEADERS_END)]
        return PartBegin(headers)

    def _take_data(self) -> tuple[bytes, str]:
        """Content up to the next delimiter, and what follows it: 'more', 'close' or 'part'."""
        search_from = 0
        while True:
            at = self._buffer.find(self._delimiter, search_from)
            if at < 0:
                keep = len(self._delimiter) - 1
                return self._split(max(len(self._buffer) - keep, 0)), "more"
            verdict, rest = self._after(at + len(self._delimiter))
            if verdict == "more":
                return self._split(at), "more"
            if verdict != "data":
                data = bytes(self._buffer[:at])
                del self._buffer[:rest]
                return data, verdict
            # Content that only begins like the delimiter: a line such as "--boundaryX".
            search_from = at + 2

    def _after(self, at: int) -> tuple[str, int]:
        """Judge the rest of a delimiter's line: closing, a part, content, or more bytes needed."""
        tail = bytes(self._buffer[at : at + 256])
        if tail.startswith(b"--"):
            return "close", at
        line = tail.lstrip(b" \t")
        padding = len(tail) - len(line)
        if line.startswith(b"\r\n"):
            return "part", at + padding
        if len(tail) < 256 and (not line or line == b"\r" or tail == b"-"):
            return "more", at
        return "data", at

    def _split(self, at: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:at])
        del self._buffer[:at]
        return data


def _parse_headers(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in block.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and name.strip():
            headers[name.strip().lower()] = value.strip()
    return headers


class MultipartWriter:
    """Heads and tail of a multipart/related response around contents that are streamed."""

    def __init__(self, part_type: str, boundary: str | None = None) -> None:
        self.boundary = boundary or uuid4().hex
        self.content_type = f'multipart/related; type="{part_type}"; boundary={self.boundary}'
        self._first = True

    def head(self, content_type: str, location: str | None = None) -> bytes:
        """What stands before the content of the next part."""
        start = "" if self._first else "\r\n"
        self._first = False
        at = f"\r\nContent-Location: {location}" if location else ""
        return f"{start}--{self.boundary}\r\nContent-Type: {content_type}{at}\r\n\r\n".encode()

    def tail(self) -> bytes:
        """What stands after the content of the last part."""
        return f"\r\n--{self.boundary}--\r\n".encode()
