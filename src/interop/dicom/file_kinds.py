"""What a file is that dental software sends without DICOM: JPEG, PNG, STL or MP4, by its own bytes.

Nothing is decoded here: only the structure is read, in bounds, so that a name or a media type never
has to be believed. What a decoder would be needed for is done by the limited child process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import Struct, error, unpack_from
from typing import BinaryIO, Literal

Kind = Literal["JPEG", "PNG", "STL", "MP4"]

MEDIA_TYPES: dict[str, Kind] = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    # RFC 8081 has model/stl; the others are what browsers and scanners say.
    "model/stl": "STL",
    "application/sla": "STL",
    "application/vnd.ms-pki.stl": "STL",
    "video/mp4": "MP4",
}
MEDIA_TYPE_OF: dict[str, str] = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "STL": "model/stl",
    "MP4": "video/mp4",
}
MOST_PIXELS = 1 << 28
_HEAD = 1 << 16
_MOST_MARKERS = 1_000
_MOST_BOXES = 10_000
_LARGEST_MOVIE_BOX = 16 << 20
_STL_HEADER, _STL_TRIANGLE = 84, 50
_EXIF_DATE = re.compile(rb"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)")
_ORIENTATION, _EXIF_POINTER, _ORIGINAL_DATE = 0x0112, 0x8769, 0x9003


class NotThat(Exception):
    """The file is none of the four kinds, or a broken one; the message says in what way."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What the structure of a file says of it."""

    kind: Kind
    width: int | None = None
    height: int | None = None
    bits: int | None = None
    samples: int | None = None
    # JPEG: the frame header's marker (ITU-T T.81 B.1.1.3), chroma subsampling, Adobe's transform.
    process: int | None = None
    is_subsampled: bool = False
    is_rgb: bool = False
    orientation: int = 1
    taken: str | None = None  # YYYYMMDDHHMMSS, the camera's clock
    # MP4: of the first video track.
    codec: str | None = None
    profile: int | None = None
    level: int | None = None
    frames: int | None = None
    frame_milliseconds: float | None = None


def describe(file: BinaryIO, size: int) -> FileKind:
    """Read what `file` is. Raises NotThat."""
    head = file.read(_HEAD)
    try:
        if head.startswith(b"\xff\xd8\xff"):
            return _jpeg(file)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(head)
        if head[4:8] == b"ftyp":
            return _mp4(file, size)
        if _is_stl(file, head, size):
            return FileKind("STL")
    except (error, IndexError) as problem:
        raise NotThat("the file ends inside its own header") from problem
    raise NotThat("the bytes are neither a JPEG nor a PNG image, an STL model or an MP4 video")


def _sized(kind: FileKind) -> FileKind:
    width, height = kind.width or 0, kind.height or 0
    if not 0 < width <= 65535 or not 0 < height <= 65535 or width * height > MOST_PIXELS:
        raise NotThat(f"the {kind.kind} says that it has {width} x {height} pixels")
    return kind


# -- JPEG (ITU-T T.81, Exif 2.3) ----------------------------------------------------------------

_SEGMENT = Struct(">BBH")
_FRAME = Struct(">BHHB")
# Frame headers: C0 to CF without C4, C8 and CC, which are tables and reserved.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg(file: BinaryIO) -> FileKind:
    file.seek(2)
    orientation, taken, transform = 1, None, None
    for _ in range(_MOST_MARKERS):
        prefix, marker, length = _SEGMENT.unpack(file.read(4))
        if prefix != 0xFF or length < 2:
            raise NotThat("the JPEG has no marker where one belongs")
        body = file.read(length - 2)
        if len(body) < length - 2:
            raise NotThat("the JPEG ends inside its header")
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation, taken = _exif(body[6:])
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
        elif marker in _FRAMES:
            return _jpeg_frame(marker, body, orientation, taken, transform)
        elif marker in (0xD9, 0xDA):
            break
    raise NotThat("the JPEG has no frame header")


def _jpeg_frame(
    marker: int, body: bytes, orientation: int, taken: str | None, transform: int | None
) -> FileKind:
    bits, height, width, samples = _FRAME.unpack_from(body)
    components = [body[6 + 3 * n : 9 + 3 * n] for n in range(samples)]
    factors = {component[1] for component in components}
    names = bytes(component[0] for component in components)
    kind = FileKind(
        "JPEG",
        width,
        height,
        bits,
        samples,
        process=marker,
        is_subsampled=len(factors) > 1,
        is_rgb=samples == 3 and (transform == 0 or (transform is None and names == b"RGB")),
        orientation=orientation,
        taken=taken,
    )
    return _sized(kind)


