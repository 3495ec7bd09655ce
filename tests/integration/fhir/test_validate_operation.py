"""$validate over a live server, and what a tenant asks of writers (validation_level)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from storage.database import Database
from storage.tenancy import Tenant

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition"
Outcome = Callable[..., dict[str, Any]]

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "identifier": [{"system": "urn:test", "value": "1"}],
    "name": [{"family": "A"}],
    "gender": "female",
    "birthDate": "1970-01-01",
}
# app-2: an end without a start.
APPOINTMENT = {
    "resourceType": "Appointment",
    "status": "booked",
    "end": "2024-05-17T09:30:00Z",
    "participant": [{"actor": {"display": "x"}, "status": "accepted"}],
}


def told(response: httpx.Response) -> list[tuple[str, str, str]]:
    """(severity, code, place) of each issue of an answer."""
    assert response.status_code == 200, response.text
    outcome = response.json()
    assert outcome["resourceType"] == "OperationOutcome"
    return [
        (issue["severity"], issue["code"], issue.get("expression", [""])[0])
        for issue in outcome["issue"]
    ]


def errors(response: httpx.Response) -> list[tuple[str, str]]:
    return [(code, place) for severity, code, place in told(response) if severity == "error"]


def parameters(resource: dict[str, Any] | None, **more: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = (
        [] if resource is None else [{"name": "resource", "resource": resource}]
    )
    for name, value in more.items():
        rows.append({"name": name, "valueUri" if name == "profile" else "valueCode": value})
    return {"resourceType": "Parameters", "parameter": rows}


def test_a_valid_resource_has_no_errors_however_it_is_sent(fhir: httpx.Client) -> None:
    sent = fhir.post("/Patient/$validate", json=PATIENT)
    wrapped = fhir.post("/Patient/$validate", json=parameters(PATIENT, mode="create"))

    assert errors(sent) == errors(wrapped) == []


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        ({"foo": 1}, "structure", "Patient.foo"),
        ({"gender": "x"}, "code-invalid", "Patient.gender"),
        ({"birthDate": "1970-02-30"}, "value", "Patient.birthDate"),
        ({"contact": [{"gender": "male"}]}, "invariant", "Patient.contact[0]"),
        (
            {"generalPractitioner": [{"reference": "Patient/1"}]},
            "value",
            "Patient.generalPractitioner[0]",
        ),
    ],
)
def test_errors_are_answers_and_say_where(
    fhir: httpx.Client, change: dict[str, Any], code: str, place: str
) -> None:
    assert (code, place) in errors(fhir.post("/Patient/$validate", json={**PATIENT, **change}))


def test_a_profile_is_asked_for_in_the_query_or_in_parameters_or_claimed(
    fhir: httpx.Client,
) -> None:
    bare = {"resourceType": "Patient", "name": [{"family": "A"}]}
    profile = f"{US_CORE}/us-core-patient"
    expected = {("required", "Patient.identifier"), ("required", "Patient.gender")}

    assert errors(fhir.post("/Patient/$validate", json=bare)) == []
    for response in (
        fhir.post("/Patient/$validate", params={"profile": profile}, json=bare),
        fhir.post("/Patient/$validate", json=parameters(bare, profile=profile)),
        fhir.post("/Patient/$validate", json={**bare, "meta": {"profile": [profile]}}),
    ):
        assert set(errors(response)) == expected
    unknown = fhir.post("/Patient/$validate", params={"profile": "urn:no"}, json=bare)
    assert errors(unknown) == [("not-found", "Patient")]


def test_an_instance_is_validated_as_it_is_stored_and_as_it_would_become(
    fhir: httpx.Client, other_fhir: httpx.Client, assert_outcome: Outcome
) -> None:
    born = {key: value for key, value in PATIENT.items() if key != "gender"}
    stored = fhir.post("/Patient", json=born).json()
    url = f"/Patient/{stored['id']}/$validate"
    profile = {"profile": f"{US_CORE}/us-core-patient"}

    assert errors(fhir.get(url, params=profile)) == [("required", "Patient.gender")]
    assert errors(fhir.get(url)) == []
    assert (
        errors(fhir.post(url, json=parameters({**stored, "gender": "male"}, mode="update"))) == []
    )
    other = parameters({**stored, "id": "other"}, mode="update")
    assert errors(fhir.post(url, json=other)) == [("invalid", "Patient.id")]
    assert errors(fhir.post(url, json=parameters(None, mode="delete"))) == []
    for response in (other_fhir.get(url), fhir.get(f"/Patient/{uuid4()}/$validate")):
        assert_outcome(response, 404, "not-found")


def test_what_cannot_be_validated_is_a_bad_request(
    fhir: httpx.Client, assert_outcome: Outcome
) -> None:
    post = fhir.post
    assert_outcome(fhir.get("/Patient/$validate"), 400)
    assert_outcome(post("/Patient/$validate", params={"mode": "x"}, json=PATIENT), 400)
    assert_outcome(post("/Patient/$validate", params={"mode": "delete"}, json=PATIENT), 400)
    assert_outcome(post("/Patient/$validate", params={"foo": "x"}, json=PATIENT), 400)
    assert_outcome(post("/Patient/$validate", json=parameters(None)), 400)
    assert_outcome(post("/Nonsense/$validate", json=PATIENT), 404)
    wrong = post("/Observation/$validate", json=PATIENT)
    assert errors(wrong) == [("invalid", "resourceType")]


def test_a_profile_that_the_tenant_stored_counts_for_that_tenant_only(
    fhir: httpx.Client, other_fhir: httpx.Client
) -> None:
    url = f"urn:test:{uuid4()}"
    definition = {
        "resourceType": "StructureDefinition",
        "url": url,
        "name": "Adults",
        "status": "active",
        "kind": "resource",
        "abstract": False,
        "type": "Patient",
        "baseDefinition": f"{US_CORE}/us-core-patient",
        "derivation": "constraint",
        "differential": {
            "element": [
                {
                    "id": "Patient",
                    "path": "Patient",
                    "constraint": [
                        {
                            "key": "adult-1",
                            "severity": "error",
                            "human": "An adult",
                            "expression": "birthDate <= @2000-01-01",
                        }
                    ],
                },
                {"id": "Patient.telecom", "path": "Patient.telecom", "min": 1},
            ]
        },
    }
    assert fhir.post("/StructureDefinition", json=definition).status_code == 201
    child = {**PATIENT, "birthDate": "2020-01-01", "meta": {"profile": [url]}}
    del child["gender"]

    found = errors(fhir.post("/Patient/$validate", json=child))

    assert set(found) == {
        ("invariant", "Patient"),
        ("required", "Patient.telecom"),
        ("required", "Patient.gender"),
    }
    assert errors(other_fhir.post("/Patient/$validate", json=child)) == []
    asked = other_fhir.post("/Patient/$validate", params={"profile": url}, json=PATIENT)
    assert errors(asked) == [("not-found", "Patient")]


# -- what is stored -----------------------------------------------------------------------


@contextmanager
def level(database: Database, tenant: Tenant, wanted: str) -> Iterator[None]:
    def change(to: str) -> None:
        with database.connection(tenant.id) as connection:
            connection.execute(
                "UPDATE tenant_settings SET validation_level = %s WHERE tenant_id = %s",
                (to, tenant.id),
            )

    change(wanted)
    try:
        yield
    finally:
        change("BASE")


def test_a_write_keeps_r4s_own_rules_unless_the_tenant_asks_for_none(
    fhir: httpx.Client, database: Database, tenant: Tenant, assert_outcome: Outcome
) -> None:
    refused = assert_outcome(fhir.post("/Appointment", json=APPOINTMENT), 400, "invariant")
    assert "app-2" in refused["issue"][0]["diagnostics"]
    with level(database, tenant, "NONE"):
        stored = fhir.post("/Appointment", json=APPOINTMENT)
        assert stored.status_code == 201
    entry = {"request": {"method": "POST", "url": "Appointment"}, "resource": APPOINTMENT}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert_outcome(fhir.post("/", json=bundle), 400, "invariant")


def test_a_write_keeps_the_profiles_that_it_claims_where_the_tenant_asks(
    fhir: httpx.Client, database: Database, tenant: Tenant, assert_outcome: Outcome
) -> None:
    claims = {**PATIENT, "meta": {"profile": [f"{US_CORE}/us-core-patient"]}}
    broken = {key: value for key, value in claims.items() if key != "gender"}

    assert fhir.post("/Patient", json=broken).status_code == 201
    with level(database, tenant, "PROFILE"):
        assert fhir.post("/Patient", json=claims).status_code == 201
        outcome = assert_outcome(fhir.post("/Patient", json=broken), 422, "required")
        assert outcome["issue"][0]["expression"] == ["Patient.gender"]
        assert_outcome(fhir.post("/Appointment", json=APPOINTMENT), 400, "invariant")


def test_a_profile_of_the_tenant_holds_for_writers_who_may_not_read_it(
    fhir: httpx.Client,
    client_for: Callable[..., httpx.Client],
    database: Database,
    tenant: Tenant,
    assert_outcome: Outcome,
) -> None:
    url, value_set = f"urn:test:{uuid4()}", f"urn:test:{uuid4()}"
    stored = fhir.post(
        "/ValueSet",
        json={
            "resourceType": "ValueSet",
            "url": value_set,
            "status": "active",
            "compose": {"include": [{"system": "urn:s", "concept": [{"code": "a"}]}]},
        },
    )
    assert stored.status_code == 201
    elements = [
        {"id": "Basic.subject", "path": "Basic.subject", "min": 1},
        {
            "id": "Basic.code",
            "path": "Basic.code",
            "binding": {"strength": "required", "valueSet": value_set},
        },
    ]
    definition = {
        "resourceType": "StructureDefinition",
        "url": url,
        "name": "Own",
        "status": "active",
        "kind": "resource",
        "abstract": False,
        "type": "Basic",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Basic",
        "derivation": "constraint",
        "differential": {"element": elements},
    }
    assert fhir.post("/StructureDefinition", json=definition).status_code == 201
    writer = client_for(tenant, "system/Basic.c")
    about = {"subject": {"display": "x"}, "meta": {"profile": [url]}}

    def basic(code: str, **more: Any) -> dict[str, Any]:
        concept = {"coding": [{"system": "urn:s", "code": code}]}
        return {"resourceType": "Basic", "code": concept, **more}

    with level(database, tenant, "PROFILE"):
        assert fhir.post("/Basic", json=basic("a", **about)).status_code == 201
        assert_outcome(fhir.post("/Basic", json=basic("b", **about)), 422, "code-invalid")
        lacking = basic("a", meta=about["meta"])
        assert_outcome(writer.post("/Basic", json=lacking), 422, "required")
