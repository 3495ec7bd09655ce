"""One value field as a member of a DICOM JSON attribute object (PS3.18 F.2.3 to F.2.5).

Each function takes the raw bytes and returns the text after ``"vr":"XX"``: ``,"Value":[...]``,
``,"InlineBinary":"..."`` or nothing for an empty value. What breaks its VR is shown as best it
can be: a number that is none as a string, a binary value of a wrong length inline.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from json.encoder import encode_basestring
from math import isfinite
from struct import Struct

from interop.dicom.charsets import Decoder

# Both are also valid JSON numbers, so the sender's digits go out as they came in.
_JSON_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,16})?")
_JSON_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def quote(text: str) -> str:
    """Return the text as a JSON string, without NUL, which PostgreSQL's jsonb does not take."""
    return encode_basestring(text.replace("\0", "") if "\0" in text else text)


def inline_binary(raw: bytes) -> str:
    """Return a binary value in base64 (PS3.18 F.2.7)."""
    return f',"InlineBinary":"{b64encode(raw).decode("ascii")}"' if raw else ""


def text_values(raw: bytes, decode: Decoder) -> str:
    """Return SH, LO, UC, and the VRs of the default repertoire: values separated by backslash."""
    text = decode(raw).rstrip("\0 ")
    if "\\" not in text:
        return f',"Value":[{quote(text)}]' if text else ""
    values = (value.rstrip("\0 ") for value in text.split("\\"))
    return f',"Value":[{",".join([quote(v) if v else "null" for v in values])}]'


def trimmed_values(raw: bytes, decode: Decoder) -> str:
    """Return AE, whose leading spaces do not count either (PS3.5 Table 6.2-1)."""
    text = decode(raw).strip("\0 ")
    if "\\" not in text:
        return f',"Value":[{quote(text)}]' if text else ""
    values = (value.strip("\0 ") for value in text.split("\\"))
    return f',"Value":[{",".join([quote(v) if v else "null" for v in values])}]'


def text_value(raw: bytes, decode: Decoder) -> str:
    """Return ST, LT, UT, UR: one value, in which a backslash is only a backslash."""
    text = decode(raw).rstrip("\0 ")
    return f',"Value":[{quote(text)}]' if text else ""


def person_names(raw: bytes, decode: Decoder) -> str:
    """Return PN with its component groups (PS3.18 F.2.2)."""
    text = decode(raw).rstrip("\0 ")
    if not text:
        return ""
    return f',"Value":[{",".join([_person_name(value) for value in text.split(chr(92))])}]'


def _person_name(text: str) -> str:
    if "=" not in text:
        text = text.rstrip("\0 ")
        return f'{{"Alphabetic":{quote(text)}}}' if text else "null"
    groups = zip(
        ("Alphabetic", "Ideographic", "Phonetic"), text.rstrip("\0 ").split("="), strict=False
    )
    members = [f'"{name}":{quote(group)}' for name, group in groups if group]
    return f"{{{','.join(members)}}}" if members else "null"


def decimal_strings(raw: bytes, decode: Decoder) -> str:
    """Return DS as JSON numbers with the digits that were sent."""
    text = decode(raw).strip("\0 ")
    if _JSON_DECIMAL.fullmatch(text):
        return f',"Value":[{text}]'
    if not text:
        return ""
    return f',"Value":[{",".join([_decimal(value) for value in text.split(chr(92))])}]'


def _decimal(text: str) -> str:
    text = text.strip("\0 ")
    if _JSON_DECIMAL.fullmatch(text):
        return text
    if not text:
        return "null"
    if _DECIMAL.fullmatch(text) and len(text) <= 64 and isfinite(float(text)):
        return repr(float(text))
    return quote(text)


def integer_strings(raw: bytes, decode: Decoder) -> str:
    """Return IS as JSON numbers."""
    text = decode(raw).strip("\0 ")
    if _JSON_INTEGER.fullmatch(text):
        return f',"Value":[{text}]'
    if not text:
        return ""
    return f',"Value":[{",".join([_integer(value) for value in text.split(chr(92))])}]'


