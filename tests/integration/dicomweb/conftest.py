"""A real HTTP server over the module's database and a local object store, and clients of it."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pydicom
import pytest
import requests
import uvicorn
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from starlette.applications import Starlette

from interop.access import Scopes
from interop.access.http import Authenticator
from interop.dicom.ingest import Ingest
from interop.dicom.limits import Limits
from interop.dicom.spool import Spool
from interop.dicomweb import router
from interop.services import Services
from interop.settings import Settings
from interop.smart.clients import create_client
from interop.smart.tokens import TokenService
from storage.database import Database
from storage.encryption import MasterKey
from storage.objects import open_object_store
from storage.quotas import TenantLimits
from storage.tenancy import Tenant, TenantDirectory

DICOM = "application/dicom"
ALL = "system/ImagingStudy.crs"


@dataclass(frozen=True)
class Server:
    """The running server."""

    url: str
    services: Services

    def token(self, tenant: Tenant, scope: str = ALL) -> str:
        client, _ = create_client(self.services.database, tenant, "test", Scopes.parse(scope))
        return self.services.tokens.issue(tenant, client.id, client.name, client.scopes)

    def root(self, tenant: Tenant) -> str:
        return f"{self.url}/t/{tenant.slug}/dicom-web"

    def session(self, tenant: Tenant, scope: str = ALL) -> requests.Session:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self.token(tenant, scope)}"
        return session

    def client(self, tenant: Tenant) -> DICOMwebClient:
        return DICOMwebClient(self.root(tenant), session=self.session(tenant))


@pytest.fixture(scope="module")
def server(
    database: Database, tenant: Tenant, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        database_url=database.url,
        http_port=port,
        max_request_bytes=64 << 20,
        max_object_bytes=32 << 20,
    )
    yield from serve(settings)


def build_services(settings: Settings) -> Services:
    """As `interop.services.open_services`, over the database that the test run migrated."""
    assert settings.database_url is not None
    database = Database(settings.database_url)
    objects = open_object_store(settings.effective_objects_url)
    spool = Spool(settings.spool_dir, object_limit=settings.max_object_bytes)
    key = MasterKey.from_file(settings.data_dir / "master.key")
    tokens = TokenService(database, key, settings.token_seconds)
    return Services(
        settings=settings,
        database=database,
        objects=objects,
        tenants=TenantDirectory(database),
        limits=TenantLimits(database),
        spool=spool,
        ingest=Ingest(database, objects, spool, Limits(object_bytes=settings.max_object_bytes)),
        master_key=key,
        tokens=tokens,
        authenticator=Authenticator(database, tokens),
    )


def serve(settings: Settings) -> Iterator[Server]:
    services = build_services(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await services.database.open_async()
        app.state.services = services
        yield
        await services.database.close_async()

    app = Starlette(routes=router.routes(), lifespan=lifespan)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=settings.http_port, log_level="warning", ws="none"
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, name="dicomweb-server")
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not running.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        yield Server(f"http://127.0.0.1:{settings.http_port}", services)
    finally:
        running.should_exit = True
        thread.join(20)
        services.close()


@pytest.fixture(scope="module")
def client(server: Server, tenant: Tenant) -> DICOMwebClient:
    return server.client(tenant)


@pytest.fixture(scope="module")
def http(server: Server, tenant: Tenant) -> requests.Session:
    return server.session(tenant)


@pytest.fixture(scope="module")
def root(server: Server, tenant: Tenant) -> str:
    return server.root(tenant)


@pytest.fixture(scope="session")
def image() -> Callable[..., Dataset]:
    """Makes images; see `make_image`."""
    return make_image


@pytest.fixture(scope="session")
def encode() -> Callable[[Dataset], bytes]:
    """Encodes data sets as Part 10 files."""
    return part10


@pytest.fixture(scope="session")
def parts_of() -> Callable[[requests.Response], list[tuple[dict[str, str], bytes]]]:
    """Splits multipart answers."""
    return split_parts


def make_image(**attributes: object) -> Dataset:
    """A small secondary-capture image; attributes by keyword override, None removes."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.StudyDate = "20260314"
    dataset.StudyTime = "101530"
    dataset.AccessionNumber = "A1"
    dataset.StudyID = "S1"
    dataset.StudyDescription = "Bitewings"
    dataset.ReferringPhysicianName = "House^Gregory"
    dataset.PatientName = "Müller^Jürgen"
    dataset.PatientID = "P1"
    dataset.PatientBirthDate = "19800102"
    dataset.PatientSex = "M"
    dataset.Modality = "IO"
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = "upper left"
    dataset.InstanceNumber = 1
    dataset.Rows, dataset.Columns = 16, 24
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if "PixelData" not in dataset:
        frames = int(dataset.get("NumberOfFrames", 1))
        size = frames * dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
        pixels = np.arange(size, dtype=np.uint16 if dataset.BitsAllocated == 16 else np.uint8)
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated == 16 else "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def part10(dataset: Dataset) -> bytes:
    """The Part 10 file of a data set."""
    with io.BytesIO() as buffer:
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        return buffer.getvalue()


def multipart(*files: bytes, boundary: str = "frontier", part_type: str = DICOM) -> bytes:
    parts = [
        f"--{boundary}\r\nContent-Type: {part_type}\r\n\r\n".encode() + file + b"\r\n"
        for file in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


Store = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def store(http: requests.Session, root: str) -> Store:
    """Posts Part 10 files in one multipart request."""

    def post(*files: bytes, study: str | None = None) -> requests.Response:
        url = f"{root}/studies" + (f"/{study}" if study else "")
        content_type = f'multipart/related; type="{DICOM}"; boundary=frontier'
        return http.post(url, multipart(*files), headers={"Content-Type": content_type})

    return post


def split_parts(response: requests.Response) -> list[tuple[dict[str, str], bytes]]:
    """The parts of a multipart answer."""
    boundary = response.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
    pieces = (b"\r\n" + response.content).split(b"\r\n--" + boundary)
    assert pieces[0] == b"" and pieces[-1].startswith(b"--")
    parts = []
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        lines = [line.partition(b":") for line in head.strip().split(b"\r\n")]
        headers = {k.decode().lower(): v.strip().decode() for k, _, v in lines}
        parts.append((headers, content))
    return parts
