"""Emergency accesses: opening one, with the alert that goes out, and finding one that holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from storage.database import AsyncConnection

WINDOW_MINUTES = 60
ALERT_TOPIC = "security.break_glass"

# The alert names ids only; who is told looks the reason up.
_OPEN: LiteralString = """
WITH opened AS (
    INSERT INTO emergency_accesses (tenant_id, user_id, patient_id, reason, expires_at)
    VALUES (%(tenant)s, %(user)s, %(patient)s, %(reason)s,
        now() + make_interval(mins => %(minutes)s))
    RETURNING id, tenant_id, user_id, patient_id, expires_at
), alert AS (
    INSERT INTO outbox (tenant_id, topic, payload)
    SELECT tenant_id, %(topic)s, jsonb_build_object('emergency_access', id, 'user', user_id,
        'patient', patient_id, 'expires_at', expires_at)
    FROM opened
)
SELECT id, patient_id, expires_at FROM opened
"""
_HOLDS: LiteralString = (
    "SELECT id, patient_id, expires_at FROM emergency_accesses WHERE tenant_id = %s AND id = %s"
    " AND user_id = %s AND ended_at IS NULL AND expires_at > now()"
)
_PATIENT: LiteralString = (
    "SELECT row_id FROM fhir_resources WHERE tenant_id = %s AND resource_type = 'Patient'"
    " AND resource_id = %s AND NOT deleted AND row_id IS NOT NULL"
)


@dataclass(frozen=True, slots=True)
class EmergencyAccess:
    """A record that is open for the time being."""

    id: UUID
    patient_id: UUID
    expires_at: datetime


async def open_access(
    connection: AsyncConnection, tenant_id: UUID, user_id: UUID, patient_id: UUID, reason: str
) -> EmergencyAccess:
    """Open a patient's record to a user for an hour, and alert, in the caller's transaction."""
    values = {
        "tenant": tenant_id,
        "user": user_id,
        "patient": patient_id,
        "reason": reason,
        "minutes": WINDOW_MINUTES,
        "topic": ALERT_TOPIC,
    }
    row = await (await connection.execute(_OPEN, values)).fetchone()
    assert row is not None
    return EmergencyAccess(*row)


async def find_access(
    connection: AsyncConnection, tenant_id: UUID, access_id: UUID, user_id: UUID
) -> EmergencyAccess | None:
    """The user's own access, while its window lasts."""
    row = await (await connection.execute(_HOLDS, (tenant_id, access_id, user_id))).fetchone()
    return EmergencyAccess(*row) if row else None


async def patient_row(
    connection: AsyncConnection, tenant_id: UUID, resource_id: str
) -> UUID | None:
    """The patient whom FHIR knows under this id."""
    row = await (await connection.execute(_PATIENT, (tenant_id, resource_id))).fetchone()
    return row[0] if row else None
