"""Files that are no DICOM: in by their own door, out as they came, as DICOM, and as FHIR."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import psycopg
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames

from interop.dicom import file_ingest
from storage.audit import system_audit
from storage.database import Database
from storage.tenancy import Tenant
from tests.integration.access.conftest import Door
from tests.waiting import eventually

from .conftest import MADE, Person, jpeg, mp4, pixels, png, stl

_seeds = count(1)


def send(
    files: httpx.Client, person: Person, kind: str, content: bytes, **fields: str
) -> httpx.Response:
    return files.post(
        "/imaging-objects",
        params={"patient": str(person.id), **fields},
        content=content,
        headers={"Content-Type": MADE[kind][0]},
    )


def sent(files: httpx.Client, person: Person, kind: str, **fields: str) -> dict[str, Any]:
    answer = send(files, person, kind, MADE[kind][1](next(_seeds)), **fields)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("kind", MADE)
def test_a_file_comes_back_as_it_was_sent(
    door: Door, tenant: Tenant, files: httpx.Client, person: Person, kind: str
) -> None:
    content = MADE[kind][1](next(_seeds))

    answer = send(files, person, kind, content, title="Upper jaw", tooth="11,21")
    got = files.get(answer.headers["Location"])

    assert answer.status_code == 201, answer.text
    assert answer.json()["object_type"] == kind
    assert (got.content, got.headers["content-type"]) == (content, MADE[kind][0])
    assert got.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-disposition"].startswith("attachment")
    part = files.get(answer.headers["Location"], headers={"Range": "bytes=3-9"})
    assert (part.status_code, part.content) == (206, content[3:10])
    again = files.get(answer.headers["Location"], headers={"If-None-Match": got.headers["etag"]})
    assert again.status_code == 304
    [row] = door.execute(
        "SELECT object_type, tooth_numbers, document_title FROM imaging_objects"
        " WHERE tenant_id = %s AND id = %s",
        tenant.id,
        answer.json()["id"],
    )
    assert row == (kind, [11, 21], "Upper jaw")


def test_a_form_says_the_same(files: httpx.Client, person: Person) -> None:
    content = jpeg(next(_seeds))

    answer = files.post(
        "/imaging-objects",
        data={"patient-identifier": person.mrn, "title": "Smile", "tooth": "11"},
        files={"file": ("../../etc/passwd.jpg", content, "image/jpeg")},
    )

    assert answer.status_code == 201, answer.text
    assert files.get(answer.json()["url"]).content == content


def test_the_same_bytes_again_are_the_same_object(
    files: httpx.Client, person: Person, door: Door, tenant: Tenant
) -> None:
    content = stl(next(_seeds))

    first = send(files, person, "STL", content)
    second = send(files, person, "STL", content, title="another name")

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    digest = hashlib.sha256(content).hexdigest()
    rows = door.execute(
        "SELECT 1 FROM imaging_objects WHERE tenant_id = %s AND hash = %s", tenant.id, digest
    )
    assert len(rows) == 1


class CutOff:
    """A database whose answer to the last COMMIT of a file does not arrive."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transactions = 0

    @contextmanager
    def connection(self, tenant_id: UUID) -> Iterator[Any]:
        with self._database.connection(tenant_id) as connection:
            yield connection
        self._transactions += 1
        if self._transactions == 2:
            raise psycopg.OperationalError("server closed the connection unexpectedly")


def test_what_may_have_been_committed_keeps_its_bytes(
    door: Door, tenant: Tenant, files: httpx.Client, person: Person, tmp_path: Path
) -> None:
    """The same file again would else be a duplicate of one that is not there."""
    content, services = stl(next(_seeds)), door.services
    upload = file_ingest.FileUpload(tmp_path / "file", 1 << 20)
    upload.write(content)
    found = file_ingest.recognised(upload.path, upload.size, None)
    audit = system_audit(tenant.id, file_ingest.EVENT, "ImagingStudy")
    said = file_ingest.Description(patient_id=person.id)
    database: Any = CutOff(services.database)

    with pytest.raises(psycopg.OperationalError):
        file_ingest.store(
            database, services.objects, tenant, upload, found, said, audit, "operator"
        )
    upload.close()
    again = send(files, person, "STL", content)

    assert again.status_code == 200, again.text
    assert files.get(again.headers["Location"]).content == content


