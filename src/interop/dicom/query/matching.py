"""Conditions as SQL predicates that keep their index under row-level security.

Only equality, ranges on COLLATE "C" text and `= ANY` may use an index there; LIKE may not
(reliability.md M11). So a pattern's fixed beginning becomes a range, which an index serves, and
LIKE only filters what is left, inside the tenant and under the statement's time limit. Words of
names and extended query tags are rows, compared in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interop.dicom.query.attributes import Attribute, Kind, Level, tag_of
from interop.dicom.query.conditions import (
    BETWEEN_WORDS,
    AllOf,
    AnyOf,
    Between,
    Condition,
    Empty,
    Matcher,
    Moment,
    Test,
    Wildcard,
    Words,
)
from interop.dicom.query.values import days_from

# Of a word that is kept (storage/migrations/name_words.sql).
LONGEST_WORD = 64
_LAST_CODE_POINT = "\U0010ffff"
_ROW_OF_LEVEL = {
    Level.STUDY: "q.study_id = s.id",
    Level.SERIES: "q.series_id = e.id",
    Level.INSTANCE: "q.object_id = o.id",
}


class Parameters:
    """The bound values of one statement; each gets a name of ours."""

    def __init__(self, **known: Any) -> None:
        self.values: dict[str, Any] = dict(known)

    def bind(self, value: Any) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f"%({name})s"


def predicates(tests: Iterable[Test], parameters: Parameters) -> list[str]:
    """SQL predicates that all must hold; values only ever as bound parameters."""
    found: list[str] = []
    # Keys below one sequence must match within one of its items (PS3.4 C.2.2.2.6).
    items: dict[tuple[str, ...], list[Condition]] = {}
    for test in tests:
        if isinstance(test, Moment):
            found.append(_moment(test, parameters))
        elif test.attribute.in_json:
            items.setdefault(test.attribute.path[:1], []).append(test)
        else:
            found.append(_predicate(test, parameters))
    found += [_in_json(conditions, parameters) for conditions in items.values()]
    return found


def _predicate(condition: Condition, parameters: Parameters) -> str:
    attribute, matcher = condition.attribute, condition.matcher
    if attribute.tag_id is not None:
        return _in_rows(attribute, matcher, parameters)
    if attribute.kind in (Kind.CODE_ARRAY, Kind.UID_ARRAY):
        return _in_array(attribute.column, matcher, parameters)
    if isinstance(matcher, Words):
        return " AND ".join(_word(attribute, word, parameters) for word in matcher.words)
    if attribute.has_words and isinstance(matcher, AnyOf | Wildcard):
        return _name(attribute, matcher, parameters)
    if isinstance(matcher, Empty) and attribute.kind is Kind.INTEGER:
        return f"{attribute.column} IS NULL"
    return _comparison(attribute.column, matcher, parameters)


def _comparison(column: str, matcher: Matcher, parameters: Parameters) -> str:
    match matcher:
        case AnyOf(values) if len(values) == 1:
            return f"{column} = {parameters.bind(values[0])}"
        case AnyOf(values):
            return f"{column} = ANY({parameters.bind(list(values))})"
        case AllOf(values):
            return " AND ".join(f"{column} = {parameters.bind(value)}" for value in values)
        case Between(low=low, high=high):
            # Below every date and time, above the empty value, which no range matches.
            tests = [f"{column} >= {parameters.bind(low or '0')}"]
            if high:
                tests.append(f"{column} < {parameters.bind(after_prefix(high))}")
            return " AND ".join(tests)
        case Wildcard(pattern):
            return _pattern(column, pattern, parameters)
        case Empty():
            return f"({column} = '' OR {column} IS NULL)"
        case Words():
            raise AssertionError("only columns of names have words")


def _pattern(column: str, pattern: str, parameters: Parameters) -> str:
    prefix = prefix_of(pattern)
    tests = []
    if prefix:
        tests.append(_begins(column, prefix, parameters))
    if pattern != prefix + "*":
        tests.append(f"{column} LIKE {parameters.bind(like(pattern))}")
    return " AND ".join(tests) or f"{column} IS NOT NULL"


def _begins(column: str, prefix: str, parameters: Parameters) -> str:
    low = f"{column} >= {parameters.bind(prefix)}"
    following = after_prefix(prefix)
    if following is None:
        return low
    return f"{low} AND {column} < {parameters.bind(following)}"


def _in_array(column: str, matcher: Matcher, parameters: Parameters) -> str:
    match matcher:
        case AnyOf(values):
            return f"{column} && {parameters.bind(list(values))}::text[]"
        case AllOf(values):
            return f"{column} @> {parameters.bind(list(values))}::text[]"
        case Empty():
            return f"{column} <@ ARRAY['']"
    test = _comparison("one.value", matcher, parameters)
    return f"EXISTS (SELECT FROM unnest({column}) AS one(value) WHERE {test})"


def _name(attribute: Attribute, matcher: AnyOf | Wildcard, parameters: Parameters) -> str:
    """A name, or any of its component groups where the key names none (PS3.5 6.2.1)."""
    column = attribute.column
    pattern = str(matcher.values[0]) if isinstance(matcher, AnyOf) else matcher.pattern
    if "=" in pattern:
        return _comparison(column, matcher, parameters)
    if not pattern.isascii():
        # Of any group: a row of its first word leads there, wherever in the name it stands.
        test = _comparison("one.part", matcher, parameters)
        found = (
            f"EXISTS (SELECT FROM unnest(string_to_array({column}, '=')) AS one(part) WHERE {test})"
        )
        first = BETWEEN_WORDS.split(prefix_of(pattern))[0][:LONGEST_WORD]
        if not first:
            return found
        begins = _begins("w.word", first, parameters)
        return f"{_words_like(attribute, begins, parameters)} AND {found}"
    if isinstance(matcher, AnyOf):
        whole = _comparison(column, matcher, parameters)
        return f"({whole} OR ({_begins(column, pattern + '=', parameters)}))"
    prefix = prefix_of(pattern)
    tests = [_begins(column, prefix, parameters)] if prefix else []
    if pattern != prefix + "*":
        tests.append(f"split_part({column}, '=', 1) LIKE {parameters.bind(like(pattern))}")
    return " AND ".join(tests) or f"{column} IS NOT NULL"


def _words_like(attribute: Attribute, test: str, parameters: Parameters) -> str:
    """Studies with a row of a word of the name that meets a test."""
    return (
        "s.id IN (SELECT w.study_id FROM imaging_name_words AS w"
        " WHERE w.tenant_id = %(tenant_id)s"
        f" AND w.tag = {parameters.bind(tag_of(attribute.keyword))} AND {test})"
    )


def _word(attribute: Attribute, word: str, parameters: Parameters) -> str:
    """A word of the name begins with this one, or sounds like it: two ranges of two indexes."""
    tag = parameters.bind(tag_of(attribute.keyword))
    sound = f"name_sound({parameters.bind(word)})"
    return (
        "s.id IN (SELECT w.study_id FROM imaging_name_words AS w"
        f" WHERE w.tenant_id = %(tenant_id)s AND w.tag = {tag}"
        f" AND {_begins('w.word', word, parameters)} UNION ALL"
        " SELECT w.study_id FROM imaging_name_words AS w"
        f" WHERE w.tenant_id = %(tenant_id)s AND w.tag = {tag} AND w.sound = {sound})"
    )


def _in_rows(attribute: Attribute, matcher: Matcher, parameters: Parameters) -> str:
    """A match on the rows of an extended query tag: any of an object's values."""
    rows = (
        "SELECT FROM dicom_query_tag_values AS q WHERE q.tenant_id = %(tenant_id)s"
        f" AND q.tag_id = {parameters.bind(attribute.tag_id)} AND {_ROW_OF_LEVEL[attribute.level]}"
    )
    if isinstance(matcher, Empty):
        return f"NOT EXISTS ({rows})"
    if isinstance(matcher, AllOf):
        each = [_comparison("q.value", AnyOf((one,)), parameters) for one in matcher.values]
        return " AND ".join(f"EXISTS ({rows} AND {test})" for test in each)
    return f"EXISTS ({rows} AND {_comparison('q.value', matcher, parameters)})"


