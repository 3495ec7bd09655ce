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

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.body_site import tooth_concept, tooth_of
from interop.fhir.mappings.converters import (
    Boolean,
    Choice,
    Coding,
    Converter,
    FirstOf,
    Integer,
    Moment,
    Quantity,
    Reference,
    References,
    has_coding,
    replaced,
    without_choice,
)
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.systems import DENTAL, LOINC, SNOMED_CT, own, own_extension
from interop.fhir.mappings.tables import (
    delete,
    insert,
    refusing_bad_rows,
    select,
    spell,
    update,
    with_id,
)
from storage.dental import PERIODONTAL_SITES

SITE: Final = own_extension("periodontal-site")
MOUTH: Final = Coding(LOINC, "8704-9", "Physical findings of Mouth and Throat and Teeth")
TOOTH_EXAM: Final = own("observation", "periodontal-tooth", "Periodontal findings of a tooth")
EXAM: Final = own("observation", "periodontal-exam", "Periodontal examination")
# Panels under which other systems send the findings of a tooth.
PANELS: Final = (TOOTH_EXAM, MOUTH, Coding(LOINC, "74029-0"))
CATEGORY: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/observation-category", "exam", "Exam"
)
_OTHER_SITES: Final = {
    "MP": "Mesiopalatal",
    "P": "Palatal",
    "DP": "Distopalatal",
    "M": "Mesial",
    "D": "Distal",
}
SITES: Final = {
    code: own("periodontal-site", code, display)
    for code, display in {**PERIODONTAL_SITES, **_OTHER_SITES}.items()
}
NOT_PERFORMED: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/data-absent-reason", "not-performed", "Not Performed"
)


@dataclass(frozen=True, slots=True)
class Ranged(Integer):
    """A grade within the range of its column."""

    high: int = 0
    label: str = "integer"

    def get(self, node: Any) -> int | None:
        value = Integer.get(self, node)
        return value if value is not None and 0 <= value <= self.high else None


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of a site, the codes that mean it (the first is written), and its value."""

    column: str
    codings: tuple[Coding, ...]
    suffix: str
    converter: Converter


MEASURES: Final = (
    Measure(
        "pocket_depth_mm",
        (
            Coding(LOINC, "32910-2", "Probing depth {Tooth}.{probe site} Measured"),
            Coding(LOINC, "64042-5"),
        ),
        "Quantity",
        Quantity("mm", low=0, high=20, places=1),
    ),
    Measure(
        "gingival_margin_mm",
        (
            Coding(
                LOINC,
                "64043-3",
                "Distance from the free gingival margin, FGM, to the cement-enamel junction, CEJ",
            ),
        ),
        "Quantity",
        Quantity("mm", low=-15, high=15, places=1),
    ),
    Measure(
        "bleeding_on_probing",
        (Coding(SNOMED_CT, "86276007", "Bleeding on probing"), Coding(LOINC, "64044-1")),
        "Boolean",
        Boolean(),
    ),
    Measure(
        "suppuration",
        (own("observation", "suppuration", "Suppuration on probing"),),
        "Boolean",
        Boolean(),
    ),
    Measure(
        "plaque", (Coding(LOINC, "34016-6", "Dental plaque {Probe site}"),), "Boolean", Boolean()
    ),
    Measure(
        "mobility_grade",
        (own("observation", "tooth-mobility", "Tooth mobility grade"),),
        "Integer",
        Ranged(high=3),
    ),
    Measure(
        "furcation_involvement",
        (own("observation", "furcation", "Furcation involvement grade"), Coding(LOINC, "34015-8")),
        "Integer",
        Ranged(high=4),
    ),
)
COLUMNS: Final = tuple(measure.column for measure in MEASURES)
_BY_COLUMN: Final = {measure.column: measure for measure in MEASURES}
_DEPTH: Final = MEASURES[0]
Cell = tuple[str, str]  # site, column


@dataclass(frozen=True, slots=True)
class Sites:
    """The rows of a tooth, on the Observation itself: a component for each measure of each site."""

    label: str = "component per site (our extension) and measure: " + ", ".join(
        f"{item.column} = {item.codings[0].code}" for item in MEASURES
    )

    def get(self, node: JsonObject) -> tuple[Row, ...]:
        rows: dict[str, Row] = {}
        for component in node.get("component") or []:
            cell = _cell(component)
            if cell is None:
                continue
            row = rows.setdefault(cell[0], {"site": cell[0], **dict.fromkeys(COLUMNS)})
            if row[cell[1]] is None:
                row[cell[1]] = _value(component, _BY_COLUMN[cell[1]])
        return tuple(rows[site] for site in SITES if site in rows)

    def put(self, value: tuple[Row, ...], node: JsonObject) -> JsonObject:
        wanted = _cells(value)
        components: list[JsonObject] = []
        for component in node.get("component") or []:
            cell = _cell(component)
            if cell is None:
                components.append(component)
            elif cell in wanted:
                components.append(_with_value(component, cell, wanted.pop(cell)))
        for cell, item in wanted.items():
            components.append(_with_value(_new_component(cell), cell, item))
        rest = {key: item for key, item in node.items() if key != "component"}
        return {**rest, "component": components} if components else rest


def _cells(rows: tuple[Row, ...]) -> dict[Cell, Any]:
    """What is measured at each site; a site without any measure says that none was taken."""
    cells: dict[Cell, Any] = {}
    for row in rows:
        measured = {column: row[column] for column in COLUMNS if row[column] is not None}
        for column, value in (measured or {_DEPTH.column: None}).items():
            cells[row["site"], column] = value
    return cells


def _cell(component: Any) -> Cell | None:
    """The site and the column of a component; None for one that is the client's own."""
    if not isinstance(component, dict):
        return None
    site = _site(component)
    for measure in MEASURES:
        if site and has_coding(component.get("code"), *measure.codings):
            is_held = _value(component, measure) is not None or "dataAbsentReason" in component
            return (site, measure.column) if is_held else None
    return None


