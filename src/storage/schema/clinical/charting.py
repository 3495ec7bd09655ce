"""Section III.4: tooth charts and periodontal measurements."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Computed, Index, Numeric, SmallInteger, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.clinical.patients import SECTION
from storage.schema.declarative import (
    Base,
    Json,
    Sensitivity,
    TenantTable,
    bounded,
    link,
    member_link,
    one_of,
    tooth,
)

# The day is counted in UTC and as a number, because a generated column may use immutable
# functions only: date to text depends on the session's DateStyle.
_DAY = "(((measured_at AT TIME ZONE 'UTC')::date - DATE '2000-01-01')::text)"
_EXAM = f"patient_id::text || '/' || coalesce(encounter_id::text, '') || '/' || {_DAY}"


class ToothChartSnapshot(TenantTable, Base):
    """The whole chart of a patient at one moment."""

    __tablename__ = "tooth_chart_snapshots"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (Index(None, "tenant_id", "patient_id", "created_at"),)

    patient_id: Mapped[UUID] = link("patients")
    encounter_id: Mapped[UUID | None] = link("encounters")
    tooth_numbering_system: Mapped[str] = one_of("FDI", "UNIVERSAL", "PALMER", default="FDI")
    chart_json: Mapped[Json]
    recorded_by_id: Mapped[UUID | None] = member_link()


class PerioMeasurement(TenantTable, Base):
    """What was probed at one site of one tooth.

    The sites of one tooth in one exam are one FHIR Observation (`observation_id`), and the teeth of
    the exam are members of another (`exam_observation_id`); both ids follow from the row.
    """

    __tablename__ = "perio_measurements"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        UniqueConstraint("tenant_id", "observation_id", "site"),
        Index(None, "tenant_id", "exam_observation_id"),
        Index(None, "tenant_id", "patient_id", "measured_at"),
    )

    patient_id: Mapped[UUID] = link("patients")
    encounter_id: Mapped[UUID | None] = link("encounters")
    measured_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    measured_by_id: Mapped[UUID | None] = member_link()
    tooth_number: Mapped[int] = tooth()
    # Six sites a tooth are usual; a single letter is a side, on P(alatal) or L(ingual).
    site: Mapped[str] = one_of("MB", "B", "DB", "ML", "L", "DL", "MP", "P", "DP", "M", "D")
    pocket_depth_mm: Mapped[Decimal | None] = bounded(0, 20, Numeric(4, 1))
    gingival_margin_mm: Mapped[Decimal | None] = bounded(-15, 15, Numeric(4, 1))
    bleeding_on_probing: Mapped[bool | None]
    suppuration: Mapped[bool | None]
    plaque: Mapped[bool | None]
    mobility_grade: Mapped[int | None] = bounded(0, 3, SmallInteger())
    furcation_involvement: Mapped[int | None] = bounded(0, 4, SmallInteger())
    observation_id: Mapped[UUID] = mapped_column(
        Computed(f"md5({_EXAM} || '/' || tooth_number::text)::uuid", persisted=True)
    )
    exam_observation_id: Mapped[UUID] = mapped_column(
        Computed(f"md5({_EXAM})::uuid", persisted=True)
    )
