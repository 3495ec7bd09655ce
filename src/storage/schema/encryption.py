"""Section XI: data keys, wrapped under the master key or a KMS key.

A data key in clear lies nowhere but in the memory of a process, for minutes. Destroying the wrapped
keys of a tenant makes everything that they have sealed unreadable for good, wherever it was copied.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped

from storage.schema.declarative import (
    Base,
    GlobalTable,
    Sensitivity,
    TenantTable,
    bounded,
    one_of,
    phi,
)

SECTION = "XI. Security, Privacy & Compliance Hooks"


class _WrappedKey:
    """SEAL keys seal values, the newest version those that are written now; INDEX keys the rest."""

    purpose: Mapped[str] = one_of("SEAL", "INDEX")
    version: Mapped[int] = bounded(1, None, Integer())
    wrapped_key: Mapped[bytes | None] = phi(Sensitivity.RESTRICTED)
    provider: Mapped[str] = one_of("LOCAL", "AWS_KMS")
    provider_key_id: Mapped[str]
    retired_at: Mapped[datetime | None]
    destroyed_at: Mapped[datetime | None]


def _destroyed() -> CheckConstraint:
    return CheckConstraint(
        "(destroyed_at IS NULL) = (wrapped_key IS NOT NULL)", name="destroyed_is_gone"
    )


class DataKey(_WrappedKey, TenantTable, Base):
    """A data key of one tenant."""

    __tablename__ = "data_keys"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "purpose", "version"), _destroyed())


class PlatformDataKey(_WrappedKey, GlobalTable, Base):
    """A data key for what belongs to no tenant, such as the second factor of a user."""

    __tablename__ = "platform_data_keys"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("purpose", "version"), _destroyed())
