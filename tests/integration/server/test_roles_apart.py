"""The roles as docker-compose.yml runs them: apart, over PostgreSQL 15 and an S3 server.

No container engine is at hand, so the same processes are started by hand with the same settings.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from benchmarks.live_server import LiveServer
from interop.demo.images import DemoStudy, write_study
from interop.demo.patients import PATIENTS
from interop.dimse import scu
from storage.embedded import OWNER_ROLE, SUPERUSER, EmbeddedPostgres
from storage.postgres_binaries import PostgresBinariesNotFound, system_binaries

pytestmark = pytest.mark.timeout(600)
ROLES = ("http", "dicom", "worker")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, seaweedfs: str) -> Iterator[dict[str, str]]:
    """What compose gives each role: one database URL of a login that may not bypass RLS, S3."""
    try:
        binaries = system_binaries(15)
    except PostgresBinariesNotFound as error:
        pytest.skip(f"PostgreSQL 15 is not installed: {error}")
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg15"), binaries=binaries) as cluster:
        with psycopg.connect(cluster.url(SUPERUSER, "postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {OWNER_ROLE} NOBYPASSRLS")
        yield {
            "database_url": cluster.owner_url,
            "objects_url": f"s3://objects/compose?endpoint_url={seaweedfs}",
            "master_key": base64.b64encode(os.urandom(32)).decode(),
        }


@pytest.fixture(scope="module")
def server(
    settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Three supervisors, one role each, with nothing in common but database and objects."""
    first = LiveServer(tmp_path_factory.mktemp("role-http"), **settings)
    with ExitStack() as stack:
        for role in ROLES:
            one = first if role == "http" else first.beside(tmp_path_factory.mktemp(f"role-{role}"))
            one.start(role)
            stack.callback(one.stop)
        yield first


def test_what_the_dicom_role_stored_the_http_role_serves_and_the_worker_decides(
    server: LiveServer, tmp_path: Path
) -> None:
    token = server.tenant("compose", "COMPOSE")
    server.cli("ae", "create", "--tenant", "compose", "--ae-title", "PYNETDICOM")
    study = DemoStudy("PX", "Panoramic", PATIENTS[1], "20261101", "C-1")
    (path,) = write_study(study, tmp_path)

    report = scu.send(
        [path], "127.0.0.1", server.dicom_port, "COMPOSE", "PYNETDICOM", lambda _: None
    )

    assert not report.failed
    headers = {"Authorization": f"Bearer {token}"}
    base = f"{server.url}/t/compose"
    with httpx.Client(headers=headers, timeout=60) as client:
        rows = client.get(f"{base}/dicom-web/studies").json()
        assert [row["0020000D"]["Value"][0] for row in rows] == [study.study_uid]
        picture = client.get(
            f"{base}/dicom-web/studies/{study.study_uid}/thumbnail",
            headers={"Accept": "image/jpeg"},
        )
        assert (picture.status_code, picture.content[:2]) == (200, b"\xff\xd8")
        original = client.get(
            f"{base}/dicom-web/studies/{study.study_uid}/series/{study.series_uid}",
            headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'},
        )
        assert original.status_code == 200
        assert path.read_bytes()[-100_000:] in original.content
        found = client.get(f"{base}/fhir/R4/ImagingStudy").json()
        assert len(found["entry"]) == 1
    # The tenant has no AI feature and the patient gave no consent: the worker says so.
    server.wait_for(lambda: decisions(server) == [("SKIP",)], 60)
    assert "report" in server.cli("alive")


def decisions(server: LiveServer) -> list[tuple[str, ...]]:
    url = server.environment["INTEROP_DATABASE_URL"]
    with psycopg.connect(url) as connection:
        tenant = connection.execute("SELECT id FROM tenants WHERE slug = 'compose'").fetchone()
        assert tenant is not None
        connection.execute("SELECT set_config('app.tenant', %s, true)", (str(tenant[0]),))
        return connection.execute("SELECT decision FROM ai_routing_decisions").fetchall()
