"""Converters that find a value inside a node: in a list, a child, a choice element.

They wrap another converter, which knows the value itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from interop.fhir.mappings.concepts import Coding, Reference, has_coding
from interop.fhir.mappings.converters import Converter
from interop.fhir.mappings.path import DATA_ABSENT_REASON


@dataclass(frozen=True, slots=True)
class FirstOf:
    """The items of a list that another converter knows, the first of which is the value.

    The other items stay. Removing the value removes every item that would be read in its place.
    """

    item: Converter

    @property
    def label(self) -> str:
        return f"first {self.item.label}"

    def get(self, node: Any) -> Any:
        known = (self.item.get(item) for item in _items(node))
        return next((value for value in known if value is not None), None)

    def put(self, value: Any, node: Any) -> Any:
        items = _items(node)
        if value is None or (isinstance(value, tuple) and not any(v is not None for v in value)):
            return [item for item in items if self.item.get(item) is None] or None
        for index, item in enumerate(items):
            if self.item.get(item) is not None:
                return [*items[:index], self.item.put(value, item), *items[index + 1 :]]
        return [*items, self.item.put(value, None)]


@dataclass(frozen=True, slots=True)
class Within:
    """A child of a node, with what the node has besides it when it is new."""

    child: str
    converter: Converter
    fresh: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.child}: {self.converter.label}"

    def get(self, node: Any) -> Any:
        return self.converter.get(node.get(self.child)) if isinstance(node, Mapping) else None

    def put(self, value: Any, node: Any) -> Any:
        old = node if isinstance(node, Mapping) else self.fresh
        child = self.converter.put(value, old.get(self.child))
        rest = {key: item for key, item in old.items() if key != self.child}
        return {**rest, self.child: child} if child is not None else rest or None


@dataclass(frozen=True, slots=True)
class Choice:
    """One type of a choice element, on the resource itself: setting it drops the other types."""

    element: str
    converter: Converter
    suffix: str = "DateTime"

    @property
    def label(self) -> str:
        return f"{self.element}{self.suffix}: {self.converter.label}"

    def get(self, node: Any) -> Any:
        name = self.element + self.suffix
        return self.converter.get(node.get(name)) if isinstance(node, Mapping) else None

    def put(self, value: Any, node: Any) -> Any:
        name = self.element + self.suffix
        rest = without_choice(node, self.element)
        new = self.converter.put(value, (node or {}).get(name))
        return rest if new is None else {**rest, name: new}


def without_choice(node: Any, element: str) -> dict[str, Any]:
    """The node without any type of a choice element (`value[x]`) and their siblings."""
    variant = re.compile(f"_?{element}[A-Z]")
    return {key: item for key, item in (node or {}).items() if not variant.match(key)}


@dataclass(frozen=True, slots=True)
class Notes:
    """The texts of all annotations, parted by blank lines; text that was added is a new one."""

    label: str = "all note[].text, parted by blank lines"

    def get(self, node: Any) -> str | None:
        texts = [item.get("text") for item in _items(node) if isinstance(item, Mapping)]
        return "\n\n".join(text for text in texts if isinstance(text, str)) or None

    def put(self, value: str | None, node: Any) -> Any:
        before = self.get(node)
        if value and before and value.startswith(before + "\n\n"):
            return [*_items(node), {"text": value[len(before) + 2 :]}]
        return [{"text": value}] if value else None


@dataclass(frozen=True, slots=True)
class FirstAndRest:
    """A list of strings on its parent as (first, the rest joined): given names, address lines.

    A rest without a first has `null` in its place, with the reason that FHIR wants for it.
    """

    name: str
    joint: str = " "

    @property
    def label(self) -> str:
        return f"{self.name}[0], {self.name}[1..]"

    def get(self, node: Any) -> tuple[str | None, str | None]:
        items = _items(node.get(self.name)) if isinstance(node, Mapping) else []
        rest = [item for item in items[1:] if isinstance(item, str)]
        first = items[0] if items and isinstance(items[0], str) else None
        return first, self.joint.join(rest) or None

    def put(self, value: tuple[str | None, str | None], node: Any) -> Any:
        first, rest = value
        keep = {key: item for key, item in (node or {}).items() if key.lstrip("_") != self.name}
        if first and not rest:
            return {**keep, self.name: [first]}
        if first:
            return {**keep, self.name: [first, rest]}
        if not rest:
            return keep or None
        absent = {"extension": [{"url": DATA_ABSENT_REASON, "valueCode": "unknown"}]}
        return {**keep, self.name: [None, rest], f"_{self.name}": [absent, None]}


def _items(node: Any) -> list[Any]:
    return node if isinstance(node, list) else []


@dataclass(frozen=True, slots=True)
class Fixed:
    """A node of a list that is known by a fixed part; its value is in one child of it.

    Within a FirstOf it finds, say, the component with a code or the identifier of a type.
    """

    known_by: str
    coding: Coding
    child: str
    converter: Converter

    @property
    def label(self) -> str:
        return f"{self.known_by} {self.coding.code}: {self.converter.label}"

    def get(self, node: Any) -> Any:
        if not isinstance(node, Mapping) or not has_coding(node.get(self.known_by), self.coding):
            return None
        return self.converter.get(node.get(self.child))

    def put(self, value: Any, node: Any) -> Any:
        old = node or {self.known_by: self.coding.concept()}
        return {**old, self.child: self.converter.put(value, old.get(self.child))}


@dataclass(frozen=True, slots=True)
class References:
    """All references of some types in a list, as a sorted tuple; others stay."""

    reference: Reference

    @property
    def label(self) -> str:
        return f"list of {self.reference.label}"

    def get(self, node: Any) -> tuple[str, ...]:
        return tuple(
            sorted({found for item in _items(node) if (found := self.reference.get(item))})
        )

    def put(self, value: tuple[str, ...], node: Any) -> Any:
        kept = [item for item in _items(node) if self.reference.get(item) in (None, *value)]
        known = {self.reference.get(item) for item in kept}
        added = [self.reference.put(item, None) for item in value if item not in known]
        return [*kept, *added] or None
