"""WADO-RS rendered and thumbnail resources (PS3.18 10.4.1.1.3, 10.4.1.1.4).

Pixels of strangers are decoded in a limited child process (security.md B5). An image type in
Accept gets one image: of a study or a series the middle image, of an instance its first frame when
it is rendered and its middle frame as a thumbnail; image/gif gets all frames of an instance as an
animation. multipart/related gets every image there is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom import render
from interop.dicom.frames import COLUMNS as SOURCE_COLUMNS
from interop.dicom.frames import FrameRow
from interop.dicom.picture_cache import PictureCache
from interop.dicomweb.decoding import decode_slots
from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.frames import frame_numbers
from interop.dicomweb.media_types import MULTIPART, Accepted, accepted
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.reading import Read, Row, admitted, reading, served, services_of
from interop.dicomweb.rendered_documents import Document, document_of, document_response
from interop.dicomweb.rendering import (
    GIF,
    Rendering,
    Viewport,
    choose_image,
    parse_rendering,
    require_renderable,
    takes_image,
)
from interop.dicomweb.responses import REVALIDATE, is_current, not_modified, primed, streamed
from interop.dicomweb.targets import STORED_COLUMNS, StoredInstance, Target, audited
from interop.errors import NotAcceptable, NotFound, PayloadTooLarge
from interop.services import Services

EVENT = "IMAGING_RENDERED"
MAX_IMAGES = 100
THUMBNAIL = Viewport(256, 256)
_COLUMNS = f"{STORED_COLUMNS}, coalesce(o.number_of_frames, 0)"
_SOURCES = (
    f"SELECT {SOURCE_COLUMNS} FROM imaging_objects o"
    " WHERE o.tenant_id = %(tenant_id)s AND o.storage_uri = ANY(%(keys)s)"
)


class ImageRow(NamedTuple):
    """An instance and how many images it holds."""

    instance: StoredInstance
    number_of_frames: int


class Picture(NamedTuple):
    """One frame, counted from 1, of one instance."""

    row: ImageRow
    frame: int


Sources = dict[str, FrameRow]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: of what, in which types, how, which frames."""

    target: Target
    types: Accepted
    rendering: Rendering
    frames: list[int] | None = None
    is_thumbnail: bool = False

    @property
    def wants_all(self) -> bool:
        """Whether every image is wanted: the best type in Accept is multipart."""
        return self.types[0].is_multipart and not self.is_thumbnail

    @property
    def wants_animation(self) -> bool:
        """Whether several frames of an instance are wanted in one image."""
        is_one_frame = self.frames is not None and len(self.frames) == 1
        return (
            self.rendering.media_type == GIF
            and self.target.instance is not None
            and not (self.wants_all or self.is_thumbnail or is_one_frame)
        )


async def retrieve_rendered(request: Request) -> Response:
    """The target as an image, or as all its images."""
    return await _answer(request, is_thumbnail=False)


async def retrieve_thumbnail(request: Request) -> Response:
    """A small image that stands for the target."""
    return await _answer(request, is_thumbnail=True)


async def _answer(request: Request, *, is_thumbnail: bool) -> Response:
    caller = await admitted(request, "r")
    target = Target.of(request)
    types = accepted(request.headers.get("accept"), request.query_params.get("accept"))
    require_renderable(types)
    rendering = parse_rendering(request.query_params.multi_items())
    if is_thumbnail and rendering.viewport is None:
        rendering = replace(rendering, viewport=THUMBNAIL)
    listed = request.path_params.get("frames")
    numbers = frame_numbers(listed) if listed else None
    wanted = Wanted(target, types, rendering, numbers, is_thumbnail)
    return await rendered_response(request, caller, wanted)


