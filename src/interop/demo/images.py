"""DICOM objects from the synthetic phantoms: intra-oral, panoramic, cone beam CT, photograph.

Each states that it is synthetic (ImageComments, Manufacturer). Dates and UIDs are fixed, so the
bytes are the same at every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    VLPhotographicImageStorage,
)

from interop.demo.patients import ISSUER, DemoPatient, demo_uid
from interop.dicom.implementation import IMPLEMENTATION_CLASS_UID

CBCT_SLICES = 120
_SYNTHETIC = "Synthetic phantom, not a patient"


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """One study to be made: what it is, of whom, and when it was taken."""

    kind: str
    description: str
    patient: DemoPatient
    date: str
    accession: str

    @property
    def study_uid(self) -> str:
        return demo_uid("study", self.patient.mrn, self.kind)

    @property
    def series_uid(self) -> str:
        return demo_uid("series", self.patient.mrn, self.kind)


def write_study(study: DemoStudy, folder: Path) -> Iterator[Path]:
    """Write the study's files one by one, skipping those that are there; yield their paths."""
    make = {"IO": _intraoral, "PX": _panoramic, "CT": _cone_beam, "XC": _photograph}[study.kind]
    folder.mkdir(parents=True, exist_ok=True)
    count = CBCT_SLICES if study.kind == "CT" else 1
    paths = [folder / f"{study.kind}-{study.patient.mrn}-{n:03}.dcm" for n in range(1, count + 1)]
    if all(path.exists() for path in paths):
        yield from paths
        return
    for path, dataset in zip(paths, make(study), strict=True):
        partial = path.with_suffix(".part")
        dataset.save_as(partial, enforce_file_format=True)
        partial.rename(path)
        yield path


def _base(study: DemoStudy, sop_class_uid: str, number: int) -> Dataset:
    """What every object states: patient, study, series, equipment, SOP common."""
    dataset = Dataset()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta = meta
    patient = study.patient
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": sop_class_uid,
        "SOPInstanceUID": demo_uid("instance", patient.mrn, study.kind, number),
        "StudyDate": study.date, "SeriesDate": study.date, "ContentDate": study.date,
        "AcquisitionDate": study.date,
        "StudyTime": "093000", "SeriesTime": "093100", "ContentTime": "093200",
        "AcquisitionTime": "093150",
        "AccessionNumber": study.accession,
        "Modality": study.kind,
        "Manufacturer": "dental-interop phantom", "ManufacturerModelName": "phantom",
        "ReferringPhysicianName": "Berg^Anna^^Dr.",
        "StudyDescription": study.description, "SeriesDescription": study.description,
        "PatientName": patient.dicom_name, "PatientID": patient.mrn, "IssuerOfPatientID": ISSUER,
        "PatientBirthDate": patient.birth_date.replace("-", ""), "PatientSex": patient.sex,
        "StudyInstanceUID": study.study_uid, "SeriesInstanceUID": study.series_uid,
        "StudyID": study.accession, "SeriesNumber": 1, "InstanceNumber": number,
        "PatientOrientation": ["L", "F"],
        "ImageComments": _SYNTHETIC, "BurnedInAnnotation": "NO", "LossyImageCompression": "00",
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _grayscale(dataset: Dataset, pixels: np.ndarray[Any, Any], bits_stored: int) -> None:
    signed = pixels.dtype.kind == "i"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored, dataset.HighBit = bits_stored, bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = pixels.astype("<i2" if signed else "<u2").tobytes()


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _projection(dataset: Dataset, spacing_mm: float, bits_stored: int) -> None:
    """The DX family's modules (PS3.3 A.26 and A.28)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImagerPixelSpacing = [f"{spacing_mm:.5f}"] * 2
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.WindowCenter, dataset.WindowWidth = 1 << (bits_stored - 1), 1 << bits_stored
    dataset.DetectorType = "DIRECT"
    dataset.PositionerType = "NONE"
    dataset.AcquisitionContextSequence = []


def _panoramic(study: DemoStudy) -> Iterator[Dataset]:
    from ai.phantom import panoramic

    phantom = panoramic(study.patient.seed, 1280, 2560)
    dataset = _base(study, DigitalXRayImageStorageForPresentation, 1)
    _projection(dataset, phantom.pixel_spacing_mm, phantom.bits_stored)
    dataset.ImageLaterality = "B"
    dataset.AnatomicRegionSequence = [_code("661005", "Jaw region")]
    view = _code("399214001", "antero-posterior")
    view.ViewModifierCodeSequence = []
    dataset.ViewCodeSequence = [view]
    _grayscale(dataset, phantom.pixels, phantom.bits_stored)
    yield dataset


def _intraoral(study: DemoStudy) -> Iterator[Dataset]:
    from ai.phantom import intraoral

    phantom = intraoral(study.patient.seed)
    dataset = _base(study, DigitalIntraOralXRayImageStorageForPresentation, 1)
    _projection(dataset, phantom.pixel_spacing_mm, phantom.bits_stored)
    dataset.ImageLaterality = "L"
    dataset.AnatomicRegionSequence = [_code("91609006", "Mandible")]
    dataset.PrimaryAnatomicStructureSequence = [_code("38199008", "Tooth")]
    modifier = _code("260499008", "Periapical")
    view = _code("442580003", "medio-lateral")
    view.ViewModifierCodeSequence = [modifier]
    dataset.ViewCodeSequence = [view]
    _grayscale(dataset, phantom.pixels, phantom.bits_stored)
    yield dataset


def _cone_beam(study: DemoStudy) -> Iterator[Dataset]:
    from ai.phantom import cbct

    phantom = cbct(study.patient.seed, CBCT_SLICES)
    depth, row_mm, column_mm = phantom.spacing_mm
    for index, plane in enumerate(phantom.volume):
        dataset = _base(study, CTImageStorage, index + 1)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.BodyPartExamined = "JAW"
        dataset.PatientPosition = "HFS"
        dataset.FrameOfReferenceUID = demo_uid("frame", study.patient.mrn)
        dataset.PositionReferenceIndicator = ""
        dataset.ImagePositionPatient = [
            f"{-column_mm * plane.shape[1] / 2:.4f}", f"{-row_mm * plane.shape[0] / 2:.4f}",
            f"{-depth * index:.4f}",
        ]  # fmt: skip
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [f"{row_mm:.4f}", f"{column_mm:.4f}"]
        dataset.SliceThickness = f"{depth:.4f}"
        dataset.SliceLocation = f"{-depth * index:.4f}"
        dataset.KVP = "90"
        dataset.AcquisitionNumber = 1
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "HU"
        dataset.WindowCenter, dataset.WindowWidth = 700, 3600
        dataset.PatientOrientation = ["L", "P"]
        _grayscale(dataset, plane, 16)
        yield dataset


def _photograph(study: DemoStudy) -> Iterator[Dataset]:
    from ai.phantom import photo

    pixels = photo(study.patient.seed).pixels
    dataset = _base(study, VLPhotographicImageStorage, 1)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Laterality = ""
    dataset.AcquisitionContextSequence = []
    dataset.AnatomicRegionSequence = [_code("74262004", "Oral cavity")]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    yield dataset
