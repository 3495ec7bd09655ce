"""C-STORE (PS3.7 9.1.1, PS3.4 Annex B): from the socket's buffer to the spool to ingest.

A data set is written and hashed as it lies in the receive buffer, and never held. What cannot be
kept is still read to its end, so that the sender gets a status and not a broken connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from interop.dicom.failures import (
    CANNOT_UNDERSTAND,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    Failure,
)
from interop.dicom.ingest import Ingest, Outcome, Source
from interop.dicom.spool import Spool, SpoolLimitExceeded, SpoolWriter
from interop.dimse.command_set import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    Command,
    store_response,
)
from interop.dimse.messages import MessageStream, MessageTooLarge
from interop.dimse.policy import Admission
from interop.dimse.presentation import AcceptedContext
from interop.dimse.registry import RESOURCE_TYPE
from interop.dimse.transactions import AuditRow, Transaction, TransactionRecorder, storable
from interop.dimse.transport_guard import Link, LinkError
from interop.settings import Settings
from storage.audit import system_audit
from storage.database import Database
from storage.objects import ObjectStore

# A UID of 64 characters is the longest; what ingest must see to refuse it needs little more.
_LONGEST_UID_KEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class StorageBackend:
    """What the services of every association share."""

    spool: Spool
    ingest: Ingest
    recorder: TransactionRecorder
    database: Database
    objects: ObjectStore
    settings: Settings


class _Receiver:
    """The sink of one data set: a spool writer, or nothing once the object cannot be kept."""

    def __init__(self) -> None:
        self.writer: SpoolWriter | None = None
        self.failure: Failure | None = None
        self.byte_size = 0

    def write(self, piece: memoryview) -> None:
        self.byte_size += len(piece)
        if self.writer is None:
            return
        try:
            self.writer.write(piece)
        except SpoolLimitExceeded:
            raise
        except Failure as failure:
            self.give_up(failure)

    def give_up(self, failure: Failure) -> None:
        self.failure = failure
        self.close()

    def close(self) -> None:
        """Remove what was written and not handed on."""
        if self.writer is not None:
            self.writer.abort()
            self.writer = None


class StoreService:
    """Serves the C-STORE requests of one association."""

    def __init__(
        self, backend: StorageBackend, admission: Admission, link: Link, stream: MessageStream
    ) -> None:
        self._backend = backend
        self._admission = admission
        self._link = link
        self._stream = stream
        self._source = Source(
            door="C-STORE",
            actor=admission.calling_ae_title,
            calling_ae_title=admission.calling_ae_title,
            called_ae_title=admission.called_ae_title,
            remote_address=admission.remote_address,
        )

    def handle_c_store(self, context: AcceptedContext, request: Command) -> None:
        """Receive the object, store it durably, answer. Raises LinkError."""
        began = datetime.now(UTC)
        receiver = self._open(context, request)
        try:
            if request.has_data_set:
                self._stream.receive_data_set(context.context_id, receiver.write)
            status, comment = self._settle(receiver)
        except (LinkError, SpoolLimitExceeded) as error:
            self._record(context, request, receiver, began, 0xA700, str(error))
            if isinstance(error, SpoolLimitExceeded):
                raise MessageTooLarge(error.message, 0) from error
            raise
        finally:
            receiver.close()
        if receiver.failure is not None:
            self._record(context, request, receiver, began, status, comment)
        self._link.send(store_response(context.context_id, request, status, comment))

    def _open(self, context: AcceptedContext, request: Command) -> _Receiver:
        receiver = _Receiver()
        budget = self._admission.budget
        sop_class_uid = request.uid(AFFECTED_SOP_CLASS_UID)
        if not (context.is_storage and context.as_scp) or sop_class_uid != context.sop_class_uid:
            receiver.failure = Failure.of(
                SOP_CLASS_NOT_SUPPORTED,
                "Affected SOP Class UID is not that of the presentation context.",
            )
        elif not request.has_data_set:
            receiver.failure = Failure.of(CANNOT_UNDERSTAND, "C-STORE-RQ without a data set.")
        elif budget is not None and (limit := budget.refusal()) is not None:
            # PS3.4 B.2.3: the sender keeps the object and tries again later.
            receiver.failure = Failure.of(OUT_OF_RESOURCES, limit)
        else:
            try:
                receiver.writer = self._backend.spool.writer()
                receiver.writer.write_meta(
                    sop_class_uid,
                    request.uid(AFFECTED_SOP_INSTANCE_UID)[:_LONGEST_UID_KEPT],
                    context.transfer_syntax_uid,
                    self._admission.calling_ae_title,
                )
            except Failure as failure:
                receiver.give_up(failure)
        return receiver

    def _settle(self, receiver: _Receiver) -> tuple[int, str]:
        """Store what was received; return Status and Error Comment."""
        if receiver.writer is not None:
            if self._admission.budget is not None:
                self._admission.budget.charge(receiver.byte_size)
            try:
                spooled = receiver.writer.finish()
            except Failure as failure:
                receiver.give_up(failure)
            else:
                receiver.writer = None  # the file is ingest's now
                outcome = self._backend.ingest.store(self._admission.tenant, spooled, self._source)
                return outcome.dicom_status, _error_comment(outcome)
        assert receiver.failure is not None
        return receiver.failure.dicom_status, receiver.failure.error_comment

    def _record(
        self,
        context: AcceptedContext,
        request: Command,
        receiver: _Receiver,
        began: datetime,
        status: int,
        message: str,
    ) -> None:
        """Rows for what ingest never saw."""
        admission = self._admission
        failed = {"status": f"0x{status:04X}"}
        self._backend.recorder.record(
            audit_row(admission, "DICOM_TRANSFER_FAILED", failed, outcome="FAILURE")
        )
        self._backend.recorder.record(
            Transaction(
                tenant_id=admission.tenant.id,
                operation="C-STORE",
                calling_ae_title=admission.calling_ae_title,
                called_ae_title=admission.called_ae_title,
                remote_address=admission.remote_address,
                status_code=status,
                status="FAILURE",
                message=message,
                sop_class_uid=context.sop_class_uid,
                sop_instance_uid=request.uid(AFFECTED_SOP_INSTANCE_UID)[:64],
                transfer_syntax_uid=context.transfer_syntax_uid,
                byte_size=receiver.byte_size,
                started_at=began,
            )
        )


def audit_row(
    admission: Admission,
    event_type: str,
    metadata: dict[str, Any] | None = None,
    *,
    outcome: str = "SUCCESS",
) -> AuditRow:
    """The audit row of something that an admitted peer did."""
    entity = admission.entity
    values = system_audit(
        admission.tenant.id,
        event_type,
        RESOURCE_TYPE if entity else None,
        str(entity.id) if entity else None,
        outcome=outcome,
        metadata={"calling_ae_title": storable(admission.calling_ae_title), **(metadata or {})},
        ip_address=admission.remote_address,
    )
    return AuditRow(admission.tenant.id, values)


def _error_comment(outcome: Outcome) -> str:
    problem = outcome.failure or outcome.warning
    return problem.error_comment if problem is not None else ""
