"""Synthetic periapical intra-oral radiograph (IO) of a few neighbouring teeth, with exact truth."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ai.dentition import is_upper
from ai.phantom import film
from ai.phantom.arch import ArchPlan, Disease, plan_arch
from ai.phantom.drawing import Canvas, draw_tooth
from ai.phantom.panoramic import crest_height, with_rami, with_tubers
from ai.phantom.truth import Phantom
from ai.phantom.view import Field, View

# A size 2 sensor, 31 x 41 mm.
PITCH_MM = 0.04
HEIGHT, WIDTH = 776, 1024
DISEASE = Disease(caries=0.35, periapical=0.2, missing=0.04, filling=0.3)


def intraoral(seed: int, tooth: int = 36) -> Phantom:
    """Draw a periapical picture centred on a tooth (FDI); 12 bits, dense tissue bright."""
    random = np.random.default_rng([seed, tooth, 0x494F])
    plan = plan_arch(random, DISEASE)
    upper = is_upper(tooth)
    x, y = _center(plan, tooth)
    angle = float(random.normal(0, 0.05))
    view = View(HEIGHT, WIDTH, PITCH_MM, HEIGHT / 2, WIDTH / 2, angle)
    column, row = view.to_pixels(x, y)
    view = View(HEIGHT, WIDTH, PITCH_MM, HEIGHT - row, WIDTH - column, angle)
    bone = _bone(random, view, plan, upper)
    canvas = Canvas(view, bone=bone, teeth=np.zeros((HEIGHT, WIDTH), np.float32))
    truths = [
        draw_tooth(canvas, planned, random)
        for planned in plan.teeth
        if is_upper(planned.fdi) == upper and abs(planned.x - x) < 40
    ]
    soft = 0.12 + 0.10 * ndimage.uniform_filter(canvas.bone, int(3 / PITCH_MM))
    picture = film.expose(
        random,
        (soft + canvas.bone * 1.1 + canvas.teeth * 1.15) * float(random.uniform(0.9, 1.1)),
        photons=float(random.uniform(500, 1200)),
        blur=float(random.uniform(1.2, 2.0)),
    )
    return Phantom(
        pixels=film.digitize(picture, 12, gamma=float(random.uniform(0.9, 1.15))),
        bits_stored=12,
        label_mask=canvas.label_mask,
        part_mask=canvas.part_mask,
        caries_mask=canvas.caries_mask,
        periapical_mask=canvas.periapical_mask,
        teeth=tuple(truth for truth in truths if truth is not None),
        missing=tuple(fdi for fdi in plan.missing if is_upper(fdi) == upper),
        pixel_spacing_mm=PITCH_MM,
        seed=seed,
        modality="IO",
    )


def _center(plan: ArchPlan, tooth: int) -> tuple[float, float]:
    """Return the middle of the tooth, or of where it would stand."""
    side = -1 if tooth // 10 in (1, 4) else 1
    middle = 14.0 * (-1 if is_upper(tooth) else 1)
    for planned in plan.teeth:
        if planned.fdi == tooth and not planned.impacted:
            return planned.to_jaw(0.0, planned.length * 0.58)
    return side * (3.0 + 6.4 * (tooth % 10)), middle


def _bone(random: np.random.Generator, view: View, plan: ArchPlan, upper: bool) -> Field:
    window = view.full()
    x, y = window.x, window.y
    texture = film.trabecular_texture(random, x.shape, view.pitch)
    if upper:
        height = crest_height(with_tubers(plan.crest_upper), x)
        depth = height - y
    else:
        height = crest_height(with_rami(plan.crest_lower, plan.occlusal(60.0)), x)
        depth = y - height
    inside = np.clip(depth / 0.5 + 0.5, 0, 1)
    # The cortical plate of the ridge is a thin bright line.
    ridge = np.exp(-(((depth - 0.5) / 0.35) ** 2))
    result: Field = inside * (0.50 + 0.085 * texture) + 0.12 * ridge
    if upper:
        sinus = np.clip((-y - 25 - 2.0 * np.sin(x / 4.0)) / 1.2, 0, 1)
        result *= 1 - 0.55 * sinus
    return result.astype(np.float32)
