"""Single-part bodies, whole or by byte ranges (RFC 9110 14, 15.3.7)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from interop.dicomweb.byte_ranges import parse_byte_ranges
from interop.dicomweb.converted import FragmentedValue, SwappedValue
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.responses import Headers, wanted_range
from interop.dicomweb.segments import ObjectRange, Segment, segments_response
from storage.objects import ObjectStore

Value = bytes | ObjectRange | FragmentedValue | SwappedValue


def cut(value: Value, offset: int, length: int) -> Value:
    """A part of a value."""
    if isinstance(value, bytes):
        return value[offset : offset + length]
    if isinstance(value, ObjectRange):
        return ObjectRange(value.key, value.offset + offset, length)
    return value.cut(offset, length)


async def ranged_response(
    request: Request, objects: ObjectStore, value: Value, content_type: str, headers: Headers
) -> Response:
    """The value, or 206 with the ranges that the request asks for. Raises RangeNotSatisfiable."""
    headers = {**headers, "Accept-Ranges": "bytes"}
    size = len(value)
    ranges = parse_byte_ranges(wanted_range(request, headers.get("ETag", "")), size)
    if ranges is None:
        return await segments_response(objects, [value], content_type, headers)
    spans = [f"bytes {at}-{at + length - 1}/{size}" for at, length in ranges]
    contents = [cut(value, at, length) for at, length in ranges]
    if len(ranges) == 1:
        headers["Content-Range"] = spans[0]
        return await segments_response(objects, contents, content_type, headers, status=206)
    writer = MultipartWriter(content_type)
    segments: list[Segment] = []
    for span, content in zip(spans, contents, strict=True):
        segments += [writer.head(f"{content_type}\r\nContent-Range: {span}"), content]
    segments.append(writer.tail())
    return await segments_response(
        objects,
        segments,
        f"multipart/byteranges; boundary={writer.boundary}",
        headers,
        status=206,
    )
