"""Searches over references: chains, _has, lists, and _filter (FHIR R4 search.html 3.1.1.4.14)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from interop.access import Caller, Scopes, decide
from interop.errors import BadRequest
from interop.fhir.search.criteria import matching_ids
from storage import search_pages
from storage.database import Database
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
Outcome = Callable[..., dict[str, Any]]


def coded(code: str, system: str = "urn:codes") -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def to(reference: str) -> dict[str, str]:
    return {"reference": reference}


def observation(id_: str, subject: str, code: str, value: int, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": coded(code),
        "subject": to(subject),
        "valueQuantity": {
            "value": value, "unit": "mm", "system": "http://unitsofmeasure.org", "code": "mm",
        },
        **more,
    }  # fmt: skip


def allergy(
    id_: str, patient: str, clinical: str, verification: str, category: str
) -> dict[str, Any]:
    system = "http://terminology.hl7.org/CodeSystem/allergyintolerance-"
    return {
        "resourceType": "AllergyIntolerance",
        "id": id_,
        "patient": to(f"Patient/{patient}"),
        "clinicalStatus": coded(clinical, f"{system}clinical"),
        "verificationStatus": coded(verification, f"{system}verification"),
        "category": [category],
    }


# Clinics, each part of the one before.
DEPTH = 9
CLINICS = [
    {
        "resourceType": "Organization",
        "id": f"c{number}",
        "name": f"Clinic {number}",
        **({"partOf": to(f"Organization/c{number - 1}")} if number else {}),
    }
    for number in range(DEPTH)
]
RECORDS: list[dict[str, Any]] = [
    *CLINICS,
    {
        "resourceType": "Practitioner",
        "id": "dr",
        "name": [{"family": "Gum"}],
        "identifier": [{"system": "urn:npi", "value": "7"}],
    },
    {
        "resourceType": "Patient",
        "id": "ann",
        "name": [{"family": "Root", "given": ["Ann"]}],
        "gender": "female",
        "birthDate": "1980-05-01",
        "managingOrganization": to(f"Organization/c{DEPTH - 1}"),
        "generalPractitioner": [to("Practitioner/dr")],
    },
    {
        "resourceType": "Patient",
        "id": "ben",
        "name": [{"family": "Crown", "given": ["Ben"]}],
        "gender": "male",
        "birthDate": "1950",
        "managingOrganization": to("Organization/c0"),
    },
    {"resourceType": "Patient", "id": "eve", "name": [{"family": "Rooter"}]},
    {"resourceType": "Device", "id": "ann-implant", "patient": to("Patient/ann"),
     "deviceName": [{"name": "Root screw", "type": "user-friendly-name"}]},
    {"resourceType": "Location", "id": "here", "name": "Rootville", "status": "active"},
    observation("a1", "Patient/ann", "depth", 5, performer=[to("Practitioner/dr")]),
    observation("a2", "Patient/ann", "bleeding", 1),
    observation("b1", "Patient/ben", "depth", 3, effectiveDateTime="2020-03-10"),
    observation("d1", "Device/ann-implant", "depth", 4),
    observation("l1", "Location/here", "depth", 2, effectivePeriod={"start": "2020-03-01"}),
    observation("nobodys", "Patient/never", "depth", 9),
    {
        "resourceType": "Provenance",
        "id": "p1",
        "target": [to("Observation/a1")],
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"who": to("Practitioner/dr")}],
    },
    {
        "resourceType": "List",
        "id": "wanted",
        "status": "current",
        "mode": "working",
        "entry": [
            {"item": to(entry)}
            for entry in ("Observation/a1", "Observation/b1", "AllergyIntolerance/latex")
        ],
    },
    allergy("nuts", "ann", "active", "confirmed", "medication"),
    allergy("dust", "ben", "active", "unconfirmed", "environment"),
    allergy("latex", "ann", "resolved", "confirmed", "medication"),
    allergy("never", "ann", "active", "refuted", "medication"),
    {"resourceType": "Group", "id": "pair", "type": "person", "actual": True,
     "member": [{"entity": to(f"Patient/{id_}")} for id_ in ("ann", "eve")]},
    {
        "resourceType": "Questionnaire", "id": "q", "status": "active", "url": "urn:q",
        "title": "Habits",
        "version": "2",
    },
    {"resourceType": "QuestionnaireResponse", "id": "qr", "status": "completed",
     "questionnaire": "urn:q|2", "subject": to("Patient/ann")},
    {"resourceType": "QuestionnaireResponse", "id": "qr-old", "status": "completed",
     "questionnaire": "urn:q|1"},
    {"resourceType": "QuestionnaireResponse", "id": "qr-any", "status": "completed",
     "questionnaire": "urn:q"},
]  # fmt: skip


@pytest.fixture(scope="module")
def linked(fhir: httpx.Client) -> httpx.Client:
    for resource in RECORDS:
        url = f"/{resource['resourceType']}/{resource['id']}"
        answer = fhir.put(url, content=json.dumps(resource), headers=FHIR_JSON)
        assert answer.status_code == 201, answer.text
    return fhir


def found(answer: httpx.Response, mode: str = "match") -> list[str]:
    assert answer.status_code == 200, answer.text
    entries = answer.json().get("entry", [])
    return sorted(e["resource"]["id"] for e in entries if e["search"]["mode"] == mode)


PARTS = ".".join(["partof"] * 5)

CASES = [
    # Chains, with and without the type; of several targets any may meet the rest.
    ("Observation?subject:Patient.name=root", "a1 a2"),
    ("Observation?patient.name=root", "a1 a2"),
    ("Observation?subject.name=root", "a1 a2 l1"),
    ("Observation?subject:Location.name=root", "l1"),
    ("Observation?subject.gender=female,male", "a1 a2 b1"),
    ("Observation?subject:Patient.gender:not=female", "b1"),
    ("Observation?subject:Patient.birthdate=lt1970", "b1"),
    ("Observation?subject:Patient._id=ann,ben", "a1 a2 b1"),
    ("Observation?subject:Patient.organization:missing=true", ""),
    ("Observation?subject:Patient.organization=Organization/c0", "b1"),
    ("Observation?subject:Device.patient.name=root", "d1"),
    ("Observation?patient.organization.name=Clinic 0", "b1"),
    ("Observation?patient.name=root&code=depth", "a1"),
    ("Observation?patient.name=root,crown&performer.identifier=urn:npi|7", "a1"),
    ("Patient?general-practitioner:Practitioner.name:exact=Gum", "ann"),
    (f"Patient?organization.{PARTS}.name=clinic 3", "ann"),
    (f"Patient?organization.{PARTS}.partof.name=clinic 2", "ann"),
    (f"Patient?organization.{PARTS}.name=clinic 4", ""),
    # By canonical URL, in the version that is named.
    ("QuestionnaireResponse?questionnaire.title=habits", "qr qr-any"),
    ("QuestionnaireResponse?questionnaire:Questionnaire.title=habits&subject=Patient/ann", "qr"),
    # _has, nested, and mixed with chains.
    ("Patient?_has:Observation:patient:code=depth", "ann ben"),
    ("Patient?_has:Observation:patient:code=bleeding", "ann"),
    ("Patient?_has:Observation:subject:value-quantity=gt4", "ann"),
    ("Patient?_has:Observation:patient:_has:Provenance:target:agent=Practitioner/dr", "ann"),
    ("Patient?_has:Observation:patient:performer:Practitioner.name=gum", "ann"),
    ("Patient?_has:Group:member:_id=pair", "ann eve"),
    ("Patient?_has:Group:member:_id=pair&_has:Observation:patient:code=depth", "ann"),
    ("Organization?_has:Patient:organization:_has:Observation:patient:code=bleeding", "c8"),
    ("Observation?patient._has:Group:member:_id=pair", "a1 a2"),
    ("Observation?subject:Patient._has:Group:member:type=person", "a1 a2"),
    # References of one type.
    ("Observation?subject:Patient=ann", "a1 a2"),
    ("Observation?subject:Device=ann", ""),
    # Lists.
    ("Observation?_list=wanted", "a1 b1"),
    ("Observation?_list=wanted&patient.name=crown", "b1"),
    ("Observation?_list=never", ""),
    ("Patient?_list=wanted", ""),
    ("AllergyIntolerance?_list=$current-allergies", "dust nuts"),
    ("AllergyIntolerance?_list=$current-drug-allergies", "nuts"),
    ("AllergyIntolerance?_list=$current-drug-allergies,wanted", "latex nuts"),
    ("AllergyIntolerance?_list=$current-allergies&patient.name=root", "nuts"),
    ("Patient?_has:AllergyIntolerance:patient:_list=$current-drug-allergies", "ann"),
    ("Condition?_list=$current-problems", ""),
    ("MedicationStatement?_list=$current-medications", ""),
    # _filter.
    ('Patient?_filter=name co "oo"', "ann eve"),
    ('Patient?_filter=family eq "ROOT"', "ann"),
    ('Patient?_filter=family ne "root"', "ben eve"),
    ('Patient?_filter=family sw "root"', "ann eve"),
    ('Patient?_filter=family ew "own"', "ben"),
    ("Patient?_filter=gender eq female and birthdate ge 1980", "ann"),
    ("Patient?_filter=gender eq female or birthdate lt 1960", "ann ben"),
    # From left to right, whatever the words.
    ("Patient?_filter=gender eq male or gender eq female and family eq root", "ann"),
    ("Patient?_filter=gender eq male or (gender eq female and family eq root)", "ann ben"),
    ("Patient?_filter=not (gender eq female) and family sw root", "eve"),
    ("Patient?_filter=gender pr false", "eve"),
    ("Patient?_filter=gender pr true and not(gender ne female)", "ann"),
    ("Observation?_filter=code eq urn:codes|depth and subject:Patient.name co root", "a1"),
    ('Observation?_filter=subject[gender eq male].name co "crown"', "b1"),
    ('Observation?_filter=subject[gender eq female].name co "crown"', ""),
    ("Observation?_filter=value-quantity gt 3 and value-quantity lt 9", "a1 d1"),
    ("Observation?_filter=subject re Patient/ben", "b1"),
    ("Observation?_filter=date po 2020-03", "b1 l1"),
    ("Observation?_filter=date po 2020-02", ""),
    ("Observation?_filter=code ne urn:codes|depth", "a2"),
    ("Observation?_filter=patient.organization.name eq \"clinic 0\"", "b1"),
    ("Observation?_filter=_id eq a1 or _id eq b1", "a1 b1"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "expected"), CASES, ids=[q[:70] for q, _ in CASES])
def test_what_is_found_over_references(linked: httpx.Client, query: str, expected: str) -> None:
    path, _, rest = query.partition("?")
    pairs = [tuple(pair.split("=", 1)) for pair in rest.split("&")]

    answer = linked.get(f"/{path}", params=[*pairs, ("_count", "100"), ("_total", "accurate")])

    assert found(answer) == expected.split()
    assert answer.json()["total"] == len(expected.split())


OVER = [query for query, _ in CASES if "." in query or "_has" in query or "_list" in query]


@pytest.mark.parametrize("query", OVER, ids=[query[:70] for query in OVER])
def test_walking_along_the_order_finds_what_looking_up_finds(
    linked: httpx.Client, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where references lead to many, another statement answers: here it always does."""
    path, _, rest = query.partition("?")
    pairs = [tuple(pair.split("=", 1)) for pair in rest.split("&")]
    url = f"/{path}"
    looked_up = found(linked.get(url, params=[*pairs, ("_count", "100")]))

    monkeypatch.setattr(search_pages, "LINKED", -1)

    assert found(linked.get(url, params=[*pairs, ("_count", "100")])) == looked_up


