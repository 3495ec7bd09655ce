"""Identifiers of responses, from rows to bytes (PS3.5 7, PS3.4 C.4.1.1.3.2).

A data set object for each match would cost more than finding it. So what a request asks for is
compiled once, one `Element` for each key in the order of tags, and a row is written by joining
prepared heads and values. Text goes out in the character set that was asked for where that can say
it, else in ISO_IR 192: what is stored survives.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Any, Final

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

from interop.dicom.charsets import decoder_for
from interop.dicom.filemeta import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, LONG_VRS
from interop.dicom.json_values import BINARY_WORDS, swap_words

Row = tuple[Any, ...]
# The value of an element of a row: text, a number, several of them, or a DICOM JSON attribute.
Value = Any
Encode = Callable[[str], bytes]

SPECIFIC_CHARACTER_SET: Final = 0x00080005
UTF_8: Final = "ISO_IR 192"
_NUMBERS: Final = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q",
}  # fmt: skip
_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_LONGEST_SHORT: Final = 0xFFFE  # of a VR whose length has two bytes


@dataclass(frozen=True, slots=True)
class Encoding:
    """A transfer syntax, as far as identifiers differ by it."""

    is_implicit: bool = True
    is_big_endian: bool = False

    @classmethod
    def of(cls, transfer_syntax_uid: str) -> Encoding:
        return cls(
            transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN,
            transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN,
        )

    @property
    def order(self) -> str:
        return ">" if self.is_big_endian else "<"


class ElementWriter:
    """Writes the elements of one tag and VR: a prepared head, the length, the padded value."""

    def __init__(self, tag: int, vr: str, encoding: Encoding) -> None:
        order = encoding.order
        self.vr = vr
        self._head = Struct(order + "HH").pack(tag >> 16, tag & 0xFFFF)
        self._pad = b"\0" if vr in ("UI", "OB", "UN") else b" "
        self.tag = tag
        self._most = 0xFFFFFFFE
        if encoding.is_implicit:
            self._length = Struct(order + "I").pack
        elif vr.encode() in LONG_VRS:
            self._head += vr.encode() + b"\0\0"
            self._length = Struct(order + "I").pack
        else:
            self._head += vr.encode()
            self._length = Struct(order + "H").pack
            self._most = _LONGEST_SHORT

    def write(self, value: bytes) -> bytes:
        """The element; empty where the value does not fit its length."""
        if len(value) % 2:
            value += self._pad
        if len(value) > self._most:
            value = b""
        return self._head + self._length(len(value)) + value


@dataclass(frozen=True, slots=True)
class Element:
    """One key of a response: where its value is in a row, or what it always is."""

    tag: int
    vr: str
    read: Callable[[Row], Value] | None = None
    constant: str = ""


class IdentifierEncoder:
    """Encodes the rows of one request."""

    def __init__(
        self,
        elements: Sequence[Element],
        transfer_syntax_uid: str,
        character_set: str | None,
    ) -> None:
        """`character_set` is that of the request; None where it names none."""
        self._encoding = encoding = Encoding.of(transfer_syntax_uid)
        # What is the same in every answer is written once: the bytes in front of an element.
        self._elements: list[tuple[bytes, ElementWriter, Callable[[Row], Value]]] = []
        before = b""
        for one in sorted(elements, key=lambda element: element.tag):
            if one.tag == SPECIFIC_CHARACTER_SET:
                continue
            writer = ElementWriter(one.tag, one.vr, encoding)
            if one.read is None:
                before += writer.write(one.constant.encode("ascii", "replace"))
            else:
                self._elements.append((before, writer, one.read))
                before = b""
        self._end = before
        named = ElementWriter(SPECIFIC_CHARACTER_SET, "CS", encoding)
        self._utf_8 = named.write(UTF_8.encode("ascii"))
        self._encode_asked = encoder_for(character_set) if character_set else None
        # Of answers that need no more than ASCII: what was asked for holds for them too.
        self._asked = b""
        if character_set and self._encode_asked is not None:
            self._asked = named.write(character_set.encode("ascii"))

    def identifier(self, row: Row) -> bytes:
        """The identifier of one match."""
        try:
            return self._asked + self._written(row, _ascii)
        except UnicodeEncodeError:
            pass
        if self._encode_asked is not None:
            try:
                return self._asked + self._written(row, self._encode_asked)
            except UnicodeEncodeError:
                pass
        return self._utf_8 + self._written(row, _utf_8)

    def _written(self, row: Row, encode: Encode) -> bytes:
        encoding = self._encoding
        parts = []
        for before, writer, read in self._elements:
            value = read(row)
            if isinstance(value, str):
                raw = encode(value)
            elif value is None:
                raw = b""
            else:
                if isinstance(value, Mapping) and value["vr"] != writer.vr:
                    # As it was sent, whatever PS3.6 says.
                    writer = ElementWriter(writer.tag, value["vr"], encoding)
                raw = value_bytes(value, writer.vr, encoding, encode)
            parts.append(before)
            parts.append(writer.write(raw))
        parts.append(self._end)
        return b"".join(parts)


def value_bytes(value: Value, vr: str, encoding: Encoding, encode: Encode) -> bytes:
    """The bytes of what is not one text: a number, several values, or an attribute of JSON."""
    if isinstance(value, int):
        value = [value]
    if isinstance(value, Mapping):
        if "InlineBinary" in value:
            raw = b64decode(value["InlineBinary"])
            word = BINARY_WORDS.get(vr.encode(), 1)
            return swap_words(raw, word) if encoding.is_big_endian else raw
        # What is kept as bulk data is too large for a response.
        value = value.get("Value", ())
    if vr == "SQ":
        return b"".join(_item(item or {}, encoding, encode) for item in value)
    if vr in _NUMBERS:
        return _numbers(value, vr, encoding)
    if vr == "AT":
        pair = Struct(encoding.order + "HH")
        tags = [int(one, 16) for one in value if one]
        return b"".join(pair.pack(tag >> 16, tag & 0xFFFF) for tag in tags)
    return encode("\\".join(map(text_of, value)))


def _item(item: Mapping[str, Any], encoding: Encoding, encode: Encode) -> bytes:
    body = b"".join(
        ElementWriter(int(tag, 16), attribute["vr"], encoding).write(
            value_bytes(attribute, attribute["vr"], encoding, encode)
        )
        for tag, attribute in sorted(item.items())
        if tag != "00080005"
    )
    return Struct(encoding.order + "HHI").pack(0xFFFE, 0xE000, len(body)) + body


def _numbers(values: Sequence[Any], vr: str, encoding: Encoding) -> bytes:
    pack = Struct(encoding.order + _NUMBERS[vr]).pack
    convert = float if vr in ("FL", "FD") else int
    try:
        return b"".join(pack(convert(value)) for value in values if value is not None)
    except (ValueError, OverflowError, StructError):
        # A value that broke its VR is stored and cannot be written in it.
        return b""


def text_of(value: Any) -> str:
    """One value of a DICOM JSON attribute as the text of an element."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        groups = [str(value.get(name, "")) for name in _NAME_GROUPS]
        return "=".join(groups).rstrip("=")
    if isinstance(value, float):
        # DS has at most 16 characters (PS3.5 6.2).
        text = repr(value)
        return text if len(text) <= 16 else f"{value:.9e}" if value < 0 else f"{value:.10e}"
    return str(value)


