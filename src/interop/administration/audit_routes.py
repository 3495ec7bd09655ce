"""/tenants/{tenant}/audit-events: who did what, newest first. Reading it is audited too."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from interop.administration.desk import AtDesk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Page, page, read_key
from interop.administration.values import Code, Moment
from storage.audit_queries import AuditQuery, AuditRow, row_of
from storage.database import Connection

router = APIRouter(route_class=AdministrationRoute, tags=["audit"])


class AuditEventShown(BaseModel):
    """One event: ids only. Whose records it showed is in the FHIR AuditEvent of the same id."""

    id: UUID
    timestamp: datetime
    event_type: str
    outcome: str | None
    actor_type: str
    user_id: UUID | None
    client_id: UUID | None
    resource_type: str | None
    resource_id: str | None
    request_id: str | None
    ip_address: str | None
    user_agent: str | None
    metadata: dict[str, Any] | None


@router.get("/tenants/{tenant}/audit-events")
def list_audit_events(
    tenant: str,
    desk: AtDesk,
    limit: Limit = 50,
    after: After = None,
    event_type: Annotated[Code | None, Query()] = None,
    user_id: UUID | None = None,
    client_id: UUID | None = None,
    outcome: Literal["SUCCESS", "FAILURE"] | None = None,
    since: Annotated[Moment | None, Query(description="Of this time or later.")] = None,
    until: Annotated[Moment | None, Query(description="Before this time.")] = None,
) -> Page[AuditEventShown]:
    """The events that meet every condition."""
    query = AuditQuery(
        desk.tenant.id,
        limit + 1,
        user_id=user_id,
        api_client_id=client_id,
        event_types=[event_type] if event_type else None,
        outcomes={"SUCCESS": ("0",), "FAILURE": ("4", "8"), None: ()}[outcome],
        low=since,
        high=until,
        after=read_key(after, tuple[int, UUID]),
    )

    def work(connection: Connection) -> list[AuditRow]:
        statement, values = query.statement()
        return [row_of(row) for row in connection.execute(statement.encode(), values)]

    rows = desk.read(work, "AuditEvent", event_type="AUDIT_LOG_USED")
    return page(rows, limit, lambda one: (one.transaction, one.id), _shown)


def _shown(row: AuditRow) -> AuditEventShown:
    return AuditEventShown(
        id=row.id,
        timestamp=row.timestamp,
        event_type=row.event_type,
        outcome=row.outcome,
        actor_type=row.actor_type,
        user_id=row.user_id,
        client_id=row.api_client_id,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        request_id=row.request_id,
        ip_address=row.ip_address,
        user_agent=row.user_agent,
        metadata=row.metadata,
    )
