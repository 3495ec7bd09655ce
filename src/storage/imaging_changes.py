"""The change feed of a tenant's images: numbering what has happened, and forgetting what is old."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

from storage.database import Database

# Of one call, so that no reader waits long for those who wrote a great deal.
MOST_NUMBERED = 5_000
MOST_PRUNED = 20_000

_NUMBER: LiteralString = "SELECT number_imaging_changes(%s, %s)"
_PRUNE: LiteralString = (
    "SELECT prune_imaging_changes(t.tenant_id, now() - make_interval(days => t.change_feed_days),"
    " %s) FROM tenant_settings AS t WHERE t.tenant_id = %s"
)


def number(database: Database, tenant_id: UUID) -> int:
    """Give all that is committed its number; returns how many there were."""
    numbered = 0
    while True:
        with database.connection(tenant_id) as connection:
            row = connection.execute(_NUMBER, (tenant_id, MOST_NUMBERED)).fetchone()
        count = int(row[0]) if row else 0
        numbered += count
        if count < MOST_NUMBERED:
            return numbered


def prune(database: Database, tenant_id: UUID) -> int:
    """Forget what is older than the tenant wants it kept; returns how many entries went."""
    pruned = 0
    while True:
        with database.connection(tenant_id) as connection:
            row = connection.execute(_PRUNE, (MOST_PRUNED, tenant_id)).fetchone()
        count = int(row[0]) if row else 0
        pruned += count
        if count < MOST_PRUNED:
            return pruned
