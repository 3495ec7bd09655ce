"""The whole main job on the real server: C-STORE in, DICOMweb, FHIR and the AI's report out.

One server as `interop serve` starts it, real senders (DCMTK, pynetdicom, dicomweb-client), the
real network on a synthetic panoramic.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest

pytest.importorskip("highdicom", reason="the ai extra is not installed")

from benchmarks.live_server import LiveServer
from interop.demo.images import DemoStudy, write_study
from interop.demo.patients import PATIENTS, DemoPatient, demo_id
from interop.demo.records import consent, patient_resource
from interop.dimse import scu

pytestmark = pytest.mark.timeout(600)
PANORAMIC = DemoStudy("PX", "Panoramic radiograph", PATIENTS[0], "20260914", "PX-1")


DOORS: list[httpx.Client] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("server"), default_quiet_window_seconds="1") as running:
        yield running
        for client in DOORS:
            client.close()


class Door:
    """One tenant's FHIR and DICOMweb with its token."""

    def __init__(self, server: LiveServer, slug: str, ae_title: str) -> None:
        self.server, self.slug, self.ae_title = server, slug, ae_title
        self.token = server.tenant(slug, ae_title)
        self.base = f"{server.url}/t/{slug}"
        self.http = httpx.Client(headers={"Authorization": f"Bearer {self.token}"}, timeout=60)
        DOORS.append(self.http)

    def fhir(self, path: str) -> Any:
        answer = self.http.get(f"{self.base}/fhir/R4/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, resource: dict[str, Any]) -> None:
        answer = self.http.put(
            f"{self.base}/fhir/R4/{resource['resourceType']}/{resource['id']}", json=resource
        )
        assert answer.status_code in (200, 201), answer.text

    def web(self, path: str, accept: str = "application/dicom+json") -> httpx.Response:
        return self.http.get(f"{self.base}/dicom-web/{path}", headers={"Accept": accept})

    def register(self, patient: DemoPatient) -> None:
        self.put(patient_resource(patient))
        self.put(consent(patient))


@pytest.fixture(scope="module")
def demo(server: LiveServer) -> Door:
    door = Door(server, "demo", "INTEROP")
    server.cli("tenant", "enable", "demo", "AI_DIAGNOSTICS")
    for ae_title in ("STORESCU", "ECHOSCU", "PYNETDICOM"):
        server.cli("ae", "create", "--tenant", "demo", "--ae-title", ae_title)
    return door


@pytest.fixture(scope="module")
def panoramic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(write_study(PANORAMIC, tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def sent(demo: Door, panoramic: Path) -> Door:
    """The patient is registered by FHIR, then the device sends the image."""
    demo.register(PATIENTS[0])
    report = scu.send(
        [panoramic], "127.0.0.1", demo.server.dicom_port, "INTEROP", "PYNETDICOM", lambda _: None
    )
    assert not report.failed
    return demo


def test_the_study_is_found_and_comes_back_byte_for_byte(sent: Door, panoramic: Path) -> None:
    (row,) = sent.web(f"studies?StudyInstanceUID={PANORAMIC.study_uid}").json()
    answer = sent.web(
        f"studies/{PANORAMIC.study_uid}/series/{PANORAMIC.series_uid}/instances/"
        f"{pydicom.dcmread(panoramic, stop_before_pixels=True).SOPInstanceUID}",
        "application/dicom; transfer-syntax=*",
    )

    assert row["00100020"]["Value"] == [PATIENTS[0].mrn]
    assert answer.status_code == 200
    received, original = (
        hashlib.sha256(data_set_bytes(data)).hexdigest()
        for data in (answer.content, panoramic.read_bytes())
    )
    assert received == original


def data_set_bytes(part10: bytes) -> bytes:
    """What follows the File Meta Information, which the receiving AE writes anew."""
    meta = pydicom.dcmread(io.BytesIO(part10), stop_before_pixels=True).file_meta
    return part10[132 + 12 + meta.FileMetaInformationGroupLength :]


def test_the_study_is_a_fhir_imaging_study_of_the_registered_patient(sent: Door) -> None:
    bundle = sent.fhir(f"ImagingStudy?patient={PATIENTS[0].id}&_include=ImagingStudy:patient")

    types = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert sorted(types) == ["ImagingStudy", "Patient"]
    study = bundle["entry"][0]["resource"]
    assert study["identifier"][0]["value"] == f"urn:oid:{PANORAMIC.study_uid}"


@pytest.fixture(scope="module")
def analysed(sent: Door) -> Door:
    def reports() -> Any:
        found = sent.fhir(f"DiagnosticReport?patient={PATIENTS[0].id}")
        return found.get("entry")

    sent.server.wait_for(reports, 180, every=0.5)
    return sent


def test_the_ai_answers_in_fhir(analysed: Door) -> None:
    bundle = analysed.fhir(
        f"DiagnosticReport?patient={PATIENTS[0].id}&_include=DiagnosticReport:result"
    )

    report = bundle["entry"][0]["resource"]
    observations = [e["resource"] for e in bundle["entry"] if e["search"]["mode"] == "include"]
    assert report["status"] == "preliminary"
    assert "not for clinical use" in str(report).lower()
    assert len(observations) == len(report["result"]) > 0
    for observation in observations:
        assert observation["status"] == "preliminary"
        assert observation["bodySite"]["coding"]
        assert "AIAST" in str(observation["meta"]["security"])
        assert observation["subject"]["reference"] == f"Patient/{PATIENTS[0].id}"
    device = analysed.fhir(observations[0]["device"]["reference"])
    assert "synthetic" in str(device).lower()
    for resource_type in ("Task", "Provenance"):
        assert analysed.fhir(f"{resource_type}?_count=5")["entry"]


def test_the_ai_answers_in_dicom_and_its_objects_are_valid(analysed: Door, tmp_path: Path) -> None:
    series = analysed.web(f"studies/{PANORAMIC.study_uid}/series").json()
    made = {row["00080060"]["Value"][0]: row["0020000E"]["Value"][0] for row in series}
    assert set(made) == {"PX", "SR", "SEG"}

    for modality in ("SR", "SEG"):
        (row,) = analysed.web(
            f"studies/{PANORAMIC.study_uid}/series/{made[modality]}/instances"
        ).json()
        uid = row["00080018"]["Value"][0]
        answer = analysed.web(
            f"studies/{PANORAMIC.study_uid}/series/{made[modality]}/instances/{uid}",
            "application/dicom; transfer-syntax=*",
        )
        path = tmp_path / f"{modality}.dcm"
        path.write_bytes(answer.content)
        assert pydicom.dcmread(path).PatientID == PATIENTS[0].mrn
        if shutil.which("dciodvfy"):
            found = subprocess.run(
                ["dciodvfy", "-new", path], capture_output=True, text=True, check=False
            )
            lines = (found.stdout + found.stderr).splitlines()
            assert [line for line in lines if line.startswith("Error")] == []


def test_sending_again_changes_nothing(analysed: Door, panoramic: Path) -> None:
    def state() -> tuple[object, ...]:
        study = analysed.fhir(f"ImagingStudy?patient={PATIENTS[0].id}")["entry"][0]["resource"]
        jobs = analysed.server.cli("jobs", "--tenant", "demo", "--json")
        return study["numberOfInstances"], study["meta"]["versionId"], jobs

    before = state()
    report = scu.send(
        [panoramic], "127.0.0.1", analysed.server.dicom_port, "INTEROP", "PYNETDICOM",
        lambda _: None,
    )  # fmt: skip

    assert not report.failed
    assert state() == before


def test_another_tenant_with_the_same_uids_sees_only_its_own(
    analysed: Door, server: LiveServer, panoramic: Path
) -> None:
    other = Door(server, "other", "OTHER")
    server.cli("ae", "create", "--tenant", "other", "--ae-title", "PYNETDICOM")
    missing = other.web(f"studies/{PANORAMIC.study_uid}/metadata")
    assert missing.status_code == 404
    assert other.fhir("ImagingStudy").get("entry", []) == []

    report = scu.send(
        [panoramic], "127.0.0.1", server.dicom_port, "OTHER", "PYNETDICOM", lambda _: None
    )

    assert not report.failed
    (mine,) = other.fhir("ImagingStudy")["entry"]
    (theirs,) = analysed.fhir(f"ImagingStudy?patient={PATIENTS[0].id}")["entry"]
    assert mine["resource"]["id"] != theirs["resource"]["id"]
    assert mine["resource"]["subject"] != theirs["resource"]["subject"]
    crossed = other.http.get(f"{other.base}/fhir/R4/ImagingStudy/{theirs['resource']['id']}")
    unknown = other.http.get(f"{other.base}/fhir/R4/ImagingStudy/{demo_id('nothing')}")
    assert crossed.status_code == unknown.status_code == 404
    foreign = {"Authorization": f"Bearer {analysed.token}"}
    assert httpx.get(f"{other.base}/fhir/R4/Patient", headers=foreign).status_code == 404
    assert httpx.get(f"{other.base}/fhir/R4/Patient").status_code == 401
    assert httpx.get(f"{other.base}/dicom-web/studies").status_code == 401


@pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed")
def test_dcmtk_echoes_and_stores(demo: Door, panoramic: Path) -> None:
    peer = ["-aec", "INTEROP", "127.0.0.1", str(demo.server.dicom_port)]

    assert subprocess.run(["echoscu", *peer], check=False).returncode == 0
    assert subprocess.run(["storescu", *peer, panoramic], check=False).returncode == 0


def test_a_client_token_is_narrowed_to_its_scopes(server: LiveServer, demo: Door) -> None:
    made = server.client("demo", "system/Patient.rs")
    answer = httpx.post(
        f"{server.url}/t/demo/oauth2/token",
        data={"grant_type": "client_credentials"},
        auth=(made["client_id"], made["client_secret"]),
    )
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def status(path: str) -> int:
        return httpx.get(f"{demo.base}/{path}", headers=headers).status_code

    assert status("fhir/R4/Patient") == 200
    assert status("fhir/R4/Observation") == 403
    assert status("dicom-web/studies") == 403


def test_the_command_line_verifies_and_sends_to_a_registered_peer(
    server: LiveServer, demo: Door, panoramic: Path
) -> None:
    """The peer is another tenant of the same server, who registers the sender in turn."""
    server.cli("tenant", "create", "peer", "--ae-title", "PEER")
    server.cli("ae", "create", "--tenant", "peer", "--ae-title", demo.ae_title)
    address = ("--host", "127.0.0.1", "--port", str(server.dicom_port))
    server.cli("ae", "create", "--tenant", "demo", "--ae-title", "PEER", *address)
    to_peer = ("--tenant", "demo", "--ae-title", "PEER")

    assert "answers" in server.cli("echo", *to_peer)
    assert "1 of 1 stored by PEER" in server.cli("send", *to_peer, str(panoramic))
    with pytest.raises(RuntimeError, match="NOBODY"):
        server.cli("echo", "--tenant", "demo", "--ae-title", "NOBODY")