def test_pictures_of_a_visit_are_one_study_and_may_join_another(
    files: httpx.Client, person: Person, door: Door, tenant: Tenant
) -> None:
    visit = uuid4()
    door.execute(
        "INSERT INTO encounters (tenant_id, id, patient_id) VALUES (%s, %s, %s)",
        tenant.id,
        visit,
        person.id,
    )

    one = sent(files, person, "JPEG", encounter=str(visit))
    two = sent(files, person, "PNG", encounter=f"Encounter/{visit}")
    third = sent(files, person, "JPEG", taken="2020-02-03T10:00:00Z")
    joined = sent(files, person, "STL", study=third["study_instance_uid"])

    assert one["study_instance_uid"] == two["study_instance_uid"]
    assert third["study_instance_uid"] == joined["study_instance_uid"]
    assert one["study_instance_uid"] != third["study_instance_uid"]
    [(kind, encounter)] = door.execute(
        "SELECT modality, encounter_id FROM imaging_studies WHERE tenant_id = %s"
        " AND study_uid = %s",
        tenant.id,
        one["study_instance_uid"],
    )
    assert (kind, encounter) == ("PHOTO", visit)


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (jpeg(), "image/png", 415),
        (png(), "image/jpeg", 415),
        (b"<html><script>", "image/jpeg", 415),
        (b"MZ" + bytes(200), "model/stl", 415),
        (stl()[:-1], "model/stl", 415),
        (jpeg()[:30], "image/jpeg", 415),
        (b"\xff\xd8\xff" + bytes(100), "image/jpeg", 415),
        (mp4()[:120], "video/mp4", 415),
        (b"", "image/jpeg", 415),
        (jpeg(), "text/html", 415),
        (jpeg(), "image/svg+xml", 415),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\xff" * 8 + b"\x08\x02", "image/png", 415),
    ],
)
def test_the_bytes_must_be_what_they_are_declared_to_be(
    files: httpx.Client, person: Person, content: bytes, media_type: str, status: int
) -> None:
    answer = files.post(
        "/imaging-objects",
        params={"patient": str(person.id)},
        content=content,
        headers={"Content-Type": media_type},
    )

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"patient": str(uuid4())}, 404),
        ({"patient-identifier": "nobody's"}, 404),
        ({"patient": "ME", "encounter": str(uuid4())}, 404),
        ({"patient": "ME", "study": "1.2.3"}, 404),
        ({"patient": "ME", "study": "../x"}, 400),
        ({"patient": "ME", "tooth": "19"}, 400),
        ({"patient": "ME", "taken": "yesterday"}, 400),
        ({"patient": "ME", "title": "a\nb"}, 400),
        ({"patient": "ME", "filename": "x.jpg"}, 400),
    ],
)
def test_what_is_said_of_it_must_make_sense(
    files: httpx.Client, person: Person, fields: dict[str, str], status: int
) -> None:
    params = {name: str(person.id) if value == "ME" else value for name, value in fields.items()}

    answer = files.post(
        "/imaging-objects", params=params, content=jpeg(), headers={"Content-Type": "image/jpeg"}
    )

    assert answer.status_code == status, answer.text


