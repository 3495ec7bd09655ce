"""Required elements of which a row says nothing: present, with the reason that they say nothing.

FHIR R4 extension-data-absent-reason.html; for concepts the code system of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.mappings.concepts import Coding, Concept, Reference
from interop.fhir.mappings.path import DATA_ABSENT_REASON

UNKNOWN: Final = {"extension": [{"url": DATA_ABSENT_REASON, "valueCode": "unknown"}]}
UNKNOWN_CONCEPT: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/data-absent-reason", "unknown", "Unknown"
).concept()


@dataclass(frozen=True, slots=True)
class ReferenceOrUnknown:
    """A Reference that is there even where no row is meant."""

    converter: Reference

    @property
    def label(self) -> str:
        return f"{self.converter.label}; empty: data-absent-reason"

    def get(self, node: Any) -> str | None:
        return self.converter.get(node)

    def put(self, value: str | None, node: Any) -> Any:
        return UNKNOWN if value is None else self.converter.put(value, said(node))


@dataclass(frozen=True, slots=True)
class ConceptOrUnknown:
    """A CodeableConcept that is there even where the column is empty."""

    concept: Concept

    @property
    def label(self) -> str:
        return f"{self.concept.label}; empty: data-absent-reason"

    def get(self, node: Any) -> str | None:
        return self.concept.get(node)

    def put(self, value: str | None, node: Any) -> Any:
        return UNKNOWN_CONCEPT if value is None else self.concept.put(value, node)


def said(node: Any) -> Any:
    """The node without the reason for which it was empty."""
    if not isinstance(node, Mapping) or "extension" not in node:
        return node
    kept = [item for item in node["extension"] if item.get("url") != DATA_ABSENT_REASON]
    rest = {key: item for key, item in node.items() if key != "extension"}
    return {**rest, "extension": kept} if kept else rest
