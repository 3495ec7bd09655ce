"""The one way in for DICOM objects, and the only writer of imaging rows (design.md 2).

spool -> parse -> object store -> one transaction of all rows -> answer. The blob is durable
before the row, the row before the answer: a crash leaves at most an object that no row points to,
which the sweep removes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from traceback import format_tb
from uuid import UUID, uuid4

import psycopg

from interop.dicom import batch
from interop.dicom import imaging_rows as rows
from interop.dicom.batch import Result
from interop.dicom.failures import (
    DATA_SET_MISMATCH,
    DATA_SET_MISMATCH_WARNING,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    Failure,
)
from interop.dicom.filemeta import PREAMBLE_LENGTH, PREFIX, write_file_meta
from interop.dicom.group_commit import GroupCommitter
from interop.dicom.imaging_rows import Record, Stored
from interop.dicom.ingest_types import Door, Kind, Outcome, Source
from interop.dicom.limits import DEFAULT_LIMITS, Limits
from interop.dicom.oddities import oddities
from interop.dicom.part10 import Instance, parse
from interop.dicom.received import Received, check_lengths, transaction_columns
from interop.dicom.spool import Spool, Spooled
from interop.dicom.uids import is_uid, require_uid
from storage.audit import system_audit
from storage.database import Database
from storage.objects import ObjectStore
from storage.objects.files import LocalObjectStore
from storage.objects.keys import new_key
from storage.objects.store import (
    ObjectNotFound,
    ObjectStoreError,
    ObjectStoreFull,
    ObjectStoreUnavailable,
)
from storage.tenancy import Tenant

__all__ = ["Door", "Ingest", "Kind", "Outcome", "Source"]

logger = logging.getLogger(__name__)

_COPY_CHUNK = 1 << 20


@dataclass(slots=True)
class _Arrival:
    """One object on its way through the ingest."""

    spooled: Spooled
    started_at: datetime
    instance: Instance | None = None
    warning: Failure | None = None
    outcome: Outcome | None = None


class Ingest:
    """Stores spooled objects. Thread-safe; call from as many threads as there are senders."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        spool: Spool,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._limits = limits
        self._committer = GroupCommitter(database)
        # The local store gets no digest: it would read the file again only to compare it with the
        # one made while the same bytes were written. A store across a network needs it.
        self._is_local = isinstance(objects, LocalObjectStore)

    def store(
        self,
        tenant: Tenant,
        spooled: Spooled,
        source: Source,
        expected_study_uid: str | None = None,
        released_id: UUID | None = None,
    ) -> Outcome:
        """Store one object durably and return what became of it. Never raises for bad input.

        `released_id`: its row in quarantine, from which an operator releases it; it takes the place
        of what it was refused for (release.py).

        On return the object is visible to every reader, or nothing of it is. The spooled file is
        consumed in every case.
        """
        [outcome] = self.store_all(tenant, [spooled], source, expected_study_uid, released_id)
        return outcome

    def store_all(
        self,
        tenant: Tenant,
        spooled: Sequence[Spooled],
        source: Source,
        expected_study_uid: str | None = None,
        released_id: UUID | None = None,
    ) -> list[Outcome]:
        """Store what one sender has ready as `store` stores one object, each with its own outcome.

        Their rows go into one transaction where they fit, which costs a fraction of one each.
        """
        arrivals = [_Arrival(ready, datetime.now(UTC)) for ready in spooled]
        try:
            for arrival in arrivals:
                with self._answering([arrival]):
                    self._read(tenant, arrival, source, expected_study_uid)
            checked = [(a, a.instance) for a in arrivals if a.outcome is None and a.instance]
            with self._answering(arrivals):
                self._commit(tenant, checked, source, released_id)
            return [arrival.outcome for arrival in arrivals if arrival.outcome is not None]
        finally:
            for arrival in arrivals:
                arrival.spooled.discard()

    @contextmanager
    def _answering(self, arrivals: Sequence[_Arrival]) -> Iterator[None]:
        """Give an outcome to what has none when something fails that is no fault of the object."""
        try:
            yield
        except OSError as error:
            logger.warning("ingest.spool.failed", extra={"errno": error.errno})
            failure = Failure.of(OUT_OF_RESOURCES, "The spool failed; send again later.")
        except Exception as error:
            # A fault of ours; the sender must still get an answer, and nothing is visible. The
            # message of the exception may hold values of the object, so it is not logged.
            incident = uuid4().hex[:12]
            where = "".join(format_tb(error.__traceback__))
            extra = {"incident": incident, "error": type(error).__name__, "where": where}
            logger.error("ingest.failed", extra=extra)
            failure = Failure.of(PROCESSING_FAILURE, f"The server failed (incident {incident}).")
        else:
            return
        for arrival in arrivals:
            if arrival.outcome is None:
                arrival.outcome = _outcome("failed", arrival.instance, failure)

    def close(self) -> None:
        """Finish what is queued."""
        self._committer.close()

    def _read(
        self, tenant: Tenant, arrival: _Arrival, source: Source, expected_study_uid: str | None
    ) -> None:
        """Parse the object, check it, and give it a Part 10 header if it has none."""
        try:
            arrival.instance = parse(arrival.spooled.path, self._limits)
            arrival.warning = _checked(arrival.instance, source, expected_study_uid)
            if not arrival.instance.meta.has_preamble:
                self._add_header(arrival, arrival.instance, source)
        except Failure as failure:
            self._log_refusal(tenant, source, arrival, failure)
            arrival.outcome = _outcome("refused", arrival.instance, failure)

    def _add_header(self, arrival: _Arrival, bare: Instance, source: Source) -> None:
        former = arrival.spooled
        arrival.spooled = self._with_header(bare, former, source)
        former.discard()
        # All offsets have moved.
        moved = parse(arrival.spooled.path, self._limits)
        moved.warnings = bare.warnings
        arrival.instance = moved

    def _with_header(self, instance: Instance, spooled: Spooled, source: Source) -> Spooled:
        """Copy a bare data set behind a preamble and meta information (PS3.10 7.1)."""
        writer = self._spool.writer()
        try:
            with spooled.path.open("rb") as file:
                if instance.meta.elements:
                    writer.write(bytes(PREAMBLE_LENGTH) + PREFIX)
                    if instance.meta.has_prefix:
                        file.seek(len(PREFIX))
                else:
                    writer.write(
                        write_file_meta(
                            instance.sop_class_uid,
                            instance.sop_instance_uid,
                            instance.transfer_syntax_uid,
                            source.calling_ae_title or "",
                        )
                    )
                    file.seek(instance.meta.dataset_offset)
                while chunk := file.read(_COPY_CHUNK):
                    writer.write(chunk)
            return writer.finish()
        except BaseException:
            writer.abort()
            raise

    def _commit(
        self,
        tenant: Tenant,
        arrivals: Sequence[tuple[_Arrival, Instance]],
        source: Source,
        released_id: UUID | None,
    ) -> None:
        """Store bytes and rows of what was checked; each gets its outcome."""
        checked = [
            (arrival, _received(tenant, arrival, instance, source, released_id))
            for arrival, instance in arrivals
        ]
        if self._is_local:
            committed = self._committer.commit(tenant.id, [r for _, r in checked], self._put)
        else:
            # A transaction must not stay open while a network store is slow.
            checked = [pair for pair in checked if self._is_kept(tenant, *pair)]
            committed = self._committer.commit(tenant.id, [r for _, r in checked])
        for (arrival, received), result in zip(checked, committed, strict=True):
            self._settle(tenant, arrival, received, result)

    def _is_kept(self, tenant: Tenant, arrival: _Arrival, received: Received) -> bool:
        """Make the bytes durable; when that fails the object has its outcome."""
        try:
            self._put(received, received.spooled.sha256)
        except ObjectStoreError as error:
            self._settle(tenant, arrival, received, error)
            return False
        return True

    def _put(self, received: Received, sha256: str | None = None) -> None:
        self._objects.put_file(received.storage_uri, received.spooled.path, sha256)

    def _settle(
        self,
        tenant: Tenant,
        arrival: _Arrival,
        received: Received,
        result: Result | ObjectStoreError,
    ) -> None:
        """Make the outcome of what was committed, or could not be."""
        if isinstance(result, ObjectStoreError):
            failure = _store_failure(result)
            self._log_refusal(tenant, received.source, arrival, failure)
            arrival.outcome = _outcome("failed", arrival.instance, failure)
            return
        if result.is_unlogged and result.failure is not None:
            self._log_refusal(tenant, received.source, arrival, result.failure)
        if result.stored is not None:
            result = self._confirmed(tenant, received, result, result.stored)
        if not result.keeps_blob:
            # Best effort: what stays behind has no row, and the sweep removes it.
            with suppress(ObjectStoreError):
                self._objects.delete(received.storage_uri)
        warning = arrival.warning if result.failure is None else None
        arrival.outcome = _outcome(result.kind, arrival.instance, result.failure, warning)

    def _confirmed(
        self, tenant: Tenant, received: Received, result: Result, stored: Stored
    ) -> Result:
        """Call an object a duplicate only when the bytes that it repeats are there, and whole."""
        try:
            if self._objects.stat(stored.storage_uri).size == stored.byte_size:
                return result
        except ObjectNotFound:
            pass
        except ObjectStoreError as error:
            return Result("failed", _store_failure(error), keeps_blob=False)
        return self._restore(tenant, received, stored)

    def _restore(self, tenant: Tenant, received: Received, lost: Stored) -> Result:
        logger.error("ingest.bytes.lost", extra={"storage_uri": lost.storage_uri})
        try:
            with self._database.connection(tenant.id) as connection:
                return batch.restore(connection, tenant.id, received, lost)
        except psycopg.Error as error:
            logger.warning("ingest.restore.failed", extra={"sqlstate": error.sqlstate})
            # Whether the row points to the new bytes now is not known, so they stay.
            return Result(
                "failed",
                Failure.of(OUT_OF_RESOURCES, "The object could not be restored; send again later."),
            )

    def _log_refusal(
        self, tenant: Tenant, source: Source, arrival: _Arrival, failure: Failure
    ) -> None:
        """Write the transaction log and the audit trail of an object that has no rows."""
        instance = arrival.instance
        study_uid = instance.study_instance_uid if instance is not None else ""
        transaction = {
            "tenant_id": tenant.id,
            "status_code": failure.dicom_status,
            "status": "FAILURE",
            "message": failure.message,
            "started_at": arrival.started_at,
            **transaction_columns(source, instance, arrival.spooled),
        }
        audit = system_audit(
            tenant.id,
            "DICOM_INSTANCE_REFUSED",
            "ImagingStudy",
            study_uid if is_uid(study_uid) else None,
            outcome="FAILURE",
            metadata={
                "door": source.door,
                "actor": source.actor,
                "calling_ae_title": source.calling_ae_title,
                "reason": f"{failure.reason:04X}",
            },
            actor_type=source.actor_type,
            user_id=source.actor_id if source.actor_type == "USER" else None,
            api_client_id=source.actor_id if source.actor_type == "API_CLIENT" else None,
            request_id=source.request_id,
            ip_address=source.remote_address,
        )
        try:
            with self._database.connection(tenant.id) as connection:
                rows.log(connection, tenant.id, Record([transaction], [audit]))
        except psycopg.Error as error:
            # The sender gets its refusal all the same; nothing was stored.
            logger.error("ingest.refusal.not_logged", extra={"sqlstate": error.sqlstate})


