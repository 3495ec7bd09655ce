"""The audit row of a request that nobody stands behind: no token, a wrong one, another tenant's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import Request

from interop.access.audit import INSERT_AUDIT, system_audit
from interop.access.http import request_id
from interop.errors import ServerError

if TYPE_CHECKING:
    from interop.services import Services

logger = logging.getLogger(__name__)

EVENT = "ACCESS_UNAUTHENTICATED"


async def audit_stranger(request: Request, error: ServerError) -> None:
    """Write the row in the tenant of the URL, where there is one.

    Meant to run after the answer was sent: what it takes must not tell a stranger which tenants
    exist. Nothing of a patient was shown, so a log that cannot be written is for the operator.
    """
    services: Services = request.app.state.services
    try:
        tenant = await services.tenants.aby_slug(request.path_params.get("tenant", ""))
        if tenant is None:
            return
        parameters = system_audit(
            tenant.id,
            EVENT,
            outcome="FAILURE",
            actor_type="API_CLIENT",
            metadata={"status": error.http_status, "method": request.method},
            request_id=getattr(request.state, "request_id", None) or request_id(request),
            ip_address=request.client.host if request.client else None,
            user_agent=request.headers.get("user-agent"),
        )
        async with services.database.async_connection(tenant.id) as connection:
            await connection.execute(INSERT_AUDIT, parameters)
    except (psycopg.Error, PoolTimeout):
        logger.exception("refusal_not_audited")
