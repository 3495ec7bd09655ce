"""From the network's logits to teeth and findings in the geometry of the source picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from ai.dentition import fdi_of_label
from ai.runtime import bonelevel, contours, lesions
from ai.runtime.channels import CARIES, INPUT_HEIGHT, INPUT_WIDTH, PART, PERIAPICAL
from ai.runtime.regions import Area, Float, ToothRegion, find_teeth, sigmoid, softmax

KINDS = ("tooth", "caries", "periapical_lesion")


@dataclass(frozen=True)
class Calibration:
    """Platt scaling, fitted on validation phantoms: confidence = logistic(a * logit(raw) + b)."""

    slope: float = 1.0
    intercept: float = 0.0

    def confidence(self, raw: float) -> float:
        """Return the calibrated probability that a candidate of this raw score is right."""
        raw = min(max(raw, 1e-4), 1 - 1e-4)
        value = self.slope * math.log(raw / (1 - raw)) + self.intercept
        return 1 / (1 + math.exp(-min(max(value, -30.0), 30.0)))


@dataclass(frozen=True)
class Reporting:
    """What is reported: confidence thresholds, bone level threshold and calibrations."""

    thresholds: Mapping[str, float]
    calibrations: Mapping[str, Calibration]
    bone_loss_percent: float

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Reporting:
        """Read the `postprocessing` section of the bundle's metadata.json."""
        section = metadata["postprocessing"]
        return cls(
            thresholds={kind: float(section["thresholds"][kind]) for kind in KINDS},
            calibrations={
                kind: Calibration(
                    float(section["calibration"][kind]["slope"]),
                    float(section["calibration"][kind]["intercept"]),
                )
                for kind in KINDS
            },
            bone_loss_percent=float(section["thresholds"]["bone_loss_percent"]),
        )

    @classmethod
    def everything(cls) -> Reporting:
        """Report every candidate with its raw score, to fit calibration and thresholds on."""
        return cls(
            thresholds=dict.fromkeys(KINDS, 0.0),
            calibrations=dict.fromkeys(KINDS, Calibration()),
            bone_loss_percent=0.0,
        )


def postprocess(
    logits: Float, height: int, width: int, reporting: Reporting
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Return the JSON document of `results.result_from_json` and the source-size label mask."""
    part = softmax(logits[PART])
    teeth = _sure_teeth(find_teeth(logits), reporting)
    frames = {
        tooth.label: frame
        for tooth in teeth
        if (frame := bonelevel.frame_of(tooth.area, part, tooth.label)) is not None
    }
    scale = _Scale(height, width)
    tooth_items: list[dict[str, Any]] = []
    findings: list[dict[str, Any]] = []
    label_mask = Image.new("L", (width, height), 0)
    drawing = ImageDraw.Draw(label_mask)
    for tooth in teeth:
        polygon = scale.outline(tooth.area)
        if len(polygon) < 3:
            continue
        drawing.polygon([(x - 0.5, y - 0.5) for x, y in polygon], fill=tooth.label)
        confidence = reporting.calibrations["tooth"].confidence(tooth.raw_score)
        item: dict[str, Any] = {
            "fdi": fdi_of_label(tooth.label),
            "polygon": polygon,
            "score": round(confidence, 4),
            "bone_level_percent": None,
        }
        tooth_items.append(item)
        frame = frames.get(tooth.label)
        level = None if frame is None else bonelevel.measure(tooth.area, part, frame)
        if level is not None:
            item["bone_level_percent"] = round(level.percent, 1)
            if level.percent >= reporting.bone_loss_percent:
                findings.append(_bone_loss(item, level, confidence, scale))
    known = {int(item["fdi"]) for item in tooth_items}
    caries = lesions.find_caries(sigmoid(logits[CARIES]), teeth, frames)
    apical = lesions.find_periapical(sigmoid(logits[PERIAPICAL]), teeth, frames)
    for kind, found in (("caries", caries), ("periapical_lesion", apical)):
        findings += _lesion_items(kind, found, reporting, scale, known)
    return {"teeth": tooth_items, "findings": findings}, np.asarray(label_mask, dtype=np.uint8)


def _sure_teeth(teeth: list[ToothRegion], reporting: Reporting) -> list[ToothRegion]:
    calibration, threshold = reporting.calibrations["tooth"], reporting.thresholds["tooth"]
    return [tooth for tooth in teeth if calibration.confidence(tooth.raw_score) >= threshold]


def _bone_loss(
    tooth: dict[str, Any], level: bonelevel.BoneLevel, confidence: float, scale: _Scale
) -> dict[str, Any]:
    return {
        "kind": "bone_loss",
        "fdi": tooth["fdi"],
        "surface": None,
        "polygon": [scale.point(x, y) for x, y in level.line],
        "score": round(confidence, 4),
        "value": round(level.percent, 1),
        "unit": "%",
    }


def _lesion_items(
    kind: str,
    found: list[lesions.Lesion],
    reporting: Reporting,
    scale: _Scale,
    known: set[int],
) -> list[dict[str, Any]]:
    items = []
    for lesion in sorted(found, key=lambda lesion: lesion.label):
        confidence = reporting.calibrations[kind].confidence(lesion.raw_score)
        polygon = scale.outline(lesion.area)
        fdi = fdi_of_label(lesion.label)
        if confidence < reporting.thresholds[kind] or len(polygon) < 3 or fdi not in known:
            continue
        items.append(
            {
                "kind": kind,
                "fdi": fdi,
                "surface": lesion.surface,
                "polygon": polygon,
                "score": round(confidence, 4),
                "value": None,
                "unit": None,
            }
        )
    return items


@dataclass(frozen=True)
class _Scale:
    """From network pixels (centres) to source pixels (corner of the first pixel is 0, 0)."""

    height: int
    width: int

    def point(self, x: float, y: float) -> list[float]:
        return [
            round(min(max((x + 0.5) * self.width / INPUT_WIDTH, 0.0), float(self.width)), 2),
            round(min(max((y + 0.5) * self.height / INPUT_HEIGHT, 0.0), float(self.height)), 2),
        ]

    def outline(self, area: Area) -> list[list[float]]:
        """Return the smoothed and simplified outline of an area."""
        window, top, left = area.window(margin=3)
        points = contours.outline(ndimage.gaussian_filter(window, 0.6), 0.5)
        if len(points) < 3:
            points = contours.outline(window, 0.5)
        points = contours.simplify(points, 0.35)
        return [self.point(float(x) + left, float(y) + top) for x, y in points]
