"""WADO-RS frames (PS3.18 10.4.1.1.6): byte ranges of the stored object, found without parsing it.

Ingest stored where each frame lies. A frame goes out as it is stored, under the media type of its
transfer syntax; uncompressed little endian is made only for a caller that wants it, frame by frame
while the answer is on its way.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from interop.dicom import frames as stored_frames
from interop.dicom.filemeta import EXPLICIT_VR_BIG_ENDIAN
from interop.dicom.frame_table import entry
from interop.dicom.frames import OpenedObject
from interop.dicomweb.decoding import WAIT_SECONDS, decode_slots
from interop.dicomweb.media_types import accepted, choose_frames
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.reading import Read, admitted, reading, services_of
from interop.dicomweb.responses import primed, streamed
from interop.dicomweb.segments import ObjectRange, Segment, chunks_of, segments_response
from interop.dicomweb.targets import Target, audited
from interop.errors import BadRequest, NotFound, PayloadTooLarge
from interop.services import Services
from storage.objects import ObjectStore

EVENT = "IMAGING_FRAMES_RETRIEVED"
MAX_FRAMES = 2_000
# Of frames that are made for the request; what is sent as it is stored costs no more than sending.
MAX_MADE_BYTES = 2 << 30
ENTRY_BYTES = 16
ITEM_HEADER_BYTES = 8
_LIST = re.compile(r"[1-9]\d{0,8}(?:,[1-9]\d{0,8})*")


class PixelRow(NamedTuple):
    """What is known of an instance's pixel data."""

    study_id: Any
    storage_uri: str
    transfer_syntax_uid: str
    number_of_frames: int
    pixel_data_offset: int | None
    frame_length: int | None
    frame_table: bytes | None


PIXEL_COLUMNS = (
    "s.id, o.storage_uri, o.transfer_syntax_uid, coalesce(o.number_of_frames, 0),"
    " o.pixel_data_offset, o.frame_length"
)
# A table of many frames is large; the entries that are asked for are cut out of it in SQL.
_ENTRIES = ", (SELECT string_agg(substr(o.frame_table, n * 16 - 15, 16), '' ORDER BY i)"
_ENTRIES += " FROM unnest(%(frames)s::int[]) WITH ORDINALITY AS wanted(n, i)"
_ENTRIES += " WHERE n <= o.number_of_frames)"


def frame_numbers(text: str) -> list[int]:
    """Read a frame list, `1,2,3`. Raises BadRequest."""
    if not _LIST.fullmatch(text):
        raise BadRequest(f"frames {text[:80]!r}: expected numbers from 1, separated by commas")
    numbers = [int(number) for number in text.split(",")]
    if len(numbers) > MAX_FRAMES:
        raise BadRequest(f"{len(numbers)} frames in one request; at most {MAX_FRAMES} are served")
    return numbers


async def pixel_row(read: Read, target: Target, frames: list[int]) -> PixelRow:
    """The pixel data of the target, its table cut to `frames`. Raises NotFound."""
    row = await read.row(
        target.query(PIXEL_COLUMNS + _ENTRIES), {**target.parameters, "frames": frames}
    )
    if row is None:
        raise NotFound()
    pixels = PixelRow(*row)
    read.resource_id = str(pixels.study_id)
    audited(read, target, 1)
    if not pixels.number_of_frames:
        raise NotFound("this instance has no pixel data")
    if max(frames) > pixels.number_of_frames:
        raise NotFound(f"this instance has {pixels.number_of_frames} frames")
    if pixels.frame_table is not None and len(pixels.frame_table) < ENTRY_BYTES * len(frames):
        # A video is one frame of bytes, whatever Number of Frames (0028,0008) says.
        raise NotFound("the stored pixel data does not hold each of these frames by itself")
    return pixels


