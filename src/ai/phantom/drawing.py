"""Draws planned teeth, their lesions and restorations onto a canvas, and the truth with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ai.dentition import label_of_fdi
from ai.phantom import tooth as outline
from ai.phantom.tooth import ToothPlan, coverage
from ai.phantom.truth import (
    PART_CROWN,
    PART_ROOT_EXPOSED,
    PART_ROOT_IN_BONE,
    Mask,
    ToothTruth,
)
from ai.phantom.view import Field, View, Window

Inside = NDArray[np.bool_]

DENTINE, ENAMEL_EXTRA, PULP_LOSS, FILLING, METAL, GUTTA_PERCHA = 0.80, 0.42, 0.30, 1.4, 2.2, 0.9


@dataclass
class Canvas:
    """Attenuation of bone and of teeth, kept apart until the exposure, and the truth masks."""

    view: View
    bone: Field
    teeth: Field
    label_mask: Mask = field(init=False)
    part_mask: Mask = field(init=False)
    caries_mask: Mask = field(init=False)
    periapical_mask: Mask = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.view.height, self.view.width)
        self.label_mask = np.zeros(shape, np.uint8)
        self.part_mask = np.zeros(shape, np.uint8)
        self.caries_mask = np.zeros(shape, np.uint8)
        self.periapical_mask = np.zeros(shape, np.uint8)


def draw_tooth(canvas: Canvas, plan: ToothPlan, random: np.random.Generator) -> ToothTruth | None:
    """Draw one tooth; return its truth, or None when fewer than 20 of its pixels are visible."""
    half = plan.width / 2
    corners = [plan.to_jaw(u, v) for u in (-half, half) for v in (0.0, plan.length)]
    window = canvas.view.window(corners, 2.0 + (plan.periapical_radius or 0.0))
    u, v = plan.to_tooth(window.x, window.y)
    pitch = canvas.view.pitch
    crown = outline.crown_distance(plan, u, v)
    root = outline.root_distance(plan, u, v)
    body = np.where(v < plan.crown, crown, root)
    covered = coverage(body, pitch)
    inside = covered >= 0.5
    if int(inside.sum()) < 20:
        return None
    _draw_periodontium(canvas, plan, window, root, v, random)
    has_lesion = _draw_periapical_lesion(canvas, plan, window, u, v, inside)
    density = _density(plan, u, v, crown, pitch, random)
    surfaces = _carve_caries(canvas, plan, window, u, v, inside, density)
    _place_restoration(plan, u, v, crown, pitch, density)
    canvas.teeth[window.index] = np.maximum(
        canvas.teeth[window.index] * (1 - 0.75 * covered), 0
    ) + covered * np.maximum(density, 0.05)
    # A tooth displaces most of the bone that the beam would have crossed.
    canvas.bone[window.index] *= 1 - 0.45 * covered
    _write_truth(canvas, plan, window, u, v, inside)
    rows, columns = np.nonzero(inside)
    box = (
        window.columns.start + int(columns.min()),
        window.rows.start + int(rows.min()),
        window.columns.start + int(columns.max()) + 1,
        window.rows.start + int(rows.max()) + 1,
    )
    level = (plan.crest_mesial + plan.crest_distal) / 2 - plan.crown
    return ToothTruth(
        fdi=plan.fdi,
        box=box,
        bone_level_percent=None if plan.impacted else round(100 * level / plan.root_reach, 2),
        impacted=plan.impacted,
        caries_surfaces=surfaces,
        has_periapical_lesion=has_lesion,
        restoration=plan.restoration,
        is_root_filled=plan.is_root_filled,
    )


def _draw_periodontium(
    canvas: Canvas,
    plan: ToothPlan,
    window: Window,
    root: Field,
    v: Field,
    random: np.random.Generator,
) -> None:
    """Draw the dark ligament space around the root and the bright lamina dura outside of it."""
    bone = canvas.bone[window.index]
    beside = v > plan.crown
    ligament = ndimage.gaussian_filter(((root < 0) & (root > -0.30) & beside) * 1.0, 0.6)
    lamina = ndimage.gaussian_filter(((root <= -0.30) & (root > -0.62) & beside) * 1.0, 0.6)
    bone *= 1 - 0.45 * ligament.astype(np.float32)
    bone += (0.16 * random.uniform(0.6, 1.2)) * lamina.astype(np.float32) * (bone > 0.15)


def _draw_periapical_lesion(
    canvas: Canvas, plan: ToothPlan, window: Window, u: Field, v: Field, inside: Inside
) -> bool:
    radius = plan.periapical_radius
    if radius is None:
        return False
    apex_u = plan.bend * plan.width
    if plan.position > 5:
        apex_u += plan.width * (0.22 + plan.spread) * (1 if plan.fdi % 2 else -1)
    du, dv = u - apex_u, v - plan.length + 0.15 * radius
    turn = np.arctan2(dv, du)
    lobes = 1 + 0.09 * np.sin(2 * turn + plan.tilt * 40) + 0.06 * np.sin(3 * turn + plan.x)
    distance = 1 - np.hypot(du, dv * 0.9) / (radius * lobes)
    hollow = np.clip(distance * radius / 0.9 + 0.35, 0, 1)
    canvas.bone[window.index] *= 1 - 0.80 * hollow
    area = (distance > 0) & ~inside
    canvas.periapical_mask[window.index][area] = label_of_fdi(plan.fdi)
    return bool(area.any())


def _density(
    plan: ToothPlan, u: Field, v: Field, crown: Field, pitch: float, random: np.random.Generator
) -> Field:
    """Return the attenuation of sound tooth substance: dentine, enamel, pulp."""
    thick = outline.enamel_thickness(plan, v)
    enamel = coverage(thick - crown, pitch) * (v < plan.crown * 0.97)
    pulp = coverage(outline.pulp_distance(plan, u, v), pitch, softness=1.5)
    # Roots are thinner than crowns along the beam.
    thinning = 1 - 0.28 * np.clip((v - plan.crown) / plan.root, 0, 1)
    density = DENTINE * thinning * random.uniform(0.93, 1.07) + ENAMEL_EXTRA * enamel
    filled = GUTTA_PERCHA if plan.is_root_filled else -PULP_LOSS * random.uniform(0.8, 1.2)
    result: Field = (density + filled * pulp).astype(np.float32)
    return result


def _carve_caries(
    canvas: Canvas,
    plan: ToothPlan,
    window: Window,
    u: Field,
    v: Field,
    inside: Inside,
    density: Field,
) -> tuple[str, ...]:
    surfaces = []
    for lesion in plan.caries:
        ratio = np.hypot((u - lesion.u) / lesion.radius_u, (v - lesion.v) / lesion.radius_v)
        density *= 1 - lesion.loss * np.clip(1.25 - ratio**2, 0, 1).astype(np.float32)
        area = (ratio < 1) & inside & (v < plan.crown * 1.1)
        if area.any():
            canvas.caries_mask[window.index][area] = label_of_fdi(plan.fdi)
            surfaces.append(lesion.surface)
    return tuple(surfaces)


def _place_restoration(
    plan: ToothPlan, u: Field, v: Field, crown: Field, pitch: float, density: Field
) -> None:
    if plan.restoration == "CROWN":
        cap = coverage(np.minimum(1.3 - crown, plan.crown * 0.95 - v), pitch)
        density += METAL * cap
    elif plan.restoration == "FILLING":
        reach = 1 - np.hypot(u / (plan.width * 0.27), (v - plan.crown * 0.16) / (plan.crown * 0.24))
        density += FILLING * coverage(reach * plan.width * 0.25, pitch)


def _write_truth(
    canvas: Canvas, plan: ToothPlan, window: Window, u: Field, v: Field, inside: Inside
) -> None:
    part = np.where(
        v < plan.crown,
        PART_CROWN,
        np.where(v < plan.crest(u), PART_ROOT_EXPOSED, PART_ROOT_IN_BONE),
    )
    if plan.impacted:
        part = np.where(v < plan.crown, PART_CROWN, PART_ROOT_IN_BONE)
    label = label_of_fdi(plan.fdi)
    # What a later tooth covers no longer belongs to the earlier one.
    for mask in (canvas.caries_mask, canvas.periapical_mask):
        region = mask[window.index]
        region[inside & (region != label)] = 0
    canvas.label_mask[window.index][inside] = label
    canvas.part_mask[window.index][inside] = part[inside]
