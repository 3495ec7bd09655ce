"""Which transfer syntaxes can be decoded and made here; data only, so that servers need no codec.

What is made is lossless: an object under its own SOP Instance UID never comes with other pixels
than were stored.
"""

from __future__ import annotations

from interop.dicom.filemeta import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

NATIVE = frozenset(
    (
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
    )
)
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
COMPRESSED = frozenset(
    (
        RLE_LOSSLESS,
        JPEG_BASELINE,
        "1.2.840.10008.1.2.4.51",  # JPEG Extended (Process 2 & 4)
        "1.2.840.10008.1.2.4.57",  # JPEG Lossless, Non-Hierarchical (Process 14)
        JPEG_LOSSLESS_SV1,
        JPEG_LS_LOSSLESS,
        "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-Lossless
        JPEG_2000_LOSSLESS,
        "1.2.840.10008.1.2.4.91",  # JPEG 2000
        "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
        "1.2.840.10008.1.2.4.111",  # JPEG XL JPEG Recompression
        "1.2.840.10008.1.2.4.112",  # JPEG XL
        HTJ2K_LOSSLESS,
        HTJ2K_LOSSLESS_RPCL,
        "1.2.840.10008.1.2.4.203",  # HTJ2K
    )
)
# What objects are made into, the cheapest first.
NATIVE_TARGETS = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
ENCAPSULATED_TARGETS = (
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    RLE_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    JPEG_2000_LOSSLESS,
)
TARGETS = (*NATIVE_TARGETS, *ENCAPSULATED_TARGETS)


def can_decode(transfer_syntax_uid: str) -> bool:
    """Whether frames of this transfer syntax can be made into uncompressed ones."""
    return transfer_syntax_uid in NATIVE or transfer_syntax_uid in COMPRESSED


def can_transcode(from_uid: str, to_uid: str) -> bool:
    """Whether objects of one transfer syntax can be written in another, or in their own.

    Some objects still cannot be (`can_hold`): their pixels do not fit the codec.
    """
    return from_uid == to_uid or (can_decode(from_uid) and to_uid in TARGETS)


def targets_of(transfer_syntax_uid: str) -> tuple[str, ...]:
    """The other transfer syntaxes that objects of this one can be made into."""
    if not can_decode(transfer_syntax_uid):
        return ()
    return tuple(target for target in TARGETS if target != transfer_syntax_uid)


def can_hold(transfer_syntax_uid: str, samples: int, bits_allocated: int) -> bool:
    """Whether integer pixels of this kind can be encoded in a transfer syntax that is made here."""
    if transfer_syntax_uid in NATIVE_TARGETS:
        return True
    deepest = 32 if transfer_syntax_uid == RLE_LOSSLESS else 16
    return (
        transfer_syntax_uid in ENCAPSULATED_TARGETS
        and samples in (1, 3)
        and 8 <= bits_allocated <= deepest
    )
