"""Removes what the authorization server remembers and nobody can use any more."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

from storage.database import Database

# What ended is kept for a day: a replay of yesterday's code still has its trace.
_ENDED: LiteralString = " WHERE tenant_id = %s AND expires_at < now() - interval '1 day'"
# Codes and refresh tokens go with their grant; used codes of a long grant are small and few.
_TABLES: tuple[LiteralString, ...] = (
    "authorization_grants",
    "launch_contexts",
    "client_assertions",
    "revoked_access_tokens",
)


def prune(database: Database, tenant_id: UUID) -> dict[str, int]:
    """Remove what ended more than a day ago; returns how many rows of each table."""
    removed: dict[str, int] = {}
    with database.connection(tenant_id) as connection:
        for table in _TABLES:
            deleted = connection.execute("DELETE FROM " + table + _ENDED, (tenant_id,))
            removed[table] = deleted.rowcount
        # The long chain behind a grant that lives on: only the last link is of use, and the
        # others only to notice their reuse, which their own lifetime bounds.
        deleted = connection.execute("DELETE FROM refresh_tokens" + _ENDED, (tenant_id,))
        removed["refresh_tokens"] = deleted.rowcount
    return removed
