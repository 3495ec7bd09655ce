"""FHIRPath (http://hl7.org/fhirpath/N1/) read into a small tree.

The whole grammar of N1 is read. What is made of a tree, and which functions there are, is up to
its compilers: `fhirpath_compile` for search parameters, `fhirpath_engine` for invariants, slices
and patches. Expressions may come from tenants, so their length and depth are bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

MAX_CHARACTERS = 20_000
# Of parentheses and arguments inside each other, and of operators and steps in a row: what is
# compiled calls itself that deep.
MAX_NESTING = 30
MAX_CHAIN = 120


class FhirPathError(ValueError):
    """The expression is not FHIRPath, or goes beyond what its reader supports."""


@dataclass(frozen=True, slots=True)
class Name:
    """An element, or the type of the resource at the start of a path."""

    name: str


@dataclass(frozen=True, slots=True)
class Variable:
    """`%name` by its name (resource, context, ucum ...), or `$this`, `$index`, `$total`."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    value: str | bool | int | Decimal


@dataclass(frozen=True, slots=True)
class MomentLiteral:
    """A date, dateTime (`@2024-05-17T09:30`) or time (`@T09:30`), the text after the `@`."""

    text: str


@dataclass(frozen=True, slots=True)
class QuantityLiteral:
    """`4 days` and `4 'mg'`; a calendar word stands without quotes."""

    value: Decimal
    unit: str
    is_calendar: bool


