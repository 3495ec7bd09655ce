"""Section III.2: problem list, medications, allergies and social history."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import Index, Numeric
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.clinical.patients import SECTION
from storage.schema.declarative import (
    Base,
    Sensitivity,
    TenantTable,
    bounded,
    global_link,
    link,
    member_link,
    one_of,
    period,
    surface,
    tooth,
)


class PatientCondition(TenantTable, Base):
    """An active or historical diagnosis, dental ones with tooth and surface."""

    __tablename__ = "patient_conditions"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "code_system", "code"),
        period("onset_at", "abated_at"),
    )

    patient_id: Mapped[UUID] = link("patients")
    encounter_id: Mapped[UUID | None] = link("encounters")
    # Which kind of code (ICD-10, SNOMED, custom); code_system_uri keeps the exact system.
    code_system: Mapped[str | None] = one_of("ICD10", "SNOMED", "CUSTOM")
    code_system_uri: Mapped[str | None]
    code: Mapped[str | None]
    display: Mapped[str | None]
    tooth_number: Mapped[int | None] = tooth()
    surface: Mapped[str | None] = surface()
    clinical_status: Mapped[str | None] = one_of(
        "ACTIVE", "RECURRENCE", "RELAPSE", "INACTIVE", "REMISSION", "RESOLVED"
    )
    verification_status: Mapped[str | None] = one_of(
        "UNCONFIRMED",
        "PROVISIONAL",
        "DIFFERENTIAL",
        "CONFIRMED",
        "REFUTED",
        "ENTERED_IN_ERROR",
    )
    severity: Mapped[str | None] = one_of("MILD", "MODERATE", "SEVERE")
    onset_at: Mapped[datetime | None]
    abated_at: Mapped[datetime | None]
    recorded_at: Mapped[datetime | None]
    recorded_by_id: Mapped[UUID | None] = member_link()
    notes: Mapped[str | None]


class PatientMedication(TenantTable, Base):
    """A current or former medication."""

    __tablename__ = "patient_medications"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (period("start_date", "stop_date"),)

    patient_id: Mapped[UUID] = link("patients")
    encounter_id: Mapped[UUID | None] = link("encounters")
    drug_id: Mapped[UUID | None] = global_link("drug_reference")
    code_system_uri: Mapped[str | None]
    code: Mapped[str | None]
    name: Mapped[str]
    dosage: Mapped[str | None]
    dose_quantity: Mapped[float | None] = bounded(0, None)
    dose_unit: Mapped[str | None]
    route: Mapped[str | None]
    frequency: Mapped[str | None]
    start_date: Mapped[date | None]
    stop_date: Mapped[date | None]
    prescriber_id: Mapped[UUID | None] = member_link()
    prescriber_name: Mapped[str | None]
    status: Mapped[str] = one_of(
        "ACTIVE", "ON_HOLD", "COMPLETED", "STOPPED", "ENTERED_IN_ERROR", default="ACTIVE"
    )


class PatientAllergy(TenantTable, Base):
    """An allergy or adverse reaction to a drug, a material or something else."""

    __tablename__ = "patient_allergies"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    patient_id: Mapped[UUID] = link("patients")
    category: Mapped[str] = one_of("DRUG", "MATERIAL", "OTHER")
    drug_id: Mapped[UUID | None] = global_link("drug_reference")
    material_id: Mapped[UUID | None] = global_link("material_reference")
    code_system_uri: Mapped[str | None]
    code: Mapped[str | None]
    substance: Mapped[str]
    reaction: Mapped[str | None]
    severity: Mapped[str | None] = one_of("MILD", "MODERATE", "SEVERE", "LIFE_THREATENING")
    criticality: Mapped[str | None] = one_of("LOW", "HIGH", "UNABLE_TO_ASSESS")
    clinical_status: Mapped[str] = one_of("ACTIVE", "INACTIVE", "RESOLVED", default="ACTIVE")
    onset_date: Mapped[date | None]
    recorded_by_id: Mapped[UUID | None] = member_link()
    notes: Mapped[str | None]


class PatientSocialHistory(TenantTable, Base):
    """Smoking, alcohol and other habits, as of one day."""

    __tablename__ = "patient_social_history"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "patient_id", "recorded_on"),
        period("start_date", "end_date"),
    )

    patient_id: Mapped[UUID] = link("patients")
    category: Mapped[str] = one_of(
        "SMOKING", "SMOKELESS_TOBACCO", "VAPING", "ALCOHOL", "DRUG_USE", "DIET", "BRUXISM", "OTHER"
    )
    status: Mapped[str | None] = one_of("NEVER", "FORMER", "CURRENT", "UNKNOWN")
    quantity: Mapped[float | None] = bounded(0, None, Numeric(10, 2, asdecimal=False))
    unit: Mapped[str | None]
    description: Mapped[str | None]
    start_date: Mapped[date | None]
    end_date: Mapped[date | None]
    recorded_on: Mapped[date | None] = mapped_column()
