"""The identifier of a C-FIND request: what has to match, what is returned (PS3.4 C.4.1, C.6).

Pure but for the tenant's query tags, which are read where a key needs them. A unique key that is
missing or a value that cannot be understood is refused with the element that is wrong; a key that
cannot be matched here is an optional one, and the answers say that it was not (FF01).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from struct import error as StructError
from typing import Any, Final

import orjson

from interop.dicom.failures import Failure
from interop.dicom.limits import Limits
from interop.dicom.query.attributes import MAX_PATH, Level, attribute_of, tag_of
from interop.dicom.query.conditions import (
    EMPTY,
    NO_TAGS,
    Condition,
    Rules,
    Tags,
    Test,
    condition_of,
    tests_of,
)
from interop.dicom.query.values import offset_of
from interop.dicom.walker import SPECIFIC_CHARACTER_SET, Walk
from interop.dimse.identifier_encoding import Encoding, text_of
from interop.errors import BadRequest, TooCostly, UnsupportedParameter

PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"

# PS3.4 Table C.4-1.
OUT_OF_RESOURCES: Final = 0xA700
IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
UNABLE_TO_PROCESS: Final = 0xC000

QUERY_RETRIEVE_LEVEL: Final = tag_of("QueryRetrieveLevel")
RETRIEVE_AE_TITLE: Final = tag_of("RetrieveAETitle")
TIMEZONE_OFFSET_FROM_UTC: Final = tag_of("TimezoneOffsetFromUTC")
CHARACTER_SET: Final = f"{SPECIFIC_CHARACTER_SET:08X}"
# What says how to search and is never matched itself.
_CONTROLS: Final = (QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, CHARACTER_SET)

_LEVELS: Final = {
    "PATIENT": Level.PATIENT,
    "STUDY": Level.STUDY,
    "SERIES": Level.SERIES,
    "IMAGE": Level.INSTANCE,
}
LEVEL_NAMES: Final = {level: name for name, level in _LEVELS.items()}
_UNIQUE_KEYS: Final = {
    Level.PATIENT: tag_of("PatientID"),
    Level.STUDY: tag_of("StudyInstanceUID"),
    Level.SERIES: tag_of("SeriesInstanceUID"),
}
# Some values of 16 characters (PS3.3 C.12.1.1.2); nobody has a set with a longer name.
_LONGEST_CHARACTER_SET: Final = 256
# An identifier is some dozen keys; one that is more is no query of anybody's.
_LIMITS: Final = Limits(
    object_bytes=1 << 20, depth=8, elements=1_000, items=100, fragments=1, header_bytes=1 << 20
)


class Refused(Exception):
    """The request cannot be served: its final status, and the elements that are wrong."""

    def __init__(self, status: int, comment: str, *offending: str) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment
        self.offending = offending


@dataclass(frozen=True, slots=True)
class Extended:
    """What was negotiated for a FIND SOP class (PS3.4 C.5.1.1, Table C.5-2)."""

    is_relational: bool = False
    combines_date_and_time: bool = False
    is_fuzzy: bool = False
    adjusts_timezone: bool = False
    matches_empty: bool = False
    matches_multiple: bool = False

    @classmethod
    def of(cls, answered: bytes) -> Extended:
        given = [value == 1 for value in answered.ljust(7, b"\0")]
        return cls(given[0], given[1], given[2], given[3], given[5], given[6])


def answer_extended(asked: bytes) -> bytes:
    """The answer to extended negotiation: all but the conversion of enhanced multi-frame images."""
    served = (1, 1, 1, 1, 0, 1, 1)
    return bytes(
        value & can if value in (0, 1) else 0 for value, can in zip(asked, served, strict=False)
    )


@dataclass(frozen=True, slots=True)
class Find:
    """A C-FIND request, understood. `keys` are the tags to return with the VRs of the request."""

    level: Level
    tests: tuple[Test, ...]
    keys: Mapping[str, str]
    matched: tuple[str, ...] = ()
    character_set: str | None = None
    # Keys that are not matched, where values were given.
    unmatched: frozenset[str] = field(default=frozenset())

    @property
    def level_name(self) -> str:
        return LEVEL_NAMES[self.level]


def read_find(
    data_set: bytes,
    transfer_syntax_uid: str,
    sop_class_uid: str,
    extended: Extended,
    ready_tags: Callable[[], Tags],
) -> Find:
    """Read an identifier; `ready_tags` is asked for the tenant's query tags. Raises Refused."""
    keys, character_set = _decoded(data_set, transfer_syntax_uid)
    level = _level(keys, sop_class_uid)
    if not extended.is_relational:
        _require_unique_keys(keys, level, sop_class_uid)
    rules = Rules(
        extended.is_fuzzy,
        extended.matches_empty,
        extended.matches_multiple,
        _offset(keys, extended),
    )
    conditions: list[Condition] = []
    matched: list[str] = []
    unmatched: set[str] = set()
    tags: Tags | None = None
    for path, value in _values(keys, is_zoned=rules.offset is not None):
        if tags is None and attribute_of(path) is None:
            tags = ready_tags()
        try:
            condition = condition_of(level, path, value, rules, tags or NO_TAGS)
        except UnsupportedParameter:
            unmatched.add(path[0])
            continue
        except TooCostly as error:
            raise Refused(OUT_OF_RESOURCES, error.diagnostics, path[0]) from None
        except BadRequest as error:
            raise Refused(UNABLE_TO_PROCESS, error.diagnostics, path[0]) from None
        if condition is not None:
            conditions.append(condition)
            matched.append(condition.attribute.keyword)
    return Find(
        level,
        tests_of(conditions, rules, combined=extended.combines_date_and_time),
        {tag: key["vr"] for tag, key in keys.items() if not _is_group_length(tag)},
        tuple(matched),
        character_set,
        frozenset(unmatched),
    )


