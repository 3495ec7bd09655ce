"""Legal holds: what may not be deleted until somebody releases it (security.md D15)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from storage.database import Connection


@dataclass(frozen=True, slots=True)
class LegalHold:
    """A hold that has not been released."""

    id: UUID
    entity_type: str
    entity_id: UUID
    reason: str
    reference: str | None
    placed_at: datetime


def standing(connection: Connection, tenant_id: UUID, most: int = 100) -> list[LegalHold]:
    """The holds of a tenant that are not released, the oldest first."""
    rows = connection.execute(
        "SELECT id, entity_type, entity_id, reason, reference, placed_at FROM legal_holds"
        " WHERE tenant_id = %s AND released_at IS NULL ORDER BY placed_at, id LIMIT %s",
        (tenant_id, most),
    ).fetchall()
    return [LegalHold(*row) for row in rows]
