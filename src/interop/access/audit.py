"""The audit row of an interaction of an authenticated caller (see storage.audit)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from interop.access.principals import Caller
from interop.errors import ServerError
from storage.audit import INSERT_AUDIT, is_audit_failure, system_audit

__all__ = [
    "INSERT_AUDIT",
    "audit_parameters",
    "audited",
    "is_audit_failure",
    "is_audited",
    "system_audit",
]

Refusal = TypeVar("Refusal", bound=ServerError)


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
    emergency: UUID | None = getattr(caller, "emergency", None)
    user_id: UUID | None = getattr(caller, "user_id", None)
    client_id: UUID | None = getattr(caller, "client_id", None)
    return system_audit(
        caller.tenant.id,
        event_type,
        resource_type,
        resource_id,
        outcome=outcome,
        metadata=metadata,
        actor_type=caller.actor_type,
        user_id=user_id or (caller.actor_id if caller.actor_type == "USER" else None),
        api_client_id=client_id or (caller.actor_id if caller.actor_type == "API_CLIENT" else None),
        request_id=caller.request_id,
        ip_address=caller.remote_address,
        user_agent=caller.user_agent,
        patient_id=patient_id,
        # v3-ActReason: treatment is what a clinical server is for, unless somebody broke the glass.
        purpose_of_use="BTG" if emergency else None,
        break_glass_reason=str(emergency) if emergency else None,
    )


def audited(error: Refusal) -> Refusal:
    """Say of a refusal that its audit row is written: the statement that found out wrote it."""
    error.__dict__["is_audited"] = True
    return error


def is_audited(error: ServerError) -> bool:
    return bool(error.__dict__.get("is_audited", False))
