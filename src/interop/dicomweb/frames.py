"""WADO-RS frames (PS3.18 10.4.1.1.6): byte ranges of the stored object, found without parsing it.

Ingest stored where each frame lies. A frame goes out as it is stored, under the media type of its
transfer syntax; uncompressed little endian is made only for a caller that wants it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.dicom import frames as stored_frames
from interop.dicom.filemeta import EXPLICIT_VR_BIG_ENDIAN
from interop.dicom.frame_table import entry, join_fragments
from interop.dicomweb.media_types import FrameChoice, accepted, choose_frames
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.reading import Read, admitted, reading, services_of
from interop.dicomweb.segments import ObjectRange, Segment, segments_response
from interop.dicomweb.targets import Target, audited
from interop.errors import BadRequest, NotFound
from storage.objects import ObjectStore

EVENT = "IMAGING_FRAMES_RETRIEVED"
MAX_FRAMES = 2_000
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
    if choice.decode or is_indirect(pixels) or has_fragments(pixels):
        contents = await to_thread.run_sync(_contents, services.objects, pixels, numbers, choice)
    else:
        contents = _contents(services.objects, pixels, numbers, choice)
    if not choice.multipart:
        return await segments_response(services.objects, contents, choice.content_type)
    writer = MultipartWriter(choice.media_type)
    segments: list[Segment] = []
    for number, content in zip(numbers, contents, strict=True):
        segments.append(writer.head(choice.content_type, f"{target.url}/frames/{number}"))
        segments.append(content)
    segments.append(writer.tail())
    return await segments_response(services.objects, segments, writer.content_type)


def _contents(
    objects: ObjectStore, pixels: PixelRow, numbers: list[int], choice: FrameChoice
) -> list[Segment]:
    """Each wanted frame as a range to be read, or as bytes where it must be made; blocking."""
    if choice.decode or is_indirect(pixels):
        return [stored_frames.native_frame(objects, pixels, number - 1) for number in numbers]
    if pixels.frame_table is None:
        assert pixels.pixel_data_offset is not None and pixels.frame_length is not None
        length = pixels.frame_length
        start = pixels.pixel_data_offset
        return [
            ObjectRange(pixels.storage_uri, start + (number - 1) * length, length)
            for number in numbers
        ]
    return [_encapsulated(objects, pixels, index) for index in range(len(numbers))]


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
    return any(entry(table, index)[2] for index in range(len(table) // 16))


def _encapsulated(objects: ObjectStore, pixels: PixelRow, index: int) -> Segment:
    assert pixels.frame_table is not None
    offset, length, is_fragmented = entry(pixels.frame_table, index)
    if is_fragmented:
        return join_fragments(objects.get_range(pixels.storage_uri, offset, length))
    return ObjectRange(pixels.storage_uri, offset, length)
