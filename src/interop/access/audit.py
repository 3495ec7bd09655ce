"""The audit row of an interaction of an authenticated caller (see storage.audit)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from interop.access.principals import Caller
from storage.audit import (
    INSERT_AUDIT,
    Interaction,
    begin_interaction,
    is_audit_failure,
    mark_audited,
    system_audit,
)

__all__ = [
    "INSERT_AUDIT",
    "Interaction",
    "audit_parameters",
    "begin_interaction",
    "is_audit_failure",
    "mark_audited",
    "system_audit",
]


def audit_parameters(
    caller: Caller,
    event_type: str,
    resource_type: str | None = None,
    resource_id: str | None = None,
    *,
    outcome: str = "SUCCESS",
    metadata: Mapping[str, Any] | None = None,
    patient_id: UUID | None = None,
) -> dict[str, Any]:
    """The bound values of INSERT_AUDIT for one interaction of `caller`."""
    return system_audit(
        caller.tenant.id,
        event_type,
        resource_type,
        resource_id,
        outcome=outcome,
        metadata=metadata,
        actor_type=caller.actor_type,
        user_id=caller.user_id or (caller.actor_id if caller.actor_type == "USER" else None),
        api_client_id=caller.client_id
        or (caller.actor_id if caller.actor_type == "API_CLIENT" else None),
        request_id=caller.request_id,
        ip_address=caller.remote_address,
        user_agent=caller.user_agent,
        patient_id=patient_id,
        # v3-ActReason: treatment is what a clinical server is for, unless somebody broke the glass.
        purpose_of_use="BTG" if caller.emergency else None,
        break_glass_reason=str(caller.emergency) if caller.emergency else None,
    )
