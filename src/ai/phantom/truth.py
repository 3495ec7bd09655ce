"""What is known exactly about a phantom: the answer sheet beside the picture.

Numbers measured on a phantom say nothing about patients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
Mask = NDArray[np.uint8]

# Values of Phantom.part_mask.
PART_BACKGROUND, PART_CROWN, PART_ROOT_EXPOSED, PART_ROOT_IN_BONE = range(4)


@dataclass(frozen=True)
class ToothTruth:
    """One drawn tooth. `box` is (left, top, right, bottom) in pixels, right and bottom exclusive.

    `bone_level_percent` is the CEJ-to-crest distance along the tooth axis in percent of the root
    length (healthy: about 11), None where the bone covers the crown (impacted teeth).
    """

    fdi: int
    box: tuple[int, int, int, int]
    bone_level_percent: float | None
    impacted: bool = False
    caries_surfaces: tuple[str, ...] = ()
    has_periapical_lesion: bool = False
    restoration: str | None = None
    is_root_filled: bool = False


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph (dense tissue bright) with its truth.

    `label_mask` holds 0 or the tooth's label (1..32, `dentition.label_of_fdi`). The two lesion
    masks hold the label of the tooth that the lesion belongs to. `part_mask` holds PART_* values.
    """

    pixels: Image
    bits_stored: int
    label_mask: Mask
    part_mask: Mask
    caries_mask: Mask
    periapical_mask: Mask
    teeth: tuple[ToothTruth, ...]
    missing: tuple[int, ...]
    pixel_spacing_mm: float
    seed: int
    modality: str = "PX"


@dataclass(frozen=True)
class VolumePhantom:
    """A synthetic cone-beam volume: int16 grey values near Hounsfield units, axial, cranial first.

    `volume[k, row, column]`: rows run from anterior to posterior, columns from the patient's right
    to left. `label_volume` holds tooth labels as `Phantom.label_mask` does.
    """

    volume: NDArray[np.int16]
    label_volume: Mask
    teeth: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    seed: int


@dataclass(frozen=True)
class PhotoPhantom:
    """A synthetic frontal intra-oral photograph, RGB uint8, and the label of every tooth in it."""

    pixels: Mask
    label_mask: Mask
    teeth: tuple[int, ...]
    seed: int
    notes: dict[int, str] = field(default_factory=dict)
