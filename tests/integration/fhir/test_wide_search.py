"""Searches over several types and compartments; what comes along; totals; what was left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
Outcome = Callable[..., dict[str, Any]]


def to(reference: str) -> dict[str, str]:
    return {"reference": reference}


def tagged(type_: str, id_: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": type_, "id": id_, "meta": {"tag": [{"code": "wide"}]}, **more}


EXAM: dict[str, Any] = {"status": "final", "code": {"text": "exam"}}
RECORDS: list[dict[str, Any]] = [
    tagged("Organization", "top", name="Top"),
    tagged("Organization", "mid", name="Mid", partOf=to("Organization/top")),
    tagged("Organization", "low", name="Low", partOf=to("Organization/mid")),
    tagged("Practitioner", "doc", name=[{"family": "Doc"}]),
    tagged(
        "Patient",
        "pat",
        managingOrganization=to("Organization/low"),
        generalPractitioner=[to("Practitioner/doc")],
    ),
    tagged("Patient", "pal", managingOrganization=to("Organization/top")),
    tagged(
        "Encounter",
        "visit",
        status="finished",
        subject=to("Patient/pat"),
        **{"class": {"code": "AMB"}},
    ),
    tagged(
        "Observation",
        "root",
        **EXAM,
        subject=to("Patient/pat"),
        encounter=to("Encounter/visit"),
        performer=[to("Practitioner/doc")],
        hasMember=[to("Observation/leaf")],
    ),
    tagged("Observation", "leaf", **EXAM, subject=to("Patient/pat"),
           derivedFrom=[to("Observation/root")]),
    tagged("Observation", "mentions", **EXAM, subject=to("Patient/pal"), focus=[to("Patient/pat")]),
    tagged("Basic", "note", code={"text": "note"}, subject=to("Patient/pat")),
    tagged("Device", "probe", patient=to("Patient/pat")),
]  # fmt: skip


@pytest.fixture(scope="module")
def wide(fhir: httpx.Client) -> httpx.Client:
    for resource in RECORDS:
        url = f"/{resource['resourceType']}/{resource['id']}"
        answer = fhir.put(url, content=json.dumps(resource), headers=FHIR_JSON)
        assert answer.status_code == 201, answer.text
    return fhir


def found(answer: httpx.Response, mode: str = "match") -> list[str]:
    assert answer.status_code == 200, answer.text
    entries = answer.json().get("entry", [])
    return sorted(e["resource"]["id"] for e in entries if e["search"]["mode"] == mode)


def pages(client: httpx.Client, url: str, params: Any) -> list[list[str]]:
    """The matches of each page as type/id, in their order."""
    page = client.get(url, params=params)
    listed: list[list[str]] = []
    while True:
        assert page.status_code == 200, page.text
        body = page.json()
        listed.append(
            [
                f"{e['resource']['resourceType']}/{e['resource']['id']}"
                for e in body.get("entry", [])
            ]
        )
        link = next((x["url"] for x in body["link"] if x["relation"] == "next"), None)
        if link is None:
            return listed
        page = client.get(link)
        assert len(listed) < 50


WIDE = sorted(f"{one['resourceType']}/{one['id']}" for one in RECORDS)
SORTS = ["", "_id", "-_id", "_lastUpdated", "-_lastUpdated", "_tag", "-_tag", "-_tag,_id"]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("count", [1, 5, 50])
def test_pages_over_all_types_hold_everything_once_in_order(
    wide: httpx.Client, sort: str, count: int
) -> None:
    params = {"_tag": "wide", "_count": count, **({"_sort": sort} if sort else {})}

    listed = [one for page in pages(wide, "", params) for one in page]

    assert sorted(listed) == WIDE
    assert listed == pages(wide, "", {**params, "_count": 100})[0]
    if not sort:
        assert listed == WIDE


SYSTEM = [
    ("_type=Patient&_tag=wide", "pal pat"),
    ("_type=Patient,Device&_tag=wide", "pal pat probe"),
    ("_type=Patient,Device&_type=Device&_tag=wide", "probe"),
    ("_id=pat,root", "pat root"),
    ("_type=Questionnaire", ""),
    ("_type=Observation,Encounter&subject=Patient/pat", "leaf root visit"),
    ("_type=Observation,Encounter&subject:Patient._id=pat", "leaf root visit"),
]


@pytest.mark.parametrize(("query", "expected"), SYSTEM)
def test_types_together_are_found_by_what_they_share(
    wide: httpx.Client, query: str, expected: str
) -> None:
    pairs = dict.fromkeys(query.split("&"))
    form = {}
    for pair in pairs:
        name, value = pair.split("=")
        form.setdefault(name, []).append(value)

    by_get = wide.get(f"?{query}&_total=accurate")

    assert found(by_get) == expected.split()
    assert by_get.json()["total"] == len(expected.split())
    assert found(wide.get(f"/_search?{query}")) == expected.split()
    assert found(wide.post("/_search", data=form)) == expected.split()
    assert found(wide.post(f"/_search?{query}", data={"_count": "50"})) == expected.split()


COMPARTMENTS = [
    ("Patient/pat/Observation", "leaf root"),
    ("Patient/pat/Observation?performer=Practitioner/doc", "root"),
    ("Patient/pat/*", "leaf note pat root visit"),
    ("Patient/pat/*?_type=Encounter,Basic", "note visit"),
    ("Patient/pal/*", "mentions pal"),
    ("Encounter/visit/Observation", "root"),
    ("Encounter/visit/*", "root visit"),
    ("Practitioner/doc/*?_tag=wide", "doc pat root"),
    ("Device/probe/*", "probe"),
    ("RelatedPerson/nobody/*", ""),
    ("Patient/nobody/*", ""),
    ("Patient/nobody/Observation", ""),
]


@pytest.mark.parametrize(("url", "expected"), COMPARTMENTS)
def test_compartments_hold_what_the_definitions_say(
    wide: httpx.Client, url: str, expected: str
) -> None:
    """security.md D7: Observation.focus confers no membership."""
    assert found(wide.get(f"/{url}")) == expected.split()


def test_a_compartment_is_searched_by_post_as_well(wide: httpx.Client) -> None:
    posted = wide.post("/Patient/pat/Observation/_search", data={"performer": "Practitioner/doc"})

    assert found(posted) == ["root"]
    assert posted.json()["link"][0]["url"].endswith(
        "/Patient/pat/Observation?performer=Practitioner/doc"
    )


INCLUDES = [
    # Only from the matches, unless asked again and again.
    ("Patient?_id=pat&_include=Patient:organization", "low"),
    ("Patient?_id=pat&_include=Patient:organization&_include=Organization:partof", None),
    ("Patient?_id=pat&_include=Patient:organization&_include:iterate=Organization:partof",
     "low mid top"),
    ("Patient?_id=pat&_include=*", "doc low"),
    ("Patient?_id=pat&_include=Patient:*", "doc low"),
    ("Patient?_id=pat&_include:iterate=*", "doc low mid top"),
    ("Observation?_id=root&_include:iterate=Observation:has-member"
     "&_include:iterate=Observation:derived-from", "leaf"),
    ("Observation?_id=root&_include=*", "doc leaf pat visit"),
    ("Patient?_id=pat&_revinclude=Observation:subject", "leaf root"),
    ("Patient?_id=pat&_revinclude=Observation:*", "leaf mentions root"),
    ("Patient?_id=pat&_revinclude=*", "leaf mentions note probe root visit"),
    ("Organization?_id=top&_revinclude:iterate=Organization:partof", "low mid"),
    ("Organization?_id=top&_revinclude:iterate=Organization:partof"
     "&_revinclude:iterate=Patient:organization&_revinclude:iterate=Encounter:patient",
     "low mid pal pat visit"),
    ("?_type=Observation&_id=root&_include=Observation:subject", "pat"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "expected"), INCLUDES)
def test_what_comes_along(wide: httpx.Client, query: str, expected: str | None) -> None:
    answer = wide.get(f"/{query}" if not query.startswith("?") else query)

    if expected is None:
        assert answer.status_code == 400  # the Organizations are not what is searched for
    else:
        assert found(answer, "include") == expected.split()


def test_totals_are_none_an_estimate_or_the_number(wide: httpx.Client) -> None:
    for query, expected in (
        ("_tag=wide", 3),
        ("_tag=wide&subject:Patient.organization.name=top", 1),
        ("_tag=wide&_id=nobody", 0),
    ):
        for total in ("estimate", "accurate"):
            # An estimate of few is counted, and so it is exact.
            page = wide.get(f"/Observation?{query}&_total={total}&_count=1").json()
            assert page["total"] == expected
            assert wide.get(f"/Observation?{query}&_total={total}&_count=0").json() == {
                "resourceType": "Bundle",
                "type": "searchset",
                "total": expected,
                "link": [
                    {
                        "relation": "self",
                        "url": f"{wide.base_url}Observation?{query}&_total={total}&_count=0",
                    }
                ],
            }
        assert "total" not in wide.get(f"/Observation?{query}&_total=none").json()


def test_what_was_left_out_is_said_and_not_echoed(wide: httpx.Client) -> None:
    lenient = {"Prefer": "handling=lenient"}

    page = wide.get("/Patient?_id=pat&nonsense=1&name:nonsense=x", headers=lenient)

    outcome = page.json()["entry"][-1]
    assert outcome["search"] == {"mode": "outcome"}
    assert "fullUrl" not in outcome
    assert [issue["severity"] for issue in outcome["resource"]["issue"]] == ["warning"] * 2
    said = " ".join(issue["diagnostics"] for issue in outcome["resource"]["issue"])
    assert "'nonsense'" in said and "'name:nonsense'" in said
    assert found(page) == ["pat"]
    assert page.json()["link"][0]["url"] == f"{wide.base_url}Patient?_id=pat"


REFUSED = [
    ("?_type=Nonsense", 400, "invalid"),
    ("?_type=Patient&_type=Device", 400, "invalid"),
    ("?_type=AuditEvent", 400, "not-supported"),
    ("?_type=Patient,Device&gender=male", 400, "not-supported"),
    ("?_type=Patient&_sort=nonsense", 400, "not-supported"),
    ("?_type=Patient&_include=Observation:subject", 400, "invalid"),
    ("/Patient?_type=Patient", 400, "not-supported"),
    ("/Patient/pat/Organization", 400, "invalid"),
    ("/Patient/pat/AuditEvent", 400, "not-supported"),
    ("/Organization/top/Patient", 404, "not-found"),
    ("/Organization/top/*", 404, "not-found"),
    ("/Patient/pat/Nonsense", 404, "not-found"),
    ("/Patient?_include:nonsense=Patient:organization", 400, "invalid"),
    ("/Patient?_include=Patient:*:Organization", 400, "invalid"),
    ("/Patient?_include=AuditEvent:*", 400, "not-supported"),
    ("/Patient?_revinclude=AuditEvent:entity", 400, "not-supported"),
]


@pytest.mark.parametrize(("url", "status", "code"), REFUSED)
def test_what_cannot_be_asked_is_refused(
    wide: httpx.Client, assert_outcome: Outcome, url: str, status: int, code: str
) -> None:
    assert_outcome(wide.get(url), status, code)


def test_a_cursor_of_a_search_over_types_is_of_no_other(
    wide: httpx.Client, assert_outcome: Outcome
) -> None:
    page = wide.get("?_type=Patient,Device&_tag=wide&_count=1").json()
    cursor = next(x["url"] for x in page["link"] if x["relation"] == "next").split("_cursor=")[1]

    assert_outcome(wide.get(f"/Patient?_cursor={cursor}"), 400, "invalid")


def test_d3_another_tenant_sees_nothing_of_it(wide: httpx.Client, other_fhir: httpx.Client) -> None:
    for url in (
        "?_tag=wide",
        "?_id=pat",
        "/Patient/pat/*",
        "/Patient/pat/Observation",
        "/Observation?patient.organization.name=low",
        "/Patient?_has:Observation:patient:status=final&_tag=wide",
    ):
        page = other_fhir.get(url, params={"_total": "accurate"} if "?" not in url else None)
        assert found(page) == []


def test_only_what_the_token_permits_is_searched(
    wide: httpx.Client, client_for: Callable[..., httpx.Client], tenant: Tenant,
    assert_outcome: Outcome,
) -> None:  # fmt: skip
    narrow = client_for(tenant, "system/Patient.rs system/Basic.rs")

    assert found(narrow.get("?_tag=wide")) == ["note", "pal", "pat"]
    assert found(narrow.get("/Patient/pat/*")) == ["note", "pat"]
    assert found(narrow.get("/Patient?_id=pat&_include=*&_revinclude=*"), "include") == ["note"]
    assert_outcome(narrow.get("?_type=Patient,Observation"), 403, "forbidden")
    assert_outcome(narrow.get("/Patient/pat/Observation"), 403, "forbidden")
    writer = client_for(tenant, "system/*.c")
    assert_outcome(writer.get("?_tag=wide"), 403, "forbidden")
