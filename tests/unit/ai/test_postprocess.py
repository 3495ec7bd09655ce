"""Postprocessing alone: perfect logits made of a phantom's truth must give back that truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ai.dentition import label_of_fdi
from ai.runtime import contours
from ai.runtime.channels import CARIES, CORE, OUTPUT_CHANNELS, PERIAPICAL
from ai.runtime.numbering import number_regions
from ai.runtime.postprocess import KINDS, Calibration, Reporting, postprocess
from ai.training.dataset import CARIES_BIT, CORE_BIT, PERIAPICAL_BIT, example, phantom_of
from ai.training.scoring import Scores

REPORTING = Reporting(dict.fromkeys(KINDS, 0.5), dict.fromkeys(KINDS, Calibration()), 30.0)


def perfect_logits(seed: int) -> NDArray[np.float32]:
    """Return the logits of a network that knows the truth."""
    _, label, part, flags = example(seed)
    logits = np.full((OUTPUT_CHANNELS, *label.shape), -6, np.float32)
    np.put_along_axis(logits[:33], label[None].astype(np.int64), 6, axis=0)
    np.put_along_axis(logits[33:37], part[None].astype(np.int64), 6, axis=0)
    logits[CORE][(flags & CORE_BIT) > 0] = 6
    logits[CARIES][(flags & CARIES_BIT) > 0] = 6
    logits[PERIAPICAL][(flags & PERIAPICAL_BIT) > 0] = 6
    return logits


def test_perfect_logits_give_back_the_truth() -> None:
    scores = Scores()
    for seed in range(400_000, 400_004):
        phantom = phantom_of(seed)
        document, mask = postprocess(perfect_logits(seed), *phantom.pixels.shape, REPORTING)
        scores.add(phantom, document, mask)
    summary = scores.summary()

    assert summary["tooth_dice_mean"] > 0.95
    assert summary["numbering_accuracy"] == 1.0
    assert summary["tooth_sensitivity"] == 1.0
    assert summary["caries_per_tooth_f1"] == 1.0
    assert summary["caries_per_surface_f1"] > 0.9
    assert summary["periapical_per_tooth_f1"] > 0.9
    assert summary["bone_level_mean_absolute_error_points"] < 2


def test_every_reported_point_lies_in_the_picture_and_the_mask_fills_the_polygons() -> None:
    document, mask = postprocess(perfect_logits(400_001), 900, 1700, REPORTING)

    assert mask.shape == (900, 1700)
    for item in document["teeth"]:
        x, y = np.array(item["polygon"]).T
        assert 0 <= x.min() and x.max() <= 1700 and 0 <= y.min() and y.max() <= 900
        area = abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2
        # Neighbours drawn later may cut into an earlier one.
        filled = int((mask == label_of_fdi(item["fdi"])).sum())
        assert 0.8 * area < filled < 1.1 * area


def test_an_empty_picture_gives_no_teeth_and_no_findings() -> None:
    logits = np.full((OUTPUT_CHANNELS, 256, 512), -6, np.float32)
    logits[0] = logits[33] = 6

    document, mask = postprocess(logits, 300, 600, REPORTING)

    assert document == {"teeth": [], "findings": []}
    assert not mask.any()


def likelihoods(rows: list[dict[int, float]]) -> NDArray[np.float64]:
    table = np.full((len(rows), 33), 1e-4)
    for row, values in zip(table, rows, strict=True):
        for fdi, share in values.items():
            row[label_of_fdi(fdi)] = share
    return np.log(table)


@pytest.mark.parametrize(
    ("rows", "centers", "expected"),
    [
        # Two regions look like 46; the left one is further from the midline: 47.
        ([{46: 0.6, 47: 0.4}, {46: 0.9}], [100, 120], [47, 46]),
        # The patient's right is left in the picture.
        ([{11: 0.9}, {21: 0.9}], [250, 260], [11, 21]),
        # A wrong favourite that breaks the order is overruled.
        ([{13: 0.9}, {15: 0.5, 12: 0.4}, {11: 0.9}], [200, 220, 240], [13, 12, 11]),
        # A region that fits nowhere is rejected rather than renumbering its neighbours.
        ([{31: 0.9}, {33: 1e-4}, {32: 0.9}], [260, 262, 264], [31, None, 32]),
    ],
)
def test_numbering_obeys_order_and_uniqueness(
    rows: list[dict[int, float]], centers: list[float], expected: list[int | None]
) -> None:
    labels = number_regions(likelihoods(rows), np.array(centers, dtype=float))

    assert labels == [None if fdi is None else label_of_fdi(fdi) for fdi in expected]


def test_outline_of_a_disc_is_round_and_survives_simplification() -> None:
    y, x = np.mgrid[:80, :100]
    disc = 20.0 - np.hypot(x - 50, y - 40)

    points = contours.outline(disc, 0.0)
    few = contours.simplify(points, 0.3)

    assert np.abs(np.hypot(points[:, 0] - 50, points[:, 1] - 40) - 20).max() < 0.1
    assert len(few) < len(points) / 3
    area = abs(
        float((few[:, 0] * np.roll(few[:, 1], -1) - few[:, 1] * np.roll(few[:, 0], -1)).sum())
    )
    assert area / 2 == pytest.approx(math.pi * 400, rel=0.02)


def test_outline_takes_the_largest_piece_and_touches_the_border() -> None:
    field = np.zeros((20, 20))
    field[0:10, 0:10] = 1
    field[15:17, 15:17] = 1

    points = contours.outline(field, 0.5)

    assert points[:, 0].min() < 0 and points[:, 0].max() < 11
    assert len(contours.outline(np.zeros((5, 5)), 0.5)) == 0


def test_calibration_maps_raw_scores_to_observed_shares() -> None:
    from ai.training.calibration import best_threshold, fit_calibration

    random = np.random.default_rng(0)
    raw = random.uniform(0.02, 0.98, 4000)
    truth = random.random(4000) < raw**2
    candidates: list[Any] = [("caries", float(r), bool(t)) for r, t in zip(raw, truth, strict=True)]

    fitted = fit_calibration(candidates, "caries")

    for score in (0.3, 0.5, 0.8):
        assert fitted.confidence(score) == pytest.approx(score**2, abs=0.07)
    assert 0.2 < best_threshold(candidates, "caries", int(truth.sum())) < 0.8
