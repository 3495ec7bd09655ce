"""One thread per process that commits what all senders have ready (dicom.md, "Commit").

A sender waits for the disk anyway; while one transaction syncs, the objects of all the others
gather and go into the next one. So the cost of a commit is shared without any timer, and a single
sender waits for nothing but its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from traceback import format_tb
from uuid import UUID

import psycopg

from interop.dicom import batch
from interop.dicom.batch import Batch, Result
from interop.dicom.failures import (
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    Code,
    Failure,
)
from interop.dicom.imaging_rows import Snapshot
from interop.dicom.known_studies import KnownStudies
from interop.dicom.received import Received
from storage import quotas
from storage.database import Database
from storage.objects.store import ObjectStoreError

logger = logging.getLogger(__name__)

_MOST_PER_TRANSACTION = 64
# Of JSON and frame tables, which the statement's parameters hold several times over.
_MOST_BYTES_PER_TRANSACTION = 16 << 20
# Of one sender's objects, and of all senders that bring several at once.
_CONCURRENT_PUTS = 8
_ATTEMPTS = 4
# Lost races, and a tenant that has just moved: the same transaction succeeds when it runs again.
_RETRYABLE = (
    psycopg.errors.CannotConnectNow,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UniqueViolation,
    psycopg.errors.ForeignKeyViolation,
)
# SQLSTATE classes: connection exception, insufficient resources, operator intervention, and system
# error (the disk under the database).
_OUTAGES = ("08", "53", "57", "58")


@dataclass(slots=True)
class Entry:
    """One object that waits, and where its sender waits for the answer."""

    tenant_id: UUID
    received: Received
    # Whether the object's bytes are durable; the rows are not committed before they are.
    blob: Future[bool] = field(default_factory=Future)
    answer: Future[Result] = field(default_factory=Future)


class _BlobsLost(Exception):
    """Some objects of the batch did not reach the object store."""


class _CommitUnknown(Exception):
    """The connection broke during the commit: nobody knows whether it arrived."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(error)
        self.error = error


class _OutOfDate(Exception):
    """What this process remembers of a study is no more what the database holds."""


