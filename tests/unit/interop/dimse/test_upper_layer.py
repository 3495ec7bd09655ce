"""Small PDUs are byte for byte pynetdicom's; an A-ASSOCIATE-RQ is checked before decoding."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP

from interop.dimse.transport_guard import ProtocolViolation
from interop.dimse.upper_layer import (
    A_RELEASE_RP as RELEASE_RP_PDU,
)
from interop.dimse.upper_layer import abort_pdu, reject_pdu, scan_associate_request

VERIFICATION = b"1.2.840.10008.1.1"
IMPLICIT = b"1.2.840.10008.1.2"


def item(kind: int, value: bytes) -> bytes:
    return pack(">BxH", kind, len(value)) + value


def context(number: int, abstract: bytes = VERIFICATION, *transfer: bytes) -> bytes:
    syntaxes = b"".join(item(0x40, t) for t in (transfer or (IMPLICIT,)))
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract) + syntaxes)


USER = item(0x50, item(0x51, pack(">I", 16384)) + item(0x52, b"1.2.3"))
NAME = item(0x10, b"1.2.840.10008.3.1.1.1")


def body(*items: bytes, called: bytes = b"INTEROP", calling: bytes = b"PEER") -> bytes:
    return b"\0\1\0\0" + called.ljust(16) + calling.ljust(16) + bytes(32) + NAME + b"".join(items)


def test_a_abort_is_encoded_as_pynetdicom_does() -> None:
    theirs = A_ABORT_RQ()
    theirs.source, theirs.reason_diagnostic = 2, 6

    assert abort_pdu(6) == theirs.encode()


def test_a_associate_rj_is_encoded_as_pynetdicom_does() -> None:
    theirs = A_ASSOCIATE_RJ()
    theirs.result, theirs.source, theirs.reason_diagnostic = 2, 3, 2

    assert reject_pdu(2, 3, 2) == theirs.encode()


def test_a_release_rp_is_encoded_as_pynetdicom_does() -> None:
    assert A_RELEASE_RP().encode() == RELEASE_RP_PDU


def test_a_good_request_passes_and_decodes() -> None:
    scanned = scan_associate_request(body(context(1), context(3), USER))

    decoded = A_ASSOCIATE_RQ()
    decoded.decode(scanned.pdu)
    assert (scanned.called_ae_title, scanned.calling_ae_title) == ("INTEROP", "PEER")
    assert [c.context_id for c in decoded.presentation_context] == [1, 3]


def test_items_that_the_standard_does_not_have_are_ignored() -> None:
    user = item(0x50, item(0x51, pack(">I", 16384)) + item(0x52, b"1.2.3") + item(0x99, b"new"))

    scanned = scan_associate_request(body(item(0x77, b"new"), context(1), user))

    assert b"new" not in scanned.pdu
    A_ASSOCIATE_RQ().decode(scanned.pdu)


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        bytes(67),
        body(USER),
        body(context(1)),
        body(context(1), USER, USER),
        body(context(1), context(1), USER),
        body(context(2), USER),
        body(context(1, b""), USER),
        body(context(1, b"1" * 66), USER),
        body(context(1, VERIFICATION, b""), USER),
        body(context(1, VERIFICATION, *([IMPLICIT] * 129)), USER),
        body(item(0x20, b"\1\0\0\0" + item(0x30, VERIFICATION)), USER),
        body(item(0x20, b"\1\0\0\0" + item(0x40, IMPLICIT)), USER),
        body(item(0x20, b"\1\0"), USER),
        body(item(0x20, b"\1\0\0\0" + pack(">BxH", 0x30, 0xFFFF)), USER),
        body(context(1), pack(">BxH", 0x50, 0xFFFF)),
        body(context(1), USER, b"\x10"),
        body(context(1), item(0x50, item(0x51, b"\0\0\1\0") + item(0x53, b"") * 2000)),
    ],
)
def test_a5_malformed_items_are_a_protocol_violation(hostile: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        scan_associate_request(hostile)


@given(st.binary(max_size=400))
def test_any_items_are_checked_or_refused(items: bytes) -> None:
    try:
        scan_associate_request(body(context(1), USER, items))
    except ProtocolViolation:
        pass
