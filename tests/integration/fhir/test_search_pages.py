"""Order, pages, totals and included resources (FHIR R4 search.html 3.1.1.5)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from interop.fhir import json
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
Outcome = Callable[..., dict[str, Any]]


def post(fhir: httpx.Client, resource: dict[str, Any]) -> str:
    response = fhir.post(
        f"/{resource['resourceType']}", content=json.dumps(resource), headers=FHIR_JSON
    )
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def pages(fhir: httpx.Client, url: str, params: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The entries of each page, by following next links."""
    page = fhir.get(url, params=params).raise_for_status().json()
    found = [page.get("entry", [])]
    while link := next((one["url"] for one in page["link"] if one["relation"] == "next"), None):
        page = fhir.get(link).raise_for_status().json()
        found.append(page.get("entry", []))
        assert len(found) < 100
    return found


def ids(entries: list[dict[str, Any]], mode: str = "match") -> list[str]:
    return [e["resource"]["id"] for e in entries if e["search"]["mode"] == mode]


@pytest.fixture(scope="module")
def shelf(fhir: httpx.Client) -> dict[str, dict[str, Any]]:
    """Patients of one tag, some without the elements that tests sort by."""
    chance = random.Random(7)
    found: dict[str, dict[str, Any]] = {}
    for number in range(23):
        resource: dict[str, Any] = {
            "resourceType": "Patient",
            "meta": {"tag": [{"system": "urn:test", "code": "shelf"}]},
            "gender": chance.choice(["male", "female"]),
        }
        if number % 5:
            resource["name"] = [{"family": chance.choice(["Abel", "Berg", "Cruz"])}]
        if number % 4:
            resource["birthDate"] = chance.choice(["1970", "1970-06-15", "1980-01-01"])
        found[post(fhir, resource)] = resource
    return found


SORTS = ["_id", "-_id", "_lastUpdated", "-_lastUpdated", "family", "-family", "birthdate",
         "-birthdate", "family,-birthdate", "-gender,family,-_id"]  # fmt: skip


@pytest.mark.parametrize("sort", ["", *SORTS])
@pytest.mark.parametrize("count", [1, 5, 23, 24])
def test_pages_hold_everything_once_in_order(
    fhir: httpx.Client, shelf: dict[str, Any], sort: str, count: int
) -> None:
    params = {"_tag": "urn:test|shelf", "_count": count, **({"_sort": sort} if sort else {})}

    found = [id_ for page in pages(fhir, "/Patient", params) for id_ in ids(page)]
    whole = ids(pages(fhir, "/Patient", {**params, "_count": 100})[0])

    assert sorted(found) == sorted(shelf)
    assert found == whole


def key(resource: dict[str, Any], name: str) -> str | None:
    if name == "family":
        return resource["name"][0]["family"].lower() if "name" in resource else None
    return resource.get({"birthdate": "birthDate", "gender": "gender"}[name])


@pytest.mark.parametrize("name", ["family", "birthdate", "gender"])
@pytest.mark.parametrize("descending", [False, True])
def test_order_is_by_value_with_missing_last(
    fhir: httpx.Client, shelf: dict[str, Any], name: str, descending: bool
) -> None:
    sort = f"-{name}" if descending else name

    entries = pages(fhir, "/Patient", {"_tag": "shelf", "_sort": sort, "_count": 100})[0]

    values = [key(shelf[id_], name) for id_ in ids(entries)]
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
    # By the interval's end when descending: a whole year ends after its days.
    rank = {"1970": "1970-99"} if descending else {}
    order = [rank.get(value, value) for value in known]
    assert order == sorted(order, reverse=descending)


def test_a_page_does_not_shift_when_resources_are_added(
    fhir: httpx.Client, shelf: dict[str, Any]
) -> None:
    first = fhir.get("/Patient", params={"_tag": "shelf", "_count": 10}).json()
    for _ in range(5):
        post(fhir, {"resourceType": "Patient", "meta": {"tag": [{"code": "late"}]}})
    link = next(one["url"] for one in first["link"] if one["relation"] == "next")

    second = fhir.get(link).json()

    assert not set(ids(first["entry"])) & set(ids(second["entry"]))


