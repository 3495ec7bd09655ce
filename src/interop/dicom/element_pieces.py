"""The elements of a data set as octets in memory and in files, not yet put together.

Explicit VR Little Endian (PS3.5 7.1.2) with sequences of defined length, and encapsulated pixel
data (PS3.5 A.4). A value in a file is copied only when the data set is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import pack

from interop.dicom.failures import LIMIT_EXCEEDED
from interop.dicom.filemeta import LONG_VRS
from interop.dicom.value_fields import SEVERAL, SINGLE, refusal

ITEM = pack("<HH", 0xFFFE, 0xE000)
_SEQUENCE_END = pack("<HHI", 0xFFFE, 0xE0DD, 0)
_LONGEST = 0xFFFFFFFE
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FilePiece:
    """Octets that are copied when the file is written."""

    path: Path
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


Piece = bytes | FilePiece


@dataclass(slots=True)
class Element:
    """One element that is ready: its VR, its value, whether it is encapsulated."""

    vr: str
    value: list[Piece]
    is_encapsulated: bool = False


def chunks(piece: FilePiece) -> Iterator[bytes]:
    """Read a piece without holding it whole."""
    with piece.path.open("rb", buffering=0) as file:
        file.seek(piece.offset)
        left = piece.length
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk


def written(elements: dict[int, Element]) -> list[Piece]:
    """Return the elements in the order of their tags."""
    pieces: list[Piece] = []
    for tag in sorted(elements):
        element = elements[tag]
        vr = element.vr.encode()
        head = pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
        if element.is_encapsulated:
            pieces += [head + b"\0\0\xff\xff\xff\xff", *element.value]
            continue
        length = length_of(tag, element.value)
        size = pack("<HI", 0, length) if vr in LONG_VRS else pack("<H", length)
        pieces += [head + size, *element.value]
    return pieces


def padded(pieces: list[Piece], vr: str) -> list[Piece]:
    """Give a value its even length (PS3.5 6.2)."""
    if sum(map(len, pieces)) % 2:
        is_text = vr in SEVERAL or vr in SINGLE
        pieces.append(b" " if is_text and vr != "UI" else b"\0")
    return pieces


def length_of(tag: int, pieces: Sequence[Piece]) -> int:
    """Return the length of a value. Raises Failure where 32 bits do not hold it."""
    length = sum(map(len, pieces))
    if length > _LONGEST:
        raise refusal(LIMIT_EXCEEDED, tag, f"has {length} bytes; DICOM counts to {_LONGEST}")
    return length


def joined(pieces: list[Piece]) -> list[Piece]:
    """Join neighbours that are in memory."""
    found: list[Piece] = []
    pending: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            pending.append(piece)
            continue
        found += [b"".join(pending), piece]
        pending = []
    found.append(b"".join(pending))
    return found


def encapsulated(frames: Sequence[FilePiece]) -> list[Piece]:
    """The items of encapsulated Pixel Data, one fragment a frame (PS3.5 A.4)."""
    offsets: list[int] = []
    items: list[Piece] = []
    at = 0
    for frame in frames:
        offsets.append(at)
        left, start = frame.length, frame.offset
        while left:
            size = min(left, _LONGEST)
            padding = size % 2
            items += [ITEM + pack("<I", size + padding), FilePiece(frame.path, start, size)]
            if padding:
                items.append(b"\0")
            at += 8 + size + padding
            start, left = start + size, left - size
    # Offsets have 32 bits; without a table the fragments are counted, one a frame.
    table = pack(f"<{len(offsets)}I", *offsets) if at <= 0xFFFFFFFF else b""
    return [ITEM + pack("<I", len(table)) + table, *items, _SEQUENCE_END]
