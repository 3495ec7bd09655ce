"""Elements of a resource as FHIRPath sees them: a value with its type and where it stands.

JSON does not say of what type an element is; the definition tables do. Every step from one element
to another looks the types up, so that `is`, `as` and choices (`value` for valueQuantity) work.
A collection is a list of Items and of plain values (bool, int, Decimal, str, Moment, Time,
Quantity) that were computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from interop.fhir.definitions import definitions

Collection = list[Any]

_STRINGS = frozenset(("code", "id", "markdown"))
_URIS = frozenset(("url", "canonical", "uuid", "oid"))
_WHOLE = frozenset(("unsignedInt", "positiveInt"))
QUANTITIES = frozenset(
    ("Quantity", "Age", "Count", "Distance", "Duration", "SimpleQuantity", "MoneyQuantity")
)
# What FHIRPath's own types are among R4's primitives.
_SYSTEM_TYPES = {
    "Boolean": frozenset(("boolean",)),
    "String": frozenset(("string", "uri", "base64Binary", "xhtml")) | _STRINGS | _URIS,
    "Integer": frozenset(("integer",)) | _WHOLE,
    "Decimal": frozenset(("decimal",)),
    "Date": frozenset(("date",)),
    "DateTime": frozenset(("dateTime", "instant")),
    "Time": frozenset(("time",)),
    "Quantity": QUANTITIES,
}


class Item:
    """One element. `extra` is what stands beside a primitive: its id and extensions (`_name`).

    `parent`, `key` and `index` say where in the JSON it is; None for what has no place.
    """

    __slots__ = ("extra", "index", "key", "parent", "type", "value")

    def __init__(
        self,
        value: Any,
        type_: str,
        extra: Any = None,
        parent: Item | None = None,
        key: str = "",
        index: int | None = None,
    ) -> None:
        self.value = value
        self.type = type_
        self.extra = extra
        self.parent = parent
        self.key = key
        self.index = index

    def value_or_empty(self) -> dict[str, Any]:
        """The value of a complex element; {} for a primitive."""
        return self.value if type(self.value) is dict else {}

    def path(self) -> str:
        """The FHIRPath of its place, from the resource on."""
        place = f"[{self.index}]" if self.index is not None else ""
        if self.parent is None:
            return (self.key or self.type) + place
        return f"{self.parent.path()}.{self.key}{place}"


def resource_item(resource: dict[str, Any], path: str = "") -> Item:
    """A resource as the root of paths; `path` where it stands when it is inside another."""
    return Item(resource, _type_of(resource), key=path)


def _type_of(resource: dict[str, Any]) -> str:
    found = resource.get("resourceType")
    return found if type(found) is str else "Resource"


# (JSON property, property of what stands beside it, type, 0 complex | 1 primitive | 2 resource)
_Form = tuple[str, str, str, int]


class _Children(dict[str, dict[str, tuple[_Form, ...]]]):
    """Type -> element name -> the properties that may hold it, made when first asked."""

    def __missing__(self, type_: str) -> dict[str, tuple[_Form, ...]]:
        tables = definitions()
        found: dict[str, tuple[_Form, ...]] = {}
        for name, element in tables.types.get(type_, {}).items():
            found[name] = tuple((key, f"_{key}", of, _kind(of)) for key, of in element.keys())
        if not found and tables.is_primitive(type_):
            found["extension"] = (("extension", "_extension", "Extension", 0),)
            found["id"] = (("id", "_id", "string", 1),)
        if found:  # clients name types that there are none of, and these are not kept
            self[type_] = found
        return found


def _kind(type_: str) -> int:
    if type_ in ("Resource", "DomainResource"):
        return 2
    return 1 if definitions().is_primitive(type_) or type_ == "xhtml" else 0


CHILDREN = _Children()


def navigate(items: Collection, name: str) -> Collection:
    """The elements `name` of each item, in order."""
    found: Collection = []
    for item in items:
        if type(item) is not Item:
            continue
        forms = CHILDREN[item.type].get(name)
        if forms is not None:
            add_children(item, forms, found)
        elif name == "value" and item.value is not None and type(item.value) is not dict:
            found.append(item.value)  # the value of a primitive, without its extensions
    return found


def add_children(item: Item, forms: tuple[_Form, ...], found: Collection) -> None:
    """Append what stands in these properties of an item."""
    owner = item.value
    if type(owner) is not dict:
        owner = item.extra
        if type(owner) is not dict:
            return
    for key, beside, type_, kind in forms:
        value = owner.get(key)
        if kind == 1:
            extra = owner.get(beside)
            if value is None and extra is None:
                continue
            if type(value) is list or type(extra) is list:
                _add_primitives(value, extra, (item, key, type_), found)
            else:
                found.append(Item(value, type_, extra, item, key))
        elif value is None:
            continue
        elif type(value) is list:
            for index, part in enumerate(value):
                if type(part) is dict:
                    of = _type_of(part) if kind else type_
                    found.append(Item(part, of, None, item, key, index))
        elif type(value) is dict:
            found.append(Item(value, _type_of(value) if kind else type_, None, item, key))


def _add_primitives(
    values: Any, extras: Any, place: tuple[Item, str, str], found: Collection
) -> None:
    """json.html#primitive: values and extensions in two arrays, null where one has none."""
    parent, key, type_ = place
    values = values if type(values) is list else []
    extras = extras if type(extras) is list else []
    for index in range(max(len(values), len(extras))):
        value = values[index] if index < len(values) else None
        extra = extras[index] if index < len(extras) else None
        if value is not None or extra is not None:
            found.append(Item(value, type_, extra, parent, key, index))


def children(item: Any) -> Collection:
    """All elements of an item."""
    found: Collection = []
    if type(item) is Item:
        for forms in CHILDREN[item.type].values():
            add_children(item, forms, found)
    return found


def descendants(item: Any) -> Iterator[Item]:
    """All elements of an item, of these, and so on."""
    waiting = children(item)[::-1]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += children(found)[::-1]


def is_type(type_: str, wanted: str) -> bool:
    """Whether an element of `type_` is a `wanted`: that type or one that it specializes."""
    namespace, _, bare = wanted.rpartition(".")
    if type_ == bare and namespace != "System":
        return True
    if bare in _SYSTEM_TYPES and (namespace == "System" or bare[0].isupper()):
        return type_ in _SYSTEM_TYPES[bare]
    if bare == "string":
        return type_ in _STRINGS
    if bare == "uri":
        return type_ in _URIS
    if bare == "integer":
        return type_ in _WHOLE
    tables = definitions()
    if bare in ("Resource", "DomainResource"):
        is_plain = type_ in ("Bundle", "Binary", "Parameters")
        return type_ in tables.resource_types and not (is_plain and bare == "DomainResource")
    if bare == "BackboneElement":
        return "." in type_
    return bare == "Element" and type_ not in tables.resource_types
