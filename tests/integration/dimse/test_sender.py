"""Our sender against DCMTK's storescp, pynetdicom and peers that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.sop_class import _STORAGE_CLASSES

from interop.dicom import transcode
from interop.dimse import sender
from interop.dimse.command_set import parse_command
from interop.dimse.sender import (
    Destination,
    NotReadable,
    ObjectReader,
    Originator,
    OutgoingObject,
    SendCancelled,
    Sender,
    SendFailed,
    outgoing_file,
    send_objects,
)
from interop.dimse.store_request import StoreContexts, StoreRequests
from interop.dimse.transport_guard import TransportLimits
from storage.objects.files import LocalObjectStore
from tests.dcmtk import STORESCP, free_port, storescp
from tests.integration.dimse.retrieving import DCIODVFY, errors
from tests.integration.dimse.retrieving import accepting as storage_scp

needs_dcmtk = pytest.mark.skipif(STORESCP is None, reason="DCMTK's storescp is not installed")

SHORT = TransportLimits(pdu_seconds=1.0, idle_seconds=1.0, associate_seconds=1.0)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


READER = ObjectReader(None, temporary_folder)


def peer(port: int, ae_title: str = "STORESCP") -> Destination:
    return Destination("127.0.0.1", port, ae_title, "INTEROP")


class RemoteStore(LocalObjectStore):
    """An object store of which no file can be had, as S3 is; it counts what was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lost: set[str] = set()

    def local_path(self, key: str) -> Path | None:
        return None

    def open_range(
        self, key: str, offset: int = 0, length: int | None = None, chunk: int = 1 << 18
    ) -> Iterator[bytes]:
        pieces = super().open_range(key, offset, length, 10_007)
        return iter(list(pieces)[:-1]) if key in self.lost else pieces


# -- as stored --------------------------------------------------------------------------------


@needs_dcmtk
@pytest.mark.parametrize("pdu", ["4096", "16384", "131072"])
def test_what_is_sent_is_the_stored_data_set_byte_for_byte(
    pdu: str, make_ct: Any, tmp_path: Path
) -> None:
    # Around one PDU, around the buffer, with and without a rest.
    samples = [make_ct(side=side) for side in (1, 45, 90, 91, 256, 512, 700)]
    samples.append(make_ct(side=64, transfer_syntax=ImplicitVRLittleEndian))
    noted: list[str] = []

    with storescp(tmp_path / "received", "-pdu", pdu) as scp:
        sent = send_objects(
            peer(scp.port),
            [outgoing_file(sample.path) for sample in samples],
            READER,
            note=lambda entry: noted.append(entry.outgoing.sop_instance_uid),
        )
        received = scp.data_sets()

    assert [entry.status for entry in sent] == [0] * len(samples)
    assert noted == [sample.sop_instance_uid for sample in samples]
    assert received == {sample.sop_instance_uid: sample.dataset for sample in samples}


@needs_dcmtk
def test_objects_of_a_remote_store_are_streamed(make_ct: Any, tmp_path: Path) -> None:
    samples = [make_ct(side=side) for side in (16, 500, 16, 500)]
    store = RemoteStore(tmp_path / "objects")
    objects = []
    for number, sample in enumerate(samples):
        found = outgoing_file(sample.path)
        key = f"t/2026010100/0000000{number}-0000-4000-8000-000000000000"
        store.put_bytes(key, sample.path.read_bytes())
        objects.append(
            OutgoingObject(*found.kind[:1], found.sop_instance_uid, found.kind[1], key,
                           found.dataset_offset, found.byte_size)
        )  # fmt: skip
    # The third has lost its end: that shows before a byte of it was sent.
    store.lost.add(str(objects[2].location))

    with storescp(tmp_path / "received") as scp:
        sent = send_objects(peer(scp.port), objects, ObjectReader(store, temporary_folder))
        received = scp.data_sets()

    assert [entry.status for entry in sent] == [0, 0, None, 0]
    assert "shorter" in sent[2].message
    whole = [sample for number, sample in enumerate(samples) if number != 2]
    assert received == {sample.sop_instance_uid: sample.dataset for sample in whole}


