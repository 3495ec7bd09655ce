"""Which version of a model answers for a patient: champion, canary by percentage, shadows.

The bucket depends on tenant, patient and deployment only, so a patient stays with one version
for as long as the deployment stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from storage.database import Connection

BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Deployment:
    """An active deployment of one version; `is_shadow` results are never shown."""

    id: UUID
    tenant_id: UUID | None
    model_version_id: UUID
    status: str
    percentage: int
    is_shadow: bool


def active_deployments(connection: Connection, tenant_id: UUID, model_id: UUID) -> list[Deployment]:
    """The tenant's own deployments of a model first, then the platform's, newest first."""
    rows = connection.execute(
        "SELECT d.id, d.tenant_id, d.model_version_id, d.status, d.rollout_percentage, d.is_shadow"
        " FROM ai_model_deployments d JOIN ai_model_versions v ON v.id = d.model_version_id"
        " WHERE v.model_id = %(model_id)s AND d.status <> 'DISABLED'"
        " AND (d.tenant_id = %(tenant_id)s OR d.tenant_id IS NULL)"
        " ORDER BY d.tenant_id NULLS LAST, d.created_at DESC, d.id",
        {"model_id": model_id, "tenant_id": tenant_id},
    ).fetchall()
    return [Deployment(*row) for row in rows]


def choose(
    deployments: Sequence[Deployment], tenant_id: UUID, patient_id: UUID
) -> Deployment | None:
    """The deployment whose results count for this patient: a canary that takes it, or the champion.

    A tenant's own champion goes before the platform's.
    """
    visible = [d for d in deployments if not d.is_shadow]
    for canary in (d for d in visible if d.status == "CANARY"):
        if bucket(tenant_id, patient_id, canary.id) < canary.percentage * BUCKETS // 100:
            return canary
    return next((d for d in visible if d.status == "ROLLED_OUT"), None)


def bucket(tenant_id: UUID, patient_id: UUID, deployment_id: UUID) -> int:
    """0 to 9,999, evenly spread and the same at every call."""
    digest = hashlib.sha256(f"{tenant_id}|{patient_id}|{deployment_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS
