"""Studies to look at: a cone beam CT in slices, one in a single object, a letter as PDF."""

from __future__ import annotations

import io

import httpx
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from tests.integration.smart.conftest import SmartServer

SLICES, ROWS, SPACING = 24, 96, 0.4
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj "
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]>>endobj\n"
    b"trailer<</Root 1 0 R>>\n%%EOF\n"
)


def store(server: SmartServer, datasets: list[Dataset]) -> str:
    """Store the instances of one study by STOW-RS; returns its UID."""
    parts = []
    for dataset in datasets:
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        parts.append(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file.getvalue() + b"\r\n")
    content_type = 'multipart/related; type="application/dicom"; boundary=x'
    answer = httpx.post(
        f"{server.base}/dicom-web/studies",
        content=b"".join(parts) + b"--x--",
        headers={**server.operator(), "Content-Type": content_type},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return str(datasets[0].StudyInstanceUID)


def cone_beam(patient: str) -> list[Dataset]:
    """A ball that differs from slice to slice."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    made = []
    for number, plane in enumerate(_ball(), 1):
        dataset = _base(CTImageStorage, "CT", patient, study, series)
        dataset.InstanceNumber = number
        dataset.FrameOfReferenceUID = frame
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient = [0, 0, round(number * SPACING, 3)]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [SPACING, SPACING], SPACING
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
        dataset.WindowCenter, dataset.WindowWidth = 500, 1000
        _pixels(dataset, plane)
        made.append(dataset)
    return made


def enhanced_and_letter(patient: str) -> list[Dataset]:
    """The same volume as one multi-frame object, and a PDF beside it."""
    study = generate_uid()
    volume = _base(EnhancedCTImageStorage, "CT", patient, study, generate_uid())
    volume.InstanceNumber, volume.NumberOfFrames = 1, SLICES
    volume.FrameOfReferenceUID = generate_uid()
    volume.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared = _item(
        PixelMeasuresSequence=_item(PixelSpacing=[SPACING, SPACING], SliceThickness=SPACING),
        PlaneOrientationSequence=_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelValueTransformationSequence=_item(RescaleIntercept=0, RescaleSlope=1),
        FrameVOILUTSequence=_item(WindowCenter=500, WindowWidth=1000),
    )
    volume.SharedFunctionalGroupsSequence = Sequence([shared])
    volume.PerFrameFunctionalGroupsSequence = Sequence(
        _item(PlanePositionSequence=_item(ImagePositionPatient=[0, 0, round(n * SPACING, 3)]))
        for n in range(SLICES)
    )
    _pixels(volume, np.stack(_ball()))
    letter = _base(EncapsulatedPDFStorage, "DOC", patient, study, generate_uid())
    letter.InstanceNumber, letter.SeriesNumber = 1, 2
    letter.MIMETypeOfEncapsulatedDocument = "application/pdf"
    letter.EncapsulatedDocument = PDF + b" " * (len(PDF) % 2)
    letter.DocumentTitle, letter.BurnedInAnnotation = "Letter", "NO"
    return [volume, letter]


def _ball() -> list[np.ndarray[tuple[int, int], np.dtype[np.uint16]]]:
    y, x = np.mgrid[0:ROWS, 0:ROWS] - ROWS / 2
    distances = [np.sqrt(x**2 + y**2 + (z * 3 - 30) ** 2) for z in range(SLICES)]
    return [((d < 40) * (900 - d * 15) + 50).clip(0).astype("<u2") for d in distances]


def _base(sop_class: str, modality: str, patient: str, study: str, series: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.Modality, dataset.SeriesNumber = modality, 1
    dataset.PatientName, dataset.PatientID = f"{patient}^Test", f"ID-{patient}"
    dataset.StudyDate, dataset.StudyTime = "20261101", "101500"
    dataset.StudyDescription = dataset.SeriesDescription = f"Study of {patient}"
    dataset.AccessionNumber = f"A-{patient}"
    return dataset


def _pixels(dataset: Dataset, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = ROWS
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels.tobytes()


def _item(**values: object) -> Dataset:
    """A data set; a value that is one becomes a sequence of it."""
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, Sequence([value]) if isinstance(value, Dataset) else value)
    return made