def _exif(tiff: bytes) -> tuple[int, str | None]:
    """Orientation and the moment of the picture; what is broken says nothing."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (first,) = unpack_from(f"{order}I", tiff, 4)
        found = _directory(tiff, order, first)
        orientation = found.get(_ORIENTATION, (0, 0, b""))[1]
        taken = None
        if _EXIF_POINTER in found:
            inner = _directory(tiff, order, found[_EXIF_POINTER][0])
            moment = inner.get(_ORIGINAL_DATE)
            match = _EXIF_DATE.match(tiff, moment[0]) if moment else None
            taken = b"".join(match.groups()).decode("ascii") if match else None
    except (error, KeyError, IndexError):
        return 1, None
    return orientation if 1 <= orientation <= 8 else 1, taken


def _directory(tiff: bytes, order: str, offset: int) -> dict[int, tuple[int, int, bytes]]:
    """Entries by tag: the value as an offset, as a short, and raw."""
    (count,) = unpack_from(f"{order}H", tiff, offset)
    entries = {}
    for n in range(min(count, 200)):
        at = offset + 2 + 12 * n
        (tag,) = unpack_from(f"{order}H", tiff, at)
        (long,) = unpack_from(f"{order}I", tiff, at + 8)
        (short,) = unpack_from(f"{order}H", tiff, at + 8)
        entries[tag] = (long, short, tiff[at + 8 : at + 12])
    return entries


# -- PNG (ISO/IEC 15948) ------------------------------------------------------------------------


def _png(head: bytes) -> FileKind:
    length, name, width, height, bits, colour = Struct(">I4sIIBB").unpack_from(head, 8)
    if name != b"IHDR" or length != 13:
        raise NotThat("the PNG does not begin with its header")
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour)
    if samples is None or bits not in (1, 2, 4, 8, 16):
        raise NotThat(f"the PNG has colour type {colour} with {bits} bits, which there is not")
    return _sized(FileKind("PNG", width, height, bits, samples))


# -- STL ----------------------------------------------------------------------------------------


def _is_stl(file: BinaryIO, head: bytes, size: int) -> bool:
    """Whether it is a binary STL of exactly its length, or a text that begins and ends as one."""
    if size >= _STL_HEADER:
        (triangles,) = unpack_from("<I", head, 80)
        if triangles and size == _STL_HEADER + _STL_TRIANGLE * triangles:
            return True
    if not re.match(rb"\s*solid\b[^\r\n]*\r?\n\s*facet\s+normal\s", head):
        return False
    file.seek(max(0, size - 1024))
    return b"endsolid" in file.read(1024)


# -- MP4 (ISO/IEC 14496-12, -15) ----------------------------------------------------------------

_BOX = Struct(">I4s")


def _mp4(file: BinaryIO, size: int) -> FileKind:
    movie = None
    at = 0
    for _ in range(_MOST_BOXES):
        if at >= size:
            break
        file.seek(at)
        length, name = _BOX.unpack(file.read(8))
        if length == 1:
            (length,) = unpack_from(">Q", file.read(8))
        length = length or size - at
        if length < 8 or at + length > size:
            raise NotThat("the MP4 has a box that is longer than the file")
        if name == b"moov":
            if length > _LARGEST_MOVIE_BOX:
                raise NotThat(f"the MP4 has a movie header of {length} bytes")
            file.seek(at)
            movie = file.read(length)
        at += length
    if movie is None:
        raise NotThat("the MP4 has no movie header (moov)")
    for track in _children(movie, b"trak"):
        found = _video(track)
        if found is not None:
            return _sized(found)
    raise NotThat("the MP4 has no video track")


def _children(box: bytes, wanted: bytes, start: int = 8) -> list[bytes]:
    found: list[bytes] = []
    at = start
    while at + 8 <= len(box) and len(found) < 100:
        length, name = _BOX.unpack_from(box, at)
        if length < 8:
            break
        if name == wanted:
            found.append(box[at : at + length])
        at += length
    return found


def _inside(box: bytes, *path: bytes) -> bytes | None:
    for name in path:
        found = _children(box, name)
        if not found:
            return None
        box = found[0]
    return box


def _video(track: bytes) -> FileKind | None:
    handler = _inside(track, b"mdia", b"hdlr")
    if handler is None or handler[16:20] != b"vide":
        return None
    header = _inside(track, b"mdia", b"mdhd")
    described = _inside(track, b"mdia", b"minf", b"stbl", b"stsd")
    sizes = _inside(track, b"mdia", b"minf", b"stbl", b"stsz")
    if header is None or described is None:
        raise NotThat("the MP4's video track is not described")
    if header[8] == 1:
        timescale, duration = unpack_from(">IQ", header, 28)
    else:
        timescale, duration = unpack_from(">II", header, 20)
    frames = unpack_from(">I", sizes, 16)[0] if sizes else 0
    codec = described[20:24]
    width, height = unpack_from(">HH", described, 48)
    profile = level = None
    for configuration in _children(described, b"avcC", 102):
        profile, level = configuration[9], configuration[11]
    return FileKind(
        "MP4",
        width,
        height,
        8,
        3,
        codec=codec.decode("ascii", "replace"),
        profile=profile,
        level=level,
        frames=frames,
        frame_milliseconds=1000 * duration / timescale / frames if frames and timescale else None,
    )
