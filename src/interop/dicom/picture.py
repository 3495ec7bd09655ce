"""A displayed image as JPEG, PNG or GIF: viewport, annotation, ICC profile (PS3.18 8.3.5.1).

Runs in the limited child process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import imagecodecs
import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont

from interop.dicom.decode import CannotDecode
from interop.dicom.display import Grey

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
MOST_PIXELS = 64_000_000
# Text of a thirtieth of the image's height, between these sizes.
_TEXT_PART, _SMALLEST_TEXT, _LARGEST_TEXT = 30, 10, 40


@dataclass(frozen=True, slots=True)
class Viewport:
    """What the image is fitted into, and the part (x, y, width, height) of it that is shown.

    A negative width or height of the part flips it; it is in pixels or in parts of the whole.
    """

    width: int
    height: int
    source: Sequence[float] | None = None
    is_relative: bool = False
    enlarges: bool = True


@dataclass(frozen=True, slots=True)
class Finish:
    """What is done to a displayed image before it is encoded."""

    viewport: Viewport | None = None
    # Lines that are burned in at the top and at the bottom.
    top: Sequence[str] = ()
    bottom: Sequence[str] = ()
    # "no", "yes" or "srgb"; and the profile of the stored image, if it has one.
    icc_profile: str = "no"
    stored_profile: bytes = b""


def finished(grey: Grey, finish: Finish) -> Grey:
    """Return the image as it is shown. Raises CannotDecode for more than 64 megapixels."""
    if finish.viewport is not None:
        grey = _fitted(grey, finish.viewport)
    if grey.shape[0] * grey.shape[1] > MOST_PIXELS:
        raise CannotDecode(f"the image has more than {MOST_PIXELS} pixels; ask for a viewport")
    if finish.top or finish.bottom:
        grey = _annotated(grey, finish)
    return grey


def picture(grey: Grey, media_type: str, quality: int, finish: Finish) -> bytes:
    """Return the encoded image."""
    grey = finished(grey, finish)
    if finish.icc_profile != "no" and media_type != GIF:
        return _profiled(Image.fromarray(grey), media_type, quality, finish)
    if media_type == JPEG:
        return bytes(imagecodecs.jpeg8_encode(grey, level=quality))
    return _saved(Image.fromarray(grey), media_type, {})


def animation(frames: Sequence[Grey], milliseconds: int) -> bytes:
    """Return an animated GIF that repeats for ever."""
    images = [Image.fromarray(frame) for frame in frames]
    buffer = BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0
    )
    return buffer.getvalue()


def _saved(image: Image.Image, media_type: str, options: dict[str, object]) -> bytes:
    buffer = BytesIO()
    if media_type == PNG:
        # Level 1: three times as fast as the default for a tenth more bytes.
        image.save(buffer, "PNG", compress_level=1, **options)
    elif media_type == JPEG:
        image.save(buffer, "JPEG", **options)
    elif media_type == GIF:
        image.save(buffer, "GIF")
    else:
        raise CannotDecode(f"{media_type} is not an image type that is made here")
    return buffer.getvalue()


def _profiled(image: Image.Image, media_type: str, quality: int, finish: Finish) -> bytes:
    """Encode with an ICC profile: the stored one or sRGB (PS3.18 8.3.5.1.5)."""
    is_colour = image.mode == "RGB"
    # Grey levels without a profile of their own are shown as sRGB shows them.
    image = image.convert("RGB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if is_colour and finish.stored_profile:
        if finish.icc_profile == "yes":
            profile = finish.stored_profile
        else:
            try:
                stored = ImageCms.ImageCmsProfile(BytesIO(finish.stored_profile))
                srgb = ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, stored, srgb) or image
            except (ImageCms.PyCMSError, OSError) as error:
                raise CannotDecode(f"the ICC profile of the image is damaged: {error}") from error
    return _saved(image, media_type, {"icc_profile": profile, "quality": quality})


def _fitted(grey: Grey, viewport: Viewport) -> Grey:
    """Return the source region scaled to fit, its aspect ratio kept (PS3.18 8.3.5.1.3)."""
    rows, columns = grey.shape[:2]
    x, y, w, h = viewport.source or (0.0, 0.0, float(columns), float(rows))
    if viewport.source and viewport.is_relative:
        x, y, w, h = x * columns, y * rows, w * columns, h * rows
    left, top = max(int(x), 0), max(int(y), 0)
    right, bottom = min(round(x + abs(w)), columns), min(round(y + abs(h)), rows)
    if right <= left or bottom <= top:
        raise CannotDecode(
            f"the viewport's source region lies outside the image of {columns} by {rows} pixels"
        )
    part = grey[top:bottom, left:right]
    part = part[:, ::-1] if w < 0 else part
    part = np.ascontiguousarray(part[::-1] if h < 0 else part)
    scale = min(viewport.width / part.shape[1], viewport.height / part.shape[0])
    if not viewport.enlarges:
        scale = min(scale, 1.0)
    size = (max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1))
    if size == (part.shape[1], part.shape[0]):
        return part
    image = Image.fromarray(part)
    # reducing_gap shrinks by whole factors first, which is what makes thumbnails cheap.
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _annotated(grey: Grey, finish: Finish) -> Grey:
    """Burn the lines in: white with a dark edge, readable on any image."""
    image = Image.fromarray(grey)
    size = min(max(image.height // _TEXT_PART, _SMALLEST_TEXT), _LARGEST_TEXT)
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(image)
    white, black = (255, 0) if image.mode == "L" else ((255, 255, 255), (0, 0, 0))
    edge = max(size // 10, 1)
    step = size + 2 * edge
    places = [(n * step + edge, line) for n, line in enumerate(finish.top)]
    start = image.height - len(finish.bottom) * step - edge
    places += [(start + n * step, line) for n, line in enumerate(finish.bottom)]
    for y, line in places:
        draw.text((edge * 2, y), line, white, font, stroke_width=edge, stroke_fill=black)
    return np.asarray(image)
