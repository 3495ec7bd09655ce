"""A user sees the patients of the units in which the roles hold, and what they open (D8, D9)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from storage.tenancy import Tenant
from tests.integration.access.conftest import FHIR_JSON, Door, comparable, found, put

READ = "user/*.rs"


def patient(name: str) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": name, "name": [{"family": name}]}


def observation(name: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"of-{name}",
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": f"Patient/{name}"},
    }


@dataclass
class Clinic:
    """Two places, one below the other, a team, and patients who came to them in different ways."""

    system: httpx.Client
    region: UUID
    north: UUID
    south: UUID
    team: UUID
    dentist: UUID


@pytest.fixture(scope="module")
def clinic(door: Door, tenant: Tenant) -> Clinic:
    system = door.system(tenant)
    names = ["home-north", "seen-north", "cancelled-north", "seen-south", "treated", "unseen"]
    for name in names:
        put(system, patient(name))
        put(system, observation(name))
    put(system, {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Who"}]})
    put(system, {"resourceType": "Device", "id": "device"})
    region, north, south, team = (uuid4() for _ in range(4))
    dentist = door.user(tenant)
    insert = "INSERT INTO locations (tenant_id, id, name, parent_location_id) VALUES (%s,%s,%s,%s)"
    door.execute(insert, tenant.id, region, "Region", None)
    door.execute(insert, tenant.id, north, "North", region)
    door.execute(insert, tenant.id, south, "South", None)
    door.execute(
        "INSERT INTO teams (tenant_id, id, name) VALUES (%s, %s, 'Hygiene')", tenant.id, team
    )
    door.execute(
        "INSERT INTO team_members (tenant_id, team_id, user_id) VALUES (%s, %s, %s)",
        tenant.id,
        team,
        dentist,
    )
    rows = {name: door.row_id(tenant, "Patient", name) for name in names}
    door.execute(
        "UPDATE patients SET primary_location_id = %s WHERE tenant_id = %s AND id = %s",
        north,
        tenant.id,
        rows["home-north"],
    )

    def visit(name: str, place: UUID, status: str, provider: UUID | None = None) -> None:
        door.execute(
            "INSERT INTO encounters (tenant_id, patient_id, location_id, provider_id, status,"
            " encounter_type) VALUES (%s, %s, %s, %s, %s, 'EXAM')",
            tenant.id,
            rows[name],
            place,
            provider,
            status,
        )

    visit("seen-north", north, "COMPLETED")
    visit("cancelled-north", north, "CANCELLED")
    visit("seen-south", south, "SCHEDULED")
    visit("treated", south, "COMPLETED", dentist)
    return Clinic(system, region, north, south, team, dentist)


def people(names: str) -> set[str]:
    return {f"Patient/{name}" for name in names.split()}


@pytest.mark.parametrize(
    ("resource_scope", "unit", "seen"),
    [
        ("LOCATION", "north", "home-north seen-north"),
        ("LOCATION", "region", "home-north seen-north"),
        ("LOCATION", "south", "seen-south treated"),
        ("TEAM", "team", "treated"),
        (
            "ALL_LOCATIONS",
            "",
            "home-north seen-north cancelled-north seen-south treated unseen",
        ),
        ("SELF", "", ""),
    ],
)
def test_a_role_opens_the_records_of_its_unit(
    door: Door, tenant: Tenant, clinic: Clinic, resource_scope: str, unit: str, seen: str
) -> None:
    unit_id = getattr(clinic, unit) if unit else None
    user = door.user(tenant, ("CLINICIAN", resource_scope, unit_id))
    caller = door.caller(tenant, READ, user=user)
    everybody = clinic.system.get("/Patient", params={"_count": "100"})

    assert found(caller.get("/Patient", params={"_count": "100"})) == people(seen)
    assert caller.get("/Patient", params={"_summary": "count"}).json()["total"] == len(seen.split())
    for reference in sorted(found(everybody)):
        name = reference.split("/")[1]
        status = 200 if reference in people(seen) else 404
        assert caller.get(f"/Patient/{name}").status_code == status, name
        assert caller.get(f"/Observation/of-{name}").status_code == status, name
        assert caller.get(f"/Observation/of-{name}/_history/1").status_code == status, name
    if "cancelled-north" not in seen:
        assert comparable(caller.get("/Patient/cancelled-north")) == comparable(
            caller.get("/Patient/never-was-there")
        )


def test_self_opens_the_records_of_whom_the_user_treats(
    door: Door, tenant: Tenant, clinic: Clinic
) -> None:
    door.grant(tenant, clinic.dentist, "CLINICIAN", "SELF", None)
    caller = door.caller(tenant, READ, user=clinic.dentist)

    assert found(caller.get("/Patient")) == people("treated")
    assert found(caller.get("/Observation")) == {"Observation/of-treated"}


def test_units_of_several_roles_add_up(door: Door, tenant: Tenant, clinic: Clinic) -> None:
    user = door.user(
        tenant, ("CLINICIAN", "LOCATION", clinic.north), ("CLINICIAN", "TEAM", clinic.team)
    )
    caller = door.caller(tenant, READ, user=user)

    assert found(caller.get("/Patient")) == people("home-north seen-north treated")


def test_a_scope_narrows_the_role_and_never_widens_it(
    door: Door, tenant: Tenant, clinic: Clinic
) -> None:
    user = door.user(tenant, ("CLINICIAN", "LOCATION", clinic.north))
    treated = door.row_id(tenant, "Patient", "treated")
    home = door.row_id(tenant, "Patient", "home-north")

    assert door.caller(tenant, "user/Observation.rs", user=user).get("/Patient").status_code == 403
    for scope in ("system/*.cruds", "system/Patient.rs"):
        assert door.caller(tenant, scope, user=user).get("/Patient").status_code == 403
    elsewhere = door.caller(tenant, "patient/*.rs", user=user, patient=treated)
    assert found(elsewhere.get("/Patient")) == set()
    here = door.caller(tenant, "patient/*.rs", user=user, patient=home)
    assert found(here.get("/Patient")) == people("home-north")
    both = door.caller(tenant, "patient/Patient.rs user/Patient.rs", user=user, patient=home)
    assert found(both.get("/Patient")) == people("home-north seen-north")


def test_types_without_a_patient_need_the_role_everywhere(
    door: Door, tenant: Tenant, clinic: Clinic
) -> None:
    local = door.user(tenant, ("CLINICIAN", "LOCATION", clinic.north))
    general = door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None))

    caller = door.caller(tenant, "user/*.cruds", user=local)
    assert caller.get("/Device/device").status_code == 403
    assert caller.get("/Practitioner/dr").status_code == 200
    assert door.caller(tenant, READ, user=general).get("/Device/device").status_code == 200


def test_a_role_opens_only_the_kinds_of_data_that_it_names(
    door: Door, tenant: Tenant, clinic: Clinic
) -> None:
    user = door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None))
    caller = door.caller(tenant, "user/*.cruds", user=user)

    assert caller.get("/Claim").status_code == 403
    assert caller.get("/AuditEvent").status_code == 403
    assert caller.get("/ImagingStudy").status_code == 200
    body = json.dumps({"resourceType": "Organization", "name": "Mine"})
    assert caller.post("/Organization", content=body, headers=FHIR_JSON).status_code == 403
    scientist = door.user(tenant, ("DATA_SCIENTIST", "ALL_LOCATIONS", None))
    assert door.caller(tenant, READ, user=scientist).get("/Patient").status_code == 403


def test_writes_stay_within_the_unit(door: Door, tenant: Tenant, clinic: Clinic) -> None:
    user = door.user(tenant, ("CLINICIAN", "LOCATION", clinic.north))
    caller = door.caller(tenant, "user/*.cruds", user=user)

    def create(name: str) -> httpx.Response:
        body = {k: v for k, v in observation(name).items() if k != "id"}
        return caller.post("/Observation", content=json.dumps(body), headers=FHIR_JSON)

    assert create("home-north").status_code == 201
    assert create("treated").status_code == create("nobody").status_code == 403
    assert create("treated").content == create("nobody").content
    assert caller.delete("/Observation/of-treated").status_code == 204
    assert clinic.system.get("/Observation/of-treated").status_code == 200


class TestD9:
    """An empty list of rights means none."""

    def test_no_role(self, door: Door, tenant: Tenant, clinic: Clinic) -> None:
        caller = door.caller(tenant, "user/*.cruds", user=door.user(tenant))

        for type_ in ("Patient", "Practitioner", "ValueSet", "Device", "AuditEvent"):
            assert caller.get(f"/{type_}").status_code == 403

    @pytest.mark.parametrize(
        "ending",
        [
            "UPDATE user_roles SET valid_until = now() - interval '1 s' WHERE user_id = %s",
            "UPDATE user_roles SET valid_from = now() + interval '1 h' WHERE user_id = %s",
            "DELETE FROM user_roles WHERE user_id = %s",
        ],
    )
    def test_a_role_that_does_not_hold_now(
        self, door: Door, tenant: Tenant, clinic: Clinic, ending: str
    ) -> None:
        user = door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None))
        door.execute(ending, user)

        assert door.caller(tenant, READ, user=user).get("/Patient").status_code == 403

    @pytest.mark.parametrize(
        "ending",
        [
            "UPDATE user_tenants SET status = 'INACTIVE' WHERE user_id = %s",
            "UPDATE user_tenants SET may_sign_in = false WHERE user_id = %s",
            "UPDATE users SET status = 'DISABLED' WHERE id = %s",
            "DELETE FROM user_tenants WHERE user_id = %s",
        ],
    )
    def test_a_user_who_is_no_active_member(
        self, door: Door, tenant: Tenant, clinic: Clinic, ending: str
    ) -> None:
        user = door.user(tenant)
        door.execute(ending, user)

        assert door.caller(tenant, READ, user=user).get("/Patient").status_code == 401

    def test_a_place_that_is_gone(self, door: Door, tenant: Tenant, clinic: Clinic) -> None:
        empty = uuid4()
        door.execute(
            "INSERT INTO locations (tenant_id, id, name) VALUES (%s, %s, 'Empty')", tenant.id, empty
        )
        user = door.user(tenant, ("CLINICIAN", "LOCATION", empty))

        assert found(door.caller(tenant, READ, user=user).get("/Patient")) == set()

    def test_another_tenants_roles_count_for_nothing(
        self, door: Door, tenant: Tenant, other_tenant: Tenant, clinic: Clinic
    ) -> None:
        user = door.user(other_tenant, ("CLINICIAN", "ALL_LOCATIONS", None))
        assert door.caller(other_tenant, READ, user=user).get("/Patient").status_code == 200

        assert door.caller(tenant, READ, user=user).get("/Patient").status_code == 401


def test_a_user_who_is_a_patient_sees_the_own_record(
    door: Door, tenant: Tenant, clinic: Clinic
) -> None:
    own = door.row_id(tenant, "Patient", "unseen")
    user = door.user(tenant, ("PATIENT", "SELF", None), user_type="PATIENT", patient=own)
    for scope in ("user/*.rs", "patient/*.rs"):
        caller = door.caller(tenant, scope, user=user)
        assert found(caller.get("/Patient")) == people("unseen")
        assert caller.get("/Observation/of-treated").status_code == 404
    other = door.row_id(tenant, "Patient", "treated")
    forged = door.caller(tenant, "patient/*.rs", user=user, patient=other)
    assert found(forged.get("/Patient")) == set()
