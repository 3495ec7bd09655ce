"""Deflated Explicit VR Little Endian (PS3.5 A.5), inflated under a bound.

Measured on pydicom 3.0.2: a file of 398 KB takes 830 MB (security.md B2). Here the output is
counted while it is made, so that a bomb costs no more memory than the limit.
"""

from __future__ import annotations

import zlib
from mmap import mmap

from interop.dicom.failures import CANNOT_UNDERSTAND, OBJECT_TOO_LARGE, TRUNCATED, Failure
from interop.dicom.limits import Limits

_STEP = 1 << 18
# Blank images of a few megabytes compress better than any ratio that a bomb needs.
_RATIO_FREE_BYTES = 8 << 20
# What does not shrink grows by five bytes in 16 KiB (RFC 1951 3.2.4); blocks without content are
# longer, and nobody writes those.
_OVERHEAD = 1 << 20


def longest_deflated(limits: Limits) -> int:
    """How much of a stream is read at most."""
    return limits.inflated_bytes + _OVERHEAD


def inflate(deflated: bytes | mmap, limits: Limits, start: int = 0) -> bytes:
    """Return the data set that begins at `start`; what stands behind its last block is not read.

    Raises Failure at the limit, at an error and at a missing end.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    size = len(deflated) - start
    most = min(limits.inflated_bytes, max(_RATIO_FREE_BYTES, size * limits.inflate_ratio))
    out = bytearray()
    at = start
    try:
        while not engine.eof:
            given = engine.unconsumed_tail or deflated[at : at + _STEP]
            if not engine.unconsumed_tail:
                at += len(given)
            if not given:
                raise Failure.of(TRUNCATED, "The deflated data set ends before its last block.")
            out += engine.decompress(given, _STEP)
            if len(out) > most or at - start > longest_deflated(limits):
                raise Failure.of(
                    OBJECT_TOO_LARGE,
                    f"The deflated data set inflates to more than {most} bytes from"
                    f" {size}; at most {limits.inflated_bytes} bytes and"
                    f" {limits.inflate_ratio}:1 are accepted.",
                )
    except zlib.error as error:
        raise Failure.of(CANNOT_UNDERSTAND, f"The deflated data set is damaged: {error}.") from None
    return bytes(out)
