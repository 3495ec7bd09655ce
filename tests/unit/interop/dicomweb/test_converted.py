from __future__ import annotations

from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.dicom.frame_table import join_fragments
from interop.dicomweb.converted import ItemHeaders


@given(
    fragments=st.lists(st.binary(max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)
def test_item_headers_are_removed_however_the_run_is_cut(
    fragments: list[bytes], cuts: list[int]
) -> None:
    run = b"".join(pack("<HHI", 0xFFFE, 0xE000, len(f)) + f for f in fragments)
    edges = [0, *sorted(min(cut, len(run)) for cut in cuts), len(run)]
    items = ItemHeaders()

    joined = b"".join(items.removed(run[a:b]) for a, b in pairwise(edges))

    assert joined == b"".join(fragments) == join_fragments(run)


@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_an_empty_fragment_adds_nothing(size: int) -> None:
    run = pack("<HHI", 0xFFFE, 0xE000, 0) + pack("<HHI", 0xFFFE, 0xE000, 2) + b"ab"
    items = ItemHeaders()

    pieces = [items.removed(run[at : at + size]) for at in range(0, len(run), size)]

    assert b"".join(pieces) == b"ab"
