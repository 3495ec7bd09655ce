"""JSON as FHIR means it: every digit of a decimal kept, every ambiguity refused.

FHIR R4 json.html: "the precision of the decimal value has significance"; RFC 8259 leaves duplicate
keys and lone surrogates open, so that two readers of one document could see two documents. They
are refused here, with the place. The scanner is the one of the standard library (C); only a
document that it refuses is read again by the slow reader below, which knows where it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from json.decoder import py_scanstring  # type: ignore[attr-defined]
from typing import Any, Self

import orjson

from interop.errors import BadRequest
from interop.fhir.lens import JsonObject

MAX_DEPTH = 64
MAX_DIGITS = 100
# A float8 index row must be able to hold it (1e308 is the last full power of ten).
MAX_EXPONENT = 307
# Longer documents are refused without saying where: the slow reader takes 1 s for 3 MB.
MAX_EXPLAINED_BYTES = 1_000_000

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_scan_string: Callable[[str, int, bool], tuple[str, int]] = py_scanstring
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
# Escapes of surrogates and of control characters that FHIR strings may not hold.
_SUSPICIOUS_ESCAPE = re.compile(rb"\\u(?:[dD][89a-fA-F]|00[01][0-9a-fA-F])|\\[bf]")
_SPACE = re.compile(r"[ \t\r\n]*")
_LITERAL = re.compile(r"[^\s,\]}:]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_FORBIDDEN_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


class MalformedJson(BadRequest):
    """The body is not a JSON document that FHIR allows."""

    issue_code = "structure"


class ExactDecimal(Decimal):
    """A number whose literal Decimal would write in another way (1e-7, -0, 1E+245)."""

    __slots__ = ("literal",)
    literal: str

    def __new__(cls, literal: str) -> Self:
        self = super().__new__(cls, literal)
        self.literal = literal
        return self

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return (type(self), (self.literal,))


class _Refused(ValueError):
    """Something the fast reader will not take; the slow reader finds where and says why."""


def loads(data: bytes) -> JsonObject:
    """Read one JSON object. Raises MalformedJson with the place and what would be accepted."""
    value = _loaded(data)
    if type(value) is not dict:
        raise MalformedJson("the body is not a JSON object; expected one FHIR resource: {...}")
    return value


def loads_array(data: bytes) -> list[Any]:
    """The same for one JSON array, which a JSON Patch is."""
    value = _loaded(data)
    if type(value) is not list:
        raise MalformedJson("the body is not a JSON array; expected a JSON Patch: [{...}]")
    return value


def _loaded(data: bytes) -> Any:
    try:
        return _fast(data)
    except (ValueError, RecursionError):
        raise _explained(data) from None


def dumps(value: object) -> bytes:
    """Write JSON without white space, each number with the digits it came with."""
    return orjson.dumps(value, default=_fragment)


def pretty(value: object) -> bytes:
    """The same with a line for each value, for people."""
    return orjson.dumps(value, default=_fragment, option=orjson.OPT_INDENT_2)


def number(literal: str) -> int | Decimal:
    """A number from its digits, which are kept. Raises ValueError for what no decimal may be."""
    if not _NUMBER.fullmatch(literal):
        raise ValueError(f"{literal[:32]!r} is not a number such as -1.50")
    if len(literal) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} characters")
    try:
        return _integer(literal) if literal.lstrip("-").isdigit() else _decimal(literal)
    except _Refused:
        raise ValueError(f"the number {literal} is beyond 1e{MAX_EXPONENT}") from None


def number_text(value: int | Decimal) -> str:
    """The digits of a number as they were sent."""
    return value.literal if isinstance(value, ExactDecimal) else str(value)


def _fragment(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(number_text(value))
    raise TypeError(f"{type(value).__name__} is not JSON")


# -- the fast reader ------------------------------------------------------------------------


def _fast(data: bytes) -> Any:
    text = data.decode("utf-8")
    if _depth(data) > MAX_DEPTH:
        raise _Refused
    value = _decode(text)
    if _SUSPICIOUS_ESCAPE.search(data):
        _refuse_forbidden_characters(value)
    return value


def _depth(data: bytes) -> int:
    """How deep objects and arrays nest, without parsing."""
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for byte in _STRINGS.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if byte in b"{[" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_forbidden_characters(value: Any) -> None:
    if isinstance(value, str):
        if _FORBIDDEN_CHARACTER.search(value):
            raise _Refused
    elif isinstance(value, list):
        for item in value:
            _refuse_forbidden_characters(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_forbidden_characters(name)
            _refuse_forbidden_characters(item)


def _pairs(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused
    return found


def _decimal(literal: str) -> Decimal:
    if len(literal) > MAX_DIGITS or not _is_within_float8(value := Decimal(literal)):
        raise _Refused
    return value if str(value) == literal else ExactDecimal(literal)


def _integer(literal: str) -> int | Decimal:
    if len(literal) < 19:
        return ExactDecimal(literal) if literal == "-0" else int(literal)
    return _decimal(literal)


def _is_within_float8(value: Decimal) -> bool:
    return not value or abs(value.adjusted()) <= MAX_EXPONENT


def _constant(_literal: str) -> object:
    raise _Refused


_decode: Callable[[str], Any] = json.JSONDecoder(
    object_pairs_hook=_pairs,
    parse_float=_decimal,
    parse_int=_integer,
    parse_constant=_constant,
).decode


# -- the slow reader: why and where ---------------------------------------------------------


def _explained(data: bytes) -> MalformedJson:
    """The error of a document that the fast reader refused."""
    if data.startswith(b"\xef\xbb\xbf"):
        return MalformedJson("the body starts with a byte order mark; send UTF-8 without one")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return MalformedJson(f"the body is not UTF-8: byte {error.start} {error.reason}")
    if len(data) > MAX_EXPLAINED_BYTES:
        return MalformedJson("the body is not JSON that FHIR allows; too long to say where")
    try:
        reader = _SlowReader(text)
        reader.value("", 0)
        reader.end()
    except MalformedJson as error:
        return error
    return MalformedJson("the body is not JSON that FHIR allows")


class _SlowReader:
    """A plain recursive reader that knows the element path and the line of what it refuses."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def value(self, path: str, depth: int) -> None:
        self._space()
        character = self._text[self._at : self._at + 1]
        if character in ("{", "["):
            if depth >= MAX_DEPTH:
                raise self._error(f"nested deeper than {MAX_DEPTH} levels", path)
            (self._object if character == "{" else self._array)(path, depth + 1)
        elif character == '"':
            self._string(path)
        else:
            self._literal(path)

    def end(self) -> None:
        self._space()
        if self._at != len(self._text):
            raise self._error("text after the end of the document", "")

    def _object(self, path: str, depth: int) -> None:
        names: set[str] = set()
        for _ in self._items("}", path):
            if self._text[self._at : self._at + 1] != '"':
                raise self._error("a property name in double quotes is expected", path)
            name = self._string(path)
            inner = f"{path}.{name}" if path else name
            if name in names:
                raise self._error(f"the key {name[:64]!r} appears twice in one object", inner)
            names.add(name)
            self._expect(":", inner)
            self.value(inner, depth)

    def _array(self, path: str, depth: int) -> None:
        for index in self._items("]", path):
            self.value(f"{path}[{index}]", depth)

    def _items(self, closing: str, path: str) -> Iterator[int]:
        """Positions at each item of an object or array, its commas and end checked."""
        self._at += 1
        self._space()
        if self._text[self._at : self._at + 1] == closing:
            self._at += 1
            return
        for index in count():
            self._space()
            yield index
            self._space()
            character = self._text[self._at : self._at + 1]
            if character not in (",", closing) or not character:
                raise self._error(f"',' or '{closing}' is expected", path)
            self._at += 1
            if character == closing:
                return

    def _string(self, path: str) -> str:
        try:
            value, end = _scan_string(self._text, self._at + 1, True)
        except ValueError as error:
            self._at = getattr(error, "pos", self._at)
            raise self._error(getattr(error, "msg", "not a string"), path) from None
        if found := _FORBIDDEN_CHARACTER.search(value):
            raise self._error(
                f"the character U+{ord(found[0]):04X} is not allowed in FHIR strings", path
            )
        self._at = end
        return value

    def _literal(self, path: str) -> None:
        found = _LITERAL.match(self._text, self._at)
        token = found[0] if found else ""
        if token in ("true", "false", "null"):
            pass
        elif not _NUMBER.fullmatch(token):
            raise self._error(
                f"{token[:32] or 'the end'!r} where a JSON value is expected; "
                "NaN and Infinity are not JSON",
                path,
            )
        elif len(token) > MAX_DIGITS:
            raise self._error(f"a number of more than {MAX_DIGITS} characters", path)
        elif not _is_within_float8(Decimal(token)):
            raise self._error(f"the number {token} is beyond 1e{MAX_EXPONENT}", path)
        self._at += len(token)

    def _expect(self, character: str, path: str) -> None:
        self._space()
        if self._text[self._at : self._at + 1] != character:
            raise self._error(f"'{character}' is expected", path)
        self._at += 1

    def _space(self) -> None:
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]

    def _error(self, what: str, path: str) -> MalformedJson:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        place = f"line {line}, column {column}" + (f", at {path[:200]}" if path else "")
        return MalformedJson(f"{what} ({place})", expression=path[:200] or None)
