"""Observation over clinical_outcomes: what a follow-up of a procedure or of a visit has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, Reference, has_coding
from interop.fhir.mappings.converters import Boolean, Converter, Moment, Text, number, plain
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row
from interop.fhir.mappings.places import Choice, FirstOf, Fixed, Notes
from interop.fhir.mappings.shared_type import Writable
from interop.fhir.mappings.social_history import WITHDRAWN
from interop.fhir.mappings.systems import own
from interop.fhir.mappings.through import ChildLens, Through

OUTCOME: Final = own("observation", "clinical-outcome", "Clinical outcome")
SUCCESS: Final = own("observation", "outcome-success", "Successful")
COMPLICATED: Final = own("observation", "outcome-has-complication", "Complication occurred")
COMPLICATION: Final = own("observation", "outcome-complication", "Complication")
MEASURE: Final = own("observation", "outcome-measure", "Outcome measure")
CATEGORY: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/observation-category", "exam", "Exam"
)


@dataclass(frozen=True, slots=True)
class Score:
    """A number without a unit."""

    label: str = "Quantity without a unit, or in 1 or {score}"

    def get(self, node: Any) -> float | None:
        if not isinstance(node, Mapping) or node.get("comparator"):
            return None
        value = number(node.get("value"))
        is_bare = node.get("code", node.get("unit")) in (None, "1", "{score}")
        return float(value) if value is not None and is_bare else None

    def put(self, value: float | None, node: Any) -> Any:
        exact = number(value)
        return None if exact is None else {"value": plain(exact)}


@dataclass(frozen=True, slots=True)
class Subject:
    """(procedure_id, encounter_id): of the procedure that it is part of, else of the visit."""

    procedure: FirstOf
    encounter: Reference
    label: str = (
        "first partOf: Reference(Procedure) = procedure_id; else encounter: Reference(Encounter)"
        " = encounter_id"
    )

    def get(self, node: JsonObject) -> tuple[str | None, str | None]:
        procedure = self.procedure.get(node.get("partOf"))
        return procedure, None if procedure else self.encounter.get(node.get("encounter"))

    def put(self, value: tuple[str | None, str | None], node: JsonObject) -> JsonObject:
        procedure, encounter = value
        result = dict(node)
        parts = self.procedure.put(procedure, node.get("partOf"))
        _assign(result, "partOf", parts)
        if procedure is None and self.encounter.get(node.get("encounter")) != encounter:
            _assign(result, "encounter", self.encounter.put(encounter, node.get("encounter")))
        return result


def _assign(node: JsonObject, name: str, value: Any) -> None:
    if value:
        node[name] = value
    else:
        node.pop(name, None)


def _component(code: Coding, child: str, converter: Converter) -> FirstOf:
    return FirstOf(Fixed("code", code, child, converter))


def mapping(public_url: str | None) -> ResourceMapping:
    def template(row: Row) -> JsonObject:
        return {
            "status": "final",
            "category": [CATEGORY.concept()],
            "code": OUTCOME.concept(),
        }

    practitioner = Reference(("Practitioner",), public_url)
    procedure = FirstOf(Reference(("Procedure",), public_url))
    return ResourceMapping(
        "Observation",
        "clinical_outcomes",
        [
            Entry(
                ("procedure_id", "encounter_id"),
                "",
                Subject(procedure, Reference(("Encounter",), public_url)),
            ),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("assessed_at", "", Choice("effective", Moment())),
            Entry("assessed_by_id", "performer", FirstOf(practitioner)),
            Entry("outcome_score", "", Choice("value", Score(), "Quantity")),
            Entry("notes", "note", Notes()),
            Entry("outcome_measure", "component", _component(MEASURE, "valueString", Text())),
            Entry("is_success", "component", _component(SUCCESS, "valueBoolean", Boolean())),
            Entry(
                "has_complication",
                "component",
                _component(COMPLICATED, "valueBoolean", Boolean()),
                False,
            ),
            Entry("complication", "component", _component(COMPLICATION, "valueString", Text())),
        ],
        template=template,
    )


def is_outcome(resource: JsonObject, lens: ChildLens) -> bool:
    """Whether the Observation is of a follow-up of something that the server knows."""
    if resource.get("status") in WITHDRAWN or not has_coding(resource.get("code"), OUTCOME):
        return False
    row = lens.get(resource).row
    is_told = not row["has_complication"] or row["complication"] is not None
    return is_told and (row["procedure_id"] is not None or row["encounter_id"] is not None)


def part(public_url: str | None) -> Writable:
    lens = ChildLens(
        mapping(public_url),
        Through({"procedure_id": "procedures", "encounter_id": "encounters"}),
        links={"procedure_id": ("Procedure",), "encounter_id": ("Encounter",)},
    )
    return Writable(lens, lambda resource: is_outcome(resource, lens))
