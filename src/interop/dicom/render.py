"""Rendered frames, thumbnails, and pixels for the AI (PS3.18 10.4.1.1.3, 10.4.1.1.4).

The caller's process reads the frame's bytes and nothing more; decoding, windowing and encoding
happen in the limited child process (security.md B5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interop.dicom.decodable import can_decode
from interop.dicom.decode_pool import DecodePool, shared_pool
from interop.dicom.frames import (
    FrameObjects,
    FrameRow,
    OneFile,
    description,
    stored_frame,
    stored_row,
)
from interop.dicom.pixels import PixelDescription
from interop.errors import NotAcceptable, Unprocessable

# Part of the entity tag of every image: raise it when the same pixels come out differently.
VERSION = "2"
THUMBNAIL_SIDE = 256
_THUMBNAIL_QUALITY = 80
_MOST_SAMPLES = 256_000_000


class ViewportParameters(Protocol):
    """The size to fit into, and the part of the image that is shown (PS3.18 8.3.5.1.3)."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def source(self) -> tuple[float, float, float, float] | None: ...


class WindowParameters(Protocol):
    """A VOI window (PS3.18 8.3.5.1.4); ``function`` as in VOI LUT Function (0028,1056)."""

    @property
    def center(self) -> float: ...
    @property
    def width(self) -> float: ...
    @property
    def function(self) -> str: ...


class RenderParameters(Protocol):
    """How an image is to be rendered (PS3.18 8.3.5)."""

    @property
    def media_type(self) -> str: ...
    @property
    def quality(self) -> int: ...
    @property
    def viewport(self) -> ViewportParameters | None: ...
    @property
    def window(self) -> WindowParameters | None: ...


def render_frame(
    objects: FrameObjects,
    row: FrameRow,
    index: int,
    parameters: RenderParameters,
    pool: DecodePool | None = None,
) -> bytes:
    """Return a frame, counted from 0, as an image of ``parameters.media_type``.

    Raises NotFound for a frame that is not there and Unprocessable for one that has no picture.
    """
    window, viewport = parameters.window, parameters.viewport
    return _picture(
        objects,
        row,
        index,
        {
            "media_type": parameters.media_type,
            "quality": parameters.quality,
            "window": [window.center, window.width, window.function] if window else None,
            "viewport": [viewport.width, viewport.height, viewport.source] if viewport else None,
        },
        pool,
    )


def render_object(
    objects: FrameObjects,
    key: str,
    index: int,
    parameters: RenderParameters,
    pool: DecodePool | None = None,
) -> bytes:
    """Render a frame of a stored object of which only the key is known; parses its header."""
    return render_frame(objects, stored_row(objects, key), index, parameters, pool)


def render(
    file: Path, index: int, parameters: RenderParameters, pool: DecodePool | None = None
) -> bytes:
    """Render a frame of a file, counted from 0."""
    return render_object(OneFile(file), str(file), index, parameters, pool)


def thumbnail(
    objects: FrameObjects,
    row: FrameRow,
    index: int | None = None,
    *,
    side: int = THUMBNAIL_SIDE,
    media_type: str = "image/jpeg",
    pool: DecodePool | None = None,
) -> bytes:
    """Return a small image of a frame, of the middle one when none is named."""
    if index is None:
        index = max(row.number_of_frames - 1, 0) // 2
    wanted = {
        "media_type": media_type,
        "quality": _THUMBNAIL_QUALITY,
        "window": None,
        "viewport": [side, side, None],
    }
    return _picture(objects, row, index, wanted, pool)


def display_pixels(
    objects: FrameObjects, row: FrameRow, index: int = 0, pool: DecodePool | None = None
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return all bits of a frame with larger values brighter; colour as [rows, columns, 3]."""
    described, frame = _described_frame(objects, row, index)
    header = {"wanted": "polarity", "pixels": described.as_json()}
    answer, data = (pool or shared_pool()).ask(header, frame)
    shape, dtype = tuple(answer.get("shape", ())), answer.get("dtype")
    if dtype not in ("|u1", "<u2") or len(shape) not in (2, 3):
        raise Unprocessable("the decoder's answer is no image")
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape)


def _picture(
    objects: FrameObjects,
    row: FrameRow,
    index: int,
    wanted: dict[str, object],
    pool: DecodePool | None,
) -> bytes:
    described, frame = _described_frame(objects, row, index)
    header = {"wanted": "picture", "pixels": described.as_json(), **wanted}
    _, image = (pool or shared_pool()).ask(header, frame)
    return image


def _described_frame(
    objects: FrameObjects, row: FrameRow, index: int
) -> tuple[PixelDescription, bytes]:
    if not row.number_of_frames:
        raise NotAcceptable("the instance has no pixel data and so no picture")
    if not can_decode(row.transfer_syntax_uid):
        raise NotAcceptable(f"transfer syntax {row.transfer_syntax_uid} cannot be rendered here")
    described = description(objects, row, index)
    if described.rows * described.columns * described.samples_per_pixel > _MOST_SAMPLES:
        raise Unprocessable(
            f"an image of {described.columns} by {described.rows} pixels is not rendered"
        )
    return described, stored_frame(objects, row, index)
