"""The frame of services: messages out, cancel, what errors become, rows that are left."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import pack, unpack_from
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from interop.dimse import services
from interop.dimse.c_store import StorageBackend
from interop.dimse.command_set import (
    OFFENDING_ELEMENT,
    encode_command,
    parse_command,
    response,
)
from interop.dimse.messages import MessageStream, encode_message, fragments
from interop.dimse.policy import Admission
from interop.dimse.presentation import AcceptedContext, Negotiated
from interop.dimse.registry import ApplicationEntity, Peer
from interop.dimse.service_requests import Conversation, Served, Service, ServiceRequest
from interop.dimse.transactions import AuditRow, Transaction
from interop.dimse.transport_guard import Link, ProtocolViolation, TransportLimits
from interop.errors import Forbidden
from storage.tenancy import Tenant

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STORAGE = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
TENANT = Tenant(uuid4(), "demo", "Demo", "INTEROP", "ACTIVE", "ROW_LEVEL")


@dataclass
class Rows:
    """What would be written."""

    rows: list[Any] = field(default_factory=list)

    def record(self, row: Any) -> None:
        self.rows.append(row)


@dataclass
class Talk:
    """A conversation, the peer's end of its link, and the rows that it leaves."""

    conversation: Conversation
    peer: socket.socket
    rows: list[Any]

    def serve(self, *messages: bytes) -> list[dict[int, bytes]]:
        """Serve the first of the messages that the peer sends; the commands that come back."""
        self.peer.sendall(b"".join(messages))
        received = self.conversation.stream.next_command()
        assert received is not None
        services.serve(self.conversation, received[0], parse_command(received[1]))
        return self.answers()

    def answers(self) -> list[dict[int, bytes]]:
        self.peer.settimeout(0.2)
        raw = b""
        try:
            while piece := self.peer.recv(65536):
                raw += piece
        except TimeoutError:
            pass
        found, at = [], 0
        while at < len(raw):
            length, _, control = unpack_from(">IBB", raw, at + 6)
            if control == 3:
                found.append(parse_command(raw[at + 12 : at + 10 + length]).elements)
            at += 10 + length
        return found


@pytest.fixture
def talk() -> Iterator[Talk]:
    ours, theirs = socket.socketpair()
    contexts = {
        number: AcceptedContext(number, uid, "1.2.840.10008.1.2", uid == STORAGE)
        for number, uid in ((1, FIND), (3, VERIFICATION), (5, STORAGE))
    }
    link = Link(ours, TransportLimits(pdu_seconds=1.0, idle_seconds=1.0))
    rows = Rows()
    admission = Admission(TENANT, Peer("INTEROP", "PEER", "127.0.0.1"), None)
    nothing: Any = None
    recorder: Any = rows
    backend = StorageBackend(nothing, nothing, recorder, nothing, nothing, nothing)
    negotiated = Negotiated(contexts, b"", 16 << 10)
    stream = MessageStream(link, contexts)
    yield Talk(Conversation(backend, admission, negotiated, link, stream), theirs, rows.rows)
    link.close()
    theirs.close()


def request_of(field: int, sop_class: str, context: int, message_id: int = 1) -> bytes:
    command = encode_command(
        {
            0x0002: sop_class.encode(),
            0x0100: pack("<H", field),
            0x0110: pack("<H", message_id),
            0x0800: pack("<H", 0x0101),
        }
    )
    return encode_message(context, command, None, 16384)


def cancel_of(message_id: int, context: int = 1) -> bytes:
    command = encode_command(
        {
            0x0100: pack("<H", 0x0FFF),
            0x0120: pack("<H", message_id),
            0x0800: pack("<H", 0x0101),
        }
    )
    return encode_message(context, command, None, 16384)


def offering(
    monkeypatch: pytest.MonkeyPatch, handle: Callable[[ServiceRequest], Served], **how: Any
) -> None:
    service = Service(0x0020, "C-FIND", (FIND,), handle, **how)
    monkeypatch.setattr(services, "SERVICES", (*services.SERVICES[:1], service))


def status_of(elements: dict[int, bytes]) -> int:
    return int(unpack_from("<H", elements[0x0900])[0])


