"""WADO-RS rendered and thumbnail resources (PS3.18 10.4.1.1.3, 10.4.1.1.4).

Pixels of strangers are decoded in a limited child process (security.md B5). An image type in
Accept gets one image: of a study or a series the middle image, of an instance its first frame when
it is rendered and its middle frame as a thumbnail. multipart/related gets every image there is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from interop.dicom import render
from interop.dicom.frames import COLUMNS as SOURCE_COLUMNS
from interop.dicom.frames import FrameRow
from interop.dicomweb.decoding import decode_slots
from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.frames import frame_numbers
from interop.dicomweb.media_types import MULTIPART, Accepted, accepted
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.reading import Read, admitted, reading, services_of
from interop.dicomweb.rendering import Rendering, Viewport, parse_rendering
from interop.dicomweb.responses import REVALIDATE, is_current, primed, streamed
from interop.dicomweb.targets import Target, audited
from interop.errors import NotAcceptable, NotFound, PayloadTooLarge
from interop.services import Services

EVENT = "IMAGING_RENDERED"
MAX_IMAGES = 100
THUMBNAIL = Viewport(256, 256)
_COLUMNS = (
    "s.id, e.series_uid, o.sop_instance_uid, o.storage_uri, o.hash, coalesce(o.number_of_frames, 0)"
)
_SOURCES = (
    f"SELECT {SOURCE_COLUMNS} FROM imaging_objects o"
    " WHERE o.tenant_id = %(tenant_id)s AND o.storage_uri = ANY(%(keys)s)"
)


class ImageRow(NamedTuple):
    """An instance that may have images."""

    study_id: UUID
    series_uid: str
    sop_instance_uid: str
    storage_uri: str
    hash: str
    number_of_frames: int


class Picture(NamedTuple):
    """One frame, counted from 1, of one instance."""

    row: ImageRow
    frame: int


Sources = dict[str, FrameRow]


async def retrieve_rendered(request: Request) -> Response:
    """The target as an image, or as all its images."""
    return await _answer(request, is_thumbnail=False)


async def retrieve_thumbnail(request: Request) -> Response:
    """A small image that stands for the target."""
    return await _answer(request, is_thumbnail=True)


async def _answer(request: Request, *, is_thumbnail: bool) -> Response:
    caller = await admitted(request, "r")
    target = Target.of(request)
    wanted = accepted(request.headers.get("accept"), request.query_params.get("accept"))
    rendering = parse_rendering(request.query_params.multi_items(), wanted)
    if is_thumbnail and rendering.viewport is None:
        rendering = replace(rendering, viewport=THUMBNAIL)
    frames = request.path_params.get("frames")
    numbers = frame_numbers(frames) if frames else None
    services = services_of(request)
    async with reading(services, caller, EVENT) as read:
        rows = await _images(read, target)
        if wants_all(wanted) and not is_thumbnail:
            pictures = all_pictures(rows, numbers)
        elif numbers is not None and len(numbers) > 1:
            raise NotAcceptable(f"{len(numbers)} frames are served as {MULTIPART} only")
        else:
            pictures = [one_picture(rows, numbers, middle_frame=is_thumbnail)]
        sources = await _sources(read, pictures)
        audited(read, target, len(sources))
    etag = tag_of(pictures, rendering)
    if is_current(request, etag):
        return Response(status_code=304, headers={**SECURITY_HEADERS, **REVALIDATE, "ETag": etag})
    headers = {**REVALIDATE, "ETag": etag}
    if wants_all(wanted) and not is_thumbnail:
        writer = MultipartWriter(rendering.media_type)
        images = _images_of(services, caller.tenant.id, pictures, sources, rendering)
        body = await primed(_parts(target, pictures, images, rendering, writer))
        return streamed(body, writer.content_type, headers)
    image = await decode_slots().run(
        caller.tenant.id, _render, services, pictures[0], sources, rendering
    )
    merged = {**SECURITY_HEADERS, **headers}
    return Response(image, media_type=rendering.media_type, headers=merged)


def wants_all(wanted: Accepted) -> bool:
    """Whether the best type in Accept is multipart."""
    return wanted[0].is_multipart


async def _images(read: Read, target: Target) -> list[ImageRow]:
    """The instances with images at or below the target, in viewing order. Raises NotFound."""
    rows = await read.rows(target.query(_COLUMNS), target.parameters)
    if not rows:
        raise NotFound()
    read.resource_id = str(rows[0][0])
    images = [ImageRow(*row) for row in rows if row[-1] > 0]
    if not images:
        raise NotAcceptable("there is no image to render here; retrieve the instance itself")
    return images


async def _sources(read: Read, pictures: list[Picture]) -> Sources:
    """Where the pixels of the pictures are, by storage key."""
    keys = list({picture.row.storage_uri for picture in pictures})
    rows = await read.rows(_SOURCES, {"keys": keys})
    return {row[0]: FrameRow(*row) for row in rows}


def one_picture(rows: list[ImageRow], numbers: list[int] | None, *, middle_frame: bool) -> Picture:
    """The frame that stands for the rows."""
    row = rows[(len(rows) - 1) // 2]
    if numbers is not None:
        return Picture(row, _existing(row, numbers[0]))
    return Picture(row, (row.number_of_frames + 1) // 2 if middle_frame else 1)


def all_pictures(rows: list[ImageRow], numbers: list[int] | None) -> list[Picture]:
    """Every frame of the rows, or those that are listed. Raises PayloadTooLarge."""
    pictures: list[Picture] = []
    for row in rows:
        frames = numbers or range(1, row.number_of_frames + 1)
        if len(pictures) + len(frames) > MAX_IMAGES:
            raise PayloadTooLarge(
                f"more than {MAX_IMAGES} images; render a series, an instance or listed frames"
            )
        pictures += [Picture(row, _existing(row, number)) for number in frames]
    return pictures


def _existing(row: ImageRow, number: int) -> int:
    if number > row.number_of_frames:
        raise NotFound(f"this instance has {row.number_of_frames} frames")
    return number


def tag_of(pictures: list[Picture], rendering: Rendering) -> str:
    """An entity tag: the same frames of the same bytes, rendered the same way, by this version."""
    digest = sha256(repr((render.VERSION, rendering)).encode())
    for picture in pictures:
        digest.update(f"{picture.row.hash} {picture.frame}".encode())
    return f'"{digest.hexdigest()[:32]}"'


async def _images_of(
    services: Services,
    tenant_id: UUID,
    pictures: list[Picture],
    sources: Sources,
    rendering: Rendering,
) -> AsyncIterator[bytes]:
    """The pictures one after the other."""
    for picture in pictures:
        yield await decode_slots().run(
            tenant_id, _render, services, picture, sources, rendering,
            is_patient=picture is not pictures[0],
        )  # fmt: skip


async def _parts(
    target: Target,
    pictures: list[Picture],
    images: AsyncIterator[bytes],
    rendering: Rendering,
    writer: MultipartWriter,
) -> AsyncIterator[bytes]:
    at = iter(pictures)
    async for image in images:
        picture = next(at)
        url = target.instance_url(picture.row.series_uid, picture.row.sop_instance_uid)
        location = f"{url}/frames/{picture.frame}/rendered"
        yield writer.head(rendering.media_type, location) + image
    yield writer.tail()


def _render(services: Services, picture: Picture, sources: Sources, rendering: Rendering) -> bytes:
    """Render one frame; blocking."""
    row = sources[picture.row.storage_uri]
    return render.render_frame(services.objects, row, picture.frame - 1, rendering)
