"""Crypto-shred: what a tenant's keys have sealed is gone with them, wherever it was copied."""

from __future__ import annotations

from uuid import UUID

from storage.database import Connection, vault_of
from storage.encryption import data_keys


def shred(connection: Connection, tenant_id: UUID) -> int:
    """Destroy the data keys of a tenant: nothing that they sealed opens again, backups included.

    Returns how many keys there were. Other processes may hold a key for five minutes more. Backups
    of data_keys itself must be kept apart from the data and not as long (docs/decisions).
    """
    destroyed = data_keys.destroy_all(connection, tenant_id)
    vault_of(connection).forget(tenant_id)
    return destroyed