@needs_dcmtk
def test_an_object_that_breaks_off_while_it_is_sent_does_not_stop_the_others(
    make_ct: Any, tmp_path: Path
) -> None:
    samples = [make_ct(side=side) for side in (16, 700, 16)]
    store = RemoteStore(tmp_path / "objects")
    objects = []
    for number, sample in enumerate(samples):
        found = outgoing_file(sample.path)
        key = f"t/2026010100/0000000{number}-0000-4000-8000-000000000000"
        store.put_bytes(key, sample.path.read_bytes())
        objects.append(
            OutgoingObject(*found.kind[:1], found.sop_instance_uid, found.kind[1], key,
                           found.dataset_offset, found.byte_size)
        )  # fmt: skip
    store.lost.add(str(objects[1].location))

    with storescp(tmp_path / "received") as scp:
        sent = send_objects(peer(scp.port), objects, ObjectReader(store, temporary_folder))
        received = scp.data_sets()

    assert [entry.status for entry in sent] == [0, None, 0]
    assert received[samples[0].sop_instance_uid] == samples[0].dataset
    assert received[samples[2].sop_instance_uid] == samples[2].dataset


def test_what_is_no_dicom_file_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not an image")

    with pytest.raises(NotReadable, match="file meta information"):
        outgoing_file(path)


# -- what the peer takes ----------------------------------------------------------------------


