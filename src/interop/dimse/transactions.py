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

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from storage.audit import INSERT_AUDIT
from storage.database import Database
from storage.statements import Statement

logger = logging.getLogger(__name__)

_QUEUE_ROWS = 10_000
_BATCH_ROWS = 500
# Rows wait so long for others: one commit for each query would cost more than the query.
_GATHER_SECONDS = 0.05

# Many rows at the price of one: they come as one JSON value (`log_values`).
INSERT_TRANSACTIONS: LiteralString = (
    "INSERT INTO dicom_transactions (tenant_id, direction, operation, calling_ae_title,"
    " called_ae_title, remote_address, sop_class_uid, sop_instance_uid, study_instance_uid,"
    " transfer_syntax_uid, status_code, status, message, byte_size, started_at, completed_at)"
    " SELECT %(tenant_id)s, r.* FROM json_to_recordset(%(rows)s::json) AS r(direction text,"
    " operation text, calling_ae_title text, called_ae_title text, remote_address text,"
    " sop_class_uid text, sop_instance_uid text, study_instance_uid text,"
    " transfer_syntax_uid text, status_code int, status text, message text, byte_size bigint,"
    " started_at timestamptz, completed_at timestamptz)"
)
_ENTER: LiteralString = "SELECT enter_tenant(%(tenant_id)s)"


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
    completed_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def log_values(tenant_id: UUID, rows: Iterable[Transaction]) -> dict[str, object]:
    """Values for INSERT_TRANSACTIONS. PostgreSQL's text has no NUL, whatever a peer sends."""
    written = [
        {name: storable(getattr(row, name)) for name in row.__dataclass_fields__} for row in rows
    ]
    return {"tenant_id": tenant_id, "rows": orjson.dumps(written).decode()}


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
        self._is_closing = threading.Event()
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
        self._is_closing.set()
        self._queue.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch = [self._queue.get()]
            self._is_closing.wait(_GATHER_SECONDS)
            while len(batch) < _BATCH_ROWS and not self._queue.empty():
                batch.append(self._queue.get())
            is_open = None not in batch
            self._write(entry for entry in batch if entry is not None)

    def _write(self, gathered: Iterable[Row]) -> None:
        by_tenant: dict[UUID, list[Row]] = defaultdict(list)
        for row in gathered:
            by_tenant[row.tenant_id].append(row)
        for tenant_id, rows in by_tenant.items():
            transactions = [row for row in rows if isinstance(row, Transaction)]
            batch = [Statement(_ENTER, {"tenant_id": tenant_id}, keeps_plan=True)]
            if transactions:
                values = log_values(tenant_id, transactions)
                batch.append(Statement(INSERT_TRANSACTIONS, values, keeps_plan=True))
            batch += [
                Statement(INSERT_AUDIT, row.values, keeps_plan=True)
                for row in rows
                if isinstance(row, AuditRow)
            ]
            try:
                self._database.run_blocking(tenant_id, *batch)
            except (psycopg.Error, PoolTimeout) as error:
                logger.error(
                    "transactions_lost", extra={"rows": len(rows), "error": type(error).__name__}
                )