def dicom(files: httpx.Client, file: dict[str, Any]) -> tuple[bytes, pydicom.FileDataset]:
    answer = files.get(file["dicom"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom"
    return answer.content, pydicom.dcmread(io.BytesIO(answer.content))


def without_errors(content: bytes, folder: Path) -> None:
    """dciodvfy finds no error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools is not installed")
    path = folder / "made.dcm"
    path.write_bytes(content)
    found = subprocess.run(
        ["dciodvfy", "-new", path], capture_output=True, text=True, check=False
    ).stderr
    assert [line for line in found.splitlines() if line.startswith("Error")] == [], found


def test_a_photograph_is_vl_photographic_around_the_very_jpeg(
    files: httpx.Client, person: Person, tmp_path: Path
) -> None:
    content = jpeg(next(_seeds), orientation=6)
    file = send(files, person, "JPEG", content, title="Smile", tooth="11").json()

    made, dataset = dicom(files, file)

    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.77.1.4"
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.50"
    [frame] = generate_frames(dataset.PixelData, number_of_frames=1)
    assert frame[: len(content)] == content
    assert (dataset.Rows, dataset.Columns) == (60, 80)
    assert dataset.PhotometricInterpretation == "YBR_FULL_422"
    assert dataset.PatientName == "Müller^Jürgen" and dataset.PatientID == person.mrn
    assert dataset.StudyInstanceUID == file["study_instance_uid"]
    assert dataset.ImageComments == "Smile. Teeth (FDI) 11. Exif orientation 6"
    assert dataset.ContentDate == "20260314"
    without_errors(made, tmp_path)
    assert dicom(files, file)[0] == made


def test_what_dicom_has_no_transfer_syntax_for_becomes_native_pixels(
    files: httpx.Client, person: Person, tmp_path: Path
) -> None:
    seed = next(_seeds)
    for kind, content, expected in (
        ("PNG", png(seed), pixels(seed, 30, 41, 3)),
        ("PNG", png(seed, "L"), pixels(seed, 30, 41)),
        ("JPEG", progressive := jpeg(seed, progressive=True), None),
    ):
        file = send(files, person, kind, content).json()
        made, dataset = dicom(files, file)
        assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
        if expected is None:
            expected = np.asarray(Image.open(io.BytesIO(progressive)))
        assert np.array_equal(dataset.pixel_array, expected)
        without_errors(made, tmp_path)


def test_who_reads_slowly_holds_no_pixels(door: Door, files: httpx.Client, person: Person) -> None:
    """Thirty readers of native pixels are not thirty times their memory."""
    # More than lies in sockets, of few bytes as PNG.
    large = np.tile(pixels(next(_seeds), 1, 3000, 3), (3000, 1, 1))
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, "PNG", compress_level=6)
    answer = send(files, person, "PNG", buffer.getvalue())
    assert answer.status_code == 201, answer.text
    url, services = answer.json()["dicom"], door.services

    with files.stream("GET", url) as slow:
        chunks = slow.iter_raw()
        first = next(chunks)
        waiting = [path.stat().st_size for path in services.spool.root.rglob("object")]
        rest = b"".join(chunks)

    assert waiting == [int(slow.headers["content-length"])]
    found = pydicom.dcmread(io.BytesIO(first + rest))
    assert np.array_equal(found.pixel_array, large)
    assert eventually(lambda: not list(services.spool.root.rglob("object")))


def test_a_model_is_encapsulated_stl(files: httpx.Client, person: Person, tmp_path: Path) -> None:
    content = b"solid jaw\n facet normal 0 0 1\n" + b" " * next(_seeds) + b"\nendsolid jaw"
    content += b"\n" * (1 - len(content) % 2)
    file = send(files, person, "STL", content, title="Lower jaw").json()

    made, dataset = dicom(files, file)

    assert len(content) % 2 == 1
    assert dataset.EncapsulatedDocument == content + b"\0"
    assert dataset.EncapsulatedDocumentLength == len(content)
    assert (dataset.Modality, dataset.DocumentTitle) == ("M3D", "Lower jaw")
    assert dataset.MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    without_errors(made, tmp_path)


def test_a_film_is_video_photographic_around_the_very_mp4(
    files: httpx.Client, person: Person, tmp_path: Path
) -> None:
    content = mp4(next(_seeds))
    file = send(files, person, "MP4", content).json()

    made, dataset = dicom(files, file)

    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.102"
    assert (dataset.NumberOfFrames, float(dataset.FrameTime)) == (10, 40.0)
    assert content in made
    without_errors(made, tmp_path)
    other = send(files, person, "MP4", mp4(next(_seeds), codec=b"hvc1")).json()
    refused = files.get(other["dicom"])
    assert refused.status_code == 422 and "hvc1" in refused.json()["error"]


@pytest.mark.parametrize("kind", MADE)
def test_on_request_it_stands_in_its_study_for_every_dicom_door(
    files: httpx.Client, dicomweb: httpx.Client, person: Person, kind: str
) -> None:
    file = sent(files, person, kind)
    study = file["study_instance_uid"]
    before = dicomweb.get(f"/studies/{study}/instances").json()

    first = files.post(file["dicom"])
    second = files.post(file["dicom"])

    assert (first.status_code, second.status_code) == (201, 200), first.text
    assert first.json() == second.json()
    found = dicomweb.get(f"/studies/{study}/instances").json()
    assert len(found) == len(before) + 1
    retrieved = dicomweb.get(
        first.json()["url"], headers={"Accept": "application/dicom; transfer-syntax=*"}
    )
    assert retrieved.content == files.get(file["dicom"]).content
    [series] = dicomweb.get(f"/studies?StudyInstanceUID={study}").json()
    assert series["00100020"]["Value"] == [person.mrn]


def test_fhir_shows_it_with_an_address_that_the_same_token_opens(
    files: httpx.Client, fhir: httpx.Client, person: Person
) -> None:
    content = jpeg(next(_seeds))
    file = send(files, person, "JPEG", content, title="Smile", tooth="11").json()
    model = sent(files, person, "STL")

    media = fhir.get(f"/Media/{file['id']}").json()
    document = fhir.get(f"/DocumentReference/{file['id']}").json()

    assert media["subject"] == document["subject"] == {"reference": f"Patient/{person.id}"}
    assert (media["status"], media["height"], media["width"]) == ("completed", 60, 80)
    assert media["bodySite"]["coding"] == [{"system": "urn:iso:std:iso:3950", "code": "11"}]
    assert fhir.get(media["content"]["url"]).content == content
    [attachment] = [entry["attachment"] for entry in document["content"]]
    assert attachment == media["content"]
    assert (attachment["contentType"], attachment["size"]) == ("image/jpeg", len(content))
    [study] = media["partOf"]
    assert fhir.get(f"/{study['reference']}").json()["resourceType"] == "ImagingStudy"
    found = fhir.get(f"/DocumentReference?patient={person.id}").json()
    assert {e["resource"]["id"] for e in found["entry"]} == {file["id"], model["id"]}
    pictures = fhir.get(f"/Media?subject=Patient/{person.id}").json()
    assert [e["resource"]["id"] for e in pictures["entry"]] == [file["id"]]
    assert fhir.get(f"/Media/{model['id']}").status_code == 404
    for resource in (media, document):
        answer = fhir.post(f"/{resource['resourceType']}/$validate", json=resource)
        issues = [i for i in answer.json()["issue"] if i["severity"] in ("error", "fatal")]
        assert issues == [], issues


def test_it_is_deleted_by_the_rules_of_images(
    files: httpx.Client, fhir: httpx.Client, dicomweb: httpx.Client, person: Person
) -> None:
    file = sent(files, person, "JPEG")
    assert fhir.get(f"/Media/{file['id']}").status_code == 200

    kept = files.delete(file["url"])
    gone = files.delete(f"{file['url']}?despite-retention=wrong patient")

    assert kept.status_code == 409 and "kept until" in kept.json()["error"]
    assert gone.status_code == 204
    assert files.get(file["url"]).status_code == 404
    assert fhir.get(f"/Media/{file['id']}").status_code == 410
    assert dicomweb.get(f"/studies?StudyInstanceUID={file['study_instance_uid']}").json() == []


def test_who_may_and_who_may_not(
    door: Door, tenant: Tenant, other_tenant: Tenant, files: httpx.Client, person: Person
) -> None:
    file = sent(files, person, "JPEG")
    reader = door.caller(tenant, "system/ImagingStudy.rs", door="")
    nobody = door.caller(tenant, "system/Patient.cruds", door="")
    own = door.caller(
        tenant, "patient/ImagingStudy.rs", patient=person.id, client=door.api_client(tenant),
        door="",
    )  # fmt: skip
    stranger = door.caller(
        tenant, "patient/ImagingStudy.rs", patient=uuid4(), client=door.api_client(tenant),
        door="",
    )  # fmt: skip
    theirs = door.caller(other_tenant, "system/*.cruds", door="")

    assert reader.get(f"/imaging-objects/{file['id']}").status_code == 200
    assert send(reader, person, "JPEG", jpeg()).status_code == 403
    assert reader.delete(f"/imaging-objects/{file['id']}").status_code == 403
    assert reader.post(f"/imaging-objects/{file['id']}/dicom").status_code == 403
    assert nobody.get(f"/imaging-objects/{file['id']}").status_code == 403
    assert own.get(f"/imaging-objects/{file['id']}").status_code == 200
    assert stranger.get(f"/imaging-objects/{file['id']}").status_code == 404
    assert theirs.get(f"/imaging-objects/{file['id']}").status_code == 404
    assert theirs.get("/imaging-objects/not-an-id").status_code == 404
    audited = door.execute(
        "SELECT event_type, patient_id FROM audit_events WHERE tenant_id = %s"
        " AND resource_id = %s ORDER BY transaction_id",
        tenant.id,
        file["id"],
    )
    assert ("IMAGING_FILE_STORED", person.id) in audited
    assert audited.count(("IMAGING_FILE_RETRIEVED", person.id)) == 2
