"""FHIRPath Patch: a Parameters resource of operations on elements (R4 fhirpatch.html)."""

from __future__ import annotations

from typing import Any

from interop.errors import BadRequest, ServerError, Unprocessable
from interop.fhir.lens import JsonObject
from interop.fhir.patch.elements import Item, Place, Slot, root
from interop.fhir.patch.limits import Budget, check_count, require_same_resource
from interop.fhir.patch.paths import Path
from interop.fhir.patch.values import put, typed_value

# Operation -> the parts that it must have besides type and path; value is looked at by itself.
_PARTS = {
    "add": ("name", "value"),
    "insert": ("index", "value"),
    "delete": (),
    "replace": ("value",),
    "move": ("source", "destination"),
}


def apply_fhirpath_patch(resource: JsonObject, parameters: JsonObject) -> JsonObject:
    """The resource after all operations, which hold together: one that fails fails the patch.

    Raises BadRequest for what is no FHIRPath Patch, TooCostly, and Unprocessable for one that does
    not fit the resource; each names the operation by its index.
    """
    if parameters.get("resourceType") != "Parameters":
        raise BadRequest("a FHIRPath Patch is a Parameters resource (fhirpatch.html)")
    operations = parameters.get("parameter", [])
    if not isinstance(operations, list):
        raise BadRequest("Parameters.parameter must be an array", expression="Parameters.parameter")
    check_count(operations)
    budget = Budget()
    patched: JsonObject = budget.copy(resource)
    for index, operation in enumerate(operations):
        place = f"Parameters.parameter[{index}]"
        try:
            _Operation(operation, budget).apply(patched)
        except ServerError as error:
            raise type(error)(f"{place}: {error.diagnostics}", expression=place) from None
    return require_same_resource(resource, patched)


class _Operation:
    """One operation, read and checked."""

    def __init__(self, operation: Any, budget: Budget) -> None:
        self._budget = budget
        if not isinstance(operation, dict) or operation.get("name") != "operation":
            raise BadRequest("each parameter of a patch is named 'operation'")
        self._parts: dict[str, JsonObject] = {}
        for part in operation.get("part", ()):
            name = part.get("name") if isinstance(part, dict) else None
            if name not in ("type", "path", "name", "value", "index", "source", "destination"):
                raise BadRequest(
                    f"the part {str(name)[:64]!r} is not one of an operation; accepted: type, "
                    "path, name, value, index, source, destination"
                )
            if name in self._parts:
                raise BadRequest(f"the part {name!r} is given twice")
            self._parts[name] = part
        self._type = self._text("type", "valueCode", "valueString")
        if self._type not in _PARTS:
            raise BadRequest(f"type is {self._type[:32]!r}; accepted: {', '.join(_PARTS)}")
        for required in _PARTS[self._type]:
            if required not in self._parts:
                raise BadRequest(f"{self._type} needs the part {required!r}")
        self._path_text = self._text("path", "valueString")
        self._path = Path(self._path_text, budget)

    def apply(self, resource: JsonObject) -> None:
        place = root(resource)
        match self._type:
            case "add":
                self._add(self._one(place))
            case "insert":
                self._insert(self._list(place))
            case "delete":
                self._delete(place)
            case "replace":
                self._replace(self._one(place))
            case _:
                self._move(self._list(place))

    def _add(self, place: Place) -> None:
        name = self._text("name", "valueString", "valueCode", "valueId")
        if not put(place, name, self._parts["value"], self._budget):
            raise Unprocessable(f"{name!r} is there already and takes one value; replace it")

    def _insert(self, slot: Slot) -> None:
        items = slot.items()
        index = self._index("index", len(items) + 1)
        value = typed_value(self._parts["value"], slot.element, slot.key, self._budget)
        slot.store([*items[:index], value.item, *items[index:]])

    def _delete(self, resource: Place) -> None:
        """What is not there need not be deleted."""
        found = self._path.places(resource)
        if len(found) > 1:
            raise Unprocessable(
                f"the path {self._path_text[:200]!r} finds {len(found)} elements; "
                "one can be deleted"
            )
        for place in found:
            _require_slot(place)
            place.remove()

    def _replace(self, place: Place) -> None:
        slot = _require_slot(place)
        typed = typed_value(self._parts["value"], slot.element, "", self._budget)
        if typed.key != slot.key:
            slot.owner[typed.key] = typed.item.value  # so that the owner is never left empty
            slot.store([])
            Slot(slot.of, slot.owner, slot.element, typed.key, typed.type).store([typed.item])
        else:
            place.replace(typed.item)

    def _move(self, slot: Slot) -> None:
        items: list[Item] = slot.items()
        item = items.pop(self._index("source", len(items)))
        items.insert(self._index("destination", len(items) + 1), item)
        slot.store(items)

    # -- what the parts name ------------------------------------------------------------

    def _one(self, resource: Place) -> Place:
        found = self._path.places(resource)
        if len(found) != 1:
            raise Unprocessable(
                f"the path {self._path_text[:200]!r} finds {len(found)} elements; "
                f"{self._type} needs exactly one"
            )
        return found[0]

    def _list(self, resource: Place) -> Slot:
        owners, name = self._path.list_of(resource)
        if len(owners) != 1:
            raise Unprocessable(
                f"{len(owners)} elements hold what {self._path_text[:200]!r} names; "
                f"{self._type} needs exactly one"
            )
        slot = owners[0].slot_of(name)
        if not slot.element.is_list:
            raise Unprocessable(f"{name!r} takes one value; {self._type} needs a list")
        return slot

    def _index(self, part: str, below: int) -> int:
        value = self._parts[part].get("valueInteger")
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadRequest(f"the part {part!r} must have a valueInteger")
        if not 0 <= value < below:
            raise Unprocessable(f"{part} is {value}; accepted here: 0 to {below - 1}")
        return value

    def _text(self, part: str, *keys: str) -> str:
        for key in keys:
            value = self._parts.get(part, {}).get(key)
            if isinstance(value, str):
                return value
        raise BadRequest(f"an operation needs the part {part!r} with a {keys[0]}")


def _require_slot(place: Place) -> Slot:
    if place.slot is None:
        raise Unprocessable("the resource itself can be neither deleted nor replaced")
    return place.slot
