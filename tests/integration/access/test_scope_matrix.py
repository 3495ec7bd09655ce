"""Scope letters by interactions by levels, generated: exactly what SMART 2.2 says (security.md D8).

c: create; r: read, vread, history of one; u: update; d: delete; s: search, by GET and by POST.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from uuid import UUID

import httpx
import pytest

from interop.access.scopes import LETTERS
from storage.tenancy import Tenant
from tests.integration.access.conftest import FHIR_JSON, Door, put

BODY = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"text": "x"},
    "subject": {"reference": "Patient/anna"},
}
V1 = {"read": "rs", "write": "cud", "*": "cruds"}
Interaction = Callable[[httpx.Client], httpx.Response]
INTERACTIONS: dict[str, tuple[str, Interaction]] = {
    "read": ("r", lambda c: c.get("/Observation/one")),
    "vread": ("r", lambda c: c.get("/Observation/one/_history/1")),
    "history": ("r", lambda c: c.get("/Observation/one/_history")),
    "search": ("s", lambda c: c.get("/Observation?status=final")),
    "search by post": ("s", lambda c: c.post("/Observation/_search", data={"status": "final"})),
    "create": ("c", lambda c: c.post("/Observation", content=json.dumps(BODY), headers=FHIR_JSON)),
    "update": (
        "u",
        lambda c: c.put(
            "/Observation/two", content=json.dumps(BODY | {"id": "two"}), headers=FHIR_JSON
        ),
    ),
    "delete": ("d", lambda c: c.delete("/Observation/three")),
}


@dataclass
class People:
    """Who the three levels need."""

    patient: UUID
    clinician: UUID


@pytest.fixture(scope="module")
def people(door: Door, tenant: Tenant) -> People:
    system = door.system(tenant)
    put(system, {"resourceType": "Patient", "id": "anna"})
    put(system, {"resourceType": "Patient", "id": "bruno"})
    for name in ("one", "two"):
        put(system, BODY | {"id": name})
    clinician = door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None))
    return People(door.row_id(tenant, "Patient", "anna"), clinician)


def caller_of(door: Door, tenant: Tenant, people: People, level: str, scope: str) -> httpx.Client:
    user = people.clinician if level == "user" else None
    patient = people.patient if level == "patient" else None
    return door.caller(tenant, scope, user=user, patient=patient)


ALL_LETTERS = ["".join(letters) for size in range(1, 6) for letters in combinations(LETTERS, size)]


SCOPES = [("Observation", letters) for letters in (*ALL_LETTERS, *V1)]
SCOPES += [("*", letters) for letters in (*LETTERS, *V1)]


@pytest.mark.parametrize("level", ["patient", "user", "system"])
@pytest.mark.parametrize(("type_", "letters"), SCOPES)
def test_a_scope_permits_exactly_its_letters(
    door: Door, tenant: Tenant, people: People, level: str, type_: str, letters: str
) -> None:
    client = caller_of(door, tenant, people, level, f"{level}/{type_}.{letters}")
    granted = V1.get(letters, letters)

    for name, (letter, interact) in INTERACTIONS.items():
        answer = interact(client)
        if letter in granted:
            assert answer.status_code in (200, 201, 204), (name, answer.text)
        else:
            assert answer.status_code == 403, (name, answer.text)
            assert answer.json()["issue"][0]["code"] == "forbidden"


@pytest.mark.parametrize(
    "scope",
    [
        "{level}/Patient.cruds",
        "{level}/ImagingStudy.cruds",
        "openid fhirUser launch/patient offline_access",
    ],
)
@pytest.mark.parametrize("level", ["patient", "user", "system"])
def test_scopes_of_other_types_permit_nothing(
    door: Door, tenant: Tenant, people: People, level: str, scope: str
) -> None:
    client = caller_of(door, tenant, people, level, scope.format(level=level))

    for name, (_, interact) in INTERACTIONS.items():
        assert interact(client).status_code == 403, name


@pytest.mark.parametrize("level", ["patient", "user", "system"])
@pytest.mark.parametrize("standing", ["patient", "user", "system"])
def test_a_level_needs_the_one_whom_it_speaks_of(
    door: Door, tenant: Tenant, people: People, level: str, standing: str
) -> None:
    """user/ needs a user, patient/ a patient in context, and system/ that nobody stands behind."""
    client = caller_of(door, tenant, people, standing, f"{level}/*.cruds")
    is_met = level == standing or (level == "system" and standing == "patient")

    for name, (_, interact) in INTERACTIONS.items():
        expected = (200, 201, 204) if is_met else (403,)
        assert interact(client).status_code in expected, (name, level, standing)


@pytest.mark.parametrize("letters", [*LETTERS, "rs", "crs"])
@pytest.mark.parametrize("level", ["patient", "user", "system"])
def test_dicomweb_needs_letters_of_imaging_study(
    door: Door, tenant: Tenant, people: People, level: str, letters: str
) -> None:
    user = people.clinician if level == "user" else None
    patient = people.patient if level == "patient" else None

    def dicomweb(scope: str) -> httpx.Client:
        return door.caller(tenant, scope, user=user, patient=patient, door="dicom-web")

    client = dicomweb(f"{level}/ImagingStudy.{letters}")
    assert client.get("/studies").status_code == (200 if "s" in letters else 403)
    study = client.get("/studies/1.2.3", headers={"Accept": 'multipart/related; type="*/*"'})
    assert study.status_code == (404 if "r" in letters else 403)
    # Whom an object belongs to shows only when it is stored: that needs the whole organization.
    may_store = "c" in letters and level != "patient"
    assert client.post("/studies").status_code == (415 if may_store else 403)
    assert dicomweb(f"{level}/Observation.{letters}").get("/studies").status_code == 403
