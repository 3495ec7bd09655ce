"""Measures a trained model on phantoms it never saw, through the code that serves it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ai.runtime.network import Network
from ai.runtime.postprocess import KINDS, Calibration, Reporting, postprocess
from ai.training import calibration
from ai.training.dataset import phantom_of
from ai.training.scoring import BONE_LOSS_PERCENT, Scores

logger = logging.getLogger(__name__)


def evaluate(network: Network, seeds: Iterable[int], reporting: Reporting) -> Scores:
    """Return the scores on the phantoms of these seeds."""
    scores = Scores()
    for seed in seeds:
        phantom = phantom_of(seed)
        height, width = phantom.pixels.shape
        document, mask = postprocess(network.logits(phantom.pixels), height, width, reporting)
        scores.add(phantom, document, mask)
    return scores


def fit_reporting(network: Network, seeds: list[int]) -> Reporting:
    """Fit calibration and thresholds on validation phantoms."""
    raw = evaluate(network, seeds, Reporting.everything())
    fitted: dict[str, Calibration] = {
        kind: calibration.rounded(calibration.fit_calibration(raw.candidates, kind))
        for kind in KINDS
    }
    calibration.check_finite(fitted)
    candidates = [
        (kind, fitted[kind].confidence(score), right) for kind, score, right in raw.candidates
    ]
    positives = {
        "tooth": raw.teeth.true_positive + raw.teeth.false_negative,
        "caries": raw.caries.true_positive + raw.caries.false_negative,
        "periapical_lesion": raw.periapical.true_positive + raw.periapical.false_negative,
    }
    thresholds = {
        kind: calibration.best_threshold(candidates, kind, positives[kind]) for kind in KINDS
    }
    logger.info("thresholds %s, calibration %s", thresholds, fitted)
    return Reporting(thresholds, fitted, BONE_LOSS_PERCENT)
