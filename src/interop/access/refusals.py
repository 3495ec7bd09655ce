"""The audit row of a request that was refused before it could write its own.

Whoever stands behind it, or nobody does: no token, a wrong one, another tenant's.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import Request

from interop.access.audit import INSERT_AUDIT, audit_parameters, system_audit
from interop.access.http import request_id
from interop.access.principals import Caller
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


async def audit_refused_imaging(request: Request, error: ServerError) -> None:
    """The same for DICOMweb: in the caller's name where `caller_from` found one."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:
        await audit_stranger(request, error)
        return
    services: Services = request.app.state.services
    parameters = audit_parameters(
        caller,
        _imaging_event(request),
        "ImagingStudy",
        outcome="FAILURE",
        metadata={"status": error.http_status, "method": request.method},
    )
    try:
        async with services.database.async_connection(caller.tenant.id) as connection:
            await connection.execute(INSERT_AUDIT, parameters)
    except (psycopg.Error, PoolTimeout):
        logger.exception("refusal_not_audited")


_BY_WORD = {
    "studies": "IMAGING_SEARCHED",
    "series": "IMAGING_SEARCHED",
    "instances": "IMAGING_SEARCHED",
    "metadata": "IMAGING_METADATA_VIEWED",
    "rendered": "IMAGING_RENDERED",
    "thumbnail": "IMAGING_RENDERED",
    "changefeed": "IMAGING_CHANGES_LISTED",
    "latest": "IMAGING_CHANGES_LISTED",
}


def _imaging_event(request: Request) -> str:
    """What the URL asks for, by its words (PS3.18 Table 10.1-1)."""
    if request.method == "POST":
        return "IMAGING_STORE_REFUSED"
    if request.method == "DELETE":
        return "IMAGING_DELETED"
    path: str = request.scope["path"]
    if "/bulkdata/" in path:
        return "IMAGING_BULK_DATA_RETRIEVED"
    word = path.rstrip("/").rpartition("/")[2]
    if word not in _BY_WORD and "/frames/" in path:
        return "IMAGING_FRAMES_RETRIEVED"
    return _BY_WORD.get(word, "IMAGING_RETRIEVED")
