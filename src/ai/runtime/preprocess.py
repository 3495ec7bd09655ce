"""Turns the pixels of a radiograph of any size and depth into the network's input.

The same steps are written as MONAI transforms in the bundle's configs/inference.json;
tests/unit/ai/test_bundle.py compares the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ai.runtime.channels import (
    HIGH_PERCENTILE,
    INPUT_HEIGHT,
    INPUT_WIDTH,
    LOW_PERCENTILE,
)

Float = NDArray[np.float32]


def picture(pixels: NDArray[Any]) -> Float:
    """Return the picture stretched to 0..1 and resized to the network's size."""
    # Every tenth pixel of a large film gives the same percentiles in a tenth of the time.
    step = max(1, int((pixels.size / 400_000) ** 0.5))
    low, high = np.percentile(pixels[::step, ::step], (LOW_PERCENTILE, HIGH_PERCENTILE))
    spread = max(float(high - low), 1e-6)
    stretched = np.clip((pixels.astype(np.float32) - np.float32(low)) / np.float32(spread), 0, 1)
    resized = Image.fromarray(stretched).resize((INPUT_WIDTH, INPUT_HEIGHT), Image.Resampling.BOX)
    return np.asarray(resized, dtype=np.float32)


def coordinates() -> Float:
    """Return the row and the column coordinate of every input pixel: where in the jaw it lies."""
    rows = np.linspace(-0.5, 0.5, INPUT_HEIGHT, dtype=np.float32)
    columns = np.linspace(-0.5, 0.5, INPUT_WIDTH, dtype=np.float32)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"))


def network_input(pixels: NDArray[Any]) -> Float:
    """Return the 1 x 3 x 256 x 512 input of the network."""
    return np.concatenate([picture(pixels)[None], coordinates()])[None]
