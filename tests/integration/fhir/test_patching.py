"""PATCH with JSON Patch and FHIRPath Patch, If-Match, and what no client may write.

FHIR R4 http.html#patch; security.md C6 and C12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from storage.tenancy import Tenant

Outcome = Callable[..., dict[str, Any]]
Json = dict[str, Any]
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
FHIR_JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture
def url(fhir: httpx.Client) -> str:
    """A Basic with a decimal of many digits and an element that the server knows nothing of."""
    body = (
        b'{"resourceType":"Basic","code":{"text":"one"},"extension":['
        b'{"url":"urn:test:digits","valueDecimal":1.50}]}'
    )
    answer = fhir.post("/Basic", content=body, headers=FHIR_JSON)
    assert answer.status_code == 201, answer.text
    return f"/Basic/{answer.json()['id']}"


def replace(path: str, value: Any) -> list[Json]:
    return [{"op": "replace", "path": path, "value": value}]


def fhirpath(kind: str, path: str, value: Json | None = None, **more: Json) -> Json:
    parts: list[Json] = [
        {"name": "type", "valueCode": kind},
        {"name": "path", "valueString": path},
    ]
    parts += [{"name": name, **given} for name, given in more.items()]
    if value is not None:
        parts.append({"name": "value", **value})
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}


def json_patch(fhir: httpx.Client, url: str, operations: Any, **headers: str) -> httpx.Response:
    return fhir.patch(url, json=operations, headers={**JSON_PATCH, **headers})


def test_json_patch_makes_a_version_and_keeps_every_digit(fhir: httpx.Client, url: str) -> None:
    answer = json_patch(fhir, url, replace("/code/text", "two"))

    assert answer.status_code == 200
    assert answer.headers["etag"] == 'W/"2"'
    assert answer.json()["code"]["text"] == "two"
    assert b'"valueDecimal":1.50' in answer.content
    assert fhir.get(url).content == answer.content
    assert fhir.get(f"{url}/_history/1").json()["code"]["text"] == "one"


def test_fhirpath_patch(fhir: httpx.Client, url: str) -> None:
    body = fhirpath("replace", "Basic.code.text", {"valueString": "two"})

    answer = fhir.patch(url, json=body, headers=FHIR_JSON)

    assert (answer.status_code, answer.json()["code"]["text"]) == (200, "two")
    assert b'"valueDecimal":1.50' in answer.content


def test_a_patch_is_found_by_search_and_in_the_rows(fhir: httpx.Client) -> None:
    family = f"F{uuid4().hex[:8]}"
    patient = {"resourceType": "Patient", "name": [{"family": "Before"}]}
    url = f"/Patient/{fhir.post('/Patient', json=patient).json()['id']}"

    answer = json_patch(fhir, url, replace("/name/0/family", family))

    assert answer.status_code == 200
    found = fhir.get(f"/Patient?family={family}").json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == [answer.json()["id"]]


@pytest.mark.parametrize(
    ("operations", "status"),
    [
        ("nonsense", 400),
        ({"op": "add"}, 400),
        ([{"op": "nonsense", "path": "/code"}], 400),
        ([{"op": "replace", "path": "code", "value": 1}], 400),
        ([{"op": "remove", "path": "/subject"}], 422),
        ([{"op": "test", "path": "/code/text", "value": "other"}], 422),
        (replace("/code/text", 5), 400),
        ([{"op": "add", "path": "/nonsense", "value": 1}], 400),
        ([{"op": "remove", "path": "/code"}], 400),
        (replace("/resourceType", "Patient"), 422),
        (replace("/id", "other"), 422),
        ([{"op": "remove", "path": "/id"}], 422),
    ],
)
def test_a_patch_that_cannot_be_applied_changes_nothing(
    fhir: httpx.Client, url: str, assert_outcome: Outcome, operations: Any, status: int
) -> None:
    assert_outcome(json_patch(fhir, url, operations), status)
    assert fhir.get(url).headers["etag"] == 'W/"1"'


def test_a_patch_in_another_form_is_refused(
    fhir: httpx.Client, url: str, assert_outcome: Outcome
) -> None:
    for media_type in ("application/merge-patch+json", "text/plain", ""):
        headers = {"Content-Type": media_type}
        assert_outcome(fhir.patch(url, content=b"{}", headers=headers), 415)
    smuggled = b'[],"x":[{"op":"remove","path":"/extension"}]'
    assert_outcome(fhir.patch(url, content=smuggled, headers=JSON_PATCH), 400)


def test_a_patch_of_nothing_and_of_what_was_deleted(
    fhir: httpx.Client, url: str, assert_outcome: Outcome
) -> None:
    assert_outcome(json_patch(fhir, "/Basic/no-such", replace("/code/text", "x")), 404)
    fhir.delete(url)
    assert_outcome(json_patch(fhir, url, replace("/code/text", "x")), 410)


def test_what_another_tenant_has_cannot_be_patched(
    other_fhir: httpx.Client, url: str, assert_outcome: Outcome
) -> None:
    assert_outcome(json_patch(other_fhir, url, replace("/code/text", "x")), 404)


@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST", "transaction"])
def test_what_the_server_itself_says_of_a_resource_is_not_taken_from_a_client(
    fhir: httpx.Client, url: str, method: str
) -> None:
    """security.md C6."""
    wanted = {"versionId": "77", "lastUpdated": "1999-01-01T00:00:00.000Z"}
    resource = {"resourceType": "Basic", "code": {"text": "x"}, "meta": wanted}
    own_id = url.rpartition("/")[2]
    if method == "PATCH":
        operations = [{"op": "add", "path": "/meta", "value": wanted}]
        stored = json_patch(fhir, url, operations).json()
    elif method == "PUT":
        stored = fhir.put(url, json={**resource, "id": own_id}).json()
    elif method == "POST":
        stored = fhir.post("/Basic", json={**resource, "id": own_id}).json()
        assert stored["id"] != own_id
    else:
        entry = {"resource": {**resource, "id": own_id},
                 "request": {"method": "PUT", "url": url[1:]}}  # fmt: skip
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
        assert fhir.post("", json=bundle).status_code == 200
        stored = fhir.get(url).json()

    assert stored["meta"]["versionId"] in ("1", "2")
    assert stored["meta"]["lastUpdated"] > "2026"


# -- versions -------------------------------------------------------------------------------


def test_if_match_names_the_version_that_is_patched(
    fhir: httpx.Client, url: str, assert_outcome: Outcome
) -> None:
    operations = replace("/code/text", "two")

    assert json_patch(fhir, url, operations, **{"If-Match": 'W/"1"'}).status_code == 200
    assert_outcome(json_patch(fhir, url, operations, **{"If-Match": 'W/"1"'}), 412)
    assert_outcome(json_patch(fhir, url, operations, **{"If-Match": "1"}), 400)


def test_a_hundred_racing_writers_lose_nothing(fhir: httpx.Client, url: str) -> None:
    """security.md C12: each adds its own number to the version that it has read."""

    def write(number: int) -> None:
        identifier = {"system": "urn:test:race", "value": str(number)}
        for _ in range(500):
            read = fhir.get(url)
            resource = read.json()
            match = {"If-Match": read.headers["etag"]}
            if number % 2:
                resource["identifier"] = [*resource.get("identifier", ()), identifier]
                answer = fhir.put(url, json=resource, headers=match)
            else:
                place = "/identifier/-" if "identifier" in resource else "/identifier"
                value = identifier if "identifier" in resource else [identifier]
                added = [{"op": "add", "path": place, "value": value}]
                answer = json_patch(fhir, url, added, **match)
            if answer.status_code == 200:
                return
            assert answer.status_code == 412, answer.text
        raise AssertionError("never written")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(100)))

    final = fhir.get(url)
    assert sorted(int(one["value"]) for one in final.json()["identifier"]) == list(range(100))
    assert final.headers["etag"] == 'W/"101"'


@pytest.fixture
def careful(place_url: str, tenant: Tenant) -> Iterator[None]:
    """The tenant asks every change to name the version that it changes."""
    setting = "UPDATE tenant_settings SET require_if_match = %s WHERE tenant_id = %s"
    with psycopg.connect(place_url, autocommit=True) as owner:
        owner.execute(setting, (True, tenant.id))
        yield
        owner.execute(setting, (False, tenant.id))


def test_a_tenant_may_require_if_match(
    fhir: httpx.Client, url: str, assert_outcome: Outcome, careful: None
) -> None:
    resource = fhir.get(url).json()

    outcome = assert_outcome(fhir.put(url, json=resource), 400)
    assert_outcome(json_patch(fhir, url, replace("/code/text", "x")), 400)

    assert "If-Match" in outcome["issue"][0]["diagnostics"]
    assert fhir.put(url, json=resource, headers={"If-Match": 'W/"1"'}).status_code == 200
    # What is not there yet has no version.
    new = {"resourceType": "Basic", "id": uuid4().hex, "code": {"text": "new"}}
    assert fhir.put(f"/Basic/{new['id']}", json=new).status_code == 201
