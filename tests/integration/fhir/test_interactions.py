"""Create, read, update, delete, history: status codes, headers, bytes (FHIR R4 http.html)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from storage.database import Database
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
BASIC = b'{"resourceType":"Basic","code":{"text":"note"}}'

Outcome = Callable[..., dict[str, Any]]


def create(fhir: httpx.Client, body: bytes = BASIC, resource_type: str = "Basic") -> dict[str, Any]:
    response = fhir.post(f"/{resource_type}", content=body, headers=FHIR_JSON)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created


def basic(resource_id: str, text: str) -> bytes:
    return f'{{"resourceType":"Basic","id":"{resource_id}","code":{{"text":"{text}"}}}}'.encode()


def test_create_gives_id_version_and_location(fhir: httpx.Client) -> None:
    response = fhir.post("/Basic", content=BASIC, headers=FHIR_JSON)

    assert response.status_code == 201
    body = response.json()
    assert body["meta"]["versionId"] == "1"
    assert response.headers["etag"] == 'W/"1"'
    assert response.headers["location"] == f"{fhir.base_url}Basic/{body['id']}/_history/1"
    assert response.headers["last-modified"]
    read = fhir.get(f"/Basic/{body['id']}")
    assert read.content == response.content
    assert read.headers["content-location"] == response.headers["location"]
    assert read.headers["cache-control"] == "private, no-store"


def test_update_makes_versions_that_stay_readable(fhir: httpx.Client) -> None:
    first = create(fhir)
    url = f"/Basic/{first['id']}"

    second = fhir.put(url, content=basic(first["id"], "two"), headers=FHIR_JSON)

    assert second.status_code == 200
    assert second.headers["etag"] == 'W/"2"'
    assert fhir.get(f"{url}/_history/1").json() == first
    assert fhir.get(f"{url}/_history/2").content == second.content
    assert second.json()["meta"]["lastUpdated"] > first["meta"]["lastUpdated"]


def test_update_as_create_takes_the_clients_id(fhir: httpx.Client) -> None:
    name = f"my-{uuid4()}"

    response = fhir.put(f"/Basic/{name}", content=basic(name, "one"), headers=FHIR_JSON)

    assert response.status_code == 201
    assert response.headers["location"].endswith(f"/Basic/{name}/_history/1")
    assert fhir.get(f"/Basic/{name}").json()["id"] == name


def test_delete_then_gone_then_back(fhir: httpx.Client, assert_outcome: Outcome) -> None:
    created = create(fhir)
    url = f"/Basic/{created['id']}"

    assert fhir.delete(url).status_code == 204
    assert_outcome(fhir.get(url), 410, "deleted")
    assert fhir.delete(url).status_code == 204
    again = fhir.put(url, content=basic(created["id"], "again"), headers=FHIR_JSON)
    assert again.status_code == 201
    assert again.headers["etag"] == 'W/"3"'
    assert_outcome(fhir.get(f"{url}/_history/2"), 410, "deleted")
    history = fhir.get(f"{url}/_history").json()
    assert [entry["request"]["method"] for entry in history["entry"]] == ["PUT", "DELETE", "POST"]
    assert history["total"] == 3
    assert "resource" not in history["entry"][1]


def test_history_is_paged(fhir: httpx.Client) -> None:
    created = create(fhir)
    url = f"/Basic/{created['id']}"
    for number in range(4):
        fhir.put(url, content=basic(created["id"], str(number)), headers=FHIR_JSON)

    page = fhir.get(f"{url}/_history", params={"_count": 2}).json()
    versions = [entry["resource"]["meta"]["versionId"] for entry in page["entry"]]
    while next_url := next_link(page):
        page = fhir.get(next_url).json()
        versions += [entry["resource"]["meta"]["versionId"] for entry in page["entry"]]

    assert versions == ["5", "4", "3", "2", "1"]


def next_link(bundle: dict[str, Any]) -> str | None:
    return next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)


def test_if_match_guards_update_and_delete(fhir: httpx.Client, assert_outcome: Outcome) -> None:
    created = create(fhir)
    url, body = f"/Basic/{created['id']}", basic(created["id"], "x")

    assert (
        fhir.put(url, content=body, headers={**FHIR_JSON, "If-Match": 'W/"1"'}).status_code == 200
    )
    stale = fhir.put(url, content=body, headers={**FHIR_JSON, "If-Match": 'W/"1"'})
    assert_outcome(stale, 412, "conflict")
    assert_outcome(fhir.delete(url, headers={"If-Match": 'W/"7"'}), 412)
    assert_outcome(fhir.put(url, content=body, headers={**FHIR_JSON, "If-Match": "abc"}), 400)
    assert_outcome(
        fhir.put(
            "/Basic/nothing-here",
            content=basic("nothing-here", "x"),
            headers={**FHIR_JSON, "If-Match": 'W/"1"'},
        ),
        412,
    )
    star = {**FHIR_JSON, "If-None-Match": "*"}
    assert_outcome(fhir.put(url, content=body, headers=star), 412)
    assert fhir.delete(url, headers={"If-Match": 'W/"2"'}).status_code == 204


def test_conditional_read(fhir: httpx.Client) -> None:
    response = fhir.post("/Basic", content=BASIC, headers=FHIR_JSON)
    url = f"/Basic/{response.json()['id']}"

    same = fhir.get(url, headers={"If-None-Match": response.headers["etag"]})
    since = fhir.get(url, headers={"If-Modified-Since": response.headers["last-modified"]})
    other = fhir.get(url, headers={"If-None-Match": 'W/"9"'})

    assert (same.status_code, same.content) == (304, b"")
    assert since.status_code == 304
    assert other.status_code == 200


def test_head_is_get_without_a_body(fhir: httpx.Client) -> None:
    created = create(fhir)
    url = f"/Basic/{created['id']}"

    head, get = fhir.head(url), fhir.get(url)

    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(get.content))
    assert head.headers["etag"] == get.headers["etag"]


@pytest.mark.parametrize(
    ("preference", "check"),
    [
        ("return=minimal", lambda r: r.content == b""),
        ("return=representation", lambda r: r.json()["resourceType"] == "Basic"),
        ("return=OperationOutcome", lambda r: r.json()["resourceType"] == "OperationOutcome"),
    ],
)
def test_prefer_return(
    fhir: httpx.Client, preference: str, check: Callable[[httpx.Response], bool]
) -> None:
    response = fhir.post("/Basic", content=BASIC, headers={**FHIR_JSON, "Prefer": preference})

    assert response.status_code == 201
    assert response.headers["location"]
    assert check(response)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/fhir+json", 200),
        ("application/json;q=0.9, text/html", 200),
        ("*/*", 200),
        ("text/html", 406),
        ("application/fhir+json;q=0", 406),
    ],
)
def test_what_no_form_answers_is_not_acceptable(
    fhir: httpx.Client, assert_outcome: Outcome, accept: str, status: int
) -> None:
    response = fhir.get("/Basic", headers={"Accept": accept})

    if status == 406:
        assert_outcome(response, 406, "not-supported")
    assert response.status_code == status
    assert fhir.get("/Basic", params={"_format": "ttl"}).status_code == 406
    assert fhir.get("/Basic", params={"_format": "json"}).status_code == 200


def test_errors_are_operation_outcomes(
    fhir: httpx.Client, assert_outcome: Outcome, live: Any
) -> None:
    assert_outcome(fhir.get("/Nonsense/1"), 404)
    assert_outcome(fhir.get(f"/Basic/{uuid4()}"), 404, "not-found")
    assert_outcome(fhir.get("/Basic/not*valid"), 404)
    assert_outcome(fhir.get("/Basic/1/nonsense"), 404)
    assert_outcome(fhir.patch("/Basic/1"), 415)
    assert_outcome(fhir.post("/Basic/1"), 405)
    assert "PUT" in fhir.post("/Basic/1").headers["allow"]
    assert_outcome(fhir.post("/Basic", content=BASIC, headers={"Content-Type": "text/plain"}), 415)
    assert_outcome(fhir.post("/Patient", content=BASIC, headers=FHIR_JSON), 400, "invalid")
    assert_outcome(fhir.put("/Basic/a", content=basic("b", "x"), headers=FHIR_JSON), 400)
    assert_outcome(fhir.put("/Basic/a", content=BASIC, headers=FHIR_JSON), 400)
    assert_outcome(fhir.put("/Basic/a*b", content=basic("a*b", "x"), headers=FHIR_JSON), 400)
    big = b'{"resourceType":"Basic","code":{"text":"' + b"x" * (11 << 20) + b'"}}'
    assert_outcome(fhir.post("/Basic", content=big, headers=FHIR_JSON), 413, "too-long")
    anonymous = httpx.get(f"{fhir.base_url}Basic")
    assert_outcome(anonymous, 401, "login")
    assert "bearer" in anonymous.headers["www-authenticate"].lower()


def test_gate_errors_name_the_element(fhir: httpx.Client, assert_outcome: Outcome) -> None:
    body = b'{"resourceType":"Patient","gender":"x","birthDate":"2020-02-30","foo":1}'

    outcome = assert_outcome(fhir.post("/Patient", content=body, headers=FHIR_JSON), 400)

    places = {issue["expression"][0] for issue in outcome["issue"]}
    assert places == {"Patient.gender", "Patient.birthDate", "Patient.foo"}
    assert any("male | female" in issue["diagnostics"] for issue in outcome["issue"])


def test_request_id_is_echoed_and_audited(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    assert fhir.get("/Basic", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = fhir.get("/Basic").headers["x-request-id"]

    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT request_id FROM audit_events WHERE request_id IN ('abc-1', %s)", (made,)
        ).fetchall()
    assert sorted(rows) == sorted([("abc-1",), (made,)])


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("system/Basic.c", {"create"}),
        ("system/Basic.r", {"read", "history"}),
        ("system/Basic.u", {"update"}),
        ("system/Basic.d", {"delete"}),
        ("system/Basic.s", {"search"}),
        ("system/Patient.cruds", set()),
        ("system/*.rs", {"read", "history", "search"}),
    ],
)
def test_each_scope_letter_opens_its_interactions_only(
    fhir: httpx.Client,
    client_for: Callable[..., httpx.Client],
    tenant: Tenant,
    assert_outcome: Outcome,
    scope: str,
    allowed: set[str],
) -> None:
    created = create(fhir)
    url, body = f"/Basic/{created['id']}", basic(created["id"], "x")
    narrow = client_for(tenant, scope)

    answers = {
        "create": narrow.post("/Basic", content=BASIC, headers=FHIR_JSON),
        "read": narrow.get(url),
        "history": narrow.get(f"{url}/_history"),
        "search": narrow.get("/Basic"),
        "update": narrow.put(url, content=body, headers=FHIR_JSON),
        "delete": narrow.delete(url),
    }

    for interaction, answer in answers.items():
        if interaction in allowed:
            assert answer.is_success, (interaction, answer.text)
        else:
            assert_outcome(answer, 403, "forbidden")


def test_every_interaction_leaves_one_audit_row(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    created = create(fhir)
    url = f"/Basic/{created['id']}"
    fhir.get(url)
    fhir.get(f"{url}/_history/1")
    fhir.get(f"{url}/_history")
    fhir.put(url, content=basic(created["id"], "x"), headers=FHIR_JSON)
    fhir.get("/Basic", params={"_id": created["id"]}, headers={"X-Request-Id": "one-search"})
    fhir.delete(url)
    fhir.get("/Basic", params={"nonsense": "1"}, headers={"X-Request-Id": "one-refusal"})
    fhir.get("/Basic/never-was", headers={"X-Request-Id": "one-miss"})

    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT event_type, outcome FROM audit_events WHERE resource_id = %s"
            " ORDER BY timestamp",
            (created["id"],),
        ).fetchall()
        others = connection.execute(
            "SELECT request_id, event_type, outcome FROM audit_events WHERE request_id LIKE 'one-%'"
        ).fetchall()
    assert rows == [
        (f"FHIR_{event}", "SUCCESS")
        for event in ("CREATE", "READ", "VREAD", "HISTORY", "UPDATE", "DELETE")
    ]
    assert sorted(others) == [
        ("one-miss", "FHIR_READ", "FAILURE"),
        ("one-refusal", "FHIR_SEARCH", "FAILURE"),
        ("one-search", "FHIR_SEARCH", "SUCCESS"),
    ]


@pytest.mark.parametrize(
    "extra",
    [
        b'"meta":{"versionId":"99","lastUpdated":"1999-01-01T00:00:00Z"}',
        b'"id":"chosen"',
    ],
)
def test_server_made_fields_are_overwritten(fhir: httpx.Client, extra: bytes) -> None:
    """security.md C6."""
    created = create(fhir, b'{"resourceType":"Basic","code":{"text":"x"},' + extra + b"}")

    assert created["id"] != "chosen"
    assert created["meta"]["versionId"] == "1"
    assert not created["meta"]["lastUpdated"].startswith("1999")


@pytest.mark.parametrize(
    "field", ["tenant_id", "role", "is_admin", "quota", "legal_hold", "created_by", "stale"]
)
def test_fields_of_the_database_are_not_elements(
    fhir: httpx.Client, assert_outcome: Outcome, field: str
) -> None:
    """security.md C6."""
    body = f'{{"resourceType":"Basic","code":{{"text":"x"}},"{field}":"x"}}'.encode()

    assert_outcome(fhir.post("/Basic", content=body, headers=FHIR_JSON), 400, "structure")


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceType":"Basic","resourceType":"Basic"}',
        b'{"resourceType":"Observation","valueInteger":NaN}',
        b'{"resourceType":"Basic","x":1e400}',
        rb'{"resourceType":"Basic","language":"\ud800"}',
        b'\xef\xbb\xbf{"resourceType":"Basic"}',
        b'{"resourceType":"Basic","__proto__":{"a":1},"code":{"text":"x"}}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"resourceType":"Basic","x":' + b"1" * 5000 + b"}",
    ],
    ids=range(8),
)
def test_json_traps_are_refused(fhir: httpx.Client, assert_outcome: Outcome, body: bytes) -> None:
    """security.md C2."""
    assert_outcome(fhir.post("/Basic", content=body, headers=FHIR_JSON), 400, "structure")


def test_negative_zero_keeps_its_sign(fhir: httpx.Client) -> None:
    body = (
        b'{"resourceType":"Observation","status":"final","code":{"text":"x"},'
        b'"valueQuantity":{"value":-0,"unit":"mm"}}'
    )

    response = fhir.post("/Observation", content=body, headers=FHIR_JSON)

    assert b'"value":-0,' in response.content


def test_metadata_needs_no_token_and_is_cacheable(live: Any) -> None:
    url = f"{live.url}/t/demo/fhir/R4/metadata"

    response = httpx.get(url)

    statement = response.json()
    assert statement["resourceType"] == "CapabilityStatement"
    assert statement["fhirVersion"] == "4.0.1"
    assert "max-age" in response.headers["cache-control"]
    again = httpx.get(url, headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304
    assert httpx.get(f"{live.url}/t/no-such-tenant/fhir/R4/metadata").status_code == 200


@pytest.mark.parametrize("tenant_name", ["Not%20a%20slug", "x" * 64, "a%22b", "-a"])
def test_metadata_of_an_impossible_tenant_is_none(
    live: Any, assert_outcome: Outcome, tenant_name: str
) -> None:
    """Without a token nothing that a client writes into the URL may be kept or echoed."""
    response = httpx.get(f"{live.url}/t/{tenant_name}/fhir/R4/metadata")

    assert_outcome(response, 404, "not-found")
