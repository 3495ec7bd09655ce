"""What the mappings say about the schema, and that their documentation is current."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.codeableconcept import CodeableConcept
from fhir.resources.R4B.coding import Coding
from fhir.resources.R4B.humanname import HumanName
from fhir.resources.R4B.identifier import Identifier
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.patient import Patient
from fhir.resources.R4B.quantity import Quantity
from fhir.resources.R4B.reference import Reference
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from interop.fhir import json
from interop.fhir.mappings import (
    LENSES,
    ai_job,
    allergy,
    annotation,
    appointment,
    care_plan,
    clinical_note,
    consent,
    encounter,
    location,
    medication,
    patient,
    plan_item,
    practitioner,
    procedure,
    referral,
    social_history,
    vital_signs,
)
from interop.fhir.mappings import condition as conditions
from interop.fhir.mappings.body_site import BodySite, tooth_concept
from interop.fhir.mappings.concepts import Concept
from interop.fhir.mappings.converters import Codes
from interop.fhir.mappings.not_presented import LOGS, NOT_PRESENTED
from interop.fhir.mappings.perio_sites import SITES
from storage.dental import TEETH
from storage.schema import metadata
from storage.schema.presentation import PRESENTED

ROOT = Path(__file__).parents[5]


def test_the_documentation_of_the_mappings_is_current() -> None:
    script = ROOT / "tools" / "write_fhir_mappings_doc.py"
    spec = importlib.util.spec_from_file_location("write_fhir_mappings_doc", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.TARGET.read_text(encoding="utf-8") == module.document(), (
        "run: python tools/write_fhir_mappings_doc.py"
    )


def test_every_presented_resource_type_has_a_lens() -> None:
    presented = {item.resource_type for items in PRESENTED.values() for item in items}

    assert presented == set(LENSES)


def test_every_table_is_presented_or_deliberately_not() -> None:
    homes = (set(PRESENTED), set(LOGS), set(NOT_PRESENTED))

    assert sorted(table for home in homes for table in home) == sorted(metadata.tables)
    assert all(len(reason) > 3 for reason in NOT_PRESENTED.values())


@pytest.mark.parametrize(
    ("table", "column", "converter", "elsewhere"),
    [
        ("patients", "sex_at_birth", patient.GENDERS, set()),
        ("patients", "sex_at_birth", patient.BIRTH_SEXES, set()),
        ("patient_identifiers", "system", patient.IDENTIFIER_TYPES, set()),
        ("user_tenants", "user_type", practitioner.KINDS, set(practitioner.NOT_PRESENTED)),
        ("locations", "type", location.KINDS, set()),
        ("encounters", "encounter_type", encounter.TYPES, set()),
        ("encounters", "status", encounter.STATUSES, {"NO_SHOW"}),
        ("patient_conditions", "clinical_status", conditions.CLINICAL_STATUS, set()),
        ("patient_conditions", "verification_status", conditions.VERIFICATION_STATUS, set()),
        ("patient_conditions", "severity", conditions.SEVERITY, set()),
        ("procedures", "status", procedure.STATUSES, set()),
        ("encounters", "status", appointment.STATUSES, set()),
        ("encounter_diagnoses", "diagnosis_role", encounter.ROLES, set()),
        ("patient_medications", "status", medication.STATUSES, set()),
        ("patient_allergies", "clinical_status", allergy.CLINICAL_STATUS, set()),
        ("patient_allergies", "criticality", allergy.CRITICALITIES, set()),
        ("patient_allergies", "severity", allergy.SEVERITIES, {"LIFE_THREATENING"}),
        ("patient_social_history", "status", social_history.SMOKERS, set()),
        ("patient_social_history", "status", social_history.OTHERS, set()),
        ("clinical_notes", "note_type", clinical_note.TYPES, set()),
        ("treatment_plans", "status", care_plan.STATUSES.codes, {*care_plan.STATUSES.refinements}),
        (
            "treatment_plan_items",
            "status",
            plan_item.STATUSES.codes,
            {*plan_item.STATUSES.refinements},
        ),
        ("referrals", "status", referral.STATUSES.codes, {*referral.STATUSES.refinements}),
        ("referrals", "referral_type", referral.TYPES, set()),
        ("referrals", "urgency", referral.URGENCIES, set()),
        ("image_annotations", "annotation_type", annotation.TYPES, set()),
        ("ai_review_events", "review_action", ai_job.REVIEWS, set()),
        ("consents", "consent_type", consent.TYPES, set()),
        ("consents", "source", consent.SOURCES, set()),
    ],
)
def test_every_value_of_an_enum_has_a_code(
    table: str, column: str, converter: Codes | Concept, elsewhere: set[str]
) -> None:
    values = set(metadata.tables[table].c[column].info["values"])

    codes = converter.enum_to_code if isinstance(converter, Codes) else converter.codes

    assert set(codes) == values - elsewhere


def test_every_habit_of_the_table_has_a_code() -> None:
    values = metadata.tables["patient_social_history"].c["category"].info["values"]

    assert set(social_history.HABITS) == set(values)


def test_every_probing_site_of_the_table_has_a_code() -> None:
    sites = metadata.tables["perio_measurements"].c["site"].info["values"]

    assert set(SITES) == set(sites)


def test_teeth_are_those_of_dicom() -> None:
    by_keyword: Any = concepts["SCT"]
    names = [*cid_concepts[4018]["SCT"], *cid_concepts[4019]["SCT"]]
    dicom = {
        code: meaning
        for name in names
        for code, (meaning, contexts) in by_keyword[name].items()
        if {4018, 4019} & set(contexts)
    }

    assert {tooth.snomed_ct: tooth.name for tooth in TEETH} == dicom


@pytest.mark.parametrize(
    ("system", "code", "fdi"),
    [
        ("http://snomed.info/sct", "866006002", 36),
        ("http://terminology.hl7.org/CodeSystem/ADAUniversalToothDesignationSystem", "19", 36),
        ("http://terminology.hl7.org/CodeSystem/ADAUniversalToothDesignationSystem", "K", 75),
        ("http://terminology.hl7.org/CodeSystem/ex-tooth", "18", 18),
        ("urn:iso:std:iso:3950", "55", 55),
        ("http://terminology.hl7.org/CodeSystem/ex-tooth", "8", None),
        ("urn:other", "36", None),
    ],
)
def test_a_tooth_is_read_in_each_notation(system: str, code: str, fdi: int | None) -> None:
    resource = {"bodySite": [{"coding": [{"system": system, "code": code}]}]}

    assert BodySite().get(resource) == (fdi, None)


def test_a_tooth_is_written_in_every_notation() -> None:
    codes = [item["code"] for item in tooth_concept(75)["coding"]]

    assert codes == ["49330006", "75", "K"]


def test_a_patient_built_with_fhir_resources_is_read() -> None:
    built = Patient(
        identifier=[Identifier(system="urn:oid:1.2.3", value="4711", use="usual")],
        name=[HumanName(family="Chalmers", given=["Peter", "James"], use="official")],
        gender="male",
        birthDate="1974-12-25",
        deceasedDateTime="2024-05-01T10:00:00+02:00",
    )

    rows = patient.MAPPING.get(json.loads(built.model_dump_json().encode()))

    assert (rows.row["first_name"], rows.row["middle_name"]) == ("Peter", "James")
    assert rows.row["sex_at_birth"] == "MALE"
    assert rows.row["status"] == "DECEASED"
    assert rows.row["deceased_at"] == datetime(2024, 5, 1, 8, tzinfo=UTC)
    (identifier,) = rows.children["patient_identifiers"]
    assert (identifier["system"], identifier["assigner"]) == ("MRN", "urn:oid:1.2.3")


@pytest.mark.parametrize(
    ("code", "value", "unit", "column", "expected"),
    [
        ("8310-5", "98.6", "[degF]", "temperature_celsius", 37.0),
        ("29463-7", "154.3", "[lb_av]", "weight_kg", 69.9893),
        ("8302-2", "1.75", "m", "height_cm", 175.0),
        ("39156-5", "22.549", "kg/m2", "bmi", Decimal("22.55")),
        ("59408-5", "97", "%", "oxygen_saturation_percent", 97.0),
        ("8867-4", "900", "/min", "heart_rate_bpm", None),
        ("8867-4", "70", "Hz", "heart_rate_bpm", None),
    ],
)
def test_a_vital_sign_built_with_fhir_resources_is_read_in_our_unit(
    code: str, value: str, unit: str, column: str, expected: object
) -> None:
    amount = Quantity(value=Decimal(value), system="http://unitsofmeasure.org", code=unit)
    built = Observation(
        status="final",
        code=CodeableConcept(coding=[Coding(system="http://loinc.org", code=code)]),
        subject=Reference(reference="Patient/1"),
        effectiveDateTime="2026-02-05T10:00:00Z",
        valueQuantity=amount,
    )
    resource: dict[str, Any] = json.loads(built.model_dump_json().encode())

    row = vital_signs.mapping(None).get(resource).row

    assert row[column] == expected
    assert vital_signs.is_vital_signs(resource) is (expected is not None)
