"""STOW-RS under hostile and odd requests: multipart, encodings, memory, values that break PS3.5."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pydicom
import pytest
import requests
from pydicom.uid import generate_uid

from interop.access import Caller, Scopes
from interop.dicom.ingest import Ingest
from interop.dicom.limits import Limits
from interop.dicom.spool import Spool
from interop.dicomweb import stow
from interop.dicomweb.media_types import MediaType
from interop.dicomweb.store_response import StoreReport
from interop.dicomweb.stow import Batch
from interop.services import Services
from storage.tenancy import Tenant

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]

REFERENCED, FAILED, OTHER = "00081199", "00081198", "0008119A"
DICOM_TYPE = 'multipart/related; type="application/dicom"; boundary=b'
JSON_TYPE = 'multipart/related; type="application/dicom+json"; boundary=b'


def part(content: bytes, headers: bytes = b"Content-Type: application/dicom\r\n") -> bytes:
    return b"--b\r\n" + headers + b"\r\n" + content + b"\r\n"


@pytest.fixture(scope="module")
def post(http: requests.Session, root: str) -> Callable[..., requests.Response]:
    def send(body: Any, content_type: str = DICOM_TYPE, **headers: str) -> requests.Response:
        return http.post(f"{root}/studies", body, headers={"Content-Type": content_type, **headers})

    return send


Post = Callable[..., requests.Response]


# -- C9 -------------------------------------------------------------------------------------


def test_c9_the_boundary_inside_the_data_is_data(post: Post, image: Image, encode: Encode) -> None:
    dataset = image(ImageComments="--b\r\n--bc\r\n --b-- --b--", PixelData=b"\r\n--bx\r\n" * 96)
    file = encode(dataset)

    answer = post(part(file) + b"--b--")

    assert answer.status_code == 200, answer.text


def test_c9_a_header_part_of_a_megabyte_is_400(post: Post, image: Image, encode: Encode) -> None:
    first = part(encode(image()))
    endless = part(b"", b"Content-Type: application/dicom; x=" + b"y" * (1 << 20) + b"\r\n")

    answer = post(first + endless + b"--b--")

    assert answer.status_code == 202
    assert len(answer.json()[REFERENCED]["Value"]) == 1
    assert "bytes of headers" in answer.json()[OTHER]["Value"][0]["00000902"]["Value"][0]


def test_c9_nested_multipart_fails_alone(post: Post, image: Image, encode: Encode) -> None:
    inner = b"--x\r\n\r\n" + encode(image()) + b"\r\n--x--"
    nested = part(inner, b"Content-Type: multipart/related; boundary=x\r\n")

    answer = post(nested + part(encode(image())) + b"--b--")

    assert answer.status_code == 202
    assert len(answer.json()[REFERENCED]["Value"]) == 1
    assert len(answer.json()[OTHER]["Value"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n\r\n--b\r\n\r\n--b--",
        b"--b\r\n\r\n\r\n--b\r\n\r\n\r\n--b--",
        b"--b\r\nContent-Type\r\n: x\r\n\r\nDICM\r\n--b--",
        b"--b\r\nContent-Type: application/dicom\r\nContent-Type: text/html\r\n\r\nDICM\r\n--b--",
        b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\nRElDTQ==\r\n--b--",
        b"preamble\r\n--b\r\n\r\n" + bytes(200) + b"\r\n--b--epilogue",
        b"--b\n\nDICM\n--b--\n",
        b"--b",
        b"--b--",
        b"",
    ],
)
def test_c9_odd_frames_of_parts_are_never_a_5xx(post: Post, body: bytes) -> None:
    answer = post(body)

    assert answer.status_code in (400, 409), answer.text


# -- the request ----------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x-gzip", "gzip, identity"])
def test_b2_a_content_encoding_is_refused_before_it_is_undone(
    post: Post, image: Image, encode: Encode, coding: str
) -> None:
    answer = post(gzip.compress(part(encode(image())) + b"--b--"), **{"Content-Encoding": coding})

    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["error"]


def test_b2_a_deflated_bomb_in_a_part_is_413(post: Post) -> None:
    bomb = gzip.compress(bytes(100 << 20))[10:-8]
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2", "1.3"
    head = pydicom.filebase.DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(head, meta)

    answer = post(part(bytes(128) + b"DICM" + head.getvalue() + bomb) + b"--b--")

    assert answer.status_code == 413
    assert "inflates to more than" in answer.text or answer.json()[OTHER]


def raw_request(root: str, session: requests.Session, *lines: str) -> socket.socket:
    parts = urlsplit(root)
    assert parts.hostname and parts.port
    connection = socket.create_connection((parts.hostname, parts.port), 10)
    head = [
        f"POST {parts.path}/studies HTTP/1.1",
        "Host: x",
        f"Authorization: {session.headers['Authorization']}",
        *lines,
    ]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    return connection


def test_who_expects_100_continue_is_told_to_go_on(
    http: requests.Session, root: str, image: Image, encode: Encode
) -> None:
    body = part(encode(image())) + b"--b--"
    with raw_request(
        root, http, f"Content-Type: {DICOM_TYPE}", f"Content-Length: {len(body)}",
        "Expect: 100-continue", "Connection: close",
    ) as connection:  # fmt: skip
        first = connection.recv(4096)
        assert first.startswith(b"HTTP/1.1 100"), first
        connection.sendall(body)
        answer = http_answer(connection)

    assert answer.status == 200


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("Content-Type: text/plain", 415),
        (f"Content-Type: {DICOM_TYPE}\r\nAccept: image/png", 406),
        (f"Content-Type: {DICOM_TYPE}\r\nContent-Encoding: gzip", 415),
    ],
)
def test_who_expects_100_continue_in_vain_is_told_why_before_the_body(
    http: requests.Session, root: str, line: str, status: int
) -> None:
    with raw_request(
        root, http, line, "Content-Length: 1000000", "Expect: 100-continue"
    ) as connection:
        answer = http_answer(connection)

    assert answer.status == status


def http_answer(connection: socket.socket) -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer


def test_a_body_in_chunks_of_any_size_is_stored(post: Post, image: Image, encode: Encode) -> None:
    images = [image(Rows=size, Columns=size) for size in (16, 800, 32)]
    body = b"".join(part(encode(one)) for one in images) + b"--b--"

    def chunks() -> Iterator[bytes]:
        at, size = 0, 1
        while at < len(body):
            yield body[at : at + size]
            at, size = at + size, size * 3 % 70_001 or 1

    answer = post(chunks())

    assert answer.status_code == 200, answer.text
    assert len(answer.json()[REFERENCED]["Value"]) == 3


# -- odd values -----------------------------------------------------------------------------

ODD = [
    ({"StudyInstanceUID": "1.2.03.{n}"}, "(0020,000D) has a UID component that begins with 0"),
    ({"SeriesInstanceUID": "StudyInstanceUID"}, "(0020,000E) is the same UID as (0020,000D)"),
    ({"SOPInstanceUID": "SeriesInstanceUID"}, "(0020,000E) is the same UID as (0008,0018)"),
    ({"StudyDate": "20261399"}, "(0008,0020) is no date (DA)"),
    ({"StudyDate": "2026-03-14"}, "(0008,0020) is no date (DA)"),
    ({"PatientBirthDate": "unknown"}, "(0010,0030) is no date (DA)"),
    ({"StudyTime": "25:00"}, "(0008,0030) is no time (TM)"),
    ({"Modality": "io"}, "(0008,0060) is no code string (CS)"),
    ({"AccessionNumber": "A" * 20}, "(0008,0050) has 20 characters; 16 are allowed"),
    ({"PatientID": "9" * 70}, "(0010,0020) has 70 characters; 64 are allowed"),
]


@pytest.mark.parametrize(("odd", "told"), ODD)
@pytest.mark.filterwarnings("ignore")
def test_what_breaks_a_rule_is_stored_with_a_warning(
    store: Store, http: requests.Session, image: Image, encode: Encode, odd: dict[str, str],
    told: str,
) -> None:  # fmt: skip
    dataset = image()
    for keyword, value in odd.items():
        known = value in dataset and dataset.get(value)
        setattr(dataset, keyword, known or value.format(n=uuid4().int % 10**9))
    file = encode(dataset)

    answer = store(file)

    assert answer.status_code == 202, answer.text
    (item,) = answer.json()[REFERENCED]["Value"]
    assert item["00081196"]["Value"] == [0xB007]
    lines = [line["00000902"]["Value"][0] for line in item["00741048"]["Value"]]
    assert told in " ".join(lines)
    url = item["00081190"]["Value"][0]
    stored = http.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert stored.content == file


def test_what_breaks_nothing_has_no_warning(store: Store, image: Image, encode: Encode) -> None:
    answer = store(encode(image(PatientName="A^B=C=D", StudyTime="235960.123456")))

    assert answer.status_code == 200
    assert "00081196" not in answer.json()[REFERENCED]["Value"][0]


# -- memory ---------------------------------------------------------------------------------

MEGABYTE = 1 << 20
MOST = 64 * MEGABYTE


@pytest.fixture
def roomy(server: Any, tmp_path: Any) -> Iterator[Services]:
    """The server's parts, with limits that let large bodies pass."""
    services: Services = server.services
    spool = Spool(tmp_path / "spool", object_limit=1 << 30)
    ingest = Ingest(services.database, services.objects, spool, Limits(object_bytes=1 << 30))
    settings = services.settings.model_copy(update={"max_request_bytes": 1 << 30})
    yield replace(services, spool=spool, ingest=ingest, settings=settings)
    ingest.close()
    spool.close()


