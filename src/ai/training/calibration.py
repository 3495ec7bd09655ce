"""Fits confidences and reporting thresholds on validation phantoms."""

from __future__ import annotations

import math

import numpy as np

from ai.runtime.postprocess import KINDS, Calibration

Candidate = tuple[str, float, bool]


def fit_calibration(candidates: list[Candidate], kind: str) -> Calibration:
    """Fit Platt scaling by Newton's method; with Platt's smoothed targets it always converges."""
    pairs = [(score, right) for name, score, right in candidates if name == kind]
    if len(pairs) < 20:
        return Calibration()
    raw = np.clip(np.array([score for score, _ in pairs]), 1e-4, 1 - 1e-4)
    right = np.array([is_right for _, is_right in pairs])
    hits = int(right.sum())
    misses = len(right) - hits
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))
    x = np.stack([np.log(raw / (1 - raw)), np.ones(len(raw))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - target) + 1e-3 * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # A damped step: the first ones may overshoot when the classes are nearly separable.
        weights = weights - step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-9))
        if float(np.abs(step).max()) < 1e-6:
            break
    return Calibration(slope=float(weights[0]), intercept=float(weights[1]))


def best_threshold(candidates: list[Candidate], kind: str, positives: int) -> float:
    """Return the confidence at which reporting gives the best F1 on these (calibrated) candidates.

    `positives` is the number of true ones, found or not.
    """
    ranked = sorted(
        ((score, right) for name, score, right in candidates if name == kind), reverse=True
    )
    best, threshold, hits = -1.0, 0.5, 0
    for count, (score, right) in enumerate(ranked, start=1):
        hits += right
        f1 = 2 * hits / (count + positives)
        if f1 > best:
            following = ranked[count][0] if count < len(ranked) else 0.0
            best, threshold = f1, (score + following) / 2
    return round(min(max(threshold, 0.05), 0.95), 4)


def rounded(calibration: Calibration) -> Calibration:
    """Return the calibration as it is written to metadata.json."""
    return Calibration(round(calibration.slope, 4), round(calibration.intercept, 4))


def check_finite(calibrations: dict[str, Calibration]) -> None:
    """Refuse a fit that went wrong before it reaches a bundle."""
    for kind in KINDS:
        fitted = calibrations[kind]
        if not (math.isfinite(fitted.slope) and math.isfinite(fitted.intercept)):
            raise ValueError(f"the calibration of {kind} did not converge")
        if fitted.slope <= 0:
            raise ValueError(f"the calibration of {kind} turns the order of scores around")
