"""One `audit_events` row for each interaction, in the transaction of the work itself.

Rows hold ids, never names or values (security.md G). Reads may set synchronous_commit off for
their transaction: the row is written before the bytes leave and cannot be skipped, and only a
crash of the database within the next moments can lose it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, LiteralString
from uuid import UUID

INSERT_AUDIT: LiteralString = (
    "INSERT INTO audit_events (tenant_id, user_id, api_client_id, actor_type, event_type,"
    " resource_type, resource_id, outcome, request_id, ip_address, user_agent, metadata)"
    " VALUES (%(tenant_id)s, %(user_id)s, %(api_client_id)s, %(actor_type)s, %(event_type)s,"
    " %(resource_type)s, %(resource_id)s, %(outcome)s, %(request_id)s, %(ip_address)s,"
    " %(user_agent)s, %(metadata)s)"
)


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
) -> dict[str, Any]:
    """The bound values of INSERT_AUDIT where no HTTP caller stands behind the work."""
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
        "metadata": json.dumps(dict(metadata or {})),
    }
