"""Makes every pass over the phantoms a little different: mirror images and film properties."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ai.training.dataset import Dataset

# Mirroring swaps the patient's sides: quadrant 1 with 2, 3 with 4.
MIRRORED_LABEL = np.array(
    [0, *range(9, 17), *range(1, 9), *range(25, 33), *range(17, 25)], dtype=np.uint8
)


def batch(
    data: Dataset, indices: NDArray[np.int64], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return augmented pictures (0..1), labels, parts and flags of the chosen examples."""
    pictures, labels, parts, flags = [], [], [], []
    for index in indices:
        picture = data.picture[index].astype(np.float32) / 255
        label, part, flag = data.label[index], data.part[index], data.flags[index]
        if random.random() < 0.5:
            picture, part, flag = picture[:, ::-1], part[:, ::-1], flag[:, ::-1]
            label = MIRRORED_LABEL[label[:, ::-1]]
        pictures.append(_another_film(picture, random))
        labels.append(label)
        parts.append(part)
        flags.append(flag)
    return np.stack(pictures), np.stack(labels), np.stack(parts), np.stack(flags)


def _another_film(picture: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return the picture with another gamma, contrast, shading and noise."""
    picture = picture ** np.float32(random.uniform(0.75, 1.35))
    height, width = picture.shape
    slope = random.normal(0, 0.05, 2)
    shading = (
        np.linspace(-slope[0], slope[0], height)[:, None]
        + np.linspace(-slope[1], slope[1], width)[None]
    )
    picture = picture * np.float32(random.uniform(0.85, 1.12)) + shading.astype(np.float32)
    noise = random.standard_normal(picture.shape, dtype=np.float32)
    picture = picture + noise * np.float32(random.uniform(0, 0.03))
    result: NDArray[np.float32] = np.clip(picture, 0, 1).astype(np.float32)
    return result