@pytest.mark.parametrize("limit", [-1, 1500])
@pytest.mark.parametrize(
    "sort", ["_id", "-_id", "-_lastUpdated", "code", "-code", "-date", "date,-code"]
)
def test_pages_over_references_hold_everything_once_in_order(
    linked: httpx.Client, sort: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_pages, "LINKED", limit)
    params = {"subject:Patient.name": "root,crown", "_sort": sort, "_count": "1"}
    whole = linked.get("/Observation", params={**params, "_count": "9"}).json()

    listed = []
    page = linked.get("/Observation", params=params).json()
    while True:
        listed += [entry["resource"]["id"] for entry in page["entry"]]
        link = next((one["url"] for one in page["link"] if one["relation"] == "next"), None)
        if link is None:
            break
        page = linked.get(link).json()

    assert listed == [entry["resource"]["id"] for entry in whole["entry"]]
    assert sorted(listed) == ["a1", "a2", "b1"]


LONG = ".".join(["partof"] * 12)
REFUSED = [
    (f"Organization?{LONG}.name=x", "too-costly"),
    ("Patient?" + "_has:Observation:patient:" + "_has:Observation:has-member:" * 9 + "code=x",
     "too-costly"),
    ("Provenance?target.target.target._id=x", "too-costly"),
    ("Observation?subject:Practitioner.name=x", "invalid"),
    ("Observation?subject:Nonsense.name=x", "invalid"),
    ("Observation?code.name=x", "invalid"),
    ("Observation?subject.nonsense=x", "not-supported"),
    ("Observation?subject:Patient.=x", "not-supported"),
    ("Observation?.name=x", "not-supported"),
    ("Patient?_has:Observation:code=x", "invalid"),
    ("Patient?_has:Nonsense:patient:code=x", "invalid"),
    ("Patient?_has:Observation:code:status=x", "invalid"),
    ("Patient?_has:Observation:performer:nonsense=x", "not-supported"),
    ("Patient?_has:Observation:focus:status=", "invalid"),
    ("Patient?_has:Observation:device:status=x", "invalid"),
    ("Patient?_has:AuditEvent:entity:type=x", "not-supported"),
    ("Patient?_has=x", "not-supported"),
    ("Patient?_list=", "invalid"),
    ("AllergyIntolerance?_list=$current-dreams", "not-supported"),
    ("Patient?_list=$current-allergies", "not-supported"),
    ("Patient?_filter=name", "invalid"),
    ("Patient?_filter=name eq", "invalid"),
    ("Patient?_filter=name eq \"x", "invalid"),
    ("Patient?_filter=name xx y", "invalid"),
    ("Patient?_filter=(name eq x", "invalid"),
    ("Patient?_filter=name eq x)", "invalid"),
    ("Patient?_filter=name eq x gender eq y", "invalid"),
    ("Patient?_filter=not name eq x", "invalid"),
    ("Patient?_filter=nonsense eq x", "not-supported"),
    ("Patient?_filter=name gt x", "not-supported"),
    ("Patient?_filter=gender co x", "not-supported"),
    ("Patient?_filter=birthdate eq yesterday", "invalid"),
    ("Patient?_filter=name pr maybe", "invalid"),
    ("Patient?_filter=gender[name eq x].name eq y", "invalid"),
    ("Patient?_filter=gender[name eq x] eq y", "invalid"),
    ("Patient?_filter=" + "(" * 30 + "name eq x" + ")" * 30, "too-costly"),
    ("Patient?_filter=" + " and ".join(["name eq x"] * 60), "too-costly"),
    ("Patient?_filter=name eq " + "x" * 5000, "too-costly"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "code"), REFUSED, ids=[q[:60] for q, _ in REFUSED])
