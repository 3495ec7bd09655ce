"""A light DIMSE peer that asks for objects and takes them: C-GET and C-MOVE SCU, C-STORE sink.

It counts what comes and throws it away, so that what is measured is the server that sends.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack, unpack_from

CONNECT_SECONDS = 30.0
RESPONSE_SECONDS = 120.0
MAX_PDU = 131072
_BUFFER = 512 << 10
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
C_STORE, C_GET, C_MOVE = 0x0001, 0x0010, 0x0021
_RESPONSE = 0x8000


@dataclass
class Received:
    """What one retrieval brought."""

    instances: int = 0
    byte_size: int = 0
    began: float = 0.0
    first_at: float = 0.0
    ended: float = 0.0
    status: int = -1

    def count(self, byte_size: int) -> None:
        if not self.instances:
            self.first_at = time.perf_counter()
        self.instances += 1
        self.byte_size += byte_size


@dataclass
class Message:
    """A command set and the size of the data set that came with it."""

    context: int
    elements: dict[int, bytes]
    data_bytes: int

    def number(self, element: int) -> int:
        return int(unpack_from("<H", self.elements[element])[0])


class Link:
    """One connection, either end of it. Data sets are received into one place over and over."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(RESPONSE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _need(self, size: int) -> int:
        """Have `size` bytes in the buffer; return where they begin."""
        if self._start + size > _BUFFER:
            held = self._end - self._start
            self._view[:held] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, held
        while self._end - self._start < size:
            received = self._socket.recv_into(self._view[self._end :])
            if not received:
                raise EOFError
            self._end += received
        at = self._start
        self._start += size
        if self._start == self._end:
            self._start = self._end = 0
        return at

    def _skip(self, size: int) -> None:
        held = min(size, self._end - self._start)
        self._start += held
        size -= held
        if size:
            self._start = self._end = 0
        while size > _BUFFER // 2:
            size -= self._socket.recv_into(self._view[: _BUFFER // 2])
        if size:
            self._need(size)

    def pdu(self) -> tuple[int, bytes]:
        """A whole PDU, of those that are small."""
        kind, length = unpack_from(">BxI", self._buffer, self._need(6))
        at = self._need(length)
        return kind, bytes(self._view[at : at + length])

    def message(self) -> Message | None:
        """The next message; None when the peer releases the association."""
        command, data_bytes, context = b"", 0, 0
        elements: dict[int, bytes] | None = None
        has_data = is_complete = False
        while not is_complete:
            kind, left = unpack_from(">BxI", self._buffer, self._need(6))
            if kind == 5:
                self.send(pack(">BxI4x", 6, 4))
                return None
            if kind != 4:
                raise ConnectionError(f"PDU {kind} instead of a message")
            while left:
                length, context, control = unpack_from(">IBB", self._buffer, self._need(6))
                left -= 4 + length
                if control & 1:
                    at = self._need(length - 2)
                    command += self._view[at : at + length - 2]
                else:
                    data_bytes += length - 2
                    self._skip(length - 2)
                if control == 3:
                    elements = _elements(command)
                    has_data = unpack_from("<H", elements[0x0800])[0] != 0x0101
                is_complete = bool(control & 2) and (control == 2 or not has_data)
        assert elements is not None
        return Message(context, elements, data_bytes)

    def answer_store(self, message: Message) -> None:
        elements = message.elements
        self._send_command(
            message.context,
            (0x0002, elements[0x0002]),
            (0x0100, pack("<H", C_STORE | _RESPONSE)),
            (0x0120, elements[0x0110]),
            (0x0800, pack("<H", 0x0101)),
            (0x0900, pack("<H", 0)),
            (0x1000, elements[0x1000]),
        )

    def _send_command(
        self, context: int, *elements: tuple[int, bytes], data_set: bytes | None = None
    ) -> None:
        body = b"".join(pack("<HHI", 0, tag, len(value)) + value for tag, value in elements)
        command = pack("<HHII", 0, 0, 4, len(body)) + body
        self.send(
            _pdv(context, 3, command) + (b"" if data_set is None else _pdv(context, 2, data_set))
        )


class Requestor(Link):
    """An association that asks for a study, over C-GET or C-MOVE."""

    def __init__(
        self, port: int, called: str, calling: str, model: str, storage: Sequence[str] = ()
    ) -> None:
        super().__init__(socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS))
        self._model = model
        contexts = [_context(1, model, IMPLICIT_VR_LITTLE_ENDIAN)]
        roles = b""
        for number, uid in enumerate(storage):
            contexts.append(_context(2 * number + 3, uid, EXPLICIT_VR_LITTLE_ENDIAN))
            raw = uid.encode()
            roles += _item(0x54, pack(">H", len(raw)) + raw + b"\0\1")
        user = _item(0x51, pack(">I", MAX_PDU)) + _item(0x52, b"2.25.1") + roles
        items = _item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts) + _item(0x50, user)
        titles = called.encode().ljust(16) + calling.encode().ljust(16)
        body = b"\0\1\0\0" + titles + bytes(32) + items
        self.send(pack(">BxI", 1, len(body)) + body)
        kind, answer = self.pdu()
        if kind != 2:
            raise ConnectionError(f"the association was refused: PDU {kind} {answer.hex()}")

    def retrieve(self, study: str, destination: str = "") -> Received:
        """Ask for a study and wait for the final response; objects that come are counted."""
        found = Received(began=time.perf_counter())
        uid = _even(study)
        identifier = b"\x08\0\x52\0\6\0\0\0STUDY " + pack("<HHI", 0x20, 0xD, len(uid)) + uid
        field_ = C_MOVE if destination else C_GET
        named = ((0x0600, destination.encode().ljust(16)),) if destination else ()
        self._send_command(
            1,
            (0x0002, _even(self._model)),
            (0x0100, pack("<H", field_)),
            (0x0110, pack("<H", 1)),
            *named,
            (0x0700, pack("<H", 0)),
            (0x0800, pack("<H", 1)),
            data_set=identifier,
        )
        while True:
            message = self.message()
            if message is None:
                raise ConnectionError("released before the final response")
            if message.number(0x0100) == C_STORE:
                found.count(message.data_bytes)
                self.answer_store(message)
            elif message.number(0x0900) != 0xFF00:
                found.ended = time.perf_counter()
                found.status = message.number(0x0900)
                return found

    def release(self) -> None:
        self.send(pack(">BxI4x", 5, 4))
        self.pdu()
        self.close()


