"""FHIR requests that are answered later: their rows, which are the truth, and the jobs of them.

What is asked and answered is sealed. Times and ids are all that a job or a log holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, LiteralString
from uuid import UUID, uuid4

from storage.database import Connection, vault_of
from storage.encryption.columns import place
from storage.jobs import defer

TASK: Final = "fhir_async_request"
FORGET_TASK: Final = "forget_fhir_async_request"
QUEUE: Final = "fhir_async"
ATTEMPTS: Final = 3
# How long a request and its answer are kept.
KEEP: Final = timedelta(hours=6)

_INSERT: LiteralString = (
    "INSERT INTO fhir_async_requests (tenant_id, id, client_id, user_id, patient_id, request,"
    " expires_at) VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked; nobody else is told of the answer."""

    client_id: UUID | None
    user_id: UUID | None
    patient_id: UUID | None


@dataclass(frozen=True, slots=True)
class Answer:
    """How far a request is. `body` is None until it is done."""

    is_done: bool
    expires_at: datetime
    status: int | None = None
    body: str | None = None


def accept(connection: Connection, tenant_id: UUID, asker: Asker, request: str) -> UUID:
    """Keep a request and queue its job; the id under which the answer can be asked for."""
    request_id = uuid4()
    expires_at = datetime.now(UTC) + KEEP
    sealed = _sealed(connection, tenant_id, request_id, "request", request)
    values = (tenant_id, request_id, asker.client_id, asker.user_id, asker.patient_id)
    connection.execute(_INSERT, (*values, sealed, expires_at))
    arguments = {"tenant_id": str(tenant_id), "request_id": str(request_id)}
    defer(connection, TASK, arguments, queue=QUEUE)
    defer(connection, FORGET_TASK, arguments, queue=QUEUE, schedule_at=expires_at)
    return request_id


def begin(connection: Connection, tenant_id: UUID, request_id: UUID) -> tuple[str, bool] | None:
    """The request, and whether somebody had begun it and never ended; None: there is no more to do.

    It is marked as running.
    """
    row = connection.execute(
        "SELECT request, status FROM fhir_async_requests"
        " WHERE tenant_id = %s AND id = %s AND status <> 'DONE' FOR UPDATE",
        (tenant_id, request_id),
    ).fetchone()
    if row is None:
        return None
    connection.execute(
        "UPDATE fhir_async_requests SET status = 'RUNNING' WHERE tenant_id = %s AND id = %s",
        (tenant_id, request_id),
    )
    return _opened(connection, tenant_id, request_id, "request", row[0]), row[1] == "RUNNING"


def finish(
    connection: Connection, tenant_id: UUID, request_id: UUID, status: int, body: str
) -> bool:
    """Keep the answer; False where the request was cancelled or answered meanwhile."""
    sealed = _sealed(connection, tenant_id, request_id, "response", body)
    done = connection.execute(
        "UPDATE fhir_async_requests SET status = 'DONE', response_status = %s, response = %s"
        " WHERE tenant_id = %s AND id = %s AND status = 'RUNNING'",
        (status, sealed, tenant_id, request_id),
    )
    return done.rowcount == 1


def find(connection: Connection, tenant_id: UUID, request_id: UUID, asker: Asker) -> Answer | None:
    """How far the request of `asker` is; None where there is none of theirs."""
    row = connection.execute(
        "SELECT status, expires_at, response_status, response FROM fhir_async_requests"
        " WHERE tenant_id = %s AND id = %s AND expires_at > now()"
        " AND client_id IS NOT DISTINCT FROM %s AND user_id IS NOT DISTINCT FROM %s"
        " AND patient_id IS NOT DISTINCT FROM %s",
        (tenant_id, request_id, asker.client_id, asker.user_id, asker.patient_id),
    ).fetchone()
    if row is None:
        return None
    if row[0] != "DONE":
        return Answer(False, row[1])
    body = _opened(connection, tenant_id, request_id, "response", row[3])
    return Answer(True, row[1], row[2], body)


def forget(connection: Connection, tenant_id: UUID, request_id: UUID) -> None:
    """Remove a request with its answer; one that has not ended is cancelled by that."""
    connection.execute(
        "DELETE FROM fhir_async_requests WHERE tenant_id = %s AND id = %s", (tenant_id, request_id)
    )


def _sealed(
    connection: Connection, tenant_id: UUID, request_id: UUID, column: str, text: str
) -> str:
    where = place("fhir_async_requests", column, str(request_id))
    return vault_of(connection).seal(tenant_id, where, text, connection)


def _opened(
    connection: Connection, tenant_id: UUID, request_id: UUID, column: str, sealed: str
) -> str:
    where = place("fhir_async_requests", column, str(request_id))
    return vault_of(connection).open(tenant_id, where, sealed, connection)
