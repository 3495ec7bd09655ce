"""Bodies put together from ready bytes and byte ranges of stored objects, in bounded memory.

A multipart answer of a thousand instances is a list of heads and ranges; its length is known before
the first byte is read, and it is read in worker threads in chunks of a megabyte, small neighbours
joined. Nothing is sent before the first chunk was read, so a missing object is still an error
answer; one that fails later ends the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from anyio import to_thread
from starlette.responses import Response

from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.responses import CHUNK_BYTES, Headers, in_thread, streamed
from storage.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class ObjectRange:
    """Some bytes of a stored object."""

    key: str
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


Segment = bytes | ObjectRange


def chunks_of(objects: ObjectStore, segments: Iterable[Segment]) -> Iterator[bytes]:
    """Read the segments one after the other, blocking; every chunk but the last is large."""
    pending: list[bytes] = []
    size = 0
    for segment in segments:
        for piece in _pieces(objects, segment):
            pending.append(piece)
            size += len(piece)
            if size >= CHUNK_BYTES:
                yield b"".join(pending)
                pending.clear()
                size = 0
    if pending:
        yield b"".join(pending)


def _pieces(objects: ObjectStore, segment: Segment) -> Iterable[bytes]:
    if isinstance(segment, bytes):
        return (segment,)
    if segment.length <= CHUNK_BYTES:
        return (_whole(objects, segment),)
    return _counted(objects, segment)


def _whole(objects: ObjectStore, wanted: ObjectRange) -> bytes:
    found = objects.get_range(wanted.key, wanted.offset, wanted.length)
    if len(found) != wanted.length:
        raise ShortObject(wanted, len(found))
    return found


def _counted(objects: ObjectStore, wanted: ObjectRange) -> Iterator[bytes]:
    size = 0
    for piece in objects.open_range(wanted.key, wanted.offset, wanted.length, CHUNK_BYTES):
        size += len(piece)
        yield piece
    if size != wanted.length:
        raise ShortObject(wanted, size)


class ShortObject(Exception):
    """A stored object has fewer bytes than its row says."""

    def __init__(self, wanted: ObjectRange, found: int) -> None:
        super().__init__(
            f"object {wanted.key} gave {found} of {wanted.length} bytes from {wanted.offset}"
        )


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
    chunks = chunks_of(objects, segments)
    first = await to_thread.run_sync(next, chunks, b"")
    merged = {**(headers or {}), "Content-Type": content_type}
    if len(first) == length:
        return Response(first, status, headers={**SECURITY_HEADERS, **merged})
    return streamed(_rest(first, chunks), content_type, headers, status=status, length=length)


async def _rest(first: bytes, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in in_thread(chunks):
        yield chunk
