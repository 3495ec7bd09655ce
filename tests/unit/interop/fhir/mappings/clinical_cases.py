"""Cases of the lens laws: medications, allergies, habits, notes, plans, referrals, charts."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from interop.fhir.mappings import (
    ai_job,
    allergy,
    annotation,
    appointment,
    care_plan,
    clinical_note,
    condition,
    encounter,
    medication,
    outcome,
    plan_item,
    referral,
    risk_assessment,
    social_history,
    tooth_chart,
)
from interop.fhir.mappings.encounter import TYPES
from tests.unit.interop.fhir.mappings.law_strategies import (
    BODY_SITE,
    DAYS,
    MOMENTS,
    PUBLIC,
    TEETH_OR_NONE,
    TEXT,
    UIDS,
    Case,
    distinct,
    enum,
    floats,
    joined,
    maybe,
    record,
    ref,
    refs,
)

MONEY = maybe(st.decimals(0, 9_999_999_999, places=2))
SYSTEMS = st.sampled_from([None, "urn:x", "http://www.nlm.nih.gov/research/umls/rxnorm"])
OBJECT: st.SearchStrategy[Any] = st.fixed_dictionaries({"text": TEXT})
LIST: st.SearchStrategy[Any] = st.lists(OBJECT, min_size=1, max_size=3)
POSITIVE = st.floats(0, 10**6)


def drug(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        record(code_system_uri=SYSTEMS, code=TEXT, **{name: TEXT}),
        record(code_system_uri=st.none(), code=st.none(), **{name: maybe(TEXT)}),
    )


DOSAGE = record(
    dosage=maybe(TEXT),
    dose_quantity=maybe(POSITIVE),
    dose_unit=maybe(TEXT),
    route=maybe(TEXT),
    frequency=maybe(TEXT),
)
MEDICATION_STATUS = enum("ACTIVE", "ON_HOLD", "COMPLETED", "STOPPED", "ENTERED_IN_ERROR")
COSTS = st.one_of(
    record(
        total_estimated_cost=st.none(),
        estimated_insurance_coverage=st.none(),
        currency=st.none(),
    ),
    record(
        total_estimated_cost=st.decimals(0, 10**6, places=2),
        estimated_insurance_coverage=MONEY,
        currency=maybe(enum("USD", "SEK")),
    ),
)
OUTCOME_OF = st.one_of(
    record(procedure_id=ref("Procedure"), encounter_id=st.none()),
    record(procedure_id=st.none(), encounter_id=maybe(ref("Encounter"))),
)
AMOUNT = record(quantity=maybe(st.decimals(0, 10**6, places=3)), unit=maybe(TEXT))
MATERIAL = joined(
    AMOUNT, record(lot_number=maybe(TEXT), expires_on=maybe(DAYS), material_id=ref("Device"))
)
SLOT = st.one_of(
    record(scheduled_start_at=MOMENTS, scheduled_minutes=maybe(st.integers(1, 10080))),
    record(scheduled_start_at=st.none(), scheduled_minutes=st.none()),
)
HABIT = record(
    category=st.sampled_from(list(social_history.HABITS)),
    status=maybe(enum("NEVER", "FORMER", "CURRENT", "UNKNOWN")),
)
CHART = record(
    patient=maybe(ref("Patient")),
    encounter=maybe(ref("Encounter")),
    created_at=maybe(MOMENTS),
    recorder=maybe(ref("Practitioner")),
)
DIAGNOSES = distinct(
    record(
        condition_id=ref("Condition"),
        diagnosis_role=maybe(st.sampled_from(list(encounter.ROLES.codes))),
        rank=maybe(st.integers(1, 99)),
    ),
    "condition_id",
)
FULFILLED = distinct(record(plan_item_id=ref("ServiceRequest")), "plan_item_id")
# What the cases of Encounter and Procedure have besides their row.
ENCOUNTER_LISTS = {"encounter_diagnoses": DIAGNOSES}
PROCEDURE_LISTS = {
    "procedure_materials": distinct(MATERIAL),
    "treatment_plan_procedures": FULFILLED,
}
CODE = st.builds("{}|{}".format, enum("SCT", "DCM", "99INTEROP"), TEXT)

CLINICAL_CASES: dict[str, Case] = {
    "MedicationStatement": (
        medication.statement_mapping(PUBLIC),
        joined(
            drug("name"),
            DOSAGE,
            record(
                drug_id=maybe(ref("Medication")),
                prescriber_id=maybe(ref("Practitioner")),
                prescriber_name=maybe(TEXT),
                status=MEDICATION_STATUS,
                patient_id=maybe(ref("Patient")),
                encounter_id=maybe(ref("Encounter")),
                start_date=maybe(DAYS),
                stop_date=maybe(DAYS),
            ),
        ),
        {},
    ),
    "MedicationRequest": (
        medication.REQUEST,
        joined(
            drug("name"),
            DOSAGE,
            record(
                status=MEDICATION_STATUS,
                intent=enum("ORDER", "PLAN"),
                is_reported=st.sampled_from([None, True]),
                patient=maybe(ref("Patient")),
                encounter=maybe(ref("Encounter")),
                statement=maybe(ref("MedicationStatement")),
                prescriber=maybe(ref("Practitioner")),
                prescriber_name=maybe(TEXT),
                start_date=maybe(DAYS),
                stop_date=maybe(DAYS),
            ),
        ),
        {},
    ),
    "AllergyIntolerance": (
        allergy.mapping(PUBLIC),
        joined(
            drug("substance"),
            record(
                drug_id=maybe(ref("Medication")),
                material_id=maybe(ref("Device")),
                clinical_status=enum("ACTIVE", "INACTIVE", "RESOLVED"),
                category=enum("DRUG", "MATERIAL", "OTHER"),
                criticality=maybe(enum("LOW", "HIGH", "UNABLE_TO_ASSESS")),
                patient_id=maybe(ref("Patient")),
                onset_date=maybe(DAYS),
                recorded_by_id=maybe(ref("Practitioner")),
                notes=maybe(TEXT),
                reaction=maybe(TEXT),
                severity=maybe(enum("MILD", "MODERATE", "SEVERE", "LIFE_THREATENING")),
            ),
        ),
        {},
    ),
    "Observation of a habit": (
        social_history.mapping(PUBLIC),
        joined(
            HABIT,
            record(
                patient_id=maybe(ref("Patient")),
                recorded_on=maybe(DAYS),
                description=maybe(TEXT),
                quantity=maybe(st.decimals(0, 10**6, places=2).map(float)),
                unit=maybe(TEXT),
                start_date=maybe(DAYS),
                end_date=maybe(DAYS),
            ),
        ),
        {},
    ),
    "Observation of an outcome": (
        outcome.mapping(PUBLIC),
        joined(
            OUTCOME_OF,
            record(
                patient_id=maybe(ref("Patient")),
                assessed_at=maybe(MOMENTS),
                assessed_by_id=maybe(ref("Practitioner")),
                outcome_score=floats(-(10**6), 10**6),
                notes=maybe(TEXT),
                outcome_measure=maybe(TEXT),
                is_success=maybe(st.booleans()),
                has_complication=st.booleans(),
                complication=maybe(TEXT),
            ),
        ),
        {},
    ),
    "Observation of a tooth chart": (
        tooth_chart.CHART_MAPPING,
        joined(CHART, record(teeth=refs("Observation"))),
        {},
    ),
    "Observation of a charted tooth": (
        tooth_chart.TOOTH_MAPPING,
        joined(
            CHART,
            record(tooth_number=TEETH_OR_NONE, status=maybe(OBJECT), components=maybe(LIST)),
        ),
        {},
    ),
    "Observation of an annotation": (
        annotation.MAPPING,
        record(
            study=maybe(ref("ImagingStudy")),
            patient=maybe(ref("Patient")),
            created_at=maybe(MOMENTS),
            author=maybe(ref("Practitioner")),
            label_code=maybe(TEXT),
            annotation_type=maybe(st.sampled_from(list(annotation.TYPES.codes))),
            derived_from=maybe(ref("ImagingStudy")),
            sop_instance_uid=maybe(UIDS),
            geometry=maybe(TEXT),
        ),
        {},
    ),
    "Appointment": (
        appointment.mapping(PUBLIC),
        joined(
            SLOT,
            record(
                status=enum("SCHEDULED", "IN_PROGRESS", "COMPLETED", "CANCELLED", "NO_SHOW"),
                encounter_type=st.sampled_from(list(TYPES.codes)),
                reason=maybe(TEXT),
                patient_id=maybe(ref("Patient")),
                provider_id=maybe(ref("Practitioner")),
                location_id=maybe(ref("Location")),
            ),
        ),
        {},
    ),
    "Condition of a visit": (
        condition.DIAGNOSIS,
        joined(
            BODY_SITE,
            record(
                code_system=enum("ICD10", "SNOMED", "CDT"),
                code=TEXT,
                display=maybe(TEXT),
                patient=maybe(ref("Patient")),
                encounter=maybe(ref("Encounter")),
                recorded_at=maybe(MOMENTS),
            ),
        ),
        {},
    ),
    "DocumentReference of a note": (
        clinical_note.mapping(PUBLIC),
        record(
            amendment_reason=maybe(TEXT),
            signed_at=maybe(MOMENTS),
            amended_at=maybe(MOMENTS),
            note_type=maybe(st.sampled_from(list(clinical_note.TYPES.codes))),
            patient_id=maybe(ref("Patient")),
            author_id=maybe(ref("Practitioner")),
            signed_by_id=maybe(ref("Practitioner")),
            content=TEXT,
            encounter_id=maybe(ref("Encounter")),
        ),
        {},
    ),
    "Composition": (
        clinical_note.COMPOSITION,
        record(
            status=enum("preliminary", "final", "amended"),
            note_type=maybe(st.sampled_from(list(clinical_note.TYPES.codes))),
            patient=maybe(ref("Patient")),
            encounter=maybe(ref("Encounter")),
            date=maybe(MOMENTS),
            author=maybe(LIST),
            title=maybe(TEXT),
            attester=maybe(LIST),
            sections=maybe(LIST),
        ),
        {},
    ),
    "CarePlan": (
        care_plan.mapping(PUBLIC),
        joined(
            COSTS,
            record(
                presented_at=maybe(MOMENTS),
                decided_at=maybe(MOMENTS),
                status=enum(
                    "DRAFT", "PRESENTED", "ACCEPTED", "DECLINED", "PARTIALLY_ACCEPTED", "COMPLETED"
                ),
                title=maybe(TEXT),
                patient_id=maybe(ref("Patient")),
                created_by_id=maybe(ref("Practitioner")),
                items=refs("ServiceRequest"),
                notes=maybe(TEXT),
            ),
        ),
        {},
    ),
    "ServiceRequest of a plan": (
        plan_item.mapping(PUBLIC),
        joined(
            BODY_SITE,
            record(
                phase=st.integers(1, 9),
                sequence_order=st.integers(0, 99),
                estimated_fee=MONEY,
                estimated_patient_portion=MONEY,
                plan_id=maybe(ref("CarePlan")),
                status=enum("PLANNED", "ACCEPTED", "DECLINED", "COMPLETED", "CANCELLED"),
                cdt_code=maybe(st.from_regex(r"D[0-9]{4}", fullmatch=True)),
                description=maybe(TEXT),
                patient_id=maybe(ref("Patient")),
            ),
        ),
        {},
    ),
    "ServiceRequest of a referral": (
        referral.mapping(PUBLIC),
        record(
            completed_at=maybe(MOMENTS),
            response=maybe(TEXT),
            status=enum("DRAFT", "SENT", "ACCEPTED", "DECLINED", "COMPLETED", "CANCELLED"),
            referral_type=enum("REFERRAL", "SECOND_OPINION"),
            urgency=enum("ROUTINE", "URGENT", "EMERGENCY"),
            patient_id=maybe(ref("Patient")),
            encounter_id=maybe(ref("Encounter")),
            sent_at=maybe(MOMENTS),
            from_provider_id=maybe(ref("Practitioner")),
            specialty=maybe(TEXT),
            to_provider_id=maybe(ref("Practitioner")),
            to_tenant_id=maybe(ref("Organization")),
            to_name=maybe(TEXT),
            reason=TEXT,
        ),
        {},
    ),
    "Task of a referral": (
        referral.TASK,
        record(
            status=enum("SENT", "ACCEPTED", "DECLINED", "COMPLETED", "CANCELLED"),
            request=ref("ServiceRequest"),
            patient=maybe(ref("Patient")),
            encounter=maybe(ref("Encounter")),
            completed_at=maybe(MOMENTS),
            sent_at=maybe(MOMENTS),
            from_provider=maybe(ref("Practitioner")),
            to_provider=maybe(ref("Practitioner")),
            to_name=maybe(TEXT),
            response=maybe(TEXT),
        ),
        {},
    ),
    "RiskAssessment": (
        risk_assessment.MAPPING,
        record(
            label=enum("AI", "REVIEWED"),
            tooth=maybe(OBJECT),
            score=maybe(st.fixed_dictionaries({"value": st.integers(0, 9)})),
            status=enum("OPEN", "ACCEPTED", "REJECTED"),
            patient=maybe(ref("Patient")),
            effective=maybe(MOMENTS),
            device=maybe(ref("Device")),
            study=maybe(ref("ImagingStudy")),
            code=maybe(CODE),
            confidence=floats(0, 1),
            severity=maybe(TEXT),
        ),
        {},
    ),
    "Provenance of a review": (
        ai_job.REVIEW,
        record(
            comment=maybe(TEXT),
            targets=refs("Observation", "RiskAssessment"),
            recorded=MOMENTS,
            reason=maybe(TEXT),
            action=enum("CONFIRMED", "REJECTED", "EDITED"),
            agent=maybe(LIST),
        ),
        {},
    ),
}
