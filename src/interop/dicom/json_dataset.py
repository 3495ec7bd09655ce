"""DICOM JSON (PS3.18 F) with its bulk data as a Part 10 file, for the store transaction (10.5).

The data set becomes Explicit VR Little Endian, or the transfer syntax of the compressed pixel data
that comes with it. Text is written in UTF-8, whatever character set the sender names: that is what
JSON and XML hold. Bulk data goes from its file into the spool in pieces. Every refusal names the
attribute, what is wrong with it and what would be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import pack
from typing import Any

from interop.dicom import codestreams
from interop.dicom.charsets import decoder_for
from interop.dicom.codestreams import Codestream
from interop.dicom.element_pieces import (
    ITEM,
    Element,
    FilePiece,
    Piece,
    chunks,
    encapsulated,
    joined,
    length_of,
    padded,
    written,
)
from interop.dicom.failures import (
    CANNOT_UNDERSTAND,
    DATA_SET_MISMATCH,
    LIMIT_EXCEEDED,
    TRANSFER_SYNTAX_NOT_SUPPORTED,
    Failure,
)
from interop.dicom.filemeta import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from interop.dicom.limits import DEFAULT_LIMITS, Limits
from interop.dicom.spool import SpoolWriter
from interop.dicom.uids import is_uid, require_uid
from interop.dicom.value_fields import (
    BINARY,
    CHARACTER_SET_VRS,
    NUMBERS,
    SEVERAL,
    SINGLE,
    TAG,
    VRS,
    first_text,
    fitting,
    inline,
    named,
    number,
    refusal,
    require_members,
    tag_value,
    text,
    usual_vr,
)
from interop.dicom.walker import PIXEL_DATA, PIXEL_TAGS, standard_vr

Json = dict[str, Any]

OCTET_STREAM = "application/octet-stream"
_UTF_8 = "ISO_IR 192"
# Image Pixel Description Macro (PS3.3 C.7.6.3), what of it can be derived: VR, and of a codestream.
_DERIVED: dict[int, tuple[str, Callable[[Codestream], object]]] = {
    0x00280002: ("US", lambda found: found.samples_per_pixel),
    0x00280004: ("CS", lambda found: found.photometric_interpretation),
    0x00280010: ("US", lambda found: found.rows),
    0x00280011: ("US", lambda found: found.columns),
    0x00280100: ("US", lambda found: 8 if found.bits_stored <= 8 else 16),
    0x00280101: ("US", lambda found: found.bits_stored),
    0x00280102: ("US", lambda found: found.bits_stored - 1),
    0x00280103: ("US", lambda found: int(found.is_signed)),
}
_PLANAR_CONFIGURATION, _NUMBER_OF_FRAMES = 0x00280006, 0x00280008
_LOSSY_IMAGE_COMPRESSION = 0x00282110
# What a codestream and its description must agree on, or nobody could decode the frame.
_AGREED = (0x00280002, 0x00280010, 0x00280011)


@dataclass(frozen=True, slots=True)
class BulkPart:
    """The octets of one part of a request, in a file, and what its header says of them."""

    path: Path
    size: int
    media_type: str = OCTET_STREAM
    transfer_syntax: str | None = None


FindBulk = Callable[[str], Sequence[BulkPart]]


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs of an instance as its metadata has them; what is none is empty."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str

    @classmethod
    def of(cls, data_set: Json) -> Identity:
        return cls(*(_uid(data_set, tag) for tag in ("00080016", "00080018", "0020000D",
                                                     "0020000E")))  # fmt: skip


@dataclass(slots=True)
class Encoded:
    """An instance that only has to be written."""

    identity: Identity
    transfer_syntax_uid: str
    pieces: list[Piece]
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def write(self, writer: SpoolWriter) -> None:
        """Write the Part 10 file. Raises Failure as the writer does; the caller finishes it."""
        writer.write_meta(
            self.identity.sop_class_uid, self.identity.sop_instance_uid, self.transfer_syntax_uid
        )
        for piece in self.pieces:
            if isinstance(piece, bytes):
                writer.write(piece)
                continue
            for chunk in chunks(piece):
                writer.write(chunk)


def encode(data_set: Json, find: FindBulk, limits: Limits = DEFAULT_LIMITS) -> Encoded:
    """Return the instance that a data set of the DICOM JSON Model and its bulk data make.

    `find` gives the parts that a BulkDataURI names, in order. Raises Failure.
    """
    return _Encoder(find, limits).instance(data_set)


def _uid(data_set: Json, tag: str) -> str:
    attribute = data_set.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    text = values[0] if isinstance(values, list) and values else None
    return text.strip() if isinstance(text, str) and is_uid(text.strip()) else ""


class _Encoder:
    """The state of one instance."""

    def __init__(self, find: FindBulk, limits: Limits) -> None:
        self._find = find
        self._limits = limits
        self._elements = self._items = 0
        self._declared = ""
        self._compressed = ""
        self._character_set = ""
        self._is_extended = False
        self.warnings: list[str] = []

    def instance(self, data_set: Json) -> Encoded:
        self._declared = _uid(data_set, "00020010")
        self._character_set = first_text(data_set.get("00080005"))
        identity = Identity.of(data_set)
        for tag, uid, name in (
            ("00080016", identity.sop_class_uid, "SOP Class UID (0008,0016)"),
            ("00080018", identity.sop_instance_uid, "SOP Instance UID (0008,0018)"),
            ("0020000D", identity.study_instance_uid, "Study Instance UID (0020,000D)"),
            ("0020000E", identity.series_instance_uid, "Series Instance UID (0020,000E)"),
        ):
            require_uid(uid or first_text(data_set.get(tag)), name)
        elements = self._data_set(data_set, 0)
        if self._is_extended or self._character_set:
            elements[0x00080005] = Element("CS", [_UTF_8.encode()])
        if PIXEL_DATA in elements and not elements[PIXEL_DATA].is_encapsulated:
            if self._compressed:
                raise refusal(
                    DATA_SET_MISMATCH, PIXEL_DATA, "is uncompressed beside compressed bulk data"
                )
            _check_native_length(elements)
        syntax = self._compressed or EXPLICIT_VR_LITTLE_ENDIAN
        return Encoded(identity, syntax, joined(written(elements)), self.warnings)

    def _data_set(self, data_set: object, depth: int) -> dict[int, Element]:
        if not isinstance(data_set, dict):
            raise Failure.of(
                CANNOT_UNDERSTAND, "A data set is a JSON object of attributes by their tags."
            )
        elements: dict[int, Element] = {}
        creators = {
            tag[:4].upper() + tag[6:].upper(): first_text(attribute)
            for tag, attribute in data_set.items()
            if len(tag) == 8 and tag[4:6] == "00"
        }
        pixels: list[tuple[int, Json]] = []
        for name, attribute in data_set.items():
            if not TAG.fullmatch(name):
                raise Failure.of(
                    CANNOT_UNDERSTAND,
                    f"Attribute {name[:40]!r}: 8 hexadecimal digits of its tag are expected.",
                )
            tag = int(name, 16)
            self._elements += 1
            if self._elements > self._limits.elements:
                raise _limit("elements", self._limits.elements)
            if tag >> 16 in (0x0002, 0xFFFE, 0x0000) or (tag & 0xFFFF == 0 and not tag >> 16 & 1):
                if tag >> 16 in (0x0000, 0xFFFE):
                    raise refusal(CANNOT_UNDERSTAND, tag, "is no attribute of a data set")
                continue  # File Meta Information is ours to write, and so are group lengths
            if tag in elements:
                raise refusal(CANNOT_UNDERSTAND, tag, "stands twice in one data set")
            require_members(tag, attribute)
            if tag in PIXEL_TAGS and attribute.get("BulkDataURI"):
                pixels.append((tag, attribute))
                elements[tag] = Element("OB", [])
            else:
                creator = creators.get(name[:6].upper(), "")
                elements[tag] = self._element(tag, attribute, creator, depth)
        for tag, attribute in pixels:
            # Last: what the other attributes say of the pixels is known.
            elements[tag] = self._pixel_data(tag, attribute, elements, depth)
        if depth and 0x00080005 in elements:
            elements[0x00080005] = Element("CS", [_UTF_8.encode()])
        return elements

    def _element(self, tag: int, attribute: Json, creator: str, depth: int) -> Element:
        vr = attribute.get("vr") or usual_vr(tag, creator)
        if not isinstance(vr, str) or vr not in VRS:
            raise refusal(CANNOT_UNDERSTAND, tag, f"has the unknown vr {str(vr)[:8]!r}")
        if vr == "SQ":
            return self._sequence(tag, attribute, depth)
        if attribute.get("BulkDataURI"):
            return self._bulk(tag, vr, attribute["BulkDataURI"])
        if attribute.get("InlineBinary"):
            raw = inline(tag, attribute["InlineBinary"])
            return Element(fitting(vr, len(raw)), padded([raw], vr))
        values = attribute.get("Value") or []
        if not isinstance(values, list):
            raise refusal(CANNOT_UNDERSTAND, tag, "has a Value that is no array")
        raw = self._values(tag, vr, values) if values else b""
        return Element(fitting(vr, len(raw)), padded([raw], vr))

    def _values(self, tag: int, vr: str, values: list[object]) -> bytes:
        if vr in NUMBERS:
            return b"".join(number(tag, vr, value) for value in values)
        if vr == "AT":
            return b"".join(tag_value(tag, value) for value in values)
        if vr in BINARY:
            raise refusal(
                CANNOT_UNDERSTAND, tag, f"with vr {vr} has a Value; expected InlineBinary"
            )
        texts = [text(tag, vr, value) for value in values]
        if vr in SINGLE and len(texts) > 1:
            raise refusal(CANNOT_UNDERSTAND, tag, f"with vr {vr} has {len(texts)} values, not one")
        if vr in SEVERAL and any("\\" in text for text in texts):
            raise refusal(
                CANNOT_UNDERSTAND, tag, "has a backslash in a value, where it separates values"
            )
        whole = "\\".join(texts)
        if not whole.isascii():
            self._is_extended = True
            if vr not in CHARACTER_SET_VRS:
                self.warnings.append(f"{named(tag)} has characters that vr {vr} does not take")
        return whole.encode("utf-8", "replace")

    def _sequence(self, tag: int, attribute: Json, depth: int) -> Element:
        items = attribute.get("Value") or []
        if attribute.get("BulkDataURI") or attribute.get("InlineBinary"):
            raise refusal(CANNOT_UNDERSTAND, tag, "with vr SQ has no Value of items")
        if not isinstance(items, list):
            raise refusal(CANNOT_UNDERSTAND, tag, "has a Value that is no array")
        if depth >= self._limits.depth:
            raise Failure.of(
                LIMIT_EXCEEDED,
                f"Sequences are nested deeper than {self._limits.depth}, the most accepted.",
            )
        value: list[Piece] = []
        for item in items:
            self._items += 1
            if self._items > self._limits.items:
                raise _limit("items", self._limits.items)
            content = written(self._data_set(item if item is not None else {}, depth + 1))
            value += [ITEM + pack("<I", length_of(tag, content)), *content]
        return Element("SQ", value)

    def _bulk(self, tag: int, vr: str, uri: object) -> Element:
        parts = self._parts(tag, uri)
        if len(parts) > 1:
            raise refusal(CANNOT_UNDERSTAND, tag, f"has {len(parts)} parts of one Content-Location")
        part = parts[0]
        is_plain = self._character_set in ("", "ISO_IR 6", "ISO 2022 IR 6", _UTF_8)
        if vr in CHARACTER_SET_VRS and not is_plain:
            if part.size > self._limits.text_bytes:
                raise refusal(
                    LIMIT_EXCEEDED,
                    tag,
                    f"is text of {part.size} bytes in {self._character_set};"
                    f" above {self._limits.text_bytes} send it in {_UTF_8}",
                )
            self._is_extended = True
            text = decoder_for(self._character_set)(part.path.read_bytes())
            raw = text.encode("utf-8", "replace")
            return Element(fitting(vr, len(raw)), padded([raw], vr))
        return Element(fitting(vr, part.size), padded([FilePiece(part.path, 0, part.size)], vr))

    def _parts(self, tag: int, uri: object) -> Sequence[BulkPart]:
        if not isinstance(uri, str):
            raise refusal(CANNOT_UNDERSTAND, tag, "has a BulkDataURI that is no string")
        parts = self._find(uri)
        if not parts:
            raise refusal(
                CANNOT_UNDERSTAND,
                tag,
                f"has the BulkDataURI {uri[:80]!r}; no part of the request has this"
                " Content-Location",
            )
        return parts

    # -- pixel data -------------------------------------------------------------------------

    def _pixel_data(
        self, tag: int, attribute: Json, elements: dict[int, Element], depth: int
    ) -> Element:
        parts = self._parts(tag, attribute["BulkDataURI"])
        syntaxes = {self._transfer_syntax(tag, part) for part in parts}
        if len(parts) > 1 and depth:
            raise refusal(CANNOT_UNDERSTAND, tag, "inside a sequence has more than one part")
        if len(syntaxes) > 1:
            raise refusal(DATA_SET_MISMATCH, tag, "has parts of more than one transfer syntax")
        (syntax,) = syntaxes
        if syntax == EXPLICIT_VR_LITTLE_ENDIAN:
            if len(parts) > 1:
                raise refusal(CANNOT_UNDERSTAND, tag, "has more than one uncompressed part")
            vr = attribute.get("vr")
            if vr not in ("OB", "OW", "OF", "OD"):
                is_bytes = tag == PIXEL_DATA and _us(elements, 0x00280100, 16) <= 8
                vr = "OB" if is_bytes else standard_vr(tag)
            return Element(vr, padded([FilePiece(parts[0].path, 0, parts[0].size)], vr))
        frames, syntax = self._frames(tag, parts, syntax, elements, describe=depth == 0)
        if self._compressed not in ("", syntax):
            raise refusal(
                DATA_SET_MISMATCH, tag, f"is in {syntax}, other pixel data in {self._compressed}"
            )
        self._compressed = syntax
        return Element("OB", encapsulated(frames), is_encapsulated=True)

    def _transfer_syntax(self, tag: int, part: BulkPart) -> str:
        """The transfer syntax that a part's header, or else the metadata, gives to its octets."""
        media_type = codestreams.ALIASES.get(part.media_type, part.media_type)
        syntax = part.transfer_syntax
        if media_type == OCTET_STREAM:
            syntax = syntax or self._declared or EXPLICIT_VR_LITTLE_ENDIAN
            if syntax == IMPLICIT_VR_LITTLE_ENDIAN:
                return EXPLICIT_VR_LITTLE_ENDIAN  # the same octets of pixel data
            known = any(syntax in held for held in codestreams.MEDIA_TYPES.values())
            if syntax == EXPLICIT_VR_LITTLE_ENDIAN or known:
                return syntax
            raise refusal(
                TRANSFER_SYNTAX_NOT_SUPPORTED, tag, f"comes in the transfer syntax {syntax[:64]}"
            )
        held = codestreams.MEDIA_TYPES.get(media_type)
        if held is None:
            raise refusal(
                TRANSFER_SYNTAX_NOT_SUPPORTED,
                tag,
                f"comes as {media_type[:40]}; accepted: {OCTET_STREAM},"
                f" {', '.join(codestreams.MEDIA_TYPES)}",
            )
        if syntax is not None and syntax not in held:
            raise refusal(
                TRANSFER_SYNTAX_NOT_SUPPORTED,
                tag,
                f"comes as {media_type} in {syntax[:64]}; {media_type} holds {', '.join(held)}",
            )
        return syntax or (self._declared if self._declared in held else held[0])

    def _frames(
        self,
        tag: int,
        parts: Sequence[BulkPart],
        syntax: str,
        elements: dict[int, Element],
        *,
        describe: bool,
    ) -> tuple[list[FilePiece], str]:
        """Where the codestream of each frame lies, and the transfer syntax that they are in."""
        media_type = next(name for name, held in codestreams.MEDIA_TYPES.items() if syntax in held)
        if describe and not media_type.startswith("video/"):
            self._count_frames(len(parts), elements)
        frames: list[FilePiece] = []
        examined: list[Codestream] = []
        for part in parts:
            if part.size == 0:
                raise refusal(CANNOT_UNDERSTAND, tag, "has an empty part")
            found = _examined(part, media_type)
            if found is None:
                frames.append(FilePiece(part.path, 0, part.size))
                continue
            if not found.fits(syntax):
                if part.transfer_syntax is not None or syntax == self._declared:
                    self.warnings.append(
                        f"{named(tag)} is named {syntax} and is {found.transfer_syntax_uid}"
                    )
                syntax = found.transfer_syntax_uid
            if describe:
                _describe(found, elements)
            examined.append(found)
            frames.append(FilePiece(part.path, found.offset, found.length))
        if not all(found.fits(syntax) for found in examined):
            raise refusal(DATA_SET_MISMATCH, tag, "has frames of more than one transfer syntax")
        missing = [named(tag) for tag in _DERIVED if describe and tag not in elements]
        if missing:
            raise Failure.of(
                DATA_SET_MISMATCH, f"{media_type} does not say {', '.join(missing)}; send them."
            )
        return frames, syntax

    def _count_frames(self, count: int, elements: dict[int, Element]) -> None:
        declared = _is(elements, _NUMBER_OF_FRAMES)
        if declared is None and count > 1:
            elements[_NUMBER_OF_FRAMES] = Element("IS", padded([str(count).encode()], "IS"))
        elif (declared or 1) != count:
            raise refusal(
                DATA_SET_MISMATCH,
                _NUMBER_OF_FRAMES,
                f"is {declared or 1} and {count} parts hold frames; send one part a frame, all with"
                " the Content-Location of the BulkDataURI, or with /frames/1, /frames/2 behind it",
            )


