"""The FHIRPath of R4 search parameters, read into a small tree.

Search parameter expressions use paths, unions, `as`, `is`, `where`, `exists`, `resolve`, one index
and comparisons with a literal (http://hl7.org/fhirpath/N1/, sections 3 to 6). All of them must
parse; anything else is refused, so that no expression is ever half understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


class FhirPathError(ValueError):
    """The expression is not of the subset that search parameters use."""


@dataclass(frozen=True, slots=True)
class Name:
    """An element, or the type of the resource at the start of a path."""

    name: str


@dataclass(frozen=True, slots=True)
class Variable:
    name: str  # resource


@dataclass(frozen=True, slots=True)
class Literal:
    value: str | bool | int


@dataclass(frozen=True, slots=True)
class Step:
    """`of.then`: an element, a function call or an index applied to each item."""

    of: Node
    then: Name | Call | Index


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Index:
    position: int


@dataclass(frozen=True, slots=True)
class Union:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class TypeTest:
    """`of is T` and, with `keeps`, `of as T`."""

    of: Node
    type: str
    keeps: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    left: Node
    equal: bool
    right: Node


@dataclass(frozen=True, slots=True)
class And:
    left: Node
    right: Node


Node = Name | Variable | Literal | Step | Call | Index | Union | TypeTest | Comparison | And

_TOKEN = re.compile(
    r"\s*(?:(?P<name>%?[A-Za-z_][A-Za-z0-9_]*)|'(?P<text>[^']*)'|(?P<number>[0-9]+)"
    r"|(?P<sign>!=|[.|()\[\]=,]))"
)


def parse(expression: str) -> Node:
    """Read an expression. Raises FhirPathError with the place."""
    parser = _Parser(expression)
    node = parser.conjunction()
    parser.end()
    return node


class _Parser:
    """Recursive descent, one method for each level of precedence."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while expression[at:].strip():
            found = _TOKEN.match(expression, at)
            if found is None or found.lastgroup is None:
                raise FhirPathError(f"{expression!r}: not understood from {expression[at:]!r}")
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self._at = 0

    def conjunction(self) -> Node:
        node = self._comparison()
        while self._accept("name", "and"):
            node = And(node, self._comparison())
        return node

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise FhirPathError(f"{self._expression!r}: {self._tokens[self._at][1]!r} unexpected")

    def _comparison(self) -> Node:
        node = self._union()
        for sign in ("=", "!="):
            if self._accept("sign", sign):
                return Comparison(node, sign == "=", self._union())
        return node

    def _union(self) -> Node:
        parts = [self._type_test()]
        while self._accept("sign", "|"):
            parts.append(self._type_test())
        return parts[0] if len(parts) == 1 else Union(tuple(parts))

    def _type_test(self) -> Node:
        node = self._path()
        for word in ("is", "as"):
            if self._accept("name", word):
                return TypeTest(node, self._take("name"), word == "as")
        return node

    def _path(self) -> Node:
        node = self._term()
        while True:
            if self._accept("sign", "."):
                node = Step(node, self._invocation())
            elif self._accept("sign", "["):
                node = Step(node, Index(int(self._take("number"))))
                self._take("sign", "]")
            else:
                return node

    def _term(self) -> Node:
        if self._accept("sign", "("):
            node = self.conjunction()
            self._take("sign", ")")
            return node
        kind, value = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")
        if kind in ("text", "number"):
            self._at += 1
            return Literal(value if kind == "text" else int(value))
        if kind == "name" and value in ("true", "false"):
            self._at += 1
            return Literal(value == "true")
        if kind == "name" and value.startswith("%"):
            self._at += 1
            return Variable(value[1:])
        return self._invocation()

    def _invocation(self) -> Name | Call:
        name = self._take("name")
        if not self._accept("sign", "("):
            return Name(name)
        arguments: list[Node] = []
        while not self._accept("sign", ")"):
            if arguments:
                self._take("sign", ",")
            arguments.append(self.conjunction())
        return Call(name, tuple(arguments))

    def _accept(self, kind: str, value: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == (kind, value):
            self._at += 1
            return True
        return False

    def _take(self, kind: str, value: str | None = None) -> str:
        if self._at < len(self._tokens):
            found_kind, found = self._tokens[self._at]
            if found_kind == kind and value in (None, found):
                self._at += 1
                return found
        raise FhirPathError(f"{self._expression!r}: {value or kind} expected at token {self._at}")
