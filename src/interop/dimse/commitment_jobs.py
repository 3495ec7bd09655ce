"""What the worker does for Storage Commitment: verify, tell the peer, ask a peer (PS3.4 Annex J).

Jobs may run twice and die at any moment: what is done is in the rows, and each step begins by
looking there. A peer that is away is tried again with growing waits, for about a day.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.presentation import build_context, build_role

from interop.dicom.failures import PROCESSING_FAILURE
from interop.dicom.verification import failure_reason, kept_objects, record_damage
from interop.dimse import commitment_records as records
from interop.dimse.commitment_messages import (
    PUSH_MODEL_SOP_CLASS,
    PUSH_MODEL_SOP_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    SUCCESS,
    Report,
    Request,
    report_data_set,
    request_data_set,
)
from interop.dimse.commitment_records import (
    ASK_TASK,
    REPORT_TASK,
    VERIFY_TASK,
    Commitment,
)
from interop.dimse.commitment_reports import audit, receive_report, reported
from interop.dimse.peers import NotReachable, reach
from interop.dimse.requestor import Destination, SendFailed
from interop.dimse.scu import associated
from interop.dimse.tls import TlsConfigurationError
from interop.settings import Settings
from storage.database import Connection, Database
from storage.objects import ObjectStore
from storage.objects.store import ObjectStoreUnavailable
from storage.tenancy import Tenant, TenantDirectory

logger = logging.getLogger(__name__)

# Before an association of ours: for so long the one that asked may still be there to be told.
SAME_ASSOCIATION: Final = timedelta(seconds=3)
# How long we keep our own association open for the peer's report.
REPORT_WAIT_SECONDS: Final = 5.0
# Waits before the second, third ... attempt; the last one serves all further attempts.
_DELAYS: Final = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600, 1800, 3600))
MOST_ATTEMPTS: Final = 28
_VERIFY_ATTEMPTS: Final = 8
OVERDUE: Final = timedelta(days=1)
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_NO_CONNECTION = (NotReachable, SendFailed, TlsConfigurationError)


class CommitmentServices(Protocol):
    """The part of interop.services.Services that the jobs need."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def objects(self) -> ObjectStore: ...
    @property
    def tenants(self) -> TenantDirectory: ...


# -- as SCP -------------------------------------------------------------------------------------


def verify(services: CommitmentServices, tenant: Tenant, commitment_id: UUID) -> None:
    """Check every object of an accepted request, some at a time, and have the result reported."""
    failed = 0
    while True:
        with services.database.connection(tenant.id) as connection:
            found = records.find(connection, tenant.id, commitment_id)
            if found is None or found.status != "ACCEPTED":
                return
            waiting = records.pending(connection, tenant.id, commitment_id)
            uids = [one.reference.sop_instance_uid for one in waiting]
            kept = kept_objects(connection, tenant.id, uids)
        if not waiting:
            break
        reasons: dict[int, int | None] = {}
        try:
            for one in waiting:
                class_uid, uid = one.reference.sop_class_uid, one.reference.sop_instance_uid
                reason = failure_reason(services.objects, kept, class_uid, uid)
                reasons[one.position] = reason
                if reason == PROCESSING_FAILURE.reason:
                    record_damage(services.database, tenant.id, uid, kept[uid])
        except ObjectStoreUnavailable:
            if found.attempts + 1 < _VERIFY_ATTEMPTS:
                _verify_later(services, tenant, found, reasons)
                return
            # What cannot be read for this long is not safe to rely on.
            for one in waiting:
                reasons.setdefault(one.position, PROCESSING_FAILURE.reason)
        failed += sum(reason is not None for reason in reasons.values())
        with services.database.connection(tenant.id) as connection:
            records.judge(connection, tenant.id, commitment_id, reasons)
    with services.database.connection(tenant.id) as connection:
        report_at = datetime.now(UTC) + SAME_ASSOCIATION
        if records.mark_verified(connection, tenant.id, commitment_id, report_at):
            audit(connection, tenant, "DICOM_COMMITMENT_VERIFIED", found, failed=failed)


def _verify_later(
    services: CommitmentServices,
    tenant: Tenant,
    commitment: Commitment,
    reasons: dict[int, int | None],
) -> None:
    until = datetime.now(UTC) + _delay(commitment.attempts)
    with services.database.connection(tenant.id) as connection:
        records.judge(connection, tenant.id, commitment.id, reasons)
        records.put_off(
            connection, tenant.id, commitment.id, VERIFY_TASK, until,
            "the object store is not available", commitment.attempts + 1,
        )  # fmt: skip


def report(services: CommitmentServices, tenant: Tenant, commitment_id: UUID) -> None:
    """Tell the peer on an association of our own, unless somebody else has or does."""
    with services.database.connection(tenant.id) as connection:
        claimed = records.claim(connection, tenant.id, [commitment_id])
        if claimed is None:
            _look_again(connection, tenant, commitment_id)
            return
        told = records.report_of(connection, tenant.id, claimed)
    try:
        peer = reach(
            services.database, services.settings, tenant, claimed.peer_ae_title, to_send=False
        )
        status = _send_report(peer, told)
    except _NO_CONNECTION as error:
        _report_failed(services, tenant, claimed, None, str(error))
        return
    if status is None or status != SUCCESS:
        answer = "no answer" if status is None else f"status 0x{status:04X}"
        _report_failed(services, tenant, claimed, status, f"{answer} to the N-EVENT-REPORT")
        return
    with services.database.connection(tenant.id) as connection:
        reported(connection, tenant, claimed, "a new association")


