"""Rendered frames, thumbnails, and pixels for the AI (PS3.18 10.4.1.1.3, 10.4.1.1.4).

The caller's process reads the frame's bytes and nothing more; decoding, windowing and encoding
happen in the limited child process (security.md B5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from interop.dicom.annotations import patient_lines, technique_lines
from interop.dicom.decodable import can_decode
from interop.dicom.decode_pool import DecodePool, shared_pool
from interop.dicom.frames import (
    FrameObjects,
    FrameRow,
    bulk_value,
    description,
    stored_frame,
)
from interop.dicom.pixels import PixelDescription, stored_profile
from interop.errors import NotAcceptable, PayloadTooLarge, Unprocessable

# Part of the entity tag of every image: raise it when the same pixels come out differently.
VERSION = "4"
_MOST_SAMPLES = 256_000_000
# Displayed values of all images of one animation, which are held at once.
_MOST_ANIMATED = 32 << 20
_FRAME_MILLISECONDS = 100


class ViewportParameters(Protocol):
    """The size to fit into, and the part of the image that is shown (PS3.18 8.3.5.1.3)."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def source(self) -> tuple[float, float, float, float] | None: ...
    @property
    def is_relative(self) -> bool: ...
    @property
    def enlarges(self) -> bool: ...


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
    @property
    def annotation(self) -> Sequence[str]: ...
    @property
    def icc_profile(self) -> str: ...


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
    wanted = _wanted(objects, row, index, parameters, parameters.media_type)
    return _picture(objects, row, index, wanted, pool)[1]


def render_animation(
    objects: FrameObjects,
    row: FrameRow,
    indexes: Sequence[int],
    parameters: RenderParameters,
    pool: DecodePool | None = None,
) -> bytes:
    """Return frames, counted from 0, as an animated GIF at the pace that the object asks for.

    Raises PayloadTooLarge for more pixels than are held for one answer.
    """
    shown: list[bytes] = []
    shape: list[int] = []
    for index in indexes:
        wanted = _wanted(objects, row, index, parameters, "")
        answer, values = _picture(objects, row, index, wanted, pool)
        shape = answer["shape"]
        shown.append(values)
        if len(values) * len(indexes) > _MOST_ANIMATED:
            raise PayloadTooLarge(
                f"an animation of {len(indexes)} images of {shape[1]} by {shape[0]} pixels is not"
                " made; ask for a smaller viewport, or for listed frames"
            )
    request = {
        "wanted": "animation",
        "shape": [len(shown), *shape],
        "milliseconds": milliseconds_per_frame(row.dicom_json),
    }
    return (pool or shared_pool()).ask(request, b"".join(shown))[1]


def milliseconds_per_frame(dicom_json: str) -> int:
    """Frame Time (0018,1063), or the recommended or cine rate (PS3.3 C.7.6.5)."""
    attributes = orjson.loads(dicom_json)

    def number(tag: str) -> float:
        value = (attributes.get(tag, {}).get("Value") or [0])[0]
        return float(value) if isinstance(value, int | float) else 0.0

    rate = number("00082144") or number("00180040")
    milliseconds = number("00181063") or (1000 / rate if rate > 0 else 0)
    return round(min(max(milliseconds or _FRAME_MILLISECONDS, 20), 5000))


def _wanted(
    objects: FrameObjects,
    row: FrameRow,
    index: int,
    parameters: RenderParameters,
    media_type: str,
) -> dict[str, object]:
    """What the decoder is to make of the frame."""
    window, viewport = parameters.window, parameters.viewport
    wanted: dict[str, object] = {
        "media_type": media_type,
        "quality": parameters.quality,
        "window": [window.center, window.width, window.function] if window else None,
        "viewport": _viewport(viewport) if viewport is not None else None,
        "icc_profile": parameters.icc_profile,
    }
    if "patient" in parameters.annotation:
        wanted["top"] = patient_lines(row.dicom_json)
    if "technique" in parameters.annotation:
        wanted["bottom"] = technique_lines(row.dicom_json, index + 1, row.number_of_frames)
    if parameters.icc_profile != "no":
        wanted["stored_profile"] = stored_profile(
            row.dicom_json, lambda path: bulk_value(objects, row.storage_uri, path)[1]
        ).hex()
    return wanted


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


def _viewport(viewport: ViewportParameters) -> list[object]:
    return [
        viewport.width,
        viewport.height,
        viewport.source,
        viewport.is_relative,
        viewport.enlarges,
    ]


def _picture(
    objects: FrameObjects,
    row: FrameRow,
    index: int,
    wanted: dict[str, object],
    pool: DecodePool | None,
) -> tuple[dict[str, Any], bytes]:
    described, frame = _described_frame(objects, row, index)
    header = {"wanted": "picture", "pixels": described.as_json(), **wanted}
    return (pool or shared_pool()).ask(header, frame)


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
