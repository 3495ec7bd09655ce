"""Section III.5: treatment plans, procedures, materials and outcomes."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Integer, Numeric, UniqueConstraint, text
from sqlalchemy.orm import Mapped

from storage.schema.clinical.patients import SECTION
from storage.schema.declarative import (
    Base,
    Money,
    Sensitivity,
    TenantTable,
    bounded,
    exactly_one,
    flag,
    global_link,
    link,
    member_link,
    one_of,
    period,
    surface,
    tooth,
)


class TreatmentPlan(TenantTable, Base):
    """What is proposed to a patient, and what the patient said."""

    __tablename__ = "treatment_plans"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    patient_id: Mapped[UUID] = link("patients")
    created_by_id: Mapped[UUID | None] = member_link()
    title: Mapped[str | None]
    status: Mapped[str] = one_of(
        "DRAFT",
        "PRESENTED",
        "ACCEPTED",
        "DECLINED",
        "PARTIALLY_ACCEPTED",
        "COMPLETED",
        default="DRAFT",
    )
    total_estimated_cost: Mapped[Money | None]
    estimated_insurance_coverage: Mapped[Money | None]
    currency: Mapped[str | None]
    presented_at: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    notes: Mapped[str | None]


class TreatmentPlanItem(TenantTable, Base):
    """One planned procedure."""

    __tablename__ = "treatment_plan_items"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    plan_id: Mapped[UUID] = link("treatment_plans", cascade=True)
    cdt_code: Mapped[str]
    description: Mapped[str | None]
    tooth_number: Mapped[int | None] = tooth()
    surface: Mapped[str | None] = surface()
    phase: Mapped[int] = bounded(1, None, Integer(), server_default=text("1"))
    sequence_order: Mapped[int] = bounded(0, None, Integer(), server_default=text("0"))
    estimated_fee: Mapped[Money | None]
    estimated_patient_portion: Mapped[Money | None]
    status: Mapped[str] = one_of(
        "PLANNED", "ACCEPTED", "DECLINED", "COMPLETED", "CANCELLED", default="PLANNED"
    )


class Procedure(TenantTable, Base):
    """A clinical service that was performed."""

    __tablename__ = "procedures"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "patient_id", "start_at"),
        Index(None, "tenant_id", "cdt_code"),
        period("start_at", "end_at"),
    )

    patient_id: Mapped[UUID] = link("patients")
    encounter_id: Mapped[UUID | None] = link("encounters")
    provider_id: Mapped[UUID | None] = member_link()
    cdt_code: Mapped[str | None]
    # A feed may code the procedure in another system than CDT (SNOMED CT, local).
    code_system_uri: Mapped[str | None]
    code: Mapped[str | None]
    description: Mapped[str | None]
    tooth_number: Mapped[int | None] = tooth()
    surface: Mapped[str | None] = surface()
    start_at: Mapped[datetime | None]
    end_at: Mapped[datetime | None]
    status: Mapped[str] = one_of(
        "PLANNED",
        "IN_PROGRESS",
        "NOT_DONE",
        "ON_HOLD",
        "STOPPED",
        "COMPLETED",
        "ENTERED_IN_ERROR",
        "UNKNOWN",
        default="COMPLETED",
    )
    notes: Mapped[str | None]


class TreatmentPlanProcedure(TenantTable, Base):
    """The many-to-many link between plan items and the procedures that fulfil them."""

    __tablename__ = "treatment_plan_procedures"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (UniqueConstraint("tenant_id", "plan_item_id", "procedure_id"),)

    plan_item_id: Mapped[UUID] = link("treatment_plan_items", cascade=True)
    procedure_id: Mapped[UUID] = link("procedures", cascade=True)


class ProcedureMaterial(TenantTable, Base):
    """A material used in a procedure, with its lot for a recall."""

    __tablename__ = "procedure_materials"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    procedure_id: Mapped[UUID] = link("procedures", cascade=True)
    material_id: Mapped[UUID] = global_link("material_reference")
    quantity: Mapped[Decimal | None] = bounded(0, None, Numeric(12, 3))
    unit: Mapped[str | None]
    lot_number: Mapped[str | None]
    expires_on: Mapped[date | None]


class ClinicalOutcome(TenantTable, Base):
    """A follow-up result of a procedure or of a visit."""

    __tablename__ = "clinical_outcomes"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        exactly_one("procedure_id", "encounter_id"),
        CheckConstraint("NOT has_complication OR complication IS NOT NULL", name="complication"),
    )

    procedure_id: Mapped[UUID | None] = link("procedures")
    encounter_id: Mapped[UUID | None] = link("encounters")
    assessed_at: Mapped[datetime | None]
    assessed_by_id: Mapped[UUID | None] = member_link()
    outcome_measure: Mapped[str | None]
    outcome_score: Mapped[float | None]
    is_success: Mapped[bool | None]
    has_complication: Mapped[bool] = flag()
    complication: Mapped[str | None]
    notes: Mapped[str | None]
