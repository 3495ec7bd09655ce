"""A stored JPEG, PNG, STL or MP4 as a DICOM object, made when it is asked for.

The file's own bytes are the frame, the model or the video wherever DICOM has a transfer syntax for
them: nothing is encoded again, and nothing is held in memory, because what is made here is only
what stands before and after them. A PNG, and a JPEG of a process that DICOM has retired, become
native pixels. UIDs follow from the stored file, so it is always the same instance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from struct import pack
from typing import Any
from uuid import UUID, uuid5

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.coding import Code

from interop.dicom import implementation
from interop.dicom.file_kinds import FileKind
from interop.dicom.filemeta import EXPLICIT_VR_LITTLE_ENDIAN, write_file_meta
from interop.errors import Unprocessable

VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
VIDEO_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ENCAPSULATED_STL = "1.2.840.10008.5.1.4.1.1.104.3"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
# PS3.5 8.2.7: MPEG-4 AVC/H.264 High Profile, which includes Main and Constrained Baseline.
AVC_HIGH_41 = "1.2.840.10008.1.2.4.102"
AVC_HIGH_42 = "1.2.840.10008.1.2.4.104"
_AVC_PROFILES = (66, 77, 100)

_NAMESPACE = UUID("b0b6b6a4-32b0-5a4f-9d0e-1f6a3f0d5c11")
# One series for each kind within a study.
_SERIES_NUMBER = {"JPEG": 9001, "PNG": 9002, "STL": 9003, "MP4": 9004}
_BASELINE, _EXTENDED = 0xC0, 0xC1
_LONGEST_FRAGMENT = 0xFFFFFFFE
# Decoded pixels and the file beside them stay within a worker's memory.
MOST_NATIVE_BYTES, MOST_DECODED_FILE = 48 << 20, 12 << 20

# The file's bytes to (rows, columns, samples, bits) and native pixels, in the decode child.
Decode = Callable[[], tuple[tuple[int, int, int, int], bytes]]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The row of a file, with what its study says of the patient."""

    id: UUID
    tenant_id: UUID
    object_type: str
    storage_uri: str
    byte_size: int
    hash: str
    title: str | None
    tooth_numbers: tuple[int, ...]
    content_date: str
    content_time: str
    instance_number: int
    received_at: datetime
    study_instance_uid: str
    study_date: str
    study_time: str
    accession_number: str
    dicom_study_id: str
    referring_physician_name: str
    patient_name: str
    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str
    patient_sex: str

    @property
    def sop_instance_uid(self) -> str:
        return self.derived_uid("instance", self.id)

    @property
    def series_instance_uid(self) -> str:
        return self.derived_uid(f"series {self.object_type}", self.study_instance_uid)

    def derived_uid(self, what: str, of: object) -> str:
        return f"2.25.{uuid5(_NAMESPACE, f'{self.tenant_id} {what} {of}').int}"


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A Part 10 file: `head`, then `native` pixels or else the file's own bytes, then `tail`."""

    sop_class_uid: str
    transfer_syntax_uid: str
    head: bytes
    tail: bytes
    native: bytes | None = None


def wrap(file: StoredFile, kind: FileKind, decode: Decode) -> Wrapped:
    """The file as DICOM. Raises Unprocessable where no transfer syntax can carry it."""
    match kind.kind:
        case "JPEG" if kind.process in (_BASELINE, _EXTENDED) and kind.samples in (1, 3):
            return _photograph(file, kind)
        case "JPEG" | "PNG":
            return _capture(file, kind, decode)
        case "MP4":
            return _video(file, kind)
    return _model(file)


def _photograph(file: StoredFile, kind: FileKind) -> Wrapped:
    """VL Photographic Image (PS3.3 A.32.4) around an untouched JPEG."""
    made = _common(file, VL_PHOTOGRAPHIC, "XC")
    _image(made, kind.height, kind.width, kind.samples or 1, kind.bits or 8)
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    if kind.samples == 3:
        made.PlanarConfiguration = 0
        subsampled = "YBR_FULL_422" if kind.is_subsampled else "YBR_FULL"
        made.PhotometricInterpretation = "RGB" if kind.is_rgb else subsampled
    pixels = (kind.width or 0) * (kind.height or 0) * (kind.samples or 1)
    _lossy(made, "ISO_10918_1", pixels / max(1, file.byte_size))
    made.AcquisitionContextSequence = []
    made.ImageComments = _comments(file, kind)
    syntax = JPEG_BASELINE if kind.process == _BASELINE else JPEG_EXTENDED
    return _encapsulated(made, syntax, file.byte_size)