@pytest.mark.skipif(DCIODVFY is None or STORESCP is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize(
    ("option", "accepted"), [("+xi", ImplicitVRLittleEndian), ("+xe", ExplicitVRLittleEndian)]
)
def test_a_peer_that_takes_only_uncompressed_gets_transcoded_copies(
    option: str, accepted: str, make_ct: Any, tmp_path: Path
) -> None:
    plain = make_ct(side=64)
    paths = [plain.path, make_ct(side=64, transfer_syntax=ExplicitVRBigEndian).path]
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        paths.append(tmp_path / f"{syntax}.dcm")
        transcode.transcode(make_ct(side=64).path, paths[-1], syntax)

    with storescp(tmp_path / "received", option) as scp:
        sent = send_objects(peer(scp.port), [outgoing_file(path) for path in paths], READER)
        files = {path.name.partition(".")[2]: path for path in scp.files()}

    assert [(entry.status, entry.message) for entry in sent] == [(0, "")] * 5
    pixels = dcmread(plain.path).pixel_array
    for path in paths:
        before = dcmread(path)
        after = dcmread(files[before.SOPInstanceUID])
        assert after.file_meta.TransferSyntaxUID in (accepted, before.file_meta.TransferSyntaxUID)
        expected = (
            pixels if before.file_meta.TransferSyntaxUID.is_compressed else before.pixel_array
        )
        assert np.array_equal(expected, after.pixel_array)
        assert errors(files[before.SOPInstanceUID]) <= errors(path)
        assert after.PatientName == before.PatientName


def test_a_sop_class_that_the_peer_refuses_fails_alone(make_ct: Any) -> None:
    taken, refused = make_ct(), make_ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")

    with storage_scp(lambda event: 0) as port:
        sent = send_objects(
            peer(port), [outgoing_file(one.path) for one in (taken, refused, taken)], READER
        )

    assert [entry.status for entry in sent] == [0, None, 0]
    assert "was not accepted" in sent[1].message


def test_statuses_and_the_originator_of_a_move_are_handed_on(make_ct: Any) -> None:
    samples = [make_ct() for _ in range(3)]
    statuses = iter([0x0000, 0xB000, 0xA700])
    originators: list[tuple[str, int]] = []

    def handle(event: Any) -> int:
        request = event.request
        originators.append(
            (request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID)
        )
        return next(statuses)

    with storage_scp(handle) as port:
        sent = send_objects(
            peer(port),
            [outgoing_file(one.path) for one in samples],
            READER,
            originator=Originator("WORKSTATION", 77),
        )

    assert [entry.status for entry in sent] == [0, 0xB000, 0xA700]
    assert [entry.is_stored for entry in sent] == [True, True, False]
    assert originators == [("WORKSTATION", 77)] * 3


@needs_dcmtk
def test_more_presentation_contexts_than_one_association_holds(
    make_ct: Any, tmp_path: Path
) -> None:
    classes = sorted(str(uid) for uid in _STORAGE_CLASSES.values())
    samples = [make_ct(side=1, SOPClassUID=uid) for uid in classes[:70]]
    objects = [outgoing_file(sample.path) for sample in samples]
    groups = sender.proposals(outgoing.kind for outgoing in objects)

    with storescp(tmp_path / "received") as scp:
        sent = send_objects(peer(scp.port), objects, READER)
        received = scp.data_sets()

    assert len(groups) == 2
    assert all(len(group) <= 128 for group in groups)
    # What this storescp knows of them is older than pydicom's list.
    refused = {e.outgoing.sop_instance_uid for e in sent if "was not accepted" in e.message}
    assert len(refused) < 10
    assert received.keys() == {sample.sop_instance_uid for sample in samples} - refused


# -- peers that misbehave -----------------------------------------------------------------------


def test_a_destination_that_is_down_is_said_so(make_ct: Any) -> None:
    with pytest.raises(SendFailed, match="no connection"):
        send_objects(peer(free_port()), [outgoing_file(make_ct().path)], READER)


@needs_dcmtk
def test_a_peer_that_refuses_the_association(make_ct: Any, tmp_path: Path) -> None:
    with (
        storescp(tmp_path / "received", "--refuse") as scp,
        pytest.raises(SendFailed, match="rejected the association"),
    ):
        send_objects(peer(scp.port), [outgoing_file(make_ct().path)], READER)


@needs_dcmtk
@pytest.mark.parametrize("option", ["--abort-after", "--abort-during"])
def test_a_peer_that_aborts_at_its_first_object(option: str, make_ct: Any, tmp_path: Path) -> None:
    with (
        storescp(tmp_path / "received", option) as scp,
        pytest.raises(SendFailed, match="does not take objects"),
    ):
        send_objects(peer(scp.port), [outgoing_file(make_ct(side=300).path)] * 3, READER)


@contextmanager
def listener(converse: Callable[[socket.socket], object]) -> Iterator[int]:
    """A peer that does one thing with its one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                converse(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        thread.join(10)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x02\0\0\0\0\x10half",
        pack(">BxI", 2, 0x7FFFFFFF),
        pack(">BxI", 2, 8) + b"nonsense",
        pack(">BxI", 9, 4) + bytes(4),
    ],
    ids=["silence", "half a PDU", "an endless PDU", "nonsense", "an unknown PDU"],
)
def test_a_peer_that_does_not_answer_the_association_request(answer: bytes, make_ct: Any) -> None:
    def converse(connection: socket.socket) -> None:
        connection.sendall(answer)
        while connection.recv(65536):
            pass

    found = outgoing_file(make_ct().path)
    with (
        listener(converse) as port,
        Sender(peer(port), [found.kind], READER, limits=SHORT) as one,
        pytest.raises(SendFailed),
    ):
        list(one.send([found]))


def accepting(connection: socket.socket) -> None:
    """Accept the first proposed context as A-ASSOCIATE-AC in its plainest form."""
    connection.recv(65536)

    def item(kind: int, value: bytes) -> bytes:
        return pack(">BxH", kind, len(value)) + value

    result = item(0x21, bytes((1, 0, 0, 0)) + item(0x40, str(ExplicitVRLittleEndian).encode()))
    user = item(0x50, item(0x51, pack(">I", 0)) + item(0x52, b"1.2.3"))
    fixed = pack(">HH", 1, 0) + b"STORESCP".ljust(16) + b"INTEROP".ljust(16) + bytes(32)
    body = fixed + item(0x10, b"1.2.840.10008.3.1.1.1") + result + user
    connection.sendall(pack(">BxI", 2, len(body)) + body)


def test_a_peer_that_takes_an_object_and_never_answers(make_ct: Any) -> None:
    def converse(connection: socket.socket) -> None:
        accepting(connection)
        while connection.recv(65536):
            pass

    found = outgoing_file(make_ct().path)
    with (
        listener(converse) as port,
        Sender(peer(port), [found.kind], READER, limits=SHORT) as one,
        pytest.raises(SendFailed, match="no response within 1 s"),
    ):
        list(one.send([found]))


def test_a_peer_that_stops_reading(make_ct: Any) -> None:
    done = threading.Event()

    def converse(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        accepting(connection)
        done.wait(20)

    found = outgoing_file(make_ct(side=2500).path)
    with (
        listener(converse) as port,
        Sender(peer(port), [found.kind], READER, limits=SHORT) as one,
    ):
        with pytest.raises(SendFailed, match="does not take"):
            list(one.send([found]))
        done.set()


def test_cancelling_while_a_peer_is_silent(make_ct: Any) -> None:
    def converse(connection: socket.socket) -> None:
        accepting(connection)
        while connection.recv(65536):
            pass

    found = outgoing_file(make_ct().path)
    looks = iter([False, False, True])
    with (
        listener(converse) as port,
        Sender(peer(port), [found.kind], READER, is_cancelled=lambda: next(looks)) as one,
        pytest.raises(SendCancelled),
    ):
        list(one.send([found]))


@needs_dcmtk
def test_cancelling_in_the_midst_of_a_large_object(make_ct: Any, tmp_path: Path) -> None:
    found = outgoing_file(make_ct(side=1500).path)
    looks: list[int] = []

    def is_cancelled() -> bool:
        looks.append(1)
        return len(looks) == 3

    with storescp(tmp_path / "received") as scp:
        with (
            Sender(peer(scp.port), [found.kind], READER, is_cancelled=is_cancelled) as one,
            pytest.raises(SendCancelled),
        ):
            list(one.send([found]))
        again = send_objects(peer(scp.port), [found], READER)

    assert [entry.status for entry in again] == [0]


def test_an_answer_to_another_message_ends_the_association(make_ct: Any, wire: Any) -> None:
    def converse(connection: socket.socket) -> None:
        accepting(connection)
        wrong = wire.command(
            (0x0100, pack("<H", 0x8001)), (0x0120, pack("<H", 99)),
            (0x0800, pack("<H", 0x0101)), (0x0900, pack("<H", 0)),
        )  # fmt: skip
        connection.sendall(wire.pdu(4, wire.pdv(1, 3, wrong)))
        while connection.recv(65536):
            pass

    found = outgoing_file(make_ct().path)
    with (
        listener(converse) as port,
        Sender(peer(port), [found.kind], READER) as one,
        pytest.raises(SendFailed, match="message 99"),
    ):
        list(one.send([found]))


# -- how it goes out ----------------------------------------------------------------------------


def test_a_message_of_less_than_the_buffer_leaves_at_once(make_ct: Any) -> None:
    """One write for the command and all of the data set, one read of the file."""
    sample = make_ct(side=300)
    found = outgoing_file(sample.path)
    sent: list[bytes] = []

    class Recording:
        def send(self, data: memoryview) -> None:
            sent.append(bytes(data))

    contexts = StoreContexts([(5, found.sop_class_uid, found.transfer_syntax_uid)])
    requests = StoreRequests(Recording(), 16384, contexts, READER)  # type: ignore[arg-type]
    requests.transmit(requests.prepare(found))

    assert len(sent) == 1
    command, data = parsed(sent[0], context_id=5, longest=16384)
    assert data == sample.dataset
    request = parse_command(command)
    assert (request.command_field, request.message_id) == (1, 1)
    assert request.uid(0x0002) == found.sop_class_uid
    assert request.uid(0x1000) == found.sop_instance_uid


def test_headers_are_right_whatever_the_sizes_of_messages_before(tmp_path: Path) -> None:
    sent: list[bytes] = []

    class Recording:
        def send(self, data: memoryview) -> None:
            sent.append(bytes(data))

    class Bytes:
        def __init__(self, length: int) -> None:
            self.length = length
            self.data = np.random.default_rng(length).bytes(length)
            self._at = 0

        def fill(self, views: list[memoryview]) -> None:
            for view in views:
                view[:] = self.data[self._at : self._at + len(view)]
                self._at += len(view)

    class Reader(ObjectReader):
        @contextmanager
        def opened(self, outgoing: OutgoingObject, transfer_syntax_uid: str) -> Iterator[Bytes]:
            yield source

    classes = ("1.2.1", "1.2.3", "1.2.5")
    contexts = StoreContexts((int(uid[-1]), uid, "1.2.840.10008.1.2") for uid in classes)
    reader = Reader(None, temporary_folder)
    requests = StoreRequests(Recording(), 1024, contexts, reader)  # type: ignore[arg-type]
    room, buffer = 1018, 1018 * 512
    sizes = (room * 2, 1, room - 1, room, room + 1, room * 5, buffer - 1, buffer, buffer + 1)
    for number, size in enumerate((*sizes, *reversed(sizes), 3 * buffer, room, 3 * buffer + 7)):
        sent.clear()
        source = Bytes(size)
        uid = classes[number % 3]
        found = OutgoingObject(uid, "1.2.3.4", "1.2.840.10008.1.2", tmp_path, 0, 0)
        requests.transmit(requests.prepare(found))

        _, data = parsed(b"".join(sent), context_id=int(uid[-1]), longest=1024)
        assert data == source.data, f"message {number} of {size} bytes"


def parsed(raw: bytes, *, context_id: int, longest: int) -> tuple[bytes, bytes]:
    """Command set and data set of one message in P-DATA-TF PDUs."""
    found = {1: b"", 0: b""}
    ended: list[int] = []
    at = 0
    while at < len(raw):
        assert raw[at] == 4
        length = int.from_bytes(raw[at + 2 : at + 6], "big")
        assert length <= longest
        assert int.from_bytes(raw[at + 6 : at + 10], "big") == length - 4
        assert raw[at + 10] == context_id
        control = raw[at + 11]
        assert control & 1 not in ended
        if control & 2:
            ended.append(control & 1)
        found[control & 1] += raw[at + 12 : at + 6 + length]
        at += 6 + length
    assert ended == [1, 0]
    return found[1], found[0]