def _checked(instance: Instance, source: Source, expected_study_uid: str | None) -> Failure | None:
    """Check the identity of the object; return what to warn of. Raises Failure."""
    for uid, attribute in (
        (instance.sop_class_uid, "SOP Class UID (0008,0016)"),
        (instance.sop_instance_uid, "SOP Instance UID (0008,0018)"),
        (instance.study_instance_uid, "Study Instance UID (0020,000D)"),
        (instance.series_instance_uid, "Series Instance UID (0020,000E)"),
        (instance.transfer_syntax_uid, "Transfer Syntax UID (0002,0010)"),
    ):
        require_uid(uid, attribute)
    if expected_study_uid and instance.study_instance_uid != expected_study_uid:
        raise Failure.of(
            DATA_SET_MISMATCH,
            f"Study Instance UID is {instance.study_instance_uid}; the request stores into"
            f" {expected_study_uid}.",
        )
    check_lengths(instance)
    warning = _meta_mismatch(instance, source)
    instance.warnings += oddities(instance)
    return warning


def _received(
    tenant: Tenant,
    arrival: _Arrival,
    instance: Instance,
    source: Source,
    released_id: UUID | None,
) -> Received:
    return Received(
        instance=instance,
        spooled=arrival.spooled,
        source=source,
        storage_uri=new_key(tenant.id),
        started_at=arrival.started_at,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        study_instance_uid=instance.study_instance_uid,
        series_instance_uid=instance.series_instance_uid,
        released_id=released_id,
    )