def run(services: Services, tenant: Tenant, root: str, body: Iterator[bytes]) -> StoreReport:
    """Run a request of that body and assert what it took at most."""
    caller = Caller(
        tenant=tenant, actor_type="SYSTEM", actor_id=None, actor_name="test",
        scopes=Scopes.parse("system/*.cruds"), request_id=str(uuid4()), remote_address=None,
        user_agent=None,
    )  # fmt: skip
    content = MediaType("multipart/related", {"type": root, "boundary": "b"})

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in body:
            for at in range(0, len(chunk), 1 << 16):
                yield chunk[at : at + (1 << 16)]
                await asyncio.sleep(0)

    async def store() -> StoreReport:
        batch = Batch(services, caller, None, content, "http://x/studies")
        error = await batch.run(chunks())
        return StoreReport(batch.outcomes, error)

    tracemalloc.start()
    try:
        report = asyncio.run(store())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST, f"{peak / MEGABYTE:.0f} MB"
    return report


def pixels(megabytes: int) -> Iterator[bytes]:
    piece = bytes(range(256)) * 4096
    for _ in range(megabytes):
        yield piece


def test_memory_of_a_large_object_and_of_many_is_bounded(
    roomy: Services, tenant: Tenant, image: Image, encode: Encode
) -> None:
    frames = 192
    large = image(Rows=1024, Columns=512, NumberOfFrames=frames, PixelData=b"12")
    file = encode(large)
    at = file.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    head = file[:at] + (frames * MEGABYTE).to_bytes(4, "little")

    def body() -> Iterator[bytes]:
        yield b"--b\r\nContent-Type: application/dicom\r\n\r\n" + head
        yield from pixels(frames)
        yield b"\r\n"
        for _ in range(40):
            yield part(encode(image(Rows=1024, Columns=500, PixelData=b"".join(pixels(1)))))
        yield b"--b--"

    report = run(roomy, tenant, "application/dicom", body())

    assert report.status == 200 and len(report.stored) == 41