def test_totals_only_when_asked(fhir: httpx.Client, shelf: dict[str, Any]) -> None:
    params = {"_tag": "shelf", "_count": "2"}

    assert "total" not in fhir.get("/Patient", params=params).json()
    accurate = fhir.get("/Patient", params={**params, "_total": "accurate"}).json()
    assert accurate["total"] == len(shelf)
    assert len(accurate["entry"]) == 2
    for counting in ({"_summary": "count"}, {"_count": "0"}):
        counted = fhir.get("/Patient", params={"_tag": "shelf", **counting}).json()
        assert counted["total"] == len(shelf)
        assert "entry" not in counted


def test_self_link_says_what_was_searched(fhir: httpx.Client) -> None:
    page = fhir.get("/Patient", params={"name": "a,b", "gender": "male"}).json()

    link = {one["relation"]: one["url"] for one in page["link"]}
    assert link["self"] == f"{fhir.base_url}Patient?name=a,b&gender=male"


def test_unknown_parameters_are_refused_unless_lenient(
    fhir: httpx.Client, assert_outcome: Outcome
) -> None:
    params = {"gender": "male", "nonsense": "1"}

    outcome = assert_outcome(fhir.get("/Patient", params=params), 400, "not-supported")
    assert "birthdate" in outcome["issue"][0]["diagnostics"]
    lenient = fhir.get("/Patient", params=params, headers={"Prefer": "handling=lenient"})
    assert lenient.status_code == 200
    assert "nonsense" not in lenient.json()["link"][0]["url"]


def test_search_by_post_is_search_by_get(fhir: httpx.Client, shelf: dict[str, Any]) -> None:
    form = fhir.post("/Patient/_search", data={"_tag": "shelf", "_count": "100"})
    mixed = fhir.post("/Patient/_search?_tag=shelf", data={"_count": "100"})

    assert sorted(ids(form.json()["entry"])) == sorted(shelf)
    assert ids(mixed.json()["entry"]) == ids(form.json()["entry"])


@pytest.fixture(scope="module")
def chart(fhir: httpx.Client) -> dict[str, str]:
    """A practitioner, two patients who name them, and observations of the first patient."""
    dentist = post(fhir, {"resourceType": "Practitioner", "name": [{"family": "Chart"}]})
    first, second = (
        post(
            fhir,
            {
                "resourceType": "Patient",
                "meta": {"tag": [{"code": "chart"}]},
                "generalPractitioner": [{"reference": f"Practitioner/{dentist}"}],
            },
        )
        for _ in range(2)
    )
    for _ in range(3):
        post(
            fhir,
            {
                "resourceType": "Observation",
                "meta": {"tag": [{"code": "chart"}]},
                "status": "final",
                "code": {"text": "x"},
                "subject": {"reference": f"Patient/{first}"},
                "performer": [{"reference": f"Practitioner/{dentist}"}],
            },
        )
    return {"dentist": dentist, "first": first, "second": second}


def test_include_brings_each_target_once(fhir: httpx.Client, chart: dict[str, str]) -> None:
    params = {"_tag": "chart", "_include": ["Observation:subject", "Observation:performer"]}

    page = pages(fhir, "/Observation", params)[0]

    assert len(ids(page)) == 3
    assert sorted(ids(page, "include")) == sorted([chart["first"], chart["dentist"]])


def test_include_of_one_target_type_only(fhir: httpx.Client, chart: dict[str, str]) -> None:
    params = {"_tag": "chart", "_include": "Observation:performer:Organization"}

    assert ids(pages(fhir, "/Observation", params)[0], "include") == []


def test_revinclude_brings_what_refers_to_the_page(
    fhir: httpx.Client, chart: dict[str, str]
) -> None:
    params = {"_id": chart["first"], "_revinclude": "Observation:subject"}

    page = pages(fhir, "/Patient", params)[0]

    assert ids(page) == [chart["first"]]
    assert len(ids(page, "include")) == 3


