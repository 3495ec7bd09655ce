"""Rows that a practice system writes are seen by whom their patient's record is open to, at once.

Two patients of two locations have a row in every clinical table; an app of the one, a user of the
one location, and another tenant ask for both. Which types there are to ask for, the tables say.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg.types.json import Jsonb

from interop.access.compartments import patient_parameters
from storage.schema.presentation import PRESENTED
from storage.tenancy import Tenant
from tests.integration.access.conftest import Door, comparable, found

# Of the patients, and of the other tenant.
pytestmark = pytest.mark.strategies(("ROW_LEVEL", "ROW_LEVEL"), ("SCHEMA", "DATABASE"))
TABLES = (
    "encounters", "encounter_diagnoses", "clinical_notes", "patient_medications",
    "patient_allergies", "patient_social_history", "patient_conditions", "treatment_plans",
    "treatment_plan_items", "procedures", "clinical_outcomes", "referrals",
    "tooth_chart_snapshots", "imaging_studies", "imaging_objects", "image_annotations",
    "ai_inference_jobs", "ai_predictions",
)  # fmt: skip
TYPES = sorted(
    {
        item.resource_type
        for table in TABLES
        for item in PRESENTED[table]
        if patient_parameters(item.resource_type)
    }
    # Of imaging_studies: another permission, tested where images are.
    - {"ImagingStudy", "Patient"}
)
SEEN_BY_NAME = ("Provenance",)  # in the compartment only where it names the patient


class Chart:
    """A patient with a row in every table; `rows` are their ids by table."""

    def __init__(self, door: Door, tenant: Tenant, place: UUID, model: UUID) -> None:
        self._door, self._tenant = door, tenant
        self.rows: dict[str, UUID] = {}
        self.patient = patient = self.add("patients", primary_location_id=place, last_name="Own")
        visit = self.add("encounters", patient_id=patient, scheduled_start_at="2027-01-01T09:00Z")
        coded = {"code_system": "ICD10", "code": "K02.9"}
        self.add("encounter_diagnoses", encounter_id=visit, **coded)
        self.add("clinical_notes", encounter_id=visit, content="a note")
        self.add("patient_medications", patient_id=patient, name="Amoxicillin")
        self.add("patient_allergies", patient_id=patient, category="DRUG", substance="Latex")
        self.add("patient_social_history", patient_id=patient, category="ALCOHOL")
        self.add("patient_conditions", patient_id=patient, **coded)
        plan = self.add("treatment_plans", patient_id=patient, title="Plan")
        self.add("treatment_plan_items", plan_id=plan, cdt_code="D2740")
        procedure = self.add("procedures", patient_id=patient, cdt_code="D2740")
        self.add("clinical_outcomes", procedure_id=procedure, is_success=True)
        self.add("referrals", patient_id=patient, reason="pain", status="SENT")
        chart = Jsonb({"teeth": {"36": {"status": "present"}}})
        self.add("tooth_chart_snapshots", patient_id=patient, chart_json=chart)
        uid = f"2.25.{uuid4().int}"
        study = self.add("imaging_studies", patient_id=patient, study_uid=uid)
        image = self.add(
            "imaging_objects", study_id=study, object_type="PNG", storage_uri=str(uuid4()),
            hash="0" * 64, byte_size=1,
        )  # fmt: skip
        author = door.user(tenant)
        self.add(
            "image_annotations", imaging_object_id=image, source_type="USER",
            author_user_id=author, annotation_type="LABEL", geometry=Jsonb({}), label_code="x",
        )  # fmt: skip
        job = self.add(
            "ai_inference_jobs", model_version_id=model, study_id=study, status="SUCCEEDED",
            idempotency_key=str(uuid4()), started_at="2027-01-01", completed_at="2027-01-01",
        )  # fmt: skip
        for kind in ("CARIES", "RISK_SCORE"):
            self.add(
                "ai_predictions", job_id=job, patient_id=patient, prediction_type=kind,
                confidence=0.5, code="SCT|80967001",
            )  # fmt: skip

    def add(self, table: str, **values: object) -> UUID:
        row_id = uuid4()
        names = ", ".join(("tenant_id", "id", *values))
        places = ", ".join(["%s"] * (len(values) + 2))
        with self._door.services.database.connection(self._tenant.id) as connection:
            statement = f"INSERT INTO {table} ({names}) VALUES ({places})"
            connection.execute(statement.encode(), (self._tenant.id, row_id, *values.values()))
        self.rows[table] = row_id
        return row_id


@pytest.fixture(scope="module")
def charts(door: Door, tenant: Tenant) -> tuple[Chart, Chart, UUID]:
    north, south = uuid4(), uuid4()
    with door.services.database.connection(tenant.id) as connection:
        for place in (north, south):
            connection.execute(
                "INSERT INTO locations (tenant_id, id, name) VALUES (%s, %s, 'Place')",
                (tenant.id, place),
            )
        model = uuid4()
        connection.execute(
            "INSERT INTO ai_models (id, name, domain) VALUES (%s, %s, 'CARIES')",
            (model, str(model)),
        )
        connection.execute(
            "INSERT INTO ai_model_versions (id, model_id, version_tag, artifact_uri)"
            " VALUES (%s, %s, '1', 'x')",
            (model, model),
        )
    return Chart(door, tenant, north, model), Chart(door, tenant, south, model), north


def named(client: httpx.Client, type_: str) -> dict[str, str]:
    """The resources of a type that a client finds, each as what it says."""
    bundle = client.get(f"/{type_}", params={"_count": "100"})
    found(bundle)
    return {
        entry["resource"]["id"]: json.dumps(entry["resource"])
        for entry in bundle.json().get("entry", ())
    }


def about(resources: dict[str, str], chart: Chart) -> set[str]:
    return {id_ for id_, text in resources.items() if f"Patient/{chart.patient}" in text}


@pytest.mark.parametrize("type_", TYPES)
def test_a_row_is_found_at_once_and_only_by_whom_it_is_for(
    door: Door, tenant: Tenant, other_tenant: Tenant, charts: tuple[Chart, Chart, UUID], type_: str
) -> None:
    own, others, north = charts
    everything = named(door.system(tenant), type_)
    mine, theirs = about(everything, own), about(everything, others)
    app = door.caller(tenant, "patient/*.rs", patient=own.patient)
    dentist = door.user(tenant, ("CLINICIAN", "LOCATION", north))
    stranger = door.system(other_tenant)
    if type_ in SEEN_BY_NAME:
        assert everything and named(app, type_) == {}
        return

    assert len(mine) == len(theirs) >= 1
    for client in (app, door.caller(tenant, "user/*.rs", user=dentist)):
        assert set(named(client, type_)) == mine
        for id_ in theirs:
            answer = client.get(f"/{type_}/{id_}")
            nobody = client.get(f"/{type_}/{uuid4()}")
            assert comparable(answer) == comparable(nobody)
    assert named(stranger, type_) == {}
    for id_ in mine | theirs:
        assert stranger.get(f"/{type_}/{id_}").status_code == 404


def test_every_clinical_type_is_asked_for() -> None:
    wanted: set[str] = {
        "AllergyIntolerance", "Appointment", "CarePlan", "Composition", "Condition",
        "DiagnosticReport", "DocumentReference", "Encounter", "MedicationRequest",
        "MedicationStatement", "Observation", "Procedure", "RiskAssessment", "ServiceRequest",
        "Task",
    }  # fmt: skip

    assert wanted <= set(TYPES)


def test_a_role_without_patients_reads_none_of_it(
    door: Door, tenant: Tenant, charts: tuple[Chart, Chart, UUID]
) -> None:
    scientist = door.user(tenant, ("DATA_SCIENTIST", "ALL_LOCATIONS", None))
    client: Any = door.caller(tenant, "user/*.rs", user=scientist)

    assert {client.get(f"/{type_}").status_code for type_ in TYPES} == {403}
