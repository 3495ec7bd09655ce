"""The command set is read strictly, and the C-STORE-RSP is byte for byte what pynetdicom makes."""

from __future__ import annotations

from io import BytesIO
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ as StoreRequestMessage
from pynetdicom.dimse_messages import C_STORE_RSP as StoreResponseMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from interop.dimse.command_set import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    C_STORE_RQ,
    Command,
    parse_command,
    store_response,
)
from interop.dimse.transport_guard import ProtocolViolation

CT = "1.2.840.10008.5.1.4.1.1.2"


def element(group: int, number: int, value: bytes) -> bytes:
    return pack("<HHI", group, number, len(value)) + value


def request_bytes(message_id: int = 7, instance: str = "1.2.3") -> bytes:
    request = C_STORE()
    request.MessageID = message_id
    request.AffectedSOPClassUID = CT
    request.AffectedSOPInstanceUID = instance
    request.Priority = 0
    request.DataSet = BytesIO(b"\0\0")
    message = StoreRequestMessage()
    message.primitive_to_message(request)
    pdu = next(iter(message.encode_msg(1, 0)))
    return bytes(pdu.presentation_data_value_list[0][1][1:])


def test_a_request_of_pynetdicom_is_read() -> None:
    command = parse_command(request_bytes(message_id=513))

    assert command.command_field == C_STORE_RQ
    assert command.message_id == 513
    assert command.has_data_set
    assert command.uid(AFFECTED_SOP_CLASS_UID) == CT
    assert command.uid(AFFECTED_SOP_INSTANCE_UID) == "1.2.3"


@pytest.mark.parametrize(
    ("status", "comment"),
    [(0x0000, ""), (0xA700, "The spool's disk is full"), (0xC000, "odd"), (0xB010, "x" * 64)],
)
def test_the_response_is_what_pynetdicom_would_send(status: int, comment: str) -> None:
    response = C_STORE()
    response.MessageIDBeingRespondedTo = 7
    response.AffectedSOPClassUID = CT
    response.AffectedSOPInstanceUID = "1.2.3"
    response.Status = status
    if comment:
        response.ErrorComment = comment
    message = StoreResponseMessage()
    message.primitive_to_message(response)
    expected = P_DATA_TF(next(iter(message.encode_msg(5, 0)))).encode()

    assert store_response(5, parse_command(request_bytes()), status, comment) == expected


def test_the_response_leaves_out_a_uid_that_cannot_be_one() -> None:
    request = Command(C_STORE_RQ, 1, True, {AFFECTED_SOP_INSTANCE_UID: b"1." * 40})

    assert b"1.1." not in store_response(1, request, 0, "")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0",
        element(0, 0x0100, b"\1\0"),
        element(8, 0x0100, b"\1\0"),
        element(0, 0x0100, b"\1\0")[:-1],
        element(0, 0x0100, b"\1\0") * 2 + element(0, 0x0110, b"\1\0"),
        element(0, 0x0100, b"\1") + element(0, 0x0110, b"\1\0") + element(0, 0x0800, b"\1\1"),
        pack("<HHI", 0, 0x0100, 0xFFFFFFFF) + b"\1\0",
    ],
)
def test_a_malformed_command_set_is_a_protocol_violation(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse_command(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        parse_command(raw)
    except ProtocolViolation:
        pass
