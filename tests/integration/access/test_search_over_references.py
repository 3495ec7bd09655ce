"""Nobody learns by a chain, an include or a compartment of what they may not see.

security.md D2, D3, D7: each resource on the way of a search is one that the caller may see. What
leads over a hidden one is answered like what leads nowhere, in matches, totals and pages alike.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest

from interop.access.scopes import InvalidScope
from storage import search_pages
from storage.tenancy import Tenant
from tests.integration.access.conftest import Door, found, put

ANNA, BRUNO = {"reference": "Patient/anna"}, {"reference": "Patient/bruno"}
CODE = {"coding": [{"system": "urn:codes", "code": "caries"}]}
LABORATORY = {"coding": [{"system": "urn:categories", "code": "laboratory"}]}


def observation(id_: str, subject: dict[str, str], **more: Any) -> dict[str, Any]:
    own = {"resourceType": "Observation", "id": id_, "status": "final", "code": CODE}
    return {**own, "subject": subject, **more}


RECORDS: list[dict[str, Any]] = [
    {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Who"}]},
    {
        "resourceType": "Patient",
        "id": "anna",
        "name": [{"family": "Anna"}],
        "generalPractitioner": [{"reference": "Practitioner/dr"}],
    },
    {
        "resourceType": "Patient",
        "id": "bruno",
        "name": [{"family": "Bruno"}],
        "gender": "male",
        "generalPractitioner": [{"reference": "Practitioner/dr"}],
        "identifier": [{"system": "urn:mrn", "value": "b-1"}],
    },
    observation("a1", ANNA, category=[LABORATORY]),
    observation("b1", BRUNO, category=[LABORATORY], valueString="secret"),
    # Anna's own, which refer to what is Bruno's.
    observation("a-of-b", ANNA, derivedFrom=[{"reference": "Observation/b1"}]),
    observation("a-focus-b", ANNA, focus=[BRUNO]),
    # Bruno's, which refers to Anna's.
    observation("b-of-a", BRUNO, derivedFrom=[{"reference": "Observation/a1"}], status="amended"),
    {
        "resourceType": "List", "id": "b-list", "status": "current", "mode": "working",
        "subject": BRUNO, "entry": [{"item": {"reference": "Observation/a1"}}],
    },
    {
        "resourceType": "List", "id": "a-list", "status": "current", "mode": "working",
        "subject": ANNA, "entry": [
            {"item": {"reference": "Observation/a1"}}, {"item": {"reference": "Observation/b1"}},
        ],
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def system(door: Door, tenant: Tenant) -> httpx.Client:
    client = door.system(tenant)
    for resource in RECORDS:
        put(client, resource)
    return client


@pytest.fixture(scope="module")
def anna(door: Door, tenant: Tenant, system: httpx.Client) -> UUID:
    return door.row_id(tenant, "Patient", "anna")


@pytest.fixture(scope="module")
def app(door: Door, tenant: Tenant, anna: UUID) -> httpx.Client:
    """An app that Anna launched."""
    return door.caller(tenant, "patient/*.rs", patient=anna)


def ids(client: httpx.Client, query: str, mode: str = "match") -> list[str]:
    """Whom a search finds, by each of the ways to be told: matches, total, sorted, paged."""
    sign = "&" if "?" in query else "?"
    answer = client.get(f"{query}{sign}_total=accurate&_count=50")
    assert answer.status_code == 200, answer.text
    listed = sorted(name.split("/")[1] for name in found(answer, mode))
    if mode == "match":
        assert answer.json()["total"] == len(listed)
        counted = client.get(f"{query}{sign}_summary=count").json()
        assert counted["total"] == len(listed)
        for sort in ("-_lastUpdated", "_tag", "-_tag,_id"):
            one = client.get(f"{query}{sign}_sort={sort}&_count=50")
            assert sorted(name.split("/")[1] for name in found(one)) == listed
        page = client.get(f"{query}{sign}_count=1")
        assert len(found(page)) == min(1, len(listed))
        has_next = any(link["relation"] == "next" for link in page.json()["link"])
        assert has_next == (len(listed) > 1)
    return listed


# What leads over Bruno's record; what the system finds by it, and what Anna's app does.
WAYS = [
    ("/Observation?derived-from:Observation.subject:Patient.name=bruno", "a-of-b", ""),
    ("/Observation?derived-from:Observation.status=final", "a-of-b b-of-a", ""),
    ("/Observation?derived-from:Observation.status:not=entered-in-error", "a-of-b b-of-a", ""),
    ("/Observation?derived-from:Observation._id=b1", "a-of-b", ""),
    ("/Observation?focus:Patient.gender=male", "a-focus-b", ""),
    ("/Observation?focus:Patient.gender:missing=false", "a-focus-b", ""),
    ("/Observation?focus:Patient.identifier=urn:mrn|b-1", "a-focus-b", ""),
    ("/Observation?patient.name=bruno", "b-of-a b1", ""),
    ("/Observation?patient.name=anna", "a-focus-b a-of-b a1", "a-focus-b a-of-b a1"),
    ("/Observation?patient.general-practitioner:Practitioner.name=who",
     "a-focus-b a-of-b a1 b-of-a b1", "a-focus-b a-of-b a1"),
    ("/Observation?_has:Observation:derived-from:status=amended", "a1", ""),
    ("/Observation?_has:Observation:derived-from:status:not=final", "a1", ""),
    ("/Observation?_has:Observation:derived-from:subject:Patient.name=bruno", "a1", ""),
    ("/Observation?_has:List:item:_id=b-list", "a1", ""),
    ("/Practitioner?_has:Patient:general-practitioner:name=bruno", "dr", ""),
    ("/Practitioner?_has:Patient:general-practitioner:name=anna", "dr", "dr"),
    ("/Practitioner?_has:Patient:general-practitioner:_has:Observation:patient:status=amended",
     "dr", ""),
    ("/Practitioner?_has:Patient:general-practitioner:_has:List:patient:_id=b-list", "dr", ""),
    ("/Observation?_list=b-list", "a1", ""),
    ("/Observation?_list=a-list", "a1 b1", "a1"),
    ("/Observation?_filter=derived-from:Observation.status eq final", "a-of-b b-of-a", ""),
    ("/Observation?_filter=not (derived-from:Observation.status eq final)",
     "a-focus-b a1 b1", "a-focus-b a-of-b a1"),
    ("/Observation?_filter=derived-from:Observation.status eq final or category eq laboratory",
     "a-of-b a1 b-of-a b1", "a1"),
    ("/Observation?_filter=focus:Patient[gender eq male].name eq bruno", "a-focus-b", ""),
    ("?_type=Observation,List&subject:Patient.name=bruno", "b-list b-of-a b1", ""),
    ("?_type=Observation,List&patient=Patient/bruno", "b-list b-of-a b1", ""),
    ("/Patient/bruno/Observation", "b-of-a b1", ""),
    ("/Patient/bruno/*?_type=Observation,List,Patient", "b-list b-of-a b1 bruno", ""),
    ("/Patient/anna/Observation", "a-focus-b a-of-b a1", "a-focus-b a-of-b a1"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "all_of_it", "own"), WAYS, ids=[way[0][:70] for way in WAYS])
def test_d2_no_way_leads_over_what_is_hidden(
    system: httpx.Client,
    app: httpx.Client,
    query: str,
    all_of_it: str,
    own: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ids(system, query) == all_of_it.split()
    assert ids(app, query) == own.split()
    # And where references lead to many, by the statement that walks along the order.
    monkeypatch.setattr(search_pages, "LINKED", -1)
    for client, expected in ((system, all_of_it), (app, own)):
        listed = found(client.get(query))
        assert sorted(name.split("/")[1] for name in listed) == expected.split()


@pytest.mark.parametrize(
    ("query", "all_of_it", "own"),
    [
        ("/Observation?_id=a-of-b&_include=*", "anna b1", "anna"),
        ("/Observation?_id=a-of-b&_include:iterate=*", "anna b1 bruno dr", "anna dr"),
        ("/Observation?_id=a-of-b&_include=Observation:derived-from"
         "&_include:iterate=Observation:patient", "anna b1 bruno", "anna"),
        ("/Observation?_id=a1&_revinclude=*", "a-list b-list b-of-a", "a-list"),
        ("/Observation?_id=a1&_revinclude:iterate=*&_include:iterate=Observation:subject",
         "a-focus-b a-list a-of-b anna b-list b-of-a b1 bruno", "a-focus-b a-list a-of-b anna"),
        ("/Practitioner?_id=dr&_revinclude=Patient:general-practitioner"
         "&_revinclude:iterate=Observation:patient",
         "a-focus-b a-of-b a1 anna b-of-a b1 bruno", "a-focus-b a-of-b a1 anna"),
    ],
)  # fmt: skip
def test_d2_nothing_comes_along_over_what_is_hidden(
    system: httpx.Client, app: httpx.Client, query: str, all_of_it: str, own: str
) -> None:
    everything = set(ids(system, query, "include"))
    assert everything >= set(all_of_it.split()) - {"a1"}
    assert ids(app, query, "include") == own.split()


def test_constraints_of_a_scope_hold_at_every_hop(door: Door, tenant: Tenant) -> None:
    narrow = door.caller(
        tenant, "system/Observation.rs?category=urn:categories|laboratory system/Practitioner.rs"
    )

    # Of observations only those of the laboratory, and no patients at all.
    assert ids(narrow, "/Observation?derived-from:Observation.status=final") == []
    assert ids(narrow, "/Observation?_has:Observation:derived-from:status=amended") == []
    assert ids(narrow, "/Observation?patient.name=anna") == []
    assert ids(narrow, "/Observation?patient=Patient/anna") == ["a1"]
    practitioners = "/Practitioner?_has:Patient:general-practitioner:name=anna"
    assert ids(narrow, practitioners) == []
    assert ids(narrow, "/Patient/anna/Observation") == ["a1"]
    assert ids(narrow, "?_type=Observation&status=final") == ["a1", "b1"]


def test_a_scope_is_never_constrained_over_references(door: Door, tenant: Tenant) -> None:
    for constraint in ("patient.name=anna", "_has:List:item:_id=a-list"):
        with pytest.raises(InvalidScope):
            door.caller(tenant, f"system/Observation.rs?{constraint}")
    assert ids(door.caller(tenant, "system/Observation.rs?_list=a-list"), "/Observation") == []


def test_d3_another_tenants_searches_lead_nowhere(
    door: Door, other_tenant: Tenant, system: httpx.Client
) -> None:
    other = door.system(other_tenant)

    for query, _, _ in WAYS:
        page = other.get(query)
        assert found(page) == set()
