"""The FHIRPath that names an element to be patched: steps, indexes, where() and their like.

R4 fhirpatch.html allows servers a simple subset. Unlike an evaluation, which yields values, this
finds the places of elements, so that they can be changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from interop.errors import BadRequest
from interop.fhir.patch.elements import Place
from interop.fhir.patch.json_patch import is_equal
from interop.fhir.patch.limits import Budget

MAX_PATH_CHARACTERS = 2000
# Finding an element takes as long as copying so many values.
WEIGHT_OF_PLACE = 50
FUNCTIONS = (
    "where",
    "first",
    "last",
    "single",
    "tail",
    "skip",
    "take",
    "ofType",
    "as",
    "extension",
)
CONDITIONS = ("exists", "empty", "not")

Places = list[Place]
Step = Callable[[Places], Places]
Condition = Callable[[Place], bool]

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_$%][A-Za-z0-9_]*|`[^`]+`)|'(?P<text>(?:[^'\\]|\\.)*)'"
    r"|@(?P<date>T?[0-9][0-9T:.Z+-]*)|(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<sign>!=|[.()\[\]=,~]))"
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}


class Path:
    """A path, read. Raises BadRequest for what is no such path."""

    def __init__(self, text: str, budget: Budget) -> None:
        parser = _Parser(text, budget)
        self._text = text
        self._steps, self._names = parser.path(is_relative=False)
        parser.end()

    def places(self, root: Place) -> Places:
        """Every element that the path names."""
        return _walk(self._steps, self._start(root))

    def list_of(self, root: Place) -> tuple[Places, str]:
        """The elements that hold the list which the path names, and its name."""
        name = self._names[-1] if self._steps else None
        if name is None:
            raise BadRequest(f"the path {self._text[:200]!r} must end with the name of a list")
        return _walk(self._steps[:-1], self._start(root)), name

    def _start(self, root: Place) -> Places:
        return [root]


def _walk(steps: list[Step], places: Places) -> Places:
    for step in steps:
        places = step(places)
    return places


class _Parser:
    def __init__(self, text: str, budget: Budget) -> None:
        self._text = text
        self._budget = budget
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self._depth = 0
        at = 0
        if len(text) > MAX_PATH_CHARACTERS:
            raise BadRequest(f"a path may have {MAX_PATH_CHARACTERS} characters")
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise BadRequest(
                    f"the path {text[:200]!r} is not understood from {text[at:][:40]!r}"
                )
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()

    def path(self, *, is_relative: bool) -> tuple[list[Step], list[str | None]]:
        """The steps of a path, and beside each the name of the element that it is."""
        steps: list[Step] = []
        names: list[str | None] = []
        while True:
            name = self._take("name")
            if self._accept("("):
                steps.append(self._function(name))
                names.append(None)
            elif name == "$this" or (not steps and not is_relative and name[0].isupper()):
                steps.append(_itself(name))
                names.append(None)
            else:
                steps.append(self._child(name.strip("`")))
                names.append(name.strip("`"))
            while self._accept("["):
                steps.append(_slice(int(self._take("number")), 1))
                names.append(None)
                self._expect("]")
            if self._next() == ("sign", ".") and self._peek_condition():
                return steps, names
            if not self._accept("."):
                return steps, names

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise self._error()

    def _peek_condition(self) -> bool:
        """Whether a function of conditions follows the dot: it ends the path."""
        return self._tokens[self._at + 1 : self._at + 2] in [[("name", one)] for one in CONDITIONS]

    def _child(self, name: str) -> Step:
        def step(places: Places) -> Places:
            found = [child for place in places for child in place.children(name)]
            self._budget.spend(WEIGHT_OF_PLACE * (len(places) + len(found)))
            return found

        return step

    def _function(self, name: str) -> Step:
        match name:
            case "where":
                condition = self._any_of()
                step: Step = lambda places: [one for one in places if condition(one)]  # noqa: E731
            case "first":
                step = _slice(0, 1)
            case "last":
                step = lambda places: places[-1:]  # noqa: E731
            case "single":
                step = self._single
            case "tail":
                step = _slice(1, None)
            case "skip":
                step = _slice(int(self._take("number")), None)
            case "take":
                step = _slice(0, int(self._take("number")))
            case "ofType" | "as":
                type_ = self._take("name")
                step = lambda places: [one for one in places if one.type == type_]  # noqa: E731
            case "extension":
                url = self._string(self._take("text"))
                step = self._extensions(url)
            case _:
                accepted = ", ".join(FUNCTIONS)
                raise BadRequest(f"the path uses {name[:32]}(); accepted: {accepted}")
        self._expect(")")
        return step

    def _single(self, places: Places) -> Places:
        if len(places) > 1:
            raise BadRequest(f"{self._text[:200]!r}: single() finds {len(places)} elements")
        return places

    def _extensions(self, url: str) -> Step:
        children = self._child("extension")
        return lambda places: [one for one in children(places) if one.item.value.get("url") == url]

    # -- conditions of where() ----------------------------------------------------------

    def _any_of(self) -> Condition:
        self._depth += 1
        if self._depth > 20:
            raise BadRequest("the path nests conditions too deep; at most 20 levels")
        parts = [self._all_of()]
        while self._accept("or", "name"):
            parts.append(self._all_of())
        self._depth -= 1
        return lambda place: any(part(place) for part in parts)

    def _all_of(self) -> Condition:
        parts = [self._condition()]
        while self._accept("and", "name"):
            parts.append(self._condition())
        return lambda place: all(part(place) for part in parts)

    def _condition(self) -> Condition:
        if self._accept("("):
            found = self._any_of()
            self._expect(")")
            return self._negated(found)
        steps, _ = self.path(is_relative=True)

        def values(place: Place) -> list[Any]:
            return [one.item.value for one in _walk(steps, [place])]

        if self._accept("."):
            return self._ended(steps)
        for sign in ("=", "~", "!="):
            if self._accept(sign):
                literal, wanted = self._literal(), sign != "!="
                return lambda place: _is_same(values(place), literal) is wanted
        return lambda place: values(place) == [True]

    def _ended(self, steps: list[Step]) -> Condition:
        """The condition that exists(), empty() or not() makes of a path."""
        function = self._take("name")
        self._expect("(")
        inner = None
        if function == "exists" and self._next() != ("sign", ")"):
            inner = self._any_of()
        self._expect(")")

        def condition(place: Place) -> bool:
            found = _walk(steps, [place])
            if function == "not":
                return [one.item.value for one in found] == [False]
            is_there = any(inner(one) for one in found) if inner else bool(found)
            return is_there is (function == "exists")

        return self._negated(condition)

    def _negated(self, condition: Condition) -> Condition:
        if self._next() == ("sign", ".") and self._tokens[self._at + 1 :][:1] == [("name", "not")]:
            self._at += 2
            self._expect("(")
            self._expect(")")
            return self._negated(lambda place: not condition(place))
        return condition

    def _literal(self) -> Any:
        kind, value = self._next()
        self._at += 1
        if kind == "text":
            return self._string(value)
        if kind == "number":
            return Decimal(value)
        if kind == "date":
            return value
        if kind == "name" and value in ("true", "false"):
            return value == "true"
        self._at -= 1
        raise self._error("a literal such as 'text', 1, true or @2024-05-17")

    def _string(self, text: str) -> str:
        def one(found: re.Match[str]) -> str:
            escaped = found[1]
            if len(escaped) == 5:
                return chr(int(escaped[1:], 16))
            return _ESCAPED.get(escaped, escaped)

        return _ESCAPE.sub(one, text)

    # -- tokens -------------------------------------------------------------------------

    def _next(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _accept(self, value: str, kind: str = "sign") -> bool:
        if self._next() == (kind, value):
            self._at += 1
            return True
        return False

    def _expect(self, value: str) -> None:
        if not self._accept(value):
            raise self._error(repr(value))

    def _take(self, kind: str) -> str:
        found, value = self._next()
        if found != kind:
            raise self._error({"name": "the name of an element", "text": "a text"}.get(kind, kind))
        self._at += 1
        return value

    def _error(self, expected: str = "its end") -> BadRequest:
        found = self._next()[1] or "the end"
        return BadRequest(
            f"the path {self._text[:200]!r}: {found[:40]!r} where {expected} is expected; accepted "
            "are elements, [index], and " + ", ".join(f"{one}()" for one in FUNCTIONS)
        )


def _itself(name: str) -> Step:
    """`$this`, or the type that a path starts with."""
    if name == "$this":
        return lambda places: places
    return lambda places: [
        one for one in places if name in (one.type, "Resource", "DomainResource")
    ]


def _slice(start: int, length: int | None) -> Step:
    if start < 0:
        raise BadRequest("an index is counted from 0")
    return lambda places: places[start : None if length is None else start + length]


def _is_same(values: list[Any], literal: Any) -> bool | None:
    """FHIRPath's =, empty (None) where there is nothing to compare."""
    if not values:
        return None
    return len(values) == 1 and is_equal(values[0], literal)