class Sink:
    """A storage SCP on a port of its own that accepts whatever is proposed first."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.received = Received()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(Link(connection),), daemon=True).start()

    def _converse(self, link: Link) -> None:
        try:
            _, request = link.pdu()
            link.send(_accept(request))
            while (message := link.message()) is not None:
                self.received.count(message.data_bytes)
                link.answer_store(message)
        except (EOFError, ConnectionError):
            pass
        finally:
            link.close()


def _accept(request: bytes) -> bytes:
    """Accept every context with its first transfer syntax."""
    results, at = b"", 68
    while at < len(request):
        kind, length = unpack_from(">BxH", request, at)
        value = request[at + 4 : at + 4 + length]
        if kind == 0x20:
            inner = 4
            while value[inner] != 0x40:
                inner += 4 + int(unpack_from(">H", value, inner + 2)[0])
            syntax = value[inner + 4 : inner + 4 + unpack_from(">H", value, inner + 2)[0]]
            results += _item(0x21, bytes((value[0], 0, 0, 0)) + _item(0x40, syntax))
        at += 4 + length
    user = _item(0x50, _item(0x51, pack(">I", MAX_PDU)) + _item(0x52, b"2.25.1"))
    body = request[:68] + _item(0x10, b"1.2.840.10008.3.1.1.1") + results + user
    return pack(">BxI", 2, len(body)) + body


def _context(number: int, abstract: str, transfer: str) -> bytes:
    syntaxes = _item(0x30, abstract.encode()) + _item(0x40, transfer.encode())
    return _item(0x20, bytes((number, 0, 0, 0)) + syntaxes)


def _item(kind: int, value: bytes) -> bytes:
    return pack(">BxH", kind, len(value)) + value


def _pdv(context: int, control: int, data: bytes) -> bytes:
    return pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context, control) + data


def _even(uid: str) -> bytes:
    raw = uid.encode()
    return raw + b"\0" * (len(raw) % 2)


def _elements(command: bytes) -> dict[int, bytes]:
    at, found = 0, {}
    while at < len(command):
        tag, length = unpack_from("<2xHI", command, at)
        found[tag] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found
