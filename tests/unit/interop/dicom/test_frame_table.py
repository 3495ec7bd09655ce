"""Which fragments make which frame, by every rule of PS3.5 A.4."""

from __future__ import annotations

from struct import pack

import pytest
from pydicom.encaps import encapsulate, encapsulate_extended

from interop.dicom.failures import Failure
from interop.dicom.frame_table import (
    encapsulated_frames,
    entry,
    join_fragments,
    walk_fragments,
)

JPEG = "1.2.840.10008.1.2.4.50"
FRAMES = [b"\xff\xd8" + bytes([n]) * (10 + n * 2) for n in range(5)]


def frames_of(data: bytes, count: int, extended: bytes = b"") -> list[bytes] | None:
    fragments = walk_fragments(data, 0, len(data), 1000)
    table = encapsulated_frames(data, fragments, count, extended, JPEG)
    if table is None:
        return None
    found = []
    for n in range(count):
        offset, length, is_fragmented = entry(table, n)
        run = data[offset : offset + length]
        found.append(join_fragments(run) if is_fragmented else run)
    return found


def item(value: bytes) -> bytes:
    return pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


END = pack("<HHL", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize("fragments", [1, 2, 3])
@pytest.mark.parametrize("has_table", [True, False])
def test_frames_are_found_with_and_without_an_offset_table(fragments: int, has_table: bool) -> None:
    data = encapsulate(FRAMES, fragments_per_frame=fragments, has_bot=has_table) + END

    assert frames_of(data, len(FRAMES)) == FRAMES


def test_extended_offset_table_decides_where_markers_cannot() -> None:
    plain = [frame.replace(b"\xff\xd8", b"ab") for frame in FRAMES]
    data, offsets, _ = encapsulate_extended(plain)

    assert frames_of(data + END, len(plain), offsets) == plain


def test_one_frame_takes_all_fragments() -> None:
    data = item(b"") + item(b"ab") + item(b"cdef") + END

    assert frames_of(data, 1) == [b"abcdef"]


def test_lying_offset_table_is_not_believed() -> None:
    data = item(pack("<LL", 0, 999)) + item(b"\xff\xd8ab") + item(b"\xff\xd8cd") + END

    assert frames_of(data, 2) == [b"\xff\xd8ab", b"\xff\xd8cd"]


def test_fragments_that_no_rule_groups_give_no_table() -> None:
    data = item(b"") + item(b"ab") + item(b"cd") + item(b"ef") + END

    assert frames_of(data, 2) is None


def test_missing_delimiter_at_the_end_is_tolerated() -> None:
    data = item(b"") + item(b"\xff\xd8ab")

    fragments = walk_fragments(data, 0, len(data), 10)

    assert not fragments.is_terminated


@pytest.mark.parametrize(
    "data",
    [b"", item(b"")[:7], item(b"ab")[:9], item(b"") + b"garbage!", item(b"") + item(b"abcd")[:-1]],
)
def test_damaged_fragments_are_refused(data: bytes) -> None:
    with pytest.raises(Failure):
        walk_fragments(data, 0, len(data), 10)


def test_too_many_fragments_are_refused() -> None:
    data = item(b"") + item(b"") * 50 + END

    with pytest.raises(Failure, match="fragments"):
        walk_fragments(data, 0, len(data), 40)
