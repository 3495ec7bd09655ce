"""Encounter over encounters (US Core Encounter).

A diagnosis of the visit refers to a Condition: that of the patient's problem list which the row
names, or the one that the row itself is shown as (condition.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references, statements
from interop.fhir.mappings.concepts import Coding, Concept, ConceptText, Reference
from interop.fhir.mappings.converters import Codes, Counted, Moment
from interop.fhir.mappings.lens import Children, Entry, ResourceMapping, Row, Rows, constant
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
_DIAGNOSIS_ROLE: Final = "http://terminology.hl7.org/CodeSystem/diagnosis-role"
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


ROLES: Final = Concept(
    {
        "CHIEF_COMPLAINT": Coding(_DIAGNOSIS_ROLE, "CC", "Chief complaint"),
        "ADMISSION": Coding(_DIAGNOSIS_ROLE, "AD", "Admission diagnosis"),
        "DISCHARGE": Coding(_DIAGNOSIS_ROLE, "DD", "Discharge diagnosis"),
    }
)


def diagnoses(public_url: str | None) -> Children:
    """The Conditions of a visit."""
    condition = Reference(("Condition",), public_url)
    return Children(
        "encounter_diagnoses",
        "diagnosis",
        [
            Entry("condition_id", "condition", condition),
            Entry("diagnosis_role", "use", ROLES),
            Entry("rank", "rank", Counted(low=1)),
        ],
        key=("condition_id",),
        order=("rank",),
        admits=lambda item: condition.get(item.get("condition")) is not None,
        needs=("condition_id",),
    )


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
        [diagnoses(public_url)],
        template=constant({"class": AMBULATORY.json()}),
    )


# A visit's diagnosis has a code of its own, which is that of the Condition when it is made.
_CODED: Final = (
    "SELECT code_system, code, display, tooth_number FROM patient_conditions"
    " WHERE tenant_id = %s AND id = %s AND code IS NOT NULL AND code_system IN ('ICD10', 'SNOMED')"
)


# The diagnosis that is shown as the Condition itself.
_OWN: Final = (
    "SELECT d.id FROM fhir_resources AS r JOIN encounter_diagnoses AS d"
    " ON d.tenant_id = r.tenant_id AND d.id = r.row_id AND d.condition_id IS NULL"
    " WHERE r.tenant_id = %s AND r.resource_type = 'Condition' AND r.resource_id = %s"
)


class EncounterLens(TableLens):
    """Visits with their diagnoses, of which some are Conditions of their own."""

    def _upsert(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, row: Row, actor: str
    ) -> bool:
        if row["scheduled_start_at"] is None and row["status"] not in NOT_BEGUN:
            # R4's Encounter has no word for when a visit that has begun was planned to.
            key = {"tenant_id": tenant_id, "id": row_id}
            planned = statements.select(connection, "encounters", ("scheduled_start_at",), key)
            row = {**row, **(planned[0] if planned else {})}
        return super()._upsert(connection, tenant_id, row_id, row, actor)

    def _wanted(
        self, connection: Connection, tenant_id: UUID, children: Children, rows: Rows
    ) -> tuple[Row, ...]:
        items = rows.children[children.table]
        found = self._resolved_items(connection, tenant_id, children, items)
        pairs = zip(items, found, strict=True)
        return tuple({**item, **ids} for item, ids in pairs if ids["condition_id"])

    def _resolved_items(
        self, connection: Connection, tenant_id: UUID, children: Children, items: Sequence[Row]
    ) -> list[dict[str, UUID | None]]:
        return [
            {"condition_id": self._condition(connection, tenant_id, item["condition_id"])}
            for item in items
        ]

    def _condition(self, connection: Connection, tenant_id: UUID, reference: str) -> UUID | None:
        """The Condition that a row can name: one with a code, or the row's own."""
        target = references.resolve(connection, tenant_id, reference)
        if target is not None:
            return target if statements.query(connection, _CODED, tenant_id, target) else None
        local = references.local_part(connection, tenant_id, reference) or ""
        found = connection.execute(_OWN, (tenant_id, local.partition("/")[2])).fetchone()
        return found[0] if found else None

    def _children(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, children: Children
    ) -> Iterator[tuple[UUID, Row]]:
        for child_id, row in super()._children(connection, tenant_id, row_id, children):
            yield child_id, {**row, "condition_id": row["condition_id"] or child_id}

    def _change(
        self,
        connection: Connection,
        children: Children,
        tenant_id: UUID,
        child_id: UUID,
        row: Row,
    ) -> None:
        own = {column: item for column, item in row.items() if column != "condition_id"}
        changed = own if row["condition_id"] == child_id else row
        super()._change(connection, children, tenant_id, child_id, changed)

    def _add(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        children: Children,
        rows: Iterable[Row],
        actor: str,
    ) -> None:
        for row in rows:
            coded = statements.query(connection, _CODED, tenant_id, row["condition_id"])
            if coded:
                whole = [{**row, **coded[0]}]
                super()._add(connection, tenant_id, row_id, children, whole, actor)


def lens(public_url: str | None) -> EncounterLens:
    return EncounterLens(mapping(public_url), needs=("patient_id",), parent="encounter_id")
