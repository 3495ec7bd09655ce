"""C-STORE requests as an SCU sends them: command, data set, response (PS3.7 9.3.1, PS3.8 9.3.5).

Used on associations that we request (`sender`) and, for the sub-operations of a C-GET, on one that
we accepted. A message leaves in as few system calls as its size allows: the kernel scatters the
data set between PDU headers that are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from struct import Struct
from typing import Final

from interop.dicom import transcode
from interop.dicom.filemeta import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from interop.dimse.command_set import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    C_STORE_RQ,
    C_STORE_RSP,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    ERROR_COMMENT,
    MESSAGE_ID,
    STATUS,
    Command,
)
from interop.dimse.outgoing import DataSet, NotReadable, ObjectReader, OutgoingObject
from interop.dimse.transport_guard import Link, ProtocolViolation
from interop.dimse.upper_layer import NOT_SPECIFIED, P_DATA_TF, UNEXPECTED_PARAMETER

PRIORITY: Final = 0x0700
MOVE_ORIGINATOR_AE_TITLE: Final = 0x1030
MOVE_ORIGINATOR_MESSAGE_ID: Final = 0x1031

_HEADER = Struct(">BxIIBB")
_ELEMENT = Struct("<HHI")
_US_ELEMENT = Struct("<HHIH")
_US = Struct("<H")
_UL_ELEMENT = Struct("<HHII")
_COMMAND_LAST, _DATA, _DATA_LAST = 0x03, 0x00, 0x02  # message control headers (PS3.8 E.2)

# A slice of 512 x 512 pixels of 16 bits goes out in one write.
_BUFFER_BYTES: Final = 576 << 10
_LARGEST_PDU: Final = 128 << 10
_MOST_PDUS: Final = 512  # preadv(2) takes at most 1,024 pieces
_SMALLEST_PDU: Final = 128
# Room for a command PDU before the first PDU of the data set.
_COMMAND_ROOM: Final = 1024


@dataclass(frozen=True, slots=True)
class Originator:
    """The C-MOVE for which an object is sent (PS3.7 9.3.1.1)."""

    ae_title: str
    message_id: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The presentation context for an object, and the transfer syntax in which it goes out."""

    context_id: int
    transfer_syntax_uid: str


class StoreContexts:
    """The presentation contexts of an association in which the peer takes objects."""

    def __init__(self, accepted: Iterable[tuple[int, str, str]]) -> None:
        """`accepted`: context id, SOP class UID, transfer syntax UID."""
        self._ids: dict[str, dict[str, int]] = {}
        for context_id, sop_class_uid, transfer_syntax_uid in accepted:
            self._ids.setdefault(sop_class_uid, {}).setdefault(transfer_syntax_uid, context_id)

    def choose(self, outgoing: OutgoingObject) -> Choice | str:
        """The context for an object, as stored if that is accepted; or why there is none."""
        ids = self._ids.get(outgoing.sop_class_uid)
        if not ids:
            return f"SOP class {outgoing.sop_class_uid} was not accepted"
        stored = outgoing.transfer_syntax_uid
        if stored in ids:
            return Choice(ids[stored], stored)
        for syntax in made_of(stored):
            if syntax in ids:
                return Choice(ids[syntax], syntax)
        return f"transfer syntax {stored} was not accepted, and what was cannot be made of it"


def made_of(transfer_syntax_uid: str) -> list[str]:
    """What an object can be sent as instead, uncompressed first: every peer can read that."""
    plain = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    targets = transcode.targets_of(transfer_syntax_uid)
    return sorted(targets, key=lambda uid: plain.index(uid) if uid in plain else len(plain))


