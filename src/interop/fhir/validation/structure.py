"""ElementDefinitions of a profile as a tree: elements below elements, slices beside them.

Rows are as profiles/README.md describes them, or a StructureDefinition's own snapshot or
differential; an element that no row speaks of is as its type has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MAX_ELEMENTS = 5_000
Row = dict[str, Any]


class ProfileError(ValueError):
    """The StructureDefinition cannot be read."""


@dataclass(slots=True)
class Node:
    """An element of a profile. `row` is what the profile says of it; {} where it says nothing."""

    name: str
    row: Row = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)
    slices: dict[str, Node] = field(default_factory=dict)

    def child(self, name: str) -> Node:
        return self.children.setdefault(name, Node(name))

    def slice(self, name: str) -> Node:
        """A slice; `a/b` is slice b of slice a where a is sliced itself."""
        outer, _, inner = name.partition("/")
        if inner and outer in self.slices:
            return self.slices[outer].slice(inner)
        return self.slices.setdefault(name, Node(self.name))

    def fixed(self) -> tuple[str, Any] | None:
        """("fixed" or "pattern", value) where the element has one."""
        for key, value in self.row.items():
            for kind in ("fixed", "pattern"):
                if key.startswith(kind) and key[len(kind) :][:1].isupper():
                    return kind, value
        return None

    def limit(self, prefix: str) -> Any:
        """The value of minValue[x] or maxValue[x]."""
        return next((v for k, v in self.row.items() if k.startswith(prefix)), None)

    def types(self) -> list[Row]:
        return [type_ for type_ in self.row.get("type", ()) if isinstance(type_, dict)]


def tree(rows: Iterable[Row], type_: str) -> Node:
    """The tree of a profile of `type_`. Raises ProfileError where a row has no place in it."""
    root = Node(type_)
    ids = _Identifiers()
    for count, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("path"), str):
            raise ProfileError("an element without a path")
        if count >= MAX_ELEMENTS:
            raise ProfileError(f"more than {MAX_ELEMENTS} elements")
        place = ids.of(row)
        if place[0].partition(":")[0] != type_:
            raise ProfileError(f"{row['path'][:100]} is not an element of {type_}")
        node = root
        for part in place[1:]:
            name, _, slice_name = part.partition(":")
            node = node.child(name)
            if slice_name:
                node = node.slice(slice_name)
        node.row = {**node.row, **row}
    return root


class _Identifiers:
    """Element ids (elementdefinition.html#id), made from path and sliceName where there are none.

    Only what stands before in the list tells in which slice an element without an id is.
    """

    def __init__(self) -> None:
        self._last: list[str] = []

    def of(self, row: Row) -> list[str]:
        given = row.get("id")
        if isinstance(given, str) and _bare(given) == row["path"].split("."):
            return given.split(".")
        parts = list(row["path"].split("."))
        for index in range(min(len(parts), len(self._last)) - 1):
            if self._last[index].partition(":")[0] != parts[index]:
                break
            parts[index] = self._last[index]
        if isinstance(row.get("sliceName"), str):
            parts[-1] = f"{parts[-1]}:{row['sliceName']}"
        self._last = parts
        return parts


def _bare(identifier: str) -> list[str]:
    return [part.partition(":")[0] for part in identifier.split(".")]
