"""Requests that are answered later, by the worker (FHIR R4 async.html)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from interop.access.http import Authenticator
from interop.fhir.asynchronous import AsyncRequests
from interop.fhir.router import routes
from interop.worker import _register_async_requests
from storage import async_requests
from storage.database import Database
from storage.jobs import JobRunner
from storage.tenancy import Tenant, TenantDirectory
from tests.integration.fhir.test_transactions import basic, count, post, put, request

Outcome = Callable[..., dict[str, Any]]
Json = dict[str, Any]
LATER = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def requests(live: SimpleNamespace, database: Database) -> Iterator[AsyncRequests]:
    """What the worker process has: its own connections to the same database."""
    apart = Database(database.url)
    apart.vault = database.vault
    services = SimpleNamespace(
        **{
            **vars(live.services),
            "database": apart,
            "tenants": TenantDirectory(apart),
            "authenticator": Authenticator(apart, live.services.tokens),
        }
    )
    made = AsyncRequests(services, routes)  # type: ignore[arg-type]
    yield made
    made.close()
    apart.close()


@pytest.fixture
def worker(requests: AsyncRequests, database: Database) -> Iterator[None]:
    runner = JobRunner(database, heartbeat_seconds=1.0)
    _register_async_requests(runner, requests)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    yield
    runner.stop()
    thread.join(20)


def bundle(type_: str, *entries: Json) -> Json:
    return {"resourceType": "Bundle", "type": type_, "entry": list(entries)}


def accepted(answer: httpx.Response) -> str:
    assert answer.status_code == 202, answer.text
    assert answer.content == b""
    return answer.headers["content-location"]


def awaited(fhir: httpx.Client, place: str) -> Json:
    """The one entry of the answer."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = fhir.get(place)
        if answer.status_code == 200:
            found = answer.json()
            assert (found["resourceType"], found["type"]) == ("Bundle", "batch-response")
            assert "expires" in answer.headers
            (entry,) = found["entry"]
            return dict(entry)
        assert answer.status_code == 202, answer.text
        assert answer.headers["retry-after"] == "1"
        time.sleep(0.1)
    raise AssertionError("no answer")


def test_a_search_and_a_transaction_are_answered_later(
    fhir: httpx.Client, worker: None, database: Database, tenant: Tenant
) -> None:
    value = uuid4().hex

    sent = accepted(
        fhir.post("", json=bundle("transaction", post(basic(value)), post(basic(value))),
                  headers=LATER)
    )  # fmt: skip
    done = awaited(fhir, sent)
    found = awaited(
        fhir,
        accepted(fhir.get(f"/Basic?identifier=urn:test:transactions|{value}", headers=LATER)),
    )

    assert done["response"]["status"] == "200 OK"
    assert [e["response"]["status"] for e in done["resource"]["entry"]] == ["201 Created"] * 2
    assert len(found["resource"]["entry"]) == 2
    with database.connection(tenant.id) as connection:
        kept = connection.execute(
            "SELECT request || response FROM fhir_async_requests WHERE tenant_id = %s", (tenant.id,)
        ).fetchall()
    assert kept
    assert not [row for row in kept if value in row[0]]  # sealed


def test_what_goes_wrong_is_in_the_answer(fhir: httpx.Client, worker: None) -> None:
    missing = awaited(fhir, accepted(fhir.get("/Basic/no-such-thing", headers=LATER)))
    refused = accepted(
        fhir.post("", json=bundle("transaction", post(basic(nonsense=1))), headers=LATER)
    )

    assert missing["response"]["status"] == "404 Not Found"
    assert missing["response"]["outcome"]["issue"][0]["code"] == "not-found"
    issue = awaited(fhir, refused)["response"]["outcome"]["issue"][0]
    assert issue["expression"] == ["Bundle.entry[0].resource.nonsense"]


def test_what_cannot_be_a_bundle_and_other_requests_are_not_put_off(
    fhir: httpx.Client, assert_outcome: Outcome
) -> None:
    assert_outcome(fhir.post("", json=bundle("collection"), headers=LATER), 400)
    assert fhir.post("/Basic", json=basic(), headers=LATER).status_code == 201


def test_only_who_asked_is_told(
    fhir: httpx.Client, other_fhir: httpx.Client, assert_outcome: Outcome, tenant: Tenant
) -> None:
    place = accepted(fhir.get("/Basic", headers=LATER))
    below = place.partition(f"/t/{tenant.slug}/fhir/R4")[2]

    assert fhir.get(place).status_code == 202
    assert_outcome(other_fhir.get(below), 404)
    assert_outcome(fhir.get(f"/_async/{uuid4()}"), 404)
    assert_outcome(fhir.get("/_async/nonsense"), 404)


def test_a_request_that_was_cancelled_is_not_done(
    fhir: httpx.Client, requests: AsyncRequests, tenant: Tenant, assert_outcome: Outcome
) -> None:
    value = uuid4().hex
    place = accepted(fhir.post("", json=bundle("transaction", post(basic(value))), headers=LATER))

    assert fhir.delete(place).status_code == 202
    requests.run(tenant.id, UUID(place.rpartition("/")[2]))

    assert_outcome(fhir.get(place), 404)
    assert count(fhir, value) == 0


def test_a_worker_that_died_has_a_transaction_done_once_and_a_batch_not_twice(
    fhir: httpx.Client, requests: AsyncRequests, tenant: Tenant, database: Database
) -> None:
    value = uuid4().hex
    own_id = f"b-{value}"
    transaction, batch = (
        UUID(accepted(fhir.post("", json=sent, headers=LATER)).rpartition("/")[2])
        for sent in (
            bundle("transaction", post(basic(value))),
            bundle("batch", put(basic(id=own_id)), request("GET", f"Basic/{own_id}")),
        )
    )
    with database.connection(tenant.id) as connection:
        # As a worker leaves it that dies in the middle.
        for request_id in (transaction, batch):
            assert async_requests.begin(connection, tenant.id, request_id)

    for _ in range(2):
        requests.run(tenant.id, transaction)
        requests.run(tenant.id, batch)

    assert count(fhir, value) == 1
    assert awaited(fhir, f"/_async/{transaction}")["response"]["status"] == "200 OK"
    assert fhir.get(f"/Basic/{own_id}").status_code == 404
    interrupted = awaited(fhir, f"/_async/{batch}")["response"]
    assert interrupted["status"].startswith("500")
    assert interrupted["outcome"]["issue"][0]["code"] == "incomplete"
