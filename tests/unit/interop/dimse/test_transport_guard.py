"""Limits and deadlines of the guard, over real sockets."""

from __future__ import annotations

import ast
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from pynetdicom.presentation import build_context

import interop.dimse
from interop.dimse.transport_guard import (
    ConnectionLost,
    DeadlineExceeded,
    GuardedApplicationEntity,
    GuardedAssociationSocket,
    HandshakeFailed,
    Link,
    ProtocolViolation,
    TransportLimits,
)

QUICK = TransportLimits(
    handshake_seconds=0.3, associate_seconds=0.4, pdu_seconds=0.4, idle_seconds=0.4
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(ours, the peer's) over loopback TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    yield ours, peer
    ours.close()
    peer.close()


@pytest.fixture
def silent_server() -> Iterator[Any]:
    """A server that sends the given bytes and then nothing; yields a starter that returns ports."""
    listening: list[socket.socket] = []
    accepted: list[socket.socket] = []

    def start(answer: bytes, endless: bytes = b"") -> int:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def run() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                accepted.append(connection)
                connection.recv(65536)
                connection.sendall(answer)
                while endless:
                    connection.sendall(endless)

        threading.Thread(target=run, daemon=True).start()
        return int(server.getsockname()[1])

    yield start
    for one in (*listening, *accepted):
        one.close()


def soon(seconds: float = 0.4) -> float:
    return time.monotonic() + seconds


def test_pdus_are_read_whole_whatever_the_pieces(pair: tuple[socket.socket, ...]) -> None:
    ours, peer = pair
    link = Link(ours, QUICK)
    bodies = [bytes([n]) * size for n, size in enumerate((10, 40_000, 0, 3, 100_000))]
    stream = b"".join(pack(">BxI", 4, len(b)) + b for b in bodies)

    def dribble() -> None:
        for at in range(0, len(stream), 7777):
            peer.sendall(stream[at : at + 7777])

    threading.Thread(target=dribble).start()
    received = []
    for _ in bodies:
        kind, length = link.next_pdu(soon(5))
        assert kind == 4
        received.append(bytes(link.read(length)))

    assert received == bodies


def test_every_receive_is_acknowledged_at_once(
    pair: tuple[socket.socket, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a sender with Nagle on (DCMTK) waits 40 ms for each of our ACKs."""
    ours, peer = pair

    class Counting(socket.socket):
        receives = 0
        quick_acknowledgements = 0

        def recv_into(self, *args: Any) -> int:  # type: ignore[override]
            self.receives += 1
            return super().recv_into(*args)

        def setsockopt(self, *args: Any) -> None:  # type: ignore[override]
            self.quick_acknowledgements += args[1] == socket.TCP_QUICKACK
            super().setsockopt(*args)

    counting = Counting(fileno=ours.detach())
    link = Link(counting, QUICK)
    for _ in range(20):
        peer.sendall(pack(">BxI", 4, 4) + b"data")
        link.next_pdu(soon(5))
        link.read(4)

    assert counting.receives >= 20
    assert counting.quick_acknowledgements == counting.receives
    assert counting.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    counting.close()


def test_a_pdu_longer_than_the_limit_is_refused_at_its_header(
    pair: tuple[socket.socket, ...],
) -> None:
    ours, peer = pair
    peer.sendall(pack(">BxI", 1, 0xFFFFFFF0))

    with pytest.raises(ProtocolViolation, match="4294967280"):
        Link(ours, QUICK).next_pdu(soon(5))


@pytest.mark.parametrize("sent", [b"", b"\1", b"\1\0\0\0\0\x08", b"\1\0\0\0\0\x08half"])
def test_silence_ends_at_the_deadline(pair: tuple[socket.socket, ...], sent: bytes) -> None:
    ours, peer = pair
    peer.sendall(sent)
    link = Link(ours, QUICK)
    began = time.monotonic()

    with pytest.raises(DeadlineExceeded):
        _, length = link.next_pdu(soon())
        link.read(length)

    assert time.monotonic() - began < 3


def test_dribbling_does_not_move_the_deadline(pair: tuple[socket.socket, ...]) -> None:
    ours, peer = pair
    link = Link(ours, QUICK)
    stop = threading.Event()

    def dribble() -> None:
        with suppress(OSError):
            peer.sendall(pack(">BxI", 4, 1000))
            while not stop.wait(0.02):
                peer.sendall(b"x")

    thread = threading.Thread(target=dribble)
    thread.start()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        _, length = link.next_pdu(soon())
        link.read(length)
    stop.set()
    thread.join()

    assert 0.3 < time.monotonic() - began < 3


def test_finish_by_caps_the_time_of_a_pdu(pair: tuple[socket.socket, ...]) -> None:
    ours, peer = pair
    peer.sendall(pack(">BxI", 1, 100))
    link = Link(ours, TransportLimits(pdu_seconds=60))
    began = time.monotonic()

    with pytest.raises(DeadlineExceeded):
        _, length = link.next_pdu(soon(0.2), soon(0.2))
        link.read(length)

    assert time.monotonic() - began < 5


def test_the_end_of_the_connection_is_an_error(pair: tuple[socket.socket, ...]) -> None:
    ours, peer = pair
    peer.sendall(b"\4\0\0")
    peer.close()

    with pytest.raises(ConnectionLost):
        Link(ours, QUICK).next_pdu(soon(5))


def test_a_reset_is_an_error(pair: tuple[socket.socket, ...]) -> None:
    ours, peer = pair
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    peer.close()
    link = Link(ours, QUICK)

    with pytest.raises(ConnectionLost):
        link.next_pdu(soon(5))
    with pytest.raises(ConnectionLost):
        for _ in range(100):
            link.send(b"answer")


def test_a_peer_that_takes_no_answer_is_given_up(pair: tuple[socket.socket, ...]) -> None:
    ours, _ = pair
    link = Link(ours, QUICK)

    with pytest.raises(DeadlineExceeded):
        link.send(bytes(64 << 20))


def test_interrupt_says_farewell_and_ends_the_reader(pair: tuple[socket.socket, ...]) -> None:
    ours, peer = pair
    link = Link(ours, TransportLimits())
    threading.Timer(0.1, link.interrupt, (b"bye",)).start()

    with pytest.raises(ConnectionLost):
        link.next_pdu(soon(30))

    assert peer.recv(10) == b"bye"
    link.close(linger=True)


def test_the_last_answer_survives_what_the_peer_still_sends(
    pair: tuple[socket.socket, ...],
) -> None:
    ours, peer = pair
    peer.sendall(bytes(100_000))
    link = Link(ours, QUICK)
    link.send(b"farewell")

    link.close(linger=True)

    assert peer.recv(100) == b"farewell"


def test_lingering_ends(pair: tuple[socket.socket, ...]) -> None:
    ours, _ = pair
    began = time.monotonic()

    Link(ours, QUICK).close(linger=True)

    assert time.monotonic() - began < 3


def test_a_silent_tls_client_is_given_up(pair: tuple[socket.socket, ...]) -> None:
    ours, _ = pair
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wrapped = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
    link = Link(wrapped, QUICK)
    began = time.monotonic()

    with pytest.raises(HandshakeFailed):
        link.handshake()

    assert time.monotonic() - began < 3
    link.close()


def test_a_client_that_does_not_speak_tls_is_an_error(pair: tuple[socket.socket, ...]) -> None:
    ours, peer = pair
    peer.sendall(b"\1\0\0\0\0\x08not TLS at all")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wrapped = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
    link = Link(wrapped, QUICK)

    with pytest.raises(HandshakeFailed):
        link.handshake()
    link.close()


# -- pynetdicom's requestor -------------------------------------------------------------------


def associate(port: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(GuardedAssociationSocket, "limits", QUICK)
    entity = GuardedApplicationEntity("US")
    entity.acse_timeout = 10
    contexts = [build_context("1.2.840.10008.1.1")]
    return entity.associate("127.0.0.1", port, contexts=contexts)


def test_m1_pynetdicom_reads_no_huge_pdu_through_the_guard(
    silent_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when pynetdicom stops using the guarded socket: it would wait for 400 MiB."""
    port = silent_server(pack(">BxI", 2, 400 << 20), endless=bytes(1 << 16))
    began = time.monotonic()

    association = associate(port, monkeypatch)

    assert not association.is_established
    assert time.monotonic() - began < 5


def test_m2_pynetdicom_waits_for_no_half_pdu_through_the_guard(
    silent_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when pynetdicom stops using the guarded socket: its own timeouts take 10 s here."""
    port = silent_server(pack(">BxI", 2, 100) + b"half")
    began = time.monotonic()

    association = associate(port, monkeypatch)

    assert not association.is_established
    assert time.monotonic() - began < 5


def test_pynetdicom_sends_without_nagle(
    silent_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Any] = []
    create = GuardedAssociationSocket._create_socket

    def spy(self: Any, address: Any) -> socket.socket:
        used.append(create(self, address))
        assert used[-1].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        return used[-1]

    monkeypatch.setattr(GuardedAssociationSocket, "_create_socket", spy)

    associate(silent_server(pack(">BxIxxBB", 7, 4, 2, 0)), monkeypatch)

    assert len(used) == 1


def test_pynetdicoms_own_listener_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        GuardedApplicationEntity("US").start_server(("127.0.0.1", 0))


def test_no_module_goes_round_the_guard() -> None:
    """AE and the transport of pynetdicom are named in the guard only."""
    offenders = []
    for path in Path(interop.dimse.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and path.name != "transport_guard.py":
                names = {alias.name for alias in node.names}
                if node.module in ("pynetdicom.transport", "pynetdicom.ae") or (
                    node.module == "pynetdicom" and names & {"AE", "transport", "ae"}
                ):
                    offenders.append(path.name)

    assert offenders == []
