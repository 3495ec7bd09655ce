"""ImagingStudy over imaging_studies, imaging_series and imaging_objects.

What DICOM says wins: a client's other elements stay, and only the visit (`encounter`) and the
referrer are the client's to set. A client may store an ImagingStudy of images that this server does
not hold; it is kept whole. One whose Study Instance UID is held here belongs to the DICOM study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from interop.errors import Conflict
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Codes, Converter, Day, Integer, Moment, Text
from interop.fhir.mappings.lens import Children, Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.places import FirstOf, Fixed
from interop.fhir.mappings.statements import select, update
from interop.fhir.mappings.systems import DICOM, DICOM_UID, IDENTIFIER_TYPE, SNOMED_CT, URI
from interop.fhir.mappings.tables import refusing_bad_rows, spell, with_id
from interop.fhir.mappings.views import ViewLens

# A study of more instances lists its series only: a resource is read whole, DICOMweb in parts.
MAX_LISTED_INSTANCES: Final = 1000
ACCESSION: Final = Coding(IDENTIFIER_TYPE, "ACSN", "Accession ID")
LATERALITIES: Final = {
    "L": Coding(SNOMED_CT, "7771000", "Left"),
    "R": Coding(SNOMED_CT, "24028007", "Right"),
    "B": Coding(SNOMED_CT, "51440002", "Right and left"),
}
# Body Part Examined (0018,0015) as PS3.16 CID 4016 codes it; other terms are shown as they stand.
BODY_PARTS: Final = {"JAW": "661005", "MANDIBLE": "91609006", "MAXILLA": "70925003"}


@dataclass(frozen=True, slots=True)
class Uid:
    """A DICOM UID as FHIR writes it in an identifier, as an OID URN."""

    label: str = "urn:oid:UID"

    def get(self, node: Any) -> str | None:
        return node.removeprefix("urn:oid:") or None if isinstance(node, str) else None

    def put(self, value: str | None, node: Any) -> str | None:
        return value and f"urn:oid:{value}"


@dataclass(frozen=True, slots=True)
class Modalities:
    """Modalities in Study as a sorted tuple of DICOM codes."""

    label: str = "codings of DCM"

    def get(self, node: Any) -> tuple[str, ...]:
        ours = [item for item in node or [] if item.get("system") == DICOM and "code" in item]
        return tuple(sorted({item["code"] for item in ours}))

    def put(self, value: tuple[str, ...], node: Any) -> Any:
        kept = [
            item
            for item in node or []
            if item.get("system") != DICOM or item.get("code") in (None, *value)
        ]
        known = self.get(kept)
        added = [code for code in value if code not in known]
        return [*kept, *(Coding(DICOM, code).json() for code in added)] or None


@dataclass(frozen=True, slots=True)
class CodingOf:
    """A Coding of one system."""

    system: str
    prefix: str = ""

    @property
    def label(self) -> str:
        return f"Coding of {self.system}"

    def get(self, node: Any) -> str | None:
        if not isinstance(node, Mapping) or node.get("system") != self.system:
            return None
        return str(node.get("code", "")).removeprefix(self.prefix) or None

    def put(self, value: str | None, node: Any) -> Any:
        return value and Coding(self.system, self.prefix + value).json()


@dataclass(frozen=True, slots=True)
class BodyPart:
    """Body Part Examined as a Coding that is shown as the term, coded where the code is known."""

    label: str = "Coding.display; SNOMED CT where CID 4016 has the term"

    def get(self, node: Any) -> str | None:
        return Text().get(node.get("display")) if isinstance(node, Mapping) else None

    def put(self, value: str | None, node: Any) -> Any:
        if not value:
            return None
        if value in BODY_PARTS:
            return Coding(SNOMED_CT, BODY_PARTS[value], value).json()
        return {"display": value}


@dataclass(frozen=True, slots=True)
class Laterality:
    """Laterality (0020,0060)."""

    label: str = "L, R, B as SNOMED CT"

    def get(self, node: Any) -> str | None:
        for value, coding in LATERALITIES.items():
            if isinstance(node, Mapping) and node.get("code") == coding.code:
                return value
        return None

    def put(self, value: str | None, node: Any) -> Any:
        return LATERALITIES[value].json() if value else None


@dataclass(frozen=True, slots=True)
class ListOf:
    """Rows that are a list on the node itself, as the value of one column."""

    children: Children
    label: str = "list, by uid"

    def get(self, node: Any) -> tuple[Row, ...]:
        return self.children.get(node or {})

    def put(self, value: tuple[Row, ...], node: Any) -> Any:
        return self.children.put(value, node or {})


INSTANCES: Final = Children(
    "imaging_objects",
    "instance",
    [
        Entry("sop_instance_uid", "uid", Text()),
        Entry("sop_class_uid", "sopClass", CodingOf(URI, "urn:oid:")),
        Entry("instance_number", "number", Integer()),
        Entry("document_title", "title", Text()),
    ],
    key=("sop_instance_uid",),
    order=("instance_number", "sop_instance_uid"),
)

SERIES: Final = Children(
    "imaging_series",
    "series",
    [
        Entry("series_uid", "uid", Text()),
        Entry("series_number", "number", Integer()),
        Entry("modality", "modality", CodingOf(DICOM), "OT", required=True),
        Entry("series_description", "description", Text()),
        Entry("number_of_instances", "numberOfInstances", Integer(), 0),
        Entry("body_part_examined", "bodySite", BodyPart()),
        Entry("laterality", "laterality", Laterality()),
        Entry("series_date", "started", Day()),
        Entry("instances", "", ListOf(INSTANCES)),
    ],
    key=("series_uid",),
    order=("series_number", "series_uid"),
)


def mapping(public_url: str | None) -> ResourceMapping:
    reference: dict[str, Converter] = {
        name: Reference((name,), public_url)
        for name in ("Patient", "Encounter", "Practitioner", "Endpoint")
    }
    return ResourceMapping(
        "ImagingStudy",
        "imaging_studies",
        [
            Entry("study_uid", f"identifier[system={DICOM_UID}].value", Uid()),
            Entry(
                "accession_number",
                "identifier",
                FirstOf(Fixed("type", ACCESSION, "value", Text())),
            ),
            Entry(
                "status",
                "status",
                Codes({"available": "AVAILABLE", "registered": "EMPTY"}),
                required=True,
            ),
            Entry("modalities_in_study", "modality", Modalities()),
            Entry("patient_id", "subject", reference["Patient"]),
            Entry("encounter_id", "encounter", reference["Encounter"]),
            Entry("acquisition_datetime", "started", Moment()),
            Entry("referring_provider_id", "referrer", reference["Practitioner"]),
            Entry("endpoint", "endpoint", FirstOf(reference["Endpoint"])),
            Entry("number_of_series", "numberOfSeries", Integer(), 0),
            Entry("number_of_instances", "numberOfInstances", Integer(), 0),
            Entry("study_description", "description", Text()),
        ],
        [SERIES],
    )


_STUDY: Final = (
    "study_uid",
    "accession_number",
    "modalities_in_study",
    "patient_id",
    "encounter_id",
    "acquisition_datetime",
    "referring_provider_id",
    "number_of_series",
    "number_of_instances",
    "study_description",
)
# The columns that a client sets; the types that they refer to.
CLIENT_COLUMNS: Final = {"encounter_id": "Encounter", "referring_provider_id": "Practitioner"}


def load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    """A study with its series and, up to a limit, its instances."""
    found = select(connection, "imaging_studies", _STUDY, {"tenant_id": tenant_id, "id": row_id})
    if not found:
        return None
    row = found[0]
    row["modalities_in_study"] = tuple(sorted(set(row["modalities_in_study"])))
    # Empty where the device sent none: an Identifier without a value is no accession number.
    row["accession_number"] = row["accession_number"] or None
    row["status"] = "AVAILABLE" if row["number_of_instances"] else "EMPTY"
    row["patient_id"] = references.literal(connection, tenant_id, "Patient", row["patient_id"])
    row["endpoint"] = _endpoint(connection, tenant_id)
    is_listed = row["number_of_instances"] <= MAX_LISTED_INSTANCES
    instances = _instances(connection, tenant_id, row_id) if is_listed else {}
    columns = tuple(column for column in SERIES.columns if column != "instances")
    key = {"tenant_id": tenant_id, "study_id": row_id}
    series = select(connection, "imaging_series", ("id", *columns), key)
    for item in series:
        item["instances"] = INSTANCES.sorted(instances.get(item.pop("id"), ()))
        item["modality"] = item["modality"] or "OT"
        item["series_date"] = _date(item["series_date"])
        item["series_number"] = _number(item["series_number"])
        item["laterality"] = item["laterality"] if item["laterality"] in LATERALITIES else None
    return Rows(row, {"imaging_series": SERIES.sorted(series)})


def _instances(connection: Connection, tenant_id: UUID, row_id: UUID) -> dict[UUID, list[Row]]:
    key = {"tenant_id": tenant_id, "study_id": row_id, "object_type": "DICOM"}
    by_series: dict[UUID, list[Row]] = {}
    for row in select(connection, "imaging_objects", ("series_id", *INSTANCES.columns), key):
        row["instance_number"] = _number(row["instance_number"])
        by_series.setdefault(row.pop("series_id"), []).append(row)
    return by_series


def _endpoint(connection: Connection, tenant_id: UUID) -> str | None:
    found = connection.execute(
        "SELECT id FROM tenant_settings WHERE tenant_id = %s", (tenant_id,)
    ).fetchone()
    return references.literal(connection, tenant_id, "Endpoint", found[0]) if found else None


def _number(value: int | None) -> int | None:
    """An IS of DICOM may be negative, an unsignedInt of FHIR may not."""
    return value if value is not None and value >= 0 else None


def _date(text: str | None) -> date | None:
    """A DICOM date (PS3.5 6.2, DA); what is none is not shown."""
    try:
        return date.fromisoformat(text or "")
    except ValueError:
        return None


class ImagingStudyLens(ViewLens):
    """A view of the DICOM study, but for the two columns that are a client's to set."""

    client_elements = ("encounter", "referrer")

    def __init__(self, public_url: str | None) -> None:
        origin = "of DICOM instances; delete those over DICOMweb"
        super().__init__(mapping(public_url), load, origin, ("imaging_studies", "id"))

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        held = super().row_id(connection, tenant_id, resource, proposed)
        study_uid = self.get(resource).row["study_uid"]
        if held is not None or study_uid is None:
            return held
        found = connection.execute(
            "SELECT s.id, r.resource_id FROM imaging_studies AS s"
            " LEFT JOIN fhir_resources AS r ON r.tenant_id = s.tenant_id"
            " AND r.resource_type = 'ImagingStudy' AND r.row_id = s.id"
            " WHERE s.tenant_id = %s AND s.study_uid = %s",
            (tenant_id, study_uid),
        ).fetchone()
        if found is None:
            return None
        if found[1] is not None and found[1] != resource.get("id"):
            raise Conflict(f"study {study_uid} is ImagingStudy/{found[1]}; update that one")
        study: UUID = found[0]
        return study

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        row = self.get(resource).row
        links: Row = {
            column: references.resolve(connection, tenant_id, row[column]) if row[column] else None
            for column in CLIENT_COLUMNS
        }
        with refusing_bad_rows(self.resource_type):
            key = {"tenant_id": tenant_id, "id": row_id}
            update(connection, "imaging_studies", {**links, "updated_by": actor}, key)
        return []

    def waits_for(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> list[str]:
        """References whose columns are empty until their resources exist."""
        row = self.get(resource).row
        named = [row[column] for column in CLIENT_COLUMNS if row[column]]
        return references.unresolved(connection, tenant_id, named)

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        rows = self._load(connection, tenant_id, row_id)
        if rows is None:
            return None
        said = self.get(stored).row if stored else {}
        row = dict(rows.row)
        for column, target in CLIENT_COLUMNS.items():
            spelled = said.get(column)
            meant = references.resolve(connection, tenant_id, spelled) if spelled else None
            row[column] = spell(connection, tenant_id, (target,), row[column], spelled, meant)
        return with_id(self.put(Rows(row, rows.children), stored), row_id)


def lens(public_url: str | None) -> ImagingStudyLens:
    return ImagingStudyLens(public_url)
