"""Small DICOM objects made to measure."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from interop.dicom.spool import Spool, Spooled
from storage.objects import ObjectStore

# The files that come inside the pydicom wheel; asking pydicom for them would try to download more.
_DATA = Path(pydicom.data.__file__).parent
CORPUS = sorted(
    path
    for folder in ("test_files", "charset_files")
    for path in (_DATA / folder).rglob("*")
    if path.is_file() and path.suffix in (".dcm", "")
)

INTRAORAL = "1.2.840.10008.5.1.4.1.1.1.3"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT = "1.2.840.10008.5.1.4.1.1.2"


class Remote:
    """An object store as a network one looks: no local files, and it wants digests."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self.digests: list[str | None] = []

    def put_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        self.digests.append(sha256)
        self._objects.put_file(key, path, sha256)

    def local_path(self, key: str) -> Path | None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)


def instance(
    *,
    rows: int = 8,
    columns: int = 8,
    frames: int = 1,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    **attributes: object,
) -> Dataset:
    """Return an intra-oral image; attributes are given by keyword."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = INTRAORAL
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID = generate_uid()
    made.SeriesInstanceUID = generate_uid()
    made.StudyDate, made.StudyTime = "20260102", "101112"
    made.AccessionNumber = "A1"
    made.Modality = "IO"
    made.PatientName = "Doe^Jane"
    made.PatientID = "P1"
    made.PatientBirthDate = "19800102"
    made.PatientSex = "F"
    made.StudyID = "S1"
    made.SeriesNumber = 1
    made.InstanceNumber = 1
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = rows, columns
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelRepresentation = 0
    if frames > 1:
        made.NumberOfFrames = frames
    pixels = np.arange(rows * columns * frames, dtype="<u2") % 4096
    made.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    made.file_meta = meta
    return made


def encoded(dataset: Dataset) -> bytes:
    """Return the Part 10 file."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def spooled(spool: Spool, content: bytes | Dataset) -> Spooled:
    """Return the content as a door hands it to the ingest."""
    writer = spool.writer()
    writer.write(encoded(content) if isinstance(content, Dataset) else content)
    return writer.finish()
