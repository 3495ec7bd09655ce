"""Observation over perio_measurements: one for a tooth in an exam, one for the exam itself.

The rows of a tooth are its probing sites; each measure of a site is a component, told apart by an
extension with the site. The row id of both Observations follows from patient, encounter, tooth and
day, as the generated columns of the table have it, so a tooth is charted once an exam.
LOINC codes as read in published listings: 8704-9, 32910-2 (probing depth at a probe site), 64043-3
(free gingival margin to cement-enamel junction), 34016-6 (dental plaque at a probe site), 64044-1;
SNOMED CT 86276007 bleeding on probing. What has no code that could be checked has one of ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from interop.errors import Unprocessable
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references, statements
from interop.fhir.mappings.body_site import tooth_concept, tooth_of
from interop.fhir.mappings.concepts import Coding, Reference, has_coding, replaced
from interop.fhir.mappings.converters import Moment
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.perio_sites import COLUMNS, SITES, Sites
from interop.fhir.mappings.places import Choice, FirstOf, References
from interop.fhir.mappings.statements import delete, insert, mark_stale, select, update
from interop.fhir.mappings.systems import DENTAL, LOINC, own
from interop.fhir.mappings.tables import refusing_bad_rows, spell, with_id

MOUTH: Final = Coding(LOINC, "8704-9", "Physical findings of Mouth and Throat and Teeth")
TOOTH_EXAM: Final = own("observation", "periodontal-tooth", "Periodontal findings of a tooth")
EXAM: Final = own("observation", "periodontal-exam", "Periodontal examination")
# Panels under which other systems send the findings of a tooth.
PANELS: Final = (TOOTH_EXAM, MOUTH, Coding(LOINC, "74029-0"))
CATEGORY: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/observation-category", "exam", "Exam"
)


@dataclass(frozen=True, slots=True)
class ToothSite:
    """The tooth of a bodySite."""

    label: str = "SNOMED CT (CID 4018, 4019), ADA Universal or ISO 3950"

    def get(self, node: Any) -> int | None:
        return tooth_of(node)

    def put(self, value: int | None, node: Any) -> Any:
        if value is None:
            return None
        concept = tooth_concept(value)
        return replaced(node, coding=concept["coding"], text=concept["text"])


def _subject_entries(public_url: str | None) -> list[Entry]:
    return [
        Entry("patient_id", "subject", Reference(("Patient",), public_url)),
        Entry("encounter_id", "encounter", Reference(("Encounter",), public_url)),
        Entry("measured_at", "", Choice("effective", Moment())),
    ]


def tooth_mapping(public_url: str | None) -> ResourceMapping:
    def template(row: Row) -> JsonObject:
        categories = [CATEGORY.concept(), DENTAL.concept()]
        code = {"coding": [MOUTH.json(), TOOTH_EXAM.json()]}
        return {"status": "final", "category": categories, "code": code}

    practitioner = Reference(("Practitioner",), public_url)
    return ResourceMapping(
        "Observation",
        "perio_measurements",
        [
            *_subject_entries(public_url),
            Entry("measured_by_id", "performer", FirstOf(practitioner)),
            Entry("tooth_number", "bodySite", ToothSite()),
            Entry("sites", "", Sites(), ()),
        ],
        template=template,
    )


def exam_mapping(public_url: str | None) -> ResourceMapping:
    def template(row: Row) -> JsonObject:
        categories = [CATEGORY.concept(), DENTAL.concept()]
        code = {"coding": [MOUTH.json(), EXAM.json()]}
        return {"status": "final", "category": categories, "code": code}

    member = Reference(("Observation",), public_url)
    return ResourceMapping(
        "Observation",
        "perio_measurements",
        [*_subject_entries(public_url), Entry("teeth", "hasMember", References(member), ())],
        template=template,
    )


_READER: Final = tooth_mapping(None)
# What was withdrawn is no row: a row says that something was measured.
WITHDRAWN: Final = ("entered-in-error", "cancelled")


def is_tooth(resource: JsonObject) -> bool:
    """Whether the rows can hold the Observation: a panel of a tooth with a site and a moment."""
    if resource.get("status") in WITHDRAWN or not has_coding(resource.get("code"), *PANELS):
        return False
    row = _READER.get(resource).row
    return all((row["measured_at"], row["tooth_number"], row["sites"]))


def is_exam(resource: JsonObject) -> bool:
    """Whether the Observation is that of a whole exam."""
    return has_coding(resource.get("code"), EXAM)


def exam_id(patient: UUID, encounter: UUID | None, measured_at: datetime, *tooth: int) -> UUID:
    """The generated columns exam_observation_id and, with a tooth, observation_id."""
    day = (measured_at.astimezone(UTC).date() - date(2000, 1, 1)).days
    parts = [str(patient), str(encounter or ""), str(day), *map(str, tooth)]
    return UUID(hashlib.md5("/".join(parts).encode(), usedforsecurity=False).hexdigest())


_ROW: Final = (
    "patient_id",
    "encounter_id",
    "measured_at",
    "measured_by_id",
    "tooth_number",
    "site",
    *COLUMNS,
)
_LINKS: Final = {"patient_id": "Patient", "encounter_id": "Encounter"}


class ToothLens:
    """The rows of one tooth in one exam."""

    resource_type = "Observation"

    def __init__(self, public_url: str | None) -> None:
        self.mapping = tooth_mapping(public_url)

    def get(self, resource: JsonObject) -> Rows:
        return self.mapping.get(resource)

    def put(self, rows: Rows, resource: JsonObject | None) -> JsonObject:
        return self.mapping.put(rows, resource)

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The id that follows from the content; None while a reference in it does not resolve.

        Raises Unprocessable where `proposed` is another charted tooth: what it is known by stays.
        """
        named = self._named(connection, tenant_id, resource)
        if named not in (None, proposed) and self.exists(connection, tenant_id, proposed):
            raise Unprocessable(
                "patient, encounter, tooth and day are what a charted tooth is known by; delete"
                " this Observation and create another",
                expression="Observation.bodySite",
            )
        return named

    def _named(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> UUID | None:
        row = self.get(resource).row
        links = resolve(connection, tenant_id, row)
        if any(row[column] and links[column] is None for column in _LINKS):
            return None
        patient = links["patient_id"]
        if patient is None:
            return None
        return exam_id(patient, links["encounter_id"], row["measured_at"], row["tooth_number"])

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        row = self.get(resource).row
        links = resolve(connection, tenant_id, row)
        waiting = [row[column] for column in _LINKS if row[column] and links[column] is None]
        if waiting:
            return references.local_parts(connection, tenant_id, waiting)
        by = row["measured_by_id"]
        common = {**links, "tooth_number": row["tooth_number"]}
        common["measured_by_id"] = references.resolve(connection, tenant_id, by) if by else None
        present = {item["site"]: item for item in self._rows(connection, tenant_id, row_id)}
        earliest = min((item["measured_at"] for item in present.values()), default=None)
        if row["measured_at"] != earliest:
            # Else each site keeps the moment at which it was probed.
            common["measured_at"] = row["measured_at"]
        with refusing_bad_rows(self.resource_type):
            for site in row["sites"]:
                key = {"tenant_id": tenant_id, "observation_id": row_id, "site": site["site"]}
                present.pop(site["site"], None)
                if not update(
                    connection, "perio_measurements", {**common, **site, "updated_by": actor}, key
                ):
                    identity = {"tenant_id": tenant_id, "measured_at": row["measured_at"]}
                    new = {**identity, **common, **site, "created_by": actor}
                    insert(connection, "perio_measurements", new)
            for site in present:
                key = {"tenant_id": tenant_id, "observation_id": row_id, "site": site}
                delete(connection, "perio_measurements", key)
        self._mark_exam(connection, tenant_id, row_id)
        return []

    def exists(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> bool:
        key = {"tenant_id": tenant_id, "observation_id": row_id}
        return statements.exists(connection, "perio_measurements", key)

    def waits_for(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> list[str]:
        """References whose columns are empty until their resources exist."""
        by = self.get(resource).row["measured_by_id"]
        return references.unresolved(connection, tenant_id, [by] if by else [])

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        found = self._rows(connection, tenant_id, row_id)
        if not found:
            return None
        first = found[0]
        row = {column: first[column] for column in (*_LINKS, "measured_by_id", "tooth_number")}
        row["measured_at"] = min(item["measured_at"] for item in found)
        by_site = {item["site"]: item for item in found}
        row["sites"] = tuple(
            {column: by_site[site][column] for column in ("site", *COLUMNS)}
            for site in SITES
            if site in by_site
        )
        said = self.get(stored).row if stored else {}
        for column, target in {**_LINKS, "measured_by_id": "Practitioner"}.items():
            spelled = said.get(column)
            meant = references.resolve(connection, tenant_id, spelled) if spelled else None
            row[column] = spell(connection, tenant_id, (target,), row[column], spelled, meant)
        return with_id(self.put(Rows(row), stored), row_id)

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        self._mark_exam(connection, tenant_id, row_id)
        with refusing_bad_rows(self.resource_type):
            key = {"tenant_id": tenant_id, "observation_id": row_id}
            delete(connection, "perio_measurements", key)

    def _mark_exam(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        """The exam names its teeth: have it rendered when one comes, changes or goes."""
        found = connection.execute(
            "SELECT exam_observation_id FROM perio_measurements"
            " WHERE tenant_id = %s AND observation_id = %s LIMIT 1",
            (tenant_id, row_id),
        ).fetchone()
        if found is not None:
            mark_stale(connection, tenant_id, self.resource_type, found[0])

    def _rows(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> list[Row]:
        key = {"tenant_id": tenant_id, "observation_id": row_id}
        return select(connection, "perio_measurements", _ROW, key)


def resolve(connection: Connection, tenant_id: UUID, row: Row) -> dict[str, UUID | None]:
    """The rows of patient and encounter, in this order."""
    return {
        column: references.resolve(connection, tenant_id, row[column]) if row[column] else None
        for column in _LINKS
    }


def load_exam(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    """The exam that the rows of its teeth make."""
    found = connection.execute(
        "SELECT patient_id, encounter_id, min(measured_at), array_agg(DISTINCT observation_id)"
        " FROM perio_measurements WHERE tenant_id = %s AND exam_observation_id = %s"
        " GROUP BY patient_id, encounter_id",
        (tenant_id, row_id),
    ).fetchone()
    if found is None:
        return None
    patient, encounter, measured_at, teeth = found
    named = references.literal
    row: Row = {
        "patient_id": named(connection, tenant_id, "Patient", patient),
        "encounter_id": encounter and named(connection, tenant_id, "Encounter", encounter),
        "measured_at": measured_at,
        "teeth": tuple(
            sorted(named(connection, tenant_id, "Observation", tooth) for tooth in teeth)
        ),
    }
    return Rows(row)
