"""FHIRPath trees to Python closures, typed before they run.

FHIR JSON does not say of what type an element is, but the definition tables do. So every path is
resolved against them once: `Observation.value` becomes one getter for each type that value[x] may
have, and running a getter is dictionary look-ups only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from interop.fhir.definitions import ABSTRACT, Definitions, Element, definitions
from interop.fhir.fhirpath import (
    Call,
    FhirPathError,
    Index,
    Literal,
    Name,
    Node,
    Operation,
    Step,
    TypeTest,
    Union,
    Variable,
    parse,
)
from interop.fhir.references import referenced_type

# (items, whole resource) -> items
Getter = Callable[[Sequence[Any], Any], Sequence[Any]]
Predicate = Callable[[Any, Any], bool | None]

# Some R4 expressions write data types in another case.
_TYPE_ALIASES = {"DateTime": "dateTime", "Uri": "uri", "String": "string"}
# A canonical is a uri as well (datatypes.html).
_SUBTYPES = {
    "uri": ("url", "canonical", "oid", "uuid"),
    "string": ("code", "id", "markdown"),
    "integer": ("positiveInt", "unsignedInt"),
    "Quantity": ("Age", "Count", "Distance", "Duration"),
}
BOOLEAN = "boolean"
# Of one expression: an element of any type, below an element of any type, has thousands.
MAX_STREAMS = 500


@dataclass(frozen=True, slots=True)
class Stream:
    """The values of one type that an expression yields. `element` is where they were declared."""

    type: str
    get: Getter
    element: Element | None = None


@cache
def compile_expression(expression: str, context_type: str) -> tuple[Stream, ...]:
    """The streams of `expression` over items of `context_type`; () when it is about other types.

    Raises FhirPathError when the expression is beyond the subset or names no known element.
    """
    return tuple(_Compiler(definitions(), context_type).streams(parse(expression)))


def _resources(get: Getter, type_: str) -> Getter:
    return lambda items, resource: [
        item
        for item in get(items, resource)
        if isinstance(item, dict) and item.get("resourceType") == type_
    ]


def _identity(items: Sequence[Any], _resource: Any) -> Sequence[Any]:
    return items


def _root(_items: Sequence[Any], resource: Any) -> Sequence[Any]:
    return (resource,)


class _Compiler:
    def __init__(self, tables: Definitions, context_type: str) -> None:
        self._tables = tables
        self._context_type = context_type
        self._resource_type = context_type.partition(".")[0]

    def streams(self, node: Node) -> list[Stream]:
        match node:
            case Union(parts):
                return [stream for part in parts for stream in self.streams(part)]
            case Name(name):
                return self._start(name)
            case Variable("resource"):
                return [Stream(self._resource_type, _root)]
            case Step(of, then):
                return self._step(self.streams(of), then)
            case Call():
                return self._step([Stream(self._context_type, _identity)], node)
            case TypeTest(of, type_, True):
                return self._of_type(self.streams(of), type_)
            case Operation():
                return [Stream(BOOLEAN, self._truth(node))]
            case _:
                raise FhirPathError(f"{node} yields no values")

    def _start(self, name: str) -> list[Stream]:
        here = Stream(self._context_type, _identity)
        if name == self._context_type or name in ABSTRACT:
            return [here]
        if name in self._tables.resource_types:
            return []  # an alternative of the expression for another resource type
        return self._child([here], name)

    def _step(self, streams: list[Stream], then: Name | Call | Index) -> list[Stream]:
        match then:
            case Name(name):
                return self._child(streams, name)
            case Index(Literal(int(position))):
                return [Stream(s.type, _nth(s.get, position), s.element) for s in streams]
            case Call("as" | "ofType", (Name(type_),)):
                return self._of_type(streams, type_)
            case Call("extension", (Literal(str(url)),)):
                condition = Operation("=", Name("url"), Literal(url))
                return [self._where(s, condition) for s in self._child(streams, "extension")]
            case Call("first", ()):
                return [Stream(s.type, _nth(s.get, 0), s.element) for s in streams]
            case Call("where", (condition,)):
                return [self._where(s, condition) for s in streams]
            case _:
                raise FhirPathError(f"{then} is not a function of search parameter expressions")

    def _child(self, streams: list[Stream], name: str) -> list[Stream]:
        found: list[Stream] = []
        for stream in streams:
            element = self._tables.types.get(stream.type, {}).get(name)
            if element is not None:
                found += [
                    Stream(type_, _property(stream.get, key), element)
                    for key, type_ in element.keys()
                ]
        if streams and not found:
            types = ", ".join(sorted({stream.type for stream in streams})[:5])
            raise FhirPathError(f"{types}: no element {name!r}")
        if len(found) > MAX_STREAMS:
            raise FhirPathError(f"{name!r} may be of more than {MAX_STREAMS} kinds; name the type")
        return found

    def _of_type(self, streams: list[Stream], type_: str) -> list[Stream]:
        wanted = _TYPE_ALIASES.get(type_, type_)
        kinds = (wanted, *_SUBTYPES.get(wanted, ()))
        found = [stream for stream in streams if stream.type in kinds]
        if wanted in self._tables.resource_types:
            # A resource within a resource is declared as any.
            found += [
                Stream(wanted, _resources(stream.get, wanted), stream.element)
                for stream in streams
                if stream.type in ABSTRACT
            ]
        return found

    def _where(self, stream: Stream, condition: Node) -> Stream:
        inner = _Compiler(self._tables, stream.type)
        inner._resource_type = self._resource_type
        return Stream(stream.type, _filter(stream.get, inner.predicate(condition)), stream.element)

    def _truth(self, node: Node) -> Getter:
        predicate = self.predicate(node)

        def get(items: Sequence[Any], resource: Any) -> Sequence[Any]:
            return [answer for item in items if (answer := predicate(item, resource)) is not None]

        return get

    def predicate(self, node: Node) -> Predicate:
        """A condition on one item: true, false, or None for FHIRPath's empty."""
        match node:
            case Operation("and", left, right):
                return _both(self.predicate(left), self.predicate(right))
            case Operation("=" | "!=" as sign, left, Literal(value)):
                return _compares([s.get for s in self.streams(left)], sign == "=", value)
            case Step(of, Call("exists", ())):
                return _exists([s.get for s in self.streams(of)])
            case TypeTest(Call("resolve", ()), type_, False):
                return _refers_to(type_)
            case _:
                raise FhirPathError(f"{node} is not a condition of search parameter expressions")