def _in_json(conditions: list[Condition], parameters: Parameters) -> str:
    """A match within one item of a sequence of the stored JSON: `$."00400275".Value[*]`."""
    attribute = conditions[0].attribute
    tests = [_in_item(condition, parameters) for condition in conditions]
    sequence = parameters.bind(_json_path(attribute.path[:1]))
    wanted = " AND ".join(tests)
    found = f"jsonb_path_query({readable_json(attribute.column)}::jsonb, {sequence}::jsonpath)"
    within = f"EXISTS (SELECT FROM {found} AS item(value) WHERE {wanted})"
    if all(isinstance(condition.matcher, Empty) for condition in conditions):
        # Who has no item has no value either.
        return f"({within} OR NOT EXISTS (SELECT FROM {found} AS item(value)))"
    return within


def _in_item(condition: Condition, parameters: Parameters) -> str:
    path = parameters.bind(_json_path(condition.attribute.path[1:]))
    found = f"SELECT FROM jsonb_path_query(item.value, {path}::jsonpath) AS found(value)"
    text = "(found.value #>> '{}') COLLATE \"C\""
    match condition.matcher:
        case Empty():
            return f"NOT EXISTS ({found} WHERE {text} <> '')"
        case AllOf(values):
            each = [_comparison(text, AnyOf((one,)), parameters) for one in values]
            return " AND ".join(f"EXISTS ({found} WHERE {test})" for test in each)
    return f"EXISTS ({found} WHERE {_comparison(text, condition.matcher, parameters)})"


