"""security.md A1 to A5, A8, A13 and reliability.md M1 to M6, on a raw socket."""

from __future__ import annotations

import datetime
import errno
import gc
import os
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from struct import pack
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from interop.dicom.failures import OUT_OF_RESOURCES, Failure
from interop.dimse.c_store import StoreService
from interop.dimse.policy import AssociationLimits
from interop.dimse.scp import Listener
from interop.dimse.transport_guard import TransportLimits

MIB = 1 << 20


def files_below(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


# -- A1 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uid",
    ["../../x", "/etc/x", "..\\x", "1." * 33, "1.2\0../x", "", "1.2.3.", "1.2.3/..", "%2e%2e%2f"],
)
def test_a1_path_traversal_by_uid_cve_2026_56445(
    start: Any, connect: Any, make_ct: Any, uid: str
) -> None:
    running = start()
    root = running.services.objects_root.parent
    sample = make_ct(SOPInstanceUID="1.2.3")
    before = files_below(root)
    # The data set says the same, in a value of the same length, so that only the UID is wrong.
    wanted = uid.encode("latin-1") + b"\0" * (len(uid) % 2)
    old = pack("<HH2sH", 8, 0x18, b"UI", 6) + b"1.2.3\0"
    assert old in sample.dataset
    sample.dataset = sample.dataset.replace(
        old, pack("<HH2sH", 8, 0x18, b"UI", len(wanted)) + wanted
    )
    peer = connect(running.port)
    peer.associate()

    response = peer.store(sample, sop_instance_uid=uid)

    assert response.status >> 12 == 0xC or response.status >> 8 == 0xA9, hex(response.status)
    assert 0 < len(response.comment) <= 64
    assert peer.echo().status == 0
    new = files_below(root) - before
    assert all(running.services.objects_root in path.parents for path in new)
    assert not any("x" == path.name or ".." in path.name for path in new)


@pytest.mark.parametrize("changed", ["command", "data set"])
def test_a1_command_and_data_set_must_name_the_same_instance(
    start: Any, connect: Any, make_ct: Any, changed: str
) -> None:
    peer = connect(start().port)
    peer.associate()
    one, other = make_ct(), make_ct()
    if changed == "command":
        response = peer.store(one, sop_instance_uid="1.2.3.4")
    else:
        response = peer.store(other, sop_instance_uid=one.sop_instance_uid)

    assert response.status >> 8 == 0xA9
    assert response.comment


def test_a_sop_class_other_than_the_contexts_is_refused(
    start: Any, connect: Any, make_ct: Any
) -> None:
    peer = connect(start().port)
    peer.associate()

    response = peer.store(make_ct(), sop_class_uid="1.2.840.10008.5.1.4.1.1.7")

    assert response.status == 0x0122
    assert peer.echo().status == 0


def test_a_store_without_a_data_set_is_refused(start: Any, connect: Any, wire: Any) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3", data_set_type=0x0101))))

    assert peer.response().status >> 12 == 0xC


# -- A2, M1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("length", [0xFFFFFFF0, 400 * MIB, MIB + 1])
def test_a2_m1_a_huge_pdu_is_cut_at_its_header(
    start: Any, connect: Any, rss_growth: Any, when: str, length: int
) -> None:
    peer = connect(start().port)
    kind = 1
    if when == "after":
        peer.associate()
        kind = 4
    block = bytes(16 << 10)
    sent = 0
    with rss_growth() as growth:
        with suppress(OSError):
            peer.send(pack(">BxI", kind, length))
            while sent < 400 * MIB:
                peer.send(block)
                sent += len(block)
        # What the two kernels buffer on the way counts as sent.
        assert sent < 16 * MIB
        assert growth() < 5 * MIB


