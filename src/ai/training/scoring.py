"""Compares what was found in phantoms with their truth: counts and errors, summed over pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.dentition import label_of_fdi
from ai.phantom import Phantom

BONE_LOSS_PERCENT = 30.0


@dataclass
class Counts:
    """Right and wrong answers to yes-or-no questions."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0

    def add(self, truth: bool, answer: bool) -> None:
        self.true_positive += truth and answer
        self.false_positive += answer and not truth
        self.false_negative += truth and not answer

    @property
    def sensitivity(self) -> float:
        return self.true_positive / max(self.true_positive + self.false_negative, 1)

    @property
    def precision(self) -> float:
        return self.true_positive / max(self.true_positive + self.false_positive, 1)

    @property
    def f1(self) -> float:
        both = 2 * self.true_positive
        return both / max(both + self.false_positive + self.false_negative, 1)


@dataclass
class Scores:
    """Everything measured on a set of phantoms."""

    pictures: int = 0
    dice: list[float] = field(default_factory=list)
    teeth: Counts = field(default_factory=Counts)
    numbered: int = 0
    located: int = 0
    caries: Counts = field(default_factory=Counts)
    surfaces: Counts = field(default_factory=Counts)
    periapical: Counts = field(default_factory=Counts)
    bone_loss: Counts = field(default_factory=Counts)
    bone_errors: list[float] = field(default_factory=list)
    # (kind, raw or calibrated score, is right): what calibration is fitted and checked on.
    candidates: list[tuple[str, float, bool]] = field(default_factory=list)

    def add(self, phantom: Phantom, document: dict[str, Any], mask: NDArray[np.uint8]) -> None:
        """Add one picture: `document` and `mask` as `postprocess` returns them."""
        self.pictures += 1
        self._add_teeth(phantom, document, mask)
        self._add_lesions(phantom, document)
        self._add_bone(phantom, document)

    def _add_teeth(
        self, phantom: Phantom, document: dict[str, Any], mask: NDArray[np.uint8]
    ) -> None:
        pairs = np.zeros((33, 33), dtype=np.int64)
        np.add.at(pairs, (phantom.label_mask.ravel(), mask.ravel()), 1)
        true_size, found_size = pairs.sum(1), pairs.sum(0)
        true_labels = {label_of_fdi(tooth.fdi) for tooth in phantom.teeth}
        scores = {label_of_fdi(tooth["fdi"]): tooth["score"] for tooth in document["teeth"]}
        for label in true_labels:
            self.dice.append(2 * pairs[label, label] / (true_size[label] + found_size[label]))
        for label in range(1, 33):
            self.teeth.add(label in true_labels, label in scores)
        for label, score in scores.items():
            # The true tooth that covers most of what was found, whatever its number.
            best = int(np.argmax(pairs[1:, label])) + 1
            overlap = pairs[best, label]
            union = true_size[best] + found_size[label] - overlap
            is_tooth = bool(overlap > 0.5 * union)
            self.located += is_tooth
            self.numbered += is_tooth and best == label
            self.candidates.append(("tooth", score, is_tooth and best == label))

    def _add_lesions(self, phantom: Phantom, document: dict[str, Any]) -> None:
        found: dict[tuple[int, str], set[str | None]] = {}
        for item in document["findings"]:
            found.setdefault((item["fdi"], item["kind"]), set()).add(item["surface"])
        truth = {tooth.fdi: tooth for tooth in phantom.teeth}
        for tooth in phantom.teeth:
            surfaces = found.get((tooth.fdi, "caries"), set())
            self.caries.add(bool(tooth.caries_surfaces), bool(surfaces))
            for surface in "MDO":
                self.surfaces.add(surface in tooth.caries_surfaces, surface in surfaces)
            has_lesion = (tooth.fdi, "periapical_lesion") in found
            self.periapical.add(tooth.has_periapical_lesion, has_lesion)
        for item in document["findings"]:
            known = truth.get(item["fdi"])
            if item["kind"] == "caries":
                right = known is not None and bool(known.caries_surfaces)
                self.candidates.append(("caries", item["score"], right))
            elif item["kind"] == "periapical_lesion":
                right = known is not None and known.has_periapical_lesion
                self.candidates.append(("periapical_lesion", item["score"], right))

    def _add_bone(self, phantom: Phantom, document: dict[str, Any]) -> None:
        levels = {tooth["fdi"]: tooth["bone_level_percent"] for tooth in document["teeth"]}
        for tooth in phantom.teeth:
            level = levels.get(tooth.fdi)
            if tooth.bone_level_percent is None or level is None:
                continue
            self.bone_errors.append(abs(level - tooth.bone_level_percent))
            self.bone_loss.add(
                tooth.bone_level_percent >= BONE_LOSS_PERCENT, level >= BONE_LOSS_PERCENT
            )

    def calibration_error(self, kind: str, bins: int = 10) -> float:
        """Return the expected calibration error of the confidences of a kind."""
        pairs = [(score, right) for name, score, right in self.candidates if name == kind]
        if not pairs:
            return 0.0
        score = np.array([pair[0] for pair in pairs])
        right = np.array([pair[1] for pair in pairs], dtype=float)
        place = np.minimum((score * bins).astype(int), bins - 1)
        errors = [
            abs(score[place == b].mean() - right[place == b].mean()) * (place == b).mean()
            for b in range(bins)
            if (place == b).any()
        ]
        return float(sum(errors))

    def summary(self) -> dict[str, float | int]:
        """Return the numbers that the model card shows."""
        values: dict[str, float | int] = {
            "pictures": self.pictures,
            "teeth": len(self.dice),
            "tooth_dice_mean": float(np.mean(self.dice)),
            "tooth_dice_10th_percentile": float(np.percentile(self.dice, 10)),
            "tooth_sensitivity": self.teeth.sensitivity,
            "tooth_precision": self.teeth.precision,
            "numbering_accuracy": self.numbered / max(self.located, 1),
            "bone_level_mean_absolute_error_points": float(np.mean(self.bone_errors)),
            "bone_level_95th_percentile_error_points": float(np.percentile(self.bone_errors, 95)),
        }
        for name, counts in (
            ("caries_per_tooth", self.caries),
            ("caries_per_surface", self.surfaces),
            ("periapical_per_tooth", self.periapical),
            ("bone_loss_per_tooth", self.bone_loss),
        ):
            values[f"{name}_sensitivity"] = counts.sensitivity
            values[f"{name}_precision"] = counts.precision
            values[f"{name}_f1"] = counts.f1
        for kind in ("tooth", "caries", "periapical_lesion"):
            values[f"{kind}_calibration_error"] = self.calibration_error(kind)
        return {k: v if isinstance(v, int) else round(v, 4) for k, v in values.items()}
