"""Who is limited to a unit and creates a patient: the patient is of that unit, and of no other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from storage.tenancy import Tenant
from tests.integration.access.conftest import FHIR_JSON, Door

NEW = {"resourceType": "Patient", "name": [{"family": "New"}]}


@dataclass
class Region:
    """A region with two places in it, and one place apart."""

    door: Door
    tenant: Tenant
    region: UUID
    north: UUID
    south: UUID
    apart: UUID

    def user(
        self, *units: str, resource_scope: str = "LOCATION", scope: str = "user/*.cruds"
    ) -> Any:
        roles = [("CLINICIAN", resource_scope, getattr(self, unit)) for unit in units]
        if resource_scope == "SELF":
            roles = [("CLINICIAN", "SELF", None)]
        user = self.door.user(self.tenant, *roles)
        return self.door.caller(self.tenant, scope, user=user)

    def count(self) -> tuple[int, int]:
        query = (
            "SELECT (SELECT count(*) FROM patients), (SELECT count(*) FROM fhir_resources"
            " WHERE resource_type = 'Patient')"
        )
        ((patients, resources),) = self.door.execute(query)
        return patients, resources


@pytest.fixture(scope="module")
def clinic(door: Door, tenant: Tenant) -> Region:
    made = Region(door, tenant, *(uuid4() for _ in range(4)))
    insert = "INSERT INTO locations (tenant_id, id, name, parent_location_id) VALUES (%s,%s,'x',%s)"
    door.execute(insert, tenant.id, made.region, None)
    for place in (made.north, made.south):
        door.execute(insert, tenant.id, place, made.region)
    door.execute(insert, tenant.id, made.apart, None)
    return made


def create(client: httpx.Client, body: dict[str, Any] = NEW) -> httpx.Response:
    return client.post(f"/{body['resourceType']}", content=json.dumps(body), headers=FHIR_JSON)


@pytest.mark.parametrize(
    ("units", "home", "seen_by", "hidden_from"),
    [
        (["north"], "north", ["north", "region"], ["south", "apart"]),
        (["region"], "region", ["region"], ["north", "apart"]),
        # One of them is above the other: what is created is of the whole.
        (["north", "region"], "region", ["region"], ["north"]),
    ],
)
def test_the_new_patient_is_of_the_unit_of_whoever_creates_it(
    clinic: Region, units: list[str], home: str, seen_by: list[str], hidden_from: list[str]
) -> None:
    author = clinic.user(*units)

    answer = create(author)

    assert answer.status_code == 201, answer.text
    id_ = answer.json()["id"]
    row = clinic.door.row_id(clinic.tenant, "Patient", id_)
    assert clinic.door.execute("SELECT primary_location_id FROM patients WHERE id = %s", row) == [
        (getattr(clinic, home),)
    ]
    assert author.get(f"/Patient/{id_}").json()["name"] == NEW["name"]
    about = {"resourceType": "Condition", "subject": {"reference": f"Patient/{id_}"}}
    assert create(author, about).status_code == 201
    for unit in seen_by:
        assert clinic.user(unit).get(f"/Patient/{id_}").status_code == 200, unit
    for unit in hidden_from:
        assert clinic.user(unit).get(f"/Patient/{id_}").status_code == 404, unit


def test_where_no_one_place_follows_nothing_is_created(clinic: Region) -> None:
    before = clinic.count()

    for author in (
        clinic.user("north", "apart"),
        clinic.user("north", "south"),
        clinic.user(resource_scope="SELF"),
        # A scope that is narrower than the unit narrows creating too.
        clinic.user("north", scope="user/Patient.cruds?gender=male"),
        # A user whose app was given reading only.
        clinic.user("north", scope="user/*.rs"),
    ):
        assert create(author).status_code == 403

    assert clinic.count() == before


def test_an_id_is_still_not_for_a_unit_to_choose(clinic: Region) -> None:
    author = clinic.user("north")

    answer = author.put(
        "/Patient/chosen", content=json.dumps({**NEW, "id": "chosen"}), headers=FHIR_JSON
    )

    assert answer.status_code == 404


def test_a_later_version_leaves_the_patient_where_it_is(clinic: Region) -> None:
    id_ = create(clinic.user("north")).json()["id"]
    body = {**NEW, "id": id_, "gender": "female"}

    changed = clinic.user("region").put(
        f"/Patient/{id_}", content=json.dumps(body), headers=FHIR_JSON
    )

    assert changed.status_code == 200
    assert clinic.user("north").get(f"/Patient/{id_}").json()["gender"] == "female"


def test_who_sees_everything_gives_no_unit(clinic: Region) -> None:
    created = create(clinic.door.system(clinic.tenant))

    row = clinic.door.row_id(clinic.tenant, "Patient", created.json()["id"])
    assert clinic.door.execute("SELECT primary_location_id FROM patients WHERE id = %s", row) == [
        (None,)
    ]


def test_the_log_is_not_for_units(clinic: Region) -> None:
    user = clinic.door.user(clinic.tenant, ("TENANT_ADMIN", "LOCATION", clinic.north))

    answer = clinic.door.caller(clinic.tenant, "user/*.rs", user=user).get("/AuditEvent")

    assert answer.status_code == 403
