"""Searches whose plan is kept: what they find, of whom, and what the log says of them.

The statement of one shape is prepared once a connection and serves every value and every tenant.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from interop.fhir import json
from storage import search_pages
from storage.database import Database
from storage.statements import Statement, StatementPool, function_call
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
PATIENTS = 9

# Each is met by some of the resources of `filled`, and asked with each bound of what is few.
SEARCHES = [
    "Patient?_tag=kept",
    "Patient?_tag=urn:test|kept",
    "Patient?_tag=kept,second,none",
    "Patient?name=ab",
    "Patient?name:exact=Abel",
    "Patient?_tag=kept&_sort=-birthdate",
    "Patient?_tag=kept&_sort=birthdate,_id",
    "Patient?name=ab&_sort=-_lastUpdated",
    "Patient?_tag=kept&gender=female",
    "Patient?_tag=kept&gender=female&name=ab",
    "Patient?gender=female&_tag=kept&_sort=-birthdate",
    "Patient?_tag=kept&_revinclude=Observation:patient",
    "Observation?subject:Patient.name=ab",
    "Observation?subject:Patient.name=ab&code=depth",
    "Observation?code=depth&_include=Observation:patient",
    "Patient?_has:Observation:patient:code=depth",
    "Patient?_has:Observation:patient:code=depth&_tag=kept",
    "Patient?_has:Observation:patient:code=depth&_has:Observation:patient:status=final",
]
BOUNDS = [1500, 3, 0, -1]


def post(fhir: httpx.Client, resource: dict[str, Any]) -> str:
    answer = fhir.post(
        f"/{resource['resourceType']}", content=json.dumps(resource), headers=FHIR_JSON
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def patient(number: int, family: str) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "meta": {"tag": [{"system": "urn:test", "code": "kept" if number % 4 else "second"}]},
        "name": [{"family": family}],
        "gender": "female" if number % 3 else "male",
        **({"birthDate": f"19{60 + number % 3}"} if number % 5 else {}),
    }


def observation(patient_id: str, code: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "urn:codes", "code": code}]},
        "subject": {"reference": f"Patient/{patient_id}"},
    }


@pytest.fixture(scope="module")
def filled(fhir: httpx.Client, other_fhir: httpx.Client) -> list[str]:
    """Patients and what was observed of some; the other tenant has the like. Returns ours."""
    ids = []
    for client, family in ((fhir, "Abel"), (other_fhir, "Abbot")):
        made = [post(client, patient(n, family if n % 2 else "Berg")) for n in range(PATIENTS)]
        for number, patient_id in enumerate(made):
            for code in ("depth", "width")[: number % 3]:
                post(client, observation(patient_id, code))
        ids.append(made)
    return ids[0]


def asked(client: httpx.Client, query: str) -> list[tuple[str, str]]:
    """What a search finds, page by page, in order; with what each page brings along."""
    found: list[tuple[str, str]] = []
    page = client.get(f"/{query}&_count=2")
    while True:
        assert page.status_code == 200, page.text
        bundle = page.json()
        entries = [(e["search"]["mode"], e["resource"]["id"]) for e in bundle.get("entry", [])]
        found += [e for e in entries if e[0] == "match"]
        found += sorted(e for e in entries if e[0] == "include")
        link = next((one["url"] for one in bundle["link"] if one["relation"] == "next"), None)
        if link is None:
            return found
        page = client.get(link)


@pytest.mark.parametrize("query", SEARCHES)
def test_every_way_of_looking_finds_what_the_planner_does(
    fhir: httpx.Client, filled: list[str], query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as planned:
        planned.setattr(search_pages, "_by_index", lambda pages: None)
        expected = asked(fhir, query)
    assert expected

    for bound in BOUNDS:
        monkeypatch.setattr(search_pages, "LINKED", bound)

        assert asked(fhir, query) == expected


@pytest.mark.parametrize("query", SEARCHES)
def test_a_plan_that_is_kept_shows_each_tenant_its_own(
    fhir: httpx.Client, other_fhir: httpx.Client, filled: list[str], query: str
) -> None:
    ours, theirs = asked(fhir, query), asked(other_fhir, query)

    for _ in range(8):  # PostgreSQL itself would keep a plan after five
        assert asked(fhir, query) == ours
        assert asked(other_fhir, query) == theirs
    assert not set(ours) & set(theirs)


def searches_logged(database: Database, tenant: Tenant) -> list[tuple[UUID, str, int]]:
    with database.connection(tenant.id) as connection:
        return connection.execute(
            "SELECT e.id, e.outcome, (SELECT count(*) FROM phi_access_logs AS p"
            " WHERE p.tenant_id = e.tenant_id AND p.audit_event_id = e.id) + 0"
            " FROM audit_events AS e WHERE e.tenant_id = %s AND e.event_type = 'FHIR_SEARCH'",
            (tenant.id,),
        ).fetchall()


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("query", SEARCHES)
def test_g1_one_row_of_the_log_whichever_way_it_was_found(
    fhir: httpx.Client,
    database: Database,
    tenant: Tenant,
    filled: list[str],
    query: str,
    bound: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_pages, "LINKED", bound)
    before = searches_logged(database, tenant)

    answer = fhir.get(f"/{query}&_count=3").json()

    (new,) = set(searches_logged(database, tenant)) - set(before)
    shown = {
        entry["resource"]["id"]
        if entry["resource"]["resourceType"] == "Patient"
        else entry["resource"]["subject"]["reference"].removeprefix("Patient/")
        for entry in answer["entry"]
    }
    assert new[1:] == ("SUCCESS", len(shown))


def test_what_is_deleted_is_not_met_over_references(fhir: httpx.Client) -> None:
    """No row of the resource is asked on the way: its search rows went with it."""
    patient_id = post(fhir, patient(1, "Zola"))
    kept = post(fhir, observation(patient_id, "gone"))
    queries = [
        "Observation?subject:Patient.name=zola",
        "Patient?_has:Observation:patient:code=gone",
    ]
    assert [len(asked(fhir, query)) for query in queries] == [1, 1]

    assert fhir.delete(f"/Observation/{kept}").status_code == 204

    assert [asked(fhir, query) for query in queries] == [[], []]


def test_a_plan_is_kept_for_the_page_alone(database: Database, tenant: Tenant) -> None:
    """Who comes next on the connection has plans made for its values again."""

    async def modes() -> list[Any]:
        # The server's own has its connections in another event loop.
        pool = StatementPool(database.conninfo, size=1)
        try:
            begin = function_call("fhir_begin_search", {"tenant": tenant.id, "keeps_plan": True})
            show = Statement("SHOW plan_cache_mode", {})
            found = [(await pool.run(begin, show))[-1]]
            return [*found, *await pool.run(show)]
        finally:
            await pool.close()

    kept, after = asyncio.run(modes())

    assert kept == [("force_generic_plan",)]
    assert after == [("auto",)]
