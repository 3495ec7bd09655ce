"""C-FIND on a raw socket: cancel, release, several requests at once, hostile identifiers (A7)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from io import BytesIO
from struct import pack, unpack_from
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset

from tests.integration.dimse.finding import (
    PATIENT_ROOT,
    STUDY_ROOT,
    Archive,
    filled,
    identifier,
    listening,
    query,
    with_user_item,
)

IMPLICIT = "1.2.840.10008.1.2"
VERIFICATION = "1.2.840.10008.1.1"
# Context ids as `associate_rq` of conftest gives them here.
FIND, ECHO = 1, 3
NO_DATA_SET, HAS_DATA_SET = 0x0101, 0x0001


@pytest.fixture(scope="module")
def archive(services: Any, tenant: Any, other_tenant: Any) -> Archive:
    return filled(services, tenant, other_tenant)


@pytest.fixture(scope="module")
def port(services: Any, archive: Archive) -> Iterator[int]:
    with listening(services) as found:
        yield found


@pytest.fixture
def peer(connect: Any, port: int, wire: Any) -> Any:
    """Associated for C-FIND and C-ECHO, with room for five operations."""
    opened = connect(port)
    request = wire.associate_rq(
        contexts=((FIND, STUDY_ROOT, (IMPLICIT,)), (ECHO, VERIFICATION, (IMPLICIT,)))
    )
    window = pack(">BxHHH", 0x53, 4, 5, 1)
    opened.send(with_user_item(request, window))
    kind, accept = opened.receive_pdu()
    assert kind == 2
    assert pack(">BxHHH", 0x53, 4, 5, 1) in accept
    return opened


@pytest.fixture
def send_find(wire: Any) -> Callable[..., bytes]:
    """The PDUs of a C-FIND-RQ."""

    def encode(asked: bytes | Dataset, message_id: int = 1, data_set_type: int = 1) -> bytes:
        raw = encoded(asked) if isinstance(asked, Dataset) else asked
        command = wire.command(
            (0x0002, wire.even(STUDY_ROOT)),
            (0x0100, pack("<H", 0x0020)),
            (0x0110, pack("<H", message_id)),
            (0x0700, pack("<H", 0)),
            (0x0800, pack("<H", data_set_type)),
        )
        pdus: bytes = wire.pdu(4, wire.pdv(FIND, 3, command))
        if data_set_type != NO_DATA_SET:
            pieces = [raw[at : at + 60_000] for at in range(0, len(raw) or 1, 60_000)]
            for piece in pieces:
                pdus += wire.pdu(4, wire.pdv(FIND, 2 * (piece is pieces[-1]), piece))
        return pdus

    return encode


@pytest.fixture
def cancel(wire: Any) -> Callable[[int], bytes]:
    def encode(message_id: int) -> bytes:
        command = wire.command(
            (0x0100, pack("<H", 0x0FFF)),
            (0x0120, pack("<H", message_id)),
            (0x0800, pack("<H", NO_DATA_SET)),
        )
        pdus: bytes = wire.pdu(4, wire.pdv(FIND, 3, command))
        return pdus

    return encode


def encoded(asked: Dataset) -> bytes:
    target = DicomIO(BytesIO())
    target.is_little_endian, target.is_implicit_VR = True, True
    write_dataset(target, asked)
    return bytes(target.parent.getvalue())  # type: ignore[attr-defined]


def final_status(peer: Any, message_id: int = 1) -> tuple[int, int]:
    """The last status of an operation, and how many matches came before it."""
    matches = 0
    while True:
        response = peer.response()
        assert unpack_from("<H", response.elements[0x0120])[0] == message_id
        if response.status >> 8 != 0xFF:
            return response.status, matches
        kind, _ = peer.receive_pdu()
        assert kind == 4
        matches += 1


ALL = identifier("STUDY", StudyInstanceUID="")


# -- cancel, release, several operations ----------------------------------------------------------


def test_a_cancel_that_is_there_ends_the_query_at_once(
    peer: Any, send_find: Any, cancel: Any
) -> None:
    peer.send(send_find(ALL, 7) + cancel(7))

    assert final_status(peer, 7) == (0xFE00, 0)
    assert peer.echo().status == 0


def test_a_cancel_of_something_else_changes_nothing(peer: Any, send_find: Any, cancel: Any) -> None:
    peer.send(cancel(7) + send_find(ALL, 8) + cancel(6))

    assert final_status(peer, 8) == (0, 3)
    assert peer.echo().status == 0


def test_a_release_behind_a_query_ends_both(peer: Any, send_find: Any, wire: Any) -> None:
    peer.send(send_find(ALL) + wire.pdu(5, bytes(4)))

    assert final_status(peer) == (0xFE00, 0)
    assert peer.receive_pdu() == (6, bytes(4))
    assert peer.receive_pdu() is None


def test_several_operations_at_once_are_served_in_their_order(
    peer: Any, send_find: Any, wire: Any, cancel: Any
) -> None:
    echo = wire.command(
        (0x0002, wire.even(VERIFICATION)),
        (0x0100, pack("<H", 0x0030)),
        (0x0110, pack("<H", 3)),
        (0x0800, pack("<H", NO_DATA_SET)),
    )

    peer.send(
        send_find(ALL, 1)
        + send_find(identifier("STUDY", PatientID="P2"), 2)
        + wire.pdu(4, wire.pdv(ECHO, 3, echo))
        + send_find(ALL, 4)
        + cancel(4)
    )

    assert final_status(peer, 1) == (0, 3)
    assert final_status(peer, 2) == (0, 1)
    assert peer.response().status == 0
    assert final_status(peer, 4) == (0xFE00, 0)


def test_an_abort_in_the_middle_of_a_query_ends_it(
    peer: Any, send_find: Any, wire: Any, connect: Any, port: int
) -> None:
    peer.send(send_find(ALL) + wire.pdu(7, bytes(4)))

    assert peer.receive_pdu() is None
    other = connect(port)
    assert other.associate()[0] == 2


# -- A7 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"PatientID": "*"},
        {"PatientID": "P1"},
        {"PatientName": "FOREIGN^CANARY"},
        {"PatientName": "*CANARY*"},
        {"PatientName": ""},
        {"PatientID": "' OR '1'='1"},
        {"PatientID": "%"},
        {"AccessionNumber": "_1"},
    ],
)
@pytest.mark.parametrize("sop_class", [STUDY_ROOT, PATIENT_ROOT])
def test_a7_a_query_never_crosses_to_another_tenant(
    port: int, archive: Archive, keys: dict[str, str], sop_class: str
) -> None:
    """DCMTK CVE-2026-52868: a query that reaches another storage area."""
    asked = identifier("STUDY", **{"StudyInstanceUID": "", "PatientName": "", **keys})

    found = query(port, asked, sop_class, extended=b"\1")
    exact = query(port, identifier("STUDY", StudyInstanceUID=archive["foreign"].uid))

    own = {archive[name].uid for name in ("ct", "old", "umlaut")}
    assert {match.StudyInstanceUID for match in found.matches} <= own
    assert "CANARY" not in str(found.matches)
    # As if it did not exist.
    assert (exact.status.Status, exact.matches) == (0, [])


@pytest.mark.parametrize("title", ["../OTHER", "OTHER/..", "INTEROP;OTHER", "*", "%"])
def test_a7_an_ae_title_with_a_path_is_nobodys(connect: Any, port: int, title: str) -> None:
    assert connect(port).associate(called=title) == (3, b"\0\1\1\7")


def test_a7_the_same_entity_sees_of_each_tenant_only_its_own(port: int, archive: Archive) -> None:
    asked = identifier("STUDY", StudyInstanceUID="")

    other = query(port, asked, called="OTHER")

    assert other.values("StudyInstanceUID") == [archive["foreign"].uid]


# -- hostile identifiers --------------------------------------------------------------------------


def element(group: int, number: int, value: bytes) -> bytes:
    return pack("<HHI", group, number, len(value)) + value


LEVEL = element(0x0008, 0x0052, b"STUDY ")


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        item = pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        inner = element(0x0040, 0x0275, item)
    return inner


HOSTILE = {
    "nothing at all": b"",
    "cut off": LEVEL[:-3],
    "a length beyond the end": LEVEL + pack("<HHI", 0x0010, 0x0010, 0x7FFFFFF0),
    "undefined length without an end": LEVEL + pack("<HHI", 0x0040, 0x0275, 0xFFFFFFFF),
    "depth 200": LEVEL + nested(200),
    "5000 keys": LEVEL + b"".join(element(0x0019, n, b"") for n in range(0x1000, 0x2388)),
    "a flood of items": LEVEL + element(0x0040, 0x0275, pack("<HHI", 0xFFFE, 0xE000, 0) * 20_000),
    "a name of 200 kB": LEVEL + element(0x0010, 0x0010, b"A" * 200_000),
    "two items": LEVEL
    + element(
        0x0040, 0x0275, 2 * (pack("<HHI", 0xFFFE, 0xE000, 12) + element(0x0040, 0x0009, b"A1  "))
    ),
    "100,000 UIDs": LEVEL + element(0x0020, 0x000D, b"\\".join([b"1.2.3.45"] * 100_000)),
    "NUL in a name": LEVEL + element(0x0010, 0x0010, b"DO\0E"),
    "escape sequences without a set": LEVEL + element(0x0010, 0x0010, b"\x1b$B\x1b(J;3ED"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_identifier_gets_a_status_and_the_association_lives(
    peer: Any, send_find: Any, rss_growth: Any, name: str
) -> None:
    with rss_growth() as growth:
        peer.send(send_find(HOSTILE[name]))
        status, matches = final_status(peer)

        assert growth() < 64 << 20
    assert status in (0, 0xA700, 0xA900, 0xC000)
    assert status != 0 or matches <= 3
    assert peer.echo().status == 0


def test_an_identifier_above_a_mebibyte_is_cut(peer: Any, send_find: Any) -> None:
    peer.send(send_find(LEVEL + element(0x0010, 0x0010, b"A" * (2 << 20))))

    peer.assert_aborted()


def test_a_query_without_an_identifier_is_refused(peer: Any, send_find: Any) -> None:
    peer.send(send_find(b"", data_set_type=NO_DATA_SET))

    assert final_status(peer) == (0xC000, 0)


def test_random_identifiers_get_a_status(peer: Any, send_find: Any) -> None:
    chance = random.Random(20261123)
    good = encoded(identifier("STUDY", PatientName="DOE*", StudyDate="20260101-"))
    for _ in range(300):
        raw = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        peer.send(send_find(bytes(raw)))

        assert final_status(peer)[0] in (0, 0xA700, 0xA900, 0xC000), raw.hex()
    assert peer.echo().status == 0
