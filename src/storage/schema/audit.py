"""Section II, audit: what happened, who saw whose data, and the seals over both.

Rows of the log are added and never changed, and their writers wait for nobody: no foreign key, no
counter, no hash of the row before. Seals are laid over them afterwards (storage.audit_seals).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, Integer, UniqueConstraint, text
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from storage.schema.declarative import (
    Base,
    Json,
    Sensitivity,
    TenantTable,
    bounded,
    count,
    flag,
    one_of,
)

SECTION = "II. Identity, Access Management & Audit"


class TransactionId(UserDefinedType[Any]):
    """PostgreSQL's xid8: the transaction that wrote a row, never reused."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


# So that a migrated database can be compared with the models.
ischema_names["xid8"] = TransactionId


class AuditEvent(Base):
    """One interaction of one door; append-only, the application role cannot change a row.

    No foreign keys: the log outlives what it speaks of, and an insert on the read path takes no
    lock on a shared row. `patient_id` is there where the interaction was about one patient. Rows
    are found by time through their transaction: seals know the times of transactions, and an index
    on both would cost each read twice.
    """

    __tablename__ = "audit_events"
    __section__ = SECTION
    __tenant_key__ = False
    __table_args__ = (
        Index(None, "tenant_id", "transaction_id"),
        Index(None, "tenant_id", "resource_type", "resource_id", "timestamp"),
        Index(
            None, "tenant_id", "user_id", "timestamp", postgresql_where=text("user_id IS NOT NULL")
        ),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    transaction_id: Mapped[str] = mapped_column(
        TransactionId(), server_default=text("pg_current_xact_id()")
    )
    user_id: Mapped[UUID | None]
    api_client_id: Mapped[UUID | None]
    actor_type: Mapped[str] = one_of("USER", "SYSTEM", "API_CLIENT")
    event_type: Mapped[str]
    resource_type: Mapped[str | None]
    resource_id: Mapped[str | None]
    patient_id: Mapped[UUID | None]
    outcome: Mapped[str | None]
    timestamp: Mapped[datetime] = mapped_column(server_default=text("now()"))
    request_id: Mapped[str | None]
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    details: Mapped[Json | None] = mapped_column("metadata")


class PhiAccessLog(Base):
    """Whose data an audit event showed or changed, and why: one row for each patient.

    Narrow, because most reads write one: who, what and from where are the event's.
    """

    __tablename__ = "phi_access_logs"
    __section__ = SECTION
    __tenant_key__ = False
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (Index(None, "tenant_id", "patient_id", "accessed_at"),)

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    audit_event_id: Mapped[UUID] = mapped_column(primary_key=True)
    patient_id: Mapped[UUID] = mapped_column(primary_key=True)
    action: Mapped[str] = one_of("READ", "SEARCH", "CREATE", "UPDATE", "DELETE", "EXPORT", "PRINT")
    purpose_of_use: Mapped[str | None]
    is_break_glass: Mapped[bool] = flag()
    break_glass_reason: Mapped[str | None]
    accessed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class AuditSeal(TenantTable, Base):
    """A link of a tenant's chain: which rows there were between two transactions.

    ROWS covers the rows of first_transaction <= transaction_id < next_transaction. `entries` holds
    48 bytes a row (its id, SHA-256 of its columns), so that a row that is changed or gone can be
    named; `rows_digest` is SHA-256 over them. PRUNED says that the rows of the seals first_sequence
    to last_sequence were deleted after their time. `seal_digest` covers the seal and the digest of
    the one before it, `signature` is its HMAC under the installation's key, `signed_by` which key.
    """

    __tablename__ = "audit_seals"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "sequence"),
        Index(None, "tenant_id", "newest_at"),
        Index(None, "tenant_id", "oldest_at"),
    )

    sequence: Mapped[int] = bounded(1, None, BigInteger())
    kind: Mapped[str] = one_of("ROWS", "PRUNED")
    first_transaction: Mapped[int] = count()
    next_transaction: Mapped[int] = count()
    first_sequence: Mapped[int | None] = mapped_column(BigInteger())
    last_sequence: Mapped[int | None] = mapped_column(BigInteger())
    row_count: Mapped[int] = bounded(0, None, Integer())
    oldest_at: Mapped[datetime]
    newest_at: Mapped[datetime]
    rows_digest: Mapped[bytes]
    previous_digest: Mapped[bytes]
    seal_digest: Mapped[bytes]
    signature: Mapped[bytes]
    signed_by: Mapped[str]
    sealed_at: Mapped[datetime]
    entries: Mapped[bytes | None]