class Prepared:
    """A request whose beginning is ready to be sent. Close it where it is not."""

    def __init__(
        self,
        outgoing: OutgoingObject,
        choice: Choice,
        message_id: int,
        data_set: DataSet,
        buffer: _Buffer,
    ) -> None:
        self.outgoing = outgoing
        self.choice = choice
        self.message_id = message_id
        self.data_set = data_set
        self.left = data_set.length
        self.buffer = buffer
        # What of the buffer is to be sent next.
        self.ready = memoryview(b"")
        self.opened = ExitStack()

    def close(self) -> None:
        """Let go of the object's file; safe to call twice."""
        self.opened.close()


class StoreRequests:
    """Writes C-STORE requests to one association.

    `prepare` and `transmit` alternate. The next may be prepared while the peer has not answered the
    one before, so that the object is read meanwhile.
    """

    def __init__(
        self,
        link: Link,
        peer_pdu_bytes: int,
        contexts: StoreContexts,
        reader: ObjectReader,
        originator: Originator | None = None,
    ) -> None:
        """`peer_pdu_bytes`: the Maximum Length that the peer receives, 0 is any (PS3.8 D.1)."""
        if 0 < peer_pdu_bytes < _SMALLEST_PDU:
            raise ProtocolViolation(
                f"a Maximum Length of {peer_pdu_bytes} bytes is too small to send anything",
                NOT_SPECIFIED,
            )
        self._link = link
        self._contexts = contexts
        self._reader = reader
        self._originator = originator
        self._buffer = _Buffer(min(peer_pdu_bytes or _LARGEST_PDU, _LARGEST_PDU))
        self._message_id = 0

    def prepare(self, outgoing: OutgoingObject) -> Prepared:
        """Read the beginning of an object. Raises NotReadable, also where no context takes it."""
        choice = self._contexts.choose(outgoing)
        if isinstance(choice, str):
            raise NotReadable(choice)
        self._message_id = self._message_id % 0xFFFF + 1
        with ExitStack() as trying:
            data_set = trying.enter_context(
                self._reader.opened(outgoing, choice.transfer_syntax_uid)
            )
            if data_set.length <= 0:
                raise NotReadable("the stored object has no data set")
            prepared = Prepared(outgoing, choice, self._message_id, data_set, self._buffer)
            prepared.buffer.begin(prepared, self._originator)
            prepared.opened = trying.pop_all()
        return prepared

    def transmit(self, prepared: Prepared, look: Callable[[], object] = lambda: None) -> None:
        """Send a prepared request to its end. Raises LinkError.

        `look` is called between two writes of a large object; what it raises leaves the message
        unfinished, and so the association is to be aborted then.
        """
        try:
            self._link.send(prepared.ready)
            while prepared.left:
                look()
                prepared.buffer.go_on(prepared)
                self._link.send(prepared.ready)
        except NotReadable as error:
            # In the midst of a message there is nothing else to be said.
            raise ProtocolViolation(str(error), NOT_SPECIFIED) from error
        finally:
            prepared.close()