def _meta_mismatch(instance: Instance, source: Source) -> Failure | None:
    """Compare the command set, which the C-STORE door wrote into the meta group, with the data."""
    meta = instance.meta
    pairs = (
        (meta.media_storage_sop_class_uid, instance.sop_class_uid, "SOP Class UID"),
        (meta.media_storage_sop_instance_uid, instance.sop_instance_uid, "SOP Instance UID"),
    )
    for announced, found, attribute in pairs:
        if announced and announced != found:
            message = f"{attribute} of the data set is not the one that was announced."
            if source.door == "C-STORE":
                raise Failure.of(DATA_SET_MISMATCH, message)
            return Failure.of(DATA_SET_MISMATCH_WARNING, message)
    return None


def _store_failure(error: ObjectStoreError) -> Failure:
    logger.warning("ingest.objects.failed", extra={"error": type(error).__name__})
    if isinstance(error, ObjectStoreFull):
        return Failure.of(OUT_OF_RESOURCES, "The object store is full.")
    if isinstance(error, ObjectStoreUnavailable):
        return Failure.of(OUT_OF_RESOURCES, "The object store is not available; send again later.")
    return Failure.of(PROCESSING_FAILURE, "The object store did not take the object.")


def _outcome(
    kind: Kind,
    instance: Instance | None,
    failure: Failure | None,
    warning: Failure | None = None,
) -> Outcome:
    if instance is None:
        return Outcome(kind, "", "", "", "", failure, warning)
    return Outcome(
        kind,
        instance.sop_class_uid,
        instance.sop_instance_uid,
        instance.study_instance_uid,
        instance.series_instance_uid,
        failure,
        warning,
        tuple(instance.warnings) if failure is None else (),
    )