def _capture(file: StoredFile, kind: FileKind, decode: Decode) -> Wrapped:
    """Secondary Capture Image (PS3.3 A.8.1) with native pixels."""
    samples = 1 if kind.samples in (1, 2) else 3
    expected = (kind.width or 0) * (kind.height or 0) * 3 * (2 if kind.bits == 16 else 1)
    if expected > MOST_NATIVE_BYTES or file.byte_size > MOST_DECODED_FILE:
        raise Unprocessable(
            f"the picture is too large to be made into native pixels: {kind.width} x"
            f" {kind.height}; baseline JPEG of any size is taken as it is"
        )
    (rows, columns, samples, bits), native = decode()
    made = _common(file, SECONDARY_CAPTURE, "XC")
    made.ConversionType = "WSD"
    _image(made, rows, columns, samples, bits)
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    if samples == 3:
        made.PlanarConfiguration = 0
        made.PhotometricInterpretation = "RGB"
    if kind.kind == "JPEG":
        _lossy(made, "ISO_10918_1", len(native) / max(1, file.byte_size))
    made.ImageComments = _comments(file, kind)
    padded = native + b"\0" * (len(native) % 2)
    element = pack("<HH2sHI", 0x7FE0, 0x0010, b"OW" if bits > 8 else b"OB", 0, len(padded))
    head = _head(made, EXPLICIT_VR_LITTLE_ENDIAN) + element
    return Wrapped(SECONDARY_CAPTURE, EXPLICIT_VR_LITTLE_ENDIAN, head, b"", padded)


def _video(file: StoredFile, kind: FileKind) -> Wrapped:
    """Video Photographic Image (PS3.3 A.32.7) around an untouched MP4."""
    syntax = _avc_syntax(kind)
    made = _common(file, VIDEO_PHOTOGRAPHIC, "XC")
    _image(made, kind.height, kind.width, 3, 8)
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    made.PhotometricInterpretation = "YBR_PARTIAL_420"
    made.PlanarConfiguration = 0
    made.NumberOfFrames = kind.frames
    made.FrameIncrementPointer = 0x00181063
    made.FrameTime = f"{kind.frame_milliseconds:.6f}"[:16]
    made.CineRate = max(1, round(1000 / (kind.frame_milliseconds or 1000)))
    raw = (kind.width or 0) * (kind.height or 0) * 3 * (kind.frames or 1)
    _lossy(made, "ISO_14496_10", raw / max(1, file.byte_size))
    made.AcquisitionContextSequence = []
    made.ImageComments = _comments(file, kind)
    return _encapsulated(made, syntax, file.byte_size)


def _avc_syntax(kind: FileKind) -> str:
    if kind.codec not in ("avc1", "avc3") or kind.profile not in _AVC_PROFILES:
        raise Unprocessable(
            f"the video is {kind.codec} of profile {kind.profile}; DICOM takes MPEG-4 AVC up to"
            " High Profile"
        )
    if not kind.frames or not kind.frame_milliseconds:
        raise Unprocessable("the video does not say how many frames it has and how fast")
    level = kind.level or 0
    if level > 42:
        raise Unprocessable(f"the video has AVC level {level / 10}; DICOM takes up to 4.2")
    return AVC_HIGH_41 if level <= 41 else AVC_HIGH_42


def _model(file: StoredFile) -> Wrapped:
    """Encapsulated STL (PS3.3 A.85.1)."""
    made = _common(file, ENCAPSULATED_STL, "M3D")
    made.ManufacturerModelName = implementation.MANUFACTURER_MODEL_NAME
    made.DeviceSerialNumber = "0"
    made.SoftwareVersions = implementation.IMPLEMENTATION_VERSION_NAME
    made.FrameOfReferenceUID = file.derived_uid("frame of reference", file.id)
    made.PositionReferenceIndicator = ""
    made.AcquisitionDateTime = file.content_date + file.content_time
    made.BurnedInAnnotation = "NO"
    made.RecognizableVisualFeatures = "NO"
    made.DocumentTitle = file.title or ""
    made.ConceptNameCodeSequence = [_code(Code("129021", "DCM", "Laser Scanning 3D CAM model"))]
    made.MIMETypeOfEncapsulatedDocument = "model/stl"
    made.EncapsulatedDocumentLength = file.byte_size
    made.ModelModification = "NO"
    made.ModelMirroring = "NO"
    made.ModelUsageCodeSequence = [_code(Code("129013", "DCM", "Planning Intent"))]
    made.MeasurementUnitsCodeSequence = [_code(Code("mm", "UCUM", "mm"))]
    made.ContentDescription = _comments(file, None)[:64]
    padded = file.byte_size + file.byte_size % 2
    element = pack("<HH2sHI", 0x0042, 0x0011, b"OB", 0, padded)
    document = 0x00420011
    before = Dataset({tag: made[tag] for tag in made.keys() if tag < document})
    after = Dataset({tag: made[tag] for tag in made.keys() if tag > document})
    tail = b"\0" * (file.byte_size % 2) + _elements(after)
    head = _head(before, EXPLICIT_VR_LITTLE_ENDIAN) + element
    return Wrapped(ENCAPSULATED_STL, EXPLICIT_VR_LITTLE_ENDIAN, head, tail)


