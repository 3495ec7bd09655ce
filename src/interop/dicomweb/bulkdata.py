"""WADO-RS bulk data (PS3.18 10.4.1.1.5): the value of one element, whole or by byte ranges.

The path of a bulk data URL is the element's: `00282000`, or `00880200/1/7FE00010` for an element in
the first item of a sequence. The header is walked again to find it, which costs a millisecond and
spares a table of every element's place.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from mmap import ACCESS_READ, mmap
from pathlib import Path

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.dicom.filemeta import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN
from interop.dicom.frame_table import walk_fragments
from interop.dicom.inflate import inflate
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.part10 import parse
from interop.dicom.spool import Spool
from interop.dicom.walker import UNDEFINED
from interop.dicomweb.byte_ranges import parse_byte_ranges
from interop.dicomweb.converted import FragmentedValue, SwappedValue
from interop.dicomweb.media_types import (
    ANY,
    EXPLICIT_VR_LITTLE_ENDIAN,
    MULTIPART,
    OCTET_STREAM,
    Accepted,
    accepted,
)
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.ranged import Value, cut, ranged_response
from interop.dicomweb.reading import admitted, reading, services_of
from interop.dicomweb.responses import (
    REVALIDATE,
    entity_tag,
    is_current,
    not_modified,
    wanted_range,
)
from interop.dicomweb.segments import ObjectRange, Segment, segments_response
from interop.dicomweb.targets import StoredInstance, Target, audited, stored_instances
from interop.errors import NotAcceptable, NotFound
from storage.objects import ObjectStore

EVENT = "IMAGING_BULK_DATA_RETRIEVED"
# Part of the entity tags: raise it when the same value comes out in other bytes.
VERSION = 1
_PATH = re.compile(r"[0-9A-F]{8}(?:/[1-9]\d{0,5}/[0-9A-F]{8}){0,63}")
# Values are sent little endian whatever they were stored in (PS3.18 8.7.3): units to swap by VR.
_WORD_BYTES = {b"OW": 2, b"US": 2, b"SS": 2, b"OF": 4, b"OL": 4, b"FL": 4, b"UL": 4, b"SL": 4}
_WORD_BYTES |= {b"OD": 8, b"OV": 8, b"FD": 8, b"UV": 8, b"SV": 8}


async def retrieve_bulk_data(request: Request) -> Response:
    """The value of the element that the path names."""
    caller = await admitted(request, "r")
    wanted = accepted(request.headers.get("accept"), request.query_params.get("accept"))
    target = Target.of(request)
    path: str = request.path_params["path"]
    services = services_of(request)
    async with reading(services, caller, EVENT) as read:
        (instance,) = await stored_instances(read, target)
        audited(read, target, 1)
        read.details["element"] = path[:80]
        if not _PATH.fullmatch(path):
            raise NotFound()
        multipart = _multipart(wanted)
    etag = entity_tag(VERSION, instance.storage_uri, path)
    value = await to_thread.run_sync(locate, services.objects, instance, path, services.spool)
    if value is None:
        raise NotFound()
    if is_current(request, etag):
        return not_modified({**REVALIDATE, "ETag": etag})
    if multipart:
        asked = wanted_range(request, etag)
        return await _parts(services.objects, target, path, value, asked, etag)
    headers = {**REVALIDATE, "ETag": etag, "Content-Disposition": "attachment"}
    return await ranged_response(request, services.objects, value, OCTET_STREAM, headers)


def _multipart(wanted: Accepted) -> bool:
    """Whether the value goes out as the one part of a multipart body."""
    for media_type in wanted:
        syntax = media_type.transfer_syntax
        if media_type.admits(OCTET_STREAM) and syntax in (None, ANY, EXPLICIT_VR_LITTLE_ENDIAN):
            return media_type.is_multipart or media_type.part_type in ("*/*", ANY)
    raise NotAcceptable(
        f'bulk data is served as {OCTET_STREAM}, or {MULTIPART}; type="{OCTET_STREAM}"'
    )


def locate(objects: ObjectStore, instance: StoredInstance, path: str, spool: Spool) -> Value | None:
    """Find an element's value in the stored object; blocking. None when it has no such."""
    key = instance.storage_uri
    with local_file(objects, key, spool) as file:
        parsed = parse(file)
        found = parsed.bulk.get(path)
        if found is None:
            return None
        vr, offset, length = found
        if parsed.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            # Offsets into a deflated data set are no byte ranges of the stored object.
            return _inflated(file, parsed.meta.dataset_offset)[offset : offset + length]
        if length == UNDEFINED:
            return _without_item_headers(key, file, offset)
    word = _WORD_BYTES.get(vr, 1)
    if instance.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN and word > 1:
        return SwappedValue(key, offset, length, word, 0, length)
    return ObjectRange(key, offset, length)


def _inflated(file: Path, start: int) -> bytes:
    with file.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
        return inflate(data, DEFAULT_LIMITS, start)


def _without_item_headers(key: str, file: Path, offset: int) -> FragmentedValue:
    """An encapsulated value without its item headers and offset table."""
    with file.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
        fragments = walk_fragments(data, offset, len(data), DEFAULT_LIMITS.fragments)
    starts = array("Q", accumulate(fragments.lengths, initial=0))
    return FragmentedValue(key, fragments.offsets, starts, 0, starts[-1])


@contextmanager
def local_file(objects: ObjectStore, key: str, spool: Spool) -> Iterator[Path]:
    """The object as a local file, fetched for the time being where the store is remote."""
    path = objects.local_path(key)
    if path is not None:
        yield path
        return
    with spool.temporary_folder() as folder:
        fetched = folder / "object"
        with fetched.open("xb") as file:
            for chunk in objects.open_range(key):
                file.write(chunk)
        yield fetched


async def _parts(
    objects: ObjectStore, target: Target, path: str, value: Value, asked: str | None, etag: str
) -> Response:
    """The one part of a multipart/related body, or a part for each range (PS3.18 10.4.1.1.5)."""
    headers = {**REVALIDATE, "ETag": f"W/{etag}", "Accept-Ranges": "bytes"}
    size = len(value)
    ranges = parse_byte_ranges(asked, size)
    writer = MultipartWriter(OCTET_STREAM)
    segments: list[Segment] = []
    if ranges is None:
        segments += [writer.head(OCTET_STREAM, f"{target.url}/bulkdata/{path}"), value]
    else:
        for at, length in ranges:
            span = f"bytes {at}-{at + length - 1}/{size}"
            segments += [
                writer.head(f"{OCTET_STREAM}\r\nContent-Range: {span}"),
                cut(value, at, length),
            ]
            if len(ranges) == 1:
                headers["Content-Range"] = span
    return await segments_response(
        objects,
        [*segments, writer.tail()],
        writer.content_type,
        headers,
        status=200 if ranges is None else 206,
    )
