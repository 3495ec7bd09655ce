"""How long images must be kept: the tenant's policy for them, else its default for everything.

Counted from the day on which a study was acquired, or where that is not known, came in.
"""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString
from uuid import UUID

from storage.database import Connection

# What is added to the time from which is counted, of the settings `t`.
_YEARS: LiteralString = (
    " + make_interval(years => coalesce(p.min_years, t.default_retention_min_years, 0))"
)
_POLICY: LiteralString = (
    " LEFT JOIN data_retention_policies AS p ON p.tenant_id = %(tenant_id)s"
    " AND p.data_class = 'IMAGING'"
)
_KEPT_UNTIL: LiteralString = (
    f"SELECT coalesce(s.acquisition_datetime, s.created_at){_YEARS} FROM imaging_studies AS s"
    f" LEFT JOIN tenant_settings AS t ON t.tenant_id = s.tenant_id{_POLICY}"
    " WHERE s.tenant_id = %(tenant_id)s AND s.id = %(study)s"
)
_KEPT_UNTIL_SINCE: LiteralString = (
    f"SELECT %(since)s::timestamptz{_YEARS} FROM tenant_settings AS t{_POLICY}"
    " WHERE t.tenant_id = %(tenant_id)s"
)


def kept_until(connection: Connection, tenant_id: UUID, since: datetime) -> datetime | None:
    """When an image of a time may be deleted at the earliest; None where nobody says so."""
    values = {"tenant_id": tenant_id, "since": since}
    row = connection.execute(_KEPT_UNTIL_SINCE, values).fetchone()
    return row[0] if row else None


def study_kept_until(connection: Connection, tenant_id: UUID, study_id: UUID) -> datetime | None:
    """When the study may be deleted at the earliest; None where there is no such study."""
    values = {"tenant_id": tenant_id, "study": study_id}
    row = connection.execute(_KEPT_UNTIL, values).fetchone()
    return row[0] if row else None
