"""Snapshots of StructureDefinitions: a differential laid over the snapshot of its base.

For constraints as profiles and extensions state them (FHIR R4 profiling.html#snapshot): elements,
slices, slices of extensions, and elements inside data types and inside slices. Prose of the base
is left where it is: a snapshot here says what holds, not why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Json = Any
CORE = "http://hl7.org/fhir/StructureDefinition/"
PROSE = (
    "short",
    "definition",
    "comment",
    "requirements",
    "alias",
    "mapping",
    "example",
    "isModifierReason",
    "orderMeaning",
    "meaningWhenMissing",
    "condition",
    "label",
)
# What a slice does not take from the element that it is a slice of.
NOT_OF_A_SLICE = ("slicing", "min", "sliceName")

EXTENSIONS = (".extension", ".modifierExtension")
# How extensions are sliced where nothing else is said.
BY_URL = {"discriminator": [{"type": "value", "path": "url"}], "ordered": False, "rules": "open"}


class SnapshotError(Exception):
    """A differential that does not fit its base."""


def snapshot(definition: Json, find: Callable[[str], Json | None]) -> list[Json]:
    """The elements of the snapshot; `find` gives the base and data types, with snapshots."""
    base = find(definition["baseDefinition"]) or find(CORE + definition["type"])
    if base is None:
        raise SnapshotError(f"{definition['url']}: no {definition['baseDefinition']}")
    builder = _Builder([_bare(element) for element in base["snapshot"]["element"]], find)
    for element in definition["differential"]["element"]:
        builder.constrain(element, definition["url"])
    return [_described(element) for element in builder.elements]


def _described(element: Json) -> Json:
    """What rules of R4 want said of every element (sdf-3, eld-18), where nothing else is."""
    said = element.get("short") or f"As {element['base']['path']} in FHIR R4"
    element.setdefault("definition", said)
    if element.get("isModifier"):
        element.setdefault("isModifierReason", f"As {element['base']['path']} in FHIR R4")
    return element


def _bare(element: Json) -> Json:
    kept = copy.deepcopy({key: value for key, value in element.items() if key not in PROSE})
    for constraint in kept.get("constraint", []):
        constraint.pop("xpath", None)
    return kept


class _Builder:
    def __init__(self, elements: list[Json], find: Callable[[str], Json | None]) -> None:
        self.elements = elements
        self._find = find

    def constrain(self, change: Json, url: str) -> None:
        id_ = change.get("id") or change["path"]
        element = self.elements[self._place(id_)]
        for key, value in change.items():
            if key in ("id", "path", "sliceName"):
                continue
            if key == "constraint":
                added = [
                    {**constraint, "source": constraint.get("source", url)} for constraint in value
                ]
                element[key] = [*element.get(key, []), *added]
            elif key == "type":
                element[key] = copy.deepcopy(value)
            elif key == "binding":
                stated = {k: v for k, v in value.items() if k != "description"}
                element[key] = element.get(key, {}) | stated
            else:
                element[key] = copy.deepcopy(value)
        if "sliceName" in change:
            element["sliceName"] = change["sliceName"]

    def _place(self, id_: str) -> int:
        """The index of the element of this id, which is made where it is not there yet."""
        found = self._index(id_)
        if found is not None:
            return found
        parent_id, _, last = id_.rpartition(".")
        name, _, slice_name = last.partition(":")
        if slice_name:
            return self._add_slice(f"{parent_id}.{name}", slice_name)
        if not parent_id:
            raise SnapshotError(f"{id_}: no such element")
        self._unfold(self._place(parent_id))
        found = self._index(id_)
        if found is None:
            # A choice is constrained as value[x], not by the short form valueString.
            raise SnapshotError(f"{id_}: no such element")
        return found

    def _index(self, id_: str) -> int | None:
        return next((i for i, e in enumerate(self.elements) if e["id"] == id_), None)

    def _end(self, index: int, *, with_slices: bool) -> int:
        """Where the element, what is in it, and perhaps its slices, end."""
        id_ = self.elements[index]["id"]
        marks = (f"{id_}.", f"{id_}:") if with_slices else (f"{id_}.",)
        end = index + 1
        while end < len(self.elements) and self.elements[end]["id"].startswith(marks):
            end += 1
        return end

    def _add_slice(self, sliced_id: str, name: str) -> int:
        index = self._place(sliced_id)
        sliced = self.elements[index]
        if sliced_id.endswith(EXTENSIONS):
            sliced.setdefault("slicing", copy.deepcopy(BY_URL))
        added = {k: copy.deepcopy(v) for k, v in sliced.items() if k not in NOT_OF_A_SLICE}
        added |= {"id": f"{sliced_id}:{name}", "sliceName": name, "min": 0}
        place = self._end(index, with_slices=True)
        self.elements.insert(place, added)
        return place

    def _unfold(self, index: int) -> None:
        """Put the children of an element under it: of what it is a slice of, or of its type."""
        element = self.elements[index]
        id_, path = element["id"], element["path"]
        if self._end(index, with_slices=False) > index + 1:
            return
        children = self._children_of_sliced(id_) or self._children_of_type(element)
        for offset, (suffix, child) in enumerate(children, start=1):
            made = _bare(child)
            made["id"] = id_ + suffix
            made["path"] = path + "".join(
                "." + part.split(":")[0] for part in suffix[1:].split(".")
            )
            self.elements.insert(index + offset, made)

    def _children_of_sliced(self, id_: str) -> list[tuple[str, Json]]:
        head, _, last = id_.rpartition(".")
        name, _, slice_name = last.partition(":")
        origin = f"{head}.{name}." if slice_name else ""
        return [
            (element["id"][len(origin) - 1 :], element)
            for element in self.elements
            if origin and element["id"].startswith(origin)
        ]

    def _children_of_type(self, element: Json) -> list[tuple[str, Json]]:
        reference = element.get("contentReference")
        if reference:
            origin = reference.partition("#")[2]
            found = [e for e in self.elements if e["id"].startswith(f"{origin}.")]
            return [(e["id"][len(origin) :], e) for e in found]
        codes = {type_["code"] for type_ in element.get("type", [])}
        if len(codes) != 1:
            raise SnapshotError(f"{element['id']}: one type is needed to look inside, not {codes}")
        type_ = element["type"][0]
        profiles = type_.get("profile", [])
        definition = (self._find(profiles[0]) if profiles else None) or self._find(
            CORE + type_["code"]
        )
        if definition is None:
            raise SnapshotError(f"{element['id']}: no definition of {type_['code']}")
        elements = definition["snapshot"]["element"]
        root = elements[0]["id"]
        return [(e["id"][len(root) :], e) for e in elements[1:]]
