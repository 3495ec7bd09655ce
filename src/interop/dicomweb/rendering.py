"""The parameters of rendered resources (PS3.18 8.3.5): pure, text in, a Rendering out.

BadRequest for what is not understood.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from interop.dicomweb.media_types import ANY, MediaType
from interop.errors import BadRequest, NotAcceptable, UnsupportedParameter

MAX_VIEWPORT = 8_192
DEFAULT_QUALITY = 90
JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
HTML, PDF = "text/html", "application/pdf"
IMAGES = (JPEG, PNG, GIF)
# Of adobergb and rommrgb, which PS3.18 8.3.5.1.5 names too, no profile is at hand.
ICC_PROFILES = ("no", "yes", "srgb")
ANNOTATIONS = ("patient", "technique")
_WINDOW_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}


@dataclass(frozen=True, slots=True)
class Viewport:
    """The size that the image is fitted into, and the part (x, y, width, height) that is shown.

    A negative width or height of the part flips it. `is_relative`: the part is in parts of the
    whole, not in pixels.
    """

    width: int
    height: int
    source: tuple[float, float, float, float] | None = None
    is_relative: bool = False
    enlarges: bool = True


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
    annotation: tuple[str, ...] = ()
    icc_profile: str = "no"


def parse_rendering(parameters: Iterable[tuple[str, str]]) -> Rendering:
    """Read the parameters of a rendered resource, but its media type. Raises BadRequest."""
    quality, viewport, window = DEFAULT_QUALITY, None, None
    annotation: tuple[str, ...] = ()
    icc_profile = "no"
    for name, value in parameters:
        match name:
            case "quality":
                quality = parse_quality(value)
            case "viewport":
                viewport = _viewport(value)
            case "window":
                window = _window(value)
            case "annotation":
                annotation = parse_annotation(value)
            case "iccprofile":
                icc_profile = _icc_profile(value)
            case "accept" | "charset":
                pass
            case _:
                raise UnsupportedParameter(
                    f"unknown parameter {name[:80]!r}; expected quality, viewport, window,"
                    " annotation or iccprofile"
                )
    return Rendering(JPEG, quality, viewport, window, annotation, icc_profile)


def takes_image(wanted: Iterable[MediaType]) -> bool:
    """Whether any image type that is made here would be taken."""
    return _first_of(wanted, IMAGES) is not None


def choose_image(wanted: Iterable[MediaType]) -> str:
    """JPEG, the default of PS3.18 8.7.4, or PNG or GIF. Raises NotAcceptable."""
    found = _first_of(wanted, IMAGES)
    if found is None:
        raise NotAcceptable(f"rendered images are served as {', '.join(IMAGES)}")
    return found


def require_document(wanted: Iterable[MediaType], media_type: str) -> None:
    """Raise NotAcceptable unless the caller takes a document of this type, as a bare body."""
    if _first_of((m for m in wanted if not m.is_multipart), (media_type,)) is None:
        raise NotAcceptable(f"this instance is rendered as {media_type} only")


def require_renderable(wanted: Iterable[MediaType]) -> None:
    """Raise NotAcceptable where nothing that is made here would be taken, whatever the object."""
    kinds = (*IMAGES, HTML, PDF)
    if _first_of(wanted, kinds) is None:
        raise NotAcceptable(f"rendered resources are served as {', '.join(kinds)}")


def _first_of(wanted: Iterable[MediaType], served: tuple[str, ...]) -> str | None:
    for media_type in wanted:
        for name in served:
            if media_type.part_type == ANY or media_type.admits(name):
                return name
    return None


def parse_quality(value: str) -> int:
    """PS3.18 8.3.5.1.2."""
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:4]) <= 100:
        raise BadRequest(f"quality={value[:40]!r} must be a whole number from 1 to 100")
    return int(value)


def parse_annotation(value: str) -> tuple[str, ...]:
    """PS3.18 8.3.5.1.1: what is burned into the image; other keywords are refused."""
    keywords = [keyword.strip() for keyword in value.split(",")]
    if not all(keyword in ANNOTATIONS for keyword in keywords):
        raise BadRequest(
            f"annotation={value[:80]!r}: expected {' or '.join(ANNOTATIONS)}, or both with a comma"
        )
    return tuple(keyword for keyword in ANNOTATIONS if keyword in keywords)


def _icc_profile(value: str) -> str:
    if value not in ICC_PROFILES:
        raise BadRequest(f"iccprofile={value[:40]!r}: expected one of {', '.join(ICC_PROFILES)}")
    return value


def _viewport(value: str) -> Viewport:
    expected = (
        f"viewport={value[:80]!r}: expected vw,vh or vw,vh,sx,sy,sw,sh with whole vw and vh from 1 "
        f"to {MAX_VIEWPORT}; sx and sy 0 or more, sw and sh not 0, negative to flip"
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
        x, y, w, h = (finite(part) for part in parts[2:])
    except ValueError:
        raise BadRequest(expected) from None
    if min(x, y) < 0 or 0 in (w, h):
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
        center, width = finite(parts[0]), finite(parts[1])
    except ValueError:
        raise BadRequest(expected) from None
    function = _WINDOW_FUNCTIONS[parts[2].lower()]
    # PS3.3 C.11.2.1.2: LINEAR divides by width - 1.
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise BadRequest(expected)
    return Window(center, width, function)


def finite(text: str) -> float:
    """A decimal number. Raises ValueError for infinity, NaN and what is very long."""
    number = float(text)
    if not math.isfinite(number) or len(text) > 32:
        raise ValueError(text)
    return number
