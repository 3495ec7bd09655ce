"""A resource that waits for another gets its rows, whichever of the two commits first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any
from uuid import uuid4

import httpx
import pytest

from interop.fhir import json
from storage import resources
from storage.database import Database
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
ACTIVE = {
    "system": "http://terminology.hl7.org/CodeSystem/condition-clinical",
    "code": "active",
}


def put(fhir: httpx.Client, resource: dict[str, Any]) -> httpx.Response:
    url = f"/{resource['resourceType']}/{resource['id']}"
    return fhir.put(url, content=json.dumps(resource), headers=FHIR_JSON)


def patient(id_: str) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": id_, "name": [{"family": "Late", "given": ["R"]}]}


def condition(id_: str, patient_id: str) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": id_,
        "clinicalStatus": {"coding": [ACTIVE]},
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "80967001"}]},
        "subject": {"reference": f"Patient/{patient_id}"},
    }


@contextmanager
def paused_while_it_begins_to_wait(
    monkeypatch: pytest.MonkeyPatch, resource_id: str
) -> Iterator[tuple[Event, Event]]:
    """Hold the transaction of the first resource that waits, between its look and its commit."""
    arrived, go_on = Event(), Event()
    original = resources.set_pending

    def held(connection: Any, tenant_id: Any, type_: str, id_: str, references: Any) -> None:
        if id_ == resource_id and references and not arrived.is_set():
            arrived.set()
            assert go_on.wait(30)
        original(connection, tenant_id, type_, id_, references)

    monkeypatch.setattr(resources, "set_pending", held)
    try:
        yield arrived, go_on
    finally:
        go_on.set()


def rows_of(database: Database, tenant: Tenant, condition_id: str) -> tuple[int, int]:
    """How many references the Condition waits for, and how many rows it has."""
    with database.connection(tenant.id) as connection:
        found = connection.execute(
            "SELECT (SELECT count(*) FROM fhir_pending WHERE resource_id = %s),"
            " (SELECT count(*) FROM patient_conditions WHERE id = %s)",
            (condition_id, condition_id),
        ).fetchone()
    assert found is not None
    return found


def recreate(fhir: httpx.Client, database: Database, tenant: Tenant, id_: str) -> int:
    return put(fhir, patient(id_)).status_code


def appear_as_a_row(fhir: httpx.Client, database: Database, tenant: Tenant, id_: str) -> int:
    """As ingest makes patients: a row, rendered by the first who reads it."""
    with database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO patients (tenant_id, id, first_name, last_name) VALUES (%s, %s, 'R', 'L')",
            (tenant.id, id_),
        )
    return fhir.get(f"/Patient/{id_}").status_code


@pytest.mark.parametrize(
    ("is_deleted_before", "come"),
    [(False, recreate), (True, recreate), (False, appear_as_a_row)],
    ids=["new", "back after a delete", "a row of ingest"],
)
def test_what_comes_while_another_begins_to_wait_for_it_is_seen(
    fhir: httpx.Client,
    database: Database,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    is_deleted_before: bool,
    come: Callable[[httpx.Client, Database, Tenant, str], int],
) -> None:
    """31 of 75 Conditions never got rows: the Patient came back while they began to wait."""
    patient_id, waiting = str(uuid4()), str(uuid4())
    if is_deleted_before:
        assert put(fhir, patient(patient_id)).status_code == 201
        assert fhir.delete(f"/Patient/{patient_id}").status_code == 204

    with (
        ThreadPoolExecutor(2) as pool,
        paused_while_it_begins_to_wait(monkeypatch, waiting) as (arrived, go_on),
    ):
        first = pool.submit(put, fhir, condition(waiting, patient_id))
        assert arrived.wait(30)
        second = pool.submit(come, fhir, database, tenant, patient_id)
        # Either the newcomer waits for us, or it is done and has not seen us.
        for _ in range(20):
            if second.done():
                break
            Event().wait(0.1)
        go_on.set()
        assert first.result(30).status_code == 201
        assert second.result(30) in (200, 201)

    assert rows_of(database, tenant, waiting) == (0, 1)


def test_any_write_takes_along_what_waits_for_it(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    """What once was left waiting gets its rows at the next version of what it waits for."""
    patient_id, waiting = str(uuid4()), str(uuid4())
    move = "UPDATE fhir_pending SET reference = %s WHERE resource_id = %s"
    assert put(fhir, condition(waiting, patient_id)).status_code == 201
    with database.connection(tenant.id) as connection:
        connection.execute(move, ("Patient/elsewhere", waiting))
    assert put(fhir, patient(patient_id)).status_code == 201
    with database.connection(tenant.id) as connection:
        connection.execute(move, (f"Patient/{patient_id}", waiting))
    assert rows_of(database, tenant, waiting) == (1, 0)

    assert put(fhir, patient(patient_id)).status_code == 200

    assert rows_of(database, tenant, waiting) == (0, 1)


def test_a_feed_racing_with_the_return_of_its_patient_loses_no_row(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    for _ in range(3):
        patient_id, own = str(uuid4()), [str(uuid4()) for _ in range(24)]
        assert put(fhir, patient(patient_id)).status_code == 201
        assert fhir.delete(f"/Patient/{patient_id}").status_code == 204
        feed = [condition(id_, patient_id) for id_ in own]
        feed.insert(8, patient(patient_id))

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda one: put(fhir, one), feed))

        assert {answer.status_code for answer in answers} == {201}
        assert [rows_of(database, tenant, id_) for id_ in own] == [(0, 1)] * len(own)
