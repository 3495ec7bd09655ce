"""Breaking the glass: POST /t/{tenant}/emergency-access opens one patient's record for an hour.

A user with the permission `break_glass` says why; an alert goes out (outbox topic
`security.break_glass`). Requests that carry the header `Emergency-Access: <id>` then read that
patient's record, whatever units and consents say, and each of them is logged as such (security.md
E10). The user's other permissions still say which kinds of data.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.http import caller_from
from interop.access.permissions import BREAK_GLASS
from interop.access.principals import Caller
from interop.errors import BadRequest, Forbidden, NotFound, ServerError, UnsupportedMediaType
from storage.emergency import EmergencyAccess, open_access, patient_row

if TYPE_CHECKING:
    from interop.services import Services

EVENT = "EMERGENCY_ACCESS"
MIN_REASON, MAX_REASON, MAX_BODY = 10, 1000, 8 * 1024
NO_STORE = {"Cache-Control": "private, no-store", "Vary": "Authorization"}
_PATIENT = re.compile(r"(?:Patient/)?([A-Za-z0-9\-.]{1,64})")


async def break_glass(request: Request) -> Response:
    """POST {"patient": "Patient/<id>", "reason": "..."}: 201 with the id to send from now on."""
    caller: Caller | None = None
    try:
        caller = await caller_from(request)
        access = await _opened(request, caller)
    except ServerError as error:
        if caller is not None:
            await _audit_refusal(request, caller, error)
        body = {"error": error.issue_code, "message": error.diagnostics}
        return JSONResponse(body, error.http_status, {**NO_STORE, **error.headers})
    answer = {
        "id": str(access.id),
        "expires_at": access.expires_at.isoformat(),
        "send": {"Emergency-Access": str(access.id)},
    }
    return JSONResponse(answer, 201, NO_STORE)


async def _opened(request: Request, caller: Caller) -> EmergencyAccess:
    if caller.user_id is None or caller.grants is None or not caller.grants.holds(BREAK_GLASS):
        raise Forbidden(f"opening a record in an emergency needs a user's permission {BREAK_GLASS}")
    if not caller.scopes.permits("Patient", "r"):
        raise Forbidden("the token's scopes do not permit 'r' on Patient")
    resource_id, reason = await _asked(request)
    services: Services = request.app.state.services
    tenant_id = caller.tenant.id
    async with services.database.async_connection(tenant_id) as connection:
        patient_id = await patient_row(connection, tenant_id, resource_id)
        if patient_id is None:
            raise NotFound
        access = await open_access(connection, tenant_id, caller.user_id, patient_id, reason)
        audit = audit_parameters(
            caller,
            EVENT,
            "Patient",
            resource_id,
            metadata={"emergency_access": str(access.id)},
            patient_id=patient_id,
        )
        await connection.execute(INSERT_AUDIT, audit)
    return access


async def _asked(request: Request) -> tuple[str, str]:
    """The patient's FHIR id and the reason. Raises BadRequest."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"Content-Type {media_type[:64]!r}; accepted: application/json")
    given = b""
    async for chunk in request.stream():
        given += chunk
        if len(given) > MAX_BODY:
            raise BadRequest(f"the body may have {MAX_BODY} bytes at most")
    expected = 'expected {"patient": "Patient/<id>", "reason": "<why>"}'
    try:
        body: Any = json.loads(given)
    except (ValueError, RecursionError):
        raise BadRequest(f"the body is not JSON; {expected}") from None
    if not isinstance(body, dict) or not body.keys() <= {"patient", "reason"}:
        raise BadRequest(expected)
    patient, reason = body.get("patient"), body.get("reason")
    named = _PATIENT.fullmatch(patient) if isinstance(patient, str) else None
    if named is None or not isinstance(reason, str) or "\x00" in reason:
        raise BadRequest(expected)
    if not MIN_REASON <= len(reason.strip()) <= MAX_REASON:
        raise BadRequest(f"a reason of {MIN_REASON} to {MAX_REASON} characters is required")
    return named[1], reason.strip()


async def _audit_refusal(request: Request, caller: Caller, error: ServerError) -> None:
    services: Services = request.app.state.services
    metadata = {"status": error.http_status}
    audit = audit_parameters(caller, EVENT, "Patient", outcome="FAILURE", metadata=metadata)
    async with services.database.async_connection(caller.tenant.id) as connection:
        await connection.execute(INSERT_AUDIT, audit)


def routes() -> list[Route]:
    return [Route("/t/{tenant}/emergency-access", break_glass, methods=["POST"])]
