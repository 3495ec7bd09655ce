"""Section II.3: breaking the glass, a clinician's access to a record in an emergency."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import Base, Sensitivity, TenantTable, link, member_link, phi

SECTION = "II. Identity, Access Management & Audit"


class EmergencyAccess(TenantTable, Base):
    """The record of one patient, opened to one user for a short time, and why.

    Each read that makes use of it names it in the log (phi_access_logs.break_glass_reason).
    """

    __tablename__ = "emergency_accesses"
    __section__ = SECTION
    __table_args__ = (
        Index(None, "tenant_id", "user_id", "expires_at"),
        Index(None, "tenant_id", "patient_id", "opened_at"),
        CheckConstraint("length(btrim(reason)) >= 10", name="reason"),
        CheckConstraint("expires_at <= opened_at + interval '60 minutes'", name="window"),
    )

    user_id: Mapped[UUID] = member_link()
    patient_id: Mapped[UUID] = link("patients")
    reason: Mapped[str] = phi(Sensitivity.CLINICAL)
    opened_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