def test_memory_of_metadata_with_large_bulk_data_is_bounded(
    roomy: Services, tenant: Tenant, image: Image
) -> None:
    frames = 128
    data_set = json.loads(image(PixelData=b"12").to_json())
    data_set["00280010"]["Value"], data_set["00280011"]["Value"] = [1024], [512]
    data_set["00280008"] = {"vr": "IS", "Value": [frames]}
    data_set["7FE00010"] = {"vr": "OW", "BulkDataURI": "p"}
    binary = {"vr": "OB", "InlineBinary": b64encode(bytes(4 * MEGABYTE)).decode()}
    others = []
    for _ in range(12):
        other = json.loads(image().to_json()) | {"00420011": binary}
        other["00080018"]["Value"] = [generate_uid()]
        others.append(other)

    def body() -> Iterator[bytes]:
        yield (
            b"--b\r\nContent-Type: application/dicom+json\r\n\r\n[" + json.dumps(data_set).encode()
        )
        for other in others:
            yield b"," + json.dumps(other).encode()
        yield b"]\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Location: p\r\n\r\n"
        yield from pixels(frames)
        yield b"\r\n--b--"

    report = run(roomy, tenant, "application/dicom+json", body())

    assert report.status == 200, report.module("x")
    assert len(report.stored) == 13


@pytest.mark.parametrize(
    ("root", "unit", "count"),
    [
        ("application/dicom+json", b"[],", 8_000_000),
        ("application/dicom+json", b'{"00100010":{"vr":"PN"}},', 400_000),
        ("application/dicom+xml", b'<DicomAttribute tag="00091001" vr="UN"/>', 600_000),
        ("application/dicom+xml", b"&#65;", 4_000_000),
    ],
    ids=["values", "data-sets", "attributes", "text"],
)
def test_memory_of_hostile_metadata_is_bounded(
    roomy: Services, tenant: Tenant, root: str, unit: bytes, count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(stow, "MAX_PARTS", 300)

    def body() -> Iterator[bytes]:
        yield b"--b\r\nContent-Type: " + root.encode() + b"\r\n\r\n"
        yield b"[" if root.endswith("json") else b"<NativeDicomModel>"
        for _ in range(100):
            yield unit * (count // 100)
        yield b"\r\n--b--"

    report = run(roomy, tenant, root, body())

    assert not report.stored
    assert report.status in (400, 409, 413)
