"""Section V, DICOM: where stored objects are sent on, and who has been promised that they are kept.

A delivery and a commitment are domain rows: they say what is to be done and what became of it. The
jobs that do the work hold their ids only.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, Integer, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.consent_types import CONSENT_TYPES
from storage.schema.declarative import (
    Base,
    Exact,
    Json,
    Sensitivity,
    TenantTable,
    bounded,
    exactly_one,
    flag,
    link,
    one_of,
    phi,
)

SECTION = "V. Integrations & Interoperability"
# PS3.5 9: a UID has at most 64 characters of digits and dots.
_UID = "{0} ~ '^[0-9.]{{1,64}}$'"


class DicomWebDestination(TenantTable, Base):
    """A DICOMweb service to which objects are stored (STOW-RS), and how it knows us."""

    __tablename__ = "dicom_web_destinations"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    name: Mapped[str]
    url: Mapped[str]
    authentication: Mapped[str] = one_of(
        "NONE", "BASIC", "BEARER", "CLIENT_CREDENTIALS", default="NONE"
    )
    # The user of BASIC, the client of CLIENT_CREDENTIALS (RFC 6749 4.4).
    client_id: Mapped[str | None]
    secret_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    token_url: Mapped[str | None]
    scope: Mapped[str | None]
    active: Mapped[bool] = flag(True)


class DicomRoutingRule(TenantTable, Base):
    """Which objects go to which destination, and when."""

    __tablename__ = "dicom_routing_rules"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        exactly_one("application_entity_id", "web_destination_id"),
    )

    name: Mapped[str]
    # Typed conditions, read by interop.dicom.routing.
    predicate: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    application_entity_id: Mapped[UUID | None] = link("dicom_application_entities")
    web_destination_id: Mapped[UUID | None] = link("dicom_web_destinations")
    # How long nothing more of the study may have come; 0 sends each object at once.
    quiet_seconds: Mapped[int] = bounded(0, 86400, Integer(), server_default=text("0"))
    with_commitment: Mapped[bool] = flag()
    required_consent: Mapped[str | None] = one_of(*CONSENT_TYPES)
    enabled: Mapped[bool] = flag(True)


class StorageCommitment(TenantTable, Base):
    """One Storage Commitment transaction (PS3.4 Annex J), asked of us (SCP) or by us (SCU)."""

    __tablename__ = "storage_commitments"
    __section__ = SECTION
    __table_args__ = (
        Index(None, "tenant_id", "transaction_uid"),
        Index(None, "tenant_id", "created_at"),
    )

    role: Mapped[str] = one_of("SCP", "SCU")
    transaction_uid: Mapped[Exact] = mapped_column(info={"check": _UID})
    # The other side, and the AE title by which it knows us.
    peer_ae_title: Mapped[Exact]
    local_ae_title: Mapped[Exact]
    application_entity_id: Mapped[UUID | None] = link("dicom_application_entities")
    # SCP: ACCEPTED, then VERIFIED, then REPORTED or UNREPORTED when the peer cannot be told.
    # SCU: REQUESTED, then COMMITTED or PARTLY_COMMITTED by the peer's report; REFUSED or
    # UNANSWERED when none will come.
    status: Mapped[str] = one_of(
        "ACCEPTED", "VERIFIED", "REPORTED", "UNREPORTED",
        "REQUESTED", "COMMITTED", "PARTLY_COMMITTED", "REFUSED", "UNANSWERED",
    )  # fmt: skip
    # Of the N-ACTION or N-EVENT-REPORT that the peer answered last.
    status_code: Mapped[int | None]
    message: Mapped[str | None]
    attempts: Mapped[int] = bounded(0, None, Integer(), server_default=text("0"))
    # Before this nobody else tries: somebody is at it, or waits after a failure.
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    completed_at: Mapped[datetime | None]


class StorageCommitmentReference(TenantTable, Base):
    """One object of a Storage Commitment transaction."""

    __tablename__ = "storage_commitment_references"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "commitment_id", "position"),)

    commitment_id: Mapped[UUID] = link("storage_commitments", cascade=True)
    position: Mapped[int] = bounded(0, None, Integer())
    sop_class_uid: Mapped[Exact]
    sop_instance_uid: Mapped[Exact]
    state: Mapped[str] = one_of("PENDING", "COMMITTED", "FAILED", default="PENDING")
    # PS3.3 C.14.1.1, Failure Reason (0008,1197).
    failure_reason: Mapped[int | None]


class DicomDelivery(TenantTable, Base):
    """One object on its way to one destination. What the rule said is copied: rules change."""

    __tablename__ = "dicom_deliveries"
    __section__ = SECTION
    __table_args__ = (
        exactly_one("application_entity_id", "web_destination_id"),
        UniqueConstraint("tenant_id", "application_entity_id", "imaging_object_id"),
        UniqueConstraint("tenant_id", "web_destination_id", "imaging_object_id"),
        Index(None, "tenant_id", "created_at"),
    )

    application_entity_id: Mapped[UUID | None] = link("dicom_application_entities")
    web_destination_id: Mapped[UUID | None] = link("dicom_web_destinations")
    imaging_object_id: Mapped[UUID] = link("imaging_objects", cascade=True)
    study_id: Mapped[UUID] = link("imaging_studies", cascade=True)
    rule_name: Mapped[str]
    quiet_seconds: Mapped[int] = bounded(0, 86400, Integer(), server_default=text("0"))
    with_commitment: Mapped[bool] = flag()
    required_consent: Mapped[str | None] = one_of(*CONSENT_TYPES)
    status: Mapped[str] = one_of(
        "PENDING", "RETRYING", "DELIVERED", "WITHHELD", "DEAD_LETTER", default="PENDING"
    )
    attempts: Mapped[int] = bounded(0, None, Integer(), server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    # A worker sends it until then; one that dies does not renew it.
    claimed_until: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    # The peer's: a C-STORE status, a STOW-RS Failure Reason or an HTTP status.
    status_code: Mapped[int | None]
    message: Mapped[str | None]
    commitment_id: Mapped[UUID | None] = link("storage_commitments")
