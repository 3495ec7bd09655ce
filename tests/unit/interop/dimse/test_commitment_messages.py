"""Action and Event Information: what strangers may send, and what we answer with."""

from __future__ import annotations

import time
from struct import pack

import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from interop.dimse.commitment_messages import (
    MAX_REFERENCES,
    Failed,
    InvalidMessage,
    Reference,
    Report,
    Request,
    decode_report,
    decode_request,
    encoded,
    report_data_set,
    request_data_set,
)

IMPLICIT = str(ImplicitVRLittleEndian)
SYNTAXES = [IMPLICIT, str(ExplicitVRLittleEndian), str(ExplicitVRBigEndian)]
ONE, OTHER = Reference("1.2.840.1", "1.2.3"), Reference("1.2.840.2", "1.2.4")


def element(group: int, number: int, value: bytes) -> bytes:
    return pack("<HHI", group, number, len(value)) + value


def item(*elements: bytes) -> bytes:
    return element(0xFFFE, 0xE000, b"".join(elements))


def request(uid: bytes, *items: bytes) -> bytes:
    """Action Information in Implicit VR Little Endian, of whatever bytes."""
    return element(0x0008, 0x1195, uid) + element(0x0008, 0x1199, b"".join(items))


def reference(class_uid: bytes, instance_uid: bytes) -> bytes:
    return item(element(0x0008, 0x1150, class_uid), element(0x0008, 0x1155, instance_uid))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_written_is_read(syntax: str) -> None:
    asked = Request("1.2.5", (ONE, OTHER))
    told = Report("1.2.5", (ONE,), (Failed(OTHER, 0x0112),))

    assert decode_request(encoded(request_data_set(asked), syntax), syntax) == asked
    assert decode_report(encoded(report_data_set(told), syntax), syntax) == told
    assert told.event_type == 2
    assert Report("1.2.5", (ONE,), ()).event_type == 1


def test_what_is_no_uid_is_taken_and_named_as_it_was_sent() -> None:
    asked = decode_request(request(b"1.2\0", reference(b"1.2 ", b"no UID")), IMPLICIT)

    assert asked == Request("1.2", (Reference("1.2", "no UID"),))
    told = Report("1.2", (), (Failed(asked.references[0], 0x0112),))
    assert b"no UID" in encoded(report_data_set(told), IMPLICIT)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\xff" * 40, 0x0110),
        (b"", 0x0115),
        (request(b"1.2"), 0x0115),
        (request(b"", reference(b"1.2", b"1.2")), 0x0115),
        (request(b"1.2/../..", reference(b"1.2", b"1.2")), 0x0115),
        (request(b"1.2", reference(b"1.2", b"")), 0x0115),
        (request(b"1.2", reference(b"1.2", b"1." * 40)), 0x0115),
        (request(b"1.2", reference(b"1.2", b"1\x002")), 0x0115),
        (request(b"1.2", item()), 0x0115),
        (request(b"1.2", *[reference(b"1", b"2")] * (MAX_REFERENCES + 1)), 0x0213),
    ],
)
def test_what_cannot_be_a_request_has_a_status(raw: bytes, status: int) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode_request(raw, IMPLICIT)

    assert refused.value.status == status


def test_as_many_references_as_are_taken_are_read() -> None:
    told = Report(
        "1.2.5",
        tuple(Reference("1.2.840.1", f"1.2.{n}") for n in range(MAX_REFERENCES // 2)),
        tuple(Failed(Reference("1.2.840.1", f"1.3.{n}"), 0x0112) for n in range(5_000)),
    )

    assert decode_report(encoded(report_data_set(told), IMPLICIT), IMPLICIT) == told


@pytest.mark.parametrize(
    "raw",
    [
        request(b"1.2\0", item() * 125_000),
        request(b"1.2\0", item(element(0x0008, 0x1115, item() * 1_000)) * 100),
        b"".join(element(0x0009, 0x1000 + n % 0x1000, b"") for n in range(125_000)),
        b"".join(pack("<HHI", 0x0008, 0x1199, 16 * (60_000 - n)) for n in range(60_000)),
    ],
    ids=["empty items", "items in items", "elements", "depth"],
)
def test_b3_a_megabyte_of_nothing_costs_nothing(raw: bytes) -> None:
    assert len(raw) <= 1 << 20
    began = time.process_time()

    with pytest.raises(InvalidMessage):
        decode_request(raw, IMPLICIT)

    assert time.process_time() - began < 0.5
