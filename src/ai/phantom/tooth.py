"""The outline of one tooth in its own frame: u to distal, v from the biting edge to the apex.

Outlines are signed distances in millimetres (positive inside), so that a picture of any
resolution has soft edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ai.dentition import is_upper, side_of_midline
from ai.phantom.view import Field

# Mesial and distal roots of molars, in relation to the palatal root.
SHORT_ROOT = 0.94


@dataclass(frozen=True)
class CariesPlan:
    """A lesion on surface M, D or O: centre in the tooth frame and radii, in millimetres."""

    surface: str
    u: float
    v: float
    radius_u: float
    radius_v: float
    loss: float


@dataclass(frozen=True)
class ToothPlan:
    """Everything needed to draw one tooth. Lengths in millimetres, `tilt` in radians to distal.

    (x, y) is the middle of the biting edge; `crest_mesial` and `crest_distal` are the levels v of
    the bone crest at the two sides.
    """

    fdi: int
    x: float
    y: float
    tilt: float
    width: float
    crown: float
    root: float
    bend: float
    spread: float
    crest_mesial: float
    crest_distal: float
    impacted: bool = False
    caries: tuple[CariesPlan, ...] = ()
    periapical_radius: float | None = None
    restoration: str | None = None
    is_root_filled: bool = False

    @property
    def position(self) -> int:
        return self.fdi % 10

    @property
    def length(self) -> float:
        return self.crown + self.root

    @property
    def root_reach(self) -> float:
        """Length of the drawn root: lower molars lack the palatal root, which is the longest."""
        is_lower_molar = self.position > 5 and not is_upper(self.fdi)
        return self.root * (SHORT_ROOT if is_lower_molar else 1.0)

    def to_jaw(self, u: float, v: float) -> tuple[float, float]:
        """Return the point (u, v) of the tooth frame in millimetres of the picture."""
        side, down = side_of_midline(self.fdi), -1 if is_upper(self.fdi) else 1
        sin, cos = math.sin(self.tilt), math.cos(self.tilt)
        return (
            self.x + side * (u * cos + v * sin),
            self.y + down * (v * cos - u * sin),
        )

    def to_tooth(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Return (u, v) of points given in millimetres of the picture."""
        side, down = side_of_midline(self.fdi), -1 if is_upper(self.fdi) else 1
        sin, cos = math.sin(self.tilt), math.cos(self.tilt)
        dx, dy = (x - self.x) * side, (y - self.y) * down
        return dx * cos - dy * sin, dx * sin + dy * cos

    def crest(self, u: Field) -> Field:
        """Return the level v of the bone crest over the width of the tooth."""
        share = np.clip(u / self.width + 0.5, 0, 1)
        level: Field = self.crest_mesial + (self.crest_distal - self.crest_mesial) * share
        return level


_CROWN_LEVELS = (0.0, 0.12, 0.35, 0.6, 0.85, 1.0)
_ANTERIOR_CROWN = (0.90, 0.98, 1.0, 0.95, 0.84, 0.78)
_POSTERIOR_CROWN = (0.74, 0.90, 1.0, 0.98, 0.89, 0.83)


def crown_distance(plan: ToothPlan, u: Field, v: Field) -> Field:
    """Return the signed distance to the visible outline of the crown (open towards the root)."""
    shape = _ANTERIOR_CROWN if plan.position <= 3 else _POSTERIOR_CROWN
    half = plan.width / 2 * np.interp(v / plan.crown, _CROWN_LEVELS, shape)
    share = u / plan.width
    if plan.position <= 2:
        edge = 0.5 * np.abs(share) ** 3
    elif plan.position == 3:
        edge = 0.42 * np.abs(share)
    elif plan.position <= 5:
        edge = 0.30 * np.abs(share) + 0.02
    else:
        edge = 0.07 * (1 + np.cos(4 * math.pi * share))
    distance: Field = np.minimum(half - np.abs(u), v - plan.crown * edge)
    return distance


def root_distance(plan: ToothPlan, u: Field, v: Field) -> Field:
    """Return the signed distance to the outline of the root or roots (open towards the crown)."""
    t = (v - plan.crown) / plan.root
    inside = np.clip(t, 0, 1)
    bend = plan.bend * plan.width * inside**2
    if plan.position <= 5:
        half = plan.width * 0.40 * np.sqrt(1 - inside) * (1 - 0.18 * inside)
        distance = half - np.abs(u - bend)
    else:
        distance = 0.41 * plan.width * (1 - 0.3 * inside) - np.abs(u)
        distance = np.minimum(distance, (0.26 - t) * plan.root)
        for offset, half in _molar_roots(plan, inside):
            end = (SHORT_ROOT - t) * plan.root + np.where(half > 0, 1.0, 0.0)
            distance = np.maximum(distance, np.minimum(half - np.abs(u - bend - offset), end))
    result: Field = np.minimum(distance, (1 - t) * plan.root).astype(np.float32)
    return result


def _molar_roots(plan: ToothPlan, t: Field) -> list[tuple[Field, Field]]:
    """Return offset and half width of each root: mesial and distal, and the palatal one above."""
    w = plan.width
    taper = np.sqrt(1 - np.clip(t / SHORT_ROOT, 0, 1))
    roots = [
        (-w * (0.23 + plan.spread * t), w * 0.18 * taper),
        (w * (0.22 + plan.spread * t), w * 0.17 * taper),
    ]
    if is_upper(plan.fdi):
        roots.append((w * 0.02 * t, w * 0.14 * np.sqrt(1 - t)))
    return roots


def pulp_distance(plan: ToothPlan, u: Field, v: Field) -> Field:
    """Return the signed distance to the pulp chamber and the root canals."""
    t = np.clip((v - plan.crown) / plan.root, 0, 1)
    bend = plan.bend * plan.width * t**2
    chamber_width = 0.10 if plan.position <= 5 else 0.17
    # Chamber horns get narrower towards the biting edge.
    rise = np.clip((v / plan.crown - 0.38) / 0.35, 0, 1)
    floor = plan.crown + (0.5 if plan.position <= 5 else 0.14) * plan.root
    distance = np.minimum(plan.width * chamber_width * np.sqrt(rise) - np.abs(u), floor - v)
    offsets = [np.zeros_like(t)] if plan.position <= 5 else [o for o, _ in _molar_roots(plan, t)]
    for offset in offsets:
        canal = (0.55 if plan.position <= 5 else 0.38) * (1 - 0.75 * t)
        path = np.minimum(canal - np.abs(u - bend - offset), (0.92 - t) * plan.root)
        distance = np.maximum(distance, np.minimum(path, v - plan.crown * 0.8))
    result: Field = np.minimum(distance, v - plan.crown * 0.38).astype(np.float32)
    return result


def enamel_thickness(plan: ToothPlan, v: Field) -> Field:
    """Return the thickness of the enamel: full on the biting edge, nothing at the CEJ."""
    level = np.clip(v / plan.crown, 0, 1)
    full = 1.0 if plan.position <= 3 else 1.6
    thickness: Field = full * np.sqrt(np.clip(1 - level / 0.97, 0, 1))
    return thickness


def coverage(distance: Field, pitch: float, softness: float = 1.0) -> Field:
    """Turn a signed distance into the covered share of a pixel, with an edge of `softness` px."""
    share: Field = np.clip(distance / (pitch * softness) + 0.5, 0, 1)
    return share