def _json_path(tags: tuple[str, ...]) -> str:
    return "$" + "".join(f'."{tag}".Value[*]' for tag in tags)


# -- moments --------------------------------------------------------------------------------


def _moment(moment: Moment, parameters: Parameters) -> str:
    if moment.offset is not None:
        return _in_zone(moment, moment.offset, parameters)
    days, times = moment.date, moment.time
    assert days is not None and times is not None
    column = moment.date_attribute.column
    pair = f"({column}, {moment.time_attribute.column})"
    # A comparison of rows, in the order of an index over both.
    tests = [f"{column} >= {parameters.bind(days.low or '0')}"]
    if days.low:
        tests.append(f"{pair} >= ({parameters.bind(days.low)}, {parameters.bind(times.low)})")
    if days.high:
        end = parameters.bind(after_prefix(times.high))
        tests.append(f"{pair} < ({parameters.bind(days.high)}, {end})")
        tests.append(f"{column} <= {parameters.bind(days.high)}")
    return " AND ".join(tests)


def _in_zone(moment: Moment, offset: int, parameters: Parameters) -> str:
    """Compare in the zone of the query; a range of days, one wider at each end, has the index."""
    column, days, times = moment.date_attribute.column, moment.date, moment.time
    zoned = (
        f"dicom_in_zone({column}, {moment.time_attribute.column},"
        f" dicom_zone({moment.zone_json}), {parameters.bind(offset)}::int)"
    )
    tests = []
    if days is not None:
        low = days_from(days.low, -1) if days.low else "0"
        tests.append(f"{column} >= {parameters.bind(low)}")
        if days.high:
            end = after_prefix(days_from(days.high, 1))
            tests.append(f"{column} < {parameters.bind(end)}")
    if days is not None and times is not None:
        both = Between(days.low + times.low, days.high + times.high)
        tests.append(_comparison(zoned, both, parameters))
    elif days is not None:
        tests.append(_comparison(f"substr({zoned}, 1, 8)", days, parameters))
    elif times is not None:
        tests.append(_comparison(f"substr({zoned}, 9)", times, parameters))
    return " AND ".join(tests)


# -- texts ----------------------------------------------------------------------------------


def readable_json(column: str) -> str:
    """The stored JSON of a column as PostgreSQL can read it; one object must not fail the query.

    NUL is JSON and no text of PostgreSQL's: its escape becomes that of the replacement character,
    where the backslash is not itself escaped. All other stored JSON stays as it is.
    """
    return (
        rf"(CASE WHEN strpos({column}, '\u0000') = 0 THEN {column} ELSE"
        rf" regexp_replace({column}, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g') END)"
    )


def prefix_of(pattern: str) -> str:
    """What every match of the pattern begins with."""
    ends = [at for at in (pattern.find("*"), pattern.find("?")) if at >= 0]
    return pattern[: min(ends)] if ends else pattern


def after_prefix(prefix: str) -> str | None:
    """The least text above everything that begins with `prefix`, by code point as COLLATE "C"."""
    kept = prefix.rstrip(_LAST_CODE_POINT)
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:
        following = 0xE000  # surrogates are no characters
    return kept[:-1] + chr(following)


def like(pattern: str) -> str:
    """A DICOM wildcard pattern as a LIKE pattern with its default escape character."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")
