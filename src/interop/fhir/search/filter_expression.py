"""`_filter`: its grammar, and what it asks of a resource (FHIR R4 search_filter.html).

and, or and not without precedence, from left to right; paths follow references, and a filter in
brackets narrows where they lead: `subject[gender eq male].name co "pet"`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from interop.errors import BadRequest, TooCostly, UnsupportedParameter
from interop.fhir.definitions import SearchParameter
from interop.fhir.search.clauses import clause, escape, known_parameter
from interop.fhir.search.terms import (
    FILTER,
    AllOf,
    AnyOf,
    Budget,
    Compared,
    Not,
    Term,
    follow,
    term,
)

LONGEST = 4000
MAX_COMPARISONS = 50
MAX_NESTING = 20

_ORDERED = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
# What each kind of parameter can be asked. `pr` can be asked of all.
OPERATORS: dict[str, tuple[str, ...]] = {
    "string": ("eq", "ne", "co", "sw", "ew"),
    "token": ("eq", "ne", "ss", "sb", "in", "ni"),
    "reference": ("eq", "ne", "re"),
    "date": (*_ORDERED, "po"),
    "number": _ORDERED,
    "quantity": _ORDERED,
    "uri": ("eq", "ne"),
    "composite": ("eq",),
    "special": ("eq",),
}
ALL_OPERATORS = frozenset({"pr", *(one for kind in OPERATORS.values() for one in kind)})
# Operators that a modifier of the ordinary search means.
_MODIFIERS = {"co": "contains", "ss": "below", "sb": "above", "in": "in", "ni": "not-in"}

# What separates nothing in a value of a filter, by the type of the parameter.
_SEPARATORS = {"string": r"\,|$", "uri": r"\,|$", "composite": ","}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*(?::[A-Za-z]+)?")
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[a-z]+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_TOKEN = re.compile(r"[^\s)\]\"][^\s)\]]*")


@dataclass(frozen=True, slots=True)
class Step:
    """A name of a path, and the filter on what it leads to."""

    name: str
    within: Expression | None


@dataclass(frozen=True, slots=True)
class Comparison:
    path: tuple[Step, ...]
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Logical:
    """`and`, `or` of two sides, or `not` of one."""

    word: str
    sides: tuple[Expression, ...]


Expression = Comparison | Logical


def term_of(resource_type: str, name: str, value: str, budget: Budget | None = None) -> Term:
    """Read any parameter of a search that selects, `_filter` among them. Raises as `term` does."""
    budget = budget or Budget()
    if name == FILTER:
        return filter_term(resource_type, value, budget)
    return term(resource_type, name, value, budget)


def filter_term(resource_type: str, text: str, budget: Budget, hops: int = 0) -> Term:
    """Read a filter over a type. Raises BadRequest, UnsupportedParameter, TooCostly."""
    if len(text) > LONGEST:
        raise TooCostly(f"_filter has {len(text)} characters; at most {LONGEST}")
    return _bound(resource_type, _Reading(text).whole(), budget, hops)


# -- the grammar ----------------------------------------------------------------------------


class _Reading:
    """Reads one filter from left to right; without going back by more than a word."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._comparisons = 0
        self._nesting = 0

    def whole(self) -> Expression:
        found = self._expression()
        self._skip()
        if self._at < len(self._text):
            raise self._wrong("'and', 'or' or the end")
        return found

    def _expression(self) -> Expression:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise TooCostly(f"_filter nests deeper than {MAX_NESTING}")
        found = self._one()
        while word := self._word("and", "or"):
            found = Logical(word, (found, self._one()))
        self._nesting -= 1
        return found

    def _one(self) -> Expression:
        self._skip()
        start = self._at
        if self._word("not"):
            if self._take("("):
                return Logical("not", (self._closed(")"),))
            self._at = start
        if self._take("("):
            return self._closed(")")
        return self._comparison()

    def _closed(self, bracket: str) -> Expression:
        found = self._expression()
        if not self._take(bracket):
            raise self._wrong(repr(bracket))
        return found

    def _comparison(self) -> Comparison:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise TooCostly(f"_filter makes more than {MAX_COMPARISONS} comparisons")
        path = [self._step()]
        while self._text.startswith(".", self._at):
            self._at += 1
            path.append(self._step())
        operator = self._word(*sorted(ALL_OPERATORS))
        if not operator:
            raise self._wrong(f"an operator ({', '.join(sorted(ALL_OPERATORS))})")
        return Comparison(tuple(path), operator, self._value())

    def _step(self) -> Step:
        self._skip()
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._wrong("the name of a search parameter")
        self._at = found.end()
        within = None
        if self._text.startswith("[", self._at):
            self._at += 1
            within = self._closed("]")
        return Step(found[0], within)

    def _value(self) -> str:
        self._skip()
        found = _STRING.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
            try:
                return str(orjson.loads(found[0]))
            except orjson.JSONDecodeError:
                raise self._wrong("a JSON string") from None
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self._wrong("a value")
        self._at = found.end()
        return found[0]

    def _word(self, *accepted: str) -> str:
        """One of the words, where it stands alone; '' and no step otherwise."""
        self._skip()
        found = _WORD.match(self._text, self._at)
        if found is None or found[0] not in accepted:
            return ""
        after = self._text[found.end() : found.end() + 1]
        if after and not (after.isspace() or after in '("'):
            return ""
        self._at = found.end()
        return found[0]

    def _take(self, character: str) -> bool:
        self._skip()
        is_next = self._text.startswith(character, self._at)
        self._at += is_next
        return is_next

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _wrong(self, expected: str) -> BadRequest:
        rest = self._text[self._at : self._at + 32]
        return BadRequest(f"_filter at character {self._at + 1}: expected {expected}, not {rest!r}")