def test_includes_follow_the_page_and_not_the_whole_result(
    fhir: httpx.Client, chart: dict[str, str]
) -> None:
    params = {"_tag": "chart", "_revinclude": "Observation:subject", "_count": 1}

    found = pages(fhir, "/Patient", params)

    assert [len(ids(page)) for page in found] == [1, 1]
    included = {ids(page)[0]: len(ids(page, "include")) for page in found}
    assert included == {chart["first"]: 3, chart["second"]: 0}


def test_deleted_targets_are_not_included(fhir: httpx.Client) -> None:
    basic = post(fhir, {"resourceType": "Basic", "code": {"text": "x"}})
    target = post(fhir, {"resourceType": "Questionnaire", "status": "draft"})
    listed = {"item": {"reference": f"Questionnaire/{target}"}}
    body = {"resourceType": "List", "status": "current", "mode": "working", "entry": [listed]}
    own = post(fhir, body)
    params = {"_id": own, "_include": "List:item"}
    assert ids(pages(fhir, "/List", params)[0], "include") == [target]

    fhir.delete(f"/Questionnaire/{target}").raise_for_status()

    assert ids(pages(fhir, "/List", params)[0], "include") == []
    assert basic


def test_includes_need_a_scope_of_their_own(
    fhir: httpx.Client,
    client_for: Callable[..., httpx.Client],
    tenant: Tenant,
    chart: dict[str, str],
) -> None:
    """security.md D2."""
    narrow = client_for(tenant, "system/Observation.rs system/Practitioner.r")
    params = {"_tag": "chart", "_include": ["Observation:subject", "Observation:performer"]}

    page = pages(narrow, "/Observation", params)[0]

    assert ids(page, "include") == [chart["dentist"]]
    back = client_for(tenant, "system/Patient.rs")
    found = pages(back, "/Patient", {"_id": chart["first"], "_revinclude": "Observation:subject"})
    assert ids(found[0], "include") == []


REFUSED = [
    ("_count=-1", "invalid"),
    ("_count=abc", "invalid"),
    ("_count=5&_count=6", "invalid"),
    ("_sort=nonsense", "not-supported"),
    ("_sort=name,family,given,gender,active", "too-costly"),
    ("_total=maybe", "invalid"),
    ("_summary=yes", "invalid"),
    ("_include=Observation:subject", "invalid"),
    ("_include=Patient:birthdate", "invalid"),
    ("_include=Patient:nonsense", "not-supported"),
    ("_revinclude=Observation:subject:Group", "invalid"),
    ("_cursor=abc", "invalid"),
    ("_cursor=W10", "invalid"),
    ("birthdate=yesterday", "invalid"),
    ("birthdate=2021-02-30", "invalid"),
    ("birthdate=xx2021", "invalid"),
    ("gender=", "invalid"),
    ("gender=male,,female", "invalid"),
    ("gender:exact=male", "not-supported"),
    ("name:not=x", "not-supported"),
    ("name:missing=maybe", "invalid"),
    ("identifier=a|b|c", "invalid"),
    ("identifier=|", "invalid"),
    ("organization=a b", "invalid"),
    ("organization:Practitioner=1", "invalid"),
    ("_id=" + ",".join(["x"] * 501), "too-costly"),
    ("name=" + "x" * 300, "invalid"),
]


@pytest.mark.parametrize(("query", "code"), REFUSED, ids=[q[:40] for q, _ in REFUSED])
def test_what_cannot_be_answered_is_refused(
    fhir: httpx.Client, assert_outcome: Outcome, query: str, code: str
) -> None:
    assert_outcome(fhir.get(f"/Patient?{query}"), 400, code)


def test_a_cursor_of_another_order_is_refused(
    fhir: httpx.Client, shelf: dict[str, Any], assert_outcome: Outcome
) -> None:
    page = fhir.get("/Patient", params={"_sort": "family", "_count": 2}).json()
    link = next(one["url"] for one in page["link"] if one["relation"] == "next")

    assert_outcome(fhir.get(link.replace("_sort=family&", "")), 400)
