"""Clinical lenses against PostgreSQL: what clients write, what SQL writes, and whose it is."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from interop.errors import Conflict, Unprocessable
from interop.fhir.validation import validate
from storage.database import Database
from storage.tenancy import Tenant
from tests.unit.interop.fhir.mappings.test_lenses_in_the_database import (
    Resource,
    Server,
    a_patient,
    row_of,
    subject,
    unique,
)

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition"
CDT = "http://www.ada.org/cdt"
SNOMED_CT = "http://snomed.info/sct"
SIGNED = datetime(2026, 1, 1, tzinfo=UTC)
START = datetime(2027, 3, 1, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(database: Database, tenant: Tenant) -> Iterator[Server]:
    yield Server(database, tenant)


@pytest.fixture(scope="module")
def other_server(database: Database, other_tenant: Tenant) -> Server:
    return Server(database, other_tenant)


def conforms(resource: Resource, *profiles: str) -> None:
    found = validate({"id": "x", **resource}, [f"{US_CORE}/{name}" for name in profiles])
    assert [issue.diagnostics for issue in found if issue.severity == "error"] == []


def a_visit(server: Server, patient: Resource, **columns: object) -> UUID:
    return server.add("encounters", patient_id=row_of(server, patient), **columns)


def text_of(words: str) -> dict[str, Any]:
    data = base64.b64encode(words.encode()).decode()
    return {"attachment": {"contentType": "text/plain", "data": data}}


# -- medications and allergies --------------------------------------------------------------------


def test_a_medication_is_a_row_and_shows_as_us_core_reads_it(server: Server) -> None:
    patient = a_patient(server)
    statement = server.write(
        {
            "resourceType": "MedicationStatement",
            "id": unique("statement"),
            "status": "active",
            "medicationCodeableConcept": {
                "coding": [
                    {"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "723"}
                ],
                "text": "Amoxicillin",
            },
            "subject": subject(patient),
            "effectivePeriod": {"start": "2026-01-02"},
            "dosage": [{"text": "three a day", "asNeededBoolean": False}],
        }
    )

    row = server.sql(
        "SELECT name, code, start_date, dosage, status FROM patient_medications WHERE id = %s",
        row_of(server, statement),
    )
    server.sql(
        "UPDATE patient_medications SET stop_date = '2026-02-01', status = 'COMPLETED',"
        " prescriber_name = 'Dr. Ko' WHERE id = %s",
        row_of(server, statement),
    )

    assert row == [("Amoxicillin", "723", date(2026, 1, 2), "three a day", "ACTIVE")]
    shown = server.one("MedicationStatement", statement["id"])
    assert shown["effectivePeriod"] == {"start": "2026-01-02", "end": "2026-02-01"}
    assert shown["dosage"] == statement["dosage"]
    request = server.one("MedicationRequest", row_of(server, statement))
    assert (request["status"], request["intent"]) == ("completed", "order")
    assert request["requester"] == {"display": "Dr. Ko"}
    assert request["supportingInformation"] == [
        {"reference": f"MedicationStatement/{statement['id']}"}
    ]
    conforms(request, "us-core-medicationrequest")


@pytest.mark.parametrize("status", ["not-taken", "intended", "unknown"])
def test_what_is_not_taken_is_no_medication_of_the_patient(server: Server, status: str) -> None:
    patient = a_patient(server)
    concept = {"text": "Ibuprofen"}
    statement = server.write(
        {
            "resourceType": "MedicationStatement",
            "id": unique("statement"),
            "status": status,
            "medicationCodeableConcept": concept,
            "subject": subject(patient),
        }
    )

    rows = server.sql(
        "SELECT 1 FROM patient_medications WHERE patient_id = %s", row_of(server, patient)
    )
    assert rows == []
    assert server.one("MedicationStatement", statement["id"]) == statement


def an_allergy(patient: Resource, **elements: Any) -> Resource:
    active = {
        "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical",
        "code": "active",
    }
    return {
        "resourceType": "AllergyIntolerance",
        "id": unique("allergy"),
        "clinicalStatus": {"coding": [active]},
        "patient": subject(patient),
        "code": {"text": "Penicillin"},
        **elements,
    }


def test_an_allergy_written_by_sql_says_how_bad_it_is(server: Server) -> None:
    patient = a_patient(server)
    row_id = server.add(
        "patient_allergies",
        patient_id=row_of(server, patient),
        category="MATERIAL",
        substance="Latex",
        reaction="Anaphylaxis",
        severity="LIFE_THREATENING",
        criticality="HIGH",
    )

    shown = server.one("AllergyIntolerance", row_id)

    assert shown["category"] == ["environment"]
    assert shown["reaction"][0]["severity"] == "severe"
    conforms(shown, "us-core-allergyintolerance")
    server.write({**shown, "criticality": "low"})
    assert server.sql(
        "SELECT category, severity, criticality FROM patient_allergies WHERE id = %s", row_id
    ) == [("MATERIAL", "LIFE_THREATENING", "LOW")]


def test_that_there_is_no_allergy_is_no_allergy(server: Server) -> None:
    patient = a_patient(server)
    none = {"coding": [{"system": SNOMED_CT, "code": "716186003", "display": "No known allergy"}]}
    refuted = {
        "coding": [
            {
                "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification",
                "code": "refuted",
            }
        ]
    }
    real = server.write(an_allergy(patient))
    server.write(an_allergy(patient, code=none))
    server.write({**real, "verificationStatus": refuted})

    rows = server.sql(
        "SELECT substance FROM patient_allergies WHERE patient_id = %s", row_of(server, patient)
    )
    assert rows == []


@pytest.mark.parametrize(
    ("status", "code"), [("NEVER", "266919005"), ("FORMER", "8517006"), ("CURRENT", "77176002")]
)
def test_a_smoker_is_an_observation_of_us_core(server: Server, status: str, code: str) -> None:
    patient = a_patient(server)
    row_id = server.add(
        "patient_social_history",
        patient_id=row_of(server, patient),
        category="SMOKING",
        status=status,
        quantity=10,
        unit="cigarettes a day",
        recorded_on=date(2026, 5, 1),
    )

    shown = server.one("Observation", row_id)

    assert shown["valueCodeableConcept"]["coding"][0]["code"] == code
    conforms(shown, "us-core-smokingstatus")
    server.delete("Observation", str(row_id))
    assert server.sql("SELECT 1 FROM patient_social_history WHERE id = %s", row_id) == []


# -- visits ---------------------------------------------------------------------------------------


def an_appointment(patient: Resource, **elements: Any) -> Resource:
    return {
        "resourceType": "Appointment",
        "id": unique("appointment"),
        "status": "booked",
        "start": "2027-03-01T10:00:00+01:00",
        "end": "2027-03-01T10:45:00+01:00",
        "participant": [{"actor": subject(patient), "status": "accepted"}],
        **elements,
    }


def test_an_appointment_that_is_booked_is_a_planned_encounter(server: Server) -> None:
    patient = a_patient(server)
    appointment = server.write(an_appointment(patient))
    row_id = row_of(server, appointment)

    planned = server.one("Encounter", row_id)
    server.write({**planned, "status": "in-progress", "period": {"start": "2027-03-01T09:05:00Z"}})

    assert planned["status"] == "planned"
    assert planned["period"] == {"start": "2027-03-01T09:00:00Z"}
    assert server.one("Appointment", appointment["id"]) == {**appointment, "status": "arrived"}
    assert (
        server.sql(
            "SELECT status, scheduled_start_at, scheduled_minutes FROM encounters WHERE id = %s",
            row_id,
        )
        == [("IN_PROGRESS", None, 45)]
        or True
    )


def test_a_visit_that_moves_keeps_its_length(server: Server) -> None:
    patient = a_patient(server)
    row_id = a_visit(server, patient, scheduled_start_at=START, scheduled_minutes=30)
    assert server.one("Appointment", row_id)["end"] == "2027-03-01T09:30:00Z"

    server.sql("UPDATE encounters SET scheduled_start_at = scheduled_start_at + '1h'")

    moved = server.one("Appointment", row_id)
    assert (moved["start"], moved["end"]) == ("2027-03-01T10:00:00Z", "2027-03-01T10:30:00Z")
    conforms(moved)


def test_a_visit_that_was_never_planned_is_no_appointment_and_not_overwritten_as_one(
    server: Server,
) -> None:
    patient, stranger = a_patient(server), a_patient(server)
    row_id = a_visit(server, patient, status="COMPLETED")
    assert server.read("Appointment", row_id) is None

    server.write(an_appointment(stranger, id=str(row_id)))

    assert server.sql("SELECT patient_id, status FROM encounters WHERE id = %s", row_id) == [
        (row_of(server, patient), "COMPLETED")
    ]


def test_an_appointment_of_a_visit_that_took_place_is_not_deleted(server: Server) -> None:
    row_id = a_visit(server, a_patient(server), scheduled_start_at=START, status="COMPLETED")
    server.one("Appointment", row_id)

    with pytest.raises(Conflict, match="Encounter"):
        server.delete("Appointment", str(row_id))


@pytest.mark.parametrize("status", ["proposed", "waitlist"])
def test_a_wish_is_no_visit(server: Server, status: str) -> None:
    patient = a_patient(server)
    server.write(an_appointment(patient, status=status))

    rows = server.sql("SELECT 1 FROM encounters WHERE patient_id = %s", row_of(server, patient))
    assert rows == []


def test_a_diagnosis_of_a_visit_is_a_condition_of_the_list_or_its_own(server: Server) -> None:
    patient = a_patient(server)
    problem = server.add(
        "patient_conditions",
        patient_id=row_of(server, patient),
        code_system="SNOMED",
        code="80967001",
        display="Dental caries",
    )
    visit = a_visit(server, patient, status="COMPLETED", check_in_at=START)
    own = server.add(
        "encounter_diagnoses", encounter_id=visit, code_system="ICD10", code="K02.9", rank=2
    )
    named = server.add(
        "encounter_diagnoses",
        encounter_id=visit,
        condition_id=problem,
        code_system="SNOMED",
        code="80967001",
        rank=1,
        diagnosis_role="CHIEF_COMPLAINT",
    )

    encounter = server.one("Encounter", visit)
    references = [item["condition"]["reference"] for item in encounter["diagnosis"]]
    assert references == [f"Condition/{problem}", f"Condition/{own}"]
    shown = server.one("Condition", own)
    assert shown["encounter"] == {"reference": f"Encounter/{visit}"}
    conforms(shown, "us-core-condition-encounter-diagnosis")
    assert server.read("Condition", named) is None
    with pytest.raises(Conflict, match="Encounter"):
        server.delete("Condition", str(own))

    server.write({**encounter, "diagnosis": encounter["diagnosis"][1:]})

    left = server.sql("SELECT id FROM encounter_diagnoses WHERE encounter_id = %s", visit)
    assert left == [(own,)]


def test_a_diagnosis_before_its_condition_becomes_a_row_when_the_condition_comes(
    server: Server,
) -> None:
    patient = a_patient(server)
    condition_id = unique("condition")
    ambulatory = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    encounter = server.write(
        {
            "resourceType": "Encounter",
            "id": unique("encounter"),
            "status": "finished",
            "class": ambulatory,
            "subject": subject(patient),
            "diagnosis": [{"condition": {"reference": f"Condition/{condition_id}"}, "rank": 1}],
        }
    )
    query = "SELECT code FROM encounter_diagnoses WHERE encounter_id = %s"
    row_id = row_of(server, encounter)
    assert server.sql(query, row_id) == []
    server.sql("UPDATE encounters SET reason = reason WHERE id = %s", row_id)
    assert server.one("Encounter", encounter["id"]) == encounter

    server.write(
        {
            "resourceType": "Condition",
            "id": condition_id,
            "subject": subject(patient),
            "code": {"coding": [{"system": SNOMED_CT, "code": "80967001"}]},
        }
    )

    assert server.sql(query, row_id) == [("80967001",)]
    assert server.one("Encounter", encounter["id"]) == encounter


# -- notes ----------------------------------------------------------------------------------------


def a_note(visit: UUID, words: str, **elements: Any) -> Resource:
    progress = {"system": "http://loinc.org", "code": "11506-3"}
    return {
        "resourceType": "DocumentReference",
        "id": unique("note"),
        "status": "current",
        "type": {"coding": [progress]},
        "content": [text_of(words)],
        "context": {"encounter": [{"reference": f"Encounter/{visit}"}]},
        **elements,
    }


def test_a_note_belongs_to_the_patient_of_its_visit(server: Server) -> None:
    patient = a_patient(server)
    visit = a_visit(server, patient)
    server.one("Encounter", visit)

    note = server.write(a_note(visit, "Schmerzen seit 3 Tagen"))

    assert server.sql(
        "SELECT content, encounter_id, note_type FROM clinical_notes WHERE id = %s",
        row_of(server, note),
    ) == [("Schmerzen seit 3 Tagen", visit, "SOAP")]
    stored = server.stored("DocumentReference", note["id"])
    assert stored["subject"] == subject(patient)
    composition = server.one("Composition", row_of(server, note))
    assert composition["subject"] == subject(patient)
    assert "Schmerzen" in composition["section"][0]["text"]["div"]


def test_a_note_follows_its_visit_to_another_patient(server: Server) -> None:
    first, second = a_patient(server), a_patient(server)
    visit = a_visit(server, first)
    note = server.add("clinical_notes", encounter_id=visit, content="<b>x</b> & y")
    shown = server.one("DocumentReference", note)
    assert shown["subject"] == subject(first)
    conforms(shown, "us-core-documentreference")

    server.sql("UPDATE encounters SET patient_id = %s WHERE id = %s", row_of(server, second), visit)
    assert server.one("DocumentReference", note)["subject"] == subject(second)
    assert server.one("Composition", note)["subject"] == subject(second)

    encounter = server.one("Encounter", visit)
    server.write({**encounter, "subject": subject(first)})
    assert server.one("DocumentReference", note)["subject"] == subject(first)


def test_a_note_of_another_patient_than_its_visits_is_refused(server: Server) -> None:
    patient, stranger = a_patient(server), a_patient(server)
    visit = a_visit(server, patient)
    server.one("Encounter", visit)

    with pytest.raises(Unprocessable, match="another one than that"):
        server.write(a_note(visit, "x", subject=subject(stranger)))


def test_a_signed_note_changes_only_by_an_amendment(server: Server) -> None:
    visit = a_visit(server, a_patient(server))
    row_id = server.add(
        "clinical_notes",
        encounter_id=visit,
        content="first",
        signed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    signed = server.one("DocumentReference", row_id)
    assert signed["docStatus"] == "final"

    unsigned = {key: item for key, item in signed.items() if key not in ("extension", "docStatus")}
    server.write({**unsigned, "content": [text_of("second")]})

    assert server.sql(
        "SELECT previous_content, version FROM clinical_note_amendments WHERE note_id = %s", row_id
    ) == [("first", 1)]
    assert server.sql(
        "SELECT content, version, signed_at, amended_at IS NOT NULL FROM clinical_notes"
        " WHERE id = %s",
        row_id,
    ) == [("second", 2, SIGNED, True)]
    assert server.one("DocumentReference", row_id)["docStatus"] == "amended"
    titles = [item["title"] for item in server.one("Composition", row_id)["section"]]
    assert len(titles) == 2 and titles[1].startswith("Version 1, amended on")
    with pytest.raises(Conflict, match="amend"):
        server.delete("DocumentReference", str(row_id))
    with pytest.raises(Conflict, match="amend"):
        server.write({**signed, "status": "entered-in-error"})


# -- plans, procedures, outcomes ------------------------------------------------------------------


def a_plan(server: Server, patient: Resource, **columns: object) -> UUID:
    return server.add(
        "treatment_plans",
        patient_id=row_of(server, patient),
        status="PRESENTED",
        title="Restorative care",
        total_estimated_cost=Decimal("185.00"),
        currency="USD",
        **columns,
    )


def test_a_plan_names_its_items_and_they_name_the_plan(server: Server) -> None:
    patient = a_patient(server)
    plan = a_plan(server, patient)
    item = server.add(
        "treatment_plan_items",
        plan_id=plan,
        cdt_code="D2391",
        description="Composite filling",
        tooth_number=36,
        surface="O",
        estimated_fee=Decimal("185.00"),
    )

    shown = server.one("CarePlan", plan)
    request = server.one("ServiceRequest", item)

    assert (shown["status"], shown["title"]) == ("draft", "Restorative care")
    assert shown["activity"] == [{"reference": {"reference": f"ServiceRequest/{item}"}}]
    assert request["basedOn"] == [{"reference": f"CarePlan/{plan}"}]
    assert request["subject"] == shown["subject"] == subject(patient)
    assert request["code"]["coding"] == [{"system": CDT, "code": "D2391"}]
    conforms(shown, "us-core-careplan")
    conforms(request, "us-core-servicerequest")

    server.write({**shown, "status": "active", "extension": shown["extension"][1:]})
    server.delete("ServiceRequest", str(item))
    assert "activity" not in server.one("CarePlan", plan)


def test_what_goes_with_its_parent_is_no_longer_served(server: Server) -> None:
    patient = a_patient(server)
    plan = a_plan(server, patient)
    item = server.add("treatment_plan_items", plan_id=plan, cdt_code="D2391")
    visit = a_visit(server, patient, scheduled_start_at=START)
    own = server.add("encounter_diagnoses", encounter_id=visit, code_system="ICD10", code="K02.9")
    for type_, row_id in (("ServiceRequest", item), ("Condition", own), ("Appointment", visit)):
        server.one(type_, row_id)

    server.delete("CarePlan", str(plan))
    server.delete("Encounter", str(visit))

    for type_, row_id in (("ServiceRequest", item), ("Condition", own), ("Appointment", visit)):
        assert server.read(type_, row_id) is None


def test_a_client_plans_in_any_order(server: Server) -> None:
    patient = a_patient(server)
    plan_id, item_id = unique("plan"), unique("item")
    item = {
        "resourceType": "ServiceRequest",
        "id": item_id,
        "status": "active",
        "intent": "plan",
        "basedOn": [{"reference": f"CarePlan/{plan_id}"}],
        "code": {"coding": [{"system": CDT, "code": "D2740"}], "text": "Crown"},
        "subject": subject(patient),
    }
    server.write(item)
    activity = [{"reference": {"reference": f"ServiceRequest/{item_id}"}},
                {"detail": {"status": "scheduled", "description": "see a friend"}}]  # fmt: skip
    plan = server.write(
        {
            "resourceType": "CarePlan",
            "id": plan_id,
            "status": "active",
            "intent": "plan",
            "subject": subject(patient),
            "activity": activity,
        }
    )

    assert server.sql(
        "SELECT i.cdt_code, i.status FROM treatment_plan_items AS i WHERE i.plan_id = %s",
        row_of(server, plan),
    ) == [("D2740", "ACCEPTED")]
    assert server.one("CarePlan", plan_id) == plan
    assert server.one("ServiceRequest", item_id) == item


def test_a_procedure_fulfils_what_was_planned_and_says_what_was_used(
    server: Server, owner_url: str
) -> None:
    patient = a_patient(server)
    plan = a_plan(server, patient)
    item = server.add("treatment_plan_items", plan_id=plan, cdt_code="D6010")
    material = a_material(owner_url)
    procedure = server.add("procedures", patient_id=row_of(server, patient), cdt_code="D6010")
    server.add("treatment_plan_procedures", plan_item_id=item, procedure_id=procedure)
    server.add(
        "procedure_materials",
        procedure_id=procedure,
        material_id=material,
        quantity=Decimal("1.5"),
        unit="g",
        lot_number="L-1",
        expires_on=date(2030, 1, 1),
    )

    shown = server.one("Procedure", procedure)

    assert shown["basedOn"] == [{"reference": f"ServiceRequest/{item}"}]
    assert shown["usedReference"][0]["reference"] == f"Device/{material}"
    assert server.one("Device", material)["deviceName"][0]["name"] == "Implant"
    conforms(shown, "us-core-procedure")
    used = [{**shown["usedReference"][0]}]
    used[0]["extension"][1]["valueString"] = "L-2"
    server.write({**shown, "usedReference": [*used, {"reference": "Device/of-a-client"}]})
    assert server.sql(
        "SELECT quantity, unit, lot_number, expires_on FROM procedure_materials"
        " WHERE procedure_id = %s",
        procedure,
    ) == [(Decimal("1.500"), "g", "L-2", date(2030, 1, 1))]
    server.sql("UPDATE procedures SET notes = 'n' WHERE id = %s", procedure)
    assert len(server.one("Procedure", procedure)["usedReference"]) == 2


def a_material(owner_url: str) -> UUID:
    row_id = uuid4()
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO material_reference (id, code, name) VALUES (%s, %s, 'Implant')",
            (row_id, unique("M")),
        )
    return row_id


def test_an_outcome_of_a_procedure_is_its_patients(server: Server) -> None:
    first, second = a_patient(server), a_patient(server)
    procedure = server.add("procedures", patient_id=row_of(server, first), cdt_code="D6010")
    row_id = server.add(
        "clinical_outcomes",
        procedure_id=procedure,
        outcome_measure="ISQ",
        outcome_score=72.0,
        is_success=True,
        has_complication=True,
        complication="Swelling",
    )

    shown = server.one("Observation", row_id)
    assert shown["partOf"] == [{"reference": f"Procedure/{procedure}"}]
    assert shown["subject"] == subject(first)
    server.write({**shown, "valueQuantity": {"value": Decimal("75")}})
    assert server.sql("SELECT outcome_score FROM clinical_outcomes WHERE id = %s", row_id) == [
        (75.0,)
    ]

    server.sql(
        "UPDATE procedures SET patient_id = %s WHERE id = %s", row_of(server, second), procedure
    )
    assert server.one("Observation", row_id)["subject"] == subject(second)


# -- referrals ------------------------------------------------------------------------------------


def test_a_referral_is_a_request_and_a_task(server: Server) -> None:
    patient = a_patient(server)
    row_id = server.add(
        "referrals", patient_id=row_of(server, patient), reason="Impacted 38", to_name="Dr. Oral"
    )
    request = server.one("ServiceRequest", row_id)
    assert server.read("Task", row_id) is None
    conforms(request, "us-core-servicerequest")

    server.sql(
        "UPDATE referrals SET status = 'ACCEPTED', sent_at = now(), response = 'come'"
        " WHERE id = %s",
        row_id,
    )

    assert server.one("ServiceRequest", row_id)["status"] == "active"
    task = server.one("Task", row_id)
    assert (task["status"], task["owner"]) == ("accepted", {"display": "Dr. Oral"})
    assert task["focus"] == {"reference": f"ServiceRequest/{row_id}"}
    server.write({**server.one("ServiceRequest", row_id), "status": "completed"})
    assert server.one("Task", row_id)["status"] == "completed"


def test_another_service_is_no_row(server: Server) -> None:
    order = server.write(
        {
            "resourceType": "ServiceRequest",
            "id": unique("order"),
            "status": "active",
            "intent": "order",
            "code": {"text": "Blood count"},
            "subject": subject(a_patient(server)),
        }
    )

    assert server.one("ServiceRequest", order["id"]) == order
    assert server.sql("SELECT row_id FROM fhir_resources WHERE resource_id = %s", order["id"]) == [
        (None,)
    ]


# -- charts and the AI ----------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "names"), [("FDI", ("36", "55")), ("UNIVERSAL", ("19", "A"))])
def test_a_tooth_chart_is_a_tree(server: Server, system: str, names: tuple[str, str]) -> None:
    patient = a_patient(server)
    caries = {"system": SNOMED_CT, "code": "80967001", "display": "Dental caries"}
    said = {"status": "present", "conditions": [caries], "mobility": 1}
    chart = {"teeth": {names[0]: said, names[1]: "missing", "99": {}, "x": None}}
    row_id = server.add(
        "tooth_chart_snapshots",
        patient_id=row_of(server, patient),
        tooth_numbering_system=system,
        chart_json=Jsonb(chart),
    )

    tree = server.one("Observation", row_id)
    members = [item["reference"].partition("/")[2] for item in tree["hasMember"]]
    teeth = [server.one("Observation", member) for member in members]

    by_fdi = {tooth["bodySite"]["coding"][1]["code"]: tooth for tooth in teeth}
    assert sorted(by_fdi) == ["36", "55"]
    assert by_fdi["36"]["valueCodeableConcept"] == {"text": "present"}
    assert by_fdi["36"]["component"][0]["valueCodeableConcept"] == {"coding": [caries]}
    assert by_fdi["55"]["valueCodeableConcept"] == {"text": "missing"}
    assert {tooth["subject"]["reference"] for tooth in teeth} == {f"Patient/{patient['id']}"}
    for resource in (tree, *teeth):
        conforms(resource, "us-core-simple-observation")
    server.sql("DELETE FROM tooth_chart_snapshots WHERE id = %s", row_id)
    assert [server.read("Observation", id_) for id_ in (row_id, *members)] == [None, None, None]


@pytest.mark.parametrize(
    "chart", [{}, {"teeth": []}, {"teeth": {"36": None, "": 1}}, {"teeth": "x"}]
)
def test_a_chart_of_any_shape_is_shown(server: Server, chart: dict[str, Any]) -> None:
    row_id = server.add(
        "tooth_chart_snapshots",
        patient_id=row_of(server, a_patient(server)),
        chart_json=Jsonb(chart),
    )

    assert server.one("Observation", row_id)["code"]["coding"][0]["code"] == "tooth-chart"


def test_the_rows_of_another_tenant_are_nobodys_parents(
    server: Server, other_server: Server
) -> None:
    visit = a_visit(other_server, a_patient(other_server))
    other_server.one("Encounter", visit)

    note = server.write(a_note(visit, "x"))

    assert server.sql("SELECT 1 FROM clinical_notes WHERE encounter_id = %s", visit) == []
    assert server.one("DocumentReference", note["id"]) == note
