"""Elements of a resource as places: what FHIRPath finds, and what a patch can change there.

FHIR JSON keeps a primitive in two properties, the value and `_name` with its id and extensions;
here they are one item, so that lists of primitives stay aligned whatever is done to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from interop.errors import BadRequest
from interop.fhir.definitions import Element, definitions
from interop.fhir.lens import JsonObject


class Item(NamedTuple):
    """One value; `beside` holds the id and extensions of a primitive."""

    value: Any
    beside: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """An element of one object: the properties `key` and `_key` of `owner`."""

    of: Place
    owner: JsonObject
    element: Element
    key: str
    type: str

    def items(self) -> list[Item]:
        value, beside = self.owner.get(self.key), self.owner.get("_" + self.key)
        if value is None and beside is None:
            return []
        if not self.element.is_list:
            return [Item(value, beside)]
        return [Item(*pair) for pair in zip_longest(_listed(value), _listed(beside))]

    def store(self, items: Sequence[Item]) -> None:
        """Write the items back; an element without any is left out, and what that empties."""
        kept = [Item(item.value, item.beside or None) for item in items]
        values: list[Any] = [item.value for item in kept]
        besides: list[Any] = [item.beside for item in kept]
        for key, parts in ((self.key, values), ("_" + self.key, besides)):
            if all(part is None for part in parts):
                self.owner.pop(key, None)
            else:
                self.owner[key] = parts if self.element.is_list else parts[0]
        if self.of.is_primitive:
            self.of.replace_beside(self.owner)
        elif not self.owner:
            self.of.remove()


@dataclass(frozen=True, slots=True)
class Place:
    """One element: the resource itself (no slot), or the item of a slot at a position."""

    type: str
    item: Item
    slot: Slot | None = None
    position: int = 0

    @property
    def is_primitive(self) -> bool:
        return definitions().is_primitive(self.type)

    def replace(self, item: Item) -> None:
        assert self.slot is not None
        items = self.slot.items()
        items[self.position] = item
        self.slot.store(items)

    def replace_beside(self, beside: JsonObject) -> None:
        """Give a primitive other extensions; without them and a value it is not there."""
        if self.item.value is None and not beside:
            self.remove()
        else:
            self.replace(Item(self.item.value, beside))

    def remove(self) -> None:
        """Take the element out; the resource itself stays."""
        if self.slot is not None:
            items = self.slot.items()
            del items[self.position]
            self.slot.store(items)

    def object(self) -> JsonObject:
        """The object that holds the children: that of a primitive is made when needed."""
        if not self.is_primitive:
            found: JsonObject = self.item.value
            return found
        return {} if self.item.beside is None else self.item.beside

    def slot_of(self, name: str) -> Slot:
        """The element of that name; of a choice the form that is there, else the first.

        Raises BadRequest where R4 has no such element.
        """
        element, key, type_ = self._declared(name)
        owner = self.object()
        if element.is_choice and not key:
            present = [
                pair for pair in element.keys() if pair[0] in owner or "_" + pair[0] in owner
            ]
            key, type_ = (present or element.keys())[0]
        return Slot(self, owner, element, key, type_)

    def children(self, name: str) -> list[Place]:
        slot = self.slot_of(name)
        return [
            Place(_type_of(item, slot.type), item, slot, position)
            for position, item in enumerate(slot.items())
        ]

    def element(self, name: str) -> Element:
        """What R4 declares under that name. Raises BadRequest where it is nothing."""
        return self._declared(name)[0]

    def _declared(self, name: str) -> tuple[Element, str, str]:
        """The element, and the property and type; '' for a choice that does not say which."""
        table = definitions().types.get("Element" if self.is_primitive else self.type, {})
        element = table.get(name.removesuffix("[x]"))
        if element is not None:
            return (element, "", "") if element.is_choice else (element, *element.keys()[0])
        for one in table.values():
            for key, type_ in one.keys():
                if key == name:
                    return one, key, type_
        raise BadRequest(
            f"{self.type} has no element {name[:64]!r}; accepted: {', '.join(list(table)[:40])}"
        )


def root(resource: JsonObject) -> Place:
    """The place of the resource itself."""
    return Place(str(resource.get("resourceType")), Item(resource))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _type_of(item: Item, declared: str) -> str:
    """A resource inside another says itself of what type it is."""
    if declared == "Resource" and isinstance(item.value, dict):
        return str(item.value.get("resourceType"))
    return declared
