"""Synthetic dental DICOM files for the web benchmark: made once, encoded once, patched in place.

Every instance is one encoding with its fixed-width identifiers replaced, so that ten thousand files
cost seconds and never depend on how fast pydicom writes.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

# Placeholders of the width of what replaces them.
STUDY, SERIES, SOP = (f"2.25.{digit}{'0' * 36}{digit}" for digit in "123")
PATIENT_ID, ACCESSION, NAME, DATE, NUMBER = (
    "PID0000000", "ACC0000000", "PATIENTNAME^PLACEHOLD", "19000101", "999999",
)  # fmt: skip
FAMILIES = "SMITH JONES GARCIA MUELLER ROSSI DUBOIS KOWALSKI NGUYEN SILVA ANDERSSON".split()
GIVEN = "ANNA BEN CLARA DAVID EVA FELIX GRETA HUGO IRIS JAN".split()


@dataclass
class Study:
    """One study on disk."""

    kind: str
    study: str
    series: str
    patient_id: str
    sops: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def path(self, instance: int) -> str:
        return f"/studies/{self.study}/series/{self.series}/instances/{self.sops[instance]}"


def _base(sop_class: str, modality: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, SOP
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = DATE
    dataset.StudyTime = dataset.ContentTime = "101500"
    dataset.AccessionNumber, dataset.Modality = ACCESSION, modality
    dataset.Manufacturer, dataset.InstitutionName = "Synthetic Dental", "Bench Clinic"
    dataset.ReferringPhysicianName = "REFERRER^RITA"
    dataset.StudyDescription = f"{modality} bench study"
    dataset.SeriesDescription = f"{modality} bench series"
    dataset.PatientName, dataset.PatientID = NAME, PATIENT_ID
    dataset.PatientBirthDate, dataset.PatientSex = "19800215", "O"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, SERIES
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, NUMBER
    dataset.FrameOfReferenceUID = SERIES
    dataset.WindowCenter, dataset.WindowWidth = "2000", "4000"
    return dataset


def _with_pixels(dataset: Dataset, rows: int, columns: int, bits: int, frames: int = 1) -> Dataset:
    rng = np.random.default_rng(rows * columns)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    image = 0.5 + 0.3 * np.sin(x / columns * 9) * np.cos(y / rows * 5)
    image = np.clip(image + rng.normal(0, 0.004, image.shape), 0, 1) * ((1 << bits) - 1)
    frame = image.astype(np.uint8 if bits == 8 else np.uint16)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = frame.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    if frames > 1:
        dataset.NumberOfFrames = frames
        dataset.PerFrameFunctionalGroupsSequence = Sequence([_group(i) for i in range(frames)])
    dataset.PixelData = b"".join(np.roll(frame, i, axis=1).tobytes() for i in range(frames))
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    return dataset


def _group(index: int) -> Dataset:
    group, content, place = Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = "1", index + 1
    place.ImagePositionPatient = ["-50", "-50", f"{index * 0.25:.2f}"]
    group.FrameContentSequence, group.PlanePositionSequence = [content], [place]
    return group


def _kinds() -> dict[str, Dataset]:
    ct = "1.2.840.10008.5.1.4.1.1.2"
    return {
        "io": _with_pixels(_base("1.2.840.10008.5.1.4.1.1.1.3", "IO"), 1300, 960, 16),
        "px": _with_pixels(_base("1.2.840.10008.5.1.4.1.1.1.1", "PX"), 1320, 3000, 16),
        "cbct": _with_pixels(_base(ct, "CT"), 400, 400, 12),
        "multiframe": _with_pixels(_base(f"{ct}.1", "CT"), 400, 400, 12, 400),
        "tiny": _with_pixels(_base("1.2.840.10008.5.1.4.1.1.7", "OT"), 64, 64, 8),
    }


def make(folder: Path, plan: dict[str, tuple[int, int]], seed: int = 1) -> list[Study]:
    """Write `plan[kind] = (studies, instances each)` below `folder`."""
    pick = random.Random(seed)
    studies = []
    for kind, dataset in _kinds().items():
        if kind not in plan:
            continue
        with io.BytesIO() as buffer:
            pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
            template = buffer.getvalue()
        slots = _slots(template)
        for _ in range(plan[kind][0]):
            studies.append(_study(folder / kind, kind, template, slots, plan[kind][1], pick))
    return studies


def _slots(template: bytes) -> dict[str, list[int]]:
    head = template[: template.rfind(b"\xe0\x7f\x10\x00")]
    found: dict[str, list[int]] = {}
    for key in (STUDY, SERIES, SOP, PATIENT_ID, ACCESSION, NAME, DATE, NUMBER):
        at, places = head.find(key.encode()), []
        while at >= 0:
            places.append(at)
            at = head.find(key.encode(), at + 1)
        found[key] = places
    return found


def _study(
    folder: Path,
    kind: str,
    template: bytes,
    slots: dict[str, list[int]],
    instances: int,
    pick: random.Random,
) -> Study:
    def uid() -> str:
        return f"2.25.{pick.randrange(10**37, 10**38)}"

    number = pick.randrange(10**7)
    study = Study(kind, uid(), uid(), f"PID{number:07}")
    shared = {
        STUDY: study.study, SERIES: study.series, PATIENT_ID: study.patient_id,
        ACCESSION: f"ACC{number:07}", NAME: f"{pick.choice(FAMILIES)}^{pick.choice(GIVEN)}",
        DATE: f"{pick.randrange(2016, 2027)}{pick.randrange(1, 13):02}{pick.randrange(1, 29):02}",
    }  # fmt: skip
    where = folder / study.study
    where.mkdir(parents=True)
    for instance in range(instances):
        sop = uid()
        file = bytearray(template)
        for key, value in (shared | {SOP: sop, NUMBER: str(instance + 1)}).items():
            for at in slots[key]:
                file[at : at + len(key)] = value.encode().ljust(len(key))
        path = where / f"{instance:04}.dcm"
        path.write_bytes(file)
        study.sops.append(sop)
        study.files.append(path)
    return study
