"""Clients write and read all through a move: none is refused, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import uvicorn

from benchmarks.live_server import free_port
from interop.access import Scopes
from interop.app import application
from interop.dicom.ingest import Source
from interop.services import Services, open_services
from interop.settings import Settings
from storage import places
from storage.partitions.moving import Moved, move
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase
from tests.integration.partitions.moving_world import World, opened
from tests.unit.interop.dicom.factories import instance, spooled

HERE = Path(__file__).parent
ROUTE = ("SCHEMA", "DATABASE", "ROW_LEVEL", "DATABASE", "SCHEMA", "ROW_LEVEL")
FHIR_JSON = {"Content-Type": "application/fhir+json"}
PACE_SECONDS = 0.02


@dataclass
class Acknowledged:
    """What clients were told, and what went wrong."""

    patients: dict[str, str] = field(default_factory=dict)  # FHIR id -> the name last acknowledged
    objects: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    longest_seconds: dict[str, float] = field(default_factory=dict)
    reads: int = 0


@pytest.fixture(autouse=True)
def _short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "REMEMBER_SECONDS", 1.0)


@pytest.fixture(scope="module")
def world(database: MigratedDatabase) -> Iterator[World]:
    with opened(database) as made:
        yield made


@pytest.fixture(scope="module")
def live(
    database: MigratedDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Services]]:
    """The whole HTTP application, and its services."""
    port = free_port()
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"), database_url=database.url, http_port=port
    )
    app = application(settings, open_services)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}", app.state.services
    server.should_exit = True
    thread.join(20)


def test_no_client_is_refused_and_no_acknowledged_write_is_lost(
    world: World, live: tuple[str, Services], tenant: Tenant, other_tenant: Tenant
) -> None:
    url, services = live
    stop, told = threading.Event(), Acknowledged()
    with httpx.Client(
        base_url=f"{url}/t/{tenant.slug}/fhir/R4",
        headers={"Authorization": f"Bearer {services.tokens.issue(tenant, None, 'test', SCOPES)}"},
        timeout=60,
    ) as client:
        clients = [
            threading.Thread(target=repeat, args=(stop, told, name, step))
            for name, step in (
                ("fhir", Fhir(client, told).step),
                ("read", Reader(client, told).step),
                ("ingest", lambda: store(services, tenant, told)),
                ("ingest beside", lambda: store(services, tenant, told)),
            )
        ]
        process = start_writer(world, tenant)
        for thread in clients:
            thread.start()
        try:
            time.sleep(1)
            moves = [go(world, tenant, strategy) for strategy in ROUTE]
            time.sleep(0.5)
        finally:
            stop.set()
            for thread in clients:
                thread.join()
            written = end_writer(process)

        assert told.errors == []
        assert [line for line in written if "error" in line] == []
        assert_is_there(world, tenant, told, client)
    assert_written_rows(world, tenant, [line["id"] for line in written])
    world.seal(tenant)
    assert world.audit_problem(tenant) is None
    assert len(world.moves(tenant)) == len(ROUTE)
    assert world.is_tidy()
    changes = sum(moved.changes for moved in moves)
    assert changes > 500, "the clients hardly wrote anything"
    print(
        f"\n{len(told.patients)} patients, {len(told.objects)} objects, {len(written)} rows of the"
        f" other process, {told.reads} reads; {changes} changes while moving; held"
        f" {[round(moved.held_seconds, 2) for moved in moves]} s, attempts"
        f" {[moved.attempts for moved in moves]}; longest answers"
        f" { {name: round(seconds, 2) for name, seconds in told.longest_seconds.items()} } s"
    )


SCOPES = Scopes.parse("system/*.cruds")


def go(world: World, tenant: Tenant, strategy: str) -> Moved:
    # Longer than the processes of this test remember where the tenant was.
    return move(world.owner, tenant.id, strategy, grace_seconds=2)


def repeat(stop: threading.Event, told: Acknowledged, name: str, step: Callable[[], None]) -> None:
    while not stop.is_set():
        began = time.monotonic()
        try:
            step()
        except Exception as error:
            told.errors.append(f"{name}: {type(error).__name__}: {error}")
        took = time.monotonic() - began
        told.longest_seconds[name] = max(told.longest_seconds.get(name, 0.0), took)
        time.sleep(PACE_SECONDS)


class Fhir:
    """Creates patients and changes the one before, through the lenses."""

    def __init__(self, client: httpx.Client, told: Acknowledged) -> None:
        self._client, self._told = client, told
        self._number = 0

    def step(self) -> None:
        self._number += 1
        name = f"Family{self._number}"
        body = {
            "resourceType": "Patient",
            "name": [{"family": name}],
            "identifier": [{"system": "urn:mrn", "value": name}],
        }
        answer = self._client.post("Patient", json=body, headers=FHIR_JSON)
        assert answer.status_code == 201, answer.text
        id_ = answer.json()["id"]
        self._told.patients[id_] = name
        body |= {"id": id_, "name": [{"family": f"{name}-changed"}]}
        answer = self._client.put(f"Patient/{id_}", json=body, headers=FHIR_JSON)
        assert answer.status_code == 200, answer.text
        self._told.patients[id_] = f"{name}-changed"


class Reader:
    """Reads what was acknowledged; it must be there, as it was acknowledged."""

    def __init__(self, client: httpx.Client, told: Acknowledged) -> None:
        self._client, self._told = client, told

    def step(self) -> None:
        known = list(self._told.patients)
        if not known:
            return
        id_ = known[-1]
        name = self._told.patients[id_]
        answer = self._client.get(f"Patient/{id_}")
        assert answer.status_code == 200, answer.text
        family = answer.json()["name"][0]["family"]
        assert family.startswith(name), f"{family} instead of {name}"
        self._told.reads += 1


def store(services: Services, tenant: Tenant, told: Acknowledged) -> None:
    source = Source("C-STORE", "MODALITY", calling_ae_title="MODALITY")
    dataset = instance(PatientID=f"P{len(told.objects) % 7}")
    if len(told.objects) % 3:
        dataset.StudyInstanceUID, dataset.PatientID = STUDY, "P"
    outcome = services.ingest.store(tenant, spooled(services.spool, dataset), source)
    assert outcome.is_success, outcome
    told.objects.append(str(dataset.SOPInstanceUID))


STUDY = instance().StudyInstanceUID


def start_writer(world: World, tenant: Tenant) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, os.fspath(HERE / "writer.py"), world.database.url, str(tenant.id), "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end_writer(process: subprocess.Popen[str]) -> list[dict[str, str]]:
    out, _ = process.communicate("", timeout=60)
    return [json.loads(line) for line in out.splitlines()]


def assert_is_there(world: World, tenant: Tenant, told: Acknowledged, client: httpx.Client) -> None:
    for id_, name in told.patients.items():
        answer = client.get(f"Patient/{id_}")
        assert answer.json()["name"][0]["family"] == name
        assert answer.json()["meta"]["versionId"] == ("2" if name.endswith("-changed") else "1")
    with world.database.connection(tenant.id) as connection:
        stored = Counter(
            row[0]
            for row in connection.execute(
                "SELECT sop_instance_uid FROM imaging_objects WHERE tenant_id = %s", (tenant.id,)
            )
        )
        counted = connection.execute(
            "SELECT sum(number_of_instances) FROM imaging_studies WHERE tenant_id = %s",
            (tenant.id,),
        ).fetchone()
        used = connection.execute(
            "SELECT sum(bytes), (SELECT sum(byte_size) FROM imaging_objects WHERE tenant_id ="
            " %(id)s) FROM tenant_storage_usage WHERE tenant_id = %(id)s",
            {"id": tenant.id},
        ).fetchone()
    assert stored == Counter(told.objects)
    assert counted == (len(told.objects),)
    assert used is not None and used[0] == used[1]


def assert_written_rows(world: World, tenant: Tenant, acknowledged: list[str]) -> None:
    with world.database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT id, last_name FROM patients WHERE tenant_id = %s AND last_name = ANY (%s)",
            (tenant.id, ["new", "changed"]),
        ).fetchall()
    assert Counter(row[0] for row in rows) == Counter(UUID(one) for one in acknowledged)
    assert [str(row[0]) for row in rows if row[1] == "new"] == acknowledged[-1:]
