"""Sub-operations of a C-MOVE or C-GET: counted, reported, summed up (PS3.4 C.4.2.3, C.4.3.3).

Pending responses are optional and cost the peer as much as the objects do, so they come with the
first object and then at a rhythm; also while one object takes long, so that the peer keeps waiting.
"""

from __future__ import annotations

import logging
import time
from struct import Struct
from typing import Final

import psycopg
from psycopg_pool import PoolTimeout

from interop.access import Caller
from interop.dicom.filemeta import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from interop.dimse.c_store import audit_row
from interop.dimse.retrieval import Disclosure, InvalidIdentifier, Plan, plan, read_identifier
from interop.dimse.sender import ObjectReader
from interop.dimse.service_requests import Served, ServiceRequest
from interop.dimse.store_request import is_stored

logger = logging.getLogger(__name__)

# PS3.4 Tables C.4-2 and C.4-3.
SUCCESS: Final = 0x0000
UNABLE_TO_COUNT: Final = 0xA701
UNABLE_TO_PERFORM: Final = 0xA702
MOVE_DESTINATION_UNKNOWN: Final = 0xA801
IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
SOME_FAILED: Final = 0xB000
CANCELLED: Final = 0xFE00
PENDING: Final = 0xFF00

# PS3.7 9.1.3.1 and 9.1.4.1, Table E.1-1.
_REMAINING: Final = 0x1020
_COMPLETED: Final = 0x1021
_FAILED: Final = 0x1022
_WARNING: Final = 0x1023
_MOST_COUNTED: Final = 0xFFFF  # in a US

_REPORT_SECONDS: Final = 0.5
_FAILED_SOP_INSTANCE_UID_LIST: Final = (0x0008, 0x0058)
_US = Struct("<H")


class SubOperations:
    """What became of the objects of one request so far."""

    def __init__(self, request: ServiceRequest, total: int, receiving_ae_title: str) -> None:
        self._request = request
        self._total = total
        self._receiving_ae_title = receiving_ae_title
        self._reported_at: float | None = None
        self.completed = self.failed = self.warning = 0
        # Joined by backslash: a list of strings of a large study would be large itself.
        self._failed_uids = bytearray()
        self.problem = ""

    @property
    def remaining(self) -> int:
        return max(0, self._total - self.completed - self.failed - self.warning)

    def note(self, sop_instance_uid: str, status: int | None, message: str = "") -> None:
        """Count one object by the status of its C-STORE; None where it was not sent."""
        if status == 0:
            self.completed += 1
        elif is_stored(status):
            self.warning += 1
        else:
            self.failed += 1
            self._failed_uids += (b"\\" if self._failed_uids else b"") + sop_instance_uid.encode()
            said = f"status {status:04X} {message}" if status is not None else message
            self.problem = self.problem or said

    def report(self) -> None:
        """Send a pending response where one is due."""
        now = time.monotonic()
        if self._reported_at is None or now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            self._request.respond(PENDING, further=self._counts(with_remaining=True))

    def finish(self, *, is_cancelled: bool = False) -> Served:
        """Send the final response; what was neither sent nor failed by name has failed."""
        if is_cancelled:
            status = CANCELLED
        else:
            self.failed += self.remaining
            if self.failed == 0:
                status = SOME_FAILED if self.warning else SUCCESS
            else:
                status = SOME_FAILED if self.completed + self.warning else UNABLE_TO_PERFORM
        if self.failed:
            _log_failure(
                self._request,
                {"receiving_ae_title": self._receiving_ae_title, "failed": self.failed,
                 "status": f"0x{status:04X}"},
            )  # fmt: skip
        comment = self.problem if status in (SOME_FAILED, UNABLE_TO_PERFORM) else ""
        self._request.respond(
            status,
            comment,
            self._identifier() if status != SUCCESS else None,
            self._counts(with_remaining=is_cancelled),
        )
        done = self.completed + self.warning
        message = f"{done} of {self._total} instances"
        return Served(status, f"{message}; {self.problem}" if self.problem else message)

    def _counts(self, *, with_remaining: bool) -> dict[int, bytes]:
        counts = {_COMPLETED: self.completed, _FAILED: self.failed, _WARNING: self.warning}
        if with_remaining:
            counts[_REMAINING] = self.remaining
        return {tag: _US.pack(min(count, _MOST_COUNTED)) for tag, count in counts.items()}

    def _identifier(self) -> bytes | None:
        """The Failed SOP Instance UID List (0008,0058); None where nothing has failed by name."""
        if not self._failed_uids:
            return None
        return failed_list(bytes(self._failed_uids), self._request.context.transfer_syntax_uid)


def answer_extended(asked: bytes) -> bytes:
    """PS3.4 C.5.2.1, C.5.3.1: relational retrieval, yes; conversion of enhanced images, no."""
    return b"\x01\x00"[: max(1, len(asked))]


def reader_of(request: ServiceRequest) -> ObjectReader:
    """What opens stored objects."""
    backend = request.conversation.backend
    return ObjectReader(backend.objects, backend.spool.temporary_folder)


class Refused(Exception):
    """A request for which nothing is sent."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment


def planned_of(
    request: ServiceRequest,
    receiving_ae_title: str,
    patient_root: str,
    receiver: Caller | None = None,
) -> Plan:
    """What the request names, audited. Raises Refused, Forbidden."""
    context = request.context
    disclosure = Disclosure(
        request.admission.caller, request.service.operation, receiving_ae_title, receiver
    )
    try:
        identifier = read_identifier(
            request.data_set,
            context.transfer_syntax_uid,
            has_patient_level=context.sop_class_uid == patient_root,
        )
        return plan(request.conversation.backend.database, identifier, disclosure)
    except InvalidIdentifier as error:
        raise Refused(IDENTIFIER_DOES_NOT_MATCH, str(error)) from error
    except (psycopg.Error, PoolTimeout) as error:
        logger.error("retrieval_not_planned", extra={"error": type(error).__name__})
        raise Refused(UNABLE_TO_COUNT, "the database did not answer; try again") from error


def answer_refused(request: ServiceRequest, why: Refused) -> Served:
    """Answer a request for which nothing is sent, and log it."""
    _log_failure(request, {"status": f"0x{why.status:04X}", "reason": why.comment})
    request.respond(why.status, why.comment)
    return Served(why.status, why.comment)


def _log_failure(request: ServiceRequest, metadata: dict[str, object]) -> None:
    request.conversation.backend.recorder.record(
        audit_row(
            request.admission,
            "DICOM_TRANSFER_FAILED",
            {"operation": request.service.operation, **metadata},
            outcome="FAILURE",
        )
    )


def failed_list(uids: bytes, transfer_syntax_uid: str) -> bytes:
    """The element in a transfer syntax; more than a UI can hold goes as UN (PS3.5 6.2.2)."""
    value = uids + b"\0" * (len(uids) % 2)
    order = ">" if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "<"
    group, element = _FAILED_SOP_INSTANCE_UID_LIST
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        head = Struct(f"{order}HHI").pack(group, element, len(value))
    elif len(value) <= 0xFFFE:
        head = Struct(f"{order}HH2sH").pack(group, element, b"UI", len(value))
    else:
        head = Struct(f"{order}HH2sHI").pack(group, element, b"UN", 0, len(value))
    return head + value