def test_a2_the_server_itself_reads_less_than_a_mebibyte(
    start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    accept = socket.socket.accept

    class Counting(socket.socket):
        def recv_into(self, *args: Any) -> int:  # type: ignore[override]
            nonlocal read
            received = super().recv_into(*args)
            read += received
            return received

    def counting_accept(self: socket.socket) -> Any:
        connection, address = accept(self)
        return Counting(fileno=connection.detach()), address

    monkeypatch.setattr(socket.socket, "accept", counting_accept)
    peer = connect(start().port)

    with suppress(OSError):
        peer.send(pack(">BxI", 1, 0xFFFFFFF0))
        for _ in range(6400):
            peer.send(bytes(64 << 10))

    assert 0 < read < MIB


# -- A3, M2 -----------------------------------------------------------------------------------


def test_a3_m2_300_half_open_connections_end_and_disturb_nobody(
    start: Any, connect: Any, make_ct: Any, eventually: Any
) -> None:
    running = start(TransportLimits(associate_seconds=3.0, pdu_seconds=3.0))
    attackers = [connect(running.port) for _ in range(300)]
    for number, attacker in enumerate(attackers):
        attacker.send(pack(">BxI", 1, 200)[: number % 7])
    stop = threading.Event()

    def dribble() -> None:
        while not stop.wait(0.2):
            for attacker in attackers[:30]:
                with suppress(OSError):
                    attacker.send(b"\0")

    dribbling = threading.Thread(target=dribble)
    dribbling.start()
    began = time.monotonic()
    good = connect(running.port)
    assert good.associate()[0] == 2
    assert good.store(make_ct()).status == 0
    good.release()
    good_took = time.monotonic() - began

    gone = eventually(lambda: running.listener.connection_count == 0, 15)
    stop.set()
    dribbling.join()

    assert gone, f"{running.listener.connection_count} connections are still open"
    assert good_took < 3
    assert eventually(lambda: "dimse-association" not in {t.name for t in threading.enumerate()})


def test_a3_a_slow_pdu_in_an_association_is_aborted(start: Any, connect: Any) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(pack(">BxI", 4, 100) + b"\0")

    peer.assert_aborted()


def test_a3_a_message_that_creeps_is_aborted(
    start: Any, connect: Any, wire: Any, eventually: Any
) -> None:
    """Each PDU is in time, and the message would still take for ever."""
    running = start(
        TransportLimits(message_grace_seconds=0.5, pdu_seconds=5, message_bytes_per_second=1000)
    )
    peer = connect(running.port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3"))))
    with suppress(OSError):
        for _ in range(200):
            peer.send(wire.pdu(4, wire.pdv(1, 0, b"\0\0")))
            time.sleep(0.05)

    assert eventually(lambda: running.listener.connection_count == 0, 5)


def test_an_idle_association_is_aborted(start: Any, connect: Any) -> None:
    peer = connect(start(TransportLimits(idle_seconds=0.3)).port)
    peer.associate()

    peer.assert_aborted()


def test_the_oldest_half_open_connection_makes_room(
    start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interop.dimse.scp.MAX_PENDING", 5)
    running = start(TransportLimits())
    established = connect(running.port)
    established.associate()
    pending = [connect(running.port) for _ in range(5)]

    good = connect(running.port)

    assert good.associate()[0] == 2
    assert pending[0].receive_pdu() is None
    assert established.echo().status == 0


# -- A4, M5 -----------------------------------------------------------------------------------


def test_a4_m5_fragments_without_an_end_are_aborted_at_the_limit(
    start: Any, connect: Any, wire: Any, rss_growth: Any, eventually: Any
) -> None:
    running = start()
    peer = connect(running.port)
    peer.associate()
    fragment = wire.pdu(4, wire.pdv(1, 0, bytes(128 << 10)))
    sent = 0
    with rss_growth() as growth:
        peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3"))))
        with suppress(OSError):
            while sent < 100 * MIB:
                peer.send(fragment)
                sent += len(fragment)
        assert sent < 60 * MIB
        assert growth() < 10 * MIB

    assert eventually(lambda: running.services.spool_files() == [], 5)


def test_a4_m5_an_object_that_is_cut_off_leaves_no_file(
    start: Any, connect: Any, wire: Any, eventually: Any
) -> None:
    running = start()
    peer = connect(running.port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3"))))
    peer.send(wire.pdu(4, wire.pdv(1, 0, bytes(100_000))))
    assert eventually(lambda: len(running.services.spool_files()) == 1)

    peer.close()

    assert eventually(lambda: running.services.spool_files() == [], 5)


def test_a_command_set_without_an_end_is_aborted(start: Any, connect: Any, wire: Any) -> None:
    peer = connect(start().port)
    peer.associate()
    for _ in range(5):
        with suppress(OSError):
            peer.send(wire.pdu(4, wire.pdv(1, 1, bytes(16_000))))

    peer.assert_aborted()


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 0xA700), (errno.EIO, 0xA700)])
def test_a_disk_that_fails_is_answered_and_the_association_goes_on(
    start: Any,
    connect: Any,
    make_ct: Any,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
) -> None:
    running = start()
    peer = connect(running.port)
    peer.associate()
    write = os.write
    folder = str(running.services.spool_root)

    def failing(descriptor: int, data: Any) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(folder) and len(data) > 5000:
            raise OSError(number, "fault")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing)
    response = peer.store(make_ct(200))
    monkeypatch.undo()

    assert response.status == status
    assert response.comment
    assert running.services.spool_files() == []
    assert peer.store(make_ct(200), message_id=2).status == 0


