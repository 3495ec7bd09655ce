"""Deflated Explicit VR Little Endian (PS3.5 A.5), inflated under a bound.

Measured on pydicom 3.0.2: a file of 398 KB takes 830 MB (security.md B2). Here the output is
counted while it is made, so that a bomb costs no more memory than the limit.
"""

from __future__ import annotations

import zlib

from interop.dicom.failures import CANNOT_UNDERSTAND, OBJECT_TOO_LARGE, TRUNCATED, Failure
from interop.dicom.limits import Limits

_STEP = 1 << 18
# Blank images of a few megabytes compress better than any ratio that a bomb needs.
_RATIO_FREE_BYTES = 8 << 20


def inflate(deflated: bytes | memoryview, limits: Limits) -> bytes:
    """Return the data set. Raises Failure at the limit, at an error and at a missing end."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(limits.inflated_bytes, max(_RATIO_FREE_BYTES, len(deflated) * limits.inflate_ratio))
    out = bytearray()
    at = 0
    try:
        while not engine.eof:
            given = engine.unconsumed_tail or bytes(deflated[at : at + _STEP])
            if not engine.unconsumed_tail:
                at += len(given)
            if not given:
                raise Failure.of(TRUNCATED, "The deflated data set ends before its last block.")
            out += engine.decompress(given, _STEP)
            if len(out) > most:
                raise Failure.of(
                    OBJECT_TOO_LARGE,
                    f"The deflated data set inflates to more than {most} bytes from"
                    f" {len(deflated)}; at most {limits.inflated_bytes} bytes and"
                    f" {limits.inflate_ratio}:1 are accepted.",
                )
    except zlib.error as error:
        raise Failure.of(CANNOT_UNDERSTAND, f"The deflated data set is damaged: {error}.") from None
    return bytes(out)
