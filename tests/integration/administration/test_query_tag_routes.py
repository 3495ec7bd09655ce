"""Query tags by both doors, /api/v1 and the command line: registered, built, listed, removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from interop.cli import app
from interop.dicom import query_tags
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase
from tests.integration.dicomweb.conftest import make_image, multipart, part10

from .conftest import Office, assert_problem

STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=frontier'}


@pytest.fixture(scope="module")
def dicomweb(office: Office, tenant: Tenant) -> httpx.Client:
    client = office.door.caller(tenant, "system/*.cruds", door="dicom-web")
    images = [
        make_image(StudyInstanceUID=generate_uid(), PatientAge=age, PatientSize=size)
        for age, size in (("041Y", "1.70"), ("042Y", "1.80"))
    ]
    body = multipart(*map(part10, images))
    assert client.post("/studies", content=body, headers=STOW).status_code == 200
    return client


@pytest.fixture(scope="module")
def build(database: MigratedDatabase, tenant: Tenant) -> Callable[[], int]:
    """The job."""
    return lambda: query_tags.index_stored(database, tenant.id)


def test_a_tag_is_registered_built_asked_and_removed(
    office: Office, dicomweb: httpx.Client, build: Callable[[], int]
) -> None:
    operator = office.operator
    new = {"path": "PatientAge", "level": "STUDY"}

    made = operator.post("/query-tags", json=new)
    assert made.status_code == 202, made.text
    assert made.json()["status"] == "BUILDING"
    event, outcome, details = office.newest()
    assert (event, outcome) == ("CONFIG_CHANGED", "SUCCESS")
    assert "'registered': '00101010'" in str(details)
    assert_problem(operator.post("/query-tags", json=new), 409)
    assert dicomweb.get("/studies?PatientAge=041Y").status_code == 400

    build()
    shown = operator.get("/query-tags/00101010").json()
    assert shown == {
        "path": "00101010", "keyword": "PatientAge", "private_creator": None, "vr": "AS",
        "level": "STUDY", "status": "READY", "total": 2, "done": 2, "errors": 0,
    }  # fmt: skip
    assert operator.get("/query-tags").json()["items"] == [shown]
    assert operator.get("/query-tags/PatientAge/errors").json()["items"] == []
    assert len(dicomweb.get("/studies?PatientAge=041Y").json()) == 1

    gone = operator.delete("/query-tags/PatientAge")
    assert (gone.status_code, gone.json()["status"]) == (202, "DROPPING")
    assert dicomweb.get("/studies?PatientAge=041Y").status_code == 400
    build()
    assert_problem(operator.get("/query-tags/PatientAge"), 404)


def test_what_cannot_be_a_tag_says_why(office: Office) -> None:
    for new, part in (
        ({"path": "Nonsense", "level": "STUDY"}, "unknown"),
        ({"path": "PixelData", "level": "STUDY"}, "cannot be compared"),
        ({"path": "PatientAge", "level": "PATIENT"}, "level"),
    ):
        answer = office.operator.post("/query-tags", json=new)
        assert_problem(answer, 400)
        assert part in answer.text


def test_the_same_on_the_command_line(
    office: Office, dicomweb: httpx.Client, build: Callable[[], int], database: MigratedDatabase,
    owner_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("INTEROP_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("INTEROP_DATABASE_URL", database.url)
    monkeypatch.setenv("INTEROP_DATABASE_OWNER_URL", owner_url)
    slug = office.tenant.slug

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, ["query-tag", *arguments, "--tenant", slug, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    made = run("add", "PatientSize", "--level", "study", "--wait")
    listed = run("list")
    errors = run("errors", "PatientSize")

    assert (made["status"], made["done"]) == ("READY", 2)
    assert [one["path"] for one in listed] == ["00101020"]
    assert errors == []
    assert len(dicomweb.get("/studies?PatientSize=1.7").json()) == 1
    assert run("remove", "PatientSize")["status"] == "DROPPING"
    build()
    assert run("list") == []
