"""One accepted association, from its A-ASSOCIATE-RQ to its end (PS3.8 9.2, acceptor's side).

Runs on a thread of its own: negotiate, then message after message until the peer releases or
aborts, breaks the protocol, or is silent for too long.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from interop.dimse.c_store import StorageBackend, StoreService, audit_row
from interop.dimse.certificates import fingerprint, subject
from interop.dimse.command_set import (
    C_CANCEL_RQ,
    C_STORE_RQ,
    RESPONSE_BIT,
    parse_command,
)
from interop.dimse.messages import MessageStream, PeerAborted
from interop.dimse.policy import Admission, AssociationPolicy, Rejected, Rejection
from interop.dimse.presentation import (
    APPLICATION_CONTEXT_NAME,
    Negotiated,
    decode_request,
    negotiate,
)
from interop.dimse.refusals import Refusal, RefusalLog
from interop.dimse.registry import Peer
from interop.dimse.service_requests import Conversation
from interop.dimse.services import offers, serve, storage_offer
from interop.dimse.tls import describe
from interop.dimse.transactions import Transaction
from interop.dimse.transport_guard import (
    ConnectionLost,
    DeadlineExceeded,
    HandshakeFailed,
    Link,
    LinkError,
    ProtocolViolation,
    TransportLimits,
)
from interop.dimse.upper_layer import (
    A_ABORT,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    NOT_SPECIFIED,
    UNEXPECTED_PDU,
    UNRECOGNIZED_PDU,
    AssociateRequest,
    abort_pdu,
    reject_pdu,
    scan_associate_request,
)

logger = logging.getLogger(__name__)

_PROTOCOL_VERSION_1: Final = 0x0001


@dataclass(frozen=True, slots=True)
class AssociationContext:
    """What all associations of a process share."""

    policy: AssociationPolicy
    backend: StorageBackend
    limits: TransportLimits
    refusals: RefusalLog

    def close(self) -> None:
        """Write what was not written yet."""
        self.refusals.flush(everything=True)
        self.backend.recorder.close()


class Association:
    """The acceptor of one connection."""

    def __init__(
        self, connection: socket.socket, remote_address: str, context: AssociationContext
    ) -> None:
        self._context = context
        self._remote_address = remote_address
        self._accepted_at = time.monotonic()
        self._link = Link(connection, context.limits)
        self._admission: Admission | None = None
        self._peer = Peer("", "", remote_address)
        # Guards `_is_busy` and `_is_interrupted` between this thread and the one that drains.
        self._state = threading.Lock()
        self._is_busy = True
        self._is_interrupted = False
        self.is_established = False
        self.idle_since = self._accepted_at

    def run(self) -> None:
        """Serve the connection to its end; never raises."""
        farewell = b""
        linger = True
        try:
            self._link.handshake()
            farewell = self._converse()
        except Rejected as rejected:
            farewell = self._on_rejected(rejected)
        except HandshakeFailed as error:
            self._context.refusals.note(Refusal(None, self._remote_address, str(error)))
            linger = False
        except (PeerAborted, ConnectionLost):
            linger = False
        except DeadlineExceeded as error:
            self._log("association_timed_out", error)
            farewell = abort_pdu(NOT_SPECIFIED)
        except ProtocolViolation as error:
            self._log("association_aborted", error)
            farewell = abort_pdu(error.reason)
        except Exception:
            logger.exception("association_failed", extra={"peer": self._remote_address})
            farewell = abort_pdu(NOT_SPECIFIED)
        finally:
            self._end(farewell, linger=linger)

    def _end(self, farewell: bytes, *, linger: bool) -> None:
        # The place is free before the peer hears of the end, so its next request finds it free.
        if self._admission is not None:
            self._context.policy.release(self._admission)
        try:
            if farewell:
                self._link.send(farewell)
        except LinkError:
            linger = False
        self._link.close(linger=linger)

    # -- ending from outside ----------------------------------------------------------------

    def interrupt(self, *, only_when_idle_for: float | None = None) -> bool:
        """A-ABORT from another thread; between messages only, when a time is given."""
        with self._state:
            if only_when_idle_for is not None and (
                self._is_busy or time.monotonic() - self.idle_since < only_when_idle_for
            ):
                return False
            self._is_interrupted = True
        self._link.interrupt(abort_pdu(NOT_SPECIFIED) if self.is_established else b"")
        return True

    def _set_busy(self, is_busy: bool) -> None:
        with self._state:
            self._is_busy = is_busy
            self.idle_since = time.monotonic()
            if is_busy and self._is_interrupted:
                raise ConnectionLost("the server is stopping")

    # -- the conversation -------------------------------------------------------------------

    def _converse(self) -> bytes:
        """Negotiate and serve. Returns the last PDU to send."""
        scanned = self._receive_request()
        self._peer = _peer(scanned, self._remote_address, self._link.tls)
        # Before anything of a stranger's request is decoded any further.
        admission = self._admission = self._context.policy.admit(self._peer)
        request = decode_request(scanned)
        if request.application_context_name != APPLICATION_CONTEXT_NAME:
            raise Rejected(Rejection(1, 1, 2, "the application context is not DICOM's"))
        negotiated = negotiate(
            request,
            self._context.limits.advertised_pdu_bytes,
            offers(admission),
            storage_offer(admission),
        )
        self._audit_begin(admission)
        self._link.send(negotiated.accept_pdu)
        self.is_established = True
        self._serve(negotiated, admission)
        return A_RELEASE_RP

    def _receive_request(self) -> AssociateRequest:
        deadline = self._accepted_at + self._context.limits.associate_seconds
        kind, length = self._link.next_pdu(deadline, deadline)
        if kind == A_ABORT:
            raise PeerAborted("the peer sent A-ABORT")
        if kind != A_ASSOCIATE_RQ:
            known = 1 <= kind <= 7
            raise ProtocolViolation(
                f"PDU of type 0x{kind:02X} before an association",
                UNEXPECTED_PDU if known else UNRECOGNIZED_PDU,
            )
        scanned = scan_associate_request(bytes(self._link.read(length)))
        if not scanned.protocol_version & _PROTOCOL_VERSION_1:
            raise Rejected(Rejection(1, 2, 2, "DICOM upper layer protocol version 1 is required"))
        return scanned

    def _serve(self, negotiated: Negotiated, admission: Admission) -> None:
        stream = MessageStream(self._link, negotiated.contexts)
        backend = self._context.backend
        store = StoreService(backend, admission, self._link, stream)
        conversation = Conversation(backend, admission, negotiated, self._link, stream)
        while True:
            self._set_busy(False)
            conversation.reports.send_while_silent(conversation)
            received = stream.next_command()
            if received is None:
                return
            self._set_busy(True)
            context_id, raw = received
            request = parse_command(raw)
            if request.command_field == C_STORE_RQ:
                store.handle_c_store(negotiated.contexts[context_id], request)
            elif request.command_field == C_CANCEL_RQ:
                continue  # PS3.7 9.3.2.3: it came after the final response, nothing is left to do
            elif request.command_field & RESPONSE_BIT:
                conversation.reports.take_response(conversation, context_id, request)
            else:
                serve(conversation, context_id, request)

    # -- what is written down ---------------------------------------------------------------

    def _on_rejected(self, rejected: Rejected) -> bytes:
        rejection = rejected.rejection
        if not rejected.is_repeated:
            logger.warning(
                "association_rejected",
                extra={"peer": self._remote_address, "reason": rejection.message},
            )
        if rejected.tenant is not None and not rejected.is_repeated:
            self._context.backend.recorder.record(
                Transaction(
                    tenant_id=rejected.tenant.id,
                    operation="A-ASSOCIATE",
                    calling_ae_title=self._peer.calling_ae_title,
                    called_ae_title=rejected.tenant.ae_title or "",
                    remote_address=self._remote_address,
                    status_code=rejection.reason,
                    status="FAILURE",
                    message=rejection.message,
                )
            )
        self._context.refusals.note(
            Refusal(
                rejected.tenant.id if rejected.tenant is not None else None,
                self._remote_address,
                rejection.message,
                rejection.code,
                self._peer.calling_ae_title,
                self._peer.called_ae_title,
                self._peer.certificate_fingerprint,
            )
        )
        return reject_pdu(rejection.result, rejection.source, rejection.reason)

    def _audit_begin(self, admission: Admission) -> None:
        """PS3.15 A.5.3.3, Begin Transferring DICOM Instances."""
        metadata: dict[str, Any] = {"called_ae_title": admission.called_ae_title}
        if self._peer.certificate_fingerprint is not None:
            metadata["certificate_sha256"] = self._peer.certificate_fingerprint
        if self._link.tls is not None:
            metadata |= describe(self._link.tls)
        self._context.backend.recorder.record(
            audit_row(admission, "DICOM_ASSOCIATION_BEGAN", metadata)
        )

    def _log(self, event: str, error: Exception) -> None:
        logger.warning(event, extra={"peer": self._remote_address, "reason": str(error)})


def _peer(scanned: AssociateRequest, address: str, tls: ssl.SSLSocket | None) -> Peer:
    names = scanned.called_ae_title, scanned.calling_ae_title, address
    if tls is None:
        return Peer(*names)
    certificate = tls.getpeercert(binary_form=True)
    if certificate is None:
        return Peer(*names, is_tls=True)
    return Peer(*names, True, fingerprint(certificate), subject(certificate))
