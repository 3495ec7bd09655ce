"""Synthetic panoramic radiograph (PX) with exact truth, deterministic by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ai.phantom import film
from ai.phantom.arch import ArchPlan, Disease, plan_arch
from ai.phantom.drawing import Canvas, draw_tooth
from ai.phantom.truth import Phantom
from ai.phantom.view import Field, View, smooth_curve

PICTURE_WIDTH_MM = 190.0

Line = tuple[tuple[float, float], ...]

# Right half of the mandible, chin to condyle and back along the ramus to the alveolar part.
_MANDIBLE = (
    (0, 40), (12, 41), (28, 38), (44, 32), (57, 24), (67, 13), (74, -2), (79, -18),
    (84, -32), (84, -40), (79, -43), (75, -38), (75, -30), (71, -22), (66, -27), (63, -34),
    (60, -30), (58, -16), (54, -6), (50, 0), (40, 2), (20, 4), (0, 4),
)  # fmt: skip


def panoramic(
    seed: int,
    height: int = 512,
    width: int = 1024,
    *,
    bits: int = 12,
    disease: Disease | None = None,
) -> Phantom:
    """Draw a panoramic radiograph of `height` x `width` pixels; the same seed, the same bytes."""
    random = np.random.default_rng([seed, 0x5058])
    plan = plan_arch(random, disease or Disease())
    pitch = PICTURE_WIDTH_MM / width
    view = View(
        height,
        width,
        pitch / float(random.uniform(0.94, 1.05)),
        height * 0.5 + float(random.normal(0, 2.0)) / pitch,
        width * 0.5 + float(random.normal(0, 2.0)) / pitch,
        float(random.normal(0, 0.015)),
    )
    jaws = _Jaws(random, view, view.halved(), plan)
    canvas = Canvas(view, bone=jaws.bone(), teeth=np.zeros((height, width), np.float32))
    truths = [draw_tooth(canvas, tooth, random) for tooth in plan.teeth]
    # Curved slices blur the picture slightly more at fine pixel pitch.
    attenuation = jaws.soft_tissue() + canvas.bone + canvas.teeth
    picture = film.expose(
        random,
        attenuation * float(random.uniform(0.85, 1.15)),
        photons=float(random.uniform(900, 4000)) * (pitch / 0.186) ** 2,
        blur=max(0.35, float(random.uniform(0.09, 0.19)) / pitch),
    )
    return Phantom(
        pixels=film.digitize(picture, bits, gamma=float(random.uniform(0.85, 1.25))),
        bits_stored=bits,
        label_mask=canvas.label_mask,
        part_mask=canvas.part_mask,
        caries_mask=canvas.caries_mask,
        periapical_mask=canvas.periapical_mask,
        teeth=tuple(truth for truth in truths if truth is not None),
        missing=plan.missing,
        pixel_spacing_mm=round(view.pitch, 4),
        seed=seed,
    )


@dataclass
class _Jaws:
    """Everything behind the teeth. Smooth shapes are drawn at half size: three times as fast."""

    random: np.random.Generator
    view: View
    coarse: View
    plan: ArchPlan

    def bone(self) -> Field:
        pitch = self.view.pitch
        window = self.view.full()
        x, y = window.x, window.y
        texture = film.trabecular_texture(self.random, (self.view.height, self.view.width), pitch)
        body, solid = self._mandible()
        crest = crest_height(with_rami(self.plan.crest_lower, self.plan.occlusal(60.0)), x)
        lower = np.clip((y - crest) / (2 * pitch) + 0.5, 0, 1)
        crest = crest_height(with_tubers(self.plan.crest_upper), x)
        upper = np.clip((crest - y) / (2 * pitch) + 0.5, 0, 1) * self._maxilla()
        level = float(self.random.uniform(0.42, 0.6))
        result: Field = lower * (body * level + solid + body * 0.065 * texture)
        result += upper * (level * 0.85 + 0.055 * texture)
        return result.astype(np.float32)

    def _mandible(self) -> tuple[Field, Field]:
        """Return the body of the mandible (0..1) and what its cortex and canal add."""
        window, pitch = self.coarse.full(), self.coarse.pitch
        body = ndimage.gaussian_filter(self.coarse.polygon(self._mandible_outline()), 0.25 / pitch)
        cortex = np.clip(body - ndimage.gaussian_filter(body, 1.1 / pitch), 0, 1)
        canal = _mandibular_canal(window.x, window.y)
        return self._enlarge(body), self._enlarge(0.75 * cortex - 0.16 * canal * body)

    def _maxilla(self) -> Field:
        window = self.coarse.full()
        x, y = window.x, window.y
        palate = -self.plan.smile * (x / 60.0) ** 2 - 27 + 3 * (x / 40) ** 2
        reach = np.clip((y - palate) / 6 + 0.5, 0.35, 1) * np.clip((63 - np.abs(x)) / 7, 0, 1)
        return self._enlarge(reach * np.clip((y + 46) / 8, 0.2, 1))

    def _enlarge(self, field: NDArray[Any]) -> Field:
        picture = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        size = (self.view.width, self.view.height)
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)

    def _mandible_outline(self) -> list[tuple[float, float]]:
        stretch_x, stretch_y = self.random.uniform(0.97, 1.05), self.random.uniform(0.92, 1.06)
        lift = self.plan.smile * 0.6 - 4
        right = [(x * stretch_x, y * stretch_y - lift * (x / 70) ** 2) for x, y in _MANDIBLE]
        left = [(-x, y) for x, y in reversed(right)]
        return smooth_curve(right + left)

    def soft_tissue(self) -> Field:
        window = self.coarse.full()
        x, y = window.x, window.y
        face = np.clip((92 + 0.15 * y - np.abs(x)) / 14, 0, 1)
        base = 0.10 + 0.24 * face
        spine = 0.34 * np.exp(-((x / 13.0) ** 2)) * np.clip(0.75 + y / 90, 0.3, 1.2)
        result = base + spine
        result += self._sinuses(x, y)
        result -= 0.16 * self._airway(x, y)
        palate = y + 30 - 0.0018 * x**2 + self.plan.smile * 0.2
        result += 0.20 * np.exp(-((palate / 1.1) ** 2)) * (np.abs(x) < 58)
        arch = y + 33 - 0.16 * (np.abs(x) - 50)
        result += 0.15 * np.exp(-((arch / 3.2) ** 2)) * np.clip((np.abs(x) - 42) / 8, 0, 1)
        for _ in range(3):
            # Ghost shadows of the opposite jaw: broad, faint, horizontal.
            middle, breadth = self.random.uniform(-35, 40), self.random.uniform(5, 14)
            strength = 0.10 * self.random.random()
            result += strength * np.exp(-(((y - middle) / breadth) ** 2))
        return self._enlarge(np.maximum(result, 0.02))

    def _sinuses(self, x: Field, y: Field) -> Field:
        """Return the dark maxillary sinuses with bright rims and the nasal cavity."""
        shade = np.zeros_like(x)
        for side in (-1, 1):
            center_x = side * float(self.random.uniform(33, 38))
            center_y = float(self.random.uniform(-40, -36))
            radius_x = float(self.random.uniform(17, 21))
            radius_y = float(self.random.uniform(11, 16))
            ratio = np.hypot((x - center_x) / radius_x, (y - center_y) / radius_y)
            ratio = ratio + 0.05 * np.sin(x / 3.1 + side)
            shade -= 0.20 * np.clip((1.0 - ratio) * 6, 0, 1)
            shade += 0.17 * np.exp(-(((ratio - 1.03) / 0.035) ** 2))
            nose = np.hypot((x - side * 7.5) / 6.0, (y + 43) / 13.0)
            shade -= 0.17 * np.clip((1 - nose) * 5, 0, 1)
        shade += 0.12 * np.exp(-((x / 1.1) ** 2)) * (y < -30)
        return shade

    def _airway(self, x: Field, y: Field) -> Field:
        """Return the air between tongue and palate and the pharynx crossing the rami."""
        tongue = y + 25.5 - 0.0022 * x**2
        band = np.exp(-((tongue / 2.6) ** 2)) * np.clip((66 - np.abs(x)) / 10, 0, 1)
        band *= float(self.random.uniform(0.0, 1.0))
        pharynx = np.abs(x) - 66 - 0.18 * (y + 10)
        throat = np.exp(-((pharynx / 5.5) ** 2)) * np.clip((y + 40) / 15, 0, 1)
        lips = np.exp(-(((y - 0.5) / 1.3) ** 2)) * np.clip((60 - np.abs(x)) / math.pi, 0, 1) * 0.6
        result: Field = band + throat * np.clip((55 - y) / 20, 0, 1) + lips
        return result


def _mandibular_canal(x: Field, y: Field) -> Field:
    """Return the darkness of the canal from the ramus to the mental foramen, its rims negative."""
    side = np.abs(x)
    path = np.interp(side, [24, 34, 45, 56, 64, 70, 74], [25, 28, 26, 20, 10, -4, -18])
    along = np.clip((side - 26) / 4, 0, 1) * np.clip((76 - side) / 4, 0, 1)
    off = np.abs(y - path) * np.clip(1 - (side - 50) / 45, 0.45, 1)
    hollow = np.exp(-((off / 1.5) ** 4))
    rim = np.exp(-(((off - 2.1) / 0.45) ** 2))
    result: Field = (along * (hollow - 0.6 * rim)).astype(np.float32)
    return result


def with_rami(points: Line, occlusal: float) -> Line:
    """Continue the crest of the lower jaw up the front borders of the rami."""
    left, right = min(points[0][0] - 1.5, -59.0), max(points[-1][0] + 1.5, 59.0)
    start = occlusal + 6
    rise = ((0.0, 0.0), (2.0, -7.0), (3.5, -22.0), (5.0, -60.0))
    before = tuple((left - dx, start + dy) for dx, dy in reversed(rise))
    return before + points + tuple((right + dx, start + dy) for dx, dy in rise)


def with_tubers(points: Line) -> Line:
    """Let the crest of the upper jaw curve up behind the last tooth."""
    (left, left_y), (right, right_y) = points[0], points[-1]
    before = ((left - 14, left_y - 14), (left - 5, left_y - 2))
    return before + points + ((right + 5, right_y - 2), (right + 14, right_y - 14))


def crest_height(points: Line, x: Field) -> Field:
    """Return the height of the bone crest at every x of the picture."""
    samples = np.arange(-100, 100, 0.25)
    heights = np.interp(samples, [p[0] for p in points], [p[1] for p in points])
    heights = ndimage.gaussian_filter1d(heights, 2.0)
    # The picture is turned by a degree or two, so x differs from row to row.
    index = np.clip((x + 100) * 4, 0, len(samples) - 1).astype(np.int32)
    result: Field = heights.astype(np.float32)[index]
    return result
