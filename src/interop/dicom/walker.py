"""One bounded pass over a data set that writes its DICOM JSON as it goes (PS3.5 7, PS3.18 F).

pydicom reads 200 nested sequences into a RecursionError and 500,000 empty items in 12 seconds
(security.md B3, B4), so this walk counts depth, items and elements before it does anything with
them, makes no object for an element, and never follows a declared length past its container.
Real files break rules; what can be read without a guess is read, with a note in ``warnings``.
"""

from __future__ import annotations

import mmap
from struct import Struct

from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom._private_dict import private_dictionaries
from pydicom.datadict import mask_match

from interop.dicom import json_values
from interop.dicom.charsets import Decoder, decoder_for, default_decoder
from interop.dicom.failures import CANNOT_UNDERSTAND, LIMIT_EXCEEDED, TRUNCATED, Failure
from interop.dicom.filemeta import LONG_VRS
from interop.dicom.frame_table import Fragments, walk_fragments
from interop.dicom.limits import Limits

Data = bytes | mmap.mmap

UNDEFINED = 0xFFFFFFFF
BULK_PREFIX = "@@BULK@@/"
# A binary value up to this size goes inline; a number or number string up to that size as text.
INLINE_BYTES = 1024
NUMBER_BYTES = 16 * 1024
DELIMITED_BYTES = 64 * 1024

SPECIFIC_CHARACTER_SET = 0x00080005
PIXEL_REPRESENTATION = 0x00280103
FLOAT_PIXEL_DATA = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00009
PIXEL_DATA = 0x7FE00010
PIXEL_TAGS = frozenset((FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA))

_KNOWN_VRS = frozenset(json_values.encoders(big_endian=False)) | {b"SQ"}
_BINARY_VRS = frozenset(json_values.BINARY_WORDS)
_NUMBER_VRS = frozenset((b"US", b"SS", b"UL", b"SL", b"FL", b"FD", b"UV", b"SV", b"DS", b"IS"))
_LONG_TEXT_VRS = frozenset((b"ST", b"LT", b"UT", b"UR"))
_AMBIGUOUS = {"US or SS": b"US", "OB or OW": b"OW", "US or OW": b"OW", "US or SS or OW": b"OW"}

_vr_by_tag: dict[int, bytes] = {}
_head_by_tag: dict[tuple[int, bytes], str] = {}
_CACHE_ENTRIES = 20_000


def dictionary_vr(tag: int) -> str | None:
    """Return the VR of a public tag in PS3.6, repeating groups included; None when unknown."""
    found = DicomDictionary.get(tag)
    if found is not None:
        return found[0]
    mask = mask_match(tag)
    return RepeatersDictionary[mask][0] if mask else None


def standard_vr(tag: int) -> str:
    """Return one VR of a tag: the usual one where PS3.6 leaves a choice, UN when it is unknown."""
    found = dictionary_vr(tag) or "UN"
    if found == "NONE":
        return "UN"
    return _AMBIGUOUS[found].decode("ascii") if found in _AMBIGUOUS else found


def private_vr(creator: str, tag: int) -> bytes:
    """Return the VR that a known private dictionary gives, else UN."""
    known = private_dictionaries.get(creator)
    if known is None:
        return b"UN"
    text = f"{tag:08X}"
    for key in (f"{text[:4]}xx{text[6:]}", f"{text[:4]}xxxx{text[6:]}", text):
        found = known.get(key) or known.get(key.lower())
        if found is not None:
            return _AMBIGUOUS.get(found[0]) or found[0].encode("ascii")
    return b"UN"


class HeadTooShort(Exception):
    """The bytes at hand end before the header does; walk again over the whole file."""


