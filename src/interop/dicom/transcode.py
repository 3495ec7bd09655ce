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
from pydicom.filereader import read_dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from interop.dicom.decodable import COMPRESSED, NATIVE
from interop.dicom.decode_pool import shared_pool
from interop.dicom.failures import Failure
from interop.dicom.filemeta import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from interop.dicom.frame_table import entry, join_fragments
from interop.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from interop.dicom.inflate import inflate
from interop.dicom.json_values import swap_words
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.part10 import Instance, parse
from interop.dicom.pixels import describe
from interop.dicom.walker import FLOAT_PIXEL_DATA, PIXEL_DATA, PIXEL_TAGS, UNDEFINED
from interop.errors import Unprocessable

_LONGEST_VALUE = 0xFFFFFFFE
# A multiple of every word that is swapped.
_COPY_CHUNK = 1 << 20


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
    if instance.transfer_syntax_uid not in NATIVE:
        raise Unprocessable(f"{instance.transfer_syntax_uid} cannot be transcoded here")
    if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        dcmwrite(
            target, _with_meta(_inflated(source, instance), instance), enforce_file_format=True
        )
        return
    # All but the pixels goes through pydicom, one large value at a time.
    dataset = dcmread(source, stop_before_pixels=True, force=True, defer_size=_COPY_CHUNK)
    with source.open("rb") as file, target.open("wb") as out:
        dcmwrite(out, _with_meta(dataset, instance), enforce_file_format=True)
        end = 0
        for tag in sorted(PIXEL_TAGS):
            if tag in instance.top:
                end = max(end, _copy_pixels(file, out, instance, tag))
        if end:
            file.seek(end)
            _write_rest(file, out, instance, dataset)


def _inflated(source: Path, instance: Instance) -> Dataset:
    """Return the data set of a deflated object, which the limits keep small enough to be held."""
    with source.open("rb") as file:
        file.seek(instance.meta.dataset_offset)
        # Stored blocks, the longest form, add five bytes to 64 KiB.
        deflated = file.read(DEFAULT_LIMITS.inflated_bytes + _COPY_CHUNK)
    try:
        raw = inflate(deflated, DEFAULT_LIMITS)
    except Failure as failure:
        raise Unprocessable(failure.message) from failure
    header = BytesIO()
    dcmwrite(header, _with_meta(Dataset(), instance), enforce_file_format=True)
    return dcmread(BytesIO(header.getvalue() + raw), force=True)


def _copy_pixels(file: BinaryIO, out: BinaryIO, instance: Instance, tag: int) -> int:
    """Copy a native pixel data element piece by piece; return where it ends in ``file``."""
    vr, offset, length = instance.top[tag]
    if length == UNDEFINED:
        raise Unprocessable("the pixel data is encapsulated; its transfer syntax says it is not")
    bits = instance.integer(0x00280100) or 16
    if tag == PIXEL_DATA:
        # Bytes of 8-bit pixels sent as OW stand in words of two (PS3.5 8.1.1).
        width = max(2, bits // 8) if vr != b"OB" else 1
        vr = b"OB" if vr == b"OB" and bits <= 8 else b"OW"
    else:
        width, vr = {FLOAT_PIXEL_DATA: (4, b"OF")}.get(tag, (8, b"OD"))
    is_swapped = instance.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN and width > 1
    out.write(pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length + length % 2))
    file.seek(offset)
    left = length
    while left:
        piece = file.read(min(left, _COPY_CHUNK))
        if not piece:
            raise Unprocessable("the object ends inside its pixel data")
        left -= len(piece)
        out.write(swap_words(piece, width) if is_swapped else piece)
    out.write(b"\0" * (length % 2))
    return offset + length


def _write_rest(file: BinaryIO, out: BinaryIO, instance: Instance, header: Dataset) -> None:
    """Write what stands behind the pixels: trailing padding, private groups."""
    implicit = instance.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    little = instance.transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    rest = read_dataset(file, implicit, little, parent_encoding=header.original_character_set)
    if len(rest):
        dcmwrite(out, rest, implicit_vr=False, little_endian=True)


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
