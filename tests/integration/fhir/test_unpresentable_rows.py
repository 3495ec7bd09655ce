"""One row that no resource can show takes down itself, and neither its type nor other tenants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from interop import place_keeper, worker
from interop.fhir import json
from interop.fhir.rendering import render_stale
from storage.database import Database
from storage.tenancy import Tenant
from tests.waiting import eventually

FHIR_JSON = {"Content-Type": "application/fhir+json"}
Outcome = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def rows_may_hold_anything(place_url: str) -> Iterator[None]:
    """As if the rows were older than the constraint that refuses such values now."""
    with psycopg.connect(place_url, autocommit=True) as owner:
        owner.execute(
            "ALTER TABLE encounters"
            " DROP CONSTRAINT IF EXISTS ck_encounters_check_out_at_presentable"
        )
    yield


def encounter(id_: str, patient_id: str) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": id_,
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{patient_id}"},
        "period": {"start": "2026-01-05T09:00:00Z", "end": "2026-01-05T09:30:00Z"},
    }


@pytest.fixture
def visits(fhir: httpx.Client) -> tuple[str, list[str]]:
    """A patient with three encounters."""
    patient_id, own = str(uuid4()), [str(uuid4()) for _ in range(3)]
    body = {"resourceType": "Patient", "id": patient_id, "name": [{"family": "V", "given": ["V"]}]}
    for resource in (body, *(encounter(id_, patient_id) for id_ in own)):
        url = f"/{resource['resourceType']}/{resource['id']}"
        response = fhir.put(url, content=json.dumps(resource), headers=FHIR_JSON)
        assert response.status_code == 201, response.text
    return patient_id, own


def end_at(database: Database, tenant: Tenant, id_: str, moment: str) -> None:
    with database.connection(tenant.id) as connection:
        connection.execute("UPDATE encounters SET check_out_at = %s WHERE id = %s", (moment, id_))


@pytest.fixture
def broken(
    database: Database, tenant: Tenant, visits: tuple[str, list[str]]
) -> Iterator[tuple[str, list[str]]]:
    """The first encounter never ends, for PostgreSQL; the others were changed as well."""
    for id_ in visits[1][1:]:
        end_at(database, tenant, id_, "2026-01-05T10:00:00Z")
    end_at(database, tenant, visits[1][0], "infinity")
    yield visits
    end_at(database, tenant, visits[1][0], "2026-01-05T11:00:00Z")


def test_the_others_of_its_type_are_found_as_their_rows_stand(
    fhir: httpx.Client, broken: tuple[str, list[str]]
) -> None:
    """check_out_at = 'infinity' made every search of encounters an error 500."""
    response = fhir.get("/Encounter", params={"subject": f"Patient/{broken[0]}"})

    assert response.status_code == 200, response.text
    ends = {
        entry["resource"]["id"]: entry["resource"]["period"]["end"]
        for entry in response.json()["entry"]
    }
    first, *others = broken[1]
    assert {ends[id_][:19] for id_ in others} == {"2026-01-05T10:00:00"}
    assert ends[first] == "2026-01-05T09:30:00Z"


def test_the_resource_itself_is_not_shown_or_written_and_comes_back(
    fhir: httpx.Client,
    database: Database,
    tenant: Tenant,
    broken: tuple[str, list[str]],
    assert_outcome: Outcome,
) -> None:
    patient_id, (first, *_) = broken
    body = json.dumps(encounter(first, patient_id))

    assert_outcome(fhir.get(f"/Encounter/{first}"), 503, "transient")
    assert_outcome(
        fhir.put(f"/Encounter/{first}", content=body, headers=FHIR_JSON), 409, "conflict"
    )
    assert_outcome(fhir.delete(f"/Encounter/{first}"), 409, "conflict")
    assert fhir.get(f"/Encounter/{first}/_history").status_code == 200

    end_at(database, tenant, first, "2026-01-05T12:00:00Z")
    assert fhir.get(f"/Encounter/{first}").json()["period"]["end"][:19] == "2026-01-05T12:00:00"
    assert fhir.put(f"/Encounter/{first}", content=body, headers=FHIR_JSON).status_code == 200


def stale(database: Database, tenant: Tenant) -> set[str]:
    with database.connection(tenant.id) as connection:
        rows = connection.execute("SELECT resource_id FROM fhir_resources WHERE stale").fetchall()
    return {row[0] for row in rows}


@pytest.fixture
def rendering(live: SimpleNamespace, strategies: tuple[str, str]) -> Iterator[Callable[[], None]]:
    """Starts the worker's rendering duty."""
    if "DATABASE" in strategies:
        pytest.skip("tests/integration/partitions/test_place_keeper.py: another duty")
    stop = threading.Event()

    def duty() -> None:
        worker._repeat(stop, "render", lambda: worker._render_when_told(live.services, stop))

    thread = threading.Thread(target=duty, daemon=True)
    yield thread.start
    stop.set()
    if thread.ident is not None:
        thread.join(10)
    assert not thread.is_alive()


def make_patient(database: Database, tenant: Tenant) -> str:
    own = str(uuid4())
    with database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO patients (tenant_id, id, first_name, last_name) VALUES (%s, %s, 'A', 'B')",
            (tenant.id, own),
        )
    return own


def test_the_worker_renders_the_other_rows_and_the_other_tenants(
    rendering: Callable[[], None],
    database: Database,
    tenant: Tenant,
    other_tenant: Tenant,
    broken: tuple[str, list[str]],
) -> None:
    make_patient(database, other_tenant)
    rendering()

    assert eventually(lambda: stale(database, tenant) == {broken[1][0]})
    assert eventually(lambda: stale(database, other_tenant) == set())
    make_patient(database, other_tenant)
    assert eventually(lambda: stale(database, other_tenant) == set())


def test_a_tenant_that_fails_as_a_whole_holds_up_no_other_and_is_tried_again(
    rendering: Callable[[], None],
    database: Database,
    tenant: Tenant,
    other_tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The duty began anew at the tenant that fails, and never came to those behind it."""
    original, is_broken = render_stale, threading.Event()
    is_broken.set()

    def failing(database: Database, tenant_id: UUID, **options: Any) -> int:
        if tenant_id == tenant.id and is_broken.is_set():
            raise psycopg.OperationalError("the connection is lost")
        return original(database, tenant_id, **options)

    monkeypatch.setattr(place_keeper, "render_stale", failing)
    monkeypatch.setattr(worker, "RETRY_SECONDS", 0.5)
    mine = make_patient(database, tenant)
    make_patient(database, other_tenant)
    rendering()

    assert eventually(lambda: stale(database, other_tenant) == set())
    assert mine in stale(database, tenant)
    is_broken.clear()
    assert eventually(lambda: mine not in stale(database, tenant))
