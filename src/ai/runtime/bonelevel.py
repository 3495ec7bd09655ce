"""Measures the bone level of one tooth: how far the crest lies below the CEJ along its axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.dentition import fdi_of_label, side_of_midline
from ai.runtime.regions import Area

Float = NDArray[np.float32]
Point = tuple[float, float]


@dataclass(frozen=True)
class ToothFrame:
    """Axis of a tooth in network pixels: `s` grows from the biting edge to the apex."""

    center: Point
    axis: Point
    start: float
    cej: float
    apex: float
    half_width: float
    mesial_sign: int

    def to_frame(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (u, s): u is positive towards distal."""
        dx, dy = x - self.center[0], y - self.center[1]
        s = dx * self.axis[0] + dy * self.axis[1]
        across = dx * abs(self.axis[1]) - dy * self.axis[0] * math.copysign(1, self.axis[1])
        return -self.mesial_sign * across, s

    def to_picture(self, u: float, s: float) -> Point:
        """Return (x, y) of a point of the frame."""
        across = -self.mesial_sign * u
        sign = math.copysign(1, self.axis[1])
        return (
            self.center[0] + s * self.axis[0] + across * abs(self.axis[1]),
            self.center[1] + s * self.axis[1] - across * self.axis[0] * sign,
        )


@dataclass(frozen=True)
class BoneLevel:
    """Bone level in percent of the root length and the CEJ-crest line of the worse side."""

    percent: float
    line: tuple[Point, Point]


def frame_of(area: Area, part: Float, label: int) -> ToothFrame | None:
    """Return the frame of a tooth, or None when crown or root cannot be told apart.

    `part` is 4 x H x W: background, crown, exposed root, root in bone.
    """
    rows, columns = area.rows, area.columns
    crown = part[1, rows, columns]
    root = part[2, rows, columns] + part[3, rows, columns]
    if crown.sum() < 12 or root.sum() < 12:
        return None
    top = np.array([np.average(columns, weights=crown), np.average(rows, weights=crown)])
    end = np.array([np.average(columns, weights=root), np.average(rows, weights=root)])
    along = end - top
    length = float(np.hypot(*along))
    if length < 2 or abs(along[1]) < 0.2 * length:
        return None
    axis = along / length
    s = (columns - top[0]) * axis[0] + (rows - top[1]) * axis[1]
    across = (columns - top[0]) * abs(axis[1]) - (rows - top[1]) * axis[0] * np.sign(axis[1])
    cej = _border(s, crown, root)
    is_crown = s < cej
    if is_crown.sum() < 8:
        return None
    half = float(np.percentile(np.abs(across[is_crown]), 95))
    return ToothFrame(
        center=(float(top[0]), float(top[1])),
        axis=(float(axis[0]), float(axis[1])),
        start=float(s.min()) - 0.5,
        cej=cej,
        apex=float(s.max()) + 0.5,
        half_width=half,
        # Left of the midline mesial is to the right.
        mesial_sign=-side_of_midline(fdi_of_label(label)),
    )


def measure(area: Area, part: Float, frame: ToothFrame) -> BoneLevel | None:
    """Return the bone level, or None when the root is too short to measure."""
    root_length = frame.apex - frame.cej
    if root_length < 6:
        return None
    rows, columns = area.rows, area.columns
    u, s = frame.to_frame(columns.astype(float), rows.astype(float))
    crown, exposed, in_bone = part[1:4, rows, columns]
    sides = []
    for chosen, offset in ((u < 0, -0.7), (u >= 0, 0.7)):
        root = chosen & (s > frame.cej - 2)
        if root.sum() < 8:
            return None
        crest = _border(s[root], exposed[root] + crown[root], in_bone[root])
        sides.append((max(crest - frame.cej, 0.0), offset * frame.half_width))
    percent = 100 * sum(depth for depth, _ in sides) / 2 / root_length
    depth, offset = max(sides)
    line = (
        frame.to_picture(offset, frame.cej),
        frame.to_picture(offset * 0.85, frame.cej + depth),
    )
    return BoneLevel(min(percent, 100.0), line)


def _border(s: NDArray[np.float64], before: Float, after: Float) -> float:
    """Return the level s that best parts the weights `before` (above) from `after` (below)."""
    order = np.argsort(s, kind="stable")
    gain = np.cumsum((before - after)[order])
    best = int(np.argmax(gain))
    if gain[best] <= 0:
        return float(s[order[0]]) - 0.5
    if best + 1 >= len(s):
        return float(s[order[-1]]) + 0.5
    return float(s[order[best]] + s[order[best + 1]]) / 2
