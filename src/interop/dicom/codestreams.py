"""What the head of a compressed image says: its transfer syntax and its pixel description.

PS3.18 10.5.2 lets a sender leave out the Image Pixel Description Macro and the transfer syntax,
which the server then derives from the octets. Only markers of a few bytes are read here (ITU-T
T.81 B, T.87 C, T.800 A); nothing is decoded, so a hostile codestream can only be refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError

from interop.dicom.failures import CANNOT_UNDERSTAND, TRANSFER_SYNTAX_NOT_SUPPORTED, Failure

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_LS = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
JPEG_2000_PART_2_LOSSLESS = "1.2.840.10008.1.2.4.92"
JPEG_2000_PART_2 = "1.2.840.10008.1.2.4.93"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K = "1.2.840.10008.1.2.4.203"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
_VIDEO = "1.2.840.10008.1.2.4.10"

# PS3.18 Table 8.7.3-5: what a media type may hold, what it holds where nothing says so first.
MEDIA_TYPES: dict[str, tuple[str, ...]] = {
    "image/jpeg": (JPEG_BASELINE, JPEG_EXTENDED, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1),
    "image/jls": (JPEG_LS_LOSSLESS, JPEG_LS),
    "image/jp2": (JPEG_2000_LOSSLESS, JPEG_2000),
    "image/jpx": (JPEG_2000_PART_2_LOSSLESS, JPEG_2000_PART_2),
    "image/jphc": (HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL, HTJ2K),
    "image/dicom-rle": (RLE_LOSSLESS,),
    "video/mpeg": (f"{_VIDEO}0", f"{_VIDEO}0.1", f"{_VIDEO}1", f"{_VIDEO}1.1"),
    "video/mp4": tuple(
        f"{_VIDEO}{n}" for n in "2 2.1 3 3.1 4 4.1 5 5.1 6 6.1 7 8".split()
    ),
}  # fmt: skip
# Names that were or are used for the same.
ALIASES = {
    "image/jpg": "image/jpeg",
    "image/x-jls": "image/jls",
    "image/x-dicom-rle": "image/dicom-rle",
    "image/j2c": "image/jp2",
    "image/jph": "image/jphc",
    "video/mpeg2": "video/mpeg",
}
LOSSY = frozenset((JPEG_BASELINE, JPEG_EXTENDED))
# Markers, boxes and fill bytes that are looked at: an image has some dozens of them.
_MOST_SEGMENTS = 1000
_SHORT = Struct(">H").unpack_from
_BOX = Struct(">I4s").unpack_from
_LONG_BOX = Struct(">Q").unpack_from
_SIZ = Struct(">HIIIIIIIIH").unpack_from
# Also valid for a codestream of the first: the general syntax of a family holds its lossless form.
_ALSO = {
    JPEG_BASELINE: (JPEG_EXTENDED,),
    JPEG_LOSSLESS_SV1: (JPEG_LOSSLESS,),
    JPEG_LS_LOSSLESS: (JPEG_LS,),
    JPEG_2000_LOSSLESS: (JPEG_2000, JPEG_2000_PART_2_LOSSLESS, JPEG_2000_PART_2),
    JPEG_2000: (JPEG_2000_PART_2,),
    HTJ2K_LOSSLESS: (HTJ2K_LOSSLESS_RPCL, HTJ2K),
}


@dataclass(frozen=True, slots=True)
class Codestream:
    """One frame: where its codestream lies in the bytes, and what it says of itself."""

    transfer_syntax_uid: str
    offset: int
    length: int
    rows: int
    columns: int
    samples_per_pixel: int
    bits_stored: int
    is_signed: bool
    photometric_interpretation: str

    def fits(self, transfer_syntax_uid: str) -> bool:
        """Whether the codestream is one of that transfer syntax."""
        own = self.transfer_syntax_uid
        return transfer_syntax_uid == own or transfer_syntax_uid in _ALSO.get(own, ())


def examine(data: bytes | memoryview, media_type: str) -> Codestream | None:
    """Read the head of a frame of that media type; None where nothing can be derived from it.

    Raises Failure for a head that is damaged, or of a kind that DICOM has no transfer syntax for.
    """
    try:
        if media_type in ("image/jpeg", "image/jls"):
            return _jpeg(data)
        if media_type in ("image/jp2", "image/jpx", "image/jphc"):
            return _jpeg_2000(data)
    except (StructError, IndexError):
        raise Failure.of(CANNOT_UNDERSTAND, f"The {media_type} ends within its header.") from None
    return None


def _jpeg(data: bytes | memoryview) -> Codestream:
    if bytes(data[:2]) != b"\xff\xd8":
        raise Failure.of(CANNOT_UNDERSTAND, "The JPEG does not begin with its start marker.")
    adobe: int | None = None
    frame: tuple[int, int] | None = None
    for marker, at, length in _segments(data):
        if marker == 0xEE and bytes(data[at : at + 5]) == b"Adobe" and length >= 12:
            adobe = data[at + 11]
        elif marker in _FRAMES:
            frame = (marker, at)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            kind = "progressive" if marker in (0xC2, 0xC6) else "arithmetic or hierarchical"
            raise Failure.of(
                TRANSFER_SYNTAX_NOT_SUPPORTED,
                f"A {kind} JPEG (SOF{marker - 0xC0}) has no DICOM transfer syntax in force.",
            )
        elif marker == 0xDA and frame is not None:
            return _jpeg_frame(data, *frame, scan=at, adobe=adobe)
    raise Failure.of(CANNOT_UNDERSTAND, "The JPEG has no scan.")


_FRAMES = frozenset((0xC0, 0xC1, 0xC3, 0xF7))


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """The marker segments up to the first scan: (marker, where its content is, its length)."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if data[at] != 0xFF:
            raise Failure.of(CANNOT_UNDERSTAND, f"The JPEG has no marker at byte {at}.")
        filled = at
        while data[at + 1] == 0xFF and at - filled < _MOST_SEGMENTS:
            at += 1  # fill bytes
        marker = data[at + 1]
        length = _SHORT(data, at + 2)[0]
        yield marker, at + 4, length - 2
        at += 2 + max(length, 2)


