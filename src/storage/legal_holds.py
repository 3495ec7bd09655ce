"""Legal holds: what may not be deleted until somebody releases it (security.md D15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
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


# Of what a hold may be placed on, an image is part of: itself, its series and study, its patient
# and the patient's visits, treatments and claims, or all that the tenant has.
_ON_IMAGES: LiteralString = (
    "SELECT h.id, h.entity_type, h.entity_id, h.reason, h.reference, h.placed_at"
    " FROM legal_holds AS h JOIN imaging_studies AS s"
    " ON s.tenant_id = %(tenant_id)s AND s.id = %(study)s"
    " WHERE h.tenant_id = %(tenant_id)s AND h.released_at IS NULL AND ("
    " upper(h.entity_type) = 'TENANT' OR h.entity_id IN (s.id, s.patient_id)"
    " OR EXISTS (SELECT FROM imaging_objects AS o WHERE o.tenant_id = %(tenant_id)s"
    " AND o.id = ANY (%(objects)s) AND h.entity_id IN (o.id, o.series_id))"
    + "".join(
        f" OR EXISTS (SELECT FROM {table} AS r WHERE r.tenant_id = %(tenant_id)s"
        " AND r.id = h.entity_id AND r.patient_id = s.patient_id)"
        for table in ("encounters", "procedures", "treatment_plans", "claims")
    )
    + ") ORDER BY h.placed_at, h.id LIMIT 20"
)


def on_images(
    connection: Connection, tenant_id: UUID, study_id: UUID, object_ids: Sequence[UUID]
) -> list[LegalHold]:
    """The holds that forbid to delete these objects of a study, the oldest first."""
    values = {"tenant_id": tenant_id, "study": study_id, "objects": list(object_ids)}
    return [LegalHold(*row) for row in connection.execute(_ON_IMAGES, values)]


def standing(connection: Connection, tenant_id: UUID, most: int = 100) -> list[LegalHold]:
    """The holds of a tenant that are not released, the oldest first."""
    rows = connection.execute(
        "SELECT id, entity_type, entity_id, reason, reference, placed_at FROM legal_holds"
        " WHERE tenant_id = %s AND released_at IS NULL ORDER BY placed_at, id LIMIT %s",
        (tenant_id, most),
    ).fetchall()
    return [LegalHold(*row) for row in rows]
