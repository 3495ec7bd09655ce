"""Rows of `dicom_transactions` for what ingest does not see: C-ECHO, refusals, broken transfers.

Written in batches by a thread of its own, so that no association ever waits for them. What does
not fit into the queue, or meets a database that is down, is counted in the log and lost: these
rows are an operator's record, not part of the promise (reliability.md).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from storage.database import Database

logger = logging.getLogger(__name__)

_QUEUE_ROWS = 10_000
_BATCH_ROWS = 500

_INSERT = (
    "INSERT INTO dicom_transactions (tenant_id, direction, operation, calling_ae_title,"
    " called_ae_title, remote_address, sop_class_uid, sop_instance_uid, transfer_syntax_uid,"
    " status_code, status, message, byte_size, started_at, completed_at)"
    " VALUES (%(tenant_id)s, 'INBOUND', %(operation)s, %(calling_ae_title)s,"
    " %(called_ae_title)s, %(remote_address)s, %(sop_class_uid)s, %(sop_instance_uid)s,"
    " %(transfer_syntax_uid)s, %(status_code)s, %(status)s, %(message)s, %(byte_size)s,"
    " %(started_at)s, %(completed_at)s)"
)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One thing that a peer did or tried."""

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
    transfer_syntax_uid: str | None = None
    byte_size: int | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def parameters(self) -> dict[str, object]:
        """Values for the INSERT. PostgreSQL's text has no NUL, whatever a peer sends."""
        values: dict[str, object] = {
            name: _storable(getattr(self, name)) for name in self.__dataclass_fields__
        }
        values["completed_at"] = datetime.now(UTC)
        return values


def _storable(value: object) -> object:
    return value.replace("\0", "�") if isinstance(value, str) else value


class TransactionRecorder:
    """Takes transactions from any thread; `close` writes what is left."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.Queue[Transaction | None] = queue.Queue(_QUEUE_ROWS)
        self._thread = threading.Thread(target=self._run, name="dicom-transactions", daemon=True)
        self._thread.start()

    def record(self, transaction: Transaction) -> None:
        """Queue one row; never blocks."""
        try:
            self._queue.put_nowait(transaction)
        except queue.Full:
            logger.warning("transaction_dropped", extra={"operation": transaction.operation})

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

    def _write(self, batch: Iterable[Transaction]) -> None:
        by_tenant: dict[UUID, list[dict[str, object]]] = defaultdict(list)
        for transaction in batch:
            by_tenant[transaction.tenant_id].append(transaction.parameters())
        for tenant_id, rows in by_tenant.items():
            try:
                with (
                    self._database.connection(tenant_id) as connection,
                    connection.cursor() as cursor,
                ):
                    cursor.executemany(_INSERT, rows)
            except (psycopg.Error, PoolTimeout) as error:
                logger.error(
                    "transactions_lost", extra={"rows": len(rows), "error": type(error).__name__}
                )