# Many instances may have the same frames.
@lru_cache(maxsize=16_384)
def _examined(part: BulkPart, media_type: str) -> Codestream | None:
    with part.path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        with memoryview(data) as view:
            return codestreams.examine(view, media_type)


def _describe(found: Codestream, elements: dict[int, Element]) -> None:
    """Fill in what the sender left out of the pixel description, and compare the rest."""
    for tag in _AGREED:
        said, is_there = _us(elements, tag, 0), tag in elements
        value = _DERIVED[tag][1](found)
        if is_there and said != value:
            raise refusal(DATA_SET_MISMATCH, tag, f"is {said}; the codestream has {value}")
    for tag, (vr, value_of) in _DERIVED.items():
        if tag not in elements:
            value = value_of(found)
            raw = pack("<H", value) if isinstance(value, int) else str(value).encode()
            elements[tag] = Element(vr, padded([raw], vr))
    if found.samples_per_pixel > 1 and _PLANAR_CONFIGURATION not in elements:
        elements[_PLANAR_CONFIGURATION] = Element("US", [pack("<H", 0)])
    if found.transfer_syntax_uid in codestreams.LOSSY:
        elements.setdefault(_LOSSY_IMAGE_COMPRESSION, Element("CS", [b"01"]))


def _check_native_length(elements: dict[int, Element]) -> None:
    """Refuse pixel data that is shorter than its description; it may be compressed and not say."""
    rows, columns, allocated = (
        _us(elements, tag, 0) for tag in (0x00280010, 0x00280011, 0x00280100)
    )
    samples = _us(elements, 0x00280002, 1)
    if _raw(elements, 0x00280004).strip() == b"YBR_FULL_422" and samples == 3:
        samples = 2
    frames = _is(elements, _NUMBER_OF_FRAMES) or 1
    needed = (rows * columns * samples * allocated * frames + 7) // 8
    found = sum(map(len, elements[PIXEL_DATA].value))
    if found < needed:
        raise refusal(
            DATA_SET_MISMATCH,
            PIXEL_DATA,
            f"has {found} bytes, its description needs {needed}; a compressed part says its media"
            " type or transfer-syntax",
        )


def _raw(elements: dict[int, Element], tag: int) -> bytes:
    element = elements.get(tag)
    return b"".join(p for p in element.value if isinstance(p, bytes)) if element else b""


def _us(elements: dict[int, Element], tag: int, default: int) -> int:
    raw = _raw(elements, tag)
    return int.from_bytes(raw[:2], "little") if len(raw) >= 2 else default


def _is(elements: dict[int, Element], tag: int) -> int | None:
    text = _raw(elements, tag).strip(b" \0")
    return int(text) if text.isdigit() and len(text) <= 12 else None


def _limit(what: str, most: int) -> Failure:
    return Failure.of(
        LIMIT_EXCEEDED, f"The data set has more than {most} {what}, the most accepted."
    )
