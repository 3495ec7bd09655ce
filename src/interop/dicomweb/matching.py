"""QIDO-RS conditions as SQL predicates that keep their index under row-level security.

Only equality, ranges on COLLATE "C" text and `= ANY` may use an index there; LIKE may not
(reliability.md M11). So a pattern's fixed beginning becomes a range, which an index serves, and
LIKE only filters what is left, inside the tenant and under the statement's time limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interop.dicomweb.attributes import Kind
from interop.dicomweb.query import AnyOf, Between, Condition, Wildcard

_LAST_CODE_POINT = "\U0010ffff"


class Parameters:
    """The bound values of one statement; each gets a name of ours."""

    def __init__(self, **known: Any) -> None:
        self.values: dict[str, Any] = dict(known)

    def bind(self, value: Any) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f"%({name})s"


def predicates(conditions: Iterable[Condition], parameters: Parameters) -> list[str]:
    """One SQL predicate for each condition; values only ever as bound parameters."""
    return [_predicate(condition, parameters) for condition in conditions]


def _predicate(condition: Condition, parameters: Parameters) -> str:
    column, matcher = condition.attribute.column, condition.matcher
    match condition.attribute.kind:
        case Kind.SEQUENCE:
            return _in_sequence(condition, parameters)
        case Kind.CODE_ARRAY | Kind.UID_ARRAY:
            if isinstance(matcher, AnyOf):
                return f"{column} && {parameters.bind(list(matcher.values))}::text[]"
            return (
                f"EXISTS (SELECT FROM unnest({column}) AS one(value) WHERE "
                f"{_comparison('one.value', matcher, parameters)})"
            )
        case _:
            return _comparison(column, matcher, parameters)


def _comparison(column: str, matcher: AnyOf | Wildcard | Between, parameters: Parameters) -> str:
    if isinstance(matcher, AnyOf):
        if len(matcher.values) == 1:
            return f"{column} = {parameters.bind(matcher.values[0])}"
        return f"{column} = ANY({parameters.bind(list(matcher.values))})"
    if isinstance(matcher, Between):
        # Below every date and time, above the empty value, which no range matches.
        low = matcher.low or "0"
        tests = [f"{column} >= {parameters.bind(low)}"]
        if matcher.high:
            tests.append(f"{column} < {parameters.bind(after_prefix(matcher.high))}")
        return " AND ".join(tests)
    return _pattern(column, matcher.pattern, parameters)


def _pattern(column: str, pattern: str, parameters: Parameters) -> str:
    prefix = prefix_of(pattern)
    tests = []
    if prefix:
        tests.append(f"{column} >= {parameters.bind(prefix)}")
        following = after_prefix(prefix)
        if following is not None:
            tests.append(f"{column} < {parameters.bind(following)}")
    if pattern != prefix + "*":
        tests.append(f"{column} LIKE {parameters.bind(like(pattern))}")
    return " AND ".join(tests) or f"{column} IS NOT NULL"


def _in_sequence(condition: Condition, parameters: Parameters) -> str:
    """A match on the stored JSON: `$."00400275".Value[*]."00400009".Value[*]`."""
    path = parameters.bind("$" + "".join(f'."{t}".Value[*]' for t in condition.attribute.path))
    inner = _comparison("(found.value #>> '{}')", condition.matcher, parameters)
    return (
        f"EXISTS (SELECT FROM jsonb_path_query({readable_json(condition.attribute.column)}::jsonb,"
        f" {path}::jsonpath) AS found(value) WHERE {inner})"
    )


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