def _integer(text: str) -> str:
    text = text.strip("\0 ")
    if _JSON_INTEGER.fullmatch(text):
        return text
    if not text:
        return "null"
    if _INTEGER.fullmatch(text):
        return str(int(text))
    if _DECIMAL.fullmatch(text) and len(text) <= 64:
        number = float(text)
        if isfinite(number) and number == int(number):
            return str(int(number))
    return quote(text)


def _number(value: float) -> str:
    if isfinite(value):
        return repr(value)
    # JSON has no such numbers. The standard is silent; the names are those of its XML form.
    return '"NaN"' if value != value else '"inf"' if value > 0 else '"-inf"'


def _unpacker(code: str, size: int, endian: str) -> Callable[[bytes, Decoder], str]:
    one = Struct(endian + code).unpack
    is_float = code in "fd"

    def numbers(raw: bytes, _: Decoder) -> str:
        if len(raw) == size:
            value = one(raw)[0]
            return f',"Value":[{_number(value) if is_float else value}]'
        if not raw:
            return ""
        count, rest = divmod(len(raw), size)
        if rest:
            # Not a whole number of values: nothing better than the bytes can be shown.
            return inline_binary(raw)
        values = Struct(f"{endian}{count}{code}").unpack(raw)
        if is_float:
            return f',"Value":[{",".join(map(_number, values))}]'
        return f',"Value":[{",".join(map(str, values))}]'

    return numbers


def _attribute_tags(endian: str) -> Callable[[bytes, Decoder], str]:
    pair = Struct(endian + "HH")

    def tags(raw: bytes, _: Decoder) -> str:
        if len(raw) % 4:
            return inline_binary(raw)
        values = [f'"{group:04X}{element:04X}"' for group, element in pair.iter_unpack(raw)]
        return f',"Value":[{",".join(values)}]' if values else ""

    return tags


def _binary(word: int, endian: str) -> Callable[[bytes, Decoder], str]:
    def binary(raw: bytes, _: Decoder) -> str:
        if endian == ">" and word > 1:
            raw = swap_words(raw, word)
        return inline_binary(raw)

    return binary


def swap_words(raw: bytes, word: int) -> bytes:
    """Return big endian words as little endian, which JSON and bulk data use (PS3.18 F.2.7)."""
    if len(raw) % word:
        return raw
    swapped = bytearray(len(raw))
    for byte in range(word):
        swapped[byte::word] = raw[word - 1 - byte :: word]
    return bytes(swapped)


BINARY_WORDS = {b"OB": 1, b"OW": 2, b"OF": 4, b"OL": 4, b"OD": 8, b"OV": 8, b"UN": 1}

_NUMBERS = {
    b"US": ("H", 2),
    b"SS": ("h", 2),
    b"UL": ("I", 4),
    b"SL": ("i", 4),
    b"FL": ("f", 4),
    b"FD": ("d", 8),
    b"UV": ("Q", 8),
    b"SV": ("q", 8),
}

# VRs whose text follows Specific Character Set (PS3.5 6.1.2.3).
CHARACTER_SET_VRS = frozenset((b"SH", b"LO", b"ST", b"LT", b"UC", b"UT", b"PN"))

_TEXT: dict[bytes, Callable[[bytes, Decoder], str]] = {
    b"AE": trimmed_values,
    b"AS": text_values,
    b"CS": text_values,
    b"DA": text_values,
    b"DT": text_values,
    b"TM": text_values,
    b"UI": text_values,
    b"SH": text_values,
    b"LO": text_values,
    b"UC": text_values,
    b"ST": text_value,
    b"LT": text_value,
    b"UT": text_value,
    b"UR": text_value,
    b"PN": person_names,
    b"DS": decimal_strings,
    b"IS": integer_strings,
}


def encoders(*, big_endian: bool) -> dict[bytes, Callable[[bytes, Decoder], str]]:
    """Return the function of each VR for one byte order."""
    endian = ">" if big_endian else "<"
    table = dict(_TEXT)
    table.update({vr: _unpacker(*code, endian) for vr, code in _NUMBERS.items()})
    table.update({vr: _binary(word, endian) for vr, word in BINARY_WORDS.items()})
    table[b"AT"] = _attribute_tags(endian)
    return table
