"""Resources and rows: references that resolve late, rows changed by SQL, racing writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from interop.fhir import json
from interop.fhir.rendering import render_stale
from interop.fhir.row_writing import lenses
from storage.database import Database
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
Outcome = Callable[..., dict[str, Any]]


def put(fhir: httpx.Client, resource: dict[str, Any], **headers: str) -> httpx.Response:
    url = f"/{resource['resourceType']}/{resource['id']}"
    return fhir.put(url, content=json.dumps(resource), headers={**FHIR_JSON, **headers})


def patient(id_: str, family: str = "Row") -> dict[str, Any]:
    return {"resourceType": "Patient", "id": id_, "name": [{"family": family, "given": ["R"]}]}


def encounter(id_: str, patient_id: str) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": id_,
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{patient_id}"},
        "period": {"start": "2026-01-05T09:00:00Z", "end": "2026-01-05T09:30:00Z"},
    }


def condition(id_: str, patient_id: str, encounter_id: str) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": id_,
        "clinicalStatus": {
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/condition-clinical",
                    "code": "active",
                }
            ]
        },
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "80967001"}]},
        "subject": {"reference": f"Patient/{patient_id}"},
        "encounter": {"reference": f"Encounter/{encounter_id}"},
    }


@contextmanager
def rows(database: Database, tenant: Tenant) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with database.connection(tenant.id) as connection:
        yield connection


def count(database: Database, tenant: Tenant, query: str, *values: object) -> int:
    with rows(database, tenant) as connection:
        row = connection.execute(query, values).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


PENDING = "SELECT count(*) FROM fhir_pending WHERE resource_id = %s"


def test_a_feed_out_of_order_is_stored_served_found_and_then_rowed(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    """Condition before its encounter before its patient: rows when the last of them comes."""
    p, e, c = (str(uuid4()) for _ in range(3))

    first = put(fhir, condition(c, p, e))
    second = put(fhir, encounter(e, p))

    assert (first.status_code, second.status_code) == (201, 201), (first.text, second.text)
    assert fhir.get(f"/Condition/{c}").content == first.content
    found = fhir.get("/Condition", params={"subject": f"Patient/{p}"}).json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == [c]
    assert count(database, tenant, PENDING, c) > 0
    rowless = "SELECT count(*) FROM patient_conditions WHERE id = %s"
    assert count(database, tenant, rowless, c) == 0

    third = put(fhir, patient(p))

    assert third.status_code == 201
    assert count(database, tenant, PENDING, c) == 0
    assert count(database, tenant, PENDING, e) == 0
    assert count(database, tenant, "SELECT count(*) FROM encounters WHERE id = %s", e) == 1
    assert count(database, tenant, rowless, c) == 1
    assert fhir.get(f"/Condition/{c}").content == first.content


def test_references_in_circles_do_not_deadlock_for_ever(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    """Patients and encounters arriving at once, each encounter waiting for its patient."""
    pairs = [(str(uuid4()), str(uuid4())) for _ in range(12)]
    work = [encounter(e, p) for p, e in pairs] + [patient(p) for p, _ in pairs]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: put(fhir, one), work))

    assert {answer.status_code for answer in answers} == {201}
    for _, e in pairs:
        assert count(database, tenant, PENDING, e) == 0
        assert count(database, tenant, "SELECT count(*) FROM encounters WHERE id = %s", e) == 1


def test_a_tenant_may_require_references_to_resolve(
    fhir: httpx.Client, database: Database, tenant: Tenant, assert_outcome: Outcome
) -> None:
    setting = "UPDATE tenant_settings SET require_reference_resolution = %s"
    with rows(database, tenant) as connection:
        connection.execute(setting, (True,))
    try:
        refused = put(fhir, encounter(str(uuid4()), str(uuid4())))
        plain = {
            "resourceType": "Basic",
            "id": "needs",
            "code": {"text": "x"},
            "subject": {"reference": "Patient/never-was"},
        }
        assert_outcome(refused, 422, "processing")
        outcome = assert_outcome(put(fhir, plain), 422)
        assert "Patient/never-was" in outcome["issue"][0]["diagnostics"]
    finally:
        with rows(database, tenant) as connection:
            connection.execute(setting, (False,))


def test_a_row_written_by_sql_is_a_resource_at_the_next_read(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    own = uuid4()
    with rows(database, tenant) as connection:
        connection.execute(
            "INSERT INTO patients (tenant_id, id, first_name, last_name) VALUES (%s, %s, %s, %s)",
            (tenant.id, own, "Sql", "Written"),
        )

    response = fhir.get(f"/Patient/{own}")

    assert response.status_code == 200, response.text
    assert response.json()["name"][0]["family"] == "Written"
    assert response.json()["meta"]["versionId"] == "1"


def test_a_row_changed_by_sql_is_found_by_the_next_search_as_a_new_version(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    own = str(uuid4())
    before = put(
        fhir, {**patient(own, "Before"), "extension": [{"url": "urn:x", "valueDecimal": 1}]}
    )
    assert before.status_code == 201, before.text
    with rows(database, tenant) as connection:
        connection.execute("UPDATE patients SET last_name = 'Sqlafter' WHERE id = %s", (own,))

    page = fhir.get("/Patient", params={"family": "Sqlafter"}).json()

    (entry,) = page["entry"]
    assert entry["resource"]["id"] == own
    assert entry["resource"]["meta"]["versionId"] == "2"
    assert entry["resource"]["extension"] == [{"url": "urn:x", "valueDecimal": 1}]
    assert "entry" not in fhir.get("/Patient", params={"family": "Before", "_id": own}).json()
    history = fhir.get(f"/Patient/{own}/_history").json()
    assert [e["resource"]["meta"]["versionId"] for e in history["entry"]] == ["2", "1"]


def test_a_client_cannot_overwrite_a_change_of_rows_that_it_has_not_seen(
    fhir: httpx.Client, database: Database, tenant: Tenant, assert_outcome: Outcome
) -> None:
    own = str(uuid4())
    put(fhir, patient(own))
    with rows(database, tenant) as connection:
        connection.execute("UPDATE patients SET last_name = 'Changed' WHERE id = %s", (own,))

    assert_outcome(put(fhir, patient(own, "Mine"), **{"If-Match": 'W/"1"'}), 412)

    assert fhir.get(f"/Patient/{own}").json()["name"][0]["family"] == "Changed"


def test_a_worker_renders_what_nobody_reads(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    with rows(database, tenant) as connection:
        for _ in range(7):
            connection.execute(
                "INSERT INTO patients (tenant_id, first_name, last_name) VALUES (%s, 'B', 'Batch')",
                (tenant.id,),
            )

    assert render_stale(database, tenant.id, limit=3) == 3
    assert render_stale(database, tenant.id) >= 4
    assert render_stale(database, tenant.id) == 0
    assert len(fhir.get("/Patient", params={"family": "Batch"}).json()["entry"]) == 7


def test_one_row_that_cannot_be_shown_hides_no_other(
    fhir: httpx.Client,
    database: Database,
    tenant: Tenant,
    assert_outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """reliability.md R20, for a presentation that always fails."""
    poisoned, sound = sorted(str(uuid4()) for _ in range(2))
    for own in (poisoned, sound):
        put(fhir, patient(own, "Poison"))
    lens = lenses(str(fhir.base_url).rstrip("/"))["Patient"]
    present = type(lens).present

    def fail(self: Any, connection: Any, tenant_id: Any, row_id: UUID, stored: Any) -> Any:
        if str(row_id) == poisoned:
            raise RuntimeError("cannot be presented")
        return present(self, connection, tenant_id, row_id, stored)

    monkeypatch.setattr(type(lens), "present", fail)
    with rows(database, tenant) as connection:
        connection.execute("UPDATE patients SET last_name = 'Venom' WHERE last_name = 'Poison'")

    page = fhir.get("/Patient", params={"family": "Venom"}).json()

    assert [entry["resource"]["id"] for entry in page["entry"]] == [sound]
    assert_outcome(fhir.get(f"/Patient/{poisoned}"), 503, "transient")
    monkeypatch.undo()
    assert fhir.get(f"/Patient/{poisoned}").json()["name"][0]["family"] == "Venom"


def test_an_update_that_changes_no_content_of_rows_is_not_lost(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    own = str(uuid4())
    put(fhir, patient(own))
    with rows(database, tenant) as connection:
        connection.execute("UPDATE patients SET updated_by = 'x' WHERE id = %s", (own,))

    assert fhir.get(f"/Patient/{own}").json()["meta"]["versionId"] == "1"


def test_racing_updates_with_if_match_lose_nothing(fhir: httpx.Client) -> None:
    """reliability.md R21: each answered version is in history, made from the one before."""
    own = str(uuid4())
    put(fhir, patient(own, "0"))

    def add_one(_: int) -> int:
        for attempt in range(200):
            current = fhir.get(f"/Patient/{own}")
            body = current.json()
            body["name"][0]["family"] = str(int(body["name"][0]["family"]) + 1)
            answer = put(fhir, body, **{"If-Match": current.headers["etag"]})
            if answer.status_code == 200:
                return attempt
            assert answer.status_code == 412, answer.text
        raise AssertionError("never won")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(40)))

    final = fhir.get(f"/Patient/{own}").json()
    assert final["name"][0]["family"] == "40"
    assert final["meta"]["versionId"] == "41"
    history = fhir.get(f"/Patient/{own}/_history", params={"_count": "100"}).json()
    families = [entry["resource"]["name"][0]["family"] for entry in history["entry"]]
    assert families == [str(number) for number in range(40, -1, -1)]
    moments = [entry["resource"]["meta"]["lastUpdated"] for entry in history["entry"]]
    assert moments == sorted(set(moments), reverse=True)


def test_racing_creates_of_one_id_make_one_resource(fhir: httpx.Client) -> None:
    own = str(uuid4())

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: put(fhir, patient(own, f"N{n}")), range(16)))

    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert fhir.get(f"/Patient/{own}").json()["meta"]["versionId"] == "16"


def test_only_one_of_racing_creates_with_if_none_match_wins(fhir: httpx.Client) -> None:
    own = str(uuid4())

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: put(fhir, patient(own), **{"If-None-Match": "*"}), range(16))
        )

    assert sorted(answer.status_code for answer in answers) == [201] + [412] * 15


def test_deleting_a_resource_ends_its_search_rows(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    own = str(uuid4())
    put(fhir, patient(own, "Deleteme"))

    assert fhir.delete(f"/Patient/{own}").status_code == 204

    assert "entry" not in fhir.get("/Patient", params={"family": "Deleteme"}).json()
    for table in ("token", "string", "gram", "reference", "date", "uri"):
        query = f"SELECT count(*) FROM fhir_search_{table} WHERE resource_id = %s"
        assert count(database, tenant, query, own) == 0
    assert fhir.get(f"/Patient/{own}").status_code == 410


def test_every_write_is_in_the_outbox(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    own = str(uuid4())
    put(fhir, patient(own))
    put(fhir, patient(own, "Two"))
    fhir.delete(f"/Patient/{own}")

    with rows(database, tenant) as connection:
        events = connection.execute(
            "SELECT payload ->> 'method', payload ->> 'version' FROM outbox"
            " WHERE topic = 'fhir' AND payload ->> 'resource_id' = %s ORDER BY id",
            (own,),
        ).fetchall()
    assert events == [("PUT", "1"), ("PUT", "2"), ("DELETE", "3")]


@pytest.mark.parametrize("name", ["client-chosen-1", "UPPER", "a.b"])
def test_a_client_may_choose_any_valid_id_for_a_mapped_resource(
    fhir: httpx.Client, database: Database, tenant: Tenant, name: str
) -> None:
    assert put(fhir, patient(name, "Chosen")).status_code == 201
    with rows(database, tenant) as connection:
        row = connection.execute(
            "SELECT row_id FROM fhir_resources"
            " WHERE resource_type = 'Patient' AND resource_id = %s",
            (name,),
        ).fetchone()
        assert row is not None and isinstance(row[0], UUID)
        connection.execute("UPDATE patients SET last_name = 'Rowed' WHERE id = %s", row)

    assert fhir.get(f"/Patient/{name}").json()["name"][0]["family"] == "Rowed"
