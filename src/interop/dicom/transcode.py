"""Stored objects in another transfer syntax (PS3.18 8.7.3, PS3.5 8.2, A.2, A.4), without loss.

The data set is written anew by pydicom after our own walk has bounded it. Frames come one by one
from the limited child process, so memory stays at one frame; uncompressed pixels that stay
uncompressed are copied piece by piece and touch no codec. The SOP Instance UID stays: the pixels
are the same, or those that a lossy image shows.
"""

from __future__ import annotations

import shutil
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from struct import pack
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import dcmwrite

from interop.dicom.decodable import (
    COMPRESSED,
    NATIVE,
    NATIVE_TARGETS,
    can_hold,
    can_transcode,
    targets_of,
)
from interop.dicom.decode_pool import shared_pool
from interop.dicom.encapsulated import EncapsulatedPixelData
from interop.dicom.filemeta import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    write_file_meta,
)
from interop.dicom.frames import OneFile, OpenedObject
from interop.dicom.json_values import swap_words
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.part10 import Instance
from interop.dicom.pixels import PixelDescription, describe
from interop.dicom.walker import FLOAT_PIXEL_DATA, PIXEL_DATA, PIXEL_TAGS, UNDEFINED
from interop.errors import NotFound, Unprocessable

__all__ = ["can_transcode", "targets_of", "transcode"]

_LONGEST_VALUE = 0xFFFFFFFE
# A multiple of every word that is swapped.
_COPY_CHUNK = 1 << 20
# What a codec makes of noise is larger than the noise, by less than this part.
_GROWTH = 4
_HEAD_OF_A_FRAME = 1024
_DEFLATE_LEVEL = 3


def transcode(source: Path, target: Path, transfer_syntax_uid: str) -> None:
    """Write the object at ``source`` to ``target`` in a transfer syntax. Blocking.

    Raises Unprocessable where that cannot be done; what ``target`` holds then is to be removed.
    """
    opened = OpenedObject(OneFile(source), str(source))
    stored = opened.instance.transfer_syntax_uid
    if not can_transcode(stored, transfer_syntax_uid):
        raise Unprocessable(f"{stored} cannot be transcoded to {transfer_syntax_uid} here")
    if stored == transfer_syntax_uid:
        shutil.copyfile(source, target)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _write(opened, source, target, transfer_syntax_uid)
        except Unprocessable:
            raise
        except Exception as error:
            # pydicom says in many types that a value cannot be written.
            reason = str(error).partition("\n")[0]
            raise Unprocessable(f"the object cannot be transcoded: {reason}") from error


def _write(opened: OpenedObject, source: Path, target: Path, wanted: str) -> None:
    instance = opened.instance
    if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        _from_deflated(opened, target, wanted)
    elif wanted == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        _to_deflated(opened, source, target)
    elif not instance.frames.number_of_frames:
        _rewrite(source, target, instance, wanted)
    elif wanted not in NATIVE_TARGETS:
        _compress(opened, source, target, wanted)
    elif instance.transfer_syntax_uid in COMPRESSED:
        _decompress(opened, source, target, wanted)
    else:
        _rewrite(source, target, instance, wanted)


def _file_meta(instance: Instance, transfer_syntax_uid: str) -> bytes:
    return write_file_meta(instance.sop_class_uid, instance.sop_instance_uid, transfer_syntax_uid)


def _write_header(out: BinaryIO, dataset: Dataset, instance: Instance, wanted: str) -> None:
    """Write preamble, file meta and the attributes before the pixels."""
    if any(element.VR is None for element in dataset.values()):
        # Read as implicit VR, whatever the file meta says: pydicom finds each VR with its value.
        for _ in dataset.iterall():
            pass
    del dataset.file_meta
    dataset.preamble = None
    out.write(_file_meta(instance, wanted))
    dcmwrite(out, dataset, implicit_vr=wanted == IMPLICIT_VR_LITTLE_ENDIAN, little_endian=True)