def test_a_spool_that_is_full_is_answered(
    start: Any, connect: Any, make_ct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    peer = connect(running.port)
    peer.associate()

    def refuse() -> Any:
        raise Failure.of(OUT_OF_RESOURCES, "The disk is nearly full.")

    monkeypatch.setattr(running.services.spool, "writer", refuse)
    assert peer.store(make_ct(200)).status == 0xA700
    monkeypatch.undo()
    assert peer.store(make_ct(200), message_id=2).status == 0


def test_an_empty_data_set_is_refused(start: Any, connect: Any, wire: Any) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3")) + wire.pdv(1, 2, b"")))

    assert peer.response().status >> 12 == 0xC
    assert peer.echo().status == 0


def test_a_fault_of_ours_ends_one_association_only(
    start: Any, connect: Any, make_ct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    peer = connect(running.port)
    peer.associate()

    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(StoreService, "_settle", broken)
    peer.send(b"")
    with pytest.raises(AssertionError, match="PDU of type 7"):
        peer.store(make_ct())
    monkeypatch.undo()

    another = connect(running.port)
    another.associate()
    assert another.store(make_ct()).status == 0


def test_a_connection_for_which_there_is_no_thread_is_dropped(
    start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    begin = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "dimse-association":
            raise RuntimeError("can't start new thread")
        begin(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert connect(running.port).receive_pdu() is None
    monkeypatch.undo()

    assert running.listener.connection_count == 0
    assert connect(running.port).associate()[0] == 2


def test_an_echo_with_a_data_set_is_bounded(start: Any, connect: Any, wire: Any) -> None:
    raw = wire.command(
        (0x0002, wire.even("1.2.840.10008.1.1")),
        (0x0100, pack("<H", 0x0030)),
        (0x0110, b"\1\0"),
        (0x0800, b"\1\0"),
    )
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(3, 3, raw)))
    block = wire.pdu(4, wire.pdv(3, 0, bytes(100_000)))
    with suppress(OSError):
        for _ in range(20):
            peer.send(block)

    peer.assert_aborted(reason=6)


# -- A5 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (0, b"\1\2" + bytes(20)),
        (1, b"\1\2" + bytes(20)),
        (0xFFFFFFFF, b"\1\2" + bytes(20)),
        (500, b"\1\2" + bytes(20)),
        (23, b"\1\2" + bytes(20)),
        (0x80000000, b"\1\3" + bytes(20)),
        (2, b"\1\2\0\0"),
    ],
)
def test_a5_bad_pdv_lengths_are_aborted(
    start: Any, connect: Any, wire: Any, rss_growth: Any, length: int, body: bytes
) -> None:
    peer = connect(start().port)
    peer.associate()
    with rss_growth() as growth:
        peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3"))))
        peer.send(wire.pdu(4, pack(">I", length) + body))

        peer.assert_aborted(reason=6)
        assert growth() < 10 * MIB