def _jpeg_frame(
    data: bytes | memoryview, marker: int, at: int, *, scan: int, adobe: int | None
) -> Codestream:
    precision, rows, columns, samples = data[at], _SHORT(data, at + 1)[0], 0, data[at + 5]
    columns = _SHORT(data, at + 3)[0]
    ids = bytes(data[at + 6 + 3 * n] for n in range(samples))
    parameters = scan + 1 + 2 * data[scan]
    if marker == 0xF7:
        syntax = JPEG_LS if data[parameters] else JPEG_LS_LOSSLESS
    elif marker == 0xC3:
        syntax = JPEG_LOSSLESS_SV1 if data[parameters] == 1 else JPEG_LOSSLESS
    else:
        syntax = JPEG_BASELINE if marker == 0xC0 else JPEG_EXTENDED
    if samples == 1:
        colour = "MONOCHROME2"
    elif samples != 3:
        raise Failure.of(CANNOT_UNDERSTAND, f"The JPEG has {samples} components; 1 or 3 are taken.")
    elif adobe == 0 or ids == b"RGB" or (adobe is None and marker in (0xC3, 0xF7)):
        colour = "RGB"
    else:
        colour = "YBR_FULL_422" if data[at + 7] >> 4 == 2 else "YBR_FULL"
    return Codestream(syntax, 0, len(data), rows, columns, samples, precision, False, colour)


def _jpeg_2000(data: bytes | memoryview) -> Codestream:
    offset, length = _codestream_box(data)
    siz = offset + 4
    if bytes(data[offset:siz]) != b"\xff\x4f\xff\x51":
        raise Failure.of(CANNOT_UNDERSTAND, "The JPEG 2000 image has no codestream at its start.")
    _, xsize, ysize, xoffset, yoffset, _, _, _, _, samples = _SIZ(data, siz + 2)
    depth = data[siz + 38]
    at = siz + _SHORT(data, siz)[0]
    is_high_throughput, coding = False, None
    for _ in range(_MOST_SEGMENTS):
        marker = _SHORT(data, at)[0]
        if marker == 0xFF50:
            # Pcap (T.800 A.5.2): bit 15 from the most significant one, Part 15.
            is_high_throughput = bool(data[at + 5] & 0x02)
        elif marker == 0xFF52:
            coding = at
            break
        elif marker in (0xFF90, 0xFFD9):
            break
        at += 2 + _SHORT(data, at + 2)[0]
    if coding is None:
        raise Failure.of(CANNOT_UNDERSTAND, "The JPEG 2000 codestream says no coding style.")
    is_reversible = data[coding + 13] == 1
    if is_high_throughput:
        syntax = HTJ2K_LOSSLESS if is_reversible else HTJ2K
    else:
        syntax = JPEG_2000_LOSSLESS if is_reversible else JPEG_2000
    if samples not in (1, 3):
        raise Failure.of(
            CANNOT_UNDERSTAND, f"The JPEG 2000 image has {samples} components; 1 or 3 are taken."
        )
    colour = "MONOCHROME2" if samples == 1 else "RGB"
    if samples == 3 and data[coding + 8]:
        colour = "YBR_RCT" if is_reversible else "YBR_ICT"
    return Codestream(
        syntax, offset, length, ysize - yoffset, xsize - xoffset, samples,
        (depth & 0x7F) + 1, bool(depth & 0x80), colour,
    )  # fmt: skip


def _codestream_box(data: bytes | memoryview) -> tuple[int, int]:
    """Where the codestream lies: DICOM takes no JP2 file format around it (PS3.5 A.4.4)."""
    if bytes(data[4:8]) != b"jP  ":
        return 0, len(data)
    at = 0
    for _ in range(_MOST_SEGMENTS):
        length, kind = _BOX(data, at)
        head = 8
        if length == 1:
            length, head = _LONG_BOX(data, at + 8)[0], 16
        if kind == b"jp2c":
            end = len(data) if length == 0 else min(at + length, len(data))
            return at + head, end - at - head
        if length < head:
            break
        at += length
    raise Failure.of(CANNOT_UNDERSTAND, "The JP2 file holds no codestream.")
