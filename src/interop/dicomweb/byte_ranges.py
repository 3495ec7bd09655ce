"""Byte ranges of a representation of known size (RFC 9110 14), at most 16 of them (C8)."""

from __future__ import annotations

import re

from interop.errors import RangeNotSatisfiable

MAX_RANGES = 16
# 16 ranges of 20 digits fit well; longer is an attack (CVE-2025-62727) and is not even split.
MAX_HEADER_LENGTH = 1024
_RANGE = re.compile(r"(\d{0,19})-(\d{0,19})")


def parse_byte_ranges(header: str | None, size: int) -> list[tuple[int, int]] | None:
    """Return (offset, length) pairs, or None when the whole representation is to be sent.

    A header in another unit or of a wrong form is ignored, as RFC 9110 14.2 wants. Raises
    RangeNotSatisfiable when no range overlaps the representation or there are too many.
    """
    if not header:
        return None
    unit, _, value = header.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    refused = {"Content-Range": f"bytes */{size}"}
    if len(header) > MAX_HEADER_LENGTH or value.count(",") >= MAX_RANGES:
        raise RangeNotSatisfiable(f"at most {MAX_RANGES} byte ranges are served", headers=refused)
    ranges: list[tuple[int, int]] = []
    for part in value.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or not (match[1] or match[2]):
            return None
        if not match[1]:
            length = min(int(match[2]), size)
            first, last = size - length, size - 1
        else:
            first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
            if match[2] and int(match[2]) < first:
                return None
        if first <= last and first < size:
            ranges.append((first, last - first + 1))
    if not ranges:
        raise RangeNotSatisfiable(f"the content has {size} bytes", headers=refused)
    # Ranges that ask for more than there is in all are a way to multiply work, not to save it.
    if sum(length for _, length in ranges) > size:
        return None
    return ranges
