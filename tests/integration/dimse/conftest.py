"""A listener in this process over the real ingest, and a raw peer that can break every rule."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from struct import pack, unpack_from
from typing import Any

import numpy as np
import psutil
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from interop.dicom.ingest import Ingest, Source
from interop.dicom.limits import Limits
from interop.dicom.spool import Spool
from interop.dimse.policy import AssociationLimits
from interop.dimse.scp import Listener, open_context
from interop.dimse.transport_guard import TransportLimits
from interop.settings import Settings
from storage.database import Database
from storage.objects import ObjectStore
from storage.objects.files import LocalObjectStore
from storage.tenancy import Tenant, TenantDirectory
from tests.integration.dimse.dicom_jobs import WorkerServices
from tests.integration.dimse.retrieving import Stored
from tests.waiting import eventually

CT = str(CTImageStorage)
EXPLICIT = str(ExplicitVRLittleEndian)
VERIFICATION = "1.2.840.10008.1.1"
OBJECT_LIMIT = 32 << 20

QUICK = TransportLimits(
    handshake_seconds=1.0,
    associate_seconds=1.0,
    pdu_seconds=1.0,
    idle_seconds=5.0,
    max_message_bytes=OBJECT_LIMIT + (1 << 20),
)


@dataclass
class Services:
    """What a listener needs."""

    database: Database
    tenants: TenantDirectory
    spool: Spool
    ingest: Ingest
    spool_root: Path
    objects_root: Path
    objects: ObjectStore
    settings: Settings

    def spool_files(self) -> list[Path]:
        return [p for p in self.spool_root.rglob("*") if p.is_file() and p.name != ".lock"]


@pytest.fixture(scope="module")
def services(
    database: Database,
    tenant: Tenant,
    other_tenant: Tenant,
    object_store: ObjectStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Services]:
    """The parts of a DIMSE process; AE titles PEER, STORESCU, ECHOSCU may send to both tenants."""
    for one in (tenant, other_tenant):
        with database.connection(one.id) as connection:
            for ae_title in ("PEER", "STORESCU", "ECHOSCU"):
                register(connection, one, ae_title)
    # Beside the objects, as in the product: ingest moves files there by renaming them.
    assert isinstance(object_store, LocalObjectStore)
    objects_root = object_store.root
    spool_root = tmp_path_factory.mktemp("spool")
    spool = Spool(spool_root, object_limit=OBJECT_LIMIT)
    ingest = Ingest(database, object_store, spool, Limits(object_bytes=OBJECT_LIMIT))
    settings = Settings(data_dir=spool_root, max_object_bytes=OBJECT_LIMIT)
    tenants = TenantDirectory(database)
    yield Services(
        database, tenants, spool, ingest, spool_root, objects_root, object_store, settings
    )
    ingest.close()
    spool.close()


def register(connection: Any, tenant: Tenant, ae_title: str, **columns: Any) -> None:
    values = {"tenant_id": tenant.id, "ae_title": ae_title, **columns}
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    connection.execute(
        f"INSERT INTO dicom_application_entities ({names}) VALUES ({places})"
        " ON CONFLICT (tenant_id, ae_title) DO NOTHING",
        values,
    )


@dataclass
class Running:
    """A listener on its thread."""

    port: int
    listener: Listener
    stop: threading.Event
    thread: threading.Thread
    services: Services

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


Start = Callable[..., Running]


@pytest.fixture
def start(services: Services) -> Iterator[Start]:
    """Start listeners; all are stopped after the test and must have left nothing."""
    running: list[Running] = []

    def run(
        limits: TransportLimits = QUICK,
        associations: AssociationLimits | None = None,
        tls_context: Callable[[], ssl.SSLContext] | None = None,
        places_dir: Path | None = None,
    ) -> Running:
        context = open_context(
            services,
            transport_limits=limits,
            association_limits=associations,
            places_dir=places_dir,
        )
        listener = Listener(context, "127.0.0.1", 0, tls_context=tls_context)
        stop = threading.Event()

        def serve() -> None:
            listener.serve_until(stop)
            context.close()

        thread = threading.Thread(target=serve)
        thread.start()
        running.append(Running(listener.port, listener, stop, thread, services))
        return running[-1]

    yield run
    for one in running:
        one.end()
    assert services.spool_files() == []


# -- objects ----------------------------------------------------------------------------------


@dataclass
class Sample:
    """One object as a file and as its parts."""

    path: Path
    sop_instance_uid: str
    study_instance_uid: str
    dataset: bytes
    sop_class_uid: str = CT
    transfer_syntax_uid: str = EXPLICIT


@pytest.fixture
def make_ct(tmp_path: Path) -> Callable[..., Sample]:
    """Write a CT slice; its side in pixels sets its size."""

    def make(
        side: int = 16,
        study: str | None = None,
        transfer_syntax: UID = ExplicitVRLittleEndian,
        **attributes: Any,
    ) -> Sample:
        data = FileDataset(
            "",
            {},
            file_meta=FileMetaDataset(),
            preamble=bytes(128),
            is_implicit_VR=transfer_syntax.is_implicit_VR,
            is_little_endian=transfer_syntax.is_little_endian,
        )
        data.file_meta.TransferSyntaxUID = transfer_syntax
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID = study or generate_uid(), generate_uid()
        data.PatientName, data.PatientID = "DOE^JANE", "P1"
        data.StudyDate, data.StudyTime, data.Modality = "20260102", "101112", "CT"
        data.AccessionNumber = data.StudyID = data.ReferringPhysicianName = ""
        data.PatientBirthDate, data.PatientSex = "19800215", "O"
        data.SeriesNumber = data.InstanceNumber = 1
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows = data.Columns = side
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelRepresentation = 0
        data.PixelData = np.arange(side * side, dtype=np.uint16).tobytes()
        data["PixelData"].VR = "OW"
        for name, value in attributes.items():
            setattr(data, name, value)
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        whole = BytesIO()
        data.save_as(whole, enforce_file_format=True)
        raw = whole.getvalue()
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
        path.write_bytes(raw)
        offset = 144 + unpack_from("<I", raw, 140)[0]
        return Sample(
            path,
            str(data.SOPInstanceUID),
            str(data.StudyInstanceUID),
            raw[offset:],
            str(data.SOPClassUID),
            str(transfer_syntax),
        )

    return make


# -- a raw peer -------------------------------------------------------------------------------


def item(kind: int, value: bytes) -> bytes:
    return pack(">BxH", kind, len(value)) + value


def pdu(kind: int, body: bytes) -> bytes:
    return pack(">BxI", kind, len(body)) + body


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return pack(">IBB", len(data) + 2, context_id, control) + data


def associate_rq(
    called: str = "INTEROP",
    calling: str = "PEER",
    contexts: tuple[tuple[int, str, tuple[str, ...]], ...] = (
        (1, CT, (EXPLICIT,)),
        (3, VERIFICATION, ("1.2.840.10008.1.2",)),
    ),
    application_context: str = "1.2.840.10008.3.1.1.1",
    version: int = 1,
) -> bytes:
    items = item(0x10, application_context.encode())
    for number, abstract, syntaxes in contexts:
        inner = bytes((number, 0, 0, 0)) + item(0x30, abstract.encode())
        items += item(0x20, inner + b"".join(item(0x40, s.encode()) for s in syntaxes))
    items += item(0x50, item(0x51, pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
    titles = called.encode("latin-1").ljust(16) + calling.encode("latin-1").ljust(16)
    return pdu(1, pack(">HH", version, 0) + titles + bytes(32) + items)


def command(*elements: tuple[int, bytes]) -> bytes:
    body = b"".join(pack("<HHI", 0, number, len(value)) + value for number, value in elements)
    return pack("<HHII", 0, 0, 4, len(body)) + body


def even(uid: str) -> bytes:
    raw = uid.encode("latin-1")
    return raw + b"\0" * (len(raw) % 2)


def store_rq(
    sop_instance_uid: str, message_id: int = 1, sop_class_uid: str = CT, data_set_type: int = 1
) -> bytes:
    return command(
        (0x0002, even(sop_class_uid)),
        (0x0100, pack("<H", 0x0001)),
        (0x0110, pack("<H", message_id)),
        (0x0700, pack("<H", 0)),
        (0x0800, pack("<H", data_set_type)),
        (0x1000, even(sop_instance_uid)),
    )


@dataclass
class Response:
    """A command set that came back."""

    elements: dict[int, bytes]

    @property
    def status(self) -> int:
        return int(unpack_from("<H", self.elements[0x0900])[0])

    @property
    def comment(self) -> str:
        return self.elements.get(0x0902, b"").decode().rstrip()


@dataclass
class RawPeer:
    """A requestor that sends exactly the bytes it is told to."""

    socket: socket.socket
    buffer: bytearray = field(default_factory=bytearray)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive_pdu(self, seconds: float = 10.0) -> tuple[int, bytes] | None:
        """The next PDU; None when the connection ends first. Fails when neither comes."""
        self.socket.settimeout(seconds)
        try:
            while len(self.buffer) < 6 or len(self.buffer) < 6 + self._length():
                received = self.socket.recv(65536)
                if not received:
                    return None
                self.buffer += received
        except ConnectionError:
            return None
        end = 6 + self._length()
        whole = bytes(self.buffer[:end])
        del self.buffer[:end]
        return whole[0], whole[6:]

    def _length(self) -> int:
        return int(unpack_from(">I", self.buffer, 2)[0])

    def associate(self, **changes: Any) -> tuple[int, bytes] | None:
        self.send(associate_rq(**changes))
        return self.receive_pdu()

    def store(self, sample: Sample, **changes: Any) -> Response:
        """C-STORE in one PDU for the command and one for the data set."""
        uid = changes.pop("sop_instance_uid", sample.sop_instance_uid)
        self.send(pdu(4, pdv(1, 3, store_rq(uid, **changes))))
        self.send(pdu(4, pdv(1, 2, sample.dataset)))
        return self.response()

    def echo(self, message_id: int = 1) -> Response:
        raw = command(
            (0x0002, even(VERIFICATION)),
            (0x0100, pack("<H", 0x0030)),
            (0x0110, pack("<H", message_id)),
            (0x0800, pack("<H", 0x0101)),
        )
        self.send(pdu(4, pdv(3, 3, raw)))
        return self.response()

    def response(self) -> Response:
        received = self.receive_pdu()
        assert received is not None, "the connection ended before a response"
        kind, body = received
        assert kind == 4, f"PDU of type {kind} instead of a response: {body.hex()}"
        at, elements = 6, {}
        while at < len(body):
            _, number, length = unpack_from("<HHI", body, at)
            elements[number] = body[at + 8 : at + 8 + length]
            at += 8 + length
        return Response(elements)

    def assert_aborted(self, reason: int | None = None) -> None:
        """A-ABORT by the service provider (PS3.8 9.3.8), then the end."""
        received = self.receive_pdu()
        assert received is not None, "closed without A-ABORT"
        assert received[0] == 7
        assert received[1][2] == 2
        if reason is not None:
            assert received[1][3] == reason
        assert self.receive_pdu() is None

    def release(self) -> None:
        self.send(pdu(5, bytes(4)))
        assert self.receive_pdu() == (6, bytes(4))

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def connect() -> Iterator[Callable[[int], RawPeer]]:
    """Open raw peers; all are closed after the test."""
    peers: list[RawPeer] = []

    def open_one(port: int) -> RawPeer:
        peers.append(RawPeer(socket.create_connection(("127.0.0.1", port), timeout=10)))
        return peers[-1]

    yield open_one
    for peer in peers:
        peer.close()


# -- measuring --------------------------------------------------------------------------------


@pytest.fixture
def rss_growth() -> Callable[[], Any]:
    """A context manager that yields a function: bytes of memory gained at the worst moment."""

    @contextmanager
    def measure() -> Iterator[Callable[[], int]]:
        process = psutil.Process(os.getpid())
        before = process.memory_info().rss
        peak = before
        stop = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not stop.wait(0.01):
                peak = max(peak, process.memory_info().rss)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield lambda: peak - before
        finally:
            stop.set()
            thread.join()

    return measure


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., bool]:
    return eventually


@pytest.fixture
def wire() -> Any:
    """The encoders of this module, for tests that build their own PDUs."""

    class Wire:
        pass

    for encoder in (item, pdu, pdv, associate_rq, command, store_rq, even):
        setattr(Wire, encoder.__name__, staticmethod(encoder))
    return Wire


@pytest.fixture
def store(services: Any, tenant: Any, tmp_path: Path) -> Callable[..., None]:
    """Put files into the archive by the one ingest."""

    def put(*paths: Path, into: Any = tenant) -> None:
        source = Source("C-STORE", "TEST", "PEER", into.ae_title, "127.0.0.1")
        for path in paths:
            writer = services.spool.writer()
            writer.write(path.read_bytes())
            outcome = services.ingest.store(into, writer.finish(), source)
            assert outcome.kind in ("stored", "duplicate"), outcome

    return put


@pytest.fixture
def archive(make_ct: Any, store: Callable[..., None]) -> Stored:
    study, series = generate_uid(), (generate_uid(), generate_uid())
    patient = f"P{generate_uid()[-8:]}"
    samples = [
        make_ct(
            side=8 * (number + 1), study=study, PatientID=patient,
            SeriesInstanceUID=series[number % 2], SeriesNumber=number % 2,
            InstanceNumber=number,
        )
        for number in range(6)
    ]  # fmt: skip
    other = make_ct(PatientID=patient)
    store(*(sample.path for sample in (*samples, other)))
    return Stored(study, series, samples, other.study_instance_uid, other)


@pytest.fixture
def destination(registered: Any, tmp_path: Path) -> Callable[..., Any]:
    """Register a destination of this name at a port."""

    def register(title: str, port: int, **columns: Any) -> str:
        values = {"host": "127.0.0.1", "port": port, "may_be_sent_to": True, **columns}
        registered(title, **values)
        return title

    return register


@pytest.fixture
def registered(services: Services, tenant: Tenant) -> Callable[..., None]:
    """Register a further AE title with the demo tenant."""

    def add(ae_title: str, **columns: Any) -> None:
        with services.database.connection(tenant.id) as connection:
            register(connection, tenant, ae_title, **columns)

    return add


@pytest.fixture(scope="module")
def worker(
    services: Services, object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> WorkerServices:
    """What the jobs of a worker beside the listener need."""
    folder = tmp_path_factory.mktemp("data")
    return worker_of(services, object_store, Settings(data_dir=folder))


def worker_of(services: Services, object_store: ObjectStore, settings: Settings) -> WorkerServices:
    return WorkerServices(
        settings,
        services.database,
        object_store,
        services.tenants,
        services.spool,
        services.ingest,
    )
