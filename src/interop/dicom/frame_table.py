"""Where each frame lies in the stored object, so that a frame is one byte-range read.

Native pixel data is computed (PS3.5 8.1.1); encapsulated pixel data is walked once, fragment by
fragment, and grouped into frames by the Extended Offset Table, the Basic Offset Table, the count,
or the start markers of the codestreams (PS3.5 A.4, PS3.3 C.7.6.3.1.8).
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct, unpack

from interop.dicom.failures import LIMIT_EXCEEDED, TRUNCATED, Failure

_ITEM = Struct("<HHI").unpack_from
_PAIR = Struct("<QQ")
# Set in the length of a run of several fragments, which begins at the first one's item header.
FRAGMENTED = 1 << 63

MPEG_TRANSFER_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2.4.{n}"
    for n in ("100", "100.1", "101", "101.1", "102", "102.1", "103", "103.1", "104", "104.1",
              "105", "105.1", "106", "106.1", "107", "108")
)  # fmt: skip

_STARTS = (b"\xff\xd8", b"\xff\x4f", b"\x00\x00\x00\x0c")


@dataclass(frozen=True, slots=True)
class FrameTable:
    """The frames of one object.

    Native: ``frame_length`` is set where frames begin at whole bytes, and frame n lies at
    ``pixel_data_offset + n * frame_length``. Encapsulated: ``table`` holds a little-endian uint64
    pair (absolute offset, length) for each frame: the bytes of its one fragment, or, with
    FRAGMENTED set in the length, all of its fragments with the 8-byte item header before each.
    """

    number_of_frames: int
    pixel_data_offset: int | None = None
    pixel_data_length: int = 0
    frame_length: int | None = None
    table: bytes | None = None


def entry(table: bytes, index: int) -> tuple[int, int, bool]:
    """Return (offset, length, is_fragmented) of a frame counted from 0."""
    offset, length = _PAIR.unpack_from(table, index * 16)
    return offset, length & ~FRAGMENTED, bool(length & FRAGMENTED)


def join_fragments(run: bytes) -> bytes:
    """Return the fragments of a FRAGMENTED run without their item headers."""
    pieces = []
    at = 0
    while at + 8 <= len(run):
        length = _ITEM(run, at)[2]
        pieces.append(run[at + 8 : at + 8 + length])
        at += 8 + length
    return b"".join(pieces)


@dataclass(slots=True)
class Fragments:
    """The fragments of one encapsulated Pixel Data element."""

    basic_offset_table: bytes
    first_item: int
    offsets: array[int]
    lengths: array[int]
    end: int
    is_terminated: bool


def walk_fragments(data: bytes | mmap.mmap, at: int, end: int, most: int) -> Fragments:
    """Walk the items of an encapsulated element whose first item header is at ``at``."""
    offsets, lengths = array("Q"), array("Q")
    table = b""
    first_item = at
    is_first = True
    while True:
        if at + 8 > end:
            # Cut in a header, or no sequence delimiter at all, which old writers left out.
            if at < end or not offsets:
                raise Failure.of(TRUNCATED, f"Encapsulated pixel data ends early at byte {at}.")
            return Fragments(table, first_item, offsets, lengths, end, False)
        group, element, length = _ITEM(data, at)
        if group != 0xFFFE or element != 0xE000:
            if group == 0xFFFE and element == 0xE0DD:
                return Fragments(table, first_item, offsets, lengths, at + 8, True)
            raise Failure.of(
                TRUNCATED,
                f"Encapsulated pixel data has ({group:04X},{element:04X}) at byte {at}"
                " where an item or the sequence delimiter must be.",
            )
        at += 8
        if at + length > end:
            raise Failure.of(
                TRUNCATED,
                f"A pixel data fragment at byte {at} declares {length} bytes;"
                f" {end - at} are there.",
            )
        if is_first:
            table = bytes(data[at : at + length])
            first_item = at + length
            is_first = False
        else:
            offsets.append(at)
            lengths.append(length)
            if len(offsets) > most:
                raise Failure.of(
                    LIMIT_EXCEEDED, f"More than {most} pixel data fragments, the most accepted."
                )
        at += length


def encapsulated_frames(
    data: bytes | mmap.mmap,
    fragments: Fragments,
    frames: int,
    extended_offset_table: bytes,
    transfer_syntax_uid: str,
) -> bytes | None:
    """Return the frame table, or None where no rule tells which fragment belongs to which frame."""
    offsets = fragments.offsets
    if not offsets:
        return None
    if transfer_syntax_uid in MPEG_TRANSFER_SYNTAXES or frames == 1:
        starts = [0]
    else:
        by_offset = {at - 8 - fragments.first_item: n for n, at in enumerate(offsets)}
        candidates = (
            lambda: _starts(by_offset, extended_offset_table, 8, frames),
            lambda: _starts(by_offset, fragments.basic_offset_table, 4, frames),
            lambda: list(range(frames)) if len(offsets) == frames else None,
            lambda: _marked(data, offsets, frames),
        )
        found = _first(candidates)
        if found is None:
            return None
        starts = found
    runs = array("Q")
    for first, after in pairwise([*starts, len(offsets)]):
        last = after - 1
        if first == last:
            runs.extend((offsets[first], fragments.lengths[first]))
        else:
            begin = offsets[first] - 8
            runs.extend((begin, offsets[last] + fragments.lengths[last] - begin | FRAGMENTED))
    return runs.tobytes()


def _first(candidates: tuple[Callable[[], list[int] | None], ...]) -> list[int] | None:
    for candidate in candidates:
        found = candidate()
        if found is not None:
            return found
    return None


def _starts(by_offset: dict[int, int], table: bytes, width: int, frames: int) -> list[int] | None:
    """Return the first fragment of each frame by an offset table, unless the table lies."""
    if len(table) != width * frames:
        return None
    code = "Q" if width == 8 else "I"
    starts = [by_offset.get(offset) for offset in unpack(f"<{frames}{code}", table)]
    known = [start for start in starts if start is not None]
    if len(known) < frames or known[0] != 0 or any(b <= a for a, b in pairwise(known)):
        return None
    return known


def _marked(data: bytes | mmap.mmap, offsets: array[int], frames: int) -> list[int] | None:
    starts = [n for n, at in enumerate(offsets) if bytes(data[at : at + 4]).startswith(_STARTS)]
    return starts if len(starts) == frames and starts[0] == 0 else None
