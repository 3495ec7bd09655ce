"""Section V: external systems, sync, DICOM peers and transactions, webhooks, the outbox.

`fhir_resources` of this section is the read model and lies in `read_model.py`.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import CIDR
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Exact,
    GlobalTable,
    Json,
    Sensitivity,
    TenantTable,
    bounded,
    count,
    flag,
    global_link,
    link,
    one_of,
    period,
    phi,
)

SECTION = "V. Integrations & Interoperability"
_SYSTEM_TYPES = ("PMS", "EHR", "PACS", "LIMS", "PAYMENT_GATEWAY", "INSURANCE_CLEARINGHOUSE")


class ExternalSystem(GlobalTable, Base):
    """A product that tenants connect to."""

    __tablename__ = "external_systems"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("system_type", "name"),)

    system_type: Mapped[str] = one_of(*_SYSTEM_TYPES)
    name: Mapped[str]
    vendor: Mapped[str | None]
    description: Mapped[str | None]


class TenantIntegration(TenantTable, Base):
    """An active connection of one tenant to one external system."""

    __tablename__ = "tenant_integrations"
    __section__ = SECTION

    external_system_id: Mapped[UUID] = global_link("external_systems")
    system_type: Mapped[str] = one_of(*_SYSTEM_TYPES)
    display_name: Mapped[str]
    status: Mapped[str] = one_of("ACTIVE", "PAUSED", "ERROR", "DISABLED", default="ACTIVE")
    sync_mode: Mapped[str] = one_of("UNIDIRECTIONAL", "BIDIRECTIONAL", default="UNIDIRECTIONAL")
    configuration: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    last_sync_at: Mapped[datetime | None]


class IntegrationCredential(TenantTable, Base):
    """A secret of an integration, sealed field by field with a key of the key provider."""

    __tablename__ = "integration_credentials"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "integration_id", "credential_type"),
        period("created_at", "expires_at"),
    )

    integration_id: Mapped[UUID] = link("tenant_integrations", cascade=True)
    credential_type: Mapped[str] = one_of(
        "API_KEY", "OAUTH_TOKEN", "BASIC", "CLIENT_CERTIFICATE", "PRIVATE_KEY"
    )
    endpoint_url: Mapped[str | None]
    secret_encrypted: Mapped[str] = phi(Sensitivity.RESTRICTED)
    refresh_token_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    key_id: Mapped[str]
    expires_at: Mapped[datetime | None]
    rotated_at: Mapped[datetime | None]


class SyncJob(TenantTable, Base):
    """One synchronisation, such as a schedule import or a claim export."""

    __tablename__ = "sync_jobs"
    __section__ = SECTION
    __table_args__ = (
        Index(None, "tenant_id", "status", "created_at"),
        period("started_at", "completed_at"),
    )

    integration_id: Mapped[UUID] = link("tenant_integrations")
    job_type: Mapped[str]
    direction: Mapped[str] = one_of("IMPORT", "EXPORT")
    status: Mapped[str] = one_of(
        "QUEUED", "RUNNING", "SUCCEEDED", "PARTIAL", "FAILED", "CANCELLED", default="QUEUED"
    )
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    created_count: Mapped[int] = count()
    updated_count: Mapped[int] = count()
    failed_count: Mapped[int] = count()
    cursor: Mapped[str | None]
    error_message: Mapped[str | None]


class SyncJobLog(TenantTable, Base):
    """What happened to one record in a synchronisation."""

    __tablename__ = "sync_job_logs"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    sync_job_id: Mapped[UUID] = link("sync_jobs", cascade=True)
    record_type: Mapped[str]
    external_id: Mapped[str | None] = phi(Sensitivity.IDENTIFYING)
    record_id: Mapped[UUID | None]
    action: Mapped[str] = one_of("CREATED", "UPDATED", "SKIPPED", "FAILED")
    error_message: Mapped[str | None]
    logged_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class DicomApplicationEntity(TenantTable, Base):
    """A remote application entity: how it is known, what it may do here, and where it listens.

    The networks and certificates say who may call itself by this AE title; empty lists ask for
    nothing. A limit that is NULL is that of the installation.
    """

    __tablename__ = "dicom_application_entities"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "ae_title"),
        CheckConstraint("length(ae_title) BETWEEN 1 AND 16", name="ae_title"),
        CheckConstraint("NOT may_be_sent_to OR (host IS NOT NULL AND port IS NOT NULL)", name="to"),
        # SHA-256 of the certificate (DER), in hexadecimal digits.
        CheckConstraint(
            "cardinality(certificate_fingerprints) = 0 OR"
            " array_to_string(certificate_fingerprints, ',', '?') ~"
            " '^[0-9a-f]{64}(,[0-9a-f]{64})*$'",
            name="certificate_fingerprints",
        ),
        CheckConstraint("valid_until > valid_from", name="validity"),
    )

    ae_title: Mapped[Exact]
    host: Mapped[str | None]
    port: Mapped[int | None] = bounded(1, 65535, Integer())
    description: Mapped[str | None]
    source_networks: Mapped[list[str]] = mapped_column(ARRAY(CIDR()), server_default=text("'{}'"))
    certificate_fingerprints: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    certificate_subject: Mapped[str | None]
    may_send: Mapped[bool] = flag(True)
    may_query: Mapped[bool] = flag(True)
    may_be_sent_to: Mapped[bool] = flag()
    # For whom it asks. Who asks for anything but the clinic's own care sees only patients who have
    # consented (as api_clients.purpose).
    purpose: Mapped[str] = one_of("CARE", "DATA_SHARING", "RESEARCH", default="CARE")
    require_tls: Mapped[bool] = flag()
    max_associations: Mapped[int | None] = bounded(1, None, Integer())
    max_objects_per_minute: Mapped[int | None] = bounded(1, None, Integer())
    max_bytes_per_minute: Mapped[int | None] = bounded(1, None, BigInteger())
    active: Mapped[bool] = flag(True)
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]


class DicomTransaction(TenantTable, Base):
    """One C-STORE, C-FIND, C-MOVE, STOW-RS or import operation, in or out.

    A log: no foreign key to the tenant, so an insert per instance locks no shared row.
    """

    __tablename__ = "dicom_transactions"
    __section__ = SECTION
    __tenant_key__ = False
    __table_args__ = (
        Index(None, "tenant_id", "started_at"),
        Index(None, "tenant_id", "study_instance_uid"),
    )

    direction: Mapped[str] = one_of("INBOUND", "OUTBOUND")
    operation: Mapped[str]
    integration_id: Mapped[UUID | None] = link("tenant_integrations")
    calling_ae_title: Mapped[Exact | None]
    called_ae_title: Mapped[Exact | None]
    remote_address: Mapped[str | None]
    sop_class_uid: Mapped[Exact | None]
    sop_instance_uid: Mapped[Exact | None]
    study_instance_uid: Mapped[Exact | None]
    transfer_syntax_uid: Mapped[Exact | None]
    status_code: Mapped[int | None]
    status: Mapped[str] = one_of("SUCCESS", "WARNING", "FAILURE")
    message: Mapped[str | None]
    byte_size: Mapped[int | None] = bounded(0, None, BigInteger())
    started_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    completed_at: Mapped[datetime | None]


class WebhookSubscription(TenantTable, Base):
    """A third party's wish to be told of events."""

    __tablename__ = "webhook_subscriptions"
    __section__ = SECTION

    integration_id: Mapped[UUID | None] = link("tenant_integrations")
    name: Mapped[str]
    target_url: Mapped[str]
    event_types: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    secret_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    payload_mode: Mapped[str] = one_of("EMPTY", "ID_ONLY", "FULL", default="ID_ONLY")
    status: Mapped[str] = one_of("ACTIVE", "PAUSED", "ERROR", "DISABLED", default="ACTIVE")
    max_attempts: Mapped[int] = bounded(1, 100, Integer(), server_default=text("8"))