def _from_deflated(opened: OpenedObject, target: Path, wanted: str) -> None:
    """Inflate, which the limits keep small, and go on from there."""
    explicit = target.with_name(f"{target.name}.explicit")
    try:
        with explicit.open("wb") as out:
            out.write(_file_meta(opened.instance, EXPLICIT_VR_LITTLE_ENDIAN))
            out.write(opened.inflated)
        transcode(explicit, target, wanted)
    finally:
        explicit.unlink(missing_ok=True)


def _to_deflated(opened: OpenedObject, source: Path, target: Path) -> None:
    """Deflate the data set of the Explicit VR Little Endian form (PS3.5 A.5)."""
    explicit = target.with_name(f"{target.name}.explicit")
    try:
        transcode(source, explicit, EXPLICIT_VR_LITTLE_ENDIAN)
        made = OpenedObject(OneFile(explicit), str(explicit)).instance
        deflate = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        with explicit.open("rb") as file, target.open("wb") as out:
            out.write(_file_meta(opened.instance, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN))
            file.seek(made.meta.dataset_offset)
            while piece := file.read(_COPY_CHUNK):
                out.write(deflate.compress(piece))
            out.write(deflate.flush())
            # PS3.5 A.5: a stream of odd length gets one byte of padding.
            out.write(b"\0" * (out.tell() % 2))
    finally:
        explicit.unlink(missing_ok=True)


def _rewrite(source: Path, target: Path, instance: Instance, wanted: str) -> None:
    """Change the encoding of an object whose pixels are uncompressed already, or that has none."""
    # All but the pixels goes through pydicom, one large value at a time.
    dataset = dcmread(source, stop_before_pixels=True, force=True, defer_size=_COPY_CHUNK)
    with source.open("rb") as file, target.open("wb") as out:
        _write_header(out, dataset, instance, wanted)
        end = 0
        for tag in sorted(PIXEL_TAGS):
            if tag in instance.top:
                end = max(end, _copy_pixels(file, out, instance, tag, wanted))
        if end:
            file.seek(end)
            _write_rest(file, out, instance, dataset, wanted)


def _copy_pixels(file: BinaryIO, out: BinaryIO, instance: Instance, tag: int, wanted: str) -> int:
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
    out.write(_element(tag, vr, length + length % 2, wanted))
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


def _element(tag: int, vr: bytes, length: int, wanted: str) -> bytes:
    """The head of a pixel data element of known length."""
    if wanted == IMPLICIT_VR_LITTLE_ENDIAN:
        return pack("<HHI", tag >> 16, tag & 0xFFFF, length)
    return pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)


def _write_rest(
    file: BinaryIO, out: BinaryIO, instance: Instance, header: Dataset, wanted: str
) -> None:
    """Write what stands behind the pixels: trailing padding, signatures, private groups."""
    implicit = instance.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    little = instance.transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    rest = read_dataset(file, implicit, little, parent_encoding=header.original_character_set)
    if len(rest):
        to_implicit = wanted == IMPLICIT_VR_LITTLE_ENDIAN
        dcmwrite(out, rest, implicit_vr=to_implicit, little_endian=True)


def _counted_frames(opened: OpenedObject) -> int:
    """Number of Frames, believed once the last of them was found (security.md B5)."""
    frames = opened.instance.frames.number_of_frames
    try:
        if frames <= DEFAULT_LIMITS.frames and opened.stored_frame(frames - 1):
            return frames
    except NotFound as error:
        raise Unprocessable(error.diagnostics) from error
    raise Unprocessable(f"the object declares {frames} frames, which are not there")


