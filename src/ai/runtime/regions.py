"""Separates the teeth of a panoramic: from the network's logits to one mask per numbered tooth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ai.dentition import FDI_NUMBERS, mean_size
from ai.runtime.channels import CORE, TOOTH
from ai.runtime.numbering import number_regions

Float = NDArray[np.float32]

# Sizes in pixels of the 256 x 512 network picture; a lower incisor's core has about 200.
SMALLEST_CORE, WHOLE_TOOTH_CORE = 10, 60
REACH = 14.0
MERGED_SHARE = 0.2
# Relative size of each tooth in the picture, by label; 0 for background.
EXPECTED_SIZE = np.array(
    [0.0, *(width * (crown + root) for width, crown, root, _ in map(mean_size, FDI_NUMBERS))]
)


@dataclass(frozen=True)
class Area:
    """A set of pixels by their places: a hundred times fewer than the picture has."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def window(self, margin: int) -> tuple[NDArray[np.float32], int, int]:
        """Return the area as 0 and 1 in a small picture, and the place of its first pixel."""
        top, left = int(self.rows.min()) - margin, int(self.columns.min()) - margin
        shape = (
            int(self.rows.max()) - top + margin + 1,
            int(self.columns.max()) - left + margin + 1,
        )
        picture = np.zeros(shape, dtype=np.float32)
        picture[self.rows - top, self.columns - left] = 1
        return picture, top, left


@dataclass(frozen=True)
class ToothRegion:
    """One numbered tooth: label 1..32, raw score (mean probability of its number) and area."""

    label: int
    raw_score: float
    area: Area


def softmax(logits: Float) -> Float:
    """Return the softmax over the first axis."""
    shifted = np.exp(logits - logits.max(axis=0, keepdims=True))
    result: Float = shifted / shifted.sum(axis=0, keepdims=True)
    return result


def sigmoid(logits: Float) -> Float:
    """Return the logistic function, without overflow."""
    result: Float = 0.5 * (1 + np.tanh(0.5 * logits))
    return result


def find_teeth(logits: Float) -> list[ToothRegion]:
    """Return the teeth in the picture, at most one per label."""
    probability = softmax(logits[TOOTH])
    foreground = probability[0] < 0.5
    cores, count = ndimage.label((logits[CORE] > 0) & foreground)
    cores, count = _split_merged(cores, count, probability)
    sizes = np.bincount(cores.ravel(), minlength=count + 1)
    keep = [core for core in range(1, count + 1) if sizes[core] >= SMALLEST_CORE]
    if not keep:
        return []
    likelihood = _log_likelihood(probability, cores, count)[keep]
    centers = np.array([c[1] for c in ndimage.center_of_mass(cores > 0, cores, keep)])
    whole = np.array([sizes[core] >= WHOLE_TOOTH_CORE for core in keep])
    labels: list[int | None] = [None] * len(keep)
    numbered = number_regions(likelihood[whole], centers[whole])
    for index, label in zip(np.nonzero(whole)[0], numbered, strict=True):
        labels[index] = label
    taken = {label for label in labels if label is not None}
    for index in np.nonzero(~whole)[0]:
        # A small piece is a cut-off part of a tooth that is there, or nothing.
        own = int(np.argmax(likelihood[index][1:])) + 1
        labels[index] = own if own in taken else None
    return _grow(labels, keep, cores, foreground, likelihood, sizes)


def _split_merged(
    cores: NDArray[np.int32], count: int, probability: Float
) -> tuple[NDArray[np.int32], int]:
    """Split cores of touching teeth that grew together.

    Such a core has two favourite numbers and about the size of both teeth; a single tooth whose
    halves are called differently has the size of one and stays whole.
    """
    favourite = probability[1:].argmax(axis=0) + 1
    places = ndimage.find_objects(cores)
    votes = [
        np.bincount(favourite[place][cores[place] == core], minlength=33)
        for core, place in enumerate(places, start=1)
    ]
    sizes = np.array([vote.sum() for vote in votes])
    usual = [
        size / EXPECTED_SIZE[int(vote.argmax())]
        for size, vote in zip(sizes, votes, strict=True)
        if size >= WHOLE_TOOTH_CORE
    ]
    scale = float(np.median(usual)) if usual else 1.0
    for core, (place, vote, size) in enumerate(zip(places, votes, sizes, strict=True), start=1):
        needed = max(WHOLE_TOOTH_CORE, MERGED_SHARE * size)
        strong = [int(label) for label in np.nonzero(vote >= needed)[0]]
        if len(strong) < 2 or size < 0.78 * scale * EXPECTED_SIZE[strong].sum():
            continue
        for label in strong[1:]:
            pieces, _ = ndimage.label((cores[place] == core) & (favourite[place] == label))
            count += 1
            cores[place][pieces == int(np.argmax(np.bincount(pieces[pieces > 0])))] = count
    return cores, count


def _log_likelihood(
    probability: Float, cores: NDArray[np.int32], count: int
) -> NDArray[np.float64]:
    """Return (count + 1) x 33 mean log probabilities over each core."""
    inside = cores > 0
    index = cores[inside]
    logs = np.log(np.maximum(probability[:, inside], 1e-4))
    sizes = np.maximum(np.bincount(index, minlength=count + 1), 1)
    return np.stack(
        [np.bincount(index, weights=row, minlength=count + 1) / sizes for row in logs], axis=1
    )


def _grow(
    labels: list[int | None],
    keep: list[int],
    cores: NDArray[np.int32],
    foreground: NDArray[np.bool_],
    likelihood: NDArray[np.float64],
    sizes: NDArray[np.int64],
) -> list[ToothRegion]:
    """Give every foreground pixel near a core to the tooth of the nearest core."""
    table = np.zeros(len(sizes), dtype=np.uint8)
    weight: dict[int, float] = {}
    score: dict[int, float] = {}
    for core, label, row in zip(keep, labels, likelihood, strict=True):
        if label is None:
            continue
        table[core] = label
        share = float(sizes[core])
        weight[label] = weight.get(label, 0.0) + share
        score[label] = score.get(label, 0.0) + share * float(np.exp(row[label]))
    seeds = table[cores]
    distance, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    label_picture = seeds[nearest[0], nearest[1]]
    label_picture[~foreground | (distance > REACH)] = 0
    regions = []
    places = ndimage.find_objects(label_picture, max_label=32)
    for label in sorted(weight):
        area = _largest_piece(label_picture, label, places[label - 1])
        regions.append(ToothRegion(label, min(1.0, score[label] / weight[label]), area))
    return regions


def _largest_piece(
    label_picture: NDArray[np.uint8], label: int, place: tuple[slice, slice]
) -> Area:
    pieces, _ = ndimage.label(label_picture[place] == label)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    rows, columns = np.nonzero(pieces == int(np.argmax(sizes)))
    return Area(rows + place[0].start, columns + place[1].start)
