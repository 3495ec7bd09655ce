"""The command set of a DIMSE message (PS3.7 6.3 and E.1): read strictly, and responses written.

Always Implicit VR Little Endian, group 0000 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Final

from interop.dimse.transport_guard import ProtocolViolation
from interop.dimse.upper_layer import INVALID_PARAMETER, P_DATA_TF

C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
C_GET_RQ: Final = 0x0010
C_FIND_RQ: Final = 0x0020
C_MOVE_RQ: Final = 0x0021
C_ECHO_RQ: Final = 0x0030
N_EVENT_REPORT_RQ: Final = 0x0100
N_GET_RQ: Final = 0x0110
N_SET_RQ: Final = 0x0120
N_ACTION_RQ: Final = 0x0130
N_DELETE_RQ: Final = 0x0150
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE_BIT: Final = 0x8000

AFFECTED_SOP_CLASS_UID: Final = 0x0002
REQUESTED_SOP_CLASS_UID: Final = 0x0003
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120
COMMAND_DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
OFFENDING_ELEMENT: Final = 0x0901
ERROR_COMMENT: Final = 0x0902
AFFECTED_SOP_INSTANCE_UID: Final = 0x1000

NO_DATA_SET: Final = 0x0101  # PS3.7 E.1: any other value means that a data set follows
HAS_DATA_SET: Final = 0x0001
# The requests that name a SOP class as Requested and not as Affected (PS3.7 10.3).
_REQUESTS_OF_AN_INSTANCE: Final = frozenset((N_GET_RQ, N_SET_RQ, N_ACTION_RQ, N_DELETE_RQ))
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

    @property
    def sop_class_uid(self) -> str:
        """The SOP class of a request, Affected or Requested as its command has it."""
        is_of_instance = self.command_field in _REQUESTS_OF_AN_INSTANCE
        return self.uid(REQUESTED_SOP_CLASS_UID if is_of_instance else AFFECTED_SOP_CLASS_UID)

    @property
    def status(self) -> int:
        """The status of a response. Raises ProtocolViolation where it has none."""
        return _unsigned_short(self.elements, STATUS)


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


def encode_command(elements: Mapping[int, bytes]) -> bytes:
    """A command set of these elements, with their group length; odd values are padded by NUL."""
    parts = []
    for element in sorted(elements):
        value = elements[element]
        if len(value) % 2:
            value += b"\0"
        parts.append(_ELEMENT.pack(0, element, len(value)) + value)
    body = b"".join(parts)
    return _UL_ELEMENT.pack(0, 0, 4, len(body)) + body


def response(
    request: Command,
    status: int,
    error_comment: str = "",
    *,
    has_data_set: bool = False,
    further: Mapping[int, bytes] | None = None,
) -> bytes:
    """The command set of a response to `request`; `further` has what its service adds."""
    elements = {
        COMMAND_FIELD: _US.pack(request.command_field | RESPONSE_BIT),
        MESSAGE_ID_BEING_RESPONDED_TO: _US.pack(request.message_id),
        COMMAND_DATA_SET_TYPE: _US.pack(HAS_DATA_SET if has_data_set else NO_DATA_SET),
        STATUS: _US.pack(status),
        **(further or {}),
    }
    sop_class_uid = request.sop_class_uid.encode("latin-1")
    if 0 < len(sop_class_uid) <= 64:
        elements.setdefault(AFFECTED_SOP_CLASS_UID, sop_class_uid)
    if error_comment:
        elements[ERROR_COMMENT] = comment_value(error_comment)
    return encode_command(elements)


def comment_value(text: str) -> bytes:
    """The value of an Error Comment: LO of 64 characters in the default repertoire."""
    value = text.encode("ascii", "replace")[:64]
    return value + b" " * (len(value) % 2)


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
    value = comment_value(text)
    return _ELEMENT.pack(0, element, len(value)) + value
