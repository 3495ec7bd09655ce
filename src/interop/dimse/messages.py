"""DIMSE messages out of P-DATA-TF PDUs, validated as they stream by (PS3.8 9.3.5 and Annex E).

Commands are collected, data sets are handed on piece by piece as they lie in the receive buffer.
Messages follow one another whole: whoever invokes several operations at a time sends the next
message after the last fragment of the one before, and is served in that order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from struct import Struct

from interop.dimse.command_set import MAX_COMMAND_BYTES
from interop.dimse.transport_guard import ConnectionLost, Link, ProtocolViolation
from interop.dimse.upper_layer import (
    A_ABORT,
    A_RELEASE_RQ,
    INVALID_PARAMETER,
    NOT_SPECIFIED,
    P_DATA_TF,
    UNEXPECTED_PARAMETER,
    UNEXPECTED_PDU,
    UNRECOGNIZED_PDU,
)

_PDV_HEADER = Struct(">IBB")
_COMMAND_BIT = 0x01
_LAST_BIT = 0x02
_P_DATA_HEADER = Struct(">BxIIBB")
# What stands around a fragment in a PDU that holds one: length of the PDV, context id, control.
_PDV_OVERHEAD = 6
# Two PDUs of the advertised size: what the peer sends next arrives while this one is written.
RECEIVE_BUFFER_BYTES = 256 << 10

Sink = Callable[[memoryview], object]


class PeerAborted(ConnectionLost):
    """The peer sent A-ABORT."""


class MessageTooLarge(ProtocolViolation):
    """A message is larger than the server accepts."""


def encode_message(
    context_id: int, command: bytes, data_set: bytes | None, max_pdu_bytes: int
) -> bytes:
    """The P-DATA-TF PDUs of one message, none larger than the receiver takes (PS3.8 D.1)."""
    pdus = fragments(context_id, command, max_pdu_bytes, is_command=True)
    if data_set is not None:
        pdus += fragments(context_id, data_set, max_pdu_bytes)
    return b"".join(pdus)


def fragments(
    context_id: int, data: bytes, max_pdu_bytes: int, *, is_command: bool = False
) -> list[bytes]:
    """A command set or data set as P-DATA-TF PDUs of one fragment each."""
    room = max_pdu_bytes - _PDV_OVERHEAD
    pdus = []
    for at in range(0, len(data) or 1, room):
        piece = data[at : at + room]
        control = is_command * _COMMAND_BIT | (at + room >= len(data)) * _LAST_BIT
        size = len(piece)
        pdus.append(_P_DATA_HEADER.pack(P_DATA_TF, size + 6, size + 2, context_id, control) + piece)
    return pdus


class MessageStream:
    """The messages of one association."""

    def __init__(self, link: Link, context_ids: Collection[int]) -> None:
        self._link = link
        self._limits = link.limits
        self._context_ids = context_ids
        # What is left of the current PDU, and of the fragment (PDV) that has begun in it.
        self._pdu_left = 0
        self._message_bytes = 0
        self._message_began = 0.0
        # A message that was read while another was served, and a release: their turn comes.
        self._kept: tuple[int, bytes] | None = None
        self._is_release_kept = False

    def has_arrived(self) -> bool:
        """Whether a message lies there to be read, or has begun; never waits."""
        if self._kept is not None or self._is_release_kept:
            return False
        return self._pdu_left > 0 or self._link.wait(0)

    @property
    def has_kept(self) -> bool:
        """Whether something that was read before waits for its turn."""
        return self._kept is not None or self._is_release_kept

    def keep(self, received: tuple[int, bytes] | None) -> None:
        """Take back what `next_command` returned, with its data set unread, for its next call."""
        self._kept, self._is_release_kept = received, received is None

    def next_command(self) -> tuple[int, bytes] | None:
        """Wait for a message; return its context id and command set, None for A-RELEASE-RQ."""
        if self._is_release_kept:
            return None
        if self._kept is not None:
            kept, self._kept = self._kept, None
            self._message_began = time.monotonic()
            return kept
        self._message_bytes = 0
        if self._pdu_left == 0 and not self._begin_pdu(in_message=False):
            return None
        # The clock of a message starts with its first PDU: waiting for it was legitimate idling.
        self._message_began = time.monotonic()
        collected = bytearray()
        context_id, is_last = 0, False
        while not is_last:
            length, context, is_command, is_last = self._next_fragment()
            if not is_command or context != (context_id or context):
                raise ProtocolViolation(
                    "a fragment of another message inside a command set", UNEXPECTED_PARAMETER
                )
            context_id = context
            if len(collected) + length > MAX_COMMAND_BYTES:
                raise MessageTooLarge("the command set is too long", INVALID_PARAMETER)
            collected += self._link.read(length)
        return context_id, bytes(collected)

    def collect_data_set(self, context_id: int, max_bytes: int) -> bytes:
        """The data set of the current message. Raises MessageTooLarge above `max_bytes`."""
        collected = bytearray()

        def add(piece: memoryview) -> None:
            if len(collected) + len(piece) > max_bytes:
                raise MessageTooLarge(
                    f"a data set of more than {max_bytes} bytes for this service",
                    INVALID_PARAMETER,
                )
            collected.extend(piece)

        self._receive(context_id, add)
        return bytes(collected)

    def receive_data_set(self, context_id: int, sink: Sink) -> None:
        """Hand the data set of the current message to `sink`; whatever that raises ends it."""
        # At the first object: an association that only asks costs less memory.
        self._link.reserve(RECEIVE_BUFFER_BYTES)
        self._receive(context_id, sink)

    def _receive(self, context_id: int, sink: Sink) -> None:
        read = self._link.read
        is_last = False
        while not is_last:
            length, context, is_command, is_last = self._next_fragment()
            if is_command or context != context_id:
                raise ProtocolViolation(
                    "a fragment of another message inside a data set", UNEXPECTED_PARAMETER
                )
            while length:
                piece = read(min(length, RECEIVE_BUFFER_BYTES))
                length -= len(piece)
                sink(piece)

    def _next_fragment(self) -> tuple[int, int, bool, bool]:
        """Read a PDV's header: length of its fragment, context id, is command, is last."""
        if self._pdu_left == 0:
            self._begin_pdu(in_message=True)
        length, context_id, control = _PDV_HEADER.unpack(self._link.read(6))
        after = self._pdu_left - 4 - length
        # What follows in the PDU is another PDV, or nothing.
        if length < 2 or (after != 0 and after < _PDV_HEADER.size):
            raise ProtocolViolation(
                f"PDV of {length} bytes in {self._pdu_left} bytes of PDU", INVALID_PARAMETER
            )
        if context_id not in self._context_ids:
            raise ProtocolViolation(
                f"presentation context {context_id} was not accepted", UNEXPECTED_PARAMETER
            )
        self._pdu_left = after
        self._message_bytes += length + 4
        if self._message_bytes > self._limits.max_message_bytes:
            raise MessageTooLarge(
                f"the message is larger than {self._limits.max_message_bytes} bytes", NOT_SPECIFIED
            )
        return length - 2, context_id, bool(control & _COMMAND_BIT), bool(control & _LAST_BIT)

    def _begin_pdu(self, *, in_message: bool) -> bool:
        """Read a P-DATA-TF header. False for A-RELEASE-RQ, which may come between messages."""
        finish_by = self._message_deadline() if in_message else None
        wait_until = time.monotonic() + self._limits.idle_seconds
        if finish_by is not None:
            wait_until = min(wait_until, finish_by)
        kind, length = self._link.next_pdu(wait_until, finish_by)
        if kind == P_DATA_TF:
            if length < _PDV_HEADER.size:
                raise ProtocolViolation("a P-DATA-TF has no room for a PDV", INVALID_PARAMETER)
            self._pdu_left = length
            return True
        if kind == A_ABORT:
            raise PeerAborted("the peer sent A-ABORT")
        if kind == A_RELEASE_RQ and length == 4 and not in_message:
            self._link.read(4)
            return False
        known = 1 <= kind <= 7
        raise ProtocolViolation(
            f"PDU of type 0x{kind:02X} in an association",
            UNEXPECTED_PDU if known else UNRECOGNIZED_PDU,
        )

    def _message_deadline(self) -> float:
        limits = self._limits
        earned = self._message_bytes / limits.message_bytes_per_second
        return self._message_began + limits.message_grace_seconds + earned
