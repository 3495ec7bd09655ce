"""Finds caries and periapical lesions in the network's lesion channels and says where they sit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ai.runtime.bonelevel import ToothFrame
from ai.runtime.regions import Area, Float, ToothRegion

# Candidates below these are never reported; the reporting threshold is the bundle's.
CANDIDATE_LEVEL = 0.25
SMALLEST_CARIES, SMALLEST_PERIAPICAL = 3, 8
OCCLUSAL_SHARE = 0.34


@dataclass(frozen=True)
class Lesion:
    """A lesion in network pixels; `raw_score` is the mean probability over its area."""

    label: int
    surface: str | None
    raw_score: float
    area: Area


def find_caries(
    probability: Float, teeth: list[ToothRegion], frames: dict[int, ToothFrame]
) -> list[Lesion]:
    """Return at most one lesion per tooth surface, the likeliest."""
    label_picture = np.zeros(probability.shape, dtype=np.uint8)
    for tooth in teeth:
        label_picture[tooth.area.rows, tooth.area.columns] = tooth.label
    best: dict[tuple[int, str | None], Lesion] = {}
    for area, score in _candidates(probability, SMALLEST_CARIES):
        touched = np.bincount(label_picture[area.rows, area.columns], minlength=33)
        touched[0] = 0
        label = int(np.argmax(touched))
        if touched[label] == 0:
            continue
        surface = _surface(area, frames.get(label))
        lesion = Lesion(label, surface, score, area)
        known = best.get((label, surface))
        if known is None or known.raw_score < score:
            best[label, surface] = lesion
    return list(best.values())


def find_periapical(
    probability: Float, teeth: list[ToothRegion], frames: dict[int, ToothFrame]
) -> list[Lesion]:
    """Return at most one lesion per tooth: the one with the root end nearest to it."""
    best: dict[int, Lesion] = {}
    for area, score in _candidates(probability, SMALLEST_PERIAPICAL):
        label = _nearest_root(area, teeth, frames)
        if label is not None and (label not in best or best[label].raw_score < score):
            best[label] = Lesion(label, None, score, area)
    return list(best.values())


def _candidates(probability: Float, smallest: int) -> list[tuple[Area, float]]:
    pieces, _ = ndimage.label(probability > CANDIDATE_LEVEL, structure=np.ones((3, 3)))
    found = []
    for number, place in enumerate(ndimage.find_objects(pieces), start=1):
        if place is None:
            continue
        piece = pieces[place] == number
        if int(piece.sum()) < smallest:
            continue
        rows, columns = np.nonzero(piece)
        area = Area(rows + place[0].start, columns + place[1].start)
        # The peak is near 1 for every candidate; the mean tells sure lesions from faint ones.
        found.append((area, float(probability[place][piece].mean())))
    return found


def _surface(area: Area, frame: ToothFrame | None) -> str | None:
    """Return M, D or O from where the middle of the lesion lies in the crown."""
    if frame is None:
        return None
    u, s = frame.to_frame(np.array([area.columns.mean()]), np.array([area.rows.mean()]))
    across = float(u[0]) / max(frame.half_width, 1.0)
    level = (float(s[0]) - frame.start) / max(frame.cej - frame.start, 1.0)
    if level < OCCLUSAL_SHARE and abs(across) < 0.62:
        return "O"
    return "D" if across > 0 else "M"


def _nearest_root(
    area: Area, teeth: list[ToothRegion], frames: dict[int, ToothFrame]
) -> int | None:
    """Return the tooth whose lower root half lies nearest to the lesion, within 10 pixels."""
    step = 1 + len(area.rows) // 400
    lesion_rows, lesion_columns = area.rows[::step, None], area.columns[::step, None]
    nearest: tuple[float, int] | None = None
    for tooth in teeth:
        frame = frames.get(tooth.label)
        if frame is None:
            continue
        rows, columns = tooth.area.rows, tooth.area.columns
        _, s = frame.to_frame(columns.astype(float), rows.astype(float))
        end = s > (frame.cej + 2 * frame.apex) / 3
        if not end.any():
            continue
        # Mean of the nearest pixels: a lesion on an apex touches many, one beside it a few.
        away = np.hypot(lesion_rows - rows[end], lesion_columns - columns[end]).min(axis=0)
        distance = float(np.sort(away)[:6].mean())
        if distance <= 10 and (nearest is None or distance < nearest[0]):
            nearest = distance, tooth.label
    return None if nearest is None else nearest[1]
