"""The patients' records: what has a FHIR resource goes through the FHIR door, the rest as rows.

Charts, treatment plans and histories are written as a practice system writes its own tables; they
then show as FHIR resources (docs/fhir-mappings.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from interop.demo.history import write_history
from interop.demo.patients import ISSUER, PATIENTS, DemoPatient, demo_id
from storage.database import Connection
from storage.dental import TOOTH_BY_FDI

CDT = "http://www.ada.org/cdt"
SNOMED_CT = "http://snomed.info/sct"
ISO_3950 = "urn:iso:std:iso:3950"
PERMANENT_TEETH = [q * 10 + n for q in (1, 2, 3, 4) for n in range(1, 8)]
SITES = ("MB", "B", "DB", "ML", "L", "DL")
Resource = dict[str, Any]

# (FDI, SNOMED CT code, words): findings that the chart and the problem list agree on.
CONDITIONS = {
    "D-1001": [(36, "80967001", "Dental caries"), (16, "80967001", "Dental caries")],
    "D-1002": [(46, "41565005", "Periodontitis"), (26, "80967001", "Dental caries")],
    "D-1003": [(38, "109611003", "Impacted tooth")],
}
# (CDT code, our words, FDI, surface): what was done. The CDT table itself is the ADA's.
PROCEDURES = {
    "D-1001": [("D0330", "Panoramic radiograph", None), ("D2392", "Composite filling", 16)],
    "D-1002": [("D4341", "Scaling and root planing", 46), ("D0367", "Cone beam CT", None)],
    "D-1003": [("D1110", "Prophylaxis", None), ("D0220", "Periapical radiograph", 38)],
}
# (CDT code, our words, FDI, surface, fee in USD): what is proposed.
PLANS: dict[str, list[tuple[str, str, int | None, str | None, float]]] = {
    "D-1001": [("D2391", "Composite filling", 36, "O", 185.0)],
    "D-1002": [("D4910", "Periodontal maintenance", None, None, 140.0),
               ("D2740", "Crown", 26, None, 1150.0)],
    "D-1003": [("D7240", "Removal of impacted tooth", 38, None, 420.0)],
}  # fmt: skip


def resources() -> Iterator[Resource]:
    """Every FHIR resource of the demo, in an order in which references resolve."""
    yield location()
    for patient in PATIENTS:
        yield patient_resource(patient)
        yield from visits(patient)
        yield from conditions(patient)
        yield from procedures(patient)
        yield consent(patient)


def location() -> Resource:
    return {
        "resourceType": "Location", "id": str(demo_id("location")), "status": "active",
        "name": "Harbour Street Dental", "mode": "instance",
        "address": {"line": ["4 Harbour Street"], "city": "Example Town", "country": "SE"},
    }  # fmt: skip


def patient_resource(patient: DemoPatient) -> Resource:
    return {
        "resourceType": "Patient", "id": str(patient.id), "active": True,
        "identifier": [{
            "use": "usual", "value": patient.mrn, "assigner": {"display": ISSUER},
            "type": {"coding": [{
                "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR",
            }]},
        }],
        "name": [{"use": "official", "family": patient.family, "given": [patient.given]}],
        "gender": "female" if patient.sex == "F" else "male",
        "birthDate": patient.birth_date,
        "telecom": [
            {"system": "email", "value": patient.email},
            {"system": "phone", "use": "mobile", "value": patient.phone},
        ],
    }  # fmt: skip


def visits(patient: DemoPatient) -> Iterator[Resource]:
    for name, code, day in (("exam", "D0150", "2026-09-14"), ("hygiene", "D1110", "2026-10-05")):
        yield {
            "resourceType": "Encounter", "id": str(demo_id("encounter", patient.mrn, name)),
            "status": "finished",
            "class": {
                "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB",
            },
            "type": [{"coding": [{"system": CDT, "code": code}], "text": name.title()}],
            "subject": reference(patient),
            "period": {"start": f"{day}T09:00:00Z", "end": f"{day}T09:45:00Z"},
            "location": [{"location": {"reference": f"Location/{demo_id('location')}"}}],
        }  # fmt: skip


def conditions(patient: DemoPatient) -> Iterator[Resource]:
    clinical = "http://terminology.hl7.org/CodeSystem/condition-clinical"
    verified = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    category = "http://terminology.hl7.org/CodeSystem/condition-category"
    for fdi, code, words in CONDITIONS[patient.mrn]:
        yield {
            "resourceType": "Condition", "id": str(demo_id("condition", patient.mrn, fdi)),
            "clinicalStatus": {"coding": [{"system": clinical, "code": "active"}]},
            "verificationStatus": {"coding": [{"system": verified, "code": "confirmed"}]},
            "category": [{"coding": [{"system": category, "code": "problem-list-item"}]}],
            "code": {
                "coding": [{"system": SNOMED_CT, "code": code, "display": words}], "text": words,
            },
            "bodySite": [tooth(fdi)],
            "subject": reference(patient),
            "encounter": {"reference": f"Encounter/{demo_id('encounter', patient.mrn, 'exam')}"},
            "recordedDate": "2026-09-14T09:30:00Z",
        }  # fmt: skip


def procedures(patient: DemoPatient) -> Iterator[Resource]:
    for code, words, fdi in PROCEDURES[patient.mrn]:
        resource: Resource = {
            "resourceType": "Procedure", "id": str(demo_id("procedure", patient.mrn, code)),
            "status": "completed",
            "code": {"coding": [{"system": CDT, "code": code}], "text": words},
            "subject": reference(patient),
            "encounter": {"reference": f"Encounter/{demo_id('encounter', patient.mrn, 'hygiene')}"},
            "performedDateTime": "2026-10-05T09:20:00Z",
        }  # fmt: skip
        if fdi is not None:
            resource["bodySite"] = [tooth(fdi)]
        yield resource


def consent(patient: DemoPatient) -> Resource:
    scope = "http://terminology.hl7.org/CodeSystem/consentscope"
    return {
        "resourceType": "Consent", "id": str(demo_id("consent", patient.mrn)), "status": "active",
        "scope": {"coding": [{"system": scope, "code": "patient-privacy"}]},
        "category": [{"coding": [{
            "system": "urn:dental-interop:consent-type", "code": "ai-analysis",
            "display": "Analysis by artificial intelligence",
        }]}],
        "patient": reference(patient),
        "dateTime": "2026-09-14T08:55:00Z",
        "policyRule": {"coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN",
        }]},
        "provision": {"type": "permit"},
    }  # fmt: skip


def reference(patient: DemoPatient) -> Resource:
    return {"reference": f"Patient/{patient.id}"}


def tooth(fdi: int) -> Resource:
    known = TOOTH_BY_FDI[str(fdi)]
    return {
        "coding": [
            {"system": SNOMED_CT, "code": known.snomed_ct, "display": known.name},
            {"system": ISO_3950, "code": known.fdi},
        ],
        "text": f"Tooth {fdi}",
    }


# -- rows ------------------------------------------------------------------------------------


def write_rows(connection: Connection, tenant_id: UUID, advance: Callable[[], None]) -> None:
    """Charts and plans of all patients; a second run changes nothing."""
    for patient in PATIENTS:
        perio_chart(connection, tenant_id, patient)
        tooth_chart(connection, tenant_id, patient)
        treatment_plan(connection, tenant_id, patient)
        vital_signs(connection, tenant_id, patient)
        write_history(connection, tenant_id, patient)
        advance()


def perio_chart(connection: Connection, tenant_id: UUID, patient: DemoPatient) -> None:
    """Six sites of every tooth, deeper where the patient has periodontitis."""
    draw = random.Random(patient.seed)  # noqa: S311 - invented measurements, not secrets
    worst = {fdi for fdi, code, _ in CONDITIONS[patient.mrn] if code == "41565005"}
    rows = []
    for fdi in PERMANENT_TEETH:
        molar = fdi % 10 >= 6
        for site in SITES:
            depth = draw.choice((1, 2, 2, 2, 3)) + (molar and site != "B")
            depth += draw.choice((2, 3, 4)) if fdi in worst else 0
            rows.append(
                (
                    tenant_id, demo_id("perio", patient.mrn, fdi, site), patient.id,
                    demo_id("encounter", patient.mrn, "hygiene"), "2026-10-05T09:10:00Z", fdi,
                    site, depth, draw.choice((0, 0, 0, -1)), depth >= 4 or draw.random() < 0.08,
                    0, 1 if molar and fdi in worst else None,
                )
            )  # fmt: skip
    connection.cursor().executemany(
        "INSERT INTO perio_measurements (tenant_id, id, patient_id, encounter_id, measured_at,"
        " tooth_number, site, pocket_depth_mm, gingival_margin_mm, bleeding_on_probing,"
        " mobility_grade, furcation_involvement)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        rows,
    )


def tooth_chart(connection: Connection, tenant_id: UUID, patient: DemoPatient) -> None:
    teeth: dict[str, Any] = {str(fdi): {"status": "present"} for fdi in PERMANENT_TEETH}
    for fdi, code, words in CONDITIONS[patient.mrn]:
        teeth.setdefault(str(fdi), {"status": "present"})["conditions"] = [
            {"system": SNOMED_CT, "code": code, "display": words}
        ]
    connection.execute(
        "INSERT INTO tooth_chart_snapshots (tenant_id, id, patient_id, encounter_id, chart_json)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            tenant_id, demo_id("chart", patient.mrn), patient.id,
            demo_id("encounter", patient.mrn, "exam"), json.dumps({"teeth": teeth}),
        ),
    )  # fmt: skip


def treatment_plan(connection: Connection, tenant_id: UUID, patient: DemoPatient) -> None:
    plan_id = demo_id("plan", patient.mrn)
    items = PLANS[patient.mrn]
    total = sum(item[4] for item in items)
    connection.execute(
        "INSERT INTO treatment_plans (tenant_id, id, patient_id, title, status,"
        " total_estimated_cost, estimated_insurance_coverage, currency, presented_at)"
        " VALUES (%s, %s, %s, %s, 'PRESENTED', %s, %s, 'USD', '2026-10-05T09:40:00Z')"
        " ON CONFLICT DO NOTHING",
        (
            tenant_id, plan_id, patient.id, "Restorative care",
            total, total / 2,
        ),
    )  # fmt: skip
    for order, (code, words, fdi, surface, fee) in enumerate(items):
        connection.execute(
            "INSERT INTO treatment_plan_items (tenant_id, id, plan_id, cdt_code, description,"
            " tooth_number, surface, sequence_order, estimated_fee)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (
                tenant_id, demo_id("item", patient.mrn, code), plan_id, code, words, fdi, surface,
                order, fee,
            ),
        )  # fmt: skip


def vital_signs(connection: Connection, tenant_id: UUID, patient: DemoPatient) -> None:
    draw = random.Random(patient.seed + 1)  # noqa: S311 - invented measurements
    connection.execute(
        "INSERT INTO vital_signs (tenant_id, id, patient_id, encounter_id, measured_at,"
        " systolic_mmhg, diastolic_mmhg, heart_rate_bpm)"
        " VALUES (%s, %s, %s, %s, '2026-09-14T09:05:00Z', %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            tenant_id, demo_id("vitals", patient.mrn), patient.id,
            demo_id("encounter", patient.mrn, "exam"),
            draw.randint(112, 138), draw.randint(70, 88), draw.randint(58, 82),
        ),
    )  # fmt: skip
