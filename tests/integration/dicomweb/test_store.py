"""STOW-RS against the real server, database and object store (PS3.18 10.5)."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import generate_uid

from tests.waiting import eventually

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]

REFERENCED, FAILED, OTHER = "00081199", "00081198", "0008119A"


def reasons(answer: requests.Response, sequence: str = FAILED) -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json()[sequence]["Value"]]


def test_dicomweb_client_stores_and_gets_the_response_module(
    client: DICOMwebClient, image: Image
) -> None:
    study = generate_uid()
    instances = [image(StudyInstanceUID=study, InstanceNumber=n) for n in range(3)]

    module = client.store_instances(instances, study)

    assert module.RetrieveURL.endswith(f"/studies/{study}")
    stored = [item.ReferencedSOPInstanceUID for item in module.ReferencedSOPSequence]
    assert stored == [instance.SOPInstanceUID for instance in instances]
    assert "FailedSOPSequence" not in module


def test_a_single_part_body_is_stored(
    http: requests.Session, root: str, image: Image, encode: Encode
) -> None:
    answer = http.post(
        f"{root}/studies", encode(image()), headers={"Content-Type": "application/dicom"}
    )

    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/dicom+json"


def test_the_same_bytes_again_are_a_success_and_change_nothing(
    store: Store, client: DICOMwebClient, image: Image, encode: Encode
) -> None:
    dataset = image()
    file = encode(dataset)

    answers = [store(file), store(file), store(file, file)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    found = client.search_for_instances(dataset.StudyInstanceUID)
    assert len(found) == 1


def test_other_bytes_under_a_known_uid_are_refused_and_the_first_stay(
    store: Store, client: DICOMwebClient, image: Image, encode: Encode
) -> None:
    dataset = image(PatientName="First^One")
    assert store(encode(dataset)).status_code == 200
    dataset.PatientName = "Second^Two"

    answer = store(encode(dataset))

    assert answer.status_code == 409
    assert reasons(answer) == [0x0111]
    (found,) = client.search_for_studies(
        search_filters={"StudyInstanceUID": dataset.StudyInstanceUID}
    )
    assert found["00100010"]["Value"][0]["Alphabetic"] == "First^One"


def test_some_stored_and_some_not_is_202_with_both_lists_in_order(
    store: Store, image: Image, encode: Encode
) -> None:
    study = generate_uid()
    good = [image(StudyInstanceUID=study) for _ in range(2)]
    stray = image()

    answer = store(encode(good[0]), encode(stray), b"no dicom at all", encode(good[1]), study=study)

    assert answer.status_code == 202
    stored = [i["00081155"]["Value"][0] for i in answer.json()[REFERENCED]["Value"]]
    assert stored == [dataset.SOPInstanceUID for dataset in good]
    (failed,) = answer.json()[FAILED]["Value"]
    assert failed["00081155"]["Value"] == [stray.SOPInstanceUID]
    assert reasons(answer) == [0xA900]
    assert reasons(answer, OTHER) == [0xC001]
    assert answer.json()["00081190"]["Value"][0].endswith(f"/studies/{study}")


def test_instances_of_another_study_than_the_url_names_are_409(
    store: Store, image: Image, encode: Encode
) -> None:
    answer = store(encode(image()), study="1.2.3")

    assert answer.status_code == 409
    assert reasons(answer) == [0xA900]
    assert answer.json()["00081190"] == {"vr": "UR"}


@pytest.mark.parametrize(
    ("content_type", "body", "status", "message"),
    [
        ("application/json", b"{}", 415, "application/json"),
        ("", b"x", 415, "send multipart/related"),
        ('multipart/related; type="application/dicom+fhir"; boundary=b', b"", 415, "not accepted"),
        ("multipart/form-data; boundary=b", b"--b--", 415, "not accepted"),
        ('multipart/related; type="application/dicom"', b"--b--", 400, "no boundary"),
        ('multipart/related; type="application/dicom"; boundary=b', b"", 400, "boundary"),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b--", 400, "no parts"),
        ('multipart/related; type="application/dicom"; boundary=b', b"--x--", 400, "'b'"),
    ],
)
def test_a_body_that_is_not_understood_is_refused_with_what_would_be(
    http: requests.Session, root: str, content_type: str, body: bytes, status: int, message: str
) -> None:
    answer = http.post(f"{root}/studies", body, headers={"Content-Type": content_type})

    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


def test_c9_a_part_of_a_wrong_type_fails_alone(
    http: requests.Session, root: str, image: Image, encode: Encode
) -> None:
    file = encode(image())
    body = b"--b\r\nContent-Type: text/html\r\n\r\n<script>\r\n"
    body += b"--b\r\ncontent-type: Application/DICOM; transfer-syntax=1.2\r\n\r\n" + file
    body += b"\r\n--b--"

    answer = http.post(
        f"{root}/studies",
        body,
        headers={"Content-Type": "multipart/related;type=application/dicom;boundary=b"},
    )

    assert answer.status_code == 202
    assert reasons(answer, OTHER) == [0xC000]
    assert "text/html" in answer.json()[OTHER]["Value"][0]["00000902"]["Value"][0]
    assert len(answer.json()[REFERENCED]["Value"]) == 1


def test_c9_a_missing_end_boundary_keeps_what_came_whole(
    http: requests.Session, root: str, image: Image, encode: Encode
) -> None:
    first, second = image(), image()
    body = b"".join(
        b"--b\r\nContent-Type: application/dicom\r\n\r\n" + encode(dataset) + b"\r\n"
        for dataset in (first, second)
    )

    answer = http.post(
        f"{root}/studies",
        body,
        headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'},
    )

    assert answer.status_code == 202
    stored = [i["00081155"]["Value"][0] for i in answer.json()[REFERENCED]["Value"]]
    assert stored == [first.SOPInstanceUID]
    assert http.get(f"{root}/studies/{second.StudyInstanceUID}").status_code == 404


def test_c9_more_parts_than_the_limit_are_refused_and_the_rest_is_named(
    http: requests.Session, root: str
) -> None:
    part = b"--b\r\nContent-Type: text/plain\r\n\r\n\r\n"

    answer = http.post(
        f"{root}/studies",
        part * 10_001 + b"--b--",
        headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'},
    )

    assert answer.status_code == 413
    assert len(answer.json()[OTHER]["Value"]) == 10_001
    assert "more than 10000 parts" in answer.json()[OTHER]["Value"][-1]["00000902"]["Value"][0]


def test_c9_an_object_over_the_limit_is_refused_and_leaves_nothing(
    http: requests.Session, root: str, server: Any, image: Image, encode: Encode
) -> None:
    big = encode(image(Rows=4096, Columns=4160, PixelData=bytes(4096 * 4160 * 2)))
    assert len(big) > server.services.settings.max_object_bytes

    answer = http.post(f"{root}/studies", big, headers={"Content-Type": "application/dicom"})

    assert answer.status_code == 413
    assert reasons(answer, OTHER) == [0xA700]
    assert spooled_files(server) == []


def test_c8_a_body_over_the_limit_is_413_before_it_is_read(
    http: requests.Session, root: str, server: Any
) -> None:
    parts = urlsplit(root)
    assert parts.hostname and parts.port
    with socket.create_connection((parts.hostname, parts.port), 10) as connection:
        head = (
            f"POST {parts.path}/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967296\r\n"
            "Content-Type: application/dicom\r\n"
            f"Authorization: {http.headers['Authorization']}\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = connection.recv(65536)

    assert b" 413 " in answer.split(b"\r\n")[0]


def test_a_body_in_chunks_over_the_limit_is_413(
    http: requests.Session, root: str, server: Any
) -> None:
    def endless() -> Any:
        yield b"--b\r\nContent-Type: text/plain\r\n\r\n"
        for _ in range(80):
            yield bytes(1 << 20)

    try:
        answer = http.post(
            f"{root}/studies",
            endless(),
            headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'},
        )
    except requests.exceptions.ConnectionError:
        # The server may close while we are still sending; it has answered 413 by then.
        return
    assert answer.status_code == 413
    assert "67108864" in answer.text


def test_a_client_that_goes_away_leaves_no_file_behind(
    http: requests.Session, root: str, server: Any, image: Image, encode: Encode
) -> None:
    parts = urlsplit(root)
    assert parts.hostname and parts.port
    file = encode(image(Rows=1024, Columns=2048, PixelData=bytes(1024 * 2048 * 2)))
    with socket.create_connection((parts.hostname, parts.port), 10) as connection:
        head = (
            f"POST {parts.path}/studies HTTP/1.1\r\nHost: x\r\nContent-Length: {len(file)}\r\n"
            "Content-Type: application/dicom\r\n"
            f"Authorization: {http.headers['Authorization']}\r\n\r\n"
        )
        connection.sendall(head.encode() + file[: 3 << 20])

    assert eventually(lambda: spooled_files(server) == [])
    assert http.get(f"{root}/studies?limit=1").status_code == 200


def test_b1_a_preamble_that_is_a_program_is_zeroed(
    store: Store, http: requests.Session, image: Image, encode: Encode
) -> None:
    file = bytearray(encode(image()))
    file[:2] = b"MZ"

    answer = store(bytes(file))
    url = answer.json()[REFERENCED]["Value"][0]["00081190"]["Value"][0]
    got = http.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})

    assert got.content[:128] == bytes(128)
    assert got.content[128:] == file[128:]
    assert got.headers["Content-Type"].startswith("application/dicom")
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Disposition"].startswith("attachment")
    assert got.headers["Cache-Control"].startswith("private")
    assert "Authorization" in got.headers["Vary"]


def test_every_part_is_audited_once_stored_or_refused(
    store: Store, http: requests.Session, root: str, server: Any, tenant: Any, image: Image,
    encode: Encode,
) -> None:  # fmt: skip
    def events() -> Counter[tuple[str, str, str]]:
        with server.services.database.connection(tenant.id) as connection:
            rows = connection.execute(
                "SELECT event_type, outcome, actor_type FROM audit_events WHERE tenant_id = %s",
                (tenant.id,),
            ).fetchall()
        return Counter(rows)

    content_type = 'multipart/related; type="application/dicom"; boundary=b'
    before = events()
    mixed = store(encode(image()), b"junk", b"")
    broken = http.post(f"{root}/studies", b"--b--", headers={"Content-Type": content_type})

    assert (mixed.status_code, broken.status_code) == (202, 400)
    # Of what the ingest saw it wrote the rows itself: one stored, one that is no DICOM.
    assert events() - before == {
        ("DICOM_INSTANCE_STORED", "SUCCESS", "API_CLIENT"): 1,
        ("DICOM_INSTANCE_REFUSED", "FAILURE", "API_CLIENT"): 1,
        ("IMAGING_STORE_REFUSED", "FAILURE", "API_CLIENT"): 2,
    }


def spooled_files(server: Any) -> list[str]:
    folder: Path = server.services.settings.spool_dir
    found = [name for _, _, names in os.walk(folder) for name in names]
    return [name for name in found if name != ".lock"]
