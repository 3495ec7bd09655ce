"""One `audit_events` row for each interaction, in the transaction of the work itself.

Rows hold ids, and of a search its query (base64, as IHE BALP has it); never what was found. Reads
may set synchronous_commit off for their transaction: the row is written before the bytes leave and
cannot be skipped, and only a crash of the database within the next moments can lose it. Where data
of a known patient was shown or changed, `phi_access_logs` gets its row by the same call
(migrations/audit.sql). docs/audit.md has the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import orjson
import psycopg

from storage.audit_events import phi_action

INSERT_AUDIT: LiteralString = (
    "SELECT write_audit_event(%(tenant_id)s, jsonb_build_object("
    "'user_id', %(user_id)s::text, 'api_client_id', %(api_client_id)s::text,"
    " 'actor_type', %(actor_type)s::text, 'event_type', %(event_type)s::text,"
    " 'resource_type', %(resource_type)s::text, 'resource_id', %(resource_id)s::text,"
    " 'outcome', %(outcome)s::text, 'request_id', %(request_id)s::text,"
    " 'ip_address', %(ip_address)s::text, 'user_agent', %(user_agent)s::text,"
    " 'metadata', %(metadata)s::jsonb, 'phi_action', %(phi_action)s::text,"
    " 'patient_id', %(patient_id)s::text, 'purpose_of_use', %(purpose_of_use)s::text,"
    " 'is_break_glass', %(is_break_glass)s::boolean,"
    " 'break_glass_reason', %(break_glass_reason)s::text))"
)

# A connection of the application may write the log; nothing else of it (migrations/audit.sql).
WRITERS = ("write_audit_event", "write_phi_accesses", "write_audit_events")


def system_audit(
    tenant_id: UUID,
    event_type: str,
    resource_type: str | None = None,
    resource_id: str | None = None,
    *,
    outcome: str = "SUCCESS",
    metadata: Mapping[str, Any] | None = None,
    actor_type: str = "SYSTEM",
    user_id: UUID | None = None,
    api_client_id: UUID | None = None,
    request_id: str | None = None,
    ip_address: str | None = None,
    user_agent: str | None = None,
    patient_id: UUID | None = None,
    purpose_of_use: str | None = None,
    break_glass_reason: str | None = None,
) -> dict[str, Any]:
    """The bound values of INSERT_AUDIT where no HTTP caller stands behind the work.

    `break_glass_reason` says that the access was an emergency's. An event that failed showed
    nobody's data.
    """
    return {
        "tenant_id": tenant_id,
        "user_id": user_id,
        "api_client_id": api_client_id,
        "actor_type": actor_type,
        "event_type": event_type,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "outcome": outcome,
        "request_id": request_id,
        "ip_address": ip_address,
        "user_agent": user_agent[:256] if user_agent else None,
        "metadata": orjson.dumps(dict(metadata or {})).decode(),
        "phi_action": phi_action(event_type) if outcome == "SUCCESS" else None,
        "patient_id": patient_id,
        "purpose_of_use": purpose_of_use,
        "is_break_glass": break_glass_reason is not None,
        "break_glass_reason": break_glass_reason,
    }


@dataclass(slots=True)
class Interaction:
    """One request of one caller, which has exactly one row.

    What fails after its row was written must not get a second one for the refusal.
    """

    is_audited: bool = False


_interaction: ContextVar[Interaction | None] = ContextVar("interaction", default=None)


def begin_interaction() -> Interaction:
    """Begin the interaction of this task, and of the threads that it starts."""
    interaction = Interaction()
    _interaction.set(interaction)
    return interaction


def mark_audited() -> None:
    """The row of the running interaction is written and committed."""
    interaction = _interaction.get()
    if interaction is not None:
        interaction.is_audited = True


def is_audit_failure(error: psycopg.Error) -> bool:
    """Whether a statement failed for its audit row: the log is full, locked or broken.

    The work must not be done unseen then (security.md G4).
    """
    context = error.diag.context or ""
    return any(f"function {writer}(" in context for writer in WRITERS)
