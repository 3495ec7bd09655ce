"""WADO-RS frames (PS3.18 10.4.1.1.6): byte ranges of the stored object, found without parsing it.

Ingest stored where each frame lies. A frame goes out as it is stored, under the media type of its
transfer syntax; uncompressed little endian is made only for a caller that wants it, frame by frame
while the answer is on its way.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom import frames as stored_frames
from interop.dicom.filemeta import EXPLICIT_VR_BIG_ENDIAN
from interop.dicom.frame_table import entry
from interop.dicom.frames import OpenedObject
from interop.dicomweb.converted import without_item_headers
from interop.dicomweb.decoding import decode_slots
from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.media_types import (
    FRAME_MEDIA_TYPES,
    MULTIPART,
    NATIVE,
    OCTET_STREAM,
    Accepted,
    FrameChoice,
    accepted,
    choose_frames,
)
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.ranged import ranged_response
from interop.dicomweb.reading import Read, admitted, array_text, reading, served, services_of
from interop.dicomweb.responses import (
    CHUNK_BYTES,
    REVALIDATE,
    Headers,
    entity_tag,
    is_current,
    not_modified,
    primed,
    streamed,
)
from interop.dicomweb.segments import ObjectRange, Segment, read_range, segments_response
from interop.dicomweb.targets import Target, audited
from interop.errors import BadRequest, NotAcceptable, NotFound, PayloadTooLarge
from interop.services import Services
from storage.objects import ObjectStore

EVENT = "IMAGING_FRAMES_RETRIEVED"
# Part of the entity tags: raise it when the same frame comes out in other bytes.
VERSION = 1
MAX_FRAMES = 2_000
# Of frames that are made for the request; what is sent as it is stored costs no more than sending.
MAX_MADE_BYTES = 2 << 30
ENTRY_BYTES = 16
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
    pixels = await _served_pixels(services, caller, target, numbers, wanted)
    choice = _choice(wanted, pixels.transfer_syntax_uid, is_single=len(numbers) == 1)
    writer = MultipartWriter(choice.media_type) if choice.multipart else None
    content_type = writer.content_type if writer else choice.content_type
    heads = [
        writer.head(choice.content_type, f"{target.url}/frames/{number}") if writer else b""
        for number in numbers
    ]
    tail = writer.tail() if writer else b""
    headers = {**REVALIDATE, "ETag": _tag(pixels, numbers, choice)}
    if is_current(request, headers["ETag"]):
        return not_modified(headers)
    if choice.decode or choice.encode or is_indirect(pixels):
        made = _made_parts(services, caller.tenant.id, pixels, numbers, choice, heads, tail)
        return await _answer(made, content_type, headers, is_small=len(numbers) == 1)
    ranges = _ranges(pixels, numbers)
    if has_fragments(pixels):
        joined = _joined_parts(services.objects, pixels, ranges, heads, tail)
        size = sum(len(content) for content in ranges)
        return await _answer(joined, content_type, headers, is_small=size <= CHUNK_BYTES)
    if writer is None:
        return await ranged_response(request, services.objects, ranges[0], content_type, headers)
    segments: list[Segment] = []
    for head, content in zip(heads, ranges, strict=True):
        segments += [head, content] if head else [content]
    if tail:
        segments.append(tail)
    return await segments_response(services.objects, segments, content_type, headers)


def _tag(pixels: PixelRow, numbers: list[int], choice: FrameChoice) -> str:
    """An entity tag: the same frames of the same bytes in the same encoding.

    Weak where the body has a boundary, which is another each time.
    """
    tag = entity_tag(VERSION, pixels.storage_uri, numbers, choice)
    return f"W/{tag}" if choice.multipart else tag


async def _served_pixels(
    services: Services, caller: Caller, target: Target, frames: list[int], wanted: Accepted
) -> PixelRow:
    """The audited pixel row of frames that are there and can be sent as `wanted`."""
    details = {"frames": len(frames), **target.details}
    arguments = {
        **target.parameters,
        "frames": array_text(frames),
        "syntaxes": _servable(wanted, is_single=len(frames) == 1),
    }
    row = await served(services, caller, EVENT, "dicomweb_frames", arguments, details)
    if row is not None:
        return PixelRow(*row)
    async with reading(services, caller, EVENT) as read:
        pixels = await pixel_row(read, target, frames)
        read.details["frames"] = len(frames)
        _choice(wanted, pixels.transfer_syntax_uid, is_single=len(frames) == 1)
    return pixels


@lru_cache
def _choice(wanted: Accepted, stored: str, *, is_single: bool) -> FrameChoice:
    """How frames stored in a transfer syntax are sent. Raises NotAcceptable."""
    can_decode = stored_frames.can_decode(stored)
    return choose_frames(wanted, stored, single=is_single, can_decode=can_decode)


@lru_cache
def _servable(wanted: Accepted, *, is_single: bool) -> str:
    """The transfer syntaxes, of those that are known, whose frames can be sent as `wanted`."""
    found = []
    for stored in sorted(NATIVE | FRAME_MEDIA_TYPES.keys()):
        with suppress(NotAcceptable):
            _choice(wanted, stored, is_single=is_single)
            found.append(stored)
    return array_text(found)


async def _answer(
    chunks: AsyncIterator[bytes], content_type: str, headers: Headers, *, is_small: bool
) -> Response:
    """A body whose length nobody knows yet: put together where it is small, else as it comes."""
    if not is_small:
        return streamed(await primed(chunks), content_type, headers)
    body = b"".join([chunk async for chunk in chunks])
    return Response(body, headers={**SECURITY_HEADERS, **headers, "Content-Type": content_type})


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
    choice: FrameChoice,
    heads: list[bytes],
    tail: bytes,
) -> AsyncIterator[bytes]:
    """Frames that have to be decoded, encoded or cut out, one in memory at a time."""
    slots = decode_slots()
    opened = await slots.run(tenant_id, _opened, services.objects, pixels, len(numbers), choice)
    for at, (head, number) in enumerate(zip(heads, numbers, strict=True)):
        yield head + await slots.run(
            tenant_id, _made, opened, number - 1, choice, is_patient=at > 0
        )
    if tail:
        yield tail


def _made(opened: OpenedObject, index: int, choice: FrameChoice) -> bytes:
    if choice.encode:
        return opened.encoded_frame(index, choice.transfer_syntax)
    return opened.native_frame(index)


def _opened(
    objects: ObjectStore, pixels: PixelRow, count: int, choice: FrameChoice
) -> OpenedObject:
    """Parse the object once for all its frames; blocking.

    Raises PayloadTooLarge, and NotAcceptable where its pixels do not fit the codec.
    """
    opened = OpenedObject(objects, pixels.storage_uri)
    if choice.encode and not opened.can_encode(choice.transfer_syntax):
        raise NotAcceptable(
            f"the pixels of this instance do not fit {choice.transfer_syntax}; ask for"
            f' {MULTIPART}; type="{OCTET_STREAM}", or for the stored encoding with'
            " transfer-syntax=*"
        )
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
        is_fragmented = entry(pixels.frame_table, index)[2]
        read = without_item_headers if is_fragmented else read_range
        # With the head goes the first content, so that a missing object is still an error answer.
        async for chunk in read(objects, content):
            yield head + chunk
            head = b""
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
