"""What the server knows of a DICOM file after one pass over its header (PS3.10 7, PS3.5).

``parse`` reads file meta, data set and the places of frames and bulk data. It reads no pixel
value, holds no more than the limits allow, and raises nothing but Failure for a bad file.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from struct import error as StructError

from interop.dicom.charsets import Decoder
from interop.dicom.failures import CANNOT_UNDERSTAND, NOT_DICOM, Failure
from interop.dicom.filemeta import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    META_LIMIT,
    FileMeta,
    read_file_meta,
)
from interop.dicom.frame_table import FrameTable, encapsulated_frames
from interop.dicom.inflate import inflate
from interop.dicom.limits import DEFAULT_LIMITS, Limits
from interop.dicom.walker import (
    DOUBLE_FLOAT_PIXEL_DATA,
    FLOAT_PIXEL_DATA,
    PIXEL_DATA,
    UNDEFINED,
    HeadTooShort,
    Walk,
)

# Data sets of a process that are in memory inflated: each may have as much as the limits allow.
_inflating = threading.BoundedSemaphore(2)
_EXTENDED_OFFSET_TABLE = 0x7FE00001
_LONGEST_KEY = 4096
_HEAD = 64 << 10
# The attributes that rows, matching, frames and rendering read (see received.py, frame_table.py).
_KEYS = (
    0x00080008, 0x00080016, 0x00080018, 0x00080020, 0x00080021, 0x00080022, 0x00080023,
    0x0008002A, 0x00080030, 0x00080031, 0x00080032, 0x00080033, 0x00080050, 0x00080060,
    0x00080070, 0x00080090, 0x00080201, 0x00081010, 0x00081030, 0x0008103E, 0x00081090,
    0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x00180015, 0x00181030,
    0x00189302, 0x0020000D, 0x0020000E, 0x00200010, 0x00200011, 0x00200013, 0x00200052,
    0x00200060, 0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011,
    0x00280100, 0x00280101, 0x00280103, 0x00400241, 0x00400244, 0x00400245, 0x00400253,
    0x00420010,
)  # fmt: skip


@dataclass(slots=True)
class Instance:
    """One SOP instance as its header describes it."""

    meta: FileMeta
    transfer_syntax_uid: str
    dicom_json: bytes
    frames: FrameTable
    warnings: list[str]
    # Tag -> (VR, offset, length) and tag -> JSON member, of the outermost data set.
    top: dict[int, tuple[bytes, int, int]]
    members: dict[int, str]
    # Path ("00282000", "00880200/1/7FE00010") -> (VR, offset, length or UNDEFINED).
    bulk: dict[str, tuple[bytes, int, int]]
    _values: dict[int, bytes] = field(repr=False)
    _decode: Decoder = field(repr=False)

    def text(self, tag: int) -> str:
        """Return a top-level value decoded and without padding; "" when absent or empty."""
        raw = self._values.get(tag)
        return self._decode(raw).strip("\0 ") if raw else ""

    def first(self, tag: int) -> str:
        """Return the first of several values."""
        return self.text(tag).partition("\\")[0].strip()

    def integer(self, tag: int) -> int | None:
        """Return a US or IS value as a number; None when absent or no number."""
        raw = self._values.get(tag)
        if not raw:
            return None
        vr = self.top[tag][0]
        if vr in (b"US", b"UL"):
            big_endian = self.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
            return int.from_bytes(raw, "big" if big_endian else "little")
        text = self.first(tag)
        try:
            return int(text[:18])
        except ValueError:
            return None

    @property
    def sop_class_uid(self) -> str:
        return self.first(0x00080016)

    @property
    def sop_instance_uid(self) -> str:
        return self.first(0x00080018)

    @property
    def study_instance_uid(self) -> str:
        return self.first(0x0020000D)

    @property
    def series_instance_uid(self) -> str:
        return self.first(0x0020000E)


def parse(source: Path | bytes, limits: Limits = DEFAULT_LIMITS) -> Instance:
    """Read a Part 10 file, or a bare data set. Raises Failure and nothing else for bad content."""
    if isinstance(source, bytes):
        return _parse(source, len(source), limits)
    with source.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise Failure.of(NOT_DICOM, "The file is empty.")
        # One read instead of a mapping and its page faults: enough for nearly every image whose
        # pixel data is native and last.
        head = os.pread(file.fileno(), _HEAD, 0)
        found = parse_head(head, size, limits)
        if found is not None:
            return found
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(data, size, limits)


def parse_head(head: bytes, size: int, limits: Limits = DEFAULT_LIMITS) -> Instance | None:
    """Read a file of ``size`` bytes from its first bytes; None when they are not enough."""
    try:
        return _parse(head, size, limits)
    except (HeadTooShort, StructError):
        if len(head) >= size:
            raise
        return None


def _parse(data: bytes | mmap.mmap, size: int, limits: Limits) -> Instance:
    meta = read_file_meta(data[: META_LIMIT + 132], complete=True)
    at = meta.dataset_offset
    if len(data) < size and (at + 8 > len(data) or data[at : at + 2] == b"\2\0"):
        raise HeadTooShort
    if size - at < 8:
        raise Failure.of(NOT_DICOM, "The file holds no data set.")
    if meta.transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return _walked(data, at, size, meta, limits)
    if len(data) < size:
        raise HeadTooShort
    with _inflating:
        inflated = inflate(data, limits, at)
        if len(inflated) < 8:
            raise Failure.of(NOT_DICOM, "The deflated data set is empty.")
        return _walked(inflated, 0, len(inflated), meta, limits)


def _walked(
    data: bytes | mmap.mmap, at: int, size: int, meta: FileMeta, limits: Limits
) -> Instance:
    """Read the data set that begins at `at`."""
    syntax = meta.transfer_syntax_uid
    implicit, big_endian = _encoding(data[at : at + 8], syntax, meta)
    is_deflated = syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    if not syntax:
        syntax = _assumed_syntax(implicit, big_endian)
    walk = Walk(data, size, limits, implicit=implicit, big_endian=big_endian)
    text = walk.run(at)
    return _instance(walk, meta, syntax, text, limits, is_deflated)


def _instance(
    walk: Walk, meta: FileMeta, syntax: str, text: str, limits: Limits, is_deflated: bool
) -> Instance:
    # The map is closed after this call, so the values that rows are made of are copied now.
    values = {}
    for tag in _KEYS:
        found = walk.top.get(tag)
        if found is not None and found[2] <= _LONGEST_KEY and found[0] != b"SQ":
            values[tag] = walk.data[found[1] : found[1] + found[2]]
    instance = Instance(
        meta=meta,
        transfer_syntax_uid=syntax,
        dicom_json=text.encode("utf-8", "replace"),
        frames=FrameTable(0),
        warnings=walk.warnings,
        top=walk.top,
        members=walk.members,
        bulk=walk.bulk,
        _values=values,
        _decode=walk.decoder,
    )
    instance.frames = _frame_table(walk, instance, limits, is_deflated)
    return instance


def _encoding(first: bytes, syntax: str, meta: FileMeta) -> tuple[bool, bool]:
    """Return (implicit, big endian), believing the first element more than the meta group.

    A VR that is two capitals cannot be the length of a first element, which would be 16 KB.
    """
    looks_explicit = first[4:6].isalpha() and first[4:6].isupper()
    group_little = int.from_bytes(first[:2], "little")
    group_big = int.from_bytes(first[:2], "big")
    looks_big = group_little > 0xFF and group_big <= 0xFF
    if not meta.has_prefix and not meta.elements:
        # Neither preamble nor meta: any file could come here, so the first element must be
        # plausible as the start of a data set.
        if min(group_little, group_big) > 0x0050 or min(group_little, group_big) < 0x0002:
            raise Failure.of(
                NOT_DICOM, "The file has no DICM prefix and does not begin with a data set."
            )
        return not looks_explicit, looks_big and looks_explicit
    if syntax == EXPLICIT_VR_BIG_ENDIAN:
        return not looks_explicit, looks_big or group_little == group_big
    if looks_big and syntax:
        raise Failure.of(
            CANNOT_UNDERSTAND,
            f"The data set is big endian, which the transfer syntax {syntax} is not.",
        )
    return not looks_explicit, looks_big


def _assumed_syntax(implicit: bool, big_endian: bool) -> str:
    if implicit:
        return IMPLICIT_VR_LITTLE_ENDIAN
    return EXPLICIT_VR_BIG_ENDIAN if big_endian else EXPLICIT_VR_LITTLE_ENDIAN


def _frame_table(walk: Walk, instance: Instance, limits: Limits, is_deflated: bool) -> FrameTable:
    tag = next(
        (t for t in (PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA) if t in walk.top), None
    )
    if tag is None:
        return FrameTable(0)
    declared = instance.integer(0x00280008)
    frames = 1 if declared is None or declared < 1 else declared
    _, at, length = walk.top[tag]
    fragments = walk.pixel_fragments
    if length == UNDEFINED and fragments is not None:
        table = None
        if frames <= limits.frames:
            offsets = instance.top.get(_EXTENDED_OFFSET_TABLE)
            extended = walk.data[offsets[1] : offsets[1] + offsets[2]] if offsets else b""
            table = encapsulated_frames(
                walk.data, fragments, frames, extended, instance.transfer_syntax_uid
            )
        if table is None:
            walk._warn(f"no rule tells the fragments of {frames} frames apart")
        return FrameTable(frames, at, fragments.end - at, None, table)
    if is_deflated:
        # Offsets into the inflated stream are no byte ranges of the stored object.
        return FrameTable(frames)
    bits = bits_per_frame(instance, tag)
    if bits is None or bits * frames > length * 8:
        walk._warn("pixel data is shorter than rows, columns, samples, bits and frames declare")
        return FrameTable(frames, None, length)
    if bits % 8 or has_swapped_bytes(instance, tag):
        return FrameTable(frames, at, length)
    return FrameTable(frames, at, length, bits // 8)


def has_swapped_bytes(instance: Instance, tag: int) -> bool:
    """Whether bytes stand in words of the wrong order: 8-bit pixels as OW, big endian (PS3.5 D)."""
    return (
        instance.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
        and instance.top[tag][0] == b"OW"
        and (instance.integer(0x00280100) or 16) <= 8
    )


def bits_per_frame(instance: Instance, tag: int) -> int | None:
    rows, columns = instance.integer(0x00280010), instance.integer(0x00280011)
    samples = instance.integer(0x00280002) or 1
    allocated = {FLOAT_PIXEL_DATA: 32, DOUBLE_FLOAT_PIXEL_DATA: 64}.get(
        tag, instance.integer(0x00280100)
    )
    if not rows or not columns or not allocated:
        return None
    if instance.text(0x00280004) == "YBR_FULL_422" and samples == 3:
        # Chrominance is sampled at half the rate: two samples per pixel (PS3.3 C.7.6.3.1.2).
        samples = 2
    return rows * columns * samples * allocated