class WebhookEvent(TenantTable, Base):
    """Something that happened and that subscribers may be told of."""

    __tablename__ = "webhook_events"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (Index(None, "tenant_id", "event_type", "occurred_at"),)

    event_type: Mapped[str]
    resource_type: Mapped[str | None]
    resource_id: Mapped[str | None]
    payload: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    occurred_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class WebhookDelivery(TenantTable, Base):
    """One event on its way to one subscriber."""

    __tablename__ = "webhook_deliveries"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "event_id", "subscription_id"),
        Index(None, "tenant_id", "status", "next_attempt_at"),
    )

    event_id: Mapped[UUID] = link("webhook_events", cascade=True)
    subscription_id: Mapped[UUID] = link("webhook_subscriptions", cascade=True)
    status: Mapped[str] = one_of(
        "PENDING", "DELIVERED", "RETRYING", "FAILED", "DEAD_LETTER", default="PENDING"
    )
    attempts: Mapped[int] = bounded(0, None, Integer(), server_default=text("0"))
    next_attempt_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    response_status: Mapped[int | None]
    error_message: Mapped[str | None]


class FhirAsyncRequest(TenantTable, Base):
    """A FHIR request that is answered later (R4 async.html), and its answer for a while.

    Request and answer are sealed as a whole: they may hold anything.
    """

    __tablename__ = "fhir_async_requests"
    __section__ = SECTION
    __phi__ = Sensitivity.RESTRICTED

    status: Mapped[str] = one_of("ACCEPTED", "RUNNING", "DONE", default="ACCEPTED")
    # Who asked, and may fetch the answer.
    client_id: Mapped[UUID | None]
    user_id: Mapped[UUID | None]
    patient_id: Mapped[UUID | None]
    request: Mapped[str]
    response_status: Mapped[int | None]
    response: Mapped[str | None]
    expires_at: Mapped[datetime]


class OutboxEntry(Base):
    """An event written in the transaction that caused it, for those who act on it later."""

    __tablename__ = "outbox"
    __section__ = SECTION
    __tenant_key__ = False

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger(), Identity(always=False), primary_key=True)
    topic: Mapped[str]
    payload: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
