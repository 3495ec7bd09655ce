"""Frames and bulk data of stored objects, read by byte range (PS3.18 10.4.1.1.5, 10.4.1.1.6).

Ingest stored where each frame lies, so a frame is one range read that parses nothing. What has no
range of its own (deflated data sets, frames of single bits that begin inside a byte) is made from
the object on demand.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import LiteralString, Protocol
from uuid import UUID

from interop.dicom.decodable import COMPRESSED, JPEG_BASELINE, can_decode, can_hold
from interop.dicom.decode_pool import shared_pool
from interop.dicom.failures import Failure
from interop.dicom.filemeta import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
)
from interop.dicom.frame_table import entry, join_fragments
from interop.dicom.inflate import inflate, longest_deflated
from interop.dicom.json_values import swap_words
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.part10 import (
    Instance,
    bits_per_frame,
    has_swapped_bytes,
    parse,
    parse_head,
)
from interop.dicom.pixels import PixelDescription, describe
from interop.dicom.walker import PIXEL_TAGS, UNDEFINED
from interop.errors import NotFound, Unprocessable
from storage.database import Connection
from storage.objects.store import ObjectStat

__all__ = [
    "COLUMNS",
    "FrameObjects",
    "FrameRange",
    "FrameRow",
    "OneFile",
    "OpenedObject",
    "StoredFrames",
    "bulk_value",
    "can_decode",
    "description",
    "frame_range",
    "load_row",
    "native_frame",
    "read_frame",
    "stored_frame",
]

_HEAD = 256 << 10
# Of bulk data that is read whole: more than any ICC profile or look-up table has.
_LARGEST_VALUE = 4 << 20
_PIECE = 1 << 20
_WORD_BITS = {b"OW": 16, b"OF": 32, b"OL": 32, b"OD": 64, b"OV": 64}


class FrameObjects(Protocol):
    """The part of an object store that reading frames needs."""

    def get_range(self, key: str, offset: int, length: int) -> bytes: ...
    def stat(self, key: str) -> ObjectStat: ...
    def local_path(self, key: str) -> Path | None: ...


class OneFile:
    """A file where an object store is asked for; every key is this file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def stat(self, key: str) -> ObjectStat:
        found = self._path.stat()
        return ObjectStat(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def local_path(self, key: str) -> Path | None:
        return self._path


class StoredFrames(Protocol):
    """The columns of imaging_objects that say where frames lie."""

    @property
    def storage_uri(self) -> str: ...
    @property
    def transfer_syntax_uid(self) -> str: ...
    @property
    def number_of_frames(self) -> int: ...
    @property
    def pixel_data_offset(self) -> int | None: ...
    @property
    def frame_length(self) -> int | None: ...
    @property
    def frame_table(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class FrameRow:
    """A row of imaging_objects as rendering and the AI need it; made from COLUMNS."""

    storage_uri: str
    transfer_syntax_uid: str
    number_of_frames: int
    pixel_data_offset: int | None
    frame_length: int | None
    frame_table: bytes | None
    dicom_json: str


# For a table named or aliased imaging_objects o.
COLUMNS: LiteralString = (
    "o.storage_uri, o.transfer_syntax_uid, coalesce(o.number_of_frames, 0), o.pixel_data_offset,"
    " o.frame_length, o.frame_table, coalesce(o.dicom_json, '{}')"
)


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Where a frame's bytes lie; fragmented ones have item headers between them."""

    offset: int
    length: int
    is_fragmented: bool = False


def load_row(connection: Connection, tenant_id: UUID, imaging_object_id: UUID) -> FrameRow | None:
    """Return the row of an object of the tenant, or None."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM imaging_objects o WHERE o.tenant_id = %s AND o.id = %s",
        (tenant_id, imaging_object_id),
    ).fetchone()
    return FrameRow(*row) if row else None


def frame_range(row: StoredFrames, index: int) -> FrameRange | None:
    """Return the range of a frame counted from 0, or None where it must be made from the object.

    Raises NotFound for a frame that is not there.
    """
    if not 0 <= index < row.number_of_frames:
        raise NotFound(f"the instance has {row.number_of_frames} frames; {index + 1} is not there")
    if row.frame_table is not None:
        if len(row.frame_table) < 16 * (index + 1):
            raise NotFound(f"frame {index + 1} is not in the pixel data")
        return FrameRange(*entry(row.frame_table, index))
    if row.frame_length is not None and row.pixel_data_offset is not None:
        return FrameRange(row.pixel_data_offset + index * row.frame_length, row.frame_length)
    return None


def read_frame(objects: FrameObjects, row: StoredFrames, index: int) -> bytes:
    """Return a frame as it is stored: its codestream, or uncompressed little endian pixels."""
    raw = stored_frame(objects, row, index)
    if row.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return _little_endian(parse_stored(objects, row.storage_uri), raw)
    return raw


def stored_frame(objects: FrameObjects, row: StoredFrames, index: int) -> bytes:
    """Return a frame's bytes in the stored byte order. Raises NotFound and Unprocessable."""
    found = frame_range(row, index)
    if found is None:
        return _made_frame(OpenedObject(objects, row.storage_uri), index)
    return _read_range(objects, row.storage_uri, found, index)


def _read_range(objects: FrameObjects, key: str, found: FrameRange, index: int) -> bytes:
    raw = objects.get_range(key, found.offset, found.length)
    if len(raw) < found.length:
        raise Unprocessable(f"frame {index + 1} is cut short in the stored object")
    return join_fragments(raw) if found.is_fragmented else raw


def native_frame(objects: FrameObjects, row: StoredFrames, index: int) -> bytes:
    """Return a frame uncompressed, little endian, pixel by pixel, whatever its storage.

    Compressed frames are decoded in the limited child process. Raises Unprocessable.
    """
    # The caller's table may hold only the frames that it needs.
    return OpenedObject(objects, row.storage_uri).native_frame(index)


class OpenedObject:
    """A stored object of which many frames are wanted: parsed once, and inflated at most once.

    Raises Unprocessable where the object cannot be read. Not for several threads at a time.
    """

    def __init__(self, objects: FrameObjects, key: str) -> None:
        self.objects = objects
        self.key = key
        self.instance = parse_stored(objects, key)

    @cached_property
    def row(self) -> FrameRow:
        """What a row of the object says."""
        frames = self.instance.frames
        return FrameRow(
            storage_uri=self.key,
            transfer_syntax_uid=self.instance.transfer_syntax_uid,
            number_of_frames=frames.number_of_frames,
            pixel_data_offset=frames.pixel_data_offset,
            frame_length=frames.frame_length,
            frame_table=frames.table,
            dicom_json=self.instance.dicom_json.decode("utf-8"),
        )

    @cached_property
    def inflated(self) -> bytes:
        """The data set of a deflated object."""
        return _inflated(self.objects, self.key, self.instance)

    def native_frame_size(self) -> int:
        """How many bytes an uncompressed frame has, judged by the first."""
        described = description(self.objects, self.row, 0)
        samples = described.rows * described.columns * described.samples_per_pixel
        return (samples * described.bits_allocated + 7) // 8

    def stored_frame(self, index: int) -> bytes:
        """Return a frame, counted from 0: its codestream, or native pixels, little endian."""
        found = frame_range(self.row, index)
        if found is None:
            raw = _made_frame(self, index)
        else:
            raw = _read_range(self.objects, self.key, found, index)
        if self.row.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
            return _little_endian(self.instance, raw)
        return raw

    def native_frame(self, index: int) -> bytes:
        """Return a frame, counted from 0, uncompressed and little endian."""
        raw = self.stored_frame(index)
        if self.row.transfer_syntax_uid not in COMPRESSED:
            return raw
        described = description(self.objects, self.row, index)
        return shared_pool().ask({"wanted": "native", "pixels": described.as_json()}, raw)[1]

    def can_encode(self, transfer_syntax_uid: str) -> bool:
        """Whether the codec of a transfer syntax takes pixels of this kind."""
        described = description(self.objects, self.row, 0)
        if transfer_syntax_uid == JPEG_BASELINE:
            return described.bits_allocated == 8 and not described.is_signed
        return not described.is_float and can_hold(
            transfer_syntax_uid, described.samples_per_pixel, described.bits_allocated
        )

    def encoded_frame(self, index: int, transfer_syntax_uid: str) -> bytes:
        """Return a frame, counted from 0, in another transfer syntax."""
        described = description(self.objects, self.row, index)
        if described.transfer_syntax_uid not in COMPRESSED:
            described.transfer_syntax_uid = EXPLICIT_VR_LITTLE_ENDIAN
        request = {
            "wanted": "encoded",
            "pixels": described.as_json(),
            "transfer_syntax_uid": transfer_syntax_uid,
        }
        return shared_pool().ask(request, self.stored_frame(index))[1]


def description(objects: FrameObjects, row: FrameRow, index: int) -> PixelDescription:
    """Return what decoding and displaying the frame needs. Raises Unprocessable."""
    return describe(
        row.dicom_json,
        row.transfer_syntax_uid,
        index,
        lambda path: bulk_value(objects, row.storage_uri, path)[1],
    )


def bulk_value(objects: FrameObjects, key: str, path: str) -> tuple[str, bytes]:
    """Return (VR, bytes, little endian) of a bulk data path of the stored DICOM JSON.

    For look-up tables and the like, whatever length their sender gave them: not for pixel data,
    whose frames are read one by one. Raises NotFound, and Unprocessable for what is larger.
    """
    instance = parse_stored(objects, key)
    found = instance.bulk.get(path)
    if found is None or found[2] == UNDEFINED:
        raise NotFound(f"the object has no bulk data at {path}")
    vr, offset, length = found
    if length > _LARGEST_VALUE:
        raise Unprocessable(f"the value of {path} has {length} bytes; {_LARGEST_VALUE} are read")
    if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        raw = _inflated(objects, key, instance)[offset : offset + length]
    else:
        raw = objects.get_range(key, offset, length)
    if instance.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        raw = swap_words(raw, _WORD_BITS.get(vr, 8) // 8)
    return vr.decode("ascii"), raw


def parse_stored(objects: FrameObjects, key: str) -> Instance:
    """Parse a stored object, from its head where that is enough."""
    try:
        path = objects.local_path(key)
        if path is not None:
            return parse(path)
        head = objects.get_range(key, 0, _HEAD)
        size = objects.stat(key).size
        return parse_head(head, size) or _parse_fetched(objects, key, size)
    except Failure as failure:
        raise Unprocessable(failure.message) from failure


def _parse_fetched(objects: FrameObjects, key: str, size: int) -> Instance:
    """Parse an object of a remote store to its end, of which memory holds a piece at a time."""
    with NamedTemporaryFile(prefix="interop-object-") as file:
        for at in range(0, size, _PIECE):
            file.write(objects.get_range(key, at, min(_PIECE, size - at)))
        file.flush()
        return parse(Path(file.name))


def _inflated(objects: FrameObjects, key: str, instance: Instance) -> bytes:
    start = instance.meta.dataset_offset
    length = min(objects.stat(key).size - start, longest_deflated(DEFAULT_LIMITS))
    try:
        return inflate(objects.get_range(key, start, length), DEFAULT_LIMITS)
    except Failure as failure:
        raise Unprocessable(failure.message) from failure


def _made_frame(opened: OpenedObject, index: int) -> bytes:
    """Cut a frame out of inflated or bit-packed pixel data."""
    objects, key, instance = opened.objects, opened.key, opened.instance
    bits = _frame_bits(instance)
    tag = next((tag for tag in PIXEL_TAGS if tag in instance.top), None)
    if tag is None or bits is None or instance.top[tag][2] == UNDEFINED:
        raise Unprocessable("the pixel data does not say where its frames are")
    _, offset, length = instance.top[tag]
    if (index + 1) * bits > length * 8:
        raise Unprocessable(
            f"frame {index + 1} of {bits} bits is not in pixel data of {length} bytes"
        )
    first, last = index * bits // 8, ((index + 1) * bits + 7) // 8
    if has_swapped_bytes(instance, tag):
        begin, end = first - first % 2, last + last % 2
        words = swap_words(objects.get_range(key, offset + begin, end - begin), 2)
        return words[first - begin : last - begin]
    if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        raw = opened.inflated[offset + first : offset + last]
    else:
        raw = objects.get_range(key, offset + first, last - first)
    shift = index * bits % 8
    if shift == 0 and bits % 8 == 0:
        return raw
    # Frames of single bits follow each other without padding (PS3.5 8.1.1): move to a byte.
    number = (int.from_bytes(raw, "little") >> shift) & ((1 << bits) - 1)
    return number.to_bytes((bits + 7) // 8, "little")


def _frame_bits(instance: Instance) -> int | None:
    tag = next((tag for tag in PIXEL_TAGS if tag in instance.top), 0)
    return bits_per_frame(instance, tag)


def _little_endian(instance: Instance, raw: bytes) -> bytes:
    allocated = instance.integer(0x00280100) or 8
    return swap_words(raw, allocated // 8) if allocated >= 16 else raw
