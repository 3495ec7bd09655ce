"""Who changes a tenant's configuration, and the audit row that each change leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does it, as the audit trail names them."""

    name: str
    actor_type: str = "SYSTEM"  # audit_events.actor_type
    user_id: UUID | None = None
    api_client_id: UUID | None = None
    request_id: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None


# Whoever works at the machine with the command line.
OPERATOR = Actor("operator")


def record_change(
    connection: Connection,
    tenant_id: UUID,
    subject: str,
    subject_id: str | None,
    changes: Mapping[str, Any],
    actor: Actor,
    *,
    event_type: str = "CONFIG_CHANGED",
) -> None:
    """Write the audit row of a change, in the transaction of the change."""
    connection.execute(
        INSERT_AUDIT,
        system_audit(
            tenant_id,
            event_type,
            subject,
            subject_id,
            metadata={"by": actor.name, "changes": dict(changes)},
            actor_type=actor.actor_type,
            user_id=actor.user_id,
            api_client_id=actor.api_client_id,
            request_id=actor.request_id,
            ip_address=actor.ip_address,
            user_agent=actor.user_agent,
        ),
    )
