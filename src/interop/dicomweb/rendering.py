"""The parameters of rendered resources, quality, viewport and window (PS3.18 8.3.5).

Pure: text in, a Rendering out, BadRequest for what is not understood.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from interop.dicomweb.media_types import ANY, MediaType
from interop.errors import BadRequest, NotAcceptable, UnsupportedParameter

MAX_VIEWPORT = 8_192
DEFAULT_QUALITY = 90
JPEG, PNG = "image/jpeg", "image/png"
_WINDOW_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}


@dataclass(frozen=True, slots=True)
class Viewport:
    """The size that the image is fitted into, and the part (x, y, width, height) that is shown."""

    width: int
    height: int
    source: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window; `function` as in VOI LUT Function (0028,1056)."""

    center: float
    width: float
    function: str


@dataclass(frozen=True, slots=True)
class Rendering:
    """How an image is to be rendered."""

    media_type: str = JPEG
    quality: int = DEFAULT_QUALITY
    viewport: Viewport | None = None
    window: Window | None = None


def parse_rendering(
    parameters: Iterable[tuple[str, str]], wanted: Iterable[MediaType]
) -> Rendering:
    """Read the parameters of a rendered resource. Raises BadRequest and NotAcceptable."""
    quality, viewport, window = DEFAULT_QUALITY, None, None
    for name, value in parameters:
        match name:
            case "quality":
                quality = _quality(value)
            case "viewport":
                viewport = _viewport(value)
            case "window":
                window = _window(value)
            case "accept" | "charset":
                pass
            case _:
                raise UnsupportedParameter(
                    f"unknown parameter {name[:80]!r}; expected quality, viewport or window"
                )
    return Rendering(choose_image(wanted), quality, viewport, window)


def choose_image(wanted: Iterable[MediaType]) -> str:
    """JPEG, the default of PS3.18 8.7.4, or PNG."""
    for media_type in wanted:
        if media_type.part_type in (ANY, "*/*") or media_type.admits(JPEG):
            return JPEG
        if media_type.admits(PNG):
            return PNG
    raise NotAcceptable(f"rendered images are served as {JPEG} or {PNG}")


def _quality(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:4]) <= 100:
        raise BadRequest(f"quality={value[:40]!r} must be a whole number from 1 to 100")
    return int(value)


def _viewport(value: str) -> Viewport:
    expected = (
        f"viewport={value[:80]!r}: expected vw,vh or vw,vh,sx,sy,sw,sh with whole vw and vh from 1 "
        f"to {MAX_VIEWPORT}; sx and sy 0 or more, sw and sh above 0"
    )
    parts = [part.strip() for part in value.split(",")]
    if len(parts) not in (2, 6) or not all(p.isascii() and p.isdigit() for p in parts[:2]):
        raise BadRequest(expected)
    width, height = (int(part[:9]) for part in parts[:2])
    if not (1 <= width <= MAX_VIEWPORT and 1 <= height <= MAX_VIEWPORT):
        raise BadRequest(expected)
    if len(parts) == 2:
        return Viewport(width, height)
    try:
        x, y, w, h = (_finite(part) for part in parts[2:])
    except ValueError:
        raise BadRequest(expected) from None
    if min(x, y) < 0 or min(w, h) <= 0:
        raise BadRequest(expected)
    return Viewport(width, height, (x, y, w, h))


def _window(value: str) -> Window:
    expected = (
        f"window={value[:80]!r}: expected center,width,function with function one of "
        f"{', '.join(_WINDOW_FUNCTIONS)}; the width is above 0, for linear 1 or more"
    )
    parts = [part.strip() for part in value.split(",")]
    if len(parts) == 2:
        parts.append("linear")
    if len(parts) != 3 or parts[2].lower() not in _WINDOW_FUNCTIONS:
        raise BadRequest(expected)
    try:
        center, width = _finite(parts[0]), _finite(parts[1])
    except ValueError:
        raise BadRequest(expected) from None
    function = _WINDOW_FUNCTIONS[parts[2].lower()]
    # PS3.3 C.11.2.1.2: LINEAR divides by width - 1.
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise BadRequest(expected)
    return Window(center, width, function)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or len(text) > 32:
        raise ValueError(text)
    return number
