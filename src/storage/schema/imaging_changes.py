"""Section IV.2: what happened to stored objects: the change feed, and what was removed.

A change is written in the transaction of the change, without its number: numbers in the order of
commits, with no gap, are given afterwards (migrations/imaging_changes.sql says why and how).
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import Base, Exact, TenantTable, bounded, count, one_of

SECTION = "IV. Imaging & AI Analysis"


class ImagingChange(Base):
    """One entry of the change feed: an object was stored, replaced or deleted.

    It outlives what it tells of, so nothing here is a foreign key. Which state the object is in now
    follows from whether `imaging_object_id` still has its row.
    """

    __tablename__ = "imaging_changes"
    __section__ = SECTION
    __tenant_key__ = False
    __table_args__ = (
        Index(
            "uq_imaging_changes_sequence",
            "tenant_id",
            "sequence",
            unique=True,
            postgresql_where=text("sequence IS NOT NULL"),
        ),
        Index(
            "ix_imaging_changes_unnumbered",
            "tenant_id",
            "id",
            postgresql_where=text("sequence IS NULL"),
        ),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger(), Identity(always=False), primary_key=True)
    sequence: Mapped[int | None] = bounded(1, None, BigInteger())
    action: Mapped[str] = one_of("CREATE", "UPDATE", "DELETE")
    patient_id: Mapped[UUID]
    imaging_object_id: Mapped[UUID]
    study_instance_uid: Mapped[Exact]
    series_instance_uid: Mapped[Exact]
    sop_instance_uid: Mapped[Exact]
    changed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class ImagingChangeFeed(TenantTable, Base):
    """How far the numbers of a tenant's change feed go, and up to where old entries are gone."""

    __tablename__ = "imaging_change_feeds"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id"),)

    last_sequence: Mapped[int] = count()
    pruned_through: Mapped[int] = count()


class RemovedObject(TenantTable, Base):
    """Bytes that no record shows any more: to be erased while `storage_uri` says where they are.

    With a SOP Instance UID it says that the instance was deleted, for as long as that is to be
    known; without one only that the bytes are superfluous.
    """

    __tablename__ = "removed_objects"
    __section__ = SECTION
    __table_args__ = (
        Index(None, "tenant_id", "sop_instance_uid"),
        Index(None, "tenant_id", "study_instance_uid"),
        Index(None, "tenant_id", "storage_uri"),
        Index(
            "ix_removed_objects_to_erase",
            "tenant_id",
            "removed_at",
            postgresql_where=text("storage_uri IS NOT NULL"),
        ),
    )

    sop_instance_uid: Mapped[Exact | None]
    study_instance_uid: Mapped[Exact | None]
    storage_uri: Mapped[Exact | None]
    byte_size: Mapped[int] = bounded(0, None, BigInteger(), server_default=text("0"))
    reason: Mapped[str | None]
    removed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    erased_at: Mapped[datetime | None]