# -- character sets -----------------------------------------------------------------------------

_COMPONENTS: Final = re.compile(r"([\\^=])")
_ESCAPES: Final = {encoding: code for code, encoding in CODES_TO_ENCODINGS.items()}
# With ASCII beside it, GB 2312 is what its name says.
_CODECS: Final = {"iso_ir_58": "gb2312"}


def _ascii(text: str) -> bytes:
    return text.encode("ascii")


def _utf_8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def encoder_for(character_set: str) -> Encode | None:
    """What writes text in a Specific Character Set; None for one that is not known.

    It raises UnicodeEncodeError for text that would not come back as it was.
    """
    terms = [term.strip() for term in character_set.split("\\")]
    if terms == [UTF_8]:
        return _utf_8
    encodings = [python_encoding.get(term or "ISO_IR 6", "") for term in terms]
    if not all(encodings):
        return None
    decode = decoder_for(character_set)

    def encode(text: str) -> bytes:
        if text.isascii():
            return text.encode("ascii")
        # Every component of a name and every value begins in the first set (PS3.5 6.1.2.5.3).
        raw = b"".join(
            part.encode("ascii") if part.isascii() else _in_one_of(part, encodings)
            for part in _COMPONENTS.split(text)
        )
        if decode(raw) != text:
            raise UnicodeEncodeError(encodings[0], text, 0, len(text), "does not come back")
        return raw

    return encode


def _in_one_of(text: str, encodings: Sequence[str]) -> bytes:
    """The text in the first of the sets that has all of it, behind its escape sequence."""
    for count, encoding in enumerate(encodings):
        try:
            raw = text.encode(_CODECS.get(encoding, encoding))
        except UnicodeEncodeError:
            continue
        if encoding == "shift_jis" and len(raw) != len(text):
            continue  # JIS X 0201 has no kanji; Python's codec has
        is_escaped = count > 0 and not raw.startswith(b"\x1b")
        return (_ESCAPES[encoding] if is_escaped else b"") + raw
    raise UnicodeEncodeError(encodings[0], text, 0, len(text), "in none of the sets")