def test_a5_an_empty_p_data_is_aborted(start: Any, connect: Any, wire: Any) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, b""))

    peer.assert_aborted(reason=6)


@pytest.mark.parametrize(("context_id", "control"), [(1, 1), (3, 0), (5, 0), (2, 0), (1, 3)])
def test_a5_fragments_that_belong_elsewhere_are_aborted(
    start: Any, connect: Any, wire: Any, context_id: int, control: int
) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3"))))
    peer.send(wire.pdu(4, wire.pdv(context_id, control, b"\0\0")))

    peer.assert_aborted(reason=5)


def test_a5_a_data_set_without_a_command_is_aborted(start: Any, connect: Any, wire: Any) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 2, b"\0\0")))

    peer.assert_aborted(reason=5)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0" * 7, pack("<HHI", 0, 0x0100, 0xFFFFFFFF), pack("<HHIH", 8, 0x0100, 2, 1)],
)
def test_a5_malformed_command_sets_are_aborted(
    start: Any, connect: Any, wire: Any, raw: bytes
) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, raw)))

    peer.assert_aborted(reason=6)


@pytest.mark.parametrize("field", [0x8001, 0x8030])
def test_a5_a_response_that_nobody_asked_for_is_aborted(
    start: Any, connect: Any, wire: Any, field: int
) -> None:
    raw = wire.command(
        (0x0100, pack("<H", field)), (0x0120, b"\1\0"), (0x0800, b"\1\1"), (0x0900, b"\0\0")
    )
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, raw)))

    peer.assert_aborted(reason=5)


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x0010, 0x0100, 0x0140, 0x0666])
@pytest.mark.parametrize("context_id", [1, 3])
def test_a_service_that_is_not_offered_ends_the_association_only(
    start: Any, connect: Any, wire: Any, field: int, context_id: int
) -> None:
    running = start()
    raw = wire.command(
        (0x0002, wire.even("1.2.840.10008.1.1")),
        (0x0100, pack("<H", field)),
        (0x0110, b"\1\0"),
        (0x0700, b"\0\0"),
        (0x0800, b"\1\0"),
    )
    peer = connect(running.port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(context_id, 3, raw) + wire.pdv(context_id, 2, b"\0\0")))

    peer.assert_aborted()
    another = connect(running.port)
    assert another.associate()[0] == 2


def test_a_late_cancel_is_ignored(start: Any, connect: Any, wire: Any) -> None:
    raw = wire.command((0x0100, pack("<H", 0x0FFF)), (0x0120, b"\1\0"), (0x0800, b"\1\1"))
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, raw)))

    assert peer.echo().status == 0


@pytest.mark.parametrize(("kind", "reason"), [(0, 1), (8, 1), (99, 1), (2, 2), (4, 2), (6, 2)])
def test_a5_unexpected_pdus_before_an_association(
    start: Any, connect: Any, wire: Any, kind: int, reason: int
) -> None:
    peer = connect(start().port)
    peer.send(wire.pdu(kind, bytes(4)))

    peer.assert_aborted(reason=reason)


@pytest.mark.parametrize(("kind", "reason"), [(0, 1), (77, 1), (1, 2), (2, 2), (6, 2)])
def test_a5_unexpected_pdus_in_an_association(
    start: Any, connect: Any, wire: Any, kind: int, reason: int
) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(kind, bytes(4)))

    peer.assert_aborted(reason=reason)


