"""Reading a QIDO-RS query string into conditions (PS3.18 8.3.4, PS3.4 C.2.2.2).

Pure: what a value means is decided here, what SQL it becomes in `matching.py`. A value that cannot
be understood is refused with what would be accepted; it is never matched literally in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from interop.dicom.names import matching_key
from interop.dicomweb.attributes import (
    BY_PATH,
    Attribute,
    Kind,
    Level,
    name_of,
    path_of,
)
from interop.errors import BadRequest, TooCostly, UnsupportedParameter

MAX_LIMIT = {Level.STUDY: 1_000, Level.SERIES: 5_000, Level.INSTANCE: 5_000}
MAX_OFFSET = 10_000_000
MAX_VALUES = 1_000
MAX_VALUE_LENGTH = 1_024
MAX_INTEGER = 2**31 - 1
FUZZY_WARNING = (
    "The fuzzymatching parameter is not supported. Only literal matching has been performed."
)
_UID = re.compile(r"[0-9.]{1,64}")
_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?")
_INTEGER = re.compile(r"[+-]?\d{1,12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Equal to one of `values`."""

    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wildcard:
    """Like `pattern`, where * is any text and ? any one character."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Between:
    """From `low` to `high`, both included, each at the precision that it is written in."""

    low: str
    high: str


Matcher = AnyOf | Wildcard | Between


@dataclass(frozen=True, slots=True)
class Condition:
    """One attribute that results must match."""

    attribute: Attribute
    matcher: Matcher


@dataclass(frozen=True, slots=True)
class Query:
    """A QIDO-RS search, understood."""

    level: Level
    conditions: tuple[Condition, ...] = ()
    include: frozenset[str] = frozenset()
    include_all: bool = False
    limit: int = 0
    offset: int = 0
    warnings: tuple[str, ...] = field(default=())


@dataclass(slots=True)
class _Draft:
    """A query while its parameters are read."""

    level: Level
    limit: int
    offset: int = 0
    include_all: bool = False
    include: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    conditions: dict[tuple[str, ...], Condition | None] = field(default_factory=dict)


def parse_query(level: Level, parameters: Iterable[tuple[str, str]]) -> Query:
    """Read the parameters of a search at `level`. Raises BadRequest."""
    draft = _Draft(level, MAX_LIMIT[level])
    for name, value in parameters:
        if not _read_option(draft, name, value):
            _read_key(draft, name, value)
    return Query(
        level,
        tuple(condition for condition in draft.conditions.values() if condition is not None),
        frozenset(draft.include),
        draft.include_all,
        draft.limit,
        draft.offset,
        tuple(draft.warnings),
    )


def _read_option(draft: _Draft, name: str, value: str) -> bool:
    """Read a parameter that is not an attribute; False when it is one."""
    match name:
        case "accept" | "charset" | "multiplevaluematching":
            pass
        case "limit":
            draft.limit = _count(name, value)
            most = MAX_LIMIT[draft.level]
            if draft.limit > most:
                draft.limit = most
                draft.warnings.append(f"limit was reduced to {most}, the most that is served")
        case "offset":
            draft.offset = _count(name, value)
        case "fuzzymatching":
            if _claim(name, value):
                draft.warnings.append(FUZZY_WARNING)
        case "emptyvaluematching":
            if _claim(name, value):
                raise UnsupportedParameter(
                    "emptyvaluematching=true is not supported; an empty value matches anything"
                )
        case "includefield":
            draft.include_all |= _include(value, draft.include)
        case _:
            return False
    return True


def _read_key(draft: _Draft, name: str, value: str) -> None:
    path = path_of(name)
    if path in draft.conditions:
        raise BadRequest(f"{name_of(path)} is given twice; give one value or a list")
    draft.conditions[path] = _condition(draft.level, path, value)
    # What is asked for is also returned (PS3.18 10.6.3.3).
    draft.include.add(path[0])


def _count(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise BadRequest(f"{name}={value[:40]!r} must be a whole number, 0 or more")
    number = int(value)
    if name == "offset" and number > MAX_OFFSET:
        raise TooCostly(f"offset must not be above {MAX_OFFSET}; narrow the query instead")
    return number


def _claim(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise BadRequest(f"{name}={value[:40]!r} must be true or false")
    return value.lower() == "true"


def _include(value: str, include: set[str]) -> bool:
    """Add the attributes of one includefield; True when it is `all`."""
    if value == "all":
        return True
    for name in filter(None, (part.strip() for part in value.split(","))):
        if name == "all":
            return True
        try:
            include.add(path_of(name)[0])
        except BadRequest as error:
            raise BadRequest(
                f"includefield={name[:80]!r} is not known; expected an attribute keyword such as "
                "StudyDescription, its tag such as 00081030, or all"
            ) from error
    return False


def _condition(level: Level, path: tuple[str, ...], value: str) -> Condition | None:
    """The condition of one key; None when its value matches anything."""
    if _CONTROL.search(value):
        raise BadRequest(f"{name_of(path)}: control characters are not allowed in a value")
    value = value.strip(" ")
    if value in ("", "*", '""'):
        return None
    attribute = BY_PATH.get(path)
    if attribute is None:
        known = ", ".join(a.keyword for a in BY_PATH.values() if a.level <= level)
        raise UnsupportedParameter(f"{name_of(path)} cannot be matched here; these can: {known}")
    if attribute.level > level:
        instead = "; use ModalitiesInStudy" if attribute.keyword == "Modality" else ""
        raise UnsupportedParameter(
            f"{attribute.keyword} is an attribute of {attribute.level.resource} and cannot be "
            f"matched in a search for {level.resource}{instead}"
        )
    return Condition(attribute, _matcher(attribute, value))


def _matcher(attribute: Attribute, value: str) -> Matcher:
    keyword, kind = attribute.keyword, attribute.kind
    if kind in (Kind.UID, Kind.UID_ARRAY):
        return AnyOf(_values(keyword, value, _UID, "UIDs of digits and dots, separated by commas"))
    if len(value) > MAX_VALUE_LENGTH:
        raise BadRequest(f"{keyword}: a value has at most {MAX_VALUE_LENGTH} characters")
    if kind is Kind.INTEGER:
        numbers = _values(keyword, value, _INTEGER, "a whole number")
        if any(abs(int(number)) > MAX_INTEGER for number in numbers):
            raise BadRequest(f"{keyword}: numbers up to {MAX_INTEGER} are understood")
        return AnyOf(tuple(int(number) for number in numbers))
    if kind is Kind.DATE:
        return _range(keyword, value, _DATE, "YYYYMMDD, or a range such as 20260101-20261231")
    if kind is Kind.TIME:
        return _range(keyword, value, _TIME, "HHMMSS.FFFFFF or its beginning, or a range of such")
    if kind is Kind.NAME:
        value = matching_key(value)
    if "*" in value or "?" in value:
        return Wildcard(re.sub(r"\*+", "*", value))
    if kind in (Kind.CODE, Kind.CODE_ARRAY):
        return AnyOf(tuple(part.strip() for part in re.split(r"[,\\]", value) if part.strip()))
    return AnyOf((value,))


def _values(keyword: str, value: str, form: re.Pattern[str], expected: str) -> tuple[str, ...]:
    values = tuple(part.strip() for part in re.split(r"[,\\]", value))
    if len(values) > MAX_VALUES:
        raise TooCostly(f"{keyword}: at most {MAX_VALUES} values")
    for one in values:
        if not form.fullmatch(one):
            raise BadRequest(f"{keyword}={one[:80]!r} is not valid; expected {expected}")
    return values


def _range(keyword: str, value: str, form: re.Pattern[str], expected: str) -> Between:
    low, dash, high = value.partition("-")
    low, high = low.strip(), high.strip()
    bounds = [low, high] if dash else [low]
    if not any(bounds) or not all(form.fullmatch(b) for b in bounds if b):
        raise BadRequest(f"{keyword}={value[:80]!r} is not valid; expected {expected}")
    if form is _DATE:
        for bound in filter(None, bounds):
            _require_calendar_date(keyword, bound, expected)
    return Between(low, high if dash else low)


def _require_calendar_date(keyword: str, value: str, expected: str) -> None:
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        raise BadRequest(
            f"{keyword}={value!r} is not a date of the calendar; expected {expected}"
        ) from None
