"""Condition over patient_conditions (US Core Condition, Dental Data Exchange dental-condition).

A Condition whose code has several codings is one row with the coding that says most to a dental
record: ICD-10, else SNOMED CT, else the first. A diagnosis of a visit that names no entry of the
problem list is a Condition of its own (US Core Encounter Diagnosis), which the server shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection
from interop.fhir.mappings import references, statements
from interop.fhir.mappings.body_site import BodySite
from interop.fhir.mappings.concepts import Coding, Concept, Reference, codings, replaced
from interop.fhir.mappings.converters import Moment, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.places import Choice, Notes
from interop.fhir.mappings.shared_type import SharedLens, Writable
from interop.fhir.mappings.systems import CDT, DENTAL, ICD10_CM, SNOMED_CT
from interop.fhir.mappings.tables import TableLens
from interop.fhir.mappings.views import ViewLens

_HL7: Final = "http://terminology.hl7.org/CodeSystem"
PROBLEM: Final = Coding(f"{_HL7}/condition-category", "problem-list-item", "Problem List Item")
CANONICAL: Final = {"ICD10": ICD10_CM, "SNOMED": SNOMED_CT}


def _concepts(system: str, *codes: str) -> Concept:
    """A concept per code of an HL7 system; the enum value is the code in capitals."""
    return Concept(
        {code.upper().replace("-", "_"): Coding(f"{_HL7}/{system}", code) for code in codes}
    )


CLINICAL_STATUS: Final = _concepts(
    "condition-clinical", "active", "recurrence", "relapse", "inactive", "remission", "resolved"
)
VERIFICATION_STATUS: Final = _concepts(
    "condition-ver-status",
    "unconfirmed",
    "provisional",
    "differential",
    "confirmed",
    "refuted",
    "entered-in-error",
)
SEVERITY: Final = Concept(
    {
        "MILD": Coding(SNOMED_CT, "255604002", "Mild"),
        "MODERATE": Coding(SNOMED_CT, "6736007", "Moderate"),
        "SEVERE": Coding(SNOMED_CT, "24484000", "Severe"),
    }
)


def kind_of_system(uri: str | None) -> str:
    """The class of code systems that a URI belongs to."""
    if uri == SNOMED_CT:
        return "SNOMED"
    # icd-10, icd-10-cm and the national modifications name themselves alike.
    return "ICD10" if uri and "icd-10" in uri else "CUSTOM"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """(code_system, code_system_uri, code, display) of one coding; without one, the text."""

    label: str = "ICD-10 coding, else SNOMED CT, else the first; display, else text"

    def get(self, node: Any) -> tuple[str | None, ...]:
        coded = [item for item in codings(node) if Text().get(item.get("code"))]
        coded.sort(key=lambda item: ("ICD10", "SNOMED", "CUSTOM").index(_kind(item)))
        text = Text().get((node or {}).get("text"))
        if not coded:
            return None, None, None, text
        first = coded[0]
        display = Text().get(first.get("display")) or text
        return _kind(first), Text().get(first.get("system")), first["code"], display

    def put(self, value: tuple[str | None, ...], node: Any) -> Any:
        _, uri, code, display = value
        coding = {"system": uri, "code": code, "display": display}
        shown = {key: item for key, item in coding.items() if item}
        return replaced(node, coding=[shown] if code else None, text=display) or None


def _kind(coding: dict[str, Any]) -> str:
    return kind_of_system(coding.get("system"))


# con-4: what has abated has one of these.
ABATED: Final = ("INACTIVE", "REMISSION", "RESOLVED")


def normalize(row: Row) -> Row:
    """What a row written in SQL means where FHIR does not allow what it says."""
    return {**row, **_system(row), "clinical_status": _clinical_status(row)}


def _clinical_status(row: Row) -> str | None:
    """con-5: an error has none. con-4: what has abated is over."""
    if row["verification_status"] == "ENTERED_IN_ERROR":
        return None
    status: str | None = row["clinical_status"]
    return status if row["abated_at"] is None or status in ABATED else "RESOLVED"


def _system(row: Row) -> Row:
    """A system that is named by its kind only is the canonical system of the kind."""
    if row["code"] is None:
        return {"code_system": None, "code_system_uri": None}
    uri = row["code_system_uri"] or CANONICAL.get(row["code_system"])
    return {"code_system_uri": uri, "code_system": kind_of_system(uri)}


def _template(row: Row) -> dict[str, Any]:
    is_dental = row["tooth_number"] is not None
    return {"category": [item.concept() for item in (PROBLEM, *([DENTAL] if is_dental else []))]}


def mapping(public_url: str | None) -> ResourceMapping:
    return ResourceMapping(
        "Condition",
        "patient_conditions",
        [
            Entry("clinical_status", "clinicalStatus", CLINICAL_STATUS),
            Entry("verification_status", "verificationStatus", VERIFICATION_STATUS),
            Entry("severity", "severity", SEVERITY),
            Entry(("code_system", "code_system_uri", "code", "display"), "code", Diagnosis()),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("encounter_id", "encounter", Reference(("Encounter",), public_url)),
            Entry(("tooth_number", "surface"), "", BodySite()),
            Entry("onset_at", "", Choice("onset", Moment())),
            Entry("abated_at", "", Choice("abatement", Moment())),
            Entry("recorded_at", "recordedDate", Moment()),
            Entry("recorded_by_id", "recorder", Reference(("Practitioner",), public_url)),
            Entry("notes", "note", Notes()),
        ],
        template=_template,
    )


# -- diagnoses of a visit -------------------------------------------------------------------------

ENCOUNTER_DIAGNOSIS: Final = Coding(
    f"{_HL7}/condition-category", "encounter-diagnosis", "Encounter Diagnosis"
)
DIAGNOSIS_SYSTEMS: Final = {**CANONICAL, "CDT": CDT}


@dataclass(frozen=True, slots=True)
class Coded:
    """(code_system, code, display) of one coding."""

    label: str = ", ".join(f"{uri} = {kind}" for kind, uri in DIAGNOSIS_SYSTEMS.items())

    def get(self, node: Any) -> tuple[str, str, str | None] | None:
        for kind, uri in DIAGNOSIS_SYSTEMS.items():
            for item in codings(node):
                if item.get("system") == uri and Text().get(item.get("code")):
                    return kind, item["code"], Text().get(item.get("display"))
        return None

    def put(self, value: tuple[str, str, str | None], node: Any) -> Any:
        kind, code, display = value
        return replaced(node, coding=[Coding(DIAGNOSIS_SYSTEMS[kind], code, display).json()])


DIAGNOSIS: Final = ResourceMapping(
    "Condition",
    "encounter_diagnoses",
    [
        Entry(("code_system", "code", "display"), "code", Coded()),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("encounter", "encounter", Reference(("Encounter",))),
        Entry(("tooth_number", "surface"), "", BodySite()),
        Entry("recorded_at", "recordedDate", Moment()),
    ],
    template=lambda row: {"category": [ENCOUNTER_DIAGNOSIS.concept()]},
)
_DIAGNOSIS: Final = (
    "SELECT d.code_system, d.code, d.display, d.tooth_number, NULL AS surface,"
    " d.created_at AS recorded_at, d.encounter_id AS encounter, e.patient_id AS patient"
    " FROM encounter_diagnoses AS d"
    " JOIN encounters AS e ON e.tenant_id = d.tenant_id AND e.id = d.encounter_id"
    " WHERE d.tenant_id = %s AND d.id = %s AND d.condition_id IS NULL"
)


def _load_diagnosis(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = statements.query(connection, _DIAGNOSIS, tenant_id, row_id)
    if not found:
        return None
    row = found[0]
    for column, resource_type in (("patient", "Patient"), ("encounter", "Encounter")):
        row[column] = references.literal(connection, tenant_id, resource_type, row[column])
    return Rows({column: row[column] for column in DIAGNOSIS.columns})


def lens(public_url: str | None) -> SharedLens:
    diagnosis = ViewLens(
        DIAGNOSIS,
        _load_diagnosis,
        "a diagnosis of a visit; take it out of the Encounter",
        ("encounter_diagnoses", "id"),
    )
    problems = TableLens(mapping(public_url), needs=("patient_id",), normalize=normalize)
    return SharedLens((diagnosis,), (Writable(problems, lambda resource: True),))