def test_a_release_in_the_middle_of_a_message_is_aborted(
    start: Any, connect: Any, wire: Any
) -> None:
    peer = connect(start().port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3"))))
    peer.send(wire.pdu(5, bytes(4)))

    peer.assert_aborted(reason=2)


def test_a5_a_flood_of_empty_syntaxes_costs_nothing(
    start: Any, connect: Any, wire: Any, rss_growth: Any
) -> None:
    good = wire.associate_rq()
    flood = wire.item(0x20, b"\5\0\0\0" + wire.item(0x30, b"1.2") + wire.item(0x40, b"") * 16_000)
    body = good[6:] + flood * 15
    assert 900_000 < len(body) < MIB
    peer = connect(start().port)
    with rss_growth() as growth:
        peer.send(wire.pdu(1, body))

        peer.assert_aborted(reason=6)
        assert growth() < 10 * MIB


def test_a5_duplicate_context_ids_are_aborted(start: Any, connect: Any) -> None:
    contexts = ((1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),) * 2
    peer = connect(start().port)

    peer.send(b"")
    answer = peer.associate(contexts=contexts)

    assert answer is not None
    assert answer[0] == 7


def test_after_all_of_it_the_process_still_serves(start: Any, connect: Any, make_ct: Any) -> None:
    running = start()
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(2000), b"\xff" * 2000, b"\x16\x03\x01\x02"):
        peer = connect(running.port)
        with suppress(OSError):
            peer.send(garbage)
        peer.close()
    peer = connect(running.port)
    peer.associate()

    assert peer.store(make_ct()).status == 0


# -- A8 ---------------------------------------------------------------------------------------


def test_a8_shell_characters_are_only_characters(
    start: Any,
    connect: Any,
    make_ct: Any,
    tenant: Any,
    registered: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    title = "$(touch x)`y`;#"
    registered(title)
    running = start()
    name = "$(touch pwned)^`touch pwned`;|& touch pwned"
    sample = make_ct(PatientName=name, PatientID="A8")
    peer = connect(running.port)
    assert peer.associate(calling=title)[0] == 2

    assert peer.store(sample).status in (0, 0xB000, 0xB010)

    with running.services.database.connection(tenant.id) as connection:
        found = connection.execute(
            "SELECT s.patient_name, o.source_ae_title FROM imaging_objects o"
            " JOIN imaging_studies s ON s.tenant_id = o.tenant_id AND s.id = o.study_id"
            " WHERE o.tenant_id = %s AND o.sop_instance_uid = %s",
            (tenant.id, sample.sop_instance_uid),
        ).fetchone()
    assert found == (name, title)
    assert {path.suffix for path in tmp_path.iterdir()} == {".dcm"}


@pytest.mark.parametrize("title", ["a\nb", "\x00\x01", "é" * 8, "x\\y", "' OR 1=1 --"])
def test_a9_odd_ae_titles_are_rejected_as_unknown(start: Any, connect: Any, title: str) -> None:
    peer = connect(start().port)
    assert peer.associate(calling=title) == (3, b"\0\1\1\3")
    peer = connect(start().port)
    assert peer.associate(called=title) == (3, b"\0\1\1\7")


# -- what is not served -----------------------------------------------------------------------

# Patient/Study Only (retired), and the worklist of PS3.4 K.6.
NOT_SERVED = [
    *(f"1.2.840.10008.5.1.4.1.2.3.{n}" for n in (1, 2, 3)),
    "1.2.840.10008.5.1.4.31",
]


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x0010, 0x0130])
def test_a_service_is_had_only_in_a_context_of_its_own(
    start: Any, connect: Any, wire: Any, field: int
) -> None:
    contexts = tuple(
        (2 * number + 1, uid, ("1.2.840.10008.1.2",))
        for number, uid in enumerate([*NOT_SERVED, "1.2.840.10008.1.1"])
    )
    peer = connect(start().port)

    kind, accept = peer.associate(contexts=contexts)

    assert kind == 2
    assert _context_results(accept) == [3] * len(NOT_SERVED) + [0]
    verification = contexts[-1][0]
    request = wire.command(
        (0x0002, wire.even("1.2.840.10008.5.1.4.1.2.1.1")),
        (0x0100, pack("<H", field)),
        (0x0110, pack("<H", 1)),
        (0x0600, b"EVIL_HOST "),
        (0x0700, pack("<H", 0)),
        (0x0800, pack("<H", 1)),
    )
    peer.send(wire.pdu(4, wire.pdv(verification, 3, request)))
    peer.assert_aborted()


def _context_results(accept: bytes) -> list[int]:
    at, found = 68, []
    while at < len(accept):
        kind, length = accept[at], int.from_bytes(accept[at + 2 : at + 4], "big")
        if kind == 0x21:
            found.append(accept[at + 6])
        at += 4 + length
    return found