def _site(component: JsonObject) -> str | None:
    for extension in component.get("extension") or []:
        if extension.get("url") == SITE:
            concept = extension.get("valueCodeableConcept")
            return next((code for code, item in SITES.items() if has_coding(concept, item)), None)
    return None


def _value(component: JsonObject, measure: Measure) -> Any:
    return measure.converter.get(component.get(f"value{measure.suffix}"))


def _new_component(cell: Cell) -> JsonObject:
    site, column = cell
    return {
        "extension": [{"url": SITE, "valueCodeableConcept": SITES[site].concept()}],
        "code": _BY_COLUMN[column].codings[0].concept(),
    }


def _with_value(component: JsonObject, cell: Cell, value: Any) -> JsonObject:
    measure = _BY_COLUMN[cell[1]]
    if _value(component, measure) == value and (
        value is not None or "dataAbsentReason" in component
    ):
        return component
    rest = without_choice(component, "value")
    rest.pop("dataAbsentReason", None)
    if value is None:
        return {**rest, "dataAbsentReason": NOT_PERFORMED.concept()}
    old = component.get(f"value{measure.suffix}")
    return {**rest, f"value{measure.suffix}": measure.converter.put(value, old)}


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


def is_tooth(resource: JsonObject) -> bool:
    """Whether the rows can hold the Observation: a panel of a tooth with a site and a moment."""
    row = tooth_mapping(None).get(resource).row
    needed = (row["measured_at"], row["tooth_number"], row["sites"])
    return has_coding(resource.get("code"), *PANELS) and all(needed)


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

    def row_id(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> UUID | None:
        """The id that follows from the content; None while a reference in it does not resolve."""
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
        with refusing_bad_rows(connection, self.resource_type):
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
        return []

    def exists(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> bool:
        return bool(self._rows(connection, tenant_id, row_id))

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
            row[column] = spell(connection, tenant_id, (target,), row[column], spelled)
        return with_id(self.put(Rows(row), stored), row_id)

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        with refusing_bad_rows(connection, self.resource_type):
            key = {"tenant_id": tenant_id, "observation_id": row_id}
            delete(connection, "perio_measurements", key)

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
