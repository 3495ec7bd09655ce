"""Stored objects as uncompressed Explicit VR Little Endian (PS3.18 8.7.3.5.2, PS3.5 A.2).

The data set is written anew by pydicom after our own walk has bounded it; frames come one by one
from the limited child process, so memory stays at one frame.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from interop.dicom.decodable import COMPRESSED, NATIVE
from interop.dicom.decode_pool import shared_pool
from interop.dicom.failures import Failure
from interop.dicom.filemeta import EXPLICIT_VR_LITTLE_ENDIAN
from interop.dicom.frame_table import entry, join_fragments
from interop.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from interop.dicom.inflate import inflate
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.part10 import Instance, parse
from interop.dicom.pixels import describe
from interop.errors import Unprocessable

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_LONGEST_VALUE = 0xFFFFFFFE


def can_transcode(transfer_syntax_uid: str) -> bool:
    """Whether objects of this transfer syntax can be sent as Explicit VR Little Endian."""
    return transfer_syntax_uid in COMPRESSED or (
        transfer_syntax_uid in NATIVE and transfer_syntax_uid != EXPLICIT_VR_LITTLE_ENDIAN
    )


def to_explicit_vr_little_endian(source: Path, target: Path) -> None:
    """Write the object to ``target`` uncompressed. Raises Unprocessable where that cannot be done.

    The SOP Instance UID stays: the pixels are the same, or those that a lossy image shows.
    """
    try:
        instance = parse(source)
    except Failure as failure:
        raise Unprocessable(failure.message) from failure
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if instance.transfer_syntax_uid in COMPRESSED and instance.frames.number_of_frames:
                _decompress(source, target, instance)
            else:
                _rewrite(source, target, instance)
        except Unprocessable:
            raise
        except Exception as error:
            # pydicom says in many types that a value cannot be written.
            raise Unprocessable(f"the object cannot be transcoded: {error}") from error


def _meta(instance: Instance) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(instance.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(instance.sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _rewrite(source: Path, target: Path, instance: Instance) -> None:
    """Change the encoding of an object whose pixels are uncompressed already."""
    content: BytesIO | Path = source
    if instance.transfer_syntax_uid not in NATIVE:
        raise Unprocessable(f"{instance.transfer_syntax_uid} cannot be transcoded here")
    raw = source.read_bytes()[instance.meta.dataset_offset :]
    if instance.transfer_syntax_uid == "1.2.840.10008.1.2.1.99":
        try:
            raw = inflate(raw, DEFAULT_LIMITS)
        except Failure as failure:
            raise Unprocessable(failure.message) from failure
        header = BytesIO()
        dcmwrite(header, _with_meta(Dataset(), instance), enforce_file_format=True)
        content = BytesIO(header.getvalue() + raw)
    dataset = dcmread(content, force=True)
    is_big = instance.transfer_syntax_uid == "1.2.840.10008.1.2.2"
    for keyword in _PIXEL_KEYWORDS:
        if is_big and keyword in dataset:
            from interop.dicom.json_values import swap_words

            width = dataset.BitsAllocated // 8 if keyword == "PixelData" else 4
            if keyword == "DoubleFloatPixelData":
                width = 8
            value = getattr(dataset, keyword)
            setattr(dataset, keyword, swap_words(value, width) if width > 1 else value)
    dcmwrite(target, _with_meta(dataset, instance), enforce_file_format=True)


def _with_meta(dataset: Dataset, instance: Instance) -> Dataset:
    dataset.file_meta = _meta(instance)
    return dataset


def _decompress(source: Path, target: Path, instance: Instance) -> None:
    """Write the header, then Pixel Data frame by frame."""
    table, frames = instance.frames.table, instance.frames.number_of_frames
    if table is None:
        raise Unprocessable("the pixel data does not say where its frames are")
    pool = shared_pool()
    dataset = dcmread(source, stop_before_pixels=True, force=True)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    with source.open("rb") as file, target.open("wb") as out:
        length, padding = 0, b""
        for index in range(frames):
            described = describe(
                instance.dicom_json,
                instance.transfer_syntax_uid,
                index,
                lambda _: b"",
            )
            header = {"wanted": "native", "pixels": described.as_json()}
            answer, pixels = pool.ask(header, _frame(file, table, index))
            if index == 0:
                length = len(pixels) * frames
                if length > _LONGEST_VALUE:
                    raise Unprocessable("uncompressed, the object has more than 4 GB of pixels")
                padding = b"\0" * (length % 2)
                _describe_native(dataset, answer["photometric_interpretation"])
                dcmwrite(out, _with_meta(dataset, instance), enforce_file_format=True)
                vr = b"OW" if described.bits_allocated > 8 else b"OB"
                out.write(pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, length + len(padding)))
            if len(pixels) * frames != length:
                raise Unprocessable(f"frame {index + 1} has another size than the first")
            out.write(pixels)
        out.write(padding)


def _describe_native(dataset: Dataset, photometric_interpretation: str) -> None:
    dataset.PhotometricInterpretation = photometric_interpretation
    if dataset.get("SamplesPerPixel", 1) > 1:
        dataset.PlanarConfiguration = 0


def _frame(file: BinaryIO, table: bytes, index: int) -> bytes:
    offset, length, is_fragmented = entry(table, index)
    file.seek(offset)
    raw = file.read(length)
    return join_fragments(raw) if is_fragmented else raw
