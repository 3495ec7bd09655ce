from __future__ import annotations

import time

import pytest

from interop.dicomweb.byte_ranges import parse_byte_ranges
from interop.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-9", [(0, 10)]),
        ("bytes=90-", [(90, 10)]),
        ("bytes=-5", [(95, 5)]),
        ("bytes=-500", [(0, 100)]),
        ("bytes=95-500", [(95, 5)]),
        ("bytes=0-0, 99-99", [(0, 1), (99, 1)]),
        ("bytes=200-300, 1-1", [(1, 1)]),
        # Not understood, so ignored (RFC 9110 14.2).
        ("pages=1-2", None),
        ("bytes=x", None),
        ("bytes=5-4", None),
        ("bytes=-", None),
        # Overlapping ranges that multiply the content.
        ("bytes=0-99,0-99", None),
    ],
)
def test_ranges_of_a_hundred_bytes(header: str | None, expected: object) -> None:
    assert parse_byte_ranges(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", "bytes=500-600"])
def test_no_overlap_is_416_with_the_size(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as raised:
        parse_byte_ranges(header, 100)
    assert raised.value.headers["Content-Range"] == "bytes */100"


def test_cve_2025_62727_many_ranges_are_refused_at_once() -> None:
    started = time.process_time()
    for header in (
        "bytes=" + ",".join(["0-0"] * 17),
        "bytes=" + "0-," * 100_000,
        "bytes=" + "0" * 10**6,
    ):
        with pytest.raises(RangeNotSatisfiable, match="at most 16"):
            parse_byte_ranges(header, 100)
    assert time.process_time() - started < 0.05
