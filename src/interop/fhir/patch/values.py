"""The value of a FHIRPath Patch operation: a value[x], a resource, or parts that build one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from interop.errors import BadRequest
from interop.fhir.definitions import Element, definitions
from interop.fhir.lens import JsonObject
from interop.fhir.patch.elements import Item, Place
from interop.fhir.patch.limits import Budget

_TEXTS = frozenset(
    "base64Binary canonical code date dateTime id instant markdown oid string time uri url uuid"
    " xhtml".split()
)
_NUMBERS = frozenset(("integer", "unsignedInt", "positiveInt", "decimal"))


@dataclass(frozen=True, slots=True)
class Typed:
    """A value with the JSON property and the type that it has in an element."""

    key: str
    type: str
    item: Item


def typed_value(parameter: JsonObject, element: Element, key: str, budget: Budget) -> Typed:
    """What the parameter says for an element. Raises BadRequest where it is of another type.

    `key` is the property of a choice that the patch names, or ''.
    """
    forms = [pair for pair in element.keys() if key in ("", pair[0])]
    if "part" in parameter:
        if len(forms) > 1:
            accepted = ", ".join(pair[0] for pair in forms)
            raise BadRequest(f"name the type of {element.name}[x]; accepted: {accepted}")
        return Typed(*forms[0], Item(_built(parameter["part"], forms[0][1], budget)))
    if "resource" in parameter:
        if forms[0][1] != "Resource":
            raise BadRequest(f"{element.name} is no resource; expected {_expected(forms)}")
        return Typed(*forms[0], Item(budget.copy(parameter["resource"])))
    for property_, given in _value_forms().items():
        if property_ in parameter or "_" + property_ in parameter:
            for name, type_ in forms:
                if _is_accepted(given, type_, is_choice=element.is_choice):
                    value = budget.copy(parameter.get(property_))
                    beside = budget.copy(parameter.get("_" + property_))
                    return Typed(name, type_, Item(value, beside))
            raise BadRequest(f"{element.name} takes no {property_}; expected {_expected(forms)}")
    raise BadRequest(f"no value; expected {_expected(forms)}, or parts that name its elements")


def _built(parts: Any, type_: str, budget: Budget) -> JsonObject:
    """A value that no value[x] can hold, such as a backbone element, from its parts."""
    if definitions().is_primitive(type_) or not isinstance(parts, list):
        raise BadRequest(f"{type_} has no parts")
    made: JsonObject = {}
    place = Place(type_, Item(made))
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("name"), str):
            raise BadRequest("a part of the value has no name")
        put(place, part["name"], part, budget)
    return made


def put(place: Place, name: str, parameter: JsonObject, budget: Budget) -> bool:
    """Add to the element `name` of a place; False where it is there and takes only one."""
    element = place.element(name)
    key = "" if name.removesuffix("[x]") == element.name else name
    typed = typed_value(parameter, element, key, budget)
    slot = place.slot_of(typed.key)
    if not element.is_list and place.slot_of(element.name).items():
        return False
    slot.store([*slot.items(), typed.item])
    return True


@cache
def _value_forms() -> dict[str, str]:
    """valueX of a parameter -> its type."""
    return dict(definitions().types["Parameters.parameter"]["value"].keys())


def _is_accepted(given: str, wanted: str, *, is_choice: bool) -> bool:
    if given == wanted:
        return True
    if is_choice:
        return False
    if given in _TEXTS and wanted in _TEXTS:
        return True  # a code sent as a string: the gate looks at what it says
    if given in _NUMBERS and wanted in _NUMBERS:
        return True
    # Age, Count, Distance, Duration and SimpleQuantity are Quantities.
    tables = definitions().types
    return given in tables and tables[given] == tables.get(wanted)


def _expected(forms: list[tuple[str, str]]) -> str:
    return " or ".join(f"value{type_[0].upper()}{type_[1:]}" for _, type_ in forms[:20])
