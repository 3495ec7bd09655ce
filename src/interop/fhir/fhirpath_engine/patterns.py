"""Regular expressions that others wrote, in time linear in the text (security.md C3).

`matches()` runs in the automaton of jsonschema-rs (Rust's regex crate), which has no backtracking.
It cannot replace, so `replaceMatches()` takes Python's engine, for patterns that cannot run wild:
one repetition at most, over a bounded text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import jsonschema_rs

from interop.fhir.fhirpath_engine.values import EvaluationError

MAX_PATTERN = 2_000
MAX_COMPILED_BYTES = 1_000_000
MAX_REPLACED = 2_000  # characters: a failing search is quadratic, 4 ms at this length

_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)


def _portable(pattern: str) -> str:
    """The pattern with the brackets escaped that other dialects take as they stand."""
    written, is_in_class, at = [], False, 0
    while at < len(pattern):
        sign = pattern[at : at + 2] if pattern[at] == "\\" else pattern[at]
        at += len(sign)
        if not is_in_class and sign == "[":
            is_in_class = True
            # A bracket that closes nothing, right after the opening, is one of the class.
            sign += "^" * (pattern[at : at + 1] == "^")
            at += len(sign) - 1
        elif is_in_class and sign == "]":
            is_in_class = False
        elif sign in ("]" if not is_in_class else "[&~"):
            sign = "\\" + sign
        written.append(sign)
    return "".join(written)


@lru_cache(maxsize=512)
def _matcher(pattern: str) -> jsonschema_rs.Draft6Validator:
    if len(pattern) > MAX_PATTERN:
        raise EvaluationError(f"a pattern of more than {MAX_PATTERN} characters")
    options = jsonschema_rs.RegexOptions(
        size_limit=MAX_COMPILED_BYTES, dfa_size_limit=MAX_COMPILED_BYTES
    )
    try:
        return jsonschema_rs.Draft6Validator(
            {"pattern": _portable(pattern)}, pattern_options=options
        )
    except (ValueError, jsonschema_rs.ValidationError):
        raise EvaluationError(
            f"{pattern[:100]!r} is not a pattern without look-around and back-references"
        ) from None


def is_found(pattern: str, text: str) -> bool:
    """Whether the pattern is found anywhere in the text, as `matches()` of N1 means it."""
    return bool(_matcher(pattern).is_valid(text))


@lru_cache(maxsize=128)
def _replacer(pattern: str) -> re.Pattern[str]:
    try:
        tree = parser.parse(pattern)
        repeats = _count_repeats(tree)
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        raise EvaluationError(f"{pattern[:100]!r} is not a pattern") from None
    if repeats > 1 or len(pattern) > MAX_PATTERN:
        raise EvaluationError("replaceMatches takes a pattern with one repetition at most")
    return compiled


def _count_repeats(tree: Any) -> int:
    count = 0
    for operation, argument in tree:
        if operation in _REPEATS:
            count += (argument[1] > 1) + _count_repeats(argument[2])
        elif operation is codes.SUBPATTERN:
            count += _count_repeats(argument[-1])
        elif operation is codes.BRANCH:
            count += sum(map(_count_repeats, argument[1]))
        elif operation not in (codes.LITERAL, codes.NOT_LITERAL, codes.IN, codes.ANY, codes.AT):
            count += 2  # look-around, back-references and the rest
    return count


def replaced(pattern: str, text: str, substitution: str) -> str:
    """`replaceMatches()`. `$1` in the substitution is a group."""
    if len(text) > MAX_REPLACED:
        raise EvaluationError(f"replaceMatches takes texts of at most {MAX_REPLACED} characters")
    compiled = _replacer(pattern)
    template = re.sub(r"\$(\d+)", r"\\g<\1>", substitution.replace("\\", r"\\"))
    try:
        return compiled.sub(template, text)
    except (re.error, IndexError):
        raise EvaluationError(f"{substitution[:100]!r} names no group of the pattern") from None
