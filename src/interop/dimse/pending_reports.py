"""Reports of Storage Commitment on the association that asked (PS3.4 J.3.3).

While that association is open and silent, what becomes ready is reported on it; after that the
worker opens one of its own (`commitment_jobs`).
"""

from __future__ import annotations

import logging
import time
from struct import Struct
from typing import TYPE_CHECKING, Final
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from interop.dimse import commitment_records as records
from interop.dimse.command_set import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    HAS_DATA_SET,
    MESSAGE_ID,
    N_EVENT_REPORT_RQ,
    RESPONSE_BIT,
    Command,
    encode_command,
)
from interop.dimse.commitment_messages import (
    EVENT_TYPE_ID,
    PUSH_MODEL_SOP_CLASS,
    PUSH_MODEL_SOP_INSTANCE,
    SUCCESS,
    Report,
    encoded,
    report_data_set,
)
from interop.dimse.commitment_records import Commitment
from interop.dimse.commitment_reports import reported
from interop.dimse.messages import encode_message
from interop.dimse.presentation import AcceptedContext
from interop.dimse.transport_guard import ProtocolViolation
from interop.dimse.upper_layer import UNEXPECTED_PARAMETER

if TYPE_CHECKING:
    from interop.dimse.service_requests import Conversation

logger = logging.getLogger(__name__)

# How often an association that waits for its report looks whether it is ready, and how long.
_LOOK_SECONDS: Final = 0.25
_PATIENCE_SECONDS: Final = 30.0
_MAX_REPLY_BYTES: Final = 64 << 10
_US = Struct("<H")


class PendingReports:
    """The requests of one association that are not reported yet."""

    def __init__(self) -> None:
        self._expected: dict[UUID, AcceptedContext] = {}
        self._unconfirmed: dict[int, Commitment] = {}
        self._message_id = 0

    def expect(self, context: AcceptedContext, commitment_id: UUID) -> None:
        """A request was taken on in this context."""
        self._expected[commitment_id] = context

    def send_while_silent(self, conversation: Conversation) -> None:
        """Report what becomes ready, until the peer says something. Raises LinkError."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._expected and time.monotonic() < deadline:
            stream = conversation.stream
            if stream.has_kept or stream.has_arrived() or conversation.link.wait(_LOOK_SECONDS):
                return
            if not self._unconfirmed:
                self._send_one(conversation)

    def _send_one(self, conversation: Conversation) -> None:
        tenant = conversation.admission.tenant
        try:
            with conversation.backend.database.connection(tenant.id) as connection:
                claimed = records.claim(connection, tenant.id, list(self._expected))
                if claimed is None:
                    return
                told = records.report_of(connection, tenant.id, claimed)
        except (psycopg.Error, PoolTimeout) as error:
            # The worker reports it then.
            logger.warning("commitment_not_read", extra={"error": type(error).__name__})
            self._expected.clear()
            return
        self._message_id += 1
        self._unconfirmed[self._message_id] = claimed
        context = self._expected[claimed.id]
        pdu_bytes = conversation.negotiated.peer_pdu_bytes
        conversation.link.send(_event_report(context, self._message_id, told, pdu_bytes))

    def take_response(self, conversation: Conversation, context_id: int, command: Command) -> None:
        """The peer's N-EVENT-REPORT-RSP. Raises ProtocolViolation for one to nothing of ours."""
        if command.has_data_set:  # an Event Reply, which this SOP class does not have
            conversation.stream.collect_data_set(context_id, _MAX_REPLY_BYTES)
        commitment = self._unconfirmed.pop(command.message_id, None)
        if commitment is None or command.command_field != N_EVENT_REPORT_RQ | RESPONSE_BIT:
            raise ProtocolViolation("a response that nobody asked for", UNEXPECTED_PARAMETER)
        self._expected.pop(commitment.id, None)
        tenant = conversation.admission.tenant
        if command.status == SUCCESS:
            with conversation.backend.database.connection(tenant.id) as connection:
                reported(connection, tenant, commitment, "the same association")


def _event_report(context: AcceptedContext, message_id: int, told: Report, pdu_bytes: int) -> bytes:
    """The PDUs of an N-EVENT-REPORT-RQ (PS3.7 10.3.1.1)."""
    command = encode_command(
        {
            AFFECTED_SOP_CLASS_UID: PUSH_MODEL_SOP_CLASS.encode(),
            COMMAND_FIELD: _US.pack(N_EVENT_REPORT_RQ),
            MESSAGE_ID: _US.pack(message_id),
            COMMAND_DATA_SET_TYPE: _US.pack(HAS_DATA_SET),
            AFFECTED_SOP_INSTANCE_UID: PUSH_MODEL_SOP_INSTANCE.encode(),
            EVENT_TYPE_ID: _US.pack(told.event_type),
        }
    )
    data_set = encoded(report_data_set(told), context.transfer_syntax_uid)
    return encode_message(context.context_id, command, data_set, pdu_bytes)
