"""Coverage over patient_insurance_policies (US Core Coverage).

A payer is another tenant where the row names one (`payer_id`), else a name. A payer that is an
Organization of the client's own has no row: the reference stays in the resource.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, Concept, Reference, has_coding, replaced
from interop.fhir.mappings.converters import Day, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, constant
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.systems import IDENTIFIER_TYPE
from interop.fhir.mappings.tables import TableLens
from interop.fhir.mappings.unknowns import UNKNOWN, ConceptOrUnknown, said

_RELATIONSHIP: Final = "http://terminology.hl7.org/CodeSystem/subscriber-relationship"
_CLASS: Final = "http://terminology.hl7.org/CodeSystem/coverage-class"
GROUP: Final = Coding(_CLASS, "group", "Group")
PLAN: Final = Coding(_CLASS, "plan", "Plan")
# US Core's memberid slice; a subscriber's number is the member's where no other is given.
_NUMBERS: Final = (Coding(IDENTIFIER_TYPE, "MB"), Coding(IDENTIFIER_TYPE, "SN"))

RELATIONSHIPS: Final = Concept(
    {
        "SELF": Coding(_RELATIONSHIP, "self", "Self"),
        "SPOUSE": Coding(_RELATIONSHIP, "spouse", "Spouse"),
        "CHILD": Coding(_RELATIONSHIP, "child", "Child"),
        "OTHER": Coding(_RELATIONSHIP, "other", "Other"),
    },
    {
        "SPOUSE": (Coding(_RELATIONSHIP, "common"),),
        "OTHER": (Coding(_RELATIONSHIP, "parent"), Coding(_RELATIONSHIP, "injured")),
    },
)
PRIORITIES: Final = {"PRIMARY": 1, "SECONDARY": 2, "TERTIARY": 3}


@dataclass(frozen=True, slots=True)
class Order:
    """The place of a coverage among the patient's."""

    label: str = "1 = PRIMARY, 2 = SECONDARY, 3 = TERTIARY"

    def get(self, node: Any) -> str | None:
        return next((name for name, order in PRIORITIES.items() if order == node), None)

    def put(self, value: str, node: Any) -> int:
        return PRIORITIES[value]


@dataclass(frozen=True, slots=True)
class MemberNumber:
    """The number by which the payer knows the patient."""

    label: str = "subscriberId, else the identifier of type MB or SN"

    def get(self, node: JsonObject) -> str | None:
        typed = [
            item.get("value")
            for item in node.get("identifier") or []
            if has_coding(item.get("type"), *_NUMBERS)
        ]
        return Text().get(node.get("subscriberId")) or next(filter(Text().get, typed), None)

    def put(self, value: str | None, node: JsonObject) -> JsonObject:
        if value:
            return {**node, "subscriberId": value}
        left = [
            item
            for item in node.get("identifier") or []
            if not has_coding(item.get("type"), *_NUMBERS)
        ]
        rest = {
            key: item for key, item in node.items() if key not in ("subscriberId", "identifier")
        }
        return {**rest, "identifier": left} if left else rest


@dataclass(frozen=True, slots=True)
class Payer:
    """(payer_id, payer_name) of the first payor."""

    converter: Reference
    label: str = "first payor: Reference(Organization) of another tenant, display"

    def get(self, node: Any) -> tuple[str | None, str | None]:
        first = node[0] if isinstance(node, list) and node else None
        if not isinstance(first, Mapping):
            return None, None
        return self.converter.get(first), Text().get(first.get("display"))

    def put(self, value: tuple[str | None, str | None], node: Any) -> Any:
        first, *others = node or [None]
        reference, name = value
        if self.get([first])[0] == reference and first and "reference" in first:
            # Only the name differs, or a reference that is no row of ours names the payer.
            changed = {key: item for key, item in first.items() if key != "display"}
            return [{**changed, "display": name} if name else changed, *others]
        if reference is None and name is None:
            return [UNKNOWN, *others]
        return [replaced(said(first), reference=reference, display=name), *others]


@dataclass(frozen=True, slots=True)
class ClassValue:
    """The value of one class of a coverage, or its name."""

    coding: Coding
    is_name: bool = False

    @property
    def label(self) -> str:
        read = "name, else value" if self.is_name else "value"
        return f"class {self.coding.code}: {read}"

    def get(self, node: Any) -> str | None:
        if not isinstance(node, Mapping) or not has_coding(node.get("type"), self.coding):
            return None
        named = Text().get(node.get("name")) if self.is_name else None
        return named or Text().get(node.get("value"))

    def put(self, value: str | None, node: Any) -> Any:
        shown = {"value": value, **({"name": value} if self.is_name else {})}
        return {"type": self.coding.concept(), **(node or {}), **shown}


@dataclass(frozen=True, slots=True)
class Named:
    """The display of a Reference."""

    label: str = "display"

    def get(self, node: Any) -> str | None:
        return Text().get(node.get("display")) if isinstance(node, Mapping) else None

    def put(self, value: str | None, node: Any) -> Any:
        return None if value is None else replaced(node, display=value)


def mapping(public_url: str | None) -> ResourceMapping:
    return ResourceMapping(
        "Coverage",
        "patient_insurance_policies",
        [
            Entry("policy_number", "", MemberNumber()),
            Entry("subscriber_name", "subscriber", Named()),
            Entry("patient_id", "beneficiary", Reference(("Patient",), public_url)),
            Entry("subscriber_relationship", "relationship", ConceptOrUnknown(RELATIONSHIPS)),
            Entry("coverage_start", "period.start", Day()),
            Entry("coverage_end", "period.end", Day()),
            Entry(
                ("payer_id", "payer_name"), "payor", Payer(Reference(("Organization",), public_url))
            ),
            Entry("group_number", "class", FirstOf(ClassValue(GROUP))),
            Entry("plan_name", "class", FirstOf(ClassValue(PLAN, is_name=True))),
            Entry("priority", "order", Order(), "PRIMARY"),
        ],
        template=constant({"status": "active"}),
    )


def lens(public_url: str | None) -> TableLens:
    return TableLens(mapping(public_url), needs=("patient_id", "policy_number"))
