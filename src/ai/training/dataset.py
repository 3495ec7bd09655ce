"""Draws the training phantoms once and keeps them, ready for the network, in a cache folder."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ai.phantom import Phantom, panoramic
from ai.runtime import preprocess
from ai.runtime.channels import INPUT_HEIGHT, INPUT_WIDTH

logger = logging.getLogger(__name__)

Array = NDArray[np.uint8]
CARIES_BIT, PERIAPICAL_BIT, CORE_BIT = 1, 2, 4
# Raised when the drawing changes, so that an old cache is not taken for the new phantom.
PHANTOM_REVISION = 1


@dataclass(frozen=True)
class Dataset:
    """Pictures (0..255), tooth labels, parts and flag bits, each N x 256 x 512."""

    picture: Array
    label: Array
    part: Array
    flags: Array


def size_of(seed: int) -> tuple[int, int]:
    """Return height and width of the phantom of a seed: films differ in shape."""
    random = np.random.default_rng([seed, 7])
    return int(random.integers(470, 561)), int(random.integers(940, 1100))


def phantom_of(seed: int) -> Phantom:
    """Return the phantom that stands for a seed in training and evaluation."""
    height, width = size_of(seed)
    return panoramic(seed, height, width, bits=8 if seed % 3 == 0 else 12)


def example(seed: int) -> tuple[Array, Array, Array, Array]:
    """Return picture, label, part and flags of one phantom at the network's size."""
    phantom = phantom_of(seed)
    picture = (preprocess.picture(phantom.pixels) * 255 + 0.5).astype(np.uint8)
    label, part = _shrink(phantom.label_mask), _shrink(phantom.part_mask)
    flags = np.zeros_like(label)
    flags[_shrink(phantom.caries_mask) > 0] |= CARIES_BIT
    flags[_shrink(phantom.periapical_mask) > 0] |= PERIAPICAL_BIT
    rim = ndimage.grey_dilation(label, 5) != ndimage.grey_erosion(label, 5)
    flags[(label > 0) & ~rim] |= CORE_BIT
    return picture, label, part, flags


def _shrink(mask: Array) -> Array:
    size = (INPUT_WIDTH, INPUT_HEIGHT)
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def load_or_draw(seeds: Iterable[int], cache: Path, processes: int) -> Dataset:
    """Return the examples of the seeds, drawn only when the cache does not hold exactly these."""
    seeds = list(seeds)
    wanted = {"revision": PHANTOM_REVISION, "first": seeds[0], "count": len(seeds)}
    names = ("picture", "label", "part", "flags")
    stamp = cache / "dataset.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        cache.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        shape = (len(seeds), INPUT_HEIGHT, INPUT_WIDTH)
        arrays = [
            np.lib.format.open_memmap(cache / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
            for name in names
        ]
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for index, parts in enumerate(pool.imap(example, seeds, chunksize=8)):
                for array, part in zip(arrays, parts, strict=True):
                    array[index] = part
                if (index + 1) % 200 == 0:
                    logger.info("drawn %d of %d phantoms", index + 1, len(seeds))
        for array in arrays:
            array.flush()
        stamp.write_text(json.dumps(wanted))
    return Dataset(*(np.load(cache / f"{name}.npy", mmap_mode="r") for name in names))