# -- what it means for a type ---------------------------------------------------------------


def _bound(resource_type: str, found: Expression, budget: Budget, hops: int) -> Term:
    if isinstance(found, Comparison):
        return _path(resource_type, found.path, found, budget, hops)
    sides = tuple(_bound(resource_type, side, budget, hops) for side in found.sides)
    if found.word == "not":
        return Not(sides[0])
    return AllOf(sides) if found.word == "and" else AnyOf(sides)


def _path(
    resource_type: str, path: tuple[Step, ...], found: Comparison, budget: Budget, hops: int
) -> Term:
    step, rest = path[0], path[1:]
    if not rest:
        if step.within is not None:
            raise BadRequest(f"_filter: {step.name}[...] must lead to another parameter")
        return _comparison(resource_type, step.name, found)

    def of_target(type_: str) -> Term:
        asked = _path(type_, rest, found, budget, hops + 1)
        if step.within is None:
            return asked
        return AllOf((_bound(type_, step.within, budget, hops + 1), asked))

    make: Callable[[str], Term] = of_target
    return follow(resource_type, step.name, make, budget, hops)


def _comparison(resource_type: str, name: str, found: Comparison) -> Term:
    parameter = known_parameter(resource_type, name, f"_filter: {name[:64]!r}")
    operator, value = found.operator, found.value
    if operator == "pr":
        if value not in ("true", "false"):
            raise BadRequest(f"_filter: {name} pr {value[:32]!r}; accepted: true, false")
        return clause(resource_type, f"{name}:missing", "false" if value == "true" else "true")
    accepted = OPERATORS[parameter.type]
    if operator not in accepted:
        raise UnsupportedParameter(
            f"_filter: {operator} cannot be asked of {name} ({parameter.type}); accepted: "
            f"{', '.join((*accepted, 'pr'))}"
        )
    text = escape(value, _SEPARATORS.get(parameter.type, ",$"))
    if operator in _MODIFIERS:
        return clause(resource_type, f"{name}:{_MODIFIERS[operator]}", text)
    if _is_compared_by_rows(parameter, operator):
        # Read as an ordinary clause first, which refuses what is no value.
        return Compared(clause(resource_type, name, text), operator)
    if parameter.type in ("date", "number", "quantity"):
        return clause(resource_type, name, operator + text)
    return clause(resource_type, name, text)


def _is_compared_by_rows(parameter: SearchParameter, operator: str) -> bool:
    """What no prefix or modifier of the ordinary search says."""
    if parameter.type == "string":
        return operator in ("eq", "ne", "ew")
    if parameter.type == "date":
        return operator == "po"
    return operator == "ne" and parameter.type in ("token", "reference", "uri")