def _common(file: StoredFile, sop_class_uid: str, modality: str) -> Dataset:
    """Patient, study, series, equipment, SOP common (PS3.3 C.7.1.1, C.7.2.1, C.7.3.1, C.12.1)."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    received = file.received_at.astimezone(UTC)
    made.InstanceCreationDate = f"{received:%Y%m%d}"
    made.InstanceCreationTime = f"{received:%H%M%S}"
    made.SOPClassUID, made.SOPInstanceUID = sop_class_uid, file.sop_instance_uid
    made.StudyDate, made.StudyTime = file.study_date, file.study_time
    made.ContentDate, made.ContentTime = file.content_date, file.content_time
    made.AccessionNumber, made.Modality = file.accession_number, modality
    made.Manufacturer = implementation.MANUFACTURER
    made.ReferringPhysicianName = file.referring_physician_name
    made.PatientName, made.PatientID = file.patient_name, file.patient_id
    if file.issuer_of_patient_id:
        made.IssuerOfPatientID = file.issuer_of_patient_id
    made.PatientBirthDate, made.PatientSex = file.patient_birth_date, file.patient_sex
    made.StudyInstanceUID = file.study_instance_uid
    made.SeriesInstanceUID = file.series_instance_uid
    made.StudyID = file.dicom_study_id
    made.SeriesNumber = _SERIES_NUMBER[file.object_type]
    made.InstanceNumber = file.instance_number
    return made


def _image(made: Dataset, rows: int | None, columns: int | None, samples: int, bits: int) -> None:
    """Image Pixel (PS3.3 C.7.6.3) of unsigned values."""
    made.Laterality, made.PatientOrientation = "", ""
    made.AnatomicRegionSequence = [_code(Code("123851003", "SCT", "Mouth"))]
    made.SamplesPerPixel = samples
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = rows, columns
    made.BitsAllocated = 16 if bits > 8 else 8
    made.BitsStored, made.HighBit = bits, bits - 1
    made.PixelRepresentation = 0
    made.BurnedInAnnotation = "NO"
    made.LossyImageCompression = "00"


def _lossy(made: Dataset, method: str, ratio: float) -> None:
    made.LossyImageCompression = "01"
    made.LossyImageCompressionRatio = f"{ratio:.4f}"[:16]
    made.LossyImageCompressionMethod = method


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _comments(file: StoredFile, kind: FileKind | None) -> str:
    """Title and teeth, and how a picture wants to be turned: the pixels are as the camera wrote."""
    said = [file.title or ""]
    if file.tooth_numbers:
        said.append("Teeth (FDI) " + ", ".join(map(str, file.tooth_numbers)))
    if kind is not None and kind.orientation != 1:
        said.append(f"Exif orientation {kind.orientation}")
    return ". ".join(part for part in said if part)


def _encapsulated(made: Dataset, transfer_syntax_uid: str, size: int) -> Wrapped:
    """The file as one fragment (PS3.5 A.4); an empty Basic Offset Table is enough for one."""
    padded = size + size % 2
    if padded > _LONGEST_FRAGMENT:
        raise Unprocessable(f"a file of {size} bytes does not fit a fragment of DICOM")
    head = (
        _head(made, transfer_syntax_uid)
        + pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        + pack("<HHI", 0xFFFE, 0xE000, 0)
        + pack("<HHI", 0xFFFE, 0xE000, padded)
    )
    tail = b"\0" * (size % 2) + pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return Wrapped(str(made.SOPClassUID), transfer_syntax_uid, head, tail)


def _head(made: Dataset, transfer_syntax_uid: str) -> bytes:
    meta = write_file_meta(str(made.SOPClassUID), str(made.SOPInstanceUID), transfer_syntax_uid)
    return meta + _elements(made)


def _elements(made: Dataset) -> bytes:
    with DicomBytesIO() as buffer:
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, made, parent_encoding="utf-8")
        encoded: Any = buffer.getvalue()
    return bytes(encoded)
