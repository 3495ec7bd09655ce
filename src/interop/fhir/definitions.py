"""The R4 definition tables (profiles/r4, from tools/derive_fhir_definitions.py), in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from interop.r4_tables import profiles_directory, read_table

__all__ = ["Definitions", "Element", "SearchParameter", "definitions", "read_table"]

FHIR_VERSION = "4.0.1"
ABSTRACT = ("Resource", "DomainResource")


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a resource or data type. `name` has no [x]."""

    name: str
    types: tuple[str, ...]
    minimum: int
    is_list: bool
    is_choice: bool
    targets: frozenset[str]  # resource types that a Reference may name; empty: any
    value_set: str | None  # the required binding
    code_system: str | None  # the system that a bare code of the binding means

    def keys(self) -> list[tuple[str, str]]:
        """(JSON property, type) of each form that the element may take."""
        if not self.is_choice:
            return [(self.name, self.types[0])]
        return [(self.name + type_[0].upper() + type_[1:], type_) for type_ in self.types]


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """An R4 search parameter as it applies to one resource type."""

    url: str
    code: str
    type: str
    expression: str
    targets: tuple[str, ...]
    components: tuple[tuple[str, str, str], ...]  # (code, type, expression) of a composite

    def has_index(self) -> bool:
        """False for _query. No expression defines _text and _content: they are of all words."""
        return bool(self.expression) or self.code in ("_text", "_content")


@dataclass(frozen=True, slots=True)
class Definitions:
    """Everything that the engine knows about R4, read once."""

    kinds: dict[str, str]
    types: dict[str, dict[str, Element]]
    resource_types: frozenset[str]
    search_parameters: dict[str, dict[str, SearchParameter]]
    patient_compartment: dict[str, tuple[str, ...]]
    summaries: dict[str, frozenset[str]]  # type -> elements marked isSummary, without [x]

    def is_primitive(self, type_: str) -> bool:
        return self.kinds.get(type_) == "primitive-type"


@cache
def definitions() -> Definitions:
    """The R4 tables, loaded at the first use."""
    table = read_table("elements")
    kinds: dict[str, str] = table["kinds"]
    resource_types = frozenset(name for name, kind in kinds.items() if kind == "resource")
    return Definitions(
        kinds=kinds,
        types={
            type_: {
                name.removesuffix("[x]"): _element(name, row, table["systems"])
                for name, row in rows.items()
            }
            for type_, rows in table["types"].items()
        },
        resource_types=resource_types,
        search_parameters=_search_parameters(resource_types),
        patient_compartment={
            type_: tuple(codes) for type_, codes in read_table("compartment-patient").items()
        },
        summaries={type_: frozenset(names) for type_, names in table["summaries"].items()},
    )


def _element(name: str, row: list[Any], systems: dict[str, str]) -> Element:
    types, minimum, maximum, *rest = row
    value_set = rest[1].split("|")[0] if len(rest) > 1 else None
    return Element(
        name=name.removesuffix("[x]"),
        types=tuple(types),
        minimum=minimum,
        is_list=maximum not in ("0", "1"),
        is_choice=name.endswith("[x]"),
        targets=frozenset(rest[0]) if rest else frozenset(),
        value_set=value_set,
        code_system=systems.get(value_set) if value_set else None,
    )


def own_search_parameters() -> list[dict[str, Any]]:
    """The SearchParameters of profiles/dental-interop, which every tenant has as it has R4's."""
    paths = sorted((profiles_directory() / "dental-interop").glob("SearchParameter-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _search_parameters(resource_types: frozenset[str]) -> dict[str, dict[str, SearchParameter]]:
    rows = read_table("search-parameters") + own_search_parameters()
    by_url = {row["url"]: row for row in rows}
    found: dict[str, dict[str, SearchParameter]] = {type_: {} for type_ in sorted(resource_types)}
    for row in rows:
        parameter = SearchParameter(
            url=row["url"],
            code=row["code"],
            type=row["type"],
            expression=row.get("expression", ""),
            targets=tuple(row.get("target", ())),
            components=tuple(
                (by_url[url]["code"], by_url[url]["type"], expression)
                for url, expression in row.get("component", ())
            ),
        )
        for base in row["base"]:
            for type_ in resource_types if base in ABSTRACT else (base,):
                found[type_][parameter.code] = parameter
    return {type_: dict(sorted(codes.items())) for type_, codes in found.items()}
