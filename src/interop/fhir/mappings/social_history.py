"""Observation over patient_social_history (US Core Smoking Status).

Smoking is LOINC 72166-2 with the SNOMED CT findings that US Core's value set lists; other habits
have codes of ours. How much, since when and until when are components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, Concept, Meanings, Reference, replaced
from interop.fhir.mappings.converters import Converter, Day, Text, number, plain
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row
from interop.fhir.mappings.path import DATA_ABSENT_REASON
from interop.fhir.mappings.places import Choice, FirstOf, Fixed, Notes, without_choice
from interop.fhir.mappings.systems import LOINC, SNOMED_CT, own
from interop.fhir.mappings.tables import TableLens

CATEGORY: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/observation-category",
    "social-history",
    "Social History",
)
SMOKING: Final = Coding(LOINC, "72166-2", "Tobacco smoking status")
HABITS: Final = {
    "SMOKING": SMOKING,
    "SMOKELESS_TOBACCO": own("habit", "smokeless-tobacco", "Smokeless tobacco"),
    "VAPING": own("habit", "vaping", "Vaping"),
    "ALCOHOL": own("habit", "alcohol", "Alcohol"),
    "DRUG_USE": own("habit", "drug-use", "Drug use"),
    "DIET": own("habit", "diet", "Diet"),
    "BRUXISM": own("habit", "bruxism", "Bruxism"),
    "OTHER": own("habit", "other", "Other habit"),
}
_BY_CODE: Final = Meanings((name, (coding,)) for name, coding in HABITS.items())
SMOKERS: Final = Concept(
    {
        "NEVER": Coding(SNOMED_CT, "266919005", "Never smoked tobacco"),
        "FORMER": Coding(SNOMED_CT, "8517006", "Ex-smoker"),
        "CURRENT": Coding(SNOMED_CT, "77176002", "Smoker"),
        "UNKNOWN": Coding(SNOMED_CT, "266927001", "Tobacco smoking consumption unknown"),
    },
    {"CURRENT": (Coding(SNOMED_CT, "449868002"), Coding(SNOMED_CT, "428041000124106"))},
)
OTHERS: Final = Concept(
    {
        "NEVER": own("habit-status", "never", "Never"),
        "FORMER": own("habit-status", "former", "Former"),
        "CURRENT": own("habit-status", "current", "Current"),
        "UNKNOWN": own("habit-status", "unknown", "Unknown"),
    }
)
AMOUNT: Final = own("habit", "amount", "Amount")
SINCE: Final = own("habit", "since", "Since")
UNTIL: Final = own("habit", "until", "Until")
WITHDRAWN: Final = ("entered-in-error", "cancelled")


@dataclass(frozen=True, slots=True)
class Habit:
    """(category, status): the code says which habit, and so how its status is coded."""

    label: str = (
        "code: "
        + ", ".join(f"{coding.code} = {value}" for value, coding in HABITS.items())
        + f"; valueCodeableConcept of smoking: {SMOKERS.label}; of other habits: {OTHERS.label}"
    )

    def get(self, node: JsonObject) -> tuple[str | None, str | None]:
        category = _BY_CODE.of(node.get("code"))
        if category is None:
            return None, None
        return category, _statuses(category).get(node.get("valueCodeableConcept"))

    def put(self, value: tuple[str | None, str | None], node: JsonObject) -> JsonObject:
        category, status = value
        rest = dict(node)
        now = self.get(node)
        if now[0] != category:
            coding = [HABITS[category].json()] if category else None
            rest["code"] = replaced(node.get("code"), coding=coding)
            if not rest["code"]:
                del rest["code"]
        if category is None or status is None:
            return rest if now == value else _without_status(rest, category)
        if now == value:
            return rest
        rest = without_choice(rest, "value")
        rest.pop("dataAbsentReason", None)
        shown = _statuses(category).put(status, node.get("valueCodeableConcept"))
        return {**rest, "valueCodeableConcept": shown}


def _statuses(category: str) -> Concept:
    return SMOKERS if category == "SMOKING" else OTHERS


_UNKNOWN: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/data-absent-reason", "unknown", "Unknown"
)


def _without_status(node: JsonObject, category: str | None) -> JsonObject:
    """The Observation without a value that would be read as a status."""
    rest = without_choice(node, "value")
    return {**rest, "dataAbsentReason": _UNKNOWN.concept()} if category else rest


@dataclass(frozen=True, slots=True)
class Amount:
    """(quantity, unit) in whatever unit, such as cigarettes a day."""

    label: str = "Quantity: value, unit"

    def get(self, node: Any) -> tuple[float | None, str | None] | None:
        if not isinstance(node, Mapping) or node.get("comparator"):
            return None
        value = number(node.get("value"))
        amount = float(value) if value is not None and 0 <= value < 10**8 else None
        unit = Text().get(node.get("unit")) or Text().get(node.get("code"))
        if amount is not None:
            amount = round(amount, 2)
        return (amount, unit) if amount is not None or unit else None

    def put(self, value: tuple[float | None, str | None], node: Any) -> Any:
        amount, unit = value
        exact = number(amount)
        shown = {"value": None if exact is None else plain(exact), "unit": unit}
        return {key: item for key, item in shown.items() if item is not None} or None


_EFFECTIVE: Final = Choice("effective", Day())


@dataclass(frozen=True, slots=True)
class AsOf:
    """The day of an Observation, on the resource; R4 and US Core want to know of its absence."""

    label: str = f"{_EFFECTIVE.label}; empty: data-absent-reason"

    def get(self, node: JsonObject) -> Any:
        return _EFFECTIVE.get(node)

    def put(self, value: Any, node: JsonObject) -> JsonObject:
        dated: JsonObject = _EFFECTIVE.put(value, node)
        if value is not None:
            return dated
        absent = {"extension": [{"url": DATA_ABSENT_REASON, "valueCode": "unknown"}]}
        return {**dated, "_effectiveDateTime": absent}


def _component(code: Coding, child: str, converter: Converter) -> FirstOf:
    return FirstOf(Fixed("code", code, child, converter))


def mapping(public_url: str | None) -> ResourceMapping:
    def template(row: Row) -> JsonObject:
        return {"status": "final", "category": [CATEGORY.concept()]}

    return ResourceMapping(
        "Observation",
        "patient_social_history",
        [
            Entry(("category", "status"), "", Habit()),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("recorded_on", "", AsOf()),
            Entry("description", "note", Notes()),
            Entry(("quantity", "unit"), "component", _component(AMOUNT, "valueQuantity", Amount())),
            Entry("start_date", "component", _component(SINCE, "valueDateTime", Day())),
            Entry("end_date", "component", _component(UNTIL, "valueDateTime", Day())),
        ],
        template=template,
    )


def is_habit(resource: JsonObject) -> bool:
    """Whether a row can hold the Observation: of a habit of the table, and not withdrawn."""
    return resource.get("status") not in WITHDRAWN and Habit().get(resource)[0] is not None


def lens(public_url: str | None) -> TableLens:
    return TableLens(mapping(public_url), needs=("patient_id", "category"))
