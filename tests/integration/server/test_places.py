"""The main job on the real server for tenants with a schema or a database of their own.

One server as `interop serve` starts it, with a tenant of each strategy made on the command line:
C-STORE in, DICOMweb and FHIR and the AI's report out, sign-in, and nothing of it at the others.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("highdicom", reason="the ai extra is not installed")

from benchmarks.live_server import CLI, LiveServer
from interop.demo.images import DemoStudy, write_study
from interop.demo.patients import PATIENTS
from interop.demo.records import consent, patient_resource
from interop.dimse import scu
from tests.integration.identity.conftest import PASSWORD, Browser

pytestmark = pytest.mark.timeout(600)
STRATEGIES = {"rows": "ROW_LEVEL", "schema": "SCHEMA", "database": "DATABASE"}
# Each has its own; the empty tenant has none.
STUDIES = {
    slug: DemoStudy("PX", "Panoramic radiograph", patient, "20260914", f"PX-{slug}")
    for slug, patient in zip(STRATEGIES, PATIENTS, strict=False)
}
APART = pytest.mark.parametrize("slug", ["schema", "database"])


class World:
    """The server and a client of each tenant."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.clients: dict[str, httpx.Client] = {}
        for slug, strategy in STRATEGIES.items():
            server.cli(
                "tenant", "create", slug, "--ae-title", slug.upper(),
                "--partition-strategy", strategy,
            )  # fmt: skip
            server.cli("tenant", "enable", slug, "AI_DIAGNOSTICS")
            server.cli("ae", "create", "--tenant", slug, "--ae-title", "PYNETDICOM")
            self.clients[slug] = httpx.Client(
                base_url=f"{server.url}/t/{slug}",
                headers={
                    "Authorization": f"Bearer {server.cli('token', '--tenant', slug).strip()}"
                },
                timeout=60,
            )

    def fhir(self, slug: str, path: str) -> Any:
        answer = self.clients[slug].get(f"/fhir/R4/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def studies(self, slug: str) -> list[str]:
        rows = self.clients[slug].get("/dicom-web/studies")
        assert rows.status_code in (200, 204), rows.text
        return [row["0020000D"]["Value"][0] for row in rows.json()] if rows.content else []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("server")
    with LiveServer(folder, default_quiet_window_seconds="1") as running:
        made = World(running)
        yield made
        for client in made.clients.values():
            client.close()


@pytest.fixture(scope="module")
def sent(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """In each tenant the patient is registered by FHIR, then the device sends an image."""
    for slug, study in STUDIES.items():
        for resource in (patient_resource(study.patient), consent(study.patient)):
            url = f"/fhir/R4/{resource['resourceType']}/{resource['id']}"
            answer = world.clients[slug].put(url, json=resource)
            assert answer.status_code in (200, 201), answer.text
        folder: Path = tmp_path_factory.mktemp(slug)
        report = scu.send(
            list(write_study(study, folder)),
            "127.0.0.1",
            world.server.dicom_port,
            slug.upper(),
            "PYNETDICOM",
            lambda _: None,
        )
        assert not report.failed
    return world


@pytest.mark.parametrize("slug", STRATEGIES)
def test_what_was_sent_is_at_its_tenant_and_nowhere_else(sent: World, slug: str) -> None:
    study = STUDIES[slug]

    assert sent.studies(slug) == [study.study_uid]
    for other in STRATEGIES.keys() - {slug}:
        found = sent.clients[other].get(f"/dicom-web/studies/{study.study_uid}/metadata")
        assert found.status_code == 404
        stranger = httpx.get(
            str(sent.clients[other].base_url) + "/dicom-web/studies",
            headers=sent.clients[slug].headers,
        )
        assert stranger.status_code == 404


@APART
def test_the_study_is_in_fhir_and_its_pixels_come_back(sent: World, slug: str) -> None:
    study = STUDIES[slug]
    bundle = sent.fhir(slug, f"ImagingStudy?patient={study.patient.id}")

    identifiers = [one["resource"]["identifier"][0]["value"] for one in bundle["entry"]]
    assert identifiers == [f"urn:oid:{study.study_uid}"]
    picture = sent.clients[slug].get(
        f"/dicom-web/studies/{study.study_uid}/thumbnail", headers={"Accept": "image/jpeg"}
    )
    assert (picture.status_code, picture.content[:2]) == (200, b"\xff\xd8")


@APART
def test_the_ai_answers(sent: World, slug: str) -> None:
    """Its jobs lie in the tenant's own database, where it has one."""
    question = f"DiagnosticReport?patient={STUDIES[slug].patient.id}"

    report = sent.server.wait_for(lambda: sent.fhir(slug, question).get("entry"), 180, every=0.5)

    assert report[0]["resource"]["status"] == "preliminary"
    assert report[0]["resource"]["result"]


@APART
def test_the_worker_seals_the_log(sent: World, slug: str) -> None:
    def chain() -> Any:
        (report,) = json.loads(sent.server.cli("audit", "verify", "--tenant", slug, "--json"))
        return report if report["rows"] else None

    report = sent.server.wait_for(chain, 60, every=2.0)

    assert report["seals"] >= 1
    assert report["problem"] is None


@APART
def test_a_user_signs_in(world: World, slug: str) -> None:
    made = subprocess.run(
        [*CLI, "user", "create", "--tenant", slug, "--role", "TENANT_ADMIN", "--email",
         "ada@clinic.example", "--password-stdin"],
        env=world.server.environment, input=f"{PASSWORD}\n", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    browser = Browser(world.server.url, slug)
    try:
        answer = browser.sign_in("ada@clinic.example")
        assert answer.headers["location"] == f"/t/{slug}/account"
        assert "Ada" in browser.get("account").text
    finally:
        browser.http.close()


def test_doctor_knows_the_places(world: World) -> None:
    checks = world.server.cli("doctor")

    assert "1 schemas and 1 databases of tenants, all reachable" in " ".join(checks.split())
