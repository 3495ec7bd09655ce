"""What the server does not do is refused, and never left out in silence (R4 http.html, 3.1.0.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from interop.fhir import json

FHIR_JSON = {"Content-Type": "application/fhir+json"}
Outcome = Callable[..., dict[str, Any]]


def patient(id_: str, family: str = "Asked") -> bytes:
    return json.dumps({"resourceType": "Patient", "id": id_, "name": [{"family": family}]})


@pytest.mark.parametrize("parameter", ["identifier", "_cascade", "_count"])
def test_update_and_delete_refuse_parameters_that_they_do_not_know(
    fhir: httpx.Client, assert_outcome: Outcome, parameter: str
) -> None:
    own = str(uuid4())
    assert fhir.put(f"/Patient/{own}", content=patient(own), headers=FHIR_JSON).status_code == 201

    update = fhir.put(
        f"/Patient/{own}",
        params={parameter: "1"},
        content=patient(own, "Other"),
        headers=FHIR_JSON,
    )
    delete = fhir.delete(f"/Patient/{own}", params={parameter: "1"})

    assert_outcome(update, 400, "not-supported")
    assert_outcome(delete, 400, "not-supported")
    assert fhir.get(f"/Patient/{own}").json()["meta"]["versionId"] == "1"


def test_writes_take_the_parameters_of_the_answers_form(fhir: httpx.Client) -> None:
    own = str(uuid4())
    form = {"_format": "json", "_pretty": "false"}

    created = fhir.post("/Patient", params=form, content=patient(own), headers=FHIR_JSON)
    updated = fhir.put(f"/Patient/{own}", params=form, content=patient(own), headers=FHIR_JSON)
    deleted = fhir.delete(f"/Patient/{own}", params=form)

    assert [created.status_code, updated.status_code, deleted.status_code] == [201, 201, 204]


def test_search_takes_pretty_and_does_not_mind_it(fhir: httpx.Client) -> None:
    response = fhir.get("/Patient", params={"_pretty": "true", "_count": "1"})

    assert response.status_code == 200, response.text


def test_a_page_larger_than_the_largest_is_the_largest(fhir: httpx.Client) -> None:
    """search.html 3.1.1.5.3: the server may return fewer than asked for."""
    for count in ("1001", "50000", "9" * 40):
        response = fhir.get("/Patient", params={"_count": count})

        assert response.status_code == 200, response.text
        (link,) = (one for one in response.json()["link"] if one["relation"] == "self")
        assert link["url"].endswith("_count=1000")


def test_history_since_shows_what_changed_after(fhir: httpx.Client) -> None:
    """http.html#history: versions created at or after _since."""
    own = str(uuid4())
    for family in ("One", "Two", "Three"):
        fhir.put(f"/Patient/{own}", content=patient(own, family), headers=FHIR_JSON)
    everything = fhir.get(f"/Patient/{own}/_history").json()["entry"]
    second = everything[1]["resource"]["meta"]["lastUpdated"]

    bundle = fhir.get(f"/Patient/{own}/_history", params={"_since": second}).json()
    page = fhir.get(f"/Patient/{own}/_history", params={"_since": second, "_count": "1"}).json()
    (following,) = (link["url"] for link in page["link"] if link["relation"] == "next")
    last = fhir.get(following).json()
    none = fhir.get(f"/Patient/{own}/_history", params={"_since": "2999-01-01T00:00:00Z"})

    assert [e["resource"]["meta"]["versionId"] for e in bundle["entry"]] == ["3", "2"]
    assert bundle["total"] == 2
    assert [e["resource"]["meta"]["versionId"] for e in last["entry"]] == ["2"]
    assert "next" not in [link["relation"] for link in last["link"]]
    assert none.status_code == 200
    assert "entry" not in none.json()


def test_history_since_must_be_an_instant(fhir: httpx.Client, assert_outcome: Outcome) -> None:
    own = str(uuid4())
    fhir.put(f"/Patient/{own}", content=patient(own), headers=FHIR_JSON)

    for value in ("yesterday", "2026-13-01T00:00:00Z", ""):
        response = fhir.get(f"/Patient/{own}/_history", params={"_since": value})
        assert_outcome(response, 400)


def test_a_resource_with_more_values_than_can_be_searched_is_refused(
    fhir: httpx.Client, assert_outcome: Outcome
) -> None:
    codes = [{"system": "urn:x", "code": f"c{number}"} for number in range(30_000)]
    body = json.dumps({"resourceType": "Basic", "code": {"coding": codes}})

    response = fhir.post("/Basic", content=body, headers=FHIR_JSON)

    assert response.status_code == 400  # and not the megabyte, should it fail
    outcome = assert_outcome(response, 400, "too-costly")
    assert "at most" in outcome["issue"][0]["diagnostics"]