def _decoded(data_set: bytes, transfer_syntax_uid: str) -> tuple[dict[str, Any], str | None]:
    """The identifier as DICOM JSON by tag, and the character set that it is written in."""
    encoding = Encoding.of(transfer_syntax_uid)
    walk = Walk(
        data_set,
        len(data_set),
        _LIMITS,
        implicit=encoding.is_implicit,
        big_endian=encoding.is_big_endian,
    )
    try:
        keys: dict[str, Any] = orjson.loads(walk.run(0))
    except Failure as failure:
        raise Refused(
            UNABLE_TO_PROCESS, f"the identifier cannot be read: {failure.message}"
        ) from None
    except (StructError, orjson.JSONDecodeError):
        raise Refused(UNABLE_TO_PROCESS, "the identifier cannot be read") from None
    # In the JSON it is always UTF-8.
    found = walk.top.get(SPECIFIC_CHARACTER_SET)
    raw = data_set[found[1] : found[1] + found[2]].strip(b"\0 ") if found else b""
    is_readable = raw.isascii() and 0 < len(raw) <= _LONGEST_CHARACTER_SET
    return keys, raw.decode("ascii") if is_readable else None


def _is_group_length(tag: str) -> bool:
    return tag.endswith("0000")


def _level(keys: dict[str, Any], sop_class_uid: str) -> Level:
    found = _text(keys.get(QUERY_RETRIEVE_LEVEL, {}))
    level = _LEVELS.get(found)
    if level is None or (level is Level.PATIENT and sop_class_uid != PATIENT_ROOT_FIND):
        allowed = ", ".join(_LEVELS if sop_class_uid == PATIENT_ROOT_FIND else list(_LEVELS)[1:])
        raise Refused(
            IDENTIFIER_DOES_NOT_MATCH,
            f"Query/Retrieve Level must be one of {allowed}",
            QUERY_RETRIEVE_LEVEL,
        )
    return level


def _require_unique_keys(keys: dict[str, Any], level: Level, sop_class_uid: str) -> None:
    """PS3.4 C.4.1.2.2.1: a single value of the unique key of each level above."""
    top = Level.PATIENT if sop_class_uid == PATIENT_ROOT_FIND else Level.STUDY
    wrong = [
        tag
        for above, tag in _UNIQUE_KEYS.items()
        if top <= above < level and not _is_single(_text(keys.get(tag, {})))
    ]
    if wrong:
        raise Refused(
            IDENTIFIER_DOES_NOT_MATCH,
            "unique keys of the levels above need a single value",
            *wrong,
        )


def _is_single(value: str) -> bool:
    return value not in ("", EMPTY) and not any(character in value for character in "*?\\")


def _offset(keys: dict[str, Any], extended: Extended) -> int | None:
    if not extended.adjusts_timezone or TIMEZONE_OFFSET_FROM_UTC not in keys:
        return None
    text = _text(keys[TIMEZONE_OFFSET_FROM_UTC])
    offset = offset_of(text)
    if offset is None and text:
        raise Refused(
            UNABLE_TO_PROCESS, "Timezone Offset From UTC must be &ZZXX", TIMEZONE_OFFSET_FROM_UTC
        )
    return offset


def _values(keys: dict[str, Any], *, is_zoned: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys that have a value, by their path, and its text."""
    for tag, key in keys.items():
        if tag in _CONTROLS or _is_group_length(tag):
            continue
        if is_zoned and tag == TIMEZONE_OFFSET_FROM_UTC:
            continue
        yield from _values_of((tag,), key)


def _values_of(path: tuple[str, ...], key: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    if key["vr"] != "SQ":
        value = _text(key, path[0])
        if value:
            yield path, value
        return
    items = key.get("Value", ())
    if len(items) > 1:
        raise Refused(UNABLE_TO_PROCESS, "a sequence is matched by one item", path[0])
    for item in items:
        for tag, inner in item.items():
            if len(path) >= MAX_PATH:
                raise Refused(UNABLE_TO_PROCESS, f"at most {MAX_PATH} levels", path[0])
            yield from _values_of((*path, tag), inner)


def _text(key: Mapping[str, Any], tag: str | None = None) -> str:
    """The text of a key, several values with backslashes between."""
    if "InlineBinary" in key or "BulkDataURI" in key:
        raise Refused(UNABLE_TO_PROCESS, "a value that cannot be matched", *((tag,) if tag else ()))
    return "\\".join(map(text_of, key.get("Value", ()))).strip(" ")
