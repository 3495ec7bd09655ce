"""Places inside a resource: read, set or remove one node and leave everything else as it was.

A path is FHIR element names joined by dots. `name[]` steps into the first item of a list,
`telecom[system=phone,use=mobile]` into the first item with these children (FHIR slices by value),
and creates such an item when it is set and absent. The empty path is the resource itself.
Nothing is changed in place: `put` returns a resource that shares what it did not touch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.lens import JsonObject

DATA_ABSENT_REASON: Final = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_STEP = re.compile(r"(?P<name>[A-Za-z]+)(?P<slice>\[(?P<where>[^\]]*)\])?")


@dataclass(frozen=True, slots=True)
class Step:
    """One element name; `where` is None for a single element, else the slice's fixed children."""

    name: str
    where: tuple[tuple[str, str | bool], ...] | None

    def matches(self, item: object) -> bool:
        if not isinstance(item, Mapping):
            return not self.where
        return all(item.get(key) == value for key, value in self.where or ())


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path; `text` is how it was written, for documentation and messages."""

    text: str
    steps: tuple[Step, ...]

    def get(self, resource: JsonObject | None) -> Any:
        """The node at this path, or None."""
        node: Any = resource
        for step in self.steps:
            if not isinstance(node, Mapping):
                return None
            node = node.get(step.name)
            if step.where is not None:
                items = node if isinstance(node, list) else []
                node = next((item for item in items if step.matches(item)), None)
        return node

    def put(self, resource: JsonObject, value: Any) -> JsonObject:
        """A resource with `value` at this path; None removes the node and what only held it.

        Removing takes away every item of a slice, for the next one of them would otherwise be
        read as the value.
        """
        changed = _put(resource, self.steps, value)
        return changed if isinstance(changed, dict) else {}

    def __str__(self) -> str:
        return self.text


def path(text: str) -> Path:
    """Parse the notation of the module docstring; slice values may hold dots, not `,` or `]`."""
    steps: list[Step] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or (match.end() < len(text) and text[match.end()] != "."):
            raise ValueError(f"{text!r} is not a path at character {position}")
        steps.append(Step(match["name"], _where(match)))
        position = match.end() + 1
    return Path(text, tuple(steps))


def _where(match: re.Match[str]) -> tuple[tuple[str, str | bool], ...] | None:
    if match["slice"] is None:
        return None
    pairs = (part.partition("=") for part in match["where"].split(",") if part)
    return tuple((key, True if value == "true" else value) for key, _, value in pairs)


def _put(node: Any, steps: tuple[Step, ...], value: Any) -> Any:
    if not steps:
        return value
    parent = dict(node) if isinstance(node, Mapping) else {}
    step, rest = steps[0], steps[1:]
    old = parent.get(step.name)
    new = _put(old, rest, value) if step.where is None else _put_slice(old, step, rest, value)
    if new is None or new in ({}, []):
        parent.pop(step.name, None)
    else:
        parent[step.name] = new
        if not isinstance(new, dict | list):
            _say_present(parent, step.name)
    return parent


def _put_slice(old: Any, step: Step, rest: tuple[Step, ...], value: Any) -> list[Any]:
    items = list(old) if isinstance(old, list) else []
    fixed: dict[str, Any] = dict(step.where or ())
    if value is None:
        cleared = [_put(item, rest, None) if step.matches(item) else item for item in items]
        return [item for item in cleared if not _is_bare(item, fixed)]
    for index, item in enumerate(items):
        if step.matches(item):
            items[index] = _put(item, rest, value)
            return items
    new = _put(fixed, rest, value)
    return [*items, {**fixed, **new} if isinstance(new, dict) else new]


def _is_bare(item: Any, fixed: dict[str, Any]) -> bool:
    """Whether nothing is left in a slice's item but what made it that slice."""
    return item is None or (isinstance(item, dict) and item.keys() <= fixed.keys())


def _say_present(parent: JsonObject, name: str) -> None:
    """A primitive that now has a value no longer has a reason for being absent."""
    sibling = parent.get(f"_{name}")
    if not isinstance(sibling, dict):
        return
    extensions = sibling.get("extension", [])
    kept = [item for item in extensions if item.get("url") != DATA_ABSENT_REASON]
    if len(kept) == len(extensions):
        return
    rest = {key: item for key, item in sibling.items() if key != "extension"}
    if kept:
        rest["extension"] = kept
    if rest:
        parent[f"_{name}"] = rest
    else:
        parent.pop(f"_{name}")