def test_c5_what_is_no_search_or_too_costly_is_refused(
    linked: httpx.Client, assert_outcome: Outcome, query: str, code: str
) -> None:
    path, _, rest = query.partition("?")

    assert_outcome(linked.get(f"/{path}", params=[tuple(rest.split("=", 1))]), 400, code)


def system_caller(tenant: Tenant, scope: str) -> Caller:
    return Caller(
        tenant=tenant,
        actor_type="API_CLIENT",
        actor_id=None,
        actor_name="test",
        scopes=Scopes.parse(scope),
        request_id="test",
    )


class TestCriteria:
    """What conditional writes ask, on the transaction of the write."""

    def ids(
        self, database: Database, caller: Caller, type_: str, query: str, limit: int = 5
    ) -> list[str]:
        filter_ = decide(caller, "s", type_).filter
        with database.connection(caller.tenant.id) as connection:
            return matching_ids(connection, caller, filter_, type_, query, limit)

    def test_the_same_is_found_as_by_a_search(
        self, linked: httpx.Client, database: Database, tenant: Tenant
    ) -> None:
        caller = system_caller(tenant, "system/*.cruds")
        for type_, query, expected in (
            ("Patient", "family=root&gender=female", ["ann"]),
            ("Patient", "?family=root", ["ann", "eve"]),
            ("Observation", "patient.name=root", ["a1", "a2"]),
            ("Patient", "family=nobody", []),
        ):
            assert self.ids(database, caller, type_, query) == expected
        assert self.ids(database, caller, "Patient", "family=root", 1) == ["ann"]

    def test_nothing_hidden_meets_them(
        self, linked: httpx.Client, database: Database, tenant: Tenant, other_tenant: Tenant
    ) -> None:
        blind = system_caller(tenant, "system/Observation.rs")
        assert self.ids(database, blind, "Observation", "patient.name=root") == []
        other = system_caller(other_tenant, "system/*.cruds")
        assert self.ids(database, other, "Patient", "family=root") == []

    @pytest.mark.parametrize("query", ["", "?", "_count=5", "_sort=name", "nonsense=1", "gender="])
    def test_criteria_that_select_nothing_are_refused(
        self, database: Database, tenant: Tenant, query: str
    ) -> None:
        with pytest.raises(BadRequest):
            self.ids(database, system_caller(tenant, "system/*.cruds"), "Patient", query)
