"""A DIMSE service and one request to it, as the association that serves it sees them (PS3.7 7.5).

A service is a row of `services.SERVICES`. Its handler gets a `ServiceRequest`, sends its responses
as it goes, looks meanwhile whether the peer has cancelled, and returns how it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from interop.dimse.c_store import StorageBackend
from interop.dimse.command_set import (
    C_CANCEL_RQ,
    RESPONSE_BIT,
    Command,
    parse_command,
    response,
)
from interop.dimse.messages import MessageStream, encode_message
from interop.dimse.pending_reports import PendingReports
from interop.dimse.policy import Admission, Right
from interop.dimse.presentation import AcceptedContext, ExtendedNegotiation, Negotiated
from interop.dimse.transport_guard import Link, ProtocolViolation
from interop.dimse.upper_layer import UNEXPECTED_PARAMETER, UNEXPECTED_PDU

# An identifier is a few hundred bytes, a list for storage commitment some hundred kilobytes; both
# are held in memory.
MAX_DATA_SET_BYTES: Final = 1 << 20

Role = Literal["SCP", "SCU"]


@dataclass(frozen=True, slots=True)
class Served:
    """How a request ended: its last status, for the transaction log."""

    status: int
    message: str | None = None
    sop_instance_uid: str | None = None


Handler = Callable[["ServiceRequest"], Served]


@dataclass(frozen=True, slots=True)
class Service:
    """One operation on some SOP classes, and who may ask for it.

    `needs` is the right of the registered AE without which its contexts are refused; `role` is
    ours. `is_streaming`: it answers with several responses, and may be cancelled. `audit_event` is
    written when it has ended; None where the service writes its own, with what it showed.
    """

    command_field: int
    operation: str
    sop_classes: tuple[str, ...]
    handle: Handler
    needs: Right | None = None
    role: Role = "SCP"
    is_streaming: bool = False
    audit_event: str | None = None
    extended: ExtendedNegotiation | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What all requests of one association share."""

    backend: StorageBackend
    admission: Admission
    negotiated: Negotiated
    link: Link
    stream: MessageStream
    reports: PendingReports = field(default_factory=PendingReports)


@dataclass(slots=True)
class ServiceRequest:
    """One request, and the way to answer it. Every method raises LinkError when the link ends."""

    service: Service
    conversation: Conversation
    context: AcceptedContext
    command: Command
    data_set: bytes | None
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    is_cancelled: bool = False

    @property
    def admission(self) -> Admission:
        return self.conversation.admission

    @property
    def extended(self) -> bytes:
        """What was answered to the extended negotiation of this SOP class; b"" for nothing."""
        return self.conversation.negotiated.extended.get(self.context.sop_class_uid, b"")

    def send(self, command: bytes, data_set: bytes | None = None) -> None:
        """Send one message in this context: a command set, and its data set if it has one."""
        self.send_encoded(self.encoded(command, data_set))

    def encoded(self, command: bytes, data_set: bytes | None = None) -> bytes:
        """The PDUs of a message in this context, for whoever sends several at once."""
        return encode_message(
            self.context.context_id,
            command,
            data_set,
            self.conversation.negotiated.peer_pdu_bytes,
        )

    def send_encoded(self, pdus: bytes) -> None:
        self.conversation.link.send(pdus)

    def respond(
        self,
        status: int,
        error_comment: str = "",
        data_set: bytes | None = None,
        further: Mapping[int, bytes] | None = None,
    ) -> None:
        """Send one response; `further` has the command elements that its service adds."""
        has_data_set = data_set is not None
        self.send(
            response(
                self.command, status, error_comment, has_data_set=has_data_set, further=further
            ),
            data_set,
        )

    def cancelled(self) -> bool:
        """Whether the peer wants no more of this; never waits.

        So says its C-CANCEL-RQ, and who asks for the release of the association while it is
        served. Another request is kept for its turn; what comes behind that is not seen before.
        """
        stream = self.conversation.stream
        while self.service.is_streaming and not self.is_cancelled and stream.has_arrived():
            received = stream.next_command()
            if received is None:
                stream.keep(None)
                self.is_cancelled = True
                break
            command = parse_command(received[1])
            if command.command_field == C_CANCEL_RQ:
                self._note_cancel(command)
            elif command.command_field & RESPONSE_BIT:
                raise ProtocolViolation("a response that nobody asked for", UNEXPECTED_PARAMETER)
            else:
                stream.keep(received)
        return self.is_cancelled

    def receive_response(self) -> tuple[AcceptedContext, Command, bytes | None]:
        """Wait for the peer's response to a request of ours on this association.

        A C-CANCEL-RQ that comes first is noted for `cancelled`.
        """
        stream = self.conversation.stream
        while True:
            received = stream.next_command()
            if received is None:
                raise ProtocolViolation("a release before a response", UNEXPECTED_PDU)
            context_id, raw = received
            command = parse_command(raw)
            if command.command_field == C_CANCEL_RQ:
                self._note_cancel(command)
            elif not command.command_field & RESPONSE_BIT:
                raise ProtocolViolation("a request before a response", UNEXPECTED_PARAMETER)
            else:
                data_set = None
                if command.has_data_set:
                    data_set = stream.collect_data_set(context_id, MAX_DATA_SET_BYTES)
                return self.conversation.negotiated.contexts[context_id], command, data_set

    def _note_cancel(self, command: Command) -> None:
        self.is_cancelled = self.is_cancelled or command.message_id == self.command.message_id
