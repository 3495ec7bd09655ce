"""Errors of /api/v1 as problem details (RFC 9457): what was wrong, where, what is accepted."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from interop.access.audit import is_audit_failure
from interop.dimse import registry
from interop.errors import (
    BadRequest,
    Conflict,
    MethodNotAllowed,
    NotFound,
    ServerError,
    Unavailable,
)
from interop.identity.passwords import PasswordRefused
from interop.smart.clients import InvalidRegistration
from storage.encryption import EncryptionError
from storage.quotas import QuotaExceeded
from storage.tenants import deletion
from storage.tenants.configuration import InvalidConfiguration
from storage.tenants.lifecycle import WrongState

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    428: "Precondition Required",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    where: str = Field(description="Where it stands, e.g. body.email or query.limit.")
    what: str
    accepted: str | None = Field(None, description="What would be accepted.")


class HoldShown(BaseModel):
    """A legal hold: what may not be deleted, and why."""

    id: UUID
    entity_type: str
    entity_id: UUID
    reason: str
    reference: str | None
    placed_at: datetime


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    errors: list[Fault] | None = None
    holds: list[HoldShown] | None = Field(None, description="The legal holds that forbid it.")


class HeldByLaw(Conflict):
    """Legal holds forbid it until they are released."""

    def __init__(self, holds: list[HoldShown]) -> None:
        self.holds = holds
        super().__init__()


class InvalidRequest(BadRequest):
    """The request does not have the form that this operation takes."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__()


def server_error(error: Exception) -> ServerError:
    """Whatever was raised, as one of this server's errors."""
    if isinstance(error, ServerError):
        return error
    if isinstance(error, RequestValidationError):
        return InvalidRequest([_fault(one) for one in error.errors()])
    if isinstance(error, HTTPException):
        return _of_framework(error)
    for kinds, made in _TRANSLATED:
        if isinstance(error, kinds):
            return made(str(error))
    return _of_database(error) or _incident(error)


def response(error: ServerError) -> Response:
    """The answer that says so."""
    problem = Problem(
        title=TITLES.get(error.http_status, "Error"),
        status=error.http_status,
        detail=error.diagnostics,
        errors=error.faults if isinstance(error, InvalidRequest) else None,
        holds=error.holds if isinstance(error, HeldByLaw) else None,
    )
    return Response(
        problem.model_dump_json(exclude_none=True),
        error.http_status,
        error.headers,
        media_type=MEDIA_TYPE,
    )


_TRANSLATED: tuple[tuple[tuple[type[Exception], ...], type[ServerError]], ...] = (
    (
        (
            registry.ApplicationEntityExists,
            WrongState,
            QuotaExceeded,
            deletion.HeldByLaw,
            deletion.NotDeletable,
        ),
        Conflict,
    ),
    ((registry.UnknownApplicationEntity,), NotFound),
    (
        (
            registry.InvalidApplicationEntity,
            InvalidConfiguration,
            InvalidRegistration,
            PasswordRefused,
        ),
        BadRequest,
    ),
    ((EncryptionError, PoolTimeout), Unavailable),
)


def _fault(error: Any) -> Fault:
    # The value itself is not repeated: it may be a secret.
    context = {k: v for k, v in error.get("ctx", {}).items() if k != "error"}
    accepted = ", ".join(f"{name} {value}" for name, value in context.items())
    where = ".".join(str(part) for part in error["loc"])
    return Fault(where=where, what=error["msg"], accepted=accepted or None)


def _of_framework(error: HTTPException) -> ServerError:
    headers = dict(error.headers or {})
    if error.status_code == 405:
        return MethodNotAllowed(headers=headers)
    return NotFound() if error.status_code == 404 else BadRequest(headers=headers)


def _of_database(error: Exception) -> ServerError | None:
    if not isinstance(error, psycopg.Error):
        return None
    if is_audit_failure(error):
        logger.error("audit_not_written", exc_info=error)
        return Unavailable("the audit log cannot be written, so nothing is shown or changed")
    if isinstance(error, psycopg.errors.ForeignKeyViolation):
        return Conflict("something that this names is not of this organization, or has just ended")
    if isinstance(error, psycopg.errors.UniqueViolation | psycopg.errors.SerializationFailure):
        return Conflict("somebody else has just done the same; look again")
    if isinstance(error, psycopg.OperationalError):
        logger.error("database_unavailable", exc_info=error)
        return Unavailable()
    return None


def _incident(error: Exception) -> ServerError:
    incident = uuid4().hex
    logger.error("request_failed", exc_info=error, extra={"incident": incident})
    return ServerError(f"the server could not do what was asked; incident {incident}")
