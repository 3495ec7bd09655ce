"""A PNG or JPEG file as native pixels. Runs in the limited child process."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from interop.dicom.decode import CannotDecode

MOST_PIXELS = 64_000_000


def file_pixels(body: bytes | memoryview) -> tuple[list[int], bytes]:
    """Return (rows, columns, samples, bits) and the values, transparency over white."""
    with Image.open(BytesIO(body), formats=("PNG", "JPEG")) as image:
        if image.width * image.height > MOST_PIXELS:
            raise CannotDecode(f"the picture has more than {MOST_PIXELS} pixels")
        image.load()
        if image.mode.startswith("I"):
            values = np.asarray(image).astype("<u2")
            return [image.height, image.width, 1, 16], values.tobytes()
        if "A" in image.mode or "transparency" in image.info:
            seen = image.convert("RGBA")
            shown = Image.new("RGBA", seen.size, "white")
            shown.alpha_composite(seen)
            is_grey = image.mode == "LA"
            picture = shown.convert("L" if is_grey else "RGB")
        else:
            is_grey = image.mode in ("1", "L")
            picture = image.convert("L" if is_grey else "RGB")
        return [image.height, image.width, 1 if is_grey else 3, 8], picture.tobytes()
