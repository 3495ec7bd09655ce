"""_text and _content: words of the narrative and of everything, of what may be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from interop.fhir import json

FHIR_JSON = {"Content-Type": "application/fhir+json"}
SSN = "078-05-1120"


def post(fhir: httpx.Client, resource: dict[str, Any]) -> str:
    url = f"/{resource['resourceType']}"
    response = fhir.post(url, content=json.dumps(resource), headers=FHIR_JSON)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def search(fhir: httpx.Client, type_: str, **pairs: str) -> set[str]:
    response = fhir.get(f"/{type_}", params={**pairs, "_count": "500"})
    assert response.status_code == 200, (pairs, response.text)
    return {entry["resource"]["id"] for entry in response.json().get("entry", [])}


def report(narrative: str, note: str) -> dict[str, Any]:
    return {
        "resourceType": "Basic",
        "text": {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{narrative}</div>',
        },
        "code": {"text": note},
    }


@pytest.fixture(scope="module")
def reports(fhir: httpx.Client) -> dict[str, str]:
    made = {
        "bone": report("<p>Bone <b>metastases</b> seen</p>", "Müller’s film"),
        "liver": report("Liver: no metastasis&#160;found", "film 2"),
        "both": report("Bone and LIVER, <i>clean</i>", "second opinion"),
        "neither": {"resourceType": "Basic", "code": {"text": "Bone, but not in the narrative"}},
    }
    return {post(fhir, resource): name for name, resource in made.items()}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("_text", "bone", {"bone", "both"}),
        ("_content", "bone", {"bone", "both", "neither"}),
        ("_text", "BONE liver", {"both"}),
        ("_text", "bone OR liver", {"bone", "liver", "both"}),
        ("_text", "(bone OR liver) AND metast*", {"bone", "liver"}),
        ("_text", "bone NOT liver", {"bone"}),
        ("_text", "NOT bone", {"liver", "neither"}),
        ("_text", "metastas", set()),
        ("_text", "metastas*", {"bone", "liver"}),
        ("_text", '"bone and liver"', {"both"}),
        ("_text", '"liver bone"', set()),
        ("_content", '"clean second"', set()),
        ("_text", "clean,found", {"both", "liver"}),
        ("_text", "div", set()),
        ("_text", "film", set()),
        ("_content", "muller film", {"bone"}),
        ("_content", "film 2", {"liver"}),
    ],
)
def test_words_are_found(
    fhir: httpx.Client, reports: dict[str, str], name: str, value: str, found: set[str]
) -> None:
    assert {reports[id_] for id_ in search(fhir, "Basic", **{name: value})} == found


@pytest.mark.parametrize("value", ["AND", "(bone", "bone)", "*", "OR bone", "...", "NOT", '""'])
def test_what_is_no_search_for_words_is_refused(
    fhir: httpx.Client, assert_outcome: Callable[..., dict[str, Any]], value: str
) -> None:
    outcome = assert_outcome(fhir.get("/Basic", params={"_text": value}), 400)

    assert "expected words" in outcome["issue"][0]["diagnostics"]


@pytest.mark.parametrize("value", ["a " * 33, "(" * 17 + "a" + ")" * 17, "NOT " * 17 + "a"])
def test_what_asks_for_too_much_is_refused(
    fhir: httpx.Client, assert_outcome: Callable[..., dict[str, Any]], value: str
) -> None:
    assert_outcome(fhir.get("/Basic", params={"_text": value}), 400, "too-costly")


def test_words_change_with_the_resource(fhir: httpx.Client) -> None:
    own = post(fhir, report("ephemeral", "x"))
    assert search(fhir, "Basic", _text="ephemeral") == {own}

    body = {**report("lasting", "x"), "id": own}
    fhir.put(f"/Basic/{own}", content=json.dumps(body), headers=FHIR_JSON)

    assert search(fhir, "Basic", _text="ephemeral") == set()
    assert search(fhir, "Basic", _text="lasting") == {own}
    fhir.delete(f"/Basic/{own}")
    assert search(fhir, "Basic", _text="lasting") == set()


def test_another_tenant_finds_nothing(other_fhir: httpx.Client, reports: dict[str, str]) -> None:
    assert search(other_fhir, "Basic", _content="bone") == set()


def test_numbers_of_a_sealed_resource_are_found_and_stand_nowhere(
    fhir: httpx.Client, place_url: str
) -> None:
    resource = {
        **report(f"Number {SSN}, also written 078051120", "x"),
        "resourceType": "Patient",
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-ssn", "value": SSN}],
        "name": [{"family": "Fulltexter"}],
    }
    del resource["code"]
    own = post(fhir, resource)

    assert search(fhir, "Patient", _text="078051120") == {own}
    assert search(fhir, "Patient", _text=SSN) == {own}
    assert search(fhir, "Patient", _content=f"fulltexter {SSN}") == {own}
    assert search(fhir, "Patient", _text="number") == {own}
    assert search(fhir, "Patient", _text="0780*") == set()
    with psycopg.connect(place_url) as connection:
        row = connection.execute(
            "SELECT narrative || content FROM fhir_search_text WHERE resource_id = %s", (own,)
        ).fetchone()
        audited = connection.execute(
            "SELECT string_agg(convert_from(decode(metadata ->> 'query', 'base64'), 'utf8'), ' ')"
            " FROM audit_events WHERE metadata ? 'query'"
        ).fetchone()
    assert row is not None and audited is not None
    for part in ("078051120", "1120", " 078", "05 "):
        assert part not in row[0]
    assert "078" not in audited[0]
    assert "_text" in audited[0]
