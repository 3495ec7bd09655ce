"""WADO-RS rendered and thumbnail resources (PS3.18 10.4.1.1.3, 10.4.1.1.4, 8.3.5).

Pixels of strangers are decoded in a limited child process (security.md B5). A study or a series is
shown by the middle frame of its middle image; PS3.18 leaves that choice to the server.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_VIEWPORT = 8_192
THUMBNAIL_SIZE = 256
JPEG, PNG = "image/jpeg", "image/png"
DEFAULT_QUALITY = 90
_WINDOW_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}


@dataclass(frozen=True, slots=True)
class Viewport:
    """The size that the image is fitted into, and the part of the source that is shown."""

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

    quality: int = DEFAULT_QUALITY
    viewport: Viewport | None = None
    window: Window | None = None
