"""Synthetic cone-beam CT of both jaws: the planned dentition bent along the dental arch.

A panoramic plan is the jaw unrolled: its x is the length along the arch, its y the height. Every
voxel is mapped to (length along the arch, distance from it, height) and asks the plan what is
there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ai.dentition import label_of_fdi, mean_size
from ai.phantom import tooth as outline
from ai.phantom.arch import ArchPlan, Disease, plan_arch
from ai.phantom.panoramic import crest_height, with_tubers
from ai.phantom.tooth import ToothPlan
from ai.phantom.truth import VolumePhantom
from ai.phantom.view import Field

SIZE, SPACING_MM = 256, 0.5
# Height of the first slice (cranial) and of the last, millimetres below the occlusal plane.
TOP_MM, BOTTOM_MM = -29.0, 33.0
ARCH_HALF_WIDTH, ARCH_DEPTH, ARCH_FRONT_MM = 27.0, 43.0, 18.0
AIR, SOFT, TRABECULAR, CORTICAL, DENTINE, ENAMEL, PULP, METAL = (
    -1000, 40, 380, 1450, 1650, 2600, 150, 3071,
)  # fmt: skip


def cbct(seed: int, slices: int = 120) -> VolumePhantom:
    """Draw a cone-beam volume of `slices` axial slices of 256 x 256 voxels of 0.5 mm."""
    random = np.random.default_rng([seed, 0x4354])
    plan = plan_arch(random, Disease(missing=0.05))
    heights = np.linspace(TOP_MM, BOTTOM_MM, slices, dtype=np.float32)
    along, away = _arch_coordinates()
    volume = _soft_tissue(heights, along, away)
    _draw_bone(random, volume, plan, heights, along, away)
    labels = np.zeros(volume.shape, np.uint8)
    for tooth in plan.teeth:
        _draw_tooth(volume, labels, tooth, heights, along, away)
    volume = ndimage.gaussian_filter(volume, (0.4, 0.5, 0.5))
    volume += 55 * random.standard_normal(volume.shape, dtype=np.float32)
    present = sorted(int(label) for label in np.unique(labels) if label)
    by_label = {label_of_fdi(tooth.fdi): tooth.fdi for tooth in plan.teeth}
    return VolumePhantom(
        volume=np.clip(volume, -1024, 3071).astype(np.int16),
        label_volume=labels,
        teeth=tuple(by_label[label] for label in present),
        spacing_mm=((BOTTOM_MM - TOP_MM) / max(slices - 1, 1), SPACING_MM, SPACING_MM),
        seed=seed,
    )


def _arch_coordinates() -> tuple[Field, Field]:
    """Return, for every column of voxels, the arch length (right negative) and signed distance."""
    angle = np.linspace(-1.75, 1.75, 1600)
    x = ARCH_HALF_WIDTH * np.sin(np.clip(angle, -np.pi / 2, np.pi / 2))
    y = ARCH_FRONT_MM + ARCH_DEPTH * (1 - np.cos(np.clip(angle, -np.pi / 2, np.pi / 2)))
    # Behind the molars both sides run on straight, slightly outwards.
    behind = np.clip(np.abs(angle) - np.pi / 2, 0, None) * 130
    x, y = x + np.sign(angle) * behind * 0.25, y + behind
    length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    length -= np.interp(0.0, angle, length)
    grid_y, grid_x = np.mgrid[:SIZE, :SIZE].astype(np.float32) * SPACING_MM
    grid_x -= SIZE * SPACING_MM / 2
    seeds = np.full((SIZE, SIZE), -1, dtype=np.int32)
    rows = np.clip(np.round(y / SPACING_MM).astype(int), 0, SIZE - 1)
    columns = np.clip(np.round((x + SIZE * SPACING_MM / 2) / SPACING_MM).astype(int), 0, SIZE - 1)
    seeds[rows, columns] = np.arange(len(x))
    _, nearest = ndimage.distance_transform_edt(seeds < 0, return_indices=True)
    index = seeds[nearest[0], nearest[1]]
    dx, dy = grid_x - x[index], grid_y - y[index]
    tangent_x, tangent_y = np.gradient(x)[index], np.gradient(y)[index]
    norm = np.hypot(tangent_x, tangent_y)
    # Positive distance is outside the arch (cheek and lip).
    away = (dx * tangent_y - dy * tangent_x) / norm
    along = length[index] + (dx * tangent_x + dy * tangent_y) / norm
    return along.astype(np.float32), away.astype(np.float32)


def _soft_tissue(heights: Field, along: Field, away: Field) -> Field:
    """Return head, tongue, airway and spine: what is there without jaws and teeth."""
    row, column = np.mgrid[:SIZE, :SIZE].astype(np.float32) * SPACING_MM
    column = column - SIZE * SPACING_MM / 2
    head = np.hypot(column / 60, (row - 76) / 70) < 1
    plane = np.where(head, SOFT, AIR).astype(np.float32)
    spine = np.hypot(column / 11, (row - 112) / 9)
    plane[spine < 1] = TRABECULAR
    plane[(spine < 1) & (spine > 0.84)] = CORTICAL
    plane[np.hypot(column / 5.5, (row - 92) / 4.5) < 1] = AIR
    volume = np.repeat(plane[None], len(heights), axis=0)
    inside = away < -4.5
    # Air between tongue and palate, and the nasal cavity above the palate.
    mouth = inside & (row < 85) & (np.abs(column) < 20)
    for index, height in enumerate(heights):
        if -23 < height < -17:
            volume[index][mouth] = AIR
        elif height < -25.5:
            nose = (np.abs(column) < 11) & (row > 26) & (row < 84) & (np.abs(column) > 1.0)
            volume[index][nose] = AIR
            volume[index][(np.abs(column) <= 1.0) & (row > 26) & (row < 80)] = TRABECULAR
        elif -25.5 <= height <= -23:
            volume[index][inside & (row < 66) & (np.abs(column) < 24)] = CORTICAL * 0.8
    return volume


def _draw_bone(
    random: np.random.Generator,
    volume: Field,
    plan: ArchPlan,
    heights: Field,
    along: Field,
    away: Field,
) -> None:
    texture = ndimage.gaussian_filter(
        random.standard_normal(volume.shape, dtype=np.float32), (0.9, 0.9, 0.9)
    )
    texture *= 170 / max(float(texture.std()), 1e-6)
    side = np.abs(along)
    lower_crest = crest_height(((-64.0, 0.0), *plan.crest_lower, (64.0, 0.0)), along)
    # Behind the third molars the mandible rises as the ramus.
    lower_crest = lower_crest - np.clip(side - 63, 0, 20) * 6
    upper_crest = crest_height(with_tubers(plan.crest_upper), along)
    border = 37 - 0.0032 * side**2
    for index, height in enumerate(heights):
        plane = volume[index]
        for depth, room, thick in (
            (height - lower_crest, border - height, 5.6 + 0.07 * max(float(height), 0)),
            (upper_crest - height, height + 40, 5.9),
        ):
            upper = thick == 5.9
            edge = np.minimum(np.minimum(depth, room), thick - np.abs(away))
            bone = (edge > 0) & (side < (62 if upper else 80))
            sinus = upper & (side > 22) & (side < 56) & (height < -24 + 1.5 * np.cos(side / 3))
            plane[bone] = (TRABECULAR + texture[index])[bone]
            plane[bone & (edge < 1.3)] = CORTICAL
            plane[bone & sinus & (edge > 1.0)] = AIR


def _draw_tooth(
    volume: Field,
    labels: NDArray[np.uint8],
    plan: ToothPlan,
    heights: Field,
    along: Field,
    away: Field,
) -> None:
    _, _, _, depth = mean_size(plan.fdi)
    near = (np.abs(along - plan.x) < plan.width + 8) & (np.abs(away) < depth)
    rows, columns = np.nonzero(near)
    s, w = along[rows, columns][None], away[rows, columns][None]
    u, v = plan.to_tooth(np.repeat(s, len(heights), 0), heights[:, None])
    # Crowns and single roots are elliptical: half as thick seen from the side as the widths say.
    round_u = np.hypot(u, w * plan.width / depth)
    crown = outline.crown_distance(plan, round_u, v)
    if plan.position <= 5:
        root = outline.root_distance(plan, round_u, v)
    else:
        t = np.clip((v - plan.crown) / plan.root, 0, 1)
        root = np.minimum(outline.root_distance(plan, u, v), depth * 0.40 * (1 - 0.5 * t) - abs(w))
    inside = np.where(v < plan.crown, crown, root) > 0
    value = np.full(inside.shape, DENTINE, dtype=np.float32)
    value[(crown < outline.enamel_thickness(plan, v)) & (v < plan.crown * 0.97)] = ENAMEL
    pulp_u = u if plan.position > 5 else round_u
    value[(outline.pulp_distance(plan, pulp_u, v) > 0) & (np.abs(w) < depth * 0.2)] = PULP
    if plan.restoration is not None:
        value[(v < plan.crown * 0.28) & (round_u < plan.width * 0.27)] = METAL
    # The ligament: a thin dark film between root and bone.
    film = ~inside & (root > -0.45) & (v > plan.crown)
    block = volume[:, rows, columns]
    block[film & (block > SOFT)] = SOFT + 200
    block[inside] = value[inside]
    volume[:, rows, columns] = block
    mask = labels[:, rows, columns]
    mask[inside] = label_of_fdi(plan.fdi)
    labels[:, rows, columns] = mask