class Walk:
    """The state of one pass. ``top`` and ``members`` describe the outermost data set only.

    ``data`` may be only the first bytes of a file of ``end`` bytes: pixel data at the end of the
    file is skipped without being there, and anything else that is missing raises HeadTooShort, or
    struct.error where it is an element's header.
    """

    def __init__(
        self, data: Data, end: int, limits: Limits, *, implicit: bool, big_endian: bool
    ) -> None:
        self.data = data
        self.end = end
        self.limits = limits
        self.implicit = implicit
        endian = ">" if big_endian else "<"
        self.big_endian = big_endian
        self.explicit_head = Struct(endian + "HH2sH").unpack_from
        self.implicit_head = Struct(endian + "HHI").unpack_from
        self.long_length = Struct(endian + "I").unpack_from
        self.encoders = json_values.encoders(big_endian=big_endian)
        self.elements = 0
        self.items = 0
        self.text_bytes = 0
        self.warnings: list[str] = []
        # Top level: tag -> (VR, offset of the value, length), and tag -> its JSON member.
        self.top: dict[int, tuple[bytes, int, int]] = {}
        self.members: dict[int, str] = {}
        self.decoder: Decoder = default_decoder
        # Path of each value that is not in the JSON -> (VR, offset, length).
        self.bulk: dict[str, tuple[bytes, int, int]] = {}
        self.pixel_fragments: Fragments | None = None

    def run(self, at: int) -> str:
        """Walk the data set that begins at ``at`` and return its JSON object."""
        text, _ = self._data_set(at, self.end, 0, "", default_decoder, self.implicit, None)
        return text

    # One loop for all encodings, inlined: a call per element would double the time of a header.
    def _data_set(  # noqa: C901, PLR0912, PLR0915
        self,
        at: int,
        end: int,
        depth: int,
        path: str,
        decode: Decoder,
        implicit: bool,
        signed: bool | None,
        *,
        is_delimited: bool = False,
    ) -> tuple[str, int]:
        """Walk one data set or item; return its JSON object and where it ended."""
        data, encoders = self.data, self.encoders
        explicit_head, implicit_head = self.explicit_head, self.implicit_head
        most, most_bytes = self.limits.elements, self.limits.header_bytes
        members: dict[int, str] = self.members if depth == 0 else {}
        creators: dict[int, str] = {}
        last = -1
        is_sorted = True
        while at < end:
            if at + 8 > end:
                if not is_delimited and not any(data[at:end]):
                    # Trailing zero bytes after the last element: padding of old writers.
                    self._warn(f"{end - at} padding bytes after the last element")
                    at = end
                    break
                raise self._truncated(at, end, "an element header")
            start = at
            group, element, vr, length = explicit_head(data, at)
            tag = group << 16 | element
            if group == 0xFFFE:
                if element == 0xE00D and is_delimited:
                    return self._object(members, is_sorted), at + 8
                if element in (0xE00D, 0xE0DD):
                    # A stray delimiter: seen behind sequences of defined length.
                    self._warn(f"stray delimiter at byte {at}")
                    at += 8
                    continue
                raise Failure.of(CANNOT_UNDERSTAND, f"An item stands outside a sequence at {at}.")
            self.elements += 1
            if self.elements > most:
                raise Failure.of(
                    LIMIT_EXCEEDED,
                    f"The data set has more than {most} elements, the most accepted.",
                )
            if implicit or not (65 <= vr[0] <= 90 and 65 <= vr[1] <= 90):
                length = implicit_head(data, at)[2]
                at += 8
                vr = self._implicit_vr(tag, creators, signed)
                if vr == b"UN" and length == UNDEFINED:
                    vr = b"SQ"
                is_implicit = True
            elif vr in LONG_VRS:
                if at + 12 > end:
                    raise self._truncated(at, end, "an element header")
                length = self.long_length(data, at + 8)[0]
                at += 12
                is_implicit = False
            else:
                at += 8
                is_implicit = False
                if vr not in _KNOWN_VRS:
                    # A VR of a future edition has a 32-bit length (PS3.5 7.1.2); one with a zero
                    # in the reserved bytes and a length that fits is taken as such.
                    if length == 0 and at + 4 <= end:
                        length = self.long_length(data, at)[0]
                        at += 4
                    self._warn(f"unknown VR {vr!r} at byte {start}")
                    vr = b"UN"
            if tag <= last:
                is_sorted = False
            last = tag
            if vr == b"UN" and length < 0xFFFF and not is_implicit:
                vr = self._known_vr(tag, creators, signed)
                is_implicit = True
            if length == UNDEFINED or vr == b"SQ":
                member, at = self._container(
                    tag, vr, at, end, length, depth, path, decode, is_implicit, signed
                )
                if member:
                    members[tag] = member
                continue
            if at + length > end:
                raise self._truncated(at, end, f"({group:04X},{element:04X}) of {length} bytes")
            if depth == 0:
                self.top[tag] = (vr, at, length)
            if element == 0 and not group & 1:
                at += length
                continue
            head = _head_by_tag.get((tag, vr)) or _head(tag, vr)
            if length <= INLINE_BYTES and tag not in PIXEL_TAGS:
                raw = data[at : at + length]
                if len(raw) != length:
                    raise HeadTooShort
                if group & 1 and 0x10 <= element <= 0xFF:
                    creators[element] = raw.decode("latin-1").rstrip("\0 ")
                elif tag == SPECIFIC_CHARACTER_SET:
                    decode = decoder_for(raw.decode("latin-1"))
                    # What follows is UTF-8 whatever was sent (RFC 8259), so the JSON says so.
                    raw = b"ISO_IR 192" if raw.strip(b"\0 ") else raw
                    if depth == 0:
                        self.decoder = decode
                elif tag == PIXEL_REPRESENTATION and length == 2:
                    signed = any(raw)
                self.text_bytes += length
                if self.text_bytes > most_bytes:
                    raise self._too_much()
                members[tag] = f"{head}{encoders[vr](raw, decode)}}}"
            elif self._is_bulk(tag, vr, length):
                where = f"{path}{tag:08X}"
                self.bulk[where] = (vr, at, length)
                members[tag] = f'{head},"BulkDataURI":"{BULK_PREFIX}{where}"}}'
            else:
                self.text_bytes += length
                if self.text_bytes > most_bytes:
                    raise self._too_much()
                raw = data[at : at + length]
                if len(raw) != length:
                    raise HeadTooShort
                members[tag] = f"{head}{encoders[vr](raw, decode)}}}"
            at += length
        if is_delimited:
            raise self._truncated(at, end, "an item without its delimiter")
        return self._object(members, is_sorted), at

    def _object(self, members: dict[int, str], is_sorted: bool) -> str:
        if is_sorted:
            return f"{{{','.join(members.values())}}}"
        return f"{{{','.join([members[tag] for tag in sorted(members)])}}}"

    def _container(
        self,
        tag: int,
        vr: bytes,
        at: int,
        end: int,
        length: int,
        depth: int,
        path: str,
        decode: Decoder,
        is_implicit: bool,
        signed: bool | None,
    ) -> tuple[str, int]:
        """Walk a sequence or an encapsulated value; return its JSON member and where it ended."""
        begin = at
        if length != UNDEFINED:
            if at + length > end:
                raise self._truncated(at, end, f"sequence {tag:08X} of {length} bytes")
            end = at + length
        elif vr in (b"OB", b"OW") or tag in PIXEL_TAGS:
            fragments = walk_fragments(self.data, at, end, self.limits.fragments)
            if not fragments.is_terminated:
                self._warn("encapsulated pixel data without its sequence delimiter")
            where = f"{path}{tag:08X}"
            self.bulk[where] = (vr, at, UNDEFINED)
            if depth == 0:
                self.top[tag] = (vr, at, UNDEFINED)
                if tag == PIXEL_DATA:
                    self.pixel_fragments = fragments
            member = f'{_head(tag, vr)},"BulkDataURI":"{BULK_PREFIX}{where}"}}'
            return member, fragments.end
        if depth >= self.limits.depth:
            raise Failure.of(
                LIMIT_EXCEEDED,
                f"Sequences are nested deeper than {self.limits.depth}, the most accepted.",
            )
        if vr == b"UN":
            # PS3.5 6.2.2 Note 4: UN of undefined length is an implicit VR sequence.
            is_implicit = True
        items, at = self._items(
            f"{path}{tag:08X}/", at, end, length == UNDEFINED, depth, decode, is_implicit, signed
        )
        if depth == 0:
            self.top[tag] = (b"SQ", begin, at - begin)
        if not items:
            return f"{_head(tag, b'SQ')}}}", at
        return f'{_head(tag, b"SQ")},"Value":[{",".join(items)}]}}', at

    def _items(
        self,
        path: str,
        at: int,
        end: int,
        is_delimited: bool,
        depth: int,
        decode: Decoder,
        implicit: bool,
        signed: bool | None,
    ) -> tuple[list[str], int]:
        items: list[str] = []
        most = self.limits.items
        while at < end:
            if at + 8 > end:
                raise self._truncated(at, end, "an item header")
            group, element, length = self.implicit_head(self.data, at)
            if group != 0xFFFE or element not in (0xE000, 0xE0DD):
                raise Failure.of(
                    CANNOT_UNDERSTAND,
                    f"({group:04X},{element:04X}) stands at byte {at},"
                    " where an item or a sequence delimiter must be.",
                )
            at += 8
            if element == 0xE0DD:
                if is_delimited:
                    return items, at
                self._warn(f"stray sequence delimiter at byte {at - 8}")
                continue
            self.items += 1
            if self.items > most:
                raise Failure.of(
                    LIMIT_EXCEEDED, f"The data set has more than {most} items, the most accepted."
                )
            where = f"{path}{len(items) + 1}/"
            if length == UNDEFINED:
                text, at = self._data_set(
                    at, end, depth + 1, where, decode, implicit, signed, is_delimited=True
                )
            else:
                if at + length > end:
                    raise self._truncated(at, end, f"an item of {length} bytes")
                text, _ = self._data_set(
                    at, at + length, depth + 1, where, decode, implicit, signed
                )
                at += length
            items.append(text)
        if is_delimited:
            raise self._truncated(at, end, "a sequence without its delimiter")
        return items, at

    def _implicit_vr(self, tag: int, creators: dict[int, str], signed: bool | None) -> bytes:
        """Return the VR that a tag has in PS3.6, or in a known private dictionary."""
        group, element = tag >> 16, tag & 0xFFFF
        if group & 1:
            if element < 0x100:
                return b"LO" if 0x10 <= element else b"UN"
            return private_vr(creators.get(element >> 8, ""), tag)
        cached = _vr_by_tag.get(tag)
        if cached is None:
            text = dictionary_vr(tag) or ("UL" if element == 0 else "UN")
            if text == "NONE":
                text = "UN"
            if text == "US or SS":
                return b"SS" if signed else b"US"
            cached = _AMBIGUOUS.get(text) or text.encode("ascii")
            if len(_vr_by_tag) > _CACHE_ENTRIES:
                _vr_by_tag.clear()
            _vr_by_tag[tag] = cached
        return cached

    def _known_vr(self, tag: int, creators: dict[int, str], signed: bool | None) -> bytes:
        """Return a better VR for an element sent as UN (PS3.5 6.2.2), where one is known."""
        vr = self._implicit_vr(tag, creators, signed)
        # UN is always little endian; numbers of a big endian file would be read the wrong way.
        return b"UN" if self.big_endian and vr in _NUMBER_VRS else vr

    def _is_bulk(self, tag: int, vr: bytes, length: int) -> bool:
        if tag in PIXEL_TAGS:
            return True
        if vr in _BINARY_VRS:
            return length > INLINE_BYTES
        if vr in _NUMBER_VRS or vr == b"AT":
            return length > NUMBER_BYTES
        return length > (self.limits.text_bytes if vr in _LONG_TEXT_VRS else DELIMITED_BYTES)

    def _too_much(self) -> Failure:
        return Failure.of(
            LIMIT_EXCEEDED,
            f"The attributes hold more than {self.limits.header_bytes} bytes, the most accepted.",
        )

    def _warn(self, text: str) -> None:
        if len(self.warnings) < 20:
            self.warnings.append(text)

    def _truncated(self, at: int, end: int, what: str) -> Failure:
        where = "the file" if end == self.end else "its sequence or item"
        return Failure.of(TRUNCATED, f"Byte {at}: {what} does not fit; {where} ends at byte {end}.")


def _head(tag: int, vr: bytes) -> str:
    key = (tag, vr)
    head = _head_by_tag.get(key)
    if head is None:
        if len(_head_by_tag) > _CACHE_ENTRIES:
            _head_by_tag.clear()
        head = _head_by_tag[key] = f'"{tag:08X}":{{"vr":"{vr.decode("ascii")}"'
    return head
