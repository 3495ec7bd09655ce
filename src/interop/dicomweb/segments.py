"""Bodies put together from ready bytes and byte ranges of stored objects, in bounded memory.

A multipart answer of a thousand instances is a list of heads and ranges; its length is known before
the first byte is read. What the page cache of a local store holds is read at once, everything else
in worker threads, in chunks of a megabyte. Nothing is sent before the first chunk was read, so a
missing object is still an error answer; one that fails later ends the connection.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from anyio import to_thread
from starlette.responses import Response

from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.responses import CHUNK_BYTES, Headers, primed, streamed
from storage.objects import ObjectNotFound, ObjectStore

# Small neighbours are joined up to this size: a send costs more than a copy.
JOIN_BYTES = 256 << 10
# A body up to this size is sent in one piece: each piece costs a passage into the server.
WHOLE_BYTES = 4 << 20
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


@dataclass(frozen=True, slots=True)
class ObjectRange:
    """Some bytes of a stored object."""

    key: str
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


class Converted(Protocol):
    """Bytes that are made from those of a stored object while they are sent."""

    def __len__(self) -> int: ...
    def read(self, objects: ObjectStore) -> AsyncIterator[bytes]: ...


Segment = bytes | ObjectRange | Converted


class ShortObject(Exception):
    """A stored object has fewer bytes than its row says."""

    def __init__(self, wanted: ObjectRange, found: int) -> None:
        super().__init__(
            f"object {wanted.key} gave {found} of {wanted.length} bytes from {wanted.offset}"
        )


async def chunks_of(objects: ObjectStore, segments: Sequence[Segment]) -> AsyncIterator[bytes]:
    """Read the segments one after the other; small neighbours are joined."""
    pending: list[bytes] = []
    size = 0
    for segment in segments:
        if isinstance(segment, bytes):
            pending.append(segment)
            size += len(segment)
        else:
            pieces = (
                read_range(objects, segment)
                if isinstance(segment, ObjectRange)
                else segment.read(objects)
            )
            async for piece in pieces:
                if len(piece) >= JOIN_BYTES:
                    # Not worth a copy: what stands before it goes first.
                    if pending:
                        yield b"".join(pending)
                    yield piece
                else:
                    pending.append(piece)
                    size += len(piece)
                    if size < JOIN_BYTES:
                        continue
                    yield b"".join(pending)
                pending.clear()
                size = 0
    if pending:
        yield b"".join(pending)


async def read_range(objects: ObjectStore, wanted: ObjectRange) -> AsyncIterator[bytes]:
    """A range in pieces of a megabyte at most. Raises ShortObject and ObjectNotFound."""
    path = objects.local_path(wanted.key)
    if path is not None:
        async for piece in _local(path, wanted):
            yield piece
        return
    if wanted.length <= CHUNK_BYTES:
        found = await to_thread.run_sync(
            objects.get_range, wanted.key, wanted.offset, wanted.length
        )
        _require(wanted, len(found))
        yield found
        return
    pieces = await to_thread.run_sync(
        objects.open_range, wanted.key, wanted.offset, wanted.length, CHUNK_BYTES
    )
    size = 0
    while piece := await to_thread.run_sync(next, pieces, b""):
        size += len(piece)
        yield piece
    _require(wanted, size)


async def _local(path: Path, wanted: ObjectRange) -> AsyncIterator[bytes]:
    at, end = wanted.offset, wanted.offset + wanted.length
    with _opened(path, wanted.key) as file:
        while at < end:
            size = min(CHUNK_BYTES, end - at)
            if is_cached(file, at, size):
                piece = os.pread(file, size, at)
            else:
                piece = await to_thread.run_sync(os.pread, file, size, at)
            if not piece:
                raise ShortObject(wanted, at - wanted.offset)
            at += len(piece)
            yield piece


@contextmanager
def _opened(path: Path, key: str) -> Iterator[int]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Deleted since the store said where it is.
        raise ObjectNotFound(f"no object has key {key}") from None
    try:
        yield file
    finally:
        os.close(file)


def is_cached(file: int, offset: int, size: int) -> bool:
    """Whether a read would not wait for the disk, judged by its first and its last byte."""
    if not _NOWAIT or size < 1:
        return False
    probe = bytearray(1)
    try:
        return all(os.preadv(file, [probe], at, _NOWAIT) == 1 for at in (offset, offset + size - 1))
    except OSError:
        # EAGAIN: not in memory. EOPNOTSUPP: a file system that cannot say.
        return False


def _require(wanted: ObjectRange, found: int) -> None:
    if found != wanted.length:
        raise ShortObject(wanted, found)


async def segments_response(
    objects: ObjectStore,
    segments: Sequence[Segment],
    content_type: str,
    headers: Headers | None = None,
    *,
    status: int = 200,
) -> Response:
    """Serve the segments as one body with its Content-Length."""
    length = sum(len(segment) for segment in segments)
    if length > WHOLE_BYTES:
        chunks = await primed(chunks_of(objects, segments))
        return streamed(chunks, content_type, headers, status=status, length=length)
    body = _read_at_once(objects, segments, length)
    if body is None:
        body = b"".join([chunk async for chunk in chunks_of(objects, segments)])
    merged = {**SECURITY_HEADERS, **(headers or {}), "Content-Type": content_type}
    return Response(body, status, headers=merged)


class _Scratch(threading.local):
    """Memory of each thread that bodies are put together in: fresh pages cost more than copies."""

    memory = bytearray()

    def of(self, length: int) -> memoryview:
        if len(self.memory) < length:
            self.memory = bytearray(length)
        return memoryview(self.memory)[:length]


_scratch = _Scratch()


def _read_at_once(objects: ObjectStore, segments: Sequence[Segment], length: int) -> bytes | None:
    """The whole body where the page cache holds it; else None.

    None says nothing more: whoever reads in pieces finds out what is wrong.
    """
    body = _scratch.of(length)
    at = 0
    for segment in segments:
        place = body[at : at + len(segment)]
        if isinstance(segment, bytes):
            place[:] = segment
        elif not (isinstance(segment, ObjectRange) and _fill(place, objects, segment)):
            return None
        at += len(segment)
    # Bytes, not the view: granian takes any other buffer apart, number by number.
    return bytes(body)


def _fill(place: memoryview, objects: ObjectStore, wanted: ObjectRange) -> bool:
    """Read a range into its place without waiting for the disk; False where that cannot be."""
    path = objects.local_path(wanted.key)
    if path is None or not _NOWAIT:
        return False
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.preadv(file, [place], wanted.offset, _NOWAIT) == wanted.length
    except OSError:
        # EAGAIN: not in memory. EOPNOTSUPP: a file system that cannot say.
        return False
    finally:
        os.close(file)
