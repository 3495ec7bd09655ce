"""Rows for what ingest does not see: C-ECHO, associations, refusals, broken transfers.

`dicom_transactions` and `audit_events`, written in batches by a thread of its own, so that no
association ever waits for them. What does not fit into the queue, or meets a database that is
down, is counted in the log and lost: nothing was read or stored there (what is, is audited in
its own transaction).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from storage.audit import INSERT_AUDIT
from storage.database import Database

logger = logging.getLogger(__name__)

_QUEUE_ROWS = 10_000
_BATCH_ROWS = 500

INSERT_TRANSACTION: LiteralString = (
    "INSERT INTO dicom_transactions (tenant_id, direction, operation, calling_ae_title,"
    " called_ae_title, remote_address, sop_class_uid, sop_instance_uid, study_instance_uid,"
    " transfer_syntax_uid, status_code, status, message, byte_size, started_at, completed_at)"
    " VALUES (%(tenant_id)s, %(direction)s, %(operation)s, %(calling_ae_title)s,"
    " %(called_ae_title)s, %(remote_address)s, %(sop_class_uid)s, %(sop_instance_uid)s,"
    " %(study_instance_uid)s, %(transfer_syntax_uid)s, %(status_code)s, %(status)s, %(message)s,"
    " %(byte_size)s, %(started_at)s, %(completed_at)s)"
)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One thing that a peer did or tried, or that we did to one (OUTBOUND)."""

    tenant_id: UUID
    operation: str
    calling_ae_title: str
    called_ae_title: str
    remote_address: str
    status_code: int
    status: str
    message: str | None = None
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    transfer_syntax_uid: str | None = None
    byte_size: int | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    direction: str = "INBOUND"

    def parameters(self) -> dict[str, object]:
        """Values for the INSERT. PostgreSQL's text has no NUL, whatever a peer sends."""
        values: dict[str, object] = {
            name: storable(getattr(self, name)) for name in self.__dataclass_fields__
        }
        values["completed_at"] = datetime.now(UTC)
        return values


def storable(value: Any) -> Any:
    """The value as PostgreSQL takes it."""
    return value.replace("\0", "�") if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of `audit_events`, as storage.audit makes it."""

    tenant_id: UUID
    values: dict[str, Any]


Row = Transaction | AuditRow


class TransactionRecorder:
    """Takes transactions from any thread; `close` writes what is left."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.Queue[Row | None] = queue.Queue(_QUEUE_ROWS)
        self._thread = threading.Thread(target=self._run, name="dicom-transactions", daemon=True)
        self._thread.start()

    def record(self, row: Row) -> None:
        """Queue one row; never blocks."""
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            what = row.operation if isinstance(row, Transaction) else row.values["event_type"]
            logger.warning("transaction_dropped", extra={"operation": what})

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch = [self._queue.get()]
            while len(batch) < _BATCH_ROWS and not self._queue.empty():
                batch.append(self._queue.get())
            is_open = None not in batch
            self._write(entry for entry in batch if entry is not None)

    def _write(self, batch: Iterable[Row]) -> None:
        by_tenant: dict[UUID, list[Row]] = defaultdict(list)
        for row in batch:
            by_tenant[row.tenant_id].append(row)
        for tenant_id, rows in by_tenant.items():
            transactions = [row.parameters() for row in rows if isinstance(row, Transaction)]
            audited = [row.values for row in rows if isinstance(row, AuditRow)]
            try:
                with (
                    self._database.connection(tenant_id) as connection,
                    connection.cursor() as cursor,
                ):
                    written = ((INSERT_TRANSACTION, transactions), (INSERT_AUDIT, audited))
                    for statement, bound in written:
                        if bound:
                            cursor.executemany(statement, bound)
            except (psycopg.Error, PoolTimeout) as error:
                logger.error(
                    "transactions_lost", extra={"rows": len(rows), "error": type(error).__name__}
                )
