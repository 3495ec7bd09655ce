"""EHR launch: what was open when an app was started, held for minutes and used once
(SMART App Launch 2.2, 2.0.6)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from interop.smart.authorizations import digest
from storage.database import Connection
from storage.tenancy import Tenant

LAUNCH_SECONDS = 300

_COLUMNS: LiteralString = "id, patient_id, encounter_id, need_patient_banner, intent"


@dataclass(frozen=True, slots=True)
class NewLaunch:
    """What an EHR says when it starts an app. None: for any app, for any user."""

    patient_id: UUID | None
    encounter_id: UUID | None = None
    api_client_id: UUID | None = None
    user_id: UUID | None = None
    need_patient_banner: bool = True
    intent: str | None = None


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """A launch that is under way."""

    id: UUID
    patient_id: UUID | None
    encounter_id: UUID | None
    need_patient_banner: bool
    intent: str | None


def create(connection: Connection, tenant: Tenant, launch: NewLaunch) -> str:
    """Store a launch; returns the opaque value that the app is given."""
    value = secrets.token_urlsafe(32)
    connection.execute(
        "INSERT INTO launch_contexts (tenant_id, launch_hash, api_client_id, user_id, patient_id,"
        " encounter_id, need_patient_banner, intent, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s))",
        (
            tenant.id,
            digest(value),
            launch.api_client_id,
            launch.user_id,
            launch.patient_id,
            launch.encounter_id,
            launch.need_patient_banner,
            launch.intent,
            LAUNCH_SECONDS,
        ),
    )
    return value


def find(
    connection: Connection, tenant: Tenant, value: str, api_client_id: UUID, user_id: UUID
) -> LaunchContext | None:
    """The launch, while it is unused and young and meant for this app and this user."""
    row = connection.execute(
        "SELECT " + _COLUMNS + " FROM launch_contexts WHERE tenant_id = %s AND launch_hash = %s"
        " AND used_at IS NULL AND expires_at > now()"
        " AND (api_client_id IS NULL OR api_client_id = %s)"
        " AND (user_id IS NULL OR user_id = %s)",
        (tenant.id, digest(value), api_client_id, user_id),
    ).fetchone()
    return None if row is None else LaunchContext(*row)


def use(connection: Connection, tenant: Tenant, launch_id: UUID) -> bool:
    """Spend a launch; False when it was spent meanwhile."""
    return (
        connection.execute(
            "UPDATE launch_contexts SET used_at = now()"
            " WHERE tenant_id = %s AND id = %s AND used_at IS NULL AND expires_at > now()",
            (tenant.id, launch_id),
        ).rowcount
        == 1
    )
