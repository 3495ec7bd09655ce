"""The members of a DICOM JSON attribute as the Value Field of an element (PS3.18 F.2, PS3.5 6.2).

Text stays text here: the caller knows the character set. What is no value of its VR is refused with
the attribute, the value and what would be taken.
"""

from __future__ import annotations

import re
from base64 import b64decode
from struct import Struct, pack
from struct import error as StructError

from interop.dicom.failures import CANNOT_UNDERSTAND, Code, Failure
from interop.dicom.filemeta import LONG_VRS
from interop.dicom.walker import private_vr, standard_vr

TAG = re.compile(r"[0-9A-Fa-f]{8}")
MEMBERS = ("Value", "BulkDataURI", "InlineBinary")
NUMBERS = {
    "US": Struct("<H"), "SS": Struct("<h"), "UL": Struct("<I"), "SL": Struct("<i"),
    "UV": Struct("<Q"), "SV": Struct("<q"), "FL": Struct("<f"), "FD": Struct("<d"),
}  # fmt: skip
BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
SEVERAL = frozenset("AE AS CS DA DS DT IS LO PN SH TM UC UI".split())
SINGLE = frozenset(("LT", "ST", "UR", "UT"))
CHARACTER_SET_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
VRS = frozenset(NUMBERS) | BINARY | SEVERAL | SINGLE | {"AT", "SQ"}
# Lengths above need a VR with 32 bits for them: UN then (PS3.5 6.2.2).
SHORT_LENGTH = 0xFFFE


def fitting(vr: str, length: int) -> str:
    """Return the VR that a value of this length is written with."""
    return "UN" if length > SHORT_LENGTH and vr.encode() not in LONG_VRS else vr


def usual_vr(tag: int, creator: str) -> str:
    """Return the VR of an attribute that says none."""
    if not tag >> 16 & 1:
        return standard_vr(tag)
    if 0x10 <= tag & 0xFFFF <= 0xFF:
        return "LO"
    return private_vr(creator, tag).decode("ascii")


def number(tag: int, vr: str, value: object) -> bytes:
    """Return a value of a binary number VR; numbers may come as strings (F.2.3)."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value) if vr in ("FL", "FD") else int(value)
            return NUMBERS[vr].pack(number)
        except (ValueError, OverflowError, StructError):
            pass
    raise refusal(
        CANNOT_UNDERSTAND, tag, f"has the value {str(value)[:40]!r}, no number of vr {vr}"
    )


def tag_value(tag: int, value: object) -> bytes:
    """Return a value of VR AT."""
    if not isinstance(value, str) or not TAG.fullmatch(value):
        raise refusal(
            CANNOT_UNDERSTAND, tag, f"has the value {str(value)[:40]!r}; 8 hexadecimal digits"
        )
    return pack("<HH", int(value[:4], 16), int(value[4:], 16))


def text(tag: int, vr: str, value: object) -> str:
    """Return a value of a text VR, DS, IS and PN among them; null is the empty value."""
    if value is None:
        return ""
    if vr == "PN" and isinstance(value, dict):
        unknown = set(value) - set(GROUPS)
        groups = [value.get(group) or "" for group in GROUPS]
        if not unknown and all(isinstance(group, str) for group in groups):
            return "=".join(groups).rstrip("=")
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    expected = f"an object of {', '.join(GROUPS)}" if vr == "PN" else "a string"
    raise refusal(CANNOT_UNDERSTAND, tag, f"has a value of vr {vr} that is not {expected}")


def inline(tag: int, content: object) -> bytes:
    """Return the octets of an InlineBinary."""
    try:
        if isinstance(content, str):
            return b64decode("".join(content.split()), validate=True)
    except ValueError:
        pass  # of base64, or of characters that it has not
    raise refusal(CANNOT_UNDERSTAND, tag, "has an InlineBinary that is not base64")


def require_members(tag: int, attribute: object) -> None:
    """Raise Failure unless the attribute is an object of the members that F.2.2 names."""
    if not isinstance(attribute, dict):
        raise refusal(CANNOT_UNDERSTAND, tag, "is not an object with vr and Value")
    unknown = [name for name in attribute if name not in MEMBERS and name != "vr"]
    if unknown:
        raise refusal(
            CANNOT_UNDERSTAND,
            tag,
            f"has a member {str(unknown[0])[:40]!r}; accepted: vr, {', '.join(MEMBERS)}",
        )
    if sum(1 for name in MEMBERS if attribute.get(name)) > 1:
        raise refusal(CANNOT_UNDERSTAND, tag, f"has more than one of {', '.join(MEMBERS)}")


def first_text(attribute: object) -> str:
    """Return the first value if it is text, else nothing."""
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    return first.strip() if isinstance(first, str) else ""


def named(tag: int) -> str:
    """Return the tag as people write it."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def refusal(code: Code, tag: int, what: str) -> Failure:
    """Return the failure of an instance for one attribute."""
    return Failure.of(code, f"{named(tag)} {what}.")
