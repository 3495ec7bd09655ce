"""A displayed image as JPEG, PNG or GIF, cropped and scaled to a viewport (PS3.18 8.3.5.1).

Runs in the limited child process.
"""

from __future__ import annotations

from io import BytesIO

import imagecodecs
from PIL import Image

from interop.dicom.decode import CannotDecode
from interop.dicom.display import Grey

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
MOST_PIXELS = 64_000_000

# (width, height, source region as x, y, width, height or None)
Viewport = tuple[int, int, tuple[float, float, float, float] | None]


def picture(grey: Grey, media_type: str, quality: int, viewport: Viewport | None) -> bytes:
    """Return the encoded image. Raises CannotDecode for more than 64 megapixels."""
    if viewport is not None:
        grey = _fitted(grey, viewport)
    if grey.shape[0] * grey.shape[1] > MOST_PIXELS:
        raise CannotDecode(f"the image has more than {MOST_PIXELS} pixels; ask for a viewport")
    if media_type == JPEG:
        return bytes(imagecodecs.jpeg8_encode(grey, level=quality))
    buffer = BytesIO()
    image = Image.fromarray(grey)
    if media_type == PNG:
        # Level 1: three times as fast as the default for a tenth more bytes.
        image.save(buffer, "PNG", compress_level=1)
    elif media_type == GIF:
        image.save(buffer, "GIF")
    else:
        raise CannotDecode(f"{media_type} is not an image type that is made here")
    return buffer.getvalue()


def _fitted(grey: Grey, viewport: Viewport) -> Grey:
    """Return the source region scaled to fit, its aspect ratio kept (PS3.18 8.3.5.1.3)."""
    import numpy as np

    width, height, source = viewport
    rows, columns = grey.shape[:2]
    x, y, w, h = source or (0.0, 0.0, float(columns), float(rows))
    left, top = max(int(x), 0), max(int(y), 0)
    right, bottom = min(round(x + w), columns), min(round(y + h), rows)
    if right <= left or bottom <= top:
        raise CannotDecode(
            f"the viewport's source region lies outside the image of {columns} by {rows} pixels"
        )
    part = np.ascontiguousarray(grey[top:bottom, left:right])
    scale = min(width / part.shape[1], height / part.shape[0])
    size = (max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1))
    if size == (part.shape[1], part.shape[0]):
        return part
    image = Image.fromarray(part)
    # reducing_gap shrinks by whole factors first, which is what makes thumbnails cheap.
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
