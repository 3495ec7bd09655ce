"""Who changes a tenant's configuration, and the audit row that each change leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString
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


# Those who change the same tenant's configuration wait for each other, by whatever door they come,
# so that comparing what was seen with what is there and writing are one step.
_ONE_AT_A_TIME: LiteralString = (
    "SELECT pg_advisory_xact_lock(hashtextextended('administration ' || %s::text, 0))"
)

# Whoever works at the machine with the command line.
OPERATOR = Actor("operator")


def take_turns(connection: Connection, tenant_id: UUID) -> None:
    """Wait for whoever changes the tenant's configuration now, and keep others waiting.

    Until the end of the transaction; call it before anything is read that is compared.
    """
    connection.execute(_ONE_AT_A_TIME, (tenant_id,))


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
