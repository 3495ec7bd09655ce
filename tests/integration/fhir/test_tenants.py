"""Two tenants never see each other, by any FHIR question (security.md D1 to D6, C4)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from interop.fhir import json
from interop.fhir.definitions import definitions
from interop.fhir.search.clauses import Clause
from interop.fhir.search.conditions import Conditions
from interop.fhir.search.request import parse
from storage.database import Database
from storage.resource_search import SearchStatement
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
CANARY = "Zanzibarcanary"
Outcome = Callable[..., dict[str, Any]]

RECORD: list[dict[str, Any]] = [
    {
        "resourceType": "Patient",
        "id": "same",
        "name": [{"family": CANARY}],
        "identifier": [{"system": "urn:mrn", "value": CANARY}],
        "birthDate": "1970-01-01",
    },
    {
        "resourceType": "Observation",
        "id": "same-observation",
        "status": "final",
        "code": {"coding": [{"system": "urn:c", "code": CANARY}]},
        "subject": {"reference": "Patient/same"},
    },
    {"resourceType": "Questionnaire", "id": "q", "status": "draft", "title": CANARY},
]


@pytest.fixture(scope="module")
def victim(other_fhir: httpx.Client) -> httpx.Client:
    """The other tenant, with records full of canaries."""
    for resource in RECORD:
        url = f"/{resource['resourceType']}/{resource['id']}"
        response = other_fhir.put(url, content=json.dumps(resource), headers=FHIR_JSON)
        assert response.status_code == 201, response.text
    return other_fhir


def comparable(response: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    own = {"date", "x-request-id"}
    headers = {k: v for k, v in response.headers.items() if k.lower() not in own}
    return response.status_code, response.content, headers


@pytest.mark.parametrize("resource", RECORD, ids=lambda r: r["resourceType"])
def test_anothers_resource_is_answered_like_none(
    fhir: httpx.Client, victim: httpx.Client, resource: dict[str, Any]
) -> None:
    type_, id_ = resource["resourceType"], resource["id"]
    assert victim.get(f"/{type_}/{id_}").status_code == 200

    for path in ("{}/{}", "{}/{}/_history", "{}/{}/_history/1"):
        theirs = fhir.get(path.format(type_, id_))
        nobodys = fhir.get(path.format(type_, "x" * len(id_)))
        assert comparable(theirs) == comparable(nobodys)
        assert theirs.status_code == 404
    assert fhir.delete(f"/{type_}/{id_}").status_code == 204
    assert victim.get(f"/{type_}/{id_}").status_code == 200


def test_no_search_parameter_finds_anothers_resources(
    fhir: httpx.Client, victim: httpx.Client
) -> None:
    """Every parameter of the types, each with the values that find the victim's own."""
    values = {"token": CANARY, "string": CANARY, "reference": "Patient/same", "date": "ge1900"}
    for resource in RECORD:
        type_ = resource["resourceType"]
        for code, parameter in definitions().search_parameters[type_].items():
            if parameter.has_index():
                for query in (
                    {code: values[parameter.type]} if parameter.type in values else {},
                    {f"{code}:missing": "true"} if not code.startswith("_") else {},
                    {f"{code}:not": "x"} if parameter.type == "token" and code != "_id" else {},
                ):
                    response = fhir.get(f"/{type_}", params={**query, "_total": "accurate"})
                    assert response.status_code == 200, (query, response.text)
                    assert CANARY not in response.text.replace(
                        response.json()["link"][0]["url"], ""
                    )
                    assert response.json()["total"] == 0, query
    assert CANARY in victim.get("/Patient", params={"name": CANARY}).text


def test_anothers_token_opens_nothing(
    live: SimpleNamespace, victim: httpx.Client, fhir: httpx.Client, tenant: Tenant
) -> None:
    own = fhir.headers["authorization"]

    theirs = httpx.get(f"{live.url}/t/other/fhir/R4/Patient/same", headers={"Authorization": own})
    nobodys = httpx.get(f"{live.url}/t/nobody/fhir/R4/Patient/same", headers={"Authorization": own})

    assert comparable(theirs) == comparable(nobodys)
    assert theirs.status_code == 404


def test_both_may_hold_the_same_id(fhir: httpx.Client, victim: httpx.Client) -> None:
    own = {"resourceType": "Patient", "id": "same", "gender": "female"}

    assert fhir.put("/Patient/same", content=json.dumps(own), headers=FHIR_JSON).status_code == 201

    assert CANARY not in fhir.get("/Patient/same").text
    assert "gender" not in victim.get("/Patient/same").json()
    page = fhir.get("/Patient", params={"_id": "same", "_revinclude": "Observation:subject"})
    assert len(page.json()["entry"]) == 1
    fhir.delete("/Patient/same").raise_for_status()
    assert victim.get("/Patient/same").status_code == 200


