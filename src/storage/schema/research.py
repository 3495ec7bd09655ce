"""Section XI: de-identified data sets for research and AI training, and who used them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Integer, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Json,
    Sensitivity,
    TenantTable,
    bounded,
    flag,
    link,
    member_link,
    one_of,
    phi,
)

SECTION = "XI. Security, Privacy & Compliance Hooks"


class ResearchDataset(TenantTable, Base):
    """A de-identified data set: by which method, under which approval."""

    __tablename__ = "research_datasets"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "name", "version"),
        CheckConstraint(
            "status <> 'RELEASED' OR (approval_reference IS NOT NULL AND released_at IS NOT NULL)",
            name="release_is_approved",
        ),
    )

    name: Mapped[str]
    version: Mapped[int] = bounded(1, None, Integer(), server_default=text("1"))
    description: Mapped[str | None]
    purpose: Mapped[str | None]
    # HIPAA 164.514(b)(2) and (b)(1).
    deidentification_method: Mapped[str] = one_of("SAFE_HARBOR", "EXPERT_DETERMINATION")
    deidentification_profile: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    expert_name: Mapped[str | None]
    expert_report_uri: Mapped[str | None]
    approval_reference: Mapped[str | None]
    requires_consent: Mapped[bool] = flag(True)
    storage_uri: Mapped[str | None]
    status: Mapped[str] = one_of("DRAFT", "FROZEN", "RELEASED", "WITHDRAWN", default="DRAFT")
    frozen_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]


class ResearchDatasetMember(TenantTable, Base):
    """One patient's or study's part in a data set, with the consent that allows it."""

    __tablename__ = "research_dataset_members"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        UniqueConstraint("tenant_id", "dataset_id", "pseudonym", "member_type", "storage_uri"),
        CheckConstraint(
            "num_nonnulls(patient_id, study_id, imaging_object_id) >= 1", name="names_a_source"
        ),
    )

    dataset_id: Mapped[UUID] = link("research_datasets", cascade=True)
    member_type: Mapped[str] = one_of("PATIENT", "IMAGING_STUDY", "IMAGING_OBJECT")
    # The link back to a person is what makes a pseudonym: it never leaves with the data set.
    patient_id: Mapped[UUID | None] = link("patients")
    study_id: Mapped[UUID | None] = link("imaging_studies")
    imaging_object_id: Mapped[UUID | None] = link("imaging_objects")
    consent_id: Mapped[UUID | None] = link("consents")
    pseudonym: Mapped[str] = phi(Sensitivity.IDENTIFYING)
    storage_uri: Mapped[str | None]
    split: Mapped[str | None] = one_of("TRAIN", "VALIDATION", "TEST")
    withdrawn_at: Mapped[datetime | None]


class ResearchAccessLog(TenantTable, Base):
    """Who used a data set, and for what; append-only."""

    __tablename__ = "research_access_logs"
    __section__ = SECTION
    __table_args__ = (Index(None, "tenant_id", "dataset_id", "accessed_at"),)

    dataset_id: Mapped[UUID] = link("research_datasets")
    user_id: Mapped[UUID | None] = member_link()
    recipient: Mapped[str | None]
    action: Mapped[str] = one_of("VIEW", "QUERY", "DOWNLOAD", "TRAIN", "EXPORT")
    purpose: Mapped[str | None]
    record_count: Mapped[int | None] = bounded(0, None, Integer())
    accessed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    request_id: Mapped[str | None]
