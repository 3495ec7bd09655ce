"""The one place where an exception becomes a DICOMweb answer (PS3.18 8.5, 8.6).

The body is JSON whose members a DICOM JSON reader can take too: `status` and `error` for people and
scripts, and FailureReason (0008,1197) where a number of PS3.18 Annex I applies. Data of another
tenant and data that does not exist give the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from uuid import uuid4

import orjson
import psycopg
from psycopg_pool import PoolTimeout
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from interop.access.audit import begin_interaction, is_audit_failure
from interop.access.refusals import audit_refused_imaging
from interop.dicom.failures import Failure
from interop.errors import NotFound, ServerError, Unavailable, Unprocessable
from storage.objects import ObjectNotFound, ObjectStoreUnavailable

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
SECURITY_HEADERS = {
    "Cache-Control": "private, no-store",
    "Vary": "Authorization, Accept",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
RETRY_AFTER_SECONDS = "5"


def translated(handler: Handler) -> Handler:
    """Wrap a handler so that whatever it raises becomes a response."""

    async def answer(request: Request) -> Response:
        interaction = begin_interaction()
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            response = error_response(error)
            if not interaction.is_audited:
                known = as_server_error(error) or ServerError()
                response.background = BackgroundTask(audit_refused_imaging, request, known)
            return response

    return answer


def error_response(error: Exception) -> Response:
    """Translate any exception; one that is not known gives an incident id and no more."""
    known = as_server_error(error)
    if known is None:
        incident = uuid4().hex
        logger.exception("dicomweb_failure", extra={"incident": incident}, exc_info=error)
        return _json(500, {"status": 500, "error": "internal error", "incident": incident}, {})
    headers = dict(known.headers)
    if known.http_status in (429, 503):
        headers.setdefault("Retry-After", RETRY_AFTER_SECONDS)
    body: dict[str, object] = {"status": known.http_status, "error": known.diagnostics}
    cause = known.__cause__
    if isinstance(cause, Failure):
        body["00081197"] = {"vr": "US", "Value": [cause.reason]}
    return _json(known.http_status, body, headers)


def as_server_error(error: Exception) -> ServerError | None:
    """The ServerError that stands for `error`, or None for what nobody foresaw."""
    if isinstance(error, ServerError):
        return error
    if isinstance(error, Failure):
        refused = Unprocessable(error.message)
        refused.__cause__ = error
        return refused
    if isinstance(error, ObjectStoreUnavailable | PoolTimeout):
        return Unavailable()
    if isinstance(error, ObjectNotFound):
        # The row exists and its bytes do not: they were deleted a moment ago, or worse.
        logger.error("stored_object_missing", extra={"error": str(error)})
        return NotFound()
    if isinstance(error, psycopg.errors.QueryCanceled):
        return Unavailable("the query took too long; narrow it, for instance by StudyDate")
    if isinstance(error, psycopg.OperationalError):
        return Unavailable()
    if isinstance(error, psycopg.Error) and is_audit_failure(error):
        # Nothing may be shown that is not written down (security.md G4).
        logger.error("audit_unavailable", exc_info=error)
        return Unavailable()
    return None


def _json(status: int, body: dict[str, object], headers: dict[str, str]) -> Response:
    return Response(
        orjson.dumps(body),
        status_code=status,
        media_type="application/json",
        headers=SECURITY_HEADERS | headers,
    )
