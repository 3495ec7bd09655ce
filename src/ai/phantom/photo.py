"""Synthetic frontal intra-oral photograph with retracted lips (RGB)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ai.dentition import is_upper, label_of_fdi
from ai.phantom import tooth as outline
from ai.phantom.arch import Disease, occlusal_height, plan_arch
from ai.phantom.tooth import ToothPlan
from ai.phantom.truth import Mask, PhotoPhantom
from ai.phantom.view import Field

HEIGHT, WIDTH, PITCH_MM = 768, 1152, 0.062
# Seen from the front the arch is a half cylinder of this radius.
RADIUS_MM = 30.0
Color = tuple[float, float, float]
ENAMEL: Color = (226, 216, 192)
GUM: Color = (205, 112, 112)
MUCOSA: Color = (150, 48, 52)
LIP: Color = (176, 84, 82)
DARK: Color = (38, 14, 14)
STAIN: Color = (96, 62, 30)


def photo(seed: int) -> PhotoPhantom:
    """Draw the photograph; the same seed, the same bytes."""
    random = np.random.default_rng([seed, 0x5850])
    plan = plan_arch(random, Disease(missing=0.03, caries=0.16))
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x = (column - WIDTH / 2) * PITCH_MM
    y = (row - HEIGHT / 2) * PITCH_MM
    turn = np.arcsin(np.clip(x / RADIUS_MM, -0.999, 0.999))
    scene = _Scene(random, turn * RADIUS_MM, y, np.cos(turn))
    scene.paint_gums(plan.smile)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    shown = []
    notes: dict[int, str] = {}
    # In occlusion the upper teeth overlap the lower ones.
    for upper in (False, True):
        for tooth in plan.teeth:
            if is_upper(tooth.fdi) == upper and not tooth.impacted and abs(tooth.x) < 44:
                area = scene.paint_tooth(tooth)
                labels[area] = label_of_fdi(tooth.fdi)
                if area.any():
                    shown.append(tooth.fdi)
                if tooth.caries:
                    notes[tooth.fdi] = "discoloured lesion"
    pixels = scene.develop(x, y)
    teeth = tuple(fdi for fdi in sorted(shown) if (labels == label_of_fdi(fdi)).any())
    return PhotoPhantom(pixels=pixels, label_mask=labels, teeth=teeth, seed=seed, notes=notes)


class _Scene:
    """The picture being painted, in coordinates along the arch."""

    def __init__(self, random: np.random.Generator, s: Field, y: Field, facing: Field) -> None:
        self._random = random
        self._s, self._y, self._facing = s, y, facing
        self._colors = np.empty((*s.shape, 3), np.float32)
        self._colors[:] = DARK
        self._shade = random.normal(0, 6, 3)

    def paint_gums(self, smile: float) -> None:
        depth = np.abs(self._y - occlusal_height(smile, 1.0) * (self._s) ** 2)
        grain = ndimage.gaussian_filter(
            self._random.standard_normal(self._y.shape, dtype=np.float32), 5
        )
        vessels = ndimage.gaussian_filter(
            self._random.standard_normal(self._y.shape, dtype=np.float32), (14, 4)
        )
        share = np.clip((depth - 11.5) / 7, 0, 1)[..., None]
        gum = np.array(GUM) * (1 - share) + np.array(MUCOSA) * share
        gum = gum + 60 * grain[..., None] + share * 120 * vessels[..., None]
        covered = np.clip((depth - 2.6) / 1.5, 0, 1)[..., None]
        self._colors = self._colors * (1 - covered) + gum.astype(np.float32) * covered

    def paint_tooth(self, plan: ToothPlan) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Paint the visible crown; return its area."""
        overlap = 2.4 if is_upper(plan.fdi) else -0.4
        near = np.nonzero(np.abs(self._s[0] - plan.x) < plan.width)[0]
        visible = np.zeros(self._y.shape, dtype=np.bool_)
        if len(near) == 0:
            return visible
        columns = slice(int(near[0]), int(near[-1]) + 1)
        u, v = plan.to_tooth(self._s[:, columns], self._y[:, columns] - overlap)
        # The gum follows the neck of the tooth and rises between teeth as papillae.
        margin = plan.crown * (0.90 - 0.30 * np.clip(np.abs(u) / plan.width * 2, 0, 1) ** 2.5)
        distance = np.minimum(outline.crown_distance(plan, u, v), margin - v)
        area = outline.coverage(distance, PITCH_MM, softness=2.0)
        # Gum in front of the root: seen where the crown ends.
        beyond = np.clip(1 - np.abs(v - margin) / 0.6, 0, 1) * (np.abs(u) < plan.width / 2)
        picture = self._colors[:, columns]
        picture -= (26 * beyond * (distance <= 0))[..., None]
        level = np.clip(v / plan.crown, 0, 1)[..., None]
        color = np.array(ENAMEL) + self._shade + self._random.normal(0, 3, 3)
        if plan.position == 3:
            color = color - np.array([4, 10, 22])
        body = color - level * np.array([6, 16, 34])
        if plan.position <= 2:
            body = body - np.clip(0.22 - level, 0, 1) * np.array([160, 110, 60])
        bulge = np.clip(distance / (0.30 * plan.width), 0, 1) ** 0.6
        light = 0.62 + 0.38 * bulge
        body = body * light[..., None]
        spot = np.exp(-(((u + 0.12 * plan.width) / 0.7) ** 2 + ((v - 0.4 * plan.crown) / 1.6) ** 2))
        body = body + 95 * spot[..., None]
        if plan.caries:
            lesion = plan.caries[0]
            at_u = float(np.clip(lesion.u, -0.3 * plan.width, 0.3 * plan.width))
            ratio = np.hypot((u - at_u) / 1.1, (v - plan.crown * 0.62) / 0.8)
            stain = np.clip(1.2 - ratio, 0, 1)[..., None] * 0.85
            body = body * (1 - stain) + np.array(STAIN) * stain
        cover = area[..., None]
        self._colors[:, columns] = picture * (1 - cover) + body.astype(np.float32) * cover
        visible[:, columns] = area > 0.5
        return visible

    def develop(self, x: Field, y: Field) -> Mask:
        """Add the lips, light fall-off, blur and noise."""
        # Behind the last teeth in sight lies the dark corner of the mouth.
        corner = np.clip((np.abs(x) - 0.93 * RADIUS_MM) / 1.5, 0, 1)[..., None]
        colors = self._colors * (1 - corner) + np.array(DARK) * corner
        colors = colors * (0.45 + 0.55 * np.clip(self._facing, 0, 1) ** 0.7)[..., None]
        opening = np.hypot(x / 33.0, y / 21.5) + 0.02 * np.sin(x / 3.0)
        lip = np.clip((opening - 1.0) / 0.035, 0, 1)[..., None]
        fall = np.clip(1.25 - 0.45 * opening, 0.25, 1)[..., None]
        colors = colors * (1 - lip) + np.array(LIP) * fall * lip
        rim = np.exp(-(((opening - 0.985) / 0.03) ** 2))[..., None]
        colors = ndimage.gaussian_filter(colors * (1 - 0.5 * rim), (0.9, 0.9, 0))
        colors += self._random.standard_normal(colors.shape, dtype=np.float32) * 2.5
        pixels: Mask = np.clip(colors, 0, 255).astype(np.uint8)
        return pixels