def test_a_page_link_of_another_tenant_finds_only_ones_own(
    fhir: httpx.Client, victim: httpx.Client
) -> None:
    for number in range(3):
        body = {"resourceType": "Basic", "id": f"b{number}", "code": {"text": CANARY}}
        victim.put(f"/Basic/b{number}", content=json.dumps(body), headers=FHIR_JSON)
    page = victim.get("/Basic", params={"_count": 1}).json()
    cursor = next(one["url"] for one in page["link"] if one["relation"] == "next").split("?")[1]

    replayed = fhir.get(f"/Basic?{cursor}")

    assert replayed.status_code == 200
    assert CANARY not in replayed.text


def test_references_resolve_within_the_tenant_only(
    fhir: httpx.Client, victim: httpx.Client, database: Database, tenant: Tenant
) -> None:
    """security.md D6: the reference stays text, and binds no row of the other tenant."""
    body = {
        "resourceType": "Condition",
        "subject": {"reference": "Patient/same"},
        "code": {"text": "caries"},
        "clinicalStatus": {
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/condition-clinical",
                    "code": "active",
                }
            ]
        },
    }

    response = fhir.post("/Condition", content=json.dumps(body), headers=FHIR_JSON)

    assert response.status_code == 201, response.text
    with database.connection(tenant.id) as connection:
        waiting = connection.execute(
            "SELECT reference FROM fhir_pending WHERE resource_id = %s", (response.json()["id"],)
        ).fetchall()
        rows = connection.execute("SELECT count(*) FROM patient_conditions").fetchone()
    assert waiting == [("Patient/same",)]
    assert rows == (0,)
    found = fhir.get("/Condition", params={"_include": "Condition:subject"}).json()
    assert [entry["search"]["mode"] for entry in found["entry"]] == ["match"]


PAYLOADS = [
    "'", "''", "' OR '1'='1", "'; DROP TABLE fhir_resources; --", '"', "\\", "\\'", "%", "_", "%%",
    "$1", "$2", "($2)[1]", "{}", "%s", "%(x)s", "{0}", ":x", "/*", "*/", "--", ";", "\u0000",
    "E'\\x41'", "1); SELECT pg_sleep(5); --", "a$$b", "name'--", "[]", "NULL", "\U0001f600", "\n",
    "\u2028", "|", "||", "|'", "a|b'", "'|'", "\\,", "\\|", "\\$", "$", "a$b", "ge", "ge'",
    "2020-01-01'", "\u202e",
    "1e5'", "Patient/1'", "http://x/'", "x" * 2000,
]  # fmt: skip


def test_no_value_changes_the_text_of_the_statement(fhir: httpx.Client) -> None:
    """security.md C4: the SQL is the same whatever the values, which are bound."""
    from interop.errors import BadRequest

    for resource in RECORD:
        type_ = resource["resourceType"]
        for code, parameter in definitions().search_parameters[type_].items():
            texts: dict[int, str] = {}
            for payload in PAYLOADS:
                statement = SearchStatement(type_)
                try:
                    request = parse(type_, [(code, payload.replace(",", ""))])
                    for clause in request.terms:
                        assert isinstance(clause, Clause)
                        Conditions(statement, "http://x/t/demo/fhir/R4").add(clause)
                except BadRequest:
                    continue
                (text,) = statement.conditions
                shape = len(statement.values)
                # Fewer bound values only where the payload asks for less (code without system).
                assert texts.setdefault(shape, text) == text or parameter.type in (
                    "token", "reference", "quantity",
                ), (code, payload)  # fmt: skip
                assert not any(p in text for p in PAYLOADS if len(p) > 3 and p not in "($2)[1]")


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_hostile_values_and_names_are_answered_400_or_nothing(
    fhir: httpx.Client, victim: httpx.Client, payload: str
) -> None:
    """security.md C4, sent for real."""
    names = ["name", "name:exact", "name:contains", "identifier", "birthdate", "organization",
             "_id", "_lastUpdated", "_tag", "_profile", "_sort", "_include", "_count", "_cursor",
             payload, f"name:{payload}", f"_sort:{payload}"]  # fmt: skip
    for name in names:
        response = fhir.get("/Patient", params={name: payload})
        assert response.status_code in (200, 400), (name, payload, response.text)
        if response.status_code == 200:
            assert CANARY not in response.text
