"""Plans a dentition: which teeth stand where, how sound they are and how high the bone reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ai.dentition import FDI_NUMBERS, is_upper, mean_size, side_of_midline
from ai.phantom.tooth import CariesPlan, ToothPlan

HEALTHY_CREST_MM = 1.5


@dataclass(frozen=True)
class Disease:
    """How often things go wrong, per tooth."""

    caries: float = 0.12
    periapical: float = 0.06
    missing: float = 0.07
    missing_third_molar: float = 0.35
    impacted_third_molar: float = 0.25
    filling: float = 0.14
    crown: float = 0.04
    root_filled: float = 0.05


@dataclass(frozen=True)
class ArchPlan:
    """The planned teeth and, per jaw, the height y of the bone crest along x (millimetres)."""

    teeth: tuple[ToothPlan, ...]
    missing: tuple[int, ...]
    crest_upper: tuple[tuple[float, float], ...]
    crest_lower: tuple[tuple[float, float], ...]
    smile: float

    def occlusal(self, x: float) -> float:
        return occlusal_height(self.smile, x)


def occlusal_height(smile: float, x: float) -> float:
    """Return y of the line where the teeth meet: it rises to both sides (the panoramic smile)."""
    return -smile * (x / 60.0) ** 2


def plan_arch(random: np.random.Generator, disease: Disease) -> ArchPlan:
    """Plan all four quadrants."""
    smile = float(random.uniform(4.0, 10.0))
    teeth: list[ToothPlan] = []
    missing: list[int] = []
    ridge: list[tuple[int, float, float]] = []
    for quadrant in (1, 2, 3, 4):
        x = 0.3
        bone_loss = _quadrant_bone_loss(random)
        for fdi in FDI_NUMBERS[(quadrant - 1) * 8 : quadrant * 8]:
            width, crown, root, _ = mean_size(fdi)
            width *= 0.94 * float(random.uniform(0.95, 1.06))
            crown *= float(random.uniform(0.92, 1.06))
            root *= float(random.uniform(0.9, 1.08))
            center, x = x + width / 2, x + width + 0.15
            rate = disease.missing_third_molar if fdi % 10 == 8 else disease.missing
            if random.random() < rate:
                missing.append(fdi)
                ridge.append((fdi, center, crown + 3.5 + bone_loss / 100 * root * 0.6))
                # Neighbours drift a little into the gap.
                x -= width * float(random.uniform(0.0, 0.25))
                continue
            plan = _plan_tooth(random, disease, fdi, center, (width, crown, root), bone_loss, smile)
            if plan.impacted:
                ridge.append((fdi, center, crown + 1.0))
            teeth.append(plan)
    return ArchPlan(
        teeth=tuple(teeth),
        missing=tuple(missing),
        crest_upper=_crest_line(teeth, ridge, smile, upper=True),
        crest_lower=_crest_line(teeth, ridge, smile, upper=False),
        smile=smile,
    )


def _quadrant_bone_loss(random: np.random.Generator) -> float:
    """Return the typical bone level of a quadrant beyond the healthy one, in percent."""
    if random.random() < 0.6:
        return float(abs(random.normal(0, 7)))
    return float(random.uniform(12, 50))


def _plan_tooth(
    random: np.random.Generator,
    disease: Disease,
    fdi: int,
    center: float,
    size: tuple[float, float, float],
    bone_loss: float,
    smile: float,
) -> ToothPlan:
    width, crown, root = size
    index = fdi % 10 - 1
    upper = is_upper(fdi)
    x = side_of_midline(fdi) * center
    away = -1 if upper else 1
    y = occlusal_height(smile, x) + away * (1.0 + float(random.normal(0, 0.35)))
    tilt = (0.012 if upper else 0.035) * index + float(random.normal(0, 0.03))
    impacted = index == 7 and random.random() < disease.impacted_third_molar
    if impacted:
        y += away * float(random.uniform(3.0, 6.0))
        tilt -= float(random.uniform(0.3, 0.9))
    levels = [
        crown
        + HEALTHY_CREST_MM
        + float(np.clip(bone_loss + random.normal(0, 5), 0, 72)) / 100 * (root - HEALTHY_CREST_MM)
        for _ in range(2)
    ]
    sound = ToothPlan(
        fdi=fdi,
        x=x,
        y=y,
        tilt=tilt,
        width=width,
        crown=crown,
        root=root,
        bend=float(random.normal(0.06, 0.06)),
        spread=float(random.uniform(-0.04, 0.10)),
        crest_mesial=levels[0],
        crest_distal=levels[1],
        impacted=impacted,
    )
    return sound if impacted else with_disease(random, sound, disease)


def with_disease(random: np.random.Generator, plan: ToothPlan, disease: Disease) -> ToothPlan:
    """Return the tooth with lesions and restorations drawn by chance."""
    restoration = None
    if random.random() < disease.crown:
        restoration = "CROWN"
    elif random.random() < disease.filling:
        restoration = "FILLING"
    caries: list[CariesPlan] = []
    for _ in range(2):
        if restoration != "CROWN" and random.random() < disease.caries * 0.55:
            lesion = plan_caries(random, plan, str(random.choice(["M", "D", "O"])))
            hidden = lesion.surface == "O" and restoration == "FILLING"
            if not hidden and all(lesion.surface != other.surface for other in caries):
                caries.append(lesion)
    radius = None
    if random.random() < disease.periapical:
        radius = float(random.uniform(1.5, 3.6))
    return ToothPlan(
        **{
            **plan.__dict__,
            "restoration": restoration,
            "caries": tuple(caries),
            "periapical_radius": radius,
            "is_root_filled": bool(random.random() < disease.root_filled),
        }
    )


def plan_caries(random: np.random.Generator, plan: ToothPlan, surface: str) -> CariesPlan:
    """Place a lesion on a surface: at the contact point (M, D) or in the fissure (O)."""
    depth = float(random.uniform(0.9, 2.6))
    loss = float(random.uniform(0.45, 0.85))
    if surface == "O":
        u = float(random.uniform(-0.2, 0.2)) * plan.width
        return CariesPlan("O", u, plan.crown * 0.14, depth * 1.1, depth * 0.9, loss)
    sign = -1 if surface == "M" else 1
    v = plan.crown * float(random.uniform(0.40, 0.62))
    return CariesPlan(surface, sign * plan.width * 0.46, v, depth, depth * 0.85, loss)


def _crest_line(
    teeth: list[ToothPlan], ridge: list[tuple[int, float, float]], smile: float, *, upper: bool
) -> tuple[tuple[float, float], ...]:
    """Return the points of the bone crest of one jaw from left to right."""
    points = []
    for plan in teeth:
        if is_upper(plan.fdi) == upper and not plan.impacted:
            points.append(plan.to_jaw(-plan.width * 0.5, plan.crest_mesial))
            points.append(plan.to_jaw(plan.width * 0.5, plan.crest_distal))
    away = -1 if upper else 1
    for fdi, center, depth in ridge:
        if is_upper(fdi) == upper:
            x = side_of_midline(fdi) * center
            points.append((x, occlusal_height(smile, x) + away * depth))
    if not points:
        points = [(x, occlusal_height(smile, x) + away * 14.0) for x in (-50.0, 50.0)]
    return tuple(sorted(points, key=lambda point: point[0]))
