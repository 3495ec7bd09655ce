"""Conditional create, update, patch and delete (FHIR R4 http.html#ccreate, #cond-update, #cdelete).

security.md C11: what another tenant has meets no criteria; many are refused, none at all too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fhirpy import AsyncFHIRClient

from interop.access import Scopes
from storage.tenancy import Tenant

Outcome = Callable[..., dict[str, Any]]
SYSTEM = "urn:test:conditional"


def basic(value: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Basic",
        "identifier": [{"system": SYSTEM, "value": value}],
        "code": {"text": "test"},
        **more,
    }


def basic_of(value: str, **more: Any) -> dict[str, Any]:
    """The same as fhirpy takes it."""
    made = basic(value, **more)
    return {"resource_type": made.pop("resourceType"), **made}


def criteria(value: str) -> str:
    return f"identifier={SYSTEM}|{value}"


def create(fhir: httpx.Client, value: str) -> str:
    answer = fhir.post("/Basic", json=basic(value))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def known(fhir: httpx.Client, value: str) -> list[str]:
    bundle = fhir.get(f"/Basic?{criteria(value)}").json()
    return [entry["resource"]["id"] for entry in bundle.get("entry", ())]


@pytest.fixture
def value() -> str:
    return uuid4().hex


# -- create ---------------------------------------------------------------------------------


def test_if_none_exist_creates_once_and_then_answers_what_is_there(
    fhir: httpx.Client, value: str
) -> None:
    headers = {"If-None-Exist": criteria(value)}

    first = fhir.post("/Basic", json=basic(value), headers=headers)
    second = fhir.post("/Basic", json=basic(value, code={"text": "other"}), headers=headers)

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.content == first.content
    assert second.headers["etag"] == 'W/"1"'
    assert known(fhir, value) == [first.json()["id"]]


def test_if_none_exist_is_refused_where_many_meet_it(
    fhir: httpx.Client, value: str, assert_outcome: Outcome
) -> None:
    create(fhir, value)
    create(fhir, value)

    answer = fhir.post("/Basic", json=basic(value), headers={"If-None-Exist": criteria(value)})

    assert_outcome(answer, 412)
    assert len(known(fhir, value)) == 2


def test_what_another_tenant_has_meets_no_criteria(
    fhir: httpx.Client, other_fhir: httpx.Client, value: str
) -> None:
    theirs = create(other_fhir, value)

    created = fhir.post("/Basic", json=basic(value), headers={"If-None-Exist": criteria(value)})
    deleted = fhir.delete(f"/Basic?{criteria(value)}")

    assert created.status_code == 201
    assert deleted.status_code == 204
    assert known(other_fhir, value) == [theirs]
    assert known(fhir, value) == []


def test_what_the_caller_cannot_see_meets_no_criteria(
    client_for: Callable[..., httpx.Client], tenant: Tenant, fhir: httpx.Client, value: str
) -> None:
    fhir.post("/Basic", json=basic(value, code={"coding": [{"code": "hidden"}]}))
    narrow = client_for(tenant, "system/Basic.crus?code=shown")
    mine = basic(value, code={"coding": [{"code": "shown"}]})

    answer = narrow.post("/Basic", json=mine, headers={"If-None-Exist": criteria(value)})

    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("empty", ["", "?", "_format=json", "_pretty=true"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_criteria_that_select_nothing_are_refused(
    fhir: httpx.Client, assert_outcome: Outcome, method: str, empty: str
) -> None:
    url, headers = f"/Basic?{empty}", {"Content-Type": "application/fhir+json"}
    if method == "POST":
        url, headers["If-None-Exist"] = "/Basic", empty
    body = {"resourceType": "Parameters"} if method == "PATCH" else basic("x")

    answer = fhir.request(method, url, headers=headers, json=None if method == "DELETE" else body)

    assert_outcome(answer, 400)


@pytest.mark.parametrize(
    "refused",
    ["nonsense=1", "code:nonsense=1", "identifier=", "_sort=code", "_include=Basic:subject"],
)
def test_criteria_are_never_understood_in_part(
    fhir: httpx.Client, value: str, assert_outcome: Outcome, refused: str
) -> None:
    """A criterion that is left out in silence deletes what was not meant."""
    kept = create(fhir, value)
    headers = {"Prefer": "handling=lenient"}

    answer = fhir.delete(f"/Basic?{criteria(value)}&{refused}", headers=headers)

    assert_outcome(answer, 400)
    assert known(fhir, value) == [kept]


def test_many_who_create_by_the_same_criteria_at_once_make_one(
    fhir: httpx.Client, value: str
) -> None:
    def race(number: int) -> int:
        both = [criteria(value), "identifier:missing=false"]
        headers = {"If-None-Exist": "&".join(both if number % 2 else reversed(both))}
        return fhir.post("/Basic", json=basic(value), headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(race, range(16)))

    assert answers == [200] * 15 + [201]
    assert len(known(fhir, value)) == 1


# -- update ---------------------------------------------------------------------------------


def test_conditional_update_updates_the_one_that_is_found(fhir: httpx.Client, value: str) -> None:
    found = create(fhir, value)

    without = fhir.put(f"/Basic?{criteria(value)}", json=basic(value, code={"text": "two"}))
    with_id = fhir.put(
        f"/Basic?{criteria(value)}", json=basic(value, id=found, code={"text": "three"})
    )

    assert [without.status_code, with_id.status_code] == [200, 200]
    assert [without.json()["id"], with_id.json()["id"]] == [found, found]
    assert with_id.headers["etag"] == 'W/"3"'


def test_conditional_update_creates_where_nothing_is_found(fhir: httpx.Client, value: str) -> None:
    chosen = f"chosen-{value}"

    by_server = fhir.put(f"/Basic?{criteria(value + '-a')}", json=basic(value + "-a"))
    by_client = fhir.put(f"/Basic?{criteria(value + '-b')}", json=basic(value + "-b", id=chosen))

    assert [by_server.status_code, by_client.status_code] == [201, 201]
    assert by_client.json()["id"] == chosen
    assert known(fhir, value + "-a") == [by_server.json()["id"]]


def test_conditional_update_refuses_another_id_one_that_is_taken_and_many(
    fhir: httpx.Client, value: str, assert_outcome: Outcome
) -> None:
    create(fhir, value)
    taken = create(fhir, value + "-other")

    another = fhir.put(f"/Basic?{criteria(value)}", json=basic(value, id="another"))
    occupied = fhir.put(f"/Basic?{criteria(value + '-none')}", json=basic(value, id=taken))
    create(fhir, value)
    many = fhir.put(f"/Basic?{criteria(value)}", json=basic(value))

    assert_outcome(another, 400)
    assert_outcome(occupied, 409)
    assert_outcome(many, 412)
    assert fhir.get(f"/Basic/{taken}").headers["etag"] == 'W/"1"'


def test_many_who_update_by_the_same_criteria_at_once_make_one(
    fhir: httpx.Client, value: str
) -> None:
    def race(number: int) -> int:
        body = basic(value, code={"text": str(number)})
        return fhir.put(f"/Basic?{criteria(value)}", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(race, range(16)))

    assert answers == [200] * 15 + [201]
    (only,) = known(fhir, value)
    assert fhir.get(f"/Basic/{only}").headers["etag"] == 'W/"16"'


def test_if_match_holds_for_what_the_criteria_select(
    fhir: httpx.Client, value: str, assert_outcome: Outcome
) -> None:
    create(fhir, value)
    url, body = f"/Basic?{criteria(value)}", basic(value)

    assert_outcome(fhir.put(url, json=body, headers={"If-Match": 'W/"2"'}), 412)
    assert fhir.put(url, json=body, headers={"If-Match": 'W/"1"'}).status_code == 200
    nowhere = fhir.put(
        f"/Basic?{criteria(value + '-none')}", json=body, headers={"If-Match": 'W/"1"'}
    )
    assert_outcome(nowhere, 412)
    assert known(fhir, value + "-none") == []


# -- patch and delete -----------------------------------------------------------------------


def test_conditional_patch(fhir: httpx.Client, value: str, assert_outcome: Outcome) -> None:
    create(fhir, value)
    headers = {"Content-Type": "application/json-patch+json"}
    operations = [{"op": "replace", "path": "/code/text", "value": "patched"}]

    def patch(asked: str) -> httpx.Response:
        return fhir.patch(f"/Basic?{asked}", json=operations, headers=headers)

    assert patch(criteria(value)).json()["code"]["text"] == "patched"
    assert_outcome(patch(criteria(value + "-none")), 404)
    create(fhir, value)
    assert_outcome(patch(criteria(value)), 412)


def test_conditional_delete_of_one_and_of_none(fhir: httpx.Client, value: str) -> None:
    only = create(fhir, value)

    answer = fhir.delete(f"/Basic?{criteria(value)}")
    again = fhir.delete(f"/Basic?{criteria(value)}", headers={"Prefer": "return=OperationOutcome"})

    assert (answer.status_code, answer.headers["etag"]) == (204, 'W/"2"')
    assert fhir.get(f"/Basic/{only}").status_code == 410
    assert (again.status_code, again.json()["resourceType"]) == (200, "OperationOutcome")


def test_conditional_delete_of_many_says_how_many_at_most(
    fhir: httpx.Client, value: str, assert_outcome: Outcome
) -> None:
    for _ in range(3):
        create(fhir, value)
    url = f"/Basic?{criteria(value)}"

    for too_few in (url, f"{url}&_count=2"):
        assert_outcome(fhir.delete(too_few), 412)
    for bound in ("0", "1001", "x", "-1"):
        assert_outcome(fhir.delete(f"{url}&_count={bound}"), 400)
    assert len(known(fhir, value)) == 3
    assert fhir.delete(f"{url}&_count=3").status_code == 204
    assert known(fhir, value) == []


# -- a client that others wrote -------------------------------------------------------------


def test_fhirpy_gets_or_creates_and_updates(
    live: SimpleNamespace, tenant: Tenant, value: str
) -> None:
    token = live.services.tokens.issue(tenant, None, "fhirpy", Scopes.parse("system/*.cruds"))
    url = f"{live.url}/t/{tenant.slug}/fhir/R4"

    async def story() -> None:
        fhir: Any = AsyncFHIRClient(url=url, authorization=f"Bearer {token}")
        found = fhir.resources("Basic").search(identifier=f"{SYSTEM}|{value}")

        first, created = await found.get_or_create(fhir.resource(**basic_of(value)))
        again, created_again = await found.get_or_create(fhir.resource(**basic_of(value)))
        updated, made = await found.update(fhir.resource(**basic_of(value, code={"text": "u"})))

        assert (created, created_again, made) == (True, False, False)
        assert first.id == again.id == updated.id
        assert (await fhir.get("Basic", first.id))["code"]["text"] == "u"

    asyncio.run(story())
