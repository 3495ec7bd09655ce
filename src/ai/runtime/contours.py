"""Closed outlines of soft masks: marching squares with interpolation, and simplification."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

# For each case of the four corners (1 top left, 2 top right, 4 bottom right, 8 bottom left) the
# sides of the cell that a line joins, keeping the inside on the right: 0 top, 1 right, 2 bottom,
# 3 left.
_LINES: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((3, 0),), 2: ((0, 1),), 3: ((3, 1),), 4: ((1, 2),), 5: ((3, 0), (1, 2)), 6: ((0, 2),),
    7: ((3, 2),), 8: ((2, 3),), 9: ((2, 0),), 10: ((0, 1), (2, 3)), 11: ((2, 1),), 12: ((1, 3),),
    13: ((1, 0),), 14: ((0, 3),),
}  # fmt: skip


def outline(field: NDArray[np.floating], level: float = 0.5) -> Points:
    """Return the longest closed outline of `field` >= level as N x 2 points (x, y).

    Coordinates count pixel centres: the first pixel is (0, 0). Empty when nothing is inside.
    """
    padded = np.pad(field.astype(np.float64), 1, constant_values=min(0.0, level - 1.0))
    inside = padded >= level
    case = inside[:-1, :-1] * 1 + inside[:-1, 1:] * 2 + inside[1:, 1:] * 4 + inside[1:, :-1] * 8
    follows: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for row, column in zip(*np.nonzero((case > 0) & (case < 15)), strict=True):
        for start, end in _LINES[int(case[row, column])]:
            follows[_side(row, column, start)] = _side(row, column, end)
    best: list[tuple[int, int, int]] = []
    while follows:
        first, step = follows.popitem()
        chain = [first]
        while step in follows:
            chain.append(step)
            step = follows.pop(step)
        if len(chain) > len(best):
            best = chain
    if not best:
        return np.zeros((0, 2))
    return np.array([_crossing(padded, side, level) for side in best]) - 1.0


def _side(row: int, column: int, side: int) -> tuple[int, int, int]:
    """Return the side of a cell as (row, column, 0 horizontal | 1 vertical); two cells share it."""
    if side == 0:
        return int(row), int(column), 0
    if side == 1:
        return int(row), int(column) + 1, 1
    if side == 2:
        return int(row) + 1, int(column), 0
    return int(row), int(column), 1


def _crossing(
    field: NDArray[np.float64], side: tuple[int, int, int], level: float
) -> tuple[float, float]:
    row, column, vertical = side
    here = field[row, column]
    there = field[row + 1, column] if vertical else field[row, column + 1]
    share = float((level - here) / (there - here))
    return (column, row + share) if vertical else (column + share, row)


def simplify(points: Points, tolerance: float) -> Points:
    """Return the closed outline without the points that lie within `tolerance` of the rest."""
    if len(points) < 4:
        return points
    far = int(np.argmax(((points - points[0]) ** 2).sum(1)))
    first = _reduce(points[: far + 1], tolerance)
    second = _reduce(np.concatenate([points[far:], points[:1]]), tolerance)
    return np.concatenate([first[:-1], second[:-1]])


def _reduce(points: Points, tolerance: float) -> Points:
    """Douglas and Peucker's reduction of an open line, without recursion."""
    keep = np.zeros(len(points), dtype=bool)
    keep[0] = keep[-1] = True
    pending = [(0, len(points) - 1)]
    while pending:
        start, end = pending.pop()
        if end - start < 2:
            continue
        along = points[end] - points[start]
        between = points[start + 1 : end] - points[start]
        length = float(np.hypot(*along))
        if length < 1e-9:
            distance = np.hypot(between[:, 0], between[:, 1])
        else:
            distance = np.abs(along[0] * between[:, 1] - along[1] * between[:, 0]) / length
        farthest = int(np.argmax(distance))
        if distance[farthest] > tolerance:
            middle = start + 1 + farthest
            keep[middle] = True
            pending += [(start, middle), (middle, end)]
    return points[keep]
