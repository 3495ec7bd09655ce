"""Section III.3: visits, their diagnoses, notes and vital signs."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Integer, Numeric, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.clinical.patients import SECTION
from storage.schema.declarative import (
    Base,
    Sensitivity,
    TenantTable,
    bounded,
    link,
    member_link,
    one_of,
    period,
    tooth,
)


class Encounter(TenantTable, Base):
    """A clinical visit."""

    __tablename__ = "encounters"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "patient_id", "scheduled_start_at"),
        period("check_in_at", "check_out_at"),
    )

    patient_id: Mapped[UUID] = link("patients")
    location_id: Mapped[UUID | None] = link("locations")
    provider_id: Mapped[UUID | None] = member_link()
    scheduled_start_at: Mapped[datetime | None]
    scheduled_minutes: Mapped[int | None] = bounded(1, 10080, Integer())
    check_in_at: Mapped[datetime | None]
    check_out_at: Mapped[datetime | None]
    encounter_type: Mapped[str] = one_of(
        "EXAM", "EMERGENCY", "HYGIENE", "ORTHO", "IMPLANT", "TEACHING", default="EXAM"
    )
    status: Mapped[str] = one_of(
        "SCHEDULED", "IN_PROGRESS", "COMPLETED", "CANCELLED", "NO_SHOW", default="SCHEDULED"
    )
    reason: Mapped[str | None]


class EncounterDiagnosis(TenantTable, Base):
    """A code that names why a visit took place or what it found."""

    __tablename__ = "encounter_diagnoses"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    encounter_id: Mapped[UUID] = link("encounters", cascade=True)
    condition_id: Mapped[UUID | None] = link("patient_conditions")
    code_system: Mapped[str] = one_of("ICD10", "CDT", "SNOMED")
    code: Mapped[str]
    display: Mapped[str | None]
    tooth_number: Mapped[int | None] = tooth()
    rank: Mapped[int | None] = bounded(1, None, Integer())
    diagnosis_role: Mapped[str | None] = one_of("CHIEF_COMPLAINT", "ADMISSION", "DISCHARGE")


class ClinicalNote(TenantTable, Base):
    """A SOAP or free-text note of a visit; a signed note changes only by an amendment."""

    __tablename__ = "clinical_notes"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        # data-schema.md X. Full-text operators are not leakproof, so under row-level security the
        # planner filters by tenant first; the index serves owners and dedicated databases.
        Index(
            "ix_clinical_notes_content_fts",
            text("to_tsvector('simple'::regconfig, content)"),
            postgresql_using="gin",
        ),
        period("signed_at", "amended_at"),
    )

    encounter_id: Mapped[UUID] = link("encounters")
    author_id: Mapped[UUID | None] = member_link()
    note_type: Mapped[str] = one_of("SOAP", "RADIOLOGY_REPORT", "OP_NOTE", default="SOAP")
    content: Mapped[str]
    version: Mapped[int] = bounded(1, None, Integer(), server_default=text("1"))
    signed_at: Mapped[datetime | None]
    signed_by_id: Mapped[UUID | None] = member_link()
    amended_at: Mapped[datetime | None]


class ClinicalNoteAmendment(TenantTable, Base):
    """The amendment audit trail of a note: what it said before, who changed it and why."""

    __tablename__ = "clinical_note_amendments"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (UniqueConstraint("tenant_id", "note_id", "version"),)

    note_id: Mapped[UUID] = link("clinical_notes")
    version: Mapped[int] = bounded(1, None, Integer())
    previous_content: Mapped[str]
    reason: Mapped[str]
    amended_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    amended_by_id: Mapped[UUID | None] = member_link()


class VitalSigns(TenantTable, Base):
    """Vital signs taken at one moment; what was not measured is NULL."""

    __tablename__ = "vital_signs"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "patient_id", "measured_at"),
        CheckConstraint("systolic_mmhg >= diastolic_mmhg", name="blood_pressure"),
    )

    patient_id: Mapped[UUID] = link("patients")
    encounter_id: Mapped[UUID | None] = link("encounters")
    measured_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    measured_by_id: Mapped[UUID | None] = member_link()
    systolic_mmhg: Mapped[float | None] = bounded(0, 400)
    diastolic_mmhg: Mapped[float | None] = bounded(0, 300)
    heart_rate_bpm: Mapped[float | None] = bounded(0, 400)
    respiratory_rate_bpm: Mapped[float | None] = bounded(0, 200)
    oxygen_saturation_percent: Mapped[float | None] = bounded(0, 100)
    temperature_celsius: Mapped[float | None] = bounded(20, 50)
    height_cm: Mapped[float | None] = bounded(0, 300)
    weight_kg: Mapped[float | None] = bounded(0, 700)
    bmi: Mapped[float | None] = bounded(0, 300, Numeric(6, 2, asdecimal=False))
    pain_score: Mapped[int | None] = bounded(0, 10, Integer())
