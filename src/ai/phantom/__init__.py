"""Synthetic dental pictures with exact truth: for training, tests and the demo. Not patients."""

from __future__ import annotations

from ai.dentition import FDI_NUMBERS, fdi_of_label, label_of_fdi
from ai.phantom.cbct import cbct
from ai.phantom.intraoral import intraoral
from ai.phantom.panoramic import panoramic
from ai.phantom.photo import photo
from ai.phantom.truth import Phantom, PhotoPhantom, ToothTruth, VolumePhantom

__all__ = [
    "FDI_NUMBERS",
    "Phantom",
    "PhotoPhantom",
    "ToothTruth",
    "VolumePhantom",
    "cbct",
    "fdi_of_label",
    "intraoral",
    "label_of_fdi",
    "panoramic",
    "photo",
]
