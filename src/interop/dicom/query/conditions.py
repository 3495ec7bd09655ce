"""What the value of a matching key means (PS3.4 C.2.2.2, PS3.18 8.3.4.1).

Pure: what a value means is decided here, what SQL it becomes in `matching.py`. A value that cannot
be understood is refused with what would be accepted; it is never matched literally in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from interop.dicom.names import matching_key
from interop.dicom.query.attributes import (
    BY_PATH,
    MOMENTS,
    Attribute,
    Kind,
    Level,
    attribute_of,
    name_of,
)
from interop.dicom.query.values import date_range, datetime_range, number_text, time_range
from interop.errors import BadRequest, TooCostly, UnsupportedParameter

MAX_VALUES = 1_000
MAX_VALUE_LENGTH = 1_024
MAX_INTEGER = 2**31 - 1
EMPTY = '""'
_UID = re.compile(r"[0-9.]{1,64}")
_INTEGER = re.compile(r"[+-]?\d{1,12}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
BETWEEN_WORDS = re.compile(r"[\^= .,'-]+")
_MANY_VALUED = (Kind.TEXT, Kind.CODE, Kind.CODE_ARRAY, Kind.NAME)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Equal to one of `values`."""

    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Having each of `values` (PS3.4 C.2.2.2.8)."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wildcard:
    """Like `pattern`, where * is any text and ? any one character."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Between:
    """From `low` to `high`, both included, each at the precision that it is written in."""

    low: str
    high: str
    # Whether it was written as one value: PS3.4 C.2.2.2.1, and no range.
    is_single: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Empty:
    """Without a value (PS3.4 C.2.2.2.7)."""


@dataclass(frozen=True, slots=True)
class Words:
    """A name in which each of `words` begins a word, or sounds like one."""

    words: tuple[str, ...]


Matcher = AnyOf | AllOf | Wildcard | Between | Empty | Words


@dataclass(frozen=True, slots=True)
class Condition:
    """One attribute that results must match."""

    attribute: Attribute
    matcher: Matcher


@dataclass(frozen=True, slots=True)
class Moment:
    """A date and a time that are compared as one, in the zone of the query (PS3.4 C.2.2.2.5).

    `date` and `time` are the ranges asked; one may be open. Where `offset`, minutes east of UTC, is
    given, what is stored is seen in that zone if it says its own, which `zone_json` holds.
    """

    date_attribute: Attribute
    time_attribute: Attribute
    date: Between | None
    time: Between | None
    zone_json: str
    offset: int | None = None


Test = Condition | Moment


@dataclass(frozen=True, slots=True)
class Rules:
    """The ways of matching that a caller asks for, or has negotiated (PS3.4 C.5.1.1)."""

    fuzzy: bool = False
    empty_values: bool = False
    multiple_values: bool = False
    # Minutes east of UTC of the dates and times that are asked for.
    offset: int | None = None


PLAIN = Rules()
Tags = Mapping[tuple[str, ...], Attribute]
NO_TAGS: Tags = {}


def condition_of(
    level: Level,
    path: tuple[str, ...],
    value: str,
    rules: Rules = PLAIN,
    tags: Tags = NO_TAGS,
) -> Condition | None:
    """The condition of one key at `level`; None when its value matches anything.

    `tags` are the tenant's extended query tags that are ready. Raises BadRequest, TooCostly, and
    UnsupportedParameter for what cannot be matched.
    """
    if _CONTROL.search(value):
        raise BadRequest(f"{name_of(path)}: control characters are not allowed in a value")
    value = value.strip(" ")
    if value in ("", "*") or (value == EMPTY and not rules.empty_values):
        return None
    attribute = tags.get(path) or attribute_of(path)
    if attribute is None:
        candidates = (*BY_PATH.values(), *tags.values())
        known = ", ".join(one.keyword for one in candidates if one.level <= level)
        raise UnsupportedParameter(
            f"{name_of(path)} cannot be matched here; these can: {known}. An administrator can add"
            " others as query tags"
        )
    if attribute.level > level:
        instead = "; use ModalitiesInStudy" if attribute.keyword == "Modality" else ""
        raise UnsupportedParameter(
            f"{attribute.keyword} is an attribute of {attribute.level.resource} and cannot be "
            f"matched in a search for {level.resource}{instead}"
        )
    return Condition(attribute, _matcher(attribute, value, rules))


def _matcher(attribute: Attribute, value: str, rules: Rules) -> Matcher:
    keyword, kind = attribute.keyword, attribute.kind
    if value == EMPTY:
        return Empty()
    if kind in (Kind.UID, Kind.UID_ARRAY):
        return AnyOf(_values(keyword, value, _UID, "UIDs of digits and dots, separated by commas"))
    if len(value) > MAX_VALUE_LENGTH:
        raise BadRequest(f"{keyword}: a value has at most {MAX_VALUE_LENGTH} characters")
    match kind:
        case Kind.INTEGER | Kind.NUMBER:
            return _numbers(attribute, value)
        case Kind.DATE:
            return Between(*date_range(keyword, value), "-" not in value)
        case Kind.TIME:
            return Between(*time_range(keyword, value), "-" not in value)
        case Kind.DATETIME:
            return Between(*datetime_range(keyword, value, rules.offset))
    if rules.multiple_values and kind in _MANY_VALUED:
        several = _several(attribute, value)
        if len(several) > 1:
            return AllOf(several)
    if rules.fuzzy and attribute.has_words:
        words = words_of(value)
        if words:
            return Words(words)
    return _text(attribute, value)


def _text(attribute: Attribute, value: str) -> Matcher:
    kind = attribute.kind
    if kind is Kind.NAME:
        value = matching_key(value)
    if "*" in value or "?" in value:
        return Wildcard(re.sub(r"\*+", "*", value))
    if kind in (Kind.CODE, Kind.CODE_ARRAY, Kind.AVAILABILITY):
        return AnyOf(tuple(part.strip() for part in re.split(r"[,\\]", value) if part.strip()))
    return AnyOf((value,))


def _several(attribute: Attribute, value: str) -> tuple[str, ...]:
    """The values of a key that asks for all of them; a comma divides those that cannot have one."""
    is_code = attribute.kind in (Kind.CODE, Kind.CODE_ARRAY)
    parts = [part.strip() for part in re.split(r"[,\\]" if is_code else r"\\", value)]
    if attribute.kind is Kind.NAME:
        parts = [matching_key(part) for part in parts]
    values = tuple(dict.fromkeys(part for part in parts if part))
    if len(values) > 1 and any("*" in one or "?" in one for one in values):
        raise BadRequest(
            f"{attribute.keyword}: several values that must all match have no wildcards"
        )
    if len(values) > MAX_VALUES:
        raise TooCostly(f"{attribute.keyword}: at most {MAX_VALUES} values")
    return values


def words_of(value: str) -> tuple[str, ...]:
    """The words of a name, for fuzzy matching; none where a wildcard stands within a word."""
    words = [word for word in BETWEEN_WORDS.split(matching_key(value)) if word.strip("*")]
    plain = [word.rstrip("*") for word in words]
    if any("*" in word or "?" in word for word in plain):
        return ()
    return tuple(dict.fromkeys(plain))


def _numbers(attribute: Attribute, value: str) -> AnyOf:
    keyword = attribute.keyword
    if attribute.kind is Kind.NUMBER:
        numbers = _values(keyword, value, _NUMBER, "a number")
        return AnyOf(tuple(number_text(number) for number in numbers))
    whole = [int(number) for number in _values(keyword, value, _INTEGER, "a whole number")]
    if attribute.tag_id is not None or attribute.in_json:
        return AnyOf(tuple(str(number) for number in whole))
    if any(abs(number) > MAX_INTEGER for number in whole):
        raise BadRequest(f"{keyword}: numbers up to {MAX_INTEGER} are understood")
    return AnyOf(tuple(whole))


def _values(keyword: str, value: str, form: re.Pattern[str], expected: str) -> tuple[str, ...]:
    values = tuple(part.strip() for part in re.split(r"[,\\]", value))
    if len(values) > MAX_VALUES:
        raise TooCostly(f"{keyword}: at most {MAX_VALUES} values")
    for one in values:
        if not form.fullmatch(one):
            raise BadRequest(f"{keyword}={one[:80]!r} is not valid; expected {expected}")
    return values


def tests_of(
    conditions: Iterable[Condition], rules: Rules = PLAIN, *, combined: bool = True
) -> tuple[Test, ...]:
    """The conditions as they are tested: ranges of a date and its time as one (`combined`), and
    dates and times in the zone of the query where it names one.
    """
    tests: dict[str, Test] = {test.attribute.keyword: test for test in conditions}
    for date_keyword, time_keyword, zone_json in MOMENTS:
        date, time = tests.get(date_keyword), tests.get(time_keyword)
        is_one = combined and _are_one_range(date, time)
        if not is_one and rules.offset is None:
            continue
        attributes = _named(date_keyword), _named(time_keyword)
        days, times = _range_of(date), _range_of(time)
        if is_one:
            del tests[time_keyword]
            tests[date_keyword] = Moment(*attributes, days, times, zone_json, rules.offset)
            continue
        if days is not None:
            tests[date_keyword] = Moment(*attributes, days, None, zone_json, rules.offset)
        if times is not None:
            tests[time_keyword] = Moment(*attributes, None, times, zone_json, rules.offset)
    return tuple(tests.values())


def _named(keyword: str) -> Attribute:
    return next(a for a in BY_PATH.values() if a.keyword == keyword)


def _range_of(test: Test | None) -> Between | None:
    if isinstance(test, Condition) and isinstance(test.matcher, Between):
        return test.matcher
    return None


def _are_one_range(date: Test | None, time: Test | None) -> bool:
    """Whether both are ranges of the same form (PS3.4 C.2.2.2.5.4)."""
    days, times = _range_of(date), _range_of(time)
    if days is None or times is None or days.is_single or times.is_single:
        return False
    return (not days.low, not days.high) == (not times.low, not times.high)
