"""Erases the bytes of objects that were removed from the index, after the removal is committed.

The row that says where they are is written with the removal, and loses its key when they are gone:
a crash in between only has them erased once more. The hourly sweep would not find them, because it
lists what is young.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import LiteralString
from uuid import UUID

from storage.database import Database
from storage.objects import ObjectStore

logger = logging.getLogger(__name__)

# A reader that looked the object up before it was removed is still reading it.
GRACE = timedelta(seconds=60)
BATCH = 200

_DUE: LiteralString = (
    "SELECT id, storage_uri FROM removed_objects WHERE tenant_id = %s"
    " AND storage_uri IS NOT NULL AND removed_at < now() - %s"
    " ORDER BY removed_at LIMIT %s FOR UPDATE SKIP LOCKED"
)
_ERASED: LiteralString = (
    "UPDATE removed_objects SET storage_uri = NULL, erased_at = now()"
    " WHERE tenant_id = %s AND id = ANY (%s)"
)


def erase(
    database: Database, objects: ObjectStore, tenant_id: UUID, grace: timedelta = GRACE
) -> int:
    """Erase what is due of one tenant; returns how many objects. Raises ObjectStoreError."""
    erased = 0
    while True:
        with database.connection(tenant_id) as connection:
            due = connection.execute(_DUE, (tenant_id, grace, BATCH)).fetchall()
            for _, key in due:
                objects.delete(key)
            connection.execute(_ERASED, (tenant_id, [row[0] for row in due]))
        erased += len(due)
        if len(due) < BATCH:
            break
    if erased:
        logger.info("removed_objects_erased", extra={"tenant_id": str(tenant_id), "count": erased})
    return erased