def test_an_echo_is_answered_and_written_down(talk: Talk) -> None:
    (answer,) = talk.serve(request_of(0x0030, VERIFICATION, 3, 7))

    assert (status_of(answer), answer[0x0120]) == (0, b"\7\0")
    assert answer[0x0100] == pack("<H", 0x8030)
    transaction, audited = talk.rows
    assert isinstance(transaction, Transaction) and transaction.operation == "C-ECHO"
    assert isinstance(audited, AuditRow) and audited.values["event_type"] == "DICOM_ECHO"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Forbidden("no"), 0x0124),
        (psycopg.OperationalError("gone"), 0xA700),
        (RuntimeError("DOE^JANE"), 0xC000),
    ],
)
def test_an_error_becomes_a_status_and_a_failed_row(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def handle(request: ServiceRequest) -> Served:
        raise error

    offering(monkeypatch, handle)

    (answer,) = talk.serve(request_of(0x0020, FIND, 1))

    assert status_of(answer) == status
    assert 0 < len(answer[0x0902]) <= 64
    assert b"DOE" not in answer[0x0902]
    assert [(row.status, row.status_code) for row in talk.rows] == [("FAILURE", status)]


@pytest.mark.parametrize(
    ("field", "sop_class", "context"),
    [
        (0x0020, FIND, 3),  # in the context of another SOP class
        (0x0020, VERIFICATION, 1),
        (0x0020, STORAGE, 5),
        (0x0030, FIND, 1),
        (0x0140, FIND, 1),
    ],
)
def test_a_request_outside_its_context_breaks_the_protocol(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, field: int, sop_class: str, context: int
) -> None:
    offering(monkeypatch, lambda request: Served(0))

    with pytest.raises(ProtocolViolation):
        talk.serve(request_of(field, sop_class, context))


def test_a_streaming_service_sees_its_cancel_between_responses(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(request: ServiceRequest) -> Served:
        assert not request.cancelled()
        request.respond(0xFF00, data_set=b"\0" * 40_000)
        talk.peer.sendall(cancel_of(9) + cancel_of(4))
        assert request.cancelled()
        request.respond(0xFE00)
        return Served(0xFE00)

    offering(monkeypatch, handle, is_streaming=True)

    answers = talk.serve(request_of(0x0020, FIND, 1, 4))

    assert [status_of(answer) for answer in answers] == [0xFF00, 0xFE00]
    assert [row.status for row in talk.rows] == ["WARNING"]


def test_a_request_that_comes_meanwhile_keeps_its_turn(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(request: ServiceRequest) -> Served:
        assert not request.cancelled()
        assert not request.cancelled()
        request.respond(0)
        return Served(0)

    offering(monkeypatch, handle, is_streaming=True)

    talk.serve(request_of(0x0020, FIND, 1), request_of(0x0030, VERIFICATION, 3, 2))

    assert talk.conversation.stream.next_command() is not None


@pytest.mark.parametrize("size", [0, 1, 16378, 16379, 50_000])
def test_messages_are_cut_to_what_the_peer_takes(size: int) -> None:
    pdus = fragments(1, bytes(size), 16384)

    assert all(len(pdu) <= 16384 + 6 for pdu in pdus)
    assert b"".join(pdu[12:] for pdu in pdus) == bytes(size)
    assert [pdu[11] for pdu in pdus] == [0] * (len(pdus) - 1) + [2]


def test_a_response_echoes_its_request_and_says_what_is_wrong() -> None:
    command = parse_command(
        encode_command(
            {
                0x0003: FIND.encode(),
                0x0100: pack("<H", 0x0130),
                0x0110: pack("<H", 3),
                0x0800: b"\1\1",
            }
        )
    )

    answer = parse_command(
        response(command, 0xA900, "x" * 99, further={OFFENDING_ELEMENT: pack("<HH", 8, 0x52)})
    )

    assert (answer.command_field, answer.message_id, answer.status) == (0x8130, 3, 0xA900)
    assert answer.uid(0x0002) == FIND
    assert answer.elements[0x0902] == b"x" * 64
    assert answer.elements[OFFENDING_ELEMENT] == b"\x08\0\x52\0"


def test_offers_follow_the_rights_of_the_entity() -> None:
    def offered(**rights: bool) -> tuple[bool, bool, bool]:
        entity = ApplicationEntity(ae_title="PEER", **rights)
        admission = Admission(TENANT, Peer("INTEROP", "PEER", "127.0.0.1"), entity)
        storage = services.storage_offer(admission)
        return FIND in services.offers(admission), storage.as_scp, storage.as_scu

    assert offered(may_send=True, may_query=True) == (True, True, True)
    assert offered(may_send=True, may_query=False) == (False, True, False)
    assert offered(may_send=False, may_query=True) == (True, False, True)
    assert offered(may_send=False, may_query=False) == (False, False, False)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, "SUCCESS"), (0xFE00, "WARNING"), (0xB000, "WARNING"), (0x0107, "WARNING"),
        (0xA700, "FAILURE"), (0xC001, "FAILURE"), (0x0110, "FAILURE"),
    ],
)  # fmt: skip
def test_the_last_status_decides_the_outcome(status: int, outcome: str) -> None:
    assert services.outcome_of(status) == outcome