async def rendered_response(request: Request, caller: Caller, wanted: Wanted) -> Response:
    """What is wanted as images, or as the document that an instance without images is."""
    services = services_of(request)
    served_at_once = await _served_picture(services, caller, wanted)
    if served_at_once is not None:
        wanted, picture, known = served_at_once
        return await _pictures_response(request, caller, wanted, [picture], known)
    async with reading(services, caller, EVENT) as read:
        rows = await _instances(read, wanted.target)
        images = [row for row in rows if row.number_of_frames > 0]
        document: Document | None = None
        pictures: list[Picture] = []
        sources: Sources = {}
        if images:
            wanted = _of_type(wanted, choose_image(wanted.types))
            pictures = pictures_of(images, wanted)
            sources = await _sources(read.rows, pictures)
        else:
            document = await document_of(
                read, wanted.target, rows[0].instance, wanted.types,
                is_thumbnail=wanted.is_thumbnail,
            )  # fmt: skip
        audited(read, wanted.target, 1 if document else len({p.row.instance for p in pictures}))
    if document is not None:
        return await document_response(request, services, document)
    return await _pictures_response(request, caller, wanted, pictures, sources)


async def _served_picture(
    services: Services, caller: Caller, wanted: Wanted
) -> tuple[Wanted, Picture, Sources | None] | None:
    """One image of an instance that has it, audited, in one round trip; None in other cases.

    Where its pixels are comes along unless that is large.
    """
    target = wanted.target
    if target.instance is None or wanted.wants_all or not takes_image(wanted.types):
        return None
    wanted = _of_type(wanted, choose_image(wanted.types))
    if wanted.wants_animation or (wanted.frames is not None and len(wanted.frames) > 1):
        return None
    arguments = {**target.parameters, "frame": wanted.frames[0] if wanted.frames else 1}
    row = await served(services, caller, EVENT, "dicomweb_picture", arguments, target.details)
    if row is None:
        return None
    instance, frames, dicom_json = StoredInstance(*row[:7]), row[7], row[11]
    (picture,) = pictures_of([ImageRow(instance, frames)], wanted)
    if dicom_json is None:
        return wanted, picture, None
    source = FrameRow(instance.storage_uri, instance.transfer_syntax_uid, *row[7:])
    return wanted, picture, {source.storage_uri: source}


def _of_type(wanted: Wanted, media_type: str) -> Wanted:
    if media_type == wanted.rendering.media_type:
        return wanted
    return replace(wanted, rendering=replace(wanted.rendering, media_type=media_type))


async def _pictures_response(
    request: Request,
    caller: Caller,
    wanted: Wanted,
    pictures: list[Picture],
    sources: Sources | None,
) -> Response:
    """The pictures, which were audited; `sources` are read where they are needed and not given."""
    services = services_of(request)
    headers = {**REVALIDATE, "ETag": tag_of(pictures, wanted.rendering)}
    if is_current(request, headers["ETag"]):
        return not_modified(headers)
    image: bytes | None = None
    if len(pictures) == 1 and not wanted.wants_all:
        image = await _kept(services, caller, pictures[0], wanted)
    if sources is None:
        sources = {} if image is not None else await _read_sources(services, caller, pictures)
    if wanted.wants_all:
        writer = MultipartWriter(wanted.rendering.media_type)
        made = _images_of(services, caller, pictures, sources, wanted)
        body = await primed(_parts(wanted, pictures, made, writer))
        return streamed(body, writer.content_type, headers)
    if image is None:
        image = await decode_slots().run(
            caller.tenant.id, _render, services, caller, pictures, sources, wanted
        )
    merged = {**SECURITY_HEADERS, **headers}
    return Response(image, media_type=wanted.rendering.media_type, headers=merged)


async def _instances(read: Read, target: Target) -> list[ImageRow]:
    """The instances at or below the target, in viewing order. Raises NotFound."""
    rows = await read.rows(target.query(_COLUMNS), target.parameters)
    if not rows:
        raise NotFound()
    read.resource_id = str(rows[0][0])
    return [ImageRow(StoredInstance(*stored), frames) for *stored, frames in rows]


Rows = Callable[[str, Mapping[str, Any]], Awaitable[list[Row]]]


async def _sources(rows: Rows, pictures: list[Picture]) -> Sources:
    """Where the pixels of the pictures are, by storage key. Raises NotFound."""
    keys = {picture.row.instance.storage_uri for picture in pictures}
    found = {row[0]: FrameRow(*row) for row in await rows(_SOURCES, {"keys": list(keys)})}
    if found.keys() != keys:
        # Deleted since the pictures were chosen.
        raise NotFound()
    return found


