"""Encounter over encounters (US Core Encounter).

`encounter_diagnoses` are not presented: Encounter.diagnosis refers to Condition resources, which
patient_conditions hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, Concept, ConceptText, Reference
from interop.fhir.mappings.converters import Codes, Moment
from interop.fhir.mappings.lens import Entry, ResourceMapping, constant
from interop.fhir.mappings.path import path
from interop.fhir.mappings.places import FirstOf, Within
from interop.fhir.mappings.systems import CDT_SYSTEMS, own, own_extension
from interop.fhir.mappings.tables import TableLens

# R5's Encounter.plannedStartDate, as R5 defines it for R4 (cross-version extension).
PLANNED_START: Final = (
    "http://hl7.org/fhir/5.0/StructureDefinition/extension-Encounter.plannedStartDate"
)
NO_SHOW: Final = own_extension("encounter-no-show")
AMBULATORY: Final = Coding("http://terminology.hl7.org/CodeSystem/v3-ActCode", "AMB", "ambulatory")
_PARTICIPATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
PERFORMER: Final = Coding(_PARTICIPATION, "PPRF", "primary performer")

STATUSES: Final = Codes(
    {
        "planned": "SCHEDULED",
        "arrived": "SCHEDULED",
        "unknown": "SCHEDULED",
        "in-progress": "IN_PROGRESS",
        "triaged": "IN_PROGRESS",
        "onleave": "IN_PROGRESS",
        "finished": "COMPLETED",
        "cancelled": "CANCELLED",
        "entered-in-error": "CANCELLED",
    }
)
NOT_BEGUN: Final = ("SCHEDULED", "CANCELLED", "NO_SHOW")


def _cdt(*codes: str) -> tuple[Coding, ...]:
    return tuple(Coding(system, code) for system in CDT_SYSTEMS for code in codes)


# CDT evaluation codes are understood, and not written: which of them is billed is not ours to say.
TYPES: Final = Concept(
    {
        "EXAM": own("encounter-type", "exam", "Examination"),
        "EMERGENCY": own("encounter-type", "emergency", "Emergency"),
        "HYGIENE": own("encounter-type", "hygiene", "Hygiene"),
        "ORTHO": own("encounter-type", "ortho", "Orthodontics"),
        "IMPLANT": own("encounter-type", "implant", "Implantology"),
        "TEACHING": own("encounter-type", "teaching", "Teaching"),
    },
    {"EXAM": _cdt("D0120", "D0150"), "EMERGENCY": _cdt("D0140")},
)

_PLANNED = path(f"extension[url={PLANNED_START}]")
_NO_SHOW = path(f"extension[url={NO_SHOW}]")
_START = path("period.start")


@dataclass(frozen=True, slots=True)
class Course:
    """(status, scheduled_start_at, check_in_at): what was planned, and whether it has begun.

    R4 has one period. Without the planned start as an extension, the period of a visit that has not
    begun is the planned one. A missed visit is cancelled, with an extension that says so.
    """

    label: str = (
        STATUSES.label
        + "; NO_SHOW = cancelled with our extension; scheduled_start_at = extension"
        + " plannedStartDate, else period.start before the visit begins; check_in_at = period.start"
    )

    def get(self, node: JsonObject) -> tuple[str, datetime | None, datetime | None]:
        status = STATUSES.get(node.get("status")) or "SCHEDULED"
        no_show = _NO_SHOW.get(node)
        if status == "CANCELLED" and no_show and no_show.get("valueBoolean") is True:
            status = "NO_SHOW"
        start = Moment().get(_START.get(node))
        planned = _PLANNED.get(node)
        if planned is not None:
            return status, Moment().get(planned.get("valueDateTime")), start
        return (status, start, None) if status in NOT_BEGUN else (status, None, start)

    def put(
        self, value: tuple[str, datetime | None, datetime | None], node: JsonObject
    ) -> JsonObject:
        status, scheduled, check_in = value
        now = self.get(node)
        result = node
        if now[0] != status or "status" not in node:
            code = "cancelled" if status == "NO_SHOW" else STATUSES.put(status, None)
            result = path("status").put(result, code)
            missed = {"url": NO_SHOW, "valueBoolean": True} if status == "NO_SHOW" else None
            result = _NO_SHOW.put(result, missed)
        result = _PLANNED.put(result, None)
        if status in NOT_BEGUN and check_in is None:
            return _set_moment(result, scheduled)
        result = _set_moment(result, check_in)
        if scheduled is not None:
            moment = {"valueDateTime": Moment().put(scheduled, None)}
            return _PLANNED.put(result, {"url": PLANNED_START, **moment})
        if status in NOT_BEGUN:
            # Nothing was planned, and the visit had begun: the period is not the planned one.
            return _PLANNED.put(result, {"url": PLANNED_START, "_valueDateTime": _UNKNOWN})
        return result


_UNKNOWN: Final = {
    "extension": [
        {
            "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
            "valueCode": "unknown",
        }
    ]
}


def _set_moment(node: JsonObject, value: datetime | None) -> JsonObject:
    if Moment().get(_START.get(node)) == value:
        return node
    return _START.put(node, Moment().put(value, None))


def mapping(public_url: str | None) -> ResourceMapping:
    practitioner = Reference(("Practitioner",), public_url)
    location = Reference(("Location",), public_url)
    return ResourceMapping(
        "Encounter",
        "encounters",
        [
            Entry(("status", "scheduled_start_at", "check_in_at"), "", Course()),
            Entry("encounter_type", "type", FirstOf(TYPES), "EXAM"),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry(
                "provider_id",
                "participant",
                FirstOf(Within("individual", practitioner, {"type": [PERFORMER.concept()]})),
            ),
            Entry("check_out_at", "period.end", Moment()),
            Entry("reason", "reasonCode", FirstOf(ConceptText())),
            Entry("location_id", "location", FirstOf(Within("location", location))),
        ],
        template=constant({"class": AMBULATORY.json()}),
    )


def lens(public_url: str | None) -> TableLens:
    return TableLens(mapping(public_url), needs=("patient_id",))
