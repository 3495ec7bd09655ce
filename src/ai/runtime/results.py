"""What an inference returns, and the check that a model's output must pass before it is believed.

A model's output is input from outside (security.md F5): NaN, absurd counts, unknown teeth and
points outside the picture are refused here, in the parent, whatever the child says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.dentition import FDI_NUMBERS, label_of_fdi

FINDING_KINDS = ("caries", "periapical_lesion", "bone_loss")
SURFACES = ("M", "D", "O")
MAX_TEETH, MAX_FINDINGS, MAX_POLYGON_POINTS = 32, 200, 400

Point = tuple[float, float]


class InferenceFailed(Exception):
    """An inference gave no result. `retryable` says whether the same input may succeed later."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable


@dataclass(frozen=True)
class Tooth:
    """One tooth. Points are (x, y) in source pixels; (0, 0) is the corner of the first pixel."""

    fdi: int
    polygon: tuple[Point, ...]
    score: float
    bone_level_percent: float | None = None

    @property
    def label(self) -> int:
        """The value of this tooth in `InferenceResult.label_mask`."""
        return label_of_fdi(self.fdi)


@dataclass(frozen=True)
class Finding:
    """One finding on one tooth. `polygon` of bone_loss is the line from the CEJ to the crest."""

    kind: str
    fdi: int
    surface: str | None
    polygon: tuple[Point, ...]
    score: float
    value: float | None = None
    unit: str | None = None


@dataclass(frozen=True)
class InferenceResult:
    """Teeth, findings and the label mask in the geometry of the source pixels."""

    teeth: tuple[Tooth, ...]
    findings: tuple[Finding, ...]
    label_mask: NDArray[np.uint8]
    timing: dict[str, float] = field(default_factory=dict)


def result_from_json(document: Mapping[str, Any], label_mask: NDArray[np.uint8]) -> InferenceResult:
    """Build the result, or raise InferenceFailed (not retryable) naming the first thing wrong."""
    height, width = label_mask.shape
    try:
        teeth = tuple(_tooth(item, width, height) for item in _list(document, "teeth", MAX_TEETH))
        numbers = [tooth.fdi for tooth in teeth]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"teeth: a tooth number is given twice in {numbers}")
        findings = tuple(
            _finding(item, width, height) for item in _list(document, "findings", MAX_FINDINGS)
        )
        for finding in findings:
            if finding.fdi not in numbers:
                raise ValueError(f"findings: tooth {finding.fdi} is not among the teeth")
        timing = {
            str(key): _number(value, f"timing.{key}", 0, 1e6)
            for key, value in dict(document.get("timing", {})).items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InferenceFailed(
            f"The model's output was refused: {error}", retryable=False
        ) from error
    if int(label_mask.max(initial=0)) > 32:
        raise InferenceFailed(
            "The model's output was refused: label mask holds values above 32", retryable=False
        )
    return InferenceResult(teeth, findings, label_mask, timing)


def _list(document: Mapping[str, Any], name: str, limit: int) -> list[Mapping[str, Any]]:
    items = document[name]
    if not isinstance(items, list):
        raise TypeError(f"{name}: a list is needed, not {type(items).__name__}")
    if len(items) > limit:
        raise ValueError(f"{name}: {len(items)} entries, at most {limit} are accepted")
    return items


def _number(value: Any, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: {value!r:.40} is not a finite number")
    if not low <= value <= high:
        raise ValueError(f"{where}: {value} is outside {low}..{high}")
    return float(value)


def _fdi(value: Any, where: str) -> int:
    if isinstance(value, bool) or value not in FDI_NUMBERS:
        raise ValueError(f"{where}: {value!r:.40} is no FDI number of a permanent tooth")
    return int(value)


def _points(value: Any, where: str, width: int, height: int, at_least: int) -> tuple[Point, ...]:
    if not isinstance(value, list) or not at_least <= len(value) <= MAX_POLYGON_POINTS:
        raise ValueError(f"{where}: {at_least} to {MAX_POLYGON_POINTS} points are accepted")
    return tuple(
        (_number(x, f"{where}.x", 0, width), _number(y, f"{where}.y", 0, height)) for x, y in value
    )


def _tooth(item: Mapping[str, Any], width: int, height: int) -> Tooth:
    fdi = _fdi(item["fdi"], "teeth.fdi")
    level = item.get("bone_level_percent")
    return Tooth(
        fdi=fdi,
        polygon=_points(item["polygon"], f"tooth {fdi} polygon", width, height, 3),
        score=_number(item["score"], f"tooth {fdi} score", 0, 1),
        bone_level_percent=None
        if level is None
        else _number(level, f"tooth {fdi} bone_level_percent", 0, 100),
    )


def _finding(item: Mapping[str, Any], width: int, height: int) -> Finding:
    kind = item["kind"]
    if kind not in FINDING_KINDS:
        raise ValueError(f"findings.kind: {kind!r:.40} is not one of {', '.join(FINDING_KINDS)}")
    surface, value, unit = item.get("surface"), item.get("value"), item.get("unit")
    if surface is not None and surface not in SURFACES:
        raise ValueError(f"findings.surface: {surface!r:.40} is not one of {', '.join(SURFACES)}")
    if unit not in (None, "%"):
        raise ValueError(f"findings.unit: {unit!r:.40} is not '%'")
    fdi = _fdi(item["fdi"], "findings.fdi")
    where = f"{kind} of {fdi}"
    return Finding(
        kind=kind,
        fdi=fdi,
        surface=surface,
        polygon=_points(
            item["polygon"], f"{where} polygon", width, height, 2 if kind == "bone_loss" else 3
        ),
        score=_number(item["score"], f"{where} score", 0, 1),
        value=None if value is None else _number(value, f"{where} value", 0, 100),
        unit=unit,
    )
