"""A CodeSystem in memory: its concepts and their hierarchy (FHIR R4 codesystem.html)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

JsonObject = dict[str, Any]

_INACTIVE_STATUSES = ("retired", "deprecated", "withdrawn")


@dataclass(frozen=True, slots=True)
class Concept:
    """One code. `is_abstract`: groups others and is not for use in data."""

    code: str
    display: str | None
    parents: tuple[str, ...]
    is_abstract: bool
    is_inactive: bool


@dataclass(frozen=True, slots=True)
class CodeSystem:
    """All concepts of a system, in the order of their definition."""

    url: str
    version: str | None
    content: str
    is_case_sensitive: bool
    concepts: dict[str, Concept]
    _children: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether a code that is not here is no code of the system."""
        return self.content == "complete"

    def find(self, code: str) -> Concept | None:
        found = self.concepts.get(code)
        if found is None and not self.is_case_sensitive:
            folded = code.casefold()
            same = (c for c in self.concepts.values() if c.code.casefold() == folded)
            found = next(same, None)
        return found

    def descendants(self, code: str) -> frozenset[str]:
        """The code and everything below it; empty where the system has no such code."""
        return self._closure(code, lambda concept: self._children.get(concept.code, ()))

    def ancestors(self, code: str) -> frozenset[str]:
        """The code and everything above it; empty where the system has no such code."""
        return self._closure(code, lambda concept: concept.parents)

    def _closure(self, code: str, step: Any) -> frozenset[str]:
        start = self.find(code)
        found: set[str] = set()
        waiting = [start.code] if start else []
        while waiting:
            concept = self.concepts.get(waiting.pop())
            if concept and concept.code not in found:
                found.add(concept.code)
                waiting.extend(step(concept))
        return frozenset(found)


def code_system(resource: JsonObject) -> CodeSystem:
    """The concepts of a CodeSystem resource. A concept twice in the tree has two parents."""
    concepts: dict[str, Concept] = {}
    for row, parent in _walk(resource.get("concept", [])):
        code = row["code"]
        parents = (parent,) if parent else ()
        if code in concepts:
            parents = (*concepts[code].parents, *parents)
        concepts[code] = _concept(row, parents)
    _add_declared_children(resource.get("concept", []), concepts)
    children: dict[str, list[str]] = {}
    for concept in concepts.values():
        for parent in concept.parents:
            children.setdefault(parent, []).append(concept.code)
    return CodeSystem(
        url=resource.get("url", ""),
        version=resource.get("version"),
        content=resource.get("content", "not-present"),
        is_case_sensitive=resource.get("caseSensitive", True) is not False,
        concepts=concepts,
        _children=children,
    )


def _walk(concepts: list[JsonObject]) -> Iterator[tuple[JsonObject, str | None]]:
    """(concept, code of the one that it stands in), top down, without recursion.

    A concept without a code (it may have an extension instead) is left out, and not what is in it.
    """
    waiting: list[tuple[JsonObject, str | None]] = [(row, None) for row in reversed(concepts)]
    while waiting:
        row, parent = waiting.pop()
        if "code" in row:
            yield row, parent
        inner = row.get("code", parent)
        waiting.extend((child, inner) for child in reversed(row.get("concept", [])))


def _concept(row: JsonObject, parents: tuple[str, ...]) -> Concept:
    is_abstract = is_inactive = False
    for property_ in row.get("property", []):
        code = property_.get("code")
        if code in ("notSelectable", "abstract"):
            is_abstract = is_abstract or property_.get("valueBoolean") is True
        elif code == "inactive":
            is_inactive = is_inactive or property_.get("valueBoolean") is True
        elif code == "status":
            is_inactive = is_inactive or property_.get("valueCode") in _INACTIVE_STATUSES
        elif code == "parent" and property_.get("valueCode"):
            parents = (*parents, property_["valueCode"])
    return Concept(row["code"], row.get("display"), parents, is_abstract, is_inactive)


def _add_declared_children(rows: list[JsonObject], concepts: dict[str, Concept]) -> None:
    """The other way to write a hierarchy: the property `child`."""
    for row, _ in _walk(rows):
        for property_ in row.get("property", []):
            below = concepts.get(property_.get("valueCode", ""))
            if property_.get("code") == "child" and below:
                concepts[below.code] = Concept(
                    below.code,
                    below.display,
                    (*below.parents, row["code"]),
                    below.is_abstract,
                    below.is_inactive,
                )
