"""Gives tooth-shaped regions their FDI numbers under the rules that every dentition obeys.

Each tooth occurs at most once and the teeth of a jaw stand in a fixed order from the patient's
right to left. The best numbering under these rules is found exactly, by dynamic programming over
the regions from left to right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ai.dentition import label_of_fdi

UPPER_ORDER = tuple(label_of_fdi(f) for f in (*range(18, 10, -1), *range(21, 29)))
LOWER_ORDER = tuple(label_of_fdi(f) for f in (*range(48, 40, -1), *range(31, 39)))
# Log-likelihood for calling a region no tooth at all: cheaper than a very unlikely number.
REJECT = -7.0


def number_regions(
    log_likelihood: NDArray[np.float64], center_x: NDArray[np.float64]
) -> list[int | None]:
    """Return the label (1..32) of every region, None for one that fits nowhere.

    `log_likelihood` is regions x 33: mean log probability of each class over the region.
    """
    labels: list[int | None] = [None] * len(center_x)
    upper = np.logaddexp.reduce(log_likelihood[:, 1:17], axis=1)
    lower = np.logaddexp.reduce(log_likelihood[:, 17:33], axis=1)
    for order, members in (
        (UPPER_ORDER, np.nonzero(upper >= lower)[0]),
        (LOWER_ORDER, np.nonzero(upper < lower)[0]),
    ):
        members = members[np.argsort(center_x[members], kind="stable")]
        scores = log_likelihood[members][:, order]
        for member, position in zip(members, _best_increasing(scores), strict=True):
            labels[member] = None if position is None else order[position]
    return labels


def _best_increasing(scores: NDArray[np.float64]) -> list[int | None]:
    """Return strictly increasing positions that maximise the summed score; None is a rejection."""
    count, positions = scores.shape
    # best[i][p]: regions i.. placed on positions p.. .
    best = np.zeros((count + 1, positions + 1))
    for i in range(count - 1, -1, -1):
        best[i, positions] = best[i + 1, positions] + REJECT
        for p in range(positions - 1, -1, -1):
            best[i, p] = max(
                scores[i, p] + best[i + 1, p + 1], best[i, p + 1], best[i + 1, p] + REJECT
            )
    chosen: list[int | None] = []
    p = 0
    for i in range(count):
        while p < positions and best[i, p] == best[i, p + 1]:
            p += 1
        if p < positions and best[i, p] == scores[i, p] + best[i + 1, p + 1]:
            chosen.append(p)
            p += 1
        else:
            chosen.append(None)
    return chosen