# -- A13, M3b ---------------------------------------------------------------------------------


@pytest.fixture
def tls_pair(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server, client) with a certificate made for this test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(pem)
    return server, client


def test_a13_m3b_silent_tls_clients_do_not_stop_the_listener(
    start: Any, connect: Any, make_ct: Any, tls_pair: Any, eventually: Any
) -> None:
    server, client = tls_pair
    running = start(tls_context=lambda: server)
    silent = [connect(running.port) for _ in range(10)]
    began = time.monotonic()
    good = connect(running.port)
    good.socket = client.wrap_socket(good.socket)

    assert good.associate()[0] == 2
    associated_after = time.monotonic() - began
    for number in range(3):
        assert good.store(make_ct(400), message_id=number).status == 0
    good.release()

    assert associated_after < 1
    assert [peer.receive_pdu() for peer in silent] == [None] * 10
    assert eventually(lambda: running.listener.connection_count == 0)


def test_m1_m2_the_guard_works_over_tls(start: Any, connect: Any, tls_pair: Any) -> None:
    server, client = tls_pair
    running = start(tls_context=lambda: server)
    huge, slow = connect(running.port), connect(running.port)
    for peer in (huge, slow):
        peer.socket = client.wrap_socket(peer.socket)
    huge.send(pack(">BxI", 1, 400 * MIB))
    slow.send(pack(">BxI", 1, 200) + b"half")

    for peer in (huge, slow):
        received = peer.receive_pdu()
        assert received is None or received[0] == 7


# -- M6 ---------------------------------------------------------------------------------------


def test_m6_a_burst_of_connections_is_not_dropped(start: Any, connect: Any) -> None:
    running = start(
        TransportLimits(), AssociationLimits(per_process=250, per_tenant=250, per_peer=250)
    )
    peers = [connect(running.port) for _ in range(200)]
    for peer in peers:
        peer.send(_verification_only())

    answers = [peer.receive_pdu(30) for peer in peers]

    assert {answer[0] for answer in answers if answer} == {2}
    assert all(answers)


def _verification_only() -> bytes:
    titles = b"INTEROP".ljust(16) + b"PEER".ljust(16)
    context = b"\1\0\0\0" + b"".join(
        pack(">BxH", kind, len(uid)) + uid
        for kind, uid in ((0x30, b"1.2.840.10008.1.1"), (0x40, b"1.2.840.10008.1.2"))
    )
    user = pack(">BxHI", 0x51, 4, 0) + pack(">BxH", 0x52, 5) + b"1.2.3"
    items = b"".join(
        pack(">BxH", kind, len(value)) + value
        for kind, value in ((0x10, b"1.2.840.10008.3.1.1.1"), (0x20, context), (0x50, user))
    )
    body = b"\0\1\0\0" + titles + bytes(32) + items
    return pack(">BxI", 1, len(body)) + body


def test_a_broken_listener_socket_is_not_silent(start: Any) -> None:
    """Two listeners share a port only when both say so."""
    running = start()
    with pytest.raises(OSError):
        Listener(running.listener._context, "127.0.0.1", running.port, reuse_port=False)
    Listener(running.listener._context, "127.0.0.1", running.port, reuse_port=True).close()


# -- A6 ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("is_associated", [True, False])
def test_a6_repeated_associations_leak_nothing(
    start: Any, wire: Any, eventually: Any, is_associated: bool
) -> None:
    running = start()
    process = psutil.Process()
    request = wire.associate_rq()

    def cycles(count: int) -> int:
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", running.port), timeout=10) as peer:
                if is_associated:
                    peer.sendall(request)
                    assert peer.recv(1) == b"\2"
                    peer.sendall(wire.pdu(7, bytes(4)))
        assert eventually(lambda: running.listener.connection_count == 0)
        gc.collect()
        return int(process.memory_info().rss)

    before, descriptors = cycles(500), process.num_fds()
    after = cycles(2000)

    assert after - before < 2000 * 1024
    assert process.num_fds() < descriptors + 50