def _property(get: Getter, key: str) -> Getter:
    def child(items: Sequence[Any], resource: Any) -> Sequence[Any]:
        found: list[Any] = []
        for item in get(items, resource):
            value = item.get(key)
            if value is None:
                continue
            if isinstance(value, list):
                found += [part for part in value if part is not None]
            else:
                found.append(value)
        return found

    return child


def _nth(get: Getter, position: int) -> Getter:
    return lambda items, resource: get(items, resource)[position : position + 1]


def _filter(get: Getter, predicate: Predicate) -> Getter:
    return lambda items, resource: [
        item for item in get(items, resource) if predicate(item, resource)
    ]


def _both(left: Predicate, right: Predicate) -> Predicate:
    """FHIRPath `and`: false wins over empty (N1 6.5.1)."""

    def both(item: Any, resource: Any) -> bool | None:
        answers = (left(item, resource), right(item, resource))
        if False in answers:
            return False
        return None if None in answers else True

    return both


def _compares(getters: list[Getter], equal: bool, literal: object) -> Predicate:
    def compares(item: Any, resource: Any) -> bool | None:
        values = [value for get in getters for value in get((item,), resource)]
        if not values:
            return None
        same = len(values) == 1 and type(values[0]) is type(literal) and values[0] == literal
        return same is equal

    return compares


def _exists(getters: list[Getter]) -> Predicate:
    return lambda item, resource: any(get((item,), resource) for get in getters)


def _refers_to(type_: str) -> Predicate:
    """`resolve() is T`, from what the reference itself says: nothing is fetched while indexing."""
    return lambda item, resource: referenced_type(item, resource) == type_