def _look_again(connection: Connection, tenant: Tenant, commitment_id: UUID) -> None:
    """Somebody else reports just now: come back when their time is over."""
    found = records.find(connection, tenant.id, commitment_id)
    if found is not None and found.status == "VERIFIED":
        records.put_off(
            connection, tenant.id, found.id, REPORT_TASK, found.next_attempt_at, None,
            found.attempts,
        )  # fmt: skip


def _send_report(peer: Destination, told: Report) -> int | None:
    """N-EVENT-REPORT in the role of the SCP, which has to be proposed (PS3.4 J.3.3)."""
    contexts = [build_context(PUSH_MODEL_SOP_CLASS, _SYNTAXES)]
    roles = [build_role(PUSH_MODEL_SOP_CLASS, scu_role=False, scp_role=True)]
    with associated(peer, contexts, roles=roles) as association:
        try:
            answer, _ = association.send_n_event_report(
                report_data_set(told),
                told.event_type,
                PUSH_MODEL_SOP_CLASS,
                PUSH_MODEL_SOP_INSTANCE,
            )
        except ValueError as error:
            raise SendFailed(f"{peer} accepts no storage commitment report: {error}") from error
    return int(answer.Status) if "Status" in answer else None


def _report_failed(
    services: CommitmentServices,
    tenant: Tenant,
    commitment: Commitment,
    status: int | None,
    message: str,
) -> None:
    logger.warning("commitment_not_reported", extra={"peer": commitment.peer_ae_title})
    with services.database.connection(tenant.id) as connection:
        if commitment.attempts >= MOST_ATTEMPTS:
            records.finish(connection, tenant.id, commitment.id, "UNREPORTED", status, message)
            return
        until = datetime.now(UTC) + _delay(commitment.attempts - 1)
        records.put_off(
            connection, tenant.id, commitment.id, REPORT_TASK, until, message,
            commitment.attempts,
        )  # fmt: skip


# -- as SCU -------------------------------------------------------------------------------------


def ask(
    services: CommitmentServices,
    tenant: Tenant,
    commitment_id: UUID,
    wait_seconds: float = REPORT_WAIT_SECONDS,
) -> None:
    """Send the N-ACTION, and take the report if the peer sends it on the same association."""
    with services.database.connection(tenant.id) as connection:
        found = records.find(connection, tenant.id, commitment_id)
        if found is None or found.status != "REQUESTED":
            return
        asked = records.request_of(connection, tenant.id, found)
    try:
        peer = reach(
            services.database, services.settings, tenant, found.peer_ae_title, to_send=True
        )
        status = _send_request(services.database, tenant, found, peer, asked, wait_seconds)
    except _NO_CONNECTION as error:
        _ask_failed(services, tenant, found, None, str(error), is_final=False)
        return
    if status != SUCCESS:
        # An answer: the peer may not have the service, or has it and does not want to.
        answer = "no answer" if status is None else f"status 0x{status:04X}"
        message = f"{answer} to the N-ACTION"
        _ask_failed(services, tenant, found, status, message, is_final=status is not None)


def _send_request(
    database: Database,
    tenant: Tenant,
    commitment: Commitment,
    peer: Destination,
    asked: Request,
    wait_seconds: float,
) -> int | None:
    def on_report(event: Any) -> tuple[int, None]:
        syntax = str(event.context.transfer_syntax)
        body = event.request.EventInformation
        raw = body.getvalue() if body is not None else b""
        return receive_report(
            database, tenant, peer.called_ae_title, event.event_type, raw, syntax
        ), None

    def is_open() -> bool:
        with database.connection(tenant.id) as connection:
            now = records.find(connection, tenant.id, commitment.id)
        return now is not None and now.status == "REQUESTED"

    contexts = [build_context(PUSH_MODEL_SOP_CLASS, _SYNTAXES)]
    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    with associated(peer, contexts, handlers=handlers) as association:
        try:
            answer, _ = association.send_n_action(
                request_data_set(asked),
                REQUEST_STORAGE_COMMITMENT,
                PUSH_MODEL_SOP_CLASS,
                PUSH_MODEL_SOP_INSTANCE,
            )
        except ValueError as error:
            raise SendFailed(f"{peer} does not offer storage commitment: {error}") from error
        if "Status" not in answer:
            return None
        deadline = time.monotonic() + (wait_seconds if answer.Status == SUCCESS else 0)
        while time.monotonic() < deadline and association.is_established and is_open():
            time.sleep(0.1)
        return int(answer.Status)


def _ask_failed(
    services: CommitmentServices,
    tenant: Tenant,
    commitment: Commitment,
    status: int | None,
    message: str,
    *,
    is_final: bool,
) -> None:
    attempts = commitment.attempts + 1
    with services.database.connection(tenant.id) as connection:
        if is_final or attempts >= MOST_ATTEMPTS:
            records.finish(connection, tenant.id, commitment.id, "REFUSED", status, message)
            return
        until = datetime.now(UTC) + _delay(commitment.attempts)
        records.put_off(connection, tenant.id, commitment.id, ASK_TASK, until, message, attempts)


def give_up_waiting(services: CommitmentServices, tenant: Tenant, commitment_id: UUID) -> None:
    """A day is over: whoever waits for the report should know that none came."""
    with services.database.connection(tenant.id) as connection:
        found = records.find(connection, tenant.id, commitment_id)
        if found is not None and found.status == "REQUESTED":
            records.finish(
                connection, tenant.id, commitment_id, "UNANSWERED", None, "no report within a day"
            )


def _delay(attempts: int) -> timedelta:
    return _DELAYS[min(attempts, len(_DELAYS) - 1)]