@dataclass(frozen=True, slots=True)
class Empty:
    """`{}`."""


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
    position: Node


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
class Operation:
    """A binary operator but `|`, `is` and `as`."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Negation:
    """Unary minus."""

    of: Node


Node = (
    Name
    | Variable
    | Literal
    | MomentLiteral
    | QuantityLiteral
    | Empty
    | Step
    | Call
    | Index
    | Union
    | TypeTest
    | Operation
    | Negation
)

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)
    |(?P<moment>@(?:T[0-9:.]+|[0-9]{4}(?:-[0-9]{2}(?:-[0-9]{2})?)?
        (?:T(?:[0-9]{2}(?::[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?)?))
    |(?P<number>[0-9]+(?:\.[0-9]+)?)
    |(?P<variable>%(?:[A-Za-z_][A-Za-z0-9_-]*|`[^`]+`|'[^']+')|\$(?:this|index|total))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<quoted>`(?:[^`\\]|\\.)*`)
    |(?P<text>'(?:[^'\\]|\\.)*')
    |(?P<sign>!=|!~|<=|>=|[.|()\[\]{}=~,<>+*/&-])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}

# N1 8.1: what binds less comes first; each level is read from the left.
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("implies",),
    ("or", "xor"),
    ("and",),
    ("in", "contains"),
    ("=", "~", "!=", "!~"),
    ("<=", ">=", "<", ">"),
)
_ABOVE_TYPES: tuple[tuple[str, ...], ...] = (("+", "-", "&"), ("*", "/", "div", "mod"))
_CALENDAR = re.compile(r"(?:year|month|week|day|hour|minute|second|millisecond)s?")


def parse(expression: str) -> Node:
    """Read an expression. Raises FhirPathError with the place."""
    if len(expression) > MAX_CHARACTERS:
        raise FhirPathError(f"longer than {MAX_CHARACTERS} characters")
    parser = _Parser(expression)
    node = parser.expression()
    parser.end()
    return node


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        what = found[1]
        return chr(int(what[1:], 16)) if what[0] == "u" and what[1:] else _ESCAPED.get(what, what)

    return _ESCAPE.sub(one, text) if "\\" in text else text


class _Parser:
    """Recursive descent, the levels of precedence from a table."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens: list[tuple[str, str]] = []
        self._nesting = 0
        at = 0
        while at < len(expression):
            found = _TOKEN.match(expression, at)
            if found is None or found.lastgroup is None:
                raise FhirPathError(f"{expression!r}: not understood from {expression[at:]!r}")
            if found.lastgroup != "space":
                self._tokens.append((found.lastgroup, found[0]))
            at = found.end()
        self._at = 0

    def expression(self) -> Node:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise FhirPathError(f"{self._expression[:80]!r}: nested deeper than {MAX_NESTING}")
        node = self._level(0)
        self._nesting -= 1
        return node

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise FhirPathError(f"{self._expression!r}: {self._tokens[self._at][1]!r} unexpected")

    def _level(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._union()
        node = self._level(level + 1)
        for _ in range(MAX_CHAIN):
            operator = self._operator(_LEVELS[level])
            if operator is None:
                return node
            node = Operation(operator, node, self._level(level + 1))
        raise self._too_long()

    def _union(self) -> Node:
        parts = [self._type_test()]
        while self._accept("|"):
            parts.append(self._type_test())
        if len(parts) > MAX_CHAIN:
            raise self._too_long()
        return parts[0] if len(parts) == 1 else Union(tuple(parts))

    def _type_test(self) -> Node:
        node = self._arithmetic(0)
        for _ in range(MAX_CHAIN):
            word = self._operator(("is", "as"))
            if word is None:
                return node
            node = TypeTest(node, self._type_name(), word == "as")
        raise self._too_long()

    def _type_name(self) -> str:
        name = self._identifier()
        if name in ("FHIR", "System") and self._accept("."):
            return f"{name}.{self._identifier()}"
        return name

    def _arithmetic(self, level: int) -> Node:
        if level == len(_ABOVE_TYPES):
            return self._signed()
        node = self._arithmetic(level + 1)
        for _ in range(MAX_CHAIN):
            operator = self._operator(_ABOVE_TYPES[level])
            if operator is None:
                return node
            node = Operation(operator, node, self._arithmetic(level + 1))
        raise self._too_long()

    def _signed(self) -> Node:
        if self._accept("-"):
            return Negation(self._path())
        self._accept("+")
        return self._path()

    def _path(self) -> Node:
        node = self._term()
        for _ in range(MAX_CHAIN):
            if self._accept("."):
                node = Step(node, self._invocation())
            elif self._accept("["):
                node = Step(node, Index(self.expression()))
                self._take("]")
            else:
                return node
        raise self._too_long()

    def _term(self) -> Node:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")
        if kind == "sign" and text in ("(", "{"):
            return self._group(text)
        if kind in ("name", "quoted"):
            if text in ("true", "false"):
                self._at += 1
                return Literal(text == "true")
            return self._invocation()
        self._at += 1
        match kind:
            case "text":
                return Literal(_unescaped(text[1:-1]))
            case "number":
                return self._number(text)
            case "moment":
                return MomentLiteral(text[1:])
            case "variable":
                return Variable(text if text[0] == "$" else text[1:].strip("`'"))
        raise FhirPathError(f"{self._expression!r}: a value expected at token {self._at - 1}")

    def _group(self, opening: str) -> Node:
        self._at += 1
        if opening == "{":
            self._take("}")
            return Empty()
        node = self.expression()
        self._take(")")
        return node

    def _number(self, text: str) -> Node:
        value = Decimal(text) if "." in text else int(text)
        if self._at < len(self._tokens):
            kind, unit = self._tokens[self._at]
            if kind == "text" or (kind == "name" and _CALENDAR.fullmatch(unit)):
                self._at += 1
                return QuantityLiteral(Decimal(value), unit.strip("'"), kind == "name")
        return Literal(value)

    def _invocation(self) -> Name | Call:
        name = self._identifier()
        if not self._accept("("):
            return Name(name)
        arguments: list[Node] = []
        while not self._accept(")"):
            if arguments:
                self._take(",")
            arguments.append(self.expression())
        return Call(name, tuple(arguments))

    def _identifier(self) -> str:
        if self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind in ("name", "quoted"):
                self._at += 1
                return text if kind == "name" else _unescaped(text[1:-1])
        raise FhirPathError(f"{self._expression!r}: a name expected at token {self._at}")

    def _operator(self, accepted: tuple[str, ...]) -> str | None:
        if self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind in ("sign", "name") and text in accepted:
                self._at += 1
                return text
        return None

    def _accept(self, sign: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == ("sign", sign):
            self._at += 1
            return True
        return False

    def _take(self, sign: str) -> None:
        if not self._accept(sign):
            raise FhirPathError(f"{self._expression!r}: {sign!r} expected at token {self._at}")

    def _too_long(self) -> FhirPathError:
        return FhirPathError(f"{self._expression[:80]!r}: more than {MAX_CHAIN} in a row")