def _decompress(opened: OpenedObject, source: Path, target: Path, wanted: str) -> None:
    """Write the header, then Pixel Data frame by frame."""
    frames = _counted_frames(opened)
    described = _description(opened)
    dataset = _header(source)
    with target.open("wb") as out:
        length = 0
        for index in range(frames):
            answer, pixels = shared_pool().ask(
                {"wanted": "native", "pixels": described.as_json()}, opened.stored_frame(index)
            )
            if index == 0:
                length = len(pixels) * frames
                if length > _LONGEST_VALUE:
                    raise Unprocessable("uncompressed, the object has more than 4 GB of pixels")
                _describe_pixels(dataset, answer["photometric_interpretation"])
                _write_header(out, dataset, opened.instance, wanted)
                vr = b"OW" if described.bits_allocated > 8 else b"OB"
                out.write(_element(PIXEL_DATA, vr, length + length % 2, wanted))
            if len(pixels) * frames != length:
                raise Unprocessable(f"frame {index + 1} has another size than the first")
            out.write(pixels)
        out.write(b"\0" * (length % 2))
        _copy_rest(source, out, opened.instance, dataset, wanted)


def _compress(opened: OpenedObject, source: Path, target: Path, wanted: str) -> None:
    """Write the header, then encapsulated Pixel Data frame by frame."""
    frames = _counted_frames(opened)
    described = _description(opened)
    samples, bits = described.samples_per_pixel, described.bits_allocated
    if described.is_float or not can_hold(wanted, samples, bits):
        raise Unprocessable(
            f"an image of {samples} samples of {bits} bits{' float' * described.is_float} cannot"
            f" be sent in {wanted}"
        )
    request = {
        "wanted": "encoded",
        "pixels": described.as_json(),
        "transfer_syntax_uid": wanted,
    }
    largest = frames * (_HEAD_OF_A_FRAME + described.rows * described.columns * samples * bits // 8)
    dataset = _header(source)
    written: EncapsulatedPixelData | None = None
    with target.open("wb") as out:
        for index in range(frames):
            answer, codestream = shared_pool().ask(request, opened.stored_frame(index))
            if written is None:
                _describe_pixels(dataset, answer["photometric_interpretation"])
                _write_header(out, dataset, opened.instance, wanted)
                written = EncapsulatedPixelData(out, frames, largest + largest // _GROWTH)
            written.append(codestream)
        assert written is not None, "an object without frames is rewritten"
        written.finish()
        _copy_rest(source, out, opened.instance, dataset, wanted)


def _copy_rest(
    source: Path, out: BinaryIO, instance: Instance, header: Dataset, wanted: str
) -> None:
    """Write what stands behind the pixels in the source."""
    _, offset, length = instance.top[PIXEL_DATA]
    if length == UNDEFINED:
        length = instance.frames.pixel_data_length
    with source.open("rb") as file:
        file.seek(offset + length)
        _write_rest(file, out, instance, header, wanted)


def _description(opened: OpenedObject) -> PixelDescription:
    """The pixels of every frame as ``stored_frame`` returns them; how they are shown is left out.

    Rows, columns, samples and bits are those of the whole object (PS3.3 C.7.6.3), so one
    description serves all frames.
    """
    instance = opened.instance
    syntax = instance.transfer_syntax_uid
    described = describe(instance.dicom_json, syntax, 0, lambda _: b"")
    # Native frames come little endian, whatever they are stored in.
    syntax = EXPLICIT_VR_LITTLE_ENDIAN if syntax in NATIVE else syntax
    return replace(
        described, transfer_syntax_uid=syntax, modality_lut=None, voi_lut=None, palette=[]
    )


def _header(source: Path) -> Dataset:
    """The attributes before the pixels, without the offsets of frames that will lie elsewhere."""
    dataset = dcmread(source, stop_before_pixels=True, force=True, defer_size=_COPY_CHUNK)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    return dataset


def _describe_pixels(dataset: Dataset, photometric_interpretation: str) -> None:
    dataset.PhotometricInterpretation = photometric_interpretation
    if dataset.get("SamplesPerPixel", 1) > 1:
        dataset.PlanarConfiguration = 0
