"""R4 primitive values beyond what the JSON Schema can say (datatypes.html#primitive).

Hand-written: the specification's own pattern for base64Binary takes exponential time (M10).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from interop.fhir.search.values import date_interval

MAX_STRING_CHARACTERS = 1024 * 1024
INT32 = 2**31

_WHITE_SPACE = re.compile(r"\s+")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_CODE = re.compile(r"[^\s]+(?:\s[^\s]+)*")
_URI_SPACE = re.compile(r"\s")


def _base64(value: Any) -> str | None:
    if not isinstance(value, str):
        return "base64 text"
    packed = _WHITE_SPACE.sub("", value)
    if not packed or len(packed) % 4 or not _BASE64.fullmatch(packed):
        return "base64 in groups of four characters, padded with ="
    return None


def _whole(minimum: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            return None  # the schema says so
        if not isinstance(value, int) or not minimum <= value < INT32:
            return f"a whole number from {minimum} to {INT32 - 1}"
        return None

    return check


def _calendar(value: Any) -> str | None:
    try:
        date_interval(value)
    except (TypeError, ValueError):
        return "a date that exists, with a time zone when it has a time"
    return None


def _string(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    if len(value) > MAX_STRING_CHARACTERS:
        return f"at most {MAX_STRING_CHARACTERS} characters"
    return None if value.strip() else "text that is not only white space"


def _code(value: Any) -> str | None:
    if isinstance(value, str) and not _CODE.fullmatch(value):
        return "a code without spaces at its ends or two in a row"
    return None


def _uri(value: Any) -> str | None:
    if isinstance(value, str) and (not value or _URI_SPACE.search(value)):
        return "a URI without white space"
    return None


# Type -> what a value must be, or None when the schema's word is enough.
PRIMITIVE_RULES: dict[str, Callable[[Any], str | None]] = {
    "base64Binary": _base64,
    "integer": _whole(-INT32),
    "unsignedInt": _whole(0),
    "positiveInt": _whole(1),
    "date": _calendar,
    "dateTime": _calendar,
    "instant": _calendar,
    "string": _string,
    "markdown": _string,
    "code": _code,
    "uri": _uri,
    "url": _uri,
    "canonical": _uri,
}