class _Buffer:
    """Room for some PDUs, whose headers stand there before the data set comes between them."""

    def __init__(self, pdu_bytes: int) -> None:
        # The length of a PDU does not count its first six bytes; fragments are even (PS3.8 E.2).
        self._room = (pdu_bytes - 6) // 2 * 2
        self._step = _HEADER.size + self._room
        self._count = max(1, min(_MOST_PDUS, _BUFFER_BYTES // self._step))
        self._bytes = memoryview(bytearray(_COMMAND_ROOM + self._count * self._step))
        self._rooms = [
            self._bytes[at + _HEADER.size : at + self._step]
            for at in range(_COMMAND_ROOM, len(self._bytes), self._step)
        ]
        self._context_id = 0
        # Which PDU's header is not that of a full one in the midst of a message.
        self._special: int | None = None

    def begin(self, prepared: Prepared, originator: Originator | None) -> None:
        """Write the command and the first part of the data set. Raises NotReadable."""
        context_id = prepared.choice.context_id
        if context_id != self._context_id:
            self._context_id = context_id
            for number in range(self._count):
                self._write_header(number, self._room, _DATA)
        command = store_request(context_id, prepared.message_id, prepared.outgoing, originator)
        start = _COMMAND_ROOM - len(command)
        self._bytes[start:_COMMAND_ROOM] = command
        prepared.ready = self._bytes[start : self._fill(prepared)]

    def go_on(self, prepared: Prepared) -> None:
        """Write the next part of the data set. Raises NotReadable."""
        prepared.ready = self._bytes[_COMMAND_ROOM : self._fill(prepared)]

    def _fill(self, prepared: Prepared) -> int:
        """Put the next bytes of the data set between the headers; return where they end."""
        count = min(prepared.left, self._count * self._room)
        full, rest = divmod(count, self._room)
        views = self._rooms[:full]
        if rest:
            views = [*views, self._rooms[full][:rest]]
        prepared.data_set.fill(views)
        prepared.left -= count
        if self._special is not None:
            self._write_header(self._special, self._room, _DATA)
            self._special = None
        if prepared.left == 0:
            self._special = full if rest else full - 1
            self._write_header(self._special, rest or self._room, _DATA_LAST)
        return _COMMAND_ROOM + full * self._step + (_HEADER.size + rest if rest else 0)

    def _write_header(self, number: int, length: int, control: int) -> None:
        _HEADER.pack_into(
            self._bytes,
            _COMMAND_ROOM + number * self._step,
            P_DATA_TF,
            length + 6,
            length + 2,
            self._context_id,
            control,
        )


def store_request(
    context_id: int,
    message_id: int,
    outgoing: OutgoingObject,
    originator: Originator | None = None,
) -> bytes:
    """Return the P-DATA-TF PDU with the command set of a C-STORE-RQ."""
    parts = [
        _text(AFFECTED_SOP_CLASS_UID, outgoing.sop_class_uid, b"\0"),
        _US_ELEMENT.pack(0, COMMAND_FIELD, 2, C_STORE_RQ),
        _US_ELEMENT.pack(0, MESSAGE_ID, 2, message_id),
        _US_ELEMENT.pack(0, PRIORITY, 2, 0),
        _US_ELEMENT.pack(0, COMMAND_DATA_SET_TYPE, 2, 1),
        _text(AFFECTED_SOP_INSTANCE_UID, outgoing.sop_instance_uid, b"\0"),
    ]
    if originator is not None:
        parts.append(_text(MOVE_ORIGINATOR_AE_TITLE, originator.ae_title, b" "))
        parts.append(_US_ELEMENT.pack(0, MOVE_ORIGINATOR_MESSAGE_ID, 2, originator.message_id))
    body = b"".join(parts)
    command = _UL_ELEMENT.pack(0, 0, 4, len(body)) + body
    length = len(command)
    return _HEADER.pack(P_DATA_TF, length + 6, length + 2, context_id, _COMMAND_LAST) + command


def _text(element: int, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += padding
    return _ELEMENT.pack(0, element, len(value)) + value


def store_status(response: Command, message_id: int) -> tuple[int, str]:
    """Status and Error Comment of a C-STORE-RSP. Raises ProtocolViolation when it is not that."""
    status = response.elements.get(STATUS, b"")
    if (
        response.command_field != C_STORE_RSP
        or response.message_id != message_id
        or response.has_data_set
        or len(status) != _US.size
    ):
        raise ProtocolViolation(
            f"command 0x{response.command_field:04X} for message {response.message_id} where the "
            f"C-STORE response to message {message_id} was due",
            UNEXPECTED_PARAMETER,
        )
    comment = response.elements.get(ERROR_COMMENT, b"").decode("ascii", "replace").strip(" \0")
    return int(_US.unpack(status)[0]), comment


def is_stored(status: int | None) -> bool:
    """PS3.7 C: 0000 is success, Bxxx a warning with which the object was stored."""
    return status is not None and (status == 0 or status >> 12 == 0xB)
