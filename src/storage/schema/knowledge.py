"""Section VIII: knowledge base, conversations, notifications, documents, referrals."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Exact,
    Json,
    Sensitivity,
    TenantTable,
    bounded,
    exactly_one,
    global_link,
    link,
    member_link,
    one_of,
    period,
    phi,
)

SECTION = "VIII. Knowledge, Content & Communication"


class KnowledgeDocument(TenantTable, Base):
    """A clinical protocol, evidence summary or patient leaflet."""

    __tablename__ = "knowledge_documents"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "slug"),)

    slug: Mapped[str]
    title: Mapped[str]
    document_type: Mapped[str] = one_of(
        "CLINICAL_PROTOCOL", "EVIDENCE_SUMMARY", "PATIENT_EDUCATION"
    )
    category: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    status: Mapped[str] = one_of("DRAFT", "PUBLISHED", "RETIRED", default="DRAFT")


class KnowledgeVersion(TenantTable, Base):
    """One version of a document: who wrote, reviewed and approved it."""

    __tablename__ = "knowledge_versions"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "document_id", "version"),
        period("reviewed_at", "approved_at"),
    )

    document_id: Mapped[UUID] = link("knowledge_documents", cascade=True)
    version: Mapped[int] = bounded(1, None, Integer())
    content: Mapped[str]
    change_summary: Mapped[str | None]
    author_id: Mapped[UUID | None] = member_link()
    reviewer_id: Mapped[UUID | None] = member_link()
    approver_id: Mapped[UUID | None] = member_link()
    review_status: Mapped[str] = one_of(
        "DRAFT", "IN_REVIEW", "APPROVED", "REJECTED", default="DRAFT"
    )
    reviewed_at: Mapped[datetime | None]
    approved_at: Mapped[datetime | None]


class KnowledgeLocalization(TenantTable, Base):
    """A version in another language or for another region."""

    __tablename__ = "knowledge_localizations"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint(
            "tenant_id", "version_id", "language", "region", postgresql_nulls_not_distinct=True
        ),
    )

    version_id: Mapped[UUID] = link("knowledge_versions", cascade=True)
    language: Mapped[str]
    region: Mapped[str | None]
    title: Mapped[str]
    content: Mapped[str]
    translated_by_id: Mapped[UUID | None] = member_link()


class Conversation(TenantTable, Base):
    """A thread with a patient, of a team or about a case."""

    __tablename__ = "conversations"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    conversation_type: Mapped[str] = one_of("PATIENT_MESSAGING", "TEAM_CHAT", "CASE_DISCUSSION")
    subject: Mapped[str | None]
    patient_id: Mapped[UUID | None] = link("patients")
    status: Mapped[str] = one_of("OPEN", "CLOSED", "ARCHIVED", default="OPEN")
    last_message_at: Mapped[datetime | None]


class ConversationParticipant(TenantTable, Base):
    """A user or patient in a conversation."""

    __tablename__ = "conversation_participants"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        UniqueConstraint(
            "tenant_id",
            "conversation_id",
            "user_id",
            "patient_id",
            postgresql_nulls_not_distinct=True,
        ),
        exactly_one("user_id", "patient_id"),
        period("joined_at", "left_at"),
    )

    conversation_id: Mapped[UUID] = link("conversations", cascade=True)
    user_id: Mapped[UUID | None] = member_link()
    patient_id: Mapped[UUID | None] = link("patients")
    role: Mapped[str] = one_of("AUTHOR", "PARTICIPANT", "OBSERVER", default="PARTICIPANT")
    joined_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    left_at: Mapped[datetime | None]
    last_read_at: Mapped[datetime | None]


class Message(TenantTable, Base):
    """One message of a conversation."""

    __tablename__ = "messages"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "conversation_id", "sent_at"),
        # data-schema.md X; see clinical_notes.
        Index(
            "ix_messages_content_fts",
            text("to_tsvector('simple'::regconfig, content)"),
            postgresql_using="gin",
        ),
        CheckConstraint(
            "CASE sender_type WHEN 'USER' THEN sender_user_id IS NOT NULL"
            " WHEN 'PATIENT' THEN sender_patient_id IS NOT NULL"
            " ELSE num_nonnulls(sender_user_id, sender_patient_id) = 0 END",
            name="sender",
        ),
    )

    conversation_id: Mapped[UUID] = link("conversations", cascade=True)
    sender_type: Mapped[str] = one_of("USER", "SYSTEM", "PATIENT")
    sender_user_id: Mapped[UUID | None] = member_link()
    sender_patient_id: Mapped[UUID | None] = link("patients")
    content_type: Mapped[str] = one_of("TEXT", "RICH_TEXT", "FILE", default="TEXT")
    content: Mapped[str]
    storage_uri: Mapped[str | None]
    sent_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    delivery_state: Mapped[str] = one_of(
        "QUEUED", "SENT", "DELIVERED", "READ", "FAILED", default="QUEUED"
    )


class Notification(TenantTable, Base):
    """A notice to a user or patient by one channel."""

    __tablename__ = "notifications"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "status", "created_at"),
        exactly_one("user_id", "patient_id"),
    )

    user_id: Mapped[UUID | None] = member_link()
    patient_id: Mapped[UUID | None] = link("patients")
    channel: Mapped[str] = one_of("IN_APP", "EMAIL", "SMS")
    notification_type: Mapped[str]
    title: Mapped[str | None]
    body: Mapped[str | None]
    payload: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    status: Mapped[str] = one_of("QUEUED", "SENT", "DELIVERED", "READ", "FAILED", default="QUEUED")
    sent_at: Mapped[datetime | None]
    read_at: Mapped[datetime | None]
    error_message: Mapped[str | None]


class Document(TenantTable, Base):
    """A consent form, PDF, report or image in the object store.

    `owner_id` names a row of another table by `owner_type`, so no foreign key can hold it.
    """

    __tablename__ = "documents"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "owner_type", "owner_id"),
        CheckConstraint("hash ~ '^[0-9a-f]{64}$'", name="hash"),
        CheckConstraint("signer_id IS NULL OR signed_at IS NOT NULL", name="signed_at"),
    )

    owner_type: Mapped[str] = one_of("PATIENT", "ENCOUNTER", "CLAIM", "TENANT")
    owner_id: Mapped[UUID]
    document_type: Mapped[str]
    title: Mapped[str | None]
    media_type: Mapped[str | None]
    storage_uri: Mapped[Exact]
    hash: Mapped[str]
    byte_size: Mapped[int | None] = bounded(0, None, BigInteger())
    signed_at: Mapped[datetime | None]
    signer_id: Mapped[UUID | None] = member_link()


class Referral(TenantTable, Base):
    """A case sent to another provider or tenant, or a second opinion asked for."""

    __tablename__ = "referrals"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "status", "created_at"),
        period("sent_at", "completed_at"),
    )

    patient_id: Mapped[UUID] = link("patients")
    encounter_id: Mapped[UUID | None] = link("encounters")
    referral_type: Mapped[str] = one_of("REFERRAL", "SECOND_OPINION", default="REFERRAL")
    from_provider_id: Mapped[UUID | None] = member_link()
    to_provider_id: Mapped[UUID | None] = member_link()
    # The other tenant reads its own copy; this only names it.
    to_tenant_id: Mapped[UUID | None] = global_link("tenants")
    to_name: Mapped[str | None]
    specialty: Mapped[str | None]
    reason: Mapped[str]
    urgency: Mapped[str] = one_of("ROUTINE", "URGENT", "EMERGENCY", default="ROUTINE")
    status: Mapped[str] = one_of(
        "DRAFT", "SENT", "ACCEPTED", "DECLINED", "COMPLETED", "CANCELLED", default="DRAFT"
    )
    sent_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    response: Mapped[str | None] = phi(Sensitivity.CLINICAL)
