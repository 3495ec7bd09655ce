"""Objects that every run makes anew: other UIDs and another patient, so that runs do not mix."""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass, field

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    RLELossless,
    generate_uid,
)

SLICES = 4
FRAMES = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One object and its Part 10 bytes."""

    dataset: Dataset
    encoded: bytes

    @property
    def study(self) -> str:
        return str(self.dataset.StudyInstanceUID)

    @property
    def series(self) -> str:
        return str(self.dataset.SeriesInstanceUID)

    @property
    def uid(self) -> str:
        return str(self.dataset.SOPInstanceUID)

    @property
    def path(self) -> str:
        """Below the root of DICOMweb (PS3.18 Table 10.1-1)."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.uid}"


@dataclass(frozen=True, slots=True)
class Samples:
    """Three studies of two patients, whose PatientIDs begin with `token`."""

    token: str
    slices: list[Sample] = field(default_factory=list)
    report: Sample | None = None
    compressed: Sample | None = None
    multiframe: Sample | None = None

    @property
    def all(self) -> list[Sample]:
        others = [self.report, self.compressed, self.multiframe]
        return [*self.slices, *(one for one in others if one is not None)]

    @property
    def ct(self) -> Dataset:
        """What the CT study says of itself."""
        return self.slices[0].dataset


def make() -> Samples:
    """The objects of one run."""
    token = f"CONF{secrets.token_hex(5).upper()}"
    study, series = generate_uid(), generate_uid()
    slices = [_slice(token, study, series, number) for number in range(1, SLICES + 1)]
    return Samples(token, slices, _report(token, study), _compressed(token), _multiframe(token))


def encoded(dataset: Dataset, transfer_syntax: UID = ExplicitVRLittleEndian) -> Sample:
    """The object as a Part 10 file (PS3.10 7)."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return Sample(dataset, buffer.getvalue())


def image(token: str, **attributes: object) -> Dataset:
    """A small object of the run's first patient; `attributes` complete or replace."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = f"{token}^Zoë^Q", token
    dataset.PatientBirthDate, dataset.PatientSex = "19800203", "F"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyDate, dataset.StudyTime = "20260102", "101530"
    dataset.AccessionNumber, dataset.StudyID = f"A{token[4:]}", "S7"
    dataset.ReferringPhysicianName = "Grün^Otto"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def pixels(dataset: Dataset, values: np.ndarray) -> Dataset:
    """Give the object native grey pixels, (rows, columns) or (frames, rows, columns)."""
    bits = values.dtype.itemsize * 8
    if values.ndim == 3:
        dataset.NumberOfFrames = values.shape[0]
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    return dataset


def _slice(token: str, study: str, series: str, number: int) -> Sample:
    requested = Dataset()
    requested.ScheduledProcedureStepID, requested.RequestedProcedureID = "SPS1", "RP1"
    dataset = image(
        token,
        SOPClassUID=CTImageStorage,
        Modality="CT",
        StudyInstanceUID=study,
        SeriesInstanceUID=series,
        InstanceNumber=number,
        SeriesDescription="Conformance slices",
        PerformedProcedureStepStartDate="20260102",
        PerformedProcedureStepStartTime="101500",
        RequestAttributesSequence=[requested],
        ImagePositionPatient=[0, 0, number],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        RescaleIntercept=0,
        RescaleSlope=1,
        WindowCenter=20_000,
        WindowWidth=40_000,
    )
    ramp = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) * 13 + number
    return encoded(pixels(dataset, ramp))


def _report(token: str, study: str) -> Sample:
    dataset = image(
        token,
        SOPClassUID=ComprehensiveSRStorage,
        Modality="SR",
        StudyInstanceUID=study,
        SeriesNumber=2,
        CompletionFlag="COMPLETE",
        VerificationFlag="UNVERIFIED",
        ContentDate="20260102",
        ContentTime="101600",
        ValueType="CONTAINER",
        ContinuityOfContent="SEPARATE",
    )
    return encoded(dataset)


def _compressed(token: str) -> Sample:
    dataset = image(
        token,
        SOPClassUID=CTImageStorage,
        Modality="CT",
        StudyDate="20250304",
        StudyTime="235959",
        AccessionNumber=f"B{token[4:]}",
    )
    pixels(dataset, np.arange(32 * 32, dtype=np.uint16).reshape(32, 32))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.compress(RLELossless)
    return encoded(dataset, RLELossless)


def _multiframe(token: str) -> Sample:
    dataset = image(
        token,
        SOPClassUID=MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        Modality="OT",
        PatientID=f"{token}B",
        PatientName=f"{token}^Second",
        StudyDate="20240506",
        AccessionNumber=f"C{token[4:]}",
        ConversionType="WSD",
    )
    frames = np.arange(FRAMES * 16 * 16, dtype=np.uint32).reshape(FRAMES, 16, 16) % 251
    return encoded(pixels(dataset, frames.astype(np.uint8)))