class GroupCommitter:
    """The queue and its thread. The thread starts at the first object, after any fork."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: deque[Entry] = deque()
        self._studies = KnownStudies()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._is_closed = False

    def commit(
        self,
        tenant_id: UUID,
        objects: Sequence[Received],
        put: Callable[[Received], None] | None = None,
    ) -> list[Result | ObjectStoreError]:
        """Return when the objects' rows are durable, or it is certain that they are not.

        ``put`` makes the bytes of one durable, in the calling thread, while the transaction is
        being prepared: the disk syncs the object beside the database's work, and the commit waits
        for both. The error of an object that it could not keep stands in the place of its result.
        """
        entries = [Entry(tenant_id, received) for received in objects]
        if put is None:
            for entry in entries:
                entry.blob.set_result(True)
        with self._wake:
            if self._is_closed:
                return [_shutting_down() for _ in entries]
            if self._thread is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._run, name="ingest-commit", daemon=True)
                self._thread.start()
            self._queue.extend(entries)
            self._wake.notify()
        try:
            errors = self._put_all(entries, put) if put is not None else [None] * len(entries)
        except BaseException:
            # The transaction waits for every one of them.
            for entry in entries:
                with suppress(InvalidStateError):
                    entry.blob.set_result(False)
            raise
        finally:
            results = [entry.answer.result() for entry in entries]
        return [error or result for error, result in zip(errors, results, strict=True)]

    def _put_all(
        self, entries: list[Entry], put: Callable[[Received], None]
    ) -> list[ObjectStoreError | None]:
        """Make the bytes of all durable; return what went wrong with each.

        Several at once: a disk that is flushed for one file is flushed for all that wait for it.
        """
        if len(entries) == 1:
            return [_put(entries[0], put)]
        puts = [self._disk.submit(_put, entry, put) for entry in entries]
        wait(puts)
        return [done.result() for done in puts]

    @cached_property
    def _disk(self) -> ThreadPoolExecutor:
        # Made at its first use, after any fork.
        return ThreadPoolExecutor(_CONCURRENT_PUTS, thread_name_prefix="ingest-put")

    def close(self) -> None:
        """Commit what is queued and stop."""
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join()
        if "_disk" in self.__dict__:
            self._disk.shutdown()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._is_closed:
                    self._wake.wait()
                if not self._queue:
                    return
                entries = self._take()
            try:
                self._store(entries)
            except Exception as error:
                # The thread must outlive anything; each sender learns that it has to repeat.
                result = self._failure(error)
                for entry in entries:
                    if not entry.answer.done():
                        entry.answer.set_result(result)

    def _take(self) -> list[Entry]:
        """Take what belongs to the first entry's tenant, each SOP Instance UID once.

        What does not fit stays in its place; an object that is too large alone goes alone.
        """
        tenant_id = self._queue[0].tenant_id
        taken: list[Entry] = []
        left: list[Entry] = []
        uids: set[str] = set()
        size = 0
        while self._queue:
            entry = self._queue.popleft()
            uid = entry.received.sop_instance_uid
            if (
                entry.tenant_id == tenant_id
                and uid not in uids
                and len(taken) < _MOST_PER_TRANSACTION
                and (not taken or size + entry.received.row_bytes <= _MOST_BYTES_PER_TRANSACTION)
            ):
                uids.add(uid)
                size += entry.received.row_bytes
                taken.append(entry)
            else:
                left.append(entry)
        self._queue.extend(left)
        return taken

    def _store(self, entries: list[Entry]) -> None:
        try:
            results = self._attempt(entries)
        except _BlobsLost:
            kept = [entry for entry in entries if entry.blob.result()]
            if kept:
                self._store(kept)
            for entry in entries:
                if not entry.blob.result():
                    entry.answer.set_result(_failed("The object could not be kept."))
            return
        except Exception as error:
            if len(entries) > 1 and not _is_outage(error):
                # One bad row must not take the others with it.
                for entry in entries:
                    self._store([entry])
                return
            results = [self._failure(error) for _ in entries]
        for entry, result in zip(entries, results, strict=True):
            entry.answer.set_result(result)

    def _attempt(self, entries: list[Entry]) -> list[Result]:
        for attempt in range(_ATTEMPTS):
            try:
                committed = self._as_seen(entries) or self._transaction(entries, None)
                if not any(received.released_id for received in committed.objects):
                    # A release settles conflicts behind what the batch knows of its studies.
                    self._studies.remember(committed)
                return committed.answers()
            except _RETRYABLE:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.005 * 2**attempt)
            except _CommitUnknown as unknown:
                # The blobs must stay; the sweep removes them if no row points to them, and a
                # repeat is safe either way.
                logger.warning("ingest.commit.unknown", extra={"objects": len(entries)})
                failure = self._failure(unknown.error)
                return [Result("failed", failure.failure, keeps_blob=True) for _ in entries]
        raise AssertionError("unreachable")

    def _as_seen(self, entries: list[Entry]) -> Batch | None:
        """Store in one round trip where this process knows the studies, else not at all."""
        if any(entry.received.released_id is not None for entry in entries):
            return None
        known = self._studies.take(entries[0].tenant_id, [entry.received for entry in entries])
        if known is None:
            return None
        try:
            return self._transaction(entries, known)
        except (_OutOfDate, *_RETRYABLE):
            return None

    def _transaction(self, entries: list[Entry], known: Snapshot | None) -> Batch:
        """Store a batch and commit it. Raises _BlobsLost, _CommitUnknown and psycopg.Error."""
        tenant_id = entries[0].tenant_id
        objects = [entry.received for entry in entries]
        is_committing = False
        try:
            with self._database.unbound_connection(tenant_id) as connection:
                # Both bind the transaction to the tenant, with what else they send first.
                stored = (
                    batch.store(connection, tenant_id, objects)
                    if known is None
                    else batch.store_as_seen(connection, tenant_id, objects, known)
                )
                if stored is None:
                    raise _OutOfDate
                if not all(entry.blob.result() for entry in entries):
                    raise _BlobsLost
                is_committing = True
            return stored
        except psycopg.OperationalError as error:
            if is_committing and not isinstance(error, _RETRYABLE):
                raise _CommitUnknown(error) from error
            raise

    def _failure(self, error: Exception) -> Result:
        # The message of the exception may hold values of a row, so it is not logged.
        if not isinstance(error, psycopg.Error):
            where = "".join(format_tb(error.__traceback__))
            extra = {"error": type(error).__name__, "where": where}
            logger.error("ingest.commit.failed", extra=extra)
            return _failed("The object could not be indexed.")
        logger.warning(
            "ingest.transaction.failed",
            extra={"sqlstate": error.sqlstate, "error": type(error).__name__},
        )
        if quotas.is_storage_exceeded(error):
            return _refused(OUT_OF_RESOURCES, "The organization's storage quota is used up.")
        if quotas.is_tenant_closed(error):
            return _refused(NOT_AUTHORIZED, "The organization is suspended: nothing is stored.")
        if _is_outage(error):
            return Result(
                "failed",
                Failure.of(OUT_OF_RESOURCES, "The database is not available; send again later."),
                keeps_blob=False,
            )
        return _failed("The object could not be indexed.")


def _put(entry: Entry, put: Callable[[Received], None]) -> ObjectStoreError | None:
    """Make the bytes of one durable, and tell the transaction whether they are."""
    is_kept = False
    try:
        put(entry.received)
        is_kept = True
    except ObjectStoreError as error:
        return error
    finally:
        entry.blob.set_result(is_kept)
    return None


def _is_outage(error: Exception) -> bool:
    """Whether the database, and not an object of the batch, is the reason.

    psycopg's OperationalError alone says too little: a value too long for its index is one.
    """
    if not isinstance(error, psycopg.OperationalError) or quotas.is_storage_exceeded(error):
        return False
    if error.sqlstate is None:
        # Said by the client: the pool has no connection, or the connection is lost.
        return not isinstance(error, psycopg.errors.PipelineAborted)
    return error.sqlstate.startswith(_OUTAGES)


def _refused(code: Code, message: str) -> Result:
    """Not stored, and nothing to do with the object: the same one may be stored another day."""
    return Result("failed", Failure.of(code, message), keeps_blob=False, is_unlogged=True)


def _failed(message: str) -> Result:
    return Result("failed", Failure.of(PROCESSING_FAILURE, message), keeps_blob=False)


def _shutting_down() -> Result:
    return Result(
        "failed",
        Failure.of(OUT_OF_RESOURCES, "The server is shutting down; send again later."),
        keeps_blob=False,
    )
