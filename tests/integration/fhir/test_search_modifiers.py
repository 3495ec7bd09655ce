"""Modifiers that look further than one value: texts, value sets, hierarchies, versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from interop.fhir import json
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
ICD = "http://hl7.org/fhir/sid/icd-10"
OWN = "http://example.test/CodeSystem/findings"
LOINC = "http://loinc.org"


def post(fhir: httpx.Client, resource: dict[str, Any]) -> str:
    url = f"/{resource['resourceType']}"
    response = fhir.post(url, content=json.dumps(resource), headers=FHIR_JSON)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def search(fhir: httpx.Client, type_: str, **pairs: str) -> set[str]:
    response = fhir.get(f"/{type_}?" + urlencode({**pairs, "_count": "500"}))
    assert response.status_code == 200, (pairs, response.text)
    return {entry["resource"]["id"] for entry in response.json().get("entry", [])}


def condition(*codings: tuple[str, str, str | None], text: str | None = None) -> dict[str, Any]:
    listed = [
        {"system": system, "code": code, **({"display": display} if display else {})}
        for system, code, display in codings
    ]
    code = {"coding": listed, "text": text}
    return {
        "resourceType": "Condition",
        "clinicalStatus": {
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/condition-clinical",
                    "code": "active",
                }
            ]
        },
        "subject": {"display": "somebody"},
        "code": {key: value for key, value in code.items() if value},
    }


@pytest.fixture(scope="module")
def conditions(fhir: httpx.Client) -> dict[str, str]:
    """A small code system of the tenant, a value set of some of it, and conditions by name."""
    concepts = [
        {
            "code": "lesion",
            "concept": [
                {"code": "caries", "concept": [{"code": "root-caries"}]},
                {"code": "erosion"},
            ],
        },
        {"code": "healthy"},
    ]
    post(
        fhir,
        {"resourceType": "CodeSystem", "url": OWN, "status": "active", "content": "complete",
         "concept": concepts},
    )  # fmt: skip
    post(
        fhir,
        {
            "resourceType": "ValueSet",
            "id": "urgent",
            "url": "http://example.test/ValueSet/urgent",
            "status": "active",
            "compose": {
                "include": [
                    {"system": OWN, "concept": [{"code": "caries"}, {"code": "root-caries"}]},
                    {"system": ICD, "concept": [{"code": "K04.0"}]},
                ]
            },
        },
    )
    made = {
        "caries": condition((OWN, "caries", "Dental caries"), text="A hole in a tooth"),
        "root": condition((OWN, "root-caries", "Caries of the ROOT")),
        "erosion": condition((OWN, "erosion", None)),
        "healthy": condition((OWN, "healthy", None), text="Nothing found"),
        "pulpitis": condition((ICD, "K04.0", "Pulpitis"), (OWN, "lesion", None)),
        "other system": condition(("urn:other", "caries", None)),
        "text only": condition(text="caries, maybe"),
    }
    return {post(fhir, resource): name for name, resource in made.items()}


@pytest.mark.parametrize(
    ("modifier", "value", "found"),
    [
        ("below", f"{OWN}|lesion", {"caries", "root", "erosion", "pulpitis"}),
        ("below", f"{OWN}|caries", {"caries", "root"}),
        ("below", f"{OWN}|healthy", {"healthy"}),
        ("below", f"{OWN}|caries,{OWN}|healthy", {"caries", "root", "healthy"}),
        ("above", f"{OWN}|root-caries", {"root", "caries", "pulpitis"}),
        ("above", f"{OWN}|lesion", {"pulpitis"}),
        ("in", "http://example.test/ValueSet/urgent", {"caries", "root", "pulpitis"}),
        (
            "not-in",
            "http://example.test/ValueSet/urgent",
            {"erosion", "healthy", "other system", "text only"},
        ),
        ("text", "caries", {"root", "caries", "text only"}),
        ("text", "DENTAL car", {"caries"}),
        ("text", "hole in", {"caries"}),
        ("text", "root", {"root"}),
        ("text", "aries", set()),
        ("text", "nothing,pulp", {"healthy", "pulpitis"}),
    ],
)
def test_codes_by_their_place_and_text(
    fhir: httpx.Client, conditions: dict[str, str], modifier: str, value: str, found: set[str]
) -> None:
    ids = search(fhir, "Condition", **{f"code:{modifier}": value})

    assert {conditions[id_] for id_ in ids} == found


def test_a_value_set_of_this_server_is_named_by_its_id(
    fhir: httpx.Client, conditions: dict[str, str]
) -> None:
    (value_set,) = search(fhir, "ValueSet", url="http://example.test/ValueSet/urgent")

    ids = search(fhir, "Condition", **{"code:in": f"ValueSet/{value_set}"})

    assert {conditions[id_] for id_ in ids} == {"caries", "root", "pulpitis"}


def test_codes_of_r4_have_their_value_sets_and_systems(
    fhir: httpx.Client, conditions: dict[str, str]
) -> None:
    """The binding says the system of a bare code."""
    url = "http://hl7.org/fhir/ValueSet/condition-clinical"

    assert search(fhir, "Condition", **{"clinical-status:in": url}) == set(conditions)
    assert search(fhir, "Condition", **{"clinical-status:not-in": url}) == set()
    system = "http://terminology.hl7.org/CodeSystem/condition-clinical"
    assert search(fhir, "Condition", **{"clinical-status:below": f"{system}|active"})
    patient = post(fhir, {"resourceType": "Patient", "gender": "male"})
    assert patient in search(fhir, "Patient", **{"gender:below": "male"})
    assert patient not in search(fhir, "Patient", **{"gender:below": "female"})


def test_what_another_tenant_defines_is_not_known(
    fhir: httpx.Client, other_fhir: httpx.Client, conditions: dict[str, str],
    assert_outcome: Callable[..., dict[str, Any]],
) -> None:  # fmt: skip
    for name, value in (
        ("code:in", "http://example.test/ValueSet/urgent"),
        ("code:below", f"{OWN}|lesion"),
    ):
        response = other_fhir.get("/Condition", params={name: value})
        assert_outcome(response, 400)
        assert "not known" in response.text, response.text


@pytest.mark.parametrize(
    ("type_", "name", "value"),
    [
        ("Condition", "code:in", "http://example.test/ValueSet/none"),
        ("Condition", "code:in", "ValueSet/none"),
        ("Condition", "code:below", "urn:unknown|x"),
        ("Condition", "code:below", "x"),
        ("Condition", "code:below", f"{OWN}|"),
        ("Condition", "code:text", " "),
        ("Condition", "subject:below", "x"),
        ("Condition", "onset-date:below", "2020"),
        ("ValueSet", "url:below", "urn:oid:1.2.3"),
        ("Procedure", "location:below", "http://elsewhere.test/Location/1"),
        ("Patient", "birthdate:in", "x"),
        ("Patient", "name:text", "x"),
    ],
)
def test_what_cannot_be_looked_up_is_refused_by_name(
    fhir: httpx.Client, assert_outcome: Callable[..., dict[str, Any]],
    type_: str, name: str, value: str,
) -> None:  # fmt: skip
    outcome = assert_outcome(fhir.get(f"/{type_}", params={name: value}), 400)

    assert name.partition(":")[0] in outcome["issue"][0]["diagnostics"]


def test_urls_above_and_below(fhir: httpx.Client) -> None:
    base = "http://urls.test/fhir"
    urls = [
        f"{base}/Questionnaire/a", f"{base}/Questionnaire/ab", f"{base}/Questionnaire/a/b",
        base, f"{base}/", "http://urls.test/fhirx",
    ]  # fmt: skip
    ids = {
        post(fhir, {"resourceType": "Questionnaire", "status": "active", "url": url}): url
        for url in urls
    }

    def found(name: str, value: str) -> set[str]:
        return {ids[id_] for id_ in search(fhir, "Questionnaire", **{name: value}) if id_ in ids}

    assert found("url:below", f"{base}/Questionnaire/a") == {urls[0], urls[2]}
    assert found("url:below", base) == set(urls[:5])
    assert found("url:below", f"{base}/") == {*urls[:3], urls[4]}
    assert found("url:above", f"{base}/Questionnaire/a/b") == {urls[0], urls[2], base, f"{base}/"}
    assert found("url:above", "http://urls.test/fhirx/y") == {urls[5]}


def test_locations_above_and_below(fhir: httpx.Client, client_for: Any, tenant: Tenant) -> None:
    def location(name: str, parent: str | None = None) -> str:
        part_of = {"partOf": {"reference": f"Location/{parent}"}} if parent else {}
        return post(fhir, {"resourceType": "Location", "name": name, **part_of})

    house = location("house")
    floor = location("floor", house)
    room = location("room", floor)
    elsewhere = location("elsewhere")
    appointments = {
        post(
            fhir,
            {
                "resourceType": "Appointment",
                "status": "proposed",
                "participant": [
                    {"actor": {"reference": f"Location/{one}"}, "status": "accepted"}
                ],
            },
        ): one
        for one in (house, floor, room, elsewhere)
    }  # fmt: skip

    def found(name: str, value: str, client: httpx.Client = fhir) -> set[str]:
        ids = search(client, "Appointment", **{name: value})
        return {appointments[id_] for id_ in ids if id_ in appointments}

    assert found("location:below", house) == {house, floor, room}
    assert found("location:below", f"Location/{floor}") == {floor, room}
    assert found("location:below", f"{fhir.base_url}Location/{room}") == {room}
    assert found("location:above", room) == {room, floor, house}
    assert found("location:above", f"{house},{elsewhere}") == {house, elsewhere}
    # What a caller may not see leads nowhere.
    blind = client_for(tenant, "system/Appointment.rs")
    assert found("location:below", house, blind) == {house}
    # A circle ends.
    body = {
        "resourceType": "Location",
        "id": house,
        "name": "house",
        "partOf": {"reference": f"Location/{room}"},
    }
    response = fhir.put(f"/Location/{house}", content=json.dumps(body), headers=FHIR_JSON)
    if response.status_code == 200:
        assert found("location:below", floor) == {house, floor, room}


def test_a_canonical_is_found_by_the_beginning_of_its_version(fhir: httpx.Client) -> None:
    url = "http://versions.test/Questionnaire/recall"
    ids = {
        post(
            fhir,
            {
                "resourceType": "QuestionnaireResponse",
                "status": "completed",
                "questionnaire": f"{url}|{version}",
            },
        ): version
        for version in ("1", "1.0", "1.0.2", "1-ballot", "10", "2")
    }

    def found(value: str) -> set[str]:
        name = "questionnaire:below"
        return {ids[id_] for id_ in search(fhir, "QuestionnaireResponse", **{name: value})}

    assert found(f"{url}|1") == {"1", "1.0", "1.0.2", "1-ballot"}
    assert found(f"{url}|1.0") == {"1.0", "1.0.2"}
    assert found(f"{url}|3") == set()


def test_a_profile_is_found_with_and_without_its_version(fhir: httpx.Client) -> None:
    profile = "http://example.test/StructureDefinition/dental-patient"
    own = post(
        fhir, {"resourceType": "Basic", "meta": {"profile": [f"{profile}|2.1"]},
               "code": {"text": "x"}},
    )  # fmt: skip

    for value in (profile, f"{profile}|2.1"):
        assert search(fhir, "Basic", _profile=value) == {own}, value
    assert search(fhir, "Basic", _profile=f"{profile}|2.0") == set()
    assert search(fhir, "Basic", **{"_profile:below": "http://example.test"}) == {own}
