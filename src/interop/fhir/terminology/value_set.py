"""A ValueSet in memory: what it includes and excludes (FHIR R4 valueset.html#compositions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PropertyFilter:
    """A condition on the concepts of a system."""

    property: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Include:
    """One include or exclude: codes of one system that are also in all the value sets named."""

    system: str | None
    version: str | None
    concepts: dict[str, str | None] | None  # code -> display; None: not by enumeration
    filters: tuple[PropertyFilter, ...]
    value_sets: tuple[str, ...]
    withheld: int  # codes that the official list has and ours may not (see derive_terminology.py)


@dataclass(frozen=True, slots=True)
class ValueSet:
    """What a value set is composed of. `expanded` is the content of one that has no compose."""

    url: str
    version: str | None
    name: str | None
    title: str | None
    status: str
    with_inactive: bool
    include: tuple[Include, ...]
    exclude: tuple[Include, ...]


def value_set(resource: JsonObject) -> ValueSet:
    """The definition in a ValueSet resource; its stored expansion where it has nothing else."""
    compose = resource.get("compose")
    include = (
        compose.get("include", []) if compose else _from_expansion(resource.get("expansion", {}))
    )
    return ValueSet(
        url=resource.get("url", ""),
        version=resource.get("version"),
        name=resource.get("name"),
        title=resource.get("title"),
        status=resource.get("status", "unknown"),
        with_inactive=(compose or {}).get("inactive") is not False,
        include=tuple(_include(row) for row in include),
        exclude=tuple(_include(row) for row in (compose or {}).get("exclude", [])),
    )


def _include(row: JsonObject) -> Include:
    """Any primitive may lack its value and have an extension: such a part stays, and is unknown."""
    return Include(
        system=row.get("system"),
        version=row.get("version"),
        concepts={
            concept["code"]: concept.get("display")
            for concept in row["concept"]
            if "code" in concept
        }
        if "concept" in row
        else None,
        filters=tuple(
            PropertyFilter(*(str(filter_.get(key, "")) for key in ("property", "op", "value")))
            for filter_ in row.get("filter", [])
        ),
        value_sets=tuple(str(url or "") for url in row.get("valueSet", [])),
        withheld=row.get("withheld", 0),
    )


def _from_expansion(expansion: JsonObject) -> list[JsonObject]:
    """A stored expansion as enumerated includes; entries without a code only group others."""
    by_system: dict[str | None, list[JsonObject]] = {}
    waiting = list(reversed(expansion.get("contains", [])))
    while waiting:
        row = waiting.pop()
        if "code" in row and row.get("abstract") is not True:
            by_system.setdefault(row.get("system"), []).append(row)
        waiting.extend(reversed(row.get("contains", [])))
    return [{"system": system, "concept": rows} for system, rows in by_system.items()]
