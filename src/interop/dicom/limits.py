"""The limits under which a DICOM object is read (security.md B2 to B4, reliability.md)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one object may cost. Every limit ends in a refusal with its number in the message."""

    object_bytes: int = 4 << 30
    depth: int = 64
    elements: int = 50_000
    items: int = 20_000
    fragments: int = 1_000_000
    # Header bytes (all that is not bulk data) that may be held in memory while parsing.
    header_bytes: int = 32 << 20
    # A value that becomes text in the DICOM JSON. Larger text is bulk data.
    text_bytes: int = 1 << 20
    # Deflated Explicit VR Little Endian: what may come out, and how much of it per byte that came.
    inflated_bytes: int = 48 << 20
    inflate_ratio: int = 100
    frames: int = 1_000_000


DEFAULT_LIMITS = Limits()
