"""What the demo's patients take, do not tolerate and have planned: rows of a practice system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from psycopg import sql

from interop.demo.patients import DemoPatient, demo_id
from storage.database import Connection

MEDICATIONS: Final = {
    "D-1001": [("Levothyroxine", "one tablet in the morning", "ACTIVE")],
    "D-1002": [("Ramipril", "5 mg once a day", "ACTIVE"),
               ("Amoxicillin", "500 mg three times a day", "COMPLETED")],
}  # fmt: skip
# (category, substance, reaction, severity)
ALLERGIES: Final = {
    "D-1001": [("MATERIAL", "Latex", "Contact dermatitis", "MILD")],
    "D-1003": [("DRUG", "Penicillin", "Urticaria", "MODERATE")],
}
SMOKING: Final = {"D-1001": "NEVER", "D-1002": "FORMER", "D-1003": "NEVER"}
NOTES: Final = {
    "D-1001": "S: sensitive to cold, lower left.\nO: caries 36 occlusal.\nP: filling.",
    "D-1002": "S: bleeding when brushing.\nO: pockets at 46.\nP: scaling and root planing.",
    "D-1003": "S: no complaints.\nO: 38 impacted.\nP: refer for removal.",
}


def write_history(connection: Connection, tenant_id: UUID, patient: DemoPatient) -> None:
    """The rows of one patient; a second run changes nothing."""

    def add(table: str, *names: object, **values: Any) -> None:
        row_id = demo_id(table, patient.mrn, *names)
        _insert(connection, table, {"tenant_id": tenant_id, "id": row_id, **values})

    exam = demo_id("encounter", patient.mrn, "exam")
    for name, dosage, status in MEDICATIONS.get(patient.mrn, ()):
        add("patient_medications", name, patient_id=patient.id, name=name, dosage=dosage,
            status=status, start_date="2026-09-14")  # fmt: skip
    for category, substance, reaction, severity in ALLERGIES.get(patient.mrn, ()):
        add("patient_allergies", substance, patient_id=patient.id, category=category,
            substance=substance, reaction=reaction, severity=severity)  # fmt: skip
    add("patient_social_history", patient_id=patient.id, category="SMOKING",
        status=SMOKING[patient.mrn], recorded_on="2026-09-14")  # fmt: skip
    add("encounter_diagnoses", encounter_id=exam, code_system="ICD10", code="K02.9",
        display="Dental caries, unspecified", rank=1)  # fmt: skip
    add("clinical_notes", encounter_id=exam, content=NOTES[patient.mrn],
        signed_at="2026-09-14T09:50:00Z")  # fmt: skip
    add("encounters", "recall", patient_id=patient.id, location_id=demo_id("location"),
        scheduled_start_at="2027-03-15T09:00:00Z", scheduled_minutes=45,
        encounter_type="HYGIENE", reason="Recall")  # fmt: skip
    if patient.mrn == "D-1003":
        add("referrals", patient_id=patient.id, encounter_id=exam, to_name="Oral surgery, City",
            specialty="Oral surgery", reason="Removal of impacted 38", status="SENT",
            sent_at="2026-09-14T10:00:00Z")  # fmt: skip


def _insert(connection: Connection, table: str, row: Mapping[str, Any]) -> None:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Placeholder, row)),
    )
    connection.execute(statement, dict(row))
