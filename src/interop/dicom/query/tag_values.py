"""What an object says for an extended query tag: pure, from its DICOM JSON.

Values are kept in the form in which they are compared: names without case and accents, moments as
UTC, numbers as one text. What breaks its VR is not indexed; the object is listed with the reason.
"""

from __future__ import annotations

import re
import struct
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from interop.dicom.names import matching_key
from interop.dicom.query.attributes import KIND_OF_VR, Kind
from interop.dicom.query.values import (
    in_utc,
    is_calendar_date,
    is_moment,
    is_time,
    number_text,
    offset_of,
)
from interop.dicom.received import column

Json = dict[str, Any]
# A row of an index holds 2,700 bytes; a character has up to four.
LONGEST_VALUE = 512
MOST_VALUES = 100
_TIMEZONE = 0x00080201
_UID = re.compile(r"[0-9.]{1,64}")
_BINARY = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q"}


class NotIndexed(ValueError):
    """A value that cannot be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class QueryTag:
    """An attribute that a tenant has made searchable."""

    id: UUID
    path: tuple[str, ...]
    private_creator: str | None
    vr: str

    @property
    def is_private(self) -> bool:
        return int(self.path[0][:4], 16) % 2 == 1

    def top_level(self, tag: int) -> bool:
        """Whether an attribute of an object is needed to find the values."""
        if tag == _TIMEZONE:
            return True
        first = int(self.path[0], 16)
        # Where the creator's block is shows only among the tags of the group.
        return tag >> 16 == first >> 16 if self.is_private else tag == first


def tags_of(found: Iterable[Mapping[str, Any]] | None) -> tuple[QueryTag, ...]:
    """The tags as `ingest_read` returns them."""
    return tuple(
        QueryTag(UUID(one["id"]), tuple(one["path"].split(".")), one["private_creator"], one["vr"])
        for one in found or ()
    )


def needed(tags: Iterable[QueryTag], members: Mapping[int, str]) -> Json:
    """The attributes of an object that any of the tags needs, of its JSON members."""
    wanted = list(tags)
    found = [text for tag, text in members.items() if any(one.top_level(tag) for one in wanted)]
    whole: Json = orjson.loads(column(f"{{{','.join(found)}}}"))
    return whole


def values_of(tag: QueryTag, data_set: Json) -> tuple[str, ...]:
    """All values that the data set has for the tag, each once. Raises NotIndexed."""
    kind = KIND_OF_VR[tag.vr]
    stated = data_set.get(f"{_TIMEZONE:08X}", {}).get("Value") or [""]
    offset = offset_of(str(stated[0]))
    found: dict[str, None] = {}
    for attribute in _attributes(tag, data_set, tag.path):
        for value in _raw(tag, attribute):
            text = _text(kind, value, offset)
            if len(text) > LONGEST_VALUE:
                raise NotIndexed(f"a value is longer than {LONGEST_VALUE} characters")
            if text:
                found[text] = None
    if len(found) > MOST_VALUES:
        raise NotIndexed(f"there are more than {MOST_VALUES} values")
    return tuple(found)


def _attributes(tag: QueryTag, data_set: Json, path: tuple[str, ...]) -> Iterator[Json]:
    attribute = data_set.get(_located(tag, data_set, path[0]) or "")
    if attribute is None:
        return
    if len(path) == 1:
        yield attribute
        return
    for item in attribute.get("Value", ()):
        if isinstance(item, dict):
            yield from _attributes(tag, item, path[1:])


def _located(tag: QueryTag, data_set: Json, step: str) -> str | None:
    """The tag of a step in this data set: a private one is in the block of its creator."""
    if int(step[:4], 16) % 2 == 0:
        return step
    group, element = step[:4], step[6:]
    for block in range(0x10, 0x100):
        creator = data_set.get(f"{group}00{block:02X}", {}).get("Value")
        if creator and str(creator[0]).strip() == tag.private_creator:
            return f"{group}{block:02X}{element}"
    return None


def _raw(tag: QueryTag, attribute: Json) -> list[Any]:
    if "BulkDataURI" in attribute:
        raise NotIndexed("the value is so large that it is kept as bulk data")
    inline = attribute.get("InlineBinary")
    if inline is None:
        return list(attribute.get("Value", ()))
    # A private attribute of a transfer syntax without VRs: the registration says what it is.
    data = b64decode(inline)
    form = _BINARY.get(tag.vr)
    if form is None:
        try:
            return data.decode("utf-8").strip("\0 ").split("\\")
        except UnicodeDecodeError:
            return data.decode("latin-1").strip("\0 ").split("\\")
    size = struct.calcsize(f"<{form}")
    if len(data) % size:
        raise NotIndexed(f"{len(data)} bytes are no values of VR {tag.vr}")
    return list(struct.unpack(f"<{len(data) // size}{form}", data))


def _text(kind: Kind, value: Any, offset: int | None) -> str:
    if value is None:
        return ""
    if kind is Kind.NAME:
        return matching_key(_name(value))
    if isinstance(value, dict | list):
        raise NotIndexed("the value is a sequence")
    text = column(str(value)).strip()
    if not text:
        return ""
    if not _is_valid(kind, text):
        raise NotIndexed(f"the value is not valid for matching as {kind}")
    match kind:
        case Kind.DATETIME:
            return in_utc(text, offset)
        case Kind.INTEGER:
            return str(int(float(text)))
        case Kind.NUMBER:
            return number_text(text)
    return text


def _name(value: Any) -> str:
    if isinstance(value, dict):
        groups = [str(value.get(g, "")) for g in ("Alphabetic", "Ideographic", "Phonetic")]
        return column("=".join(groups).rstrip("="))
    return column(str(value))


def _is_valid(kind: Kind, text: str) -> bool:
    match kind:
        case Kind.UID:
            return _UID.fullmatch(text) is not None
        case Kind.DATE:
            return len(text) == 8 and text.isdigit() and is_calendar_date(text)
        case Kind.TIME:
            return is_time(text)
        case Kind.DATETIME:
            return is_moment(text)
        case Kind.INTEGER | Kind.NUMBER:
            try:
                number_text(text)
            except (ValueError, OverflowError):
                return False
            return kind is Kind.NUMBER or float(text).is_integer()
    return True
