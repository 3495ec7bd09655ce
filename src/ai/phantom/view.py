"""The mapping between anatomical millimetres and the pixels of a picture, with small windows.

Millimetres: x to the right, y down, origin at the midpoint of the occlusal line. Everything is
drawn inside windows of a few thousand pixels; evaluating 32 teeth on the full picture costs
twenty times as much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """A rectangle of the picture with the millimetre coordinates of its pixel centres."""

    rows: slice
    columns: slice
    x: Field
    y: Field

    @property
    def index(self) -> tuple[slice, slice]:
        return self.rows, self.columns


@dataclass(frozen=True)
class View:
    """A picture of `height` x `width` pixels, `pitch` mm each, turned by `angle` radians."""

    height: int
    width: int
    pitch: float
    center_row: float
    center_column: float
    angle: float = 0.0

    def to_pixels(self, x: float, y: float) -> tuple[float, float]:
        """Return (column, row) of a point given in millimetres."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return (
            self.center_column + (x * cos - y * sin) / self.pitch,
            self.center_row + (x * sin + y * cos) / self.pitch,
        )

    def window(self, points: list[tuple[float, float]], margin: float) -> Window:
        """Return the part of the picture around the points, clipped to the picture."""
        pixels = [self.to_pixels(x, y) for x, y in points]
        extra = margin / self.pitch
        left = max(0, math.floor(min(c for c, _ in pixels) - extra))
        right = min(self.width, math.ceil(max(c for c, _ in pixels) + extra) + 1)
        top = max(0, math.floor(min(r for _, r in pixels) - extra))
        bottom = min(self.height, math.ceil(max(r for _, r in pixels) + extra) + 1)
        return self._grid(slice(top, max(top, bottom)), slice(left, max(left, right)))

    def full(self) -> Window:
        """Return the whole picture as a window."""
        return self._grid(slice(0, self.height), slice(0, self.width))

    def _grid(self, rows: slice, columns: slice) -> Window:
        row = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - self.center_row
        column = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - self.center_column
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x = ((column * cos + row * sin) * self.pitch).astype(np.float32)
        y = ((row * cos - column * sin) * self.pitch).astype(np.float32)
        return Window(rows, columns, x, y)

    def halved(self) -> View:
        """Return the view of the same scene with half as many rows and columns."""
        return View(
            (self.height + 1) // 2,
            (self.width + 1) // 2,
            self.pitch * 2,
            (self.center_row + 0.5) / 2 - 0.5,
            (self.center_column + 0.5) / 2 - 0.5,
            self.angle,
        )

    def polygon(self, points: list[tuple[float, float]]) -> Field:
        """Return 1 inside the polygon given in millimetres, 0 outside."""
        picture = Image.new("L", (self.width, self.height), 0)
        ImageDraw.Draw(picture).polygon([self.to_pixels(x, y) for x, y in points], fill=1)
        return np.asarray(picture, dtype=np.float32)


def smooth_curve(points: list[tuple[float, float]], rounds: int = 3) -> list[tuple[float, float]]:
    """Round the corners of a closed polygon (Chaikin's corner cutting)."""
    for _ in range(rounds):
        cut: list[tuple[float, float]] = []
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            cut.append((0.75 * x0 + 0.25 * x1, 0.75 * y0 + 0.25 * y1))
            cut.append((0.25 * x0 + 0.75 * x1, 0.25 * y0 + 0.75 * y1))
        points = cut
    return points
