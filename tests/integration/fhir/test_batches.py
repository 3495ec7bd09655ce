"""Batches: each entry is judged, audited and answered by itself (R4 http.html#transaction)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from storage.database import Database
from storage.tenancy import Tenant
from tests.integration.fhir.test_transactions import basic, post, put, request, send

Outcome = Callable[..., dict[str, Any]]
Json = dict[str, Any]


def batch(fhir: httpx.Client, *entries: Json, prefer: str = "") -> list[Json]:
    answer = send(fhir, *entries, prefer=prefer, type_="batch")
    assert answer.status_code == 200, answer.text
    bundle = answer.json()
    assert bundle["type"] == "batch-response"
    return list(bundle["entry"])


def statuses(entries: list[Json]) -> list[int]:
    return [int(entry["response"]["status"][:3]) for entry in entries]


@pytest.fixture
def own_id() -> str:
    return uuid4().hex


def test_each_entry_is_judged_by_itself(fhir: httpx.Client, own_id: str) -> None:
    entries = batch(
        fhir,
        request("GET", f"Basic/{own_id}"),
        request("GET", "Basic/no-such-thing"),
        put(basic(id=own_id)),
        put(basic(id="b"), "Basic/a"),
        post(basic(nonsense=1)),
        request("DELETE", f"Basic?identifier=urn:nobody|{own_id}"),
        request("GET", "Basic?_count=1"),
        request("HEAD", f"Basic/{own_id}"),
        request("GET", "Nonsense/1"),
        request("GET", "../../../other/fhir/R4/Basic"),
        post(basic()) | request("POST", "Basic/_history"),
    )

    assert statuses(entries) == [200, 404, 201, 400, 400, 204, 200, 200, 404, 404, 405]
    assert entries[0]["resource"]["id"] == own_id  # written first, read last
    assert entries[1]["response"]["outcome"]["issue"][0]["code"] == "not-found"
    assert "resource" not in entries[2]
    assert entries[2]["response"]["etag"] == 'W/"1"'
    assert entries[2]["response"]["location"].endswith(f"/Basic/{own_id}/_history/1")
    issue = entries[4]["response"]["outcome"]["issue"][0]
    assert issue["expression"] == ["Basic.nonsense"]
    assert entries[6]["resource"]["type"] == "searchset"
    assert "resource" not in entries[7]


def test_conditions_and_preferences_of_entries(fhir: httpx.Client, own_id: str) -> None:
    fhir.put(f"/Basic/{own_id}", json=basic(own_id, id=own_id))
    stored = fhir.get(f"/Basic/{own_id}").json()
    criteria = f"identifier=urn:test:transactions|{own_id}"

    entries = batch(
        fhir,
        request("GET", f"Basic/{own_id}", ifNoneMatch='W/"2"'),
        request("GET", f"Basic/{own_id}", ifModifiedSince="2999-01-01T00:00:00Z"),
        put(basic(own_id, id=own_id), ifMatch='W/"9"'),
        post(basic(own_id), ifNoneExist=criteria),
        put(basic(own_id, id=own_id), ifMatch='W/"1"'),
        prefer="return=representation",
    )

    # The second PUT makes version 2, which the reads then see.
    assert statuses(entries) == [304, 304, 412, 200, 200]
    assert entries[3]["resource"] == stored
    assert entries[4]["resource"]["meta"]["versionId"] == "2"


def test_a_json_patch_comes_in_a_binary(fhir: httpx.Client, own_id: str) -> None:
    fhir.put(f"/Basic/{own_id}", json=basic(id=own_id))
    operations = json.dumps([{"op": "replace", "path": "/code/text", "value": "patched"}])
    binary = {
        "resourceType": "Binary",
        "contentType": "application/json-patch+json",
        "data": base64.b64encode(operations.encode()).decode(),
    }
    patch = {"resource": binary, **request("PATCH", f"Basic/{own_id}")}

    in_batch = batch(fhir, patch)
    in_transaction = send(fhir, patch)
    broken = batch(fhir, {"resource": {**binary, "data": "AA=A"}, **patch | {"resource": binary}})

    assert statuses(in_batch) == [200]
    assert in_transaction.status_code == 200
    assert statuses(broken) == [200]
    assert fhir.get(f"/Basic/{own_id}").json()["code"]["text"] == "patched"


def test_an_entry_sees_no_more_than_the_caller_may(
    client_for: Callable[..., httpx.Client], tenant: Tenant, fhir: httpx.Client, own_id: str
) -> None:
    fhir.put(f"/Basic/{own_id}", json=basic(id=own_id))
    reader = client_for(tenant, "system/Basic.rs")

    entries = batch(
        reader,
        request("GET", f"Basic/{own_id}"),
        request("GET", "Patient"),
        request("DELETE", f"Basic/{own_id}"),
        put(basic(id=own_id)),
    )

    assert statuses(entries) == [200, 403, 403, 403]
    assert fhir.get(f"/Basic/{own_id}").headers["etag"] == 'W/"1"'


def test_a_token_that_permits_nothing_is_refused_as_a_whole(
    client_for: Callable[..., httpx.Client], tenant: Tenant, assert_outcome: Outcome
) -> None:
    nothing = client_for(tenant, "openid")

    assert_outcome(send(nothing, request("GET", "Basic/1"), type_="batch"), 403)


def test_each_entry_has_one_audit_row_with_the_id_of_the_request(
    fhir: httpx.Client, database: Database, tenant: Tenant, own_id: str
) -> None:
    bundle = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [
            put(basic(id=own_id)),
            request("GET", f"Basic/{own_id}"),
            request("GET", "Basic?_count=1"),
            request("GET", "Basic/no-such-thing"),
            post(basic(nonsense=1)),
        ],
    }

    fhir.post("", json=bundle, headers={"X-Request-Id": own_id})

    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT event_type, outcome FROM audit_events WHERE tenant_id = %s AND request_id = %s",
            (tenant.id, own_id),
        ).fetchall()
    assert sorted(rows) == [
        ("FHIR_CREATE", "FAILURE"),
        ("FHIR_CREATE", "SUCCESS"),
        ("FHIR_READ", "FAILURE"),
        ("FHIR_READ", "SUCCESS"),
        ("FHIR_SEARCH", "SUCCESS"),
    ]
