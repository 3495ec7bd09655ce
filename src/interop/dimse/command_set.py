"""The command set of a DIMSE message (PS3.7 6.3 and E.1): read strictly, and C-STORE-RSP written.

Always Implicit VR Little Endian, group 0000 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from interop.dimse.transport_guard import ProtocolViolation
from interop.dimse.upper_layer import INVALID_PARAMETER, P_DATA_TF

C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE_BIT: Final = 0x8000

AFFECTED_SOP_CLASS_UID: Final = 0x0002
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120
COMMAND_DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
ERROR_COMMENT: Final = 0x0902
AFFECTED_SOP_INSTANCE_UID: Final = 0x1000

NO_DATA_SET: Final = 0x0101  # PS3.7 E.1: any other value means that a data set follows
MAX_COMMAND_BYTES: Final = 64 << 10

_ELEMENT = Struct("<HHI")
_US = Struct("<H")
_US_ELEMENT = Struct("<HHIH")
_UL_ELEMENT = Struct("<HHII")
_P_DATA_HEADER = Struct(">BxIIBB")
_LAST_COMMAND_FRAGMENT = 0x03


@dataclass(frozen=True, slots=True)
class Command:
    """A request's command set."""

    command_field: int
    message_id: int
    has_data_set: bool
    elements: dict[int, bytes]

    def uid(self, element: int) -> str:
        """The UID in `element` without padding, whatever the sender put there; "" when absent."""
        return self.elements.get(element, b"").decode("latin-1").rstrip(" \0")


def parse_command(raw: bytes | bytearray | memoryview) -> Command:
    """Read a command set. Raises ProtocolViolation when it is not well formed."""
    elements: dict[int, bytes] = {}
    at, end = 0, len(raw)
    while at < end:
        if at + 8 > end:
            raise ProtocolViolation("the command set is cut off", INVALID_PARAMETER)
        group, element, length = _ELEMENT.unpack_from(raw, at)
        at += 8
        if group != 0 or length > end - at or element in elements:
            raise ProtocolViolation(
                f"({group:04X},{element:04X}) in a command set: it has elements of group 0000, "
                "each once and no longer than the command set",
                INVALID_PARAMETER,
            )
        elements[element] = bytes(raw[at : at + length])
        at += length
    field = _unsigned_short(elements, COMMAND_FIELD)
    identifier = MESSAGE_ID
    if field & RESPONSE_BIT or field == C_CANCEL_RQ:
        identifier = MESSAGE_ID_BEING_RESPONDED_TO
    return Command(
        field,
        _unsigned_short(elements, identifier),
        _unsigned_short(elements, COMMAND_DATA_SET_TYPE) != NO_DATA_SET,
        elements,
    )


def _unsigned_short(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise ProtocolViolation(
            f"(0000,{element:04X}) is missing or not a US of two bytes", INVALID_PARAMETER
        )
    return int(_US.unpack(value)[0])


def store_response(context_id: int, request: Command, status: int, error_comment: str) -> bytes:
    """Return the P-DATA-TF PDU with the C-STORE-RSP to `request` (PS3.7 9.3.1.2)."""
    parts = [
        _echoed_uid(request, AFFECTED_SOP_CLASS_UID),
        _US_ELEMENT.pack(0, COMMAND_FIELD, 2, C_STORE_RSP),
        _US_ELEMENT.pack(0, MESSAGE_ID_BEING_RESPONDED_TO, 2, request.message_id),
        _US_ELEMENT.pack(0, COMMAND_DATA_SET_TYPE, 2, NO_DATA_SET),
        _US_ELEMENT.pack(0, STATUS, 2, status),
        _text(ERROR_COMMENT, error_comment),
        _echoed_uid(request, AFFECTED_SOP_INSTANCE_UID),
    ]
    body = b"".join(parts)
    command = _UL_ELEMENT.pack(0, 0, 4, len(body)) + body
    head = _P_DATA_HEADER.pack(
        P_DATA_TF, len(command) + 6, len(command) + 2, context_id, _LAST_COMMAND_FRAGMENT
    )
    return head + command


def _echoed_uid(request: Command, element: int) -> bytes:
    """The request's UID, which a response may carry; left out when it cannot be one."""
    value = request.elements.get(element, b"")
    if not 0 < len(value) <= 64:
        return b""
    if len(value) % 2:
        value += b"\0"
    return _ELEMENT.pack(0, element, len(value)) + value


def _text(element: int, text: str) -> bytes:
    if not text:
        return b""
    value = text.encode("ascii", "replace")[:64]
    if len(value) % 2:
        value += b" "
    return _ELEMENT.pack(0, element, len(value)) + value
