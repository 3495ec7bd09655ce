"""What the demo's records are served as is valid, by R4 and by the profiles that describe it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from interop.demo import records
from interop.fhir.mappings.systems import OWN
from interop.fhir.validation import validate
from storage.database import Database
from storage.tenancy import Tenant

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition"
# The profile of an Observation by one of its codes.
PROFILES = {
    "periodontal-exam": f"{OWN}:StructureDefinition:perio-exam",
    "periodontal-tooth": f"{OWN}:StructureDefinition:perio-tooth",
    "tooth-chart": f"{OWN}:StructureDefinition:tooth-chart",
    "charted-tooth": f"{OWN}:StructureDefinition:charted-tooth",
    "72166-2": f"{US_CORE}/us-core-smokingstatus",
    "85353-1": f"{US_CORE}/us-core-vital-signs",
}
BY_TYPE = {
    "Condition": f"{US_CORE}/us-core-condition-problems-health-concerns",
    "Procedure": f"{US_CORE}/us-core-procedure",
    "Encounter": f"{US_CORE}/us-core-encounter",
    "AllergyIntolerance": f"{US_CORE}/us-core-allergyintolerance",
    "CarePlan": f"{US_CORE}/us-core-careplan",
    "DocumentReference": f"{US_CORE}/us-core-documentreference",
    "MedicationRequest": f"{US_CORE}/us-core-medicationrequest",
    "ServiceRequest": f"{US_CORE}/us-core-servicerequest",
}
TYPES = ("AllergyIntolerance", "Appointment", "CarePlan", "Composition", "Condition", "Consent",
         "DocumentReference", "Encounter", "Location", "MedicationRequest", "MedicationStatement",
         "Observation", "Patient", "Procedure", "ServiceRequest", "Task")  # fmt: skip


@pytest.fixture(scope="module")
def served(fhir: httpx.Client, database: Database, tenant: Tenant) -> list[dict[str, Any]]:
    """Every resource that the records of the demo make."""
    for resource in records.resources():
        url = f"/{resource['resourceType']}/{resource['id']}"
        stored = fhir.put(url, json=resource)
        assert stored.status_code in (200, 201), stored.text
    with database.connection(tenant.id) as connection:
        records.write_rows(connection, tenant.id, lambda: None)
    return [resource for type_ in TYPES for resource in all_of(fhir, type_)]


def all_of(client: httpx.Client, resource_type: str) -> Iterator[dict[str, Any]]:
    url: str | None = f"/{resource_type}?_count=200"
    while url:
        answer = client.get(url)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        yield from (entry["resource"] for entry in page.get("entry", []))
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)


def is_diagnosis_of_a_visit(resource: dict[str, Any]) -> bool:
    category = "condition-category"
    return resource["resourceType"] == "Condition" and any(
        coding["code"] == "encounter-diagnosis" and category in coding["system"]
        for concept in resource["category"]
        for coding in concept["coding"]
    )


def profiles_of(resource: dict[str, Any]) -> list[str]:
    if is_diagnosis_of_a_visit(resource):
        return [f"{US_CORE}/us-core-condition-encounter-diagnosis"]
    if resource["resourceType"] in BY_TYPE:
        return [BY_TYPE[resource["resourceType"]]]
    codings = resource.get("code", {}).get("coding", [])
    return [PROFILES[coding["code"]] for coding in codings if coding.get("code") in PROFILES]


def test_what_the_demo_serves_is_valid(served: list[dict[str, Any]]) -> None:
    wrong: dict[str, list[str]] = {}
    used: set[str] = set()
    for resource in served:
        profiles = profiles_of(resource)
        used.update(profiles)
        for issue in validate(resource, profiles, with_warnings=False):
            name = f"{resource['resourceType']}/{resource['id']}"
            wrong.setdefault(issue.diagnostics, []).append(name)

    assert wrong == {}
    diagnosis = f"{US_CORE}/us-core-condition-encounter-diagnosis"
    assert used == {*PROFILES.values(), *BY_TYPE.values(), diagnosis}
    assert {resource["resourceType"] for resource in served} == {*TYPES}