async def _read_sources(services: Services, caller: Caller, pictures: list[Picture]) -> Sources:
    """The same of pictures whose reading was audited already."""
    tenant_id = caller.tenant.id
    async with services.database.async_connection(tenant_id) as connection:

        async def rows(sql: str, parameters: Mapping[str, Any]) -> list[Row]:
            cursor = await connection.execute(sql.encode(), {**parameters, "tenant_id": tenant_id})
            return await cursor.fetchall()

        return await _sources(rows, pictures)


def pictures_of(rows: list[ImageRow], wanted: Wanted) -> list[Picture]:
    """The frames that are shown. Raises NotFound, NotAcceptable and PayloadTooLarge."""
    if wanted.wants_all or wanted.wants_animation:
        return all_pictures(rows, wanted.frames)
    if wanted.frames is not None and len(wanted.frames) > 1:
        raise NotAcceptable(f"{len(wanted.frames)} frames are served as {MULTIPART} or {GIF} only")
    return [one_picture(rows, wanted.frames, middle_frame=wanted.is_thumbnail)]


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
        digest.update(f"{picture.row.instance.storage_uri} {picture.frame}".encode())
    return f'"{digest.hexdigest()[:32]}"'


@lru_cache
def _cache(folder: Path, limit_bytes: int) -> PictureCache:
    return PictureCache(folder, limit_bytes)


def _key(
    services: Services, caller: Caller, picture: Picture, wanted: Wanted
) -> tuple[PictureCache, str] | None:
    """Where the image is kept; nowhere with names burned in, and no animation."""
    if wanted.rendering.annotation or wanted.wants_animation:
        return None
    settings = services.settings
    cache = _cache(settings.picture_dir, settings.picture_cache_bytes)
    key = PictureCache.key(
        caller.tenant.id,
        picture.row.instance.storage_uri,
        render.VERSION,
        picture.frame,
        wanted.rendering,
    )
    return cache, key


async def _kept(
    services: Services, caller: Caller, picture: Picture, wanted: Wanted
) -> bytes | None:
    """An image that was rendered before; read in a thread only where that waits for the disk."""
    place = _key(services, caller, picture, wanted)
    if place is None:
        return None
    cache, key = place
    try:
        return cache.at_once(key)
    except BlockingIOError:
        return await to_thread.run_sync(cache.get, key)


async def _images_of(
    services: Services,
    caller: Caller,
    pictures: list[Picture],
    sources: Sources,
    wanted: Wanted,
) -> AsyncIterator[bytes]:
    """The pictures one after the other."""
    for picture in pictures:
        yield await decode_slots().run(
            caller.tenant.id, _render, services, caller, [picture], sources, wanted,
            is_patient=picture is not pictures[0],
        )  # fmt: skip


async def _parts(
    wanted: Wanted,
    pictures: list[Picture],
    images: AsyncIterator[bytes],
    writer: MultipartWriter,
) -> AsyncIterator[bytes]:
    at = iter(pictures)
    async for image in images:
        picture = next(at)
        instance = picture.row.instance
        url = wanted.target.instance_url(instance.series_uid, instance.sop_instance_uid)
        location = f"{url}/frames/{picture.frame}/rendered"
        yield writer.head(wanted.rendering.media_type, location) + image
    yield writer.tail()


def _render(
    services: Services,
    caller: Caller,
    pictures: list[Picture],
    sources: Sources,
    wanted: Wanted,
) -> bytes:
    """Render one frame, or several of one instance as an animation; blocking."""
    row = sources[pictures[0].row.instance.storage_uri]
    if len(pictures) > 1:
        indexes = [picture.frame - 1 for picture in pictures]
        return render.render_animation(services.objects, row, indexes, wanted.rendering)
    place = _key(services, caller, pictures[0], wanted)
    image = place[0].get(place[1]) if place is not None else None
    if image is None:
        index = pictures[0].frame - 1
        image = render.render_frame(services.objects, row, index, wanted.rendering)
        if place is not None:
            place[0].put(place[1], image)
    return image