async def retrieve_frames(request: Request) -> Response:
    """The frames that the path lists, one part each."""
    caller = await admitted(request, "r")
    wanted = accepted(request.headers.get("accept"), request.query_params.get("accept"))
    target = Target.of(request)
    numbers = frame_numbers(request.path_params["frames"])
    services = services_of(request)
    async with reading(services, caller, EVENT) as read:
        pixels = await pixel_row(read, target, numbers)
        read.details["frames"] = len(numbers)
        choice = choose_frames(
            wanted,
            pixels.transfer_syntax_uid,
            single=len(numbers) == 1,
            can_decode=stored_frames.can_decode(pixels.transfer_syntax_uid),
        )
    writer = MultipartWriter(choice.media_type) if choice.multipart else None
    content_type = writer.content_type if writer else choice.content_type
    heads = [
        writer.head(choice.content_type, f"{target.url}/frames/{number}") if writer else b""
        for number in numbers
    ]
    tail = writer.tail() if writer else b""
    if choice.decode or is_indirect(pixels):
        made = _made_parts(services, caller.tenant.id, pixels, numbers, heads, tail)
        return streamed(await primed(made), content_type)
    ranges = _ranges(pixels, numbers)
    if has_fragments(pixels):
        joined = _joined_parts(services.objects, pixels, ranges, heads, tail)
        return streamed(await primed(joined), content_type)
    segments: list[Segment] = []
    for head, content in zip(heads, ranges, strict=True):
        segments += [head, content]
    segments.append(tail)
    return await segments_response(services.objects, segments, content_type)


def _ranges(pixels: PixelRow, numbers: list[int]) -> list[ObjectRange]:
    """Where each wanted frame lies in the stored object."""
    key, table = pixels.storage_uri, pixels.frame_table
    if table is not None:
        return [ObjectRange(key, *entry(table, index)[:2]) for index in range(len(numbers))]
    assert pixels.pixel_data_offset is not None and pixels.frame_length is not None
    start, length = pixels.pixel_data_offset, pixels.frame_length
    return [ObjectRange(key, start + (number - 1) * length, length) for number in numbers]


async def _made_parts(
    services: Services,
    tenant_id: UUID,
    pixels: PixelRow,
    numbers: list[int],
    heads: list[bytes],
    tail: bytes,
) -> AsyncIterator[bytes]:
    """Frames that have to be decoded or cut out, one in memory at a time."""
    slots = decode_slots()
    opened = await slots.run(tenant_id, _opened, services.objects, pixels, len(numbers))
    for head, number in zip(heads, numbers, strict=True):
        yield head + await slots.run(
            tenant_id,
            opened.native_frame,
            number - 1,
            # Whoever has part of the answer waits for the rest; a refusal would cut it off.
            wait_seconds=WAIT_SECONDS if head is heads[0] else math.inf,
        )
    if tail:
        yield tail


def _opened(objects: ObjectStore, pixels: PixelRow, count: int) -> OpenedObject:
    """Parse the object once for all its frames. Raises PayloadTooLarge, blocking."""
    opened = OpenedObject(objects, pixels.storage_uri)
    size = opened.native_frame_size() * count
    if size > MAX_MADE_BYTES:
        raise PayloadTooLarge(
            f"{count} uncompressed frames have {size} bytes; at most {MAX_MADE_BYTES} are made for"
            " one request: ask for fewer, or for the stored encoding with transfer-syntax=*"
        )
    return opened


async def _joined_parts(
    objects: ObjectStore,
    pixels: PixelRow,
    ranges: list[ObjectRange],
    heads: list[bytes],
    tail: bytes,
) -> AsyncIterator[bytes]:
    """Frames of which some lie in several fragments, whose item headers are left out."""
    assert pixels.frame_table is not None
    for index, (head, content) in enumerate(zip(heads, ranges, strict=True)):
        items = ItemHeaders() if entry(pixels.frame_table, index)[2] else None
        if head:
            yield head
        async for chunk in chunks_of(objects, [content]):
            yield items.removed(chunk) if items else chunk
    if tail:
        yield tail


def is_indirect(pixels: PixelRow) -> bool:
    """Whether a frame is not a range of the stored object: deflated, big endian, or bits."""
    if pixels.frame_table is not None:
        return False
    return (
        pixels.frame_length is None
        or pixels.pixel_data_offset is None
        or pixels.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
    )


def has_fragments(pixels: PixelRow) -> bool:
    """Whether any of the frames has to be joined from several fragments."""
    table = pixels.frame_table or b""
    return any(entry(table, index)[2] for index in range(len(table) // ENTRY_BYTES))


class ItemHeaders:
    """Takes the item headers out of a run of fragments that comes in pieces (PS3.5 A.4)."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def removed(self, piece: bytes) -> bytes:
        """What of the next piece is content."""
        kept: list[bytes] = []
        at = 0
        while at < len(piece):
            if self._left:
                content = piece[at : at + self._left]
                self._left -= len(content)
                kept.append(content)
                at += len(content)
                continue
            wanted = ITEM_HEADER_BYTES - len(self._header)
            self._header += piece[at : at + wanted]
            at += wanted
            if len(self._header) == ITEM_HEADER_BYTES:
                self._left = int.from_bytes(self._header[4:], "little")
                self._header = b""
        return b"".join(kept)
