"""Breaking the glass (security.md E10): a reason, an hour, an alert, and a log of every read."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from storage.tenancy import Tenant
from tests.integration.access.conftest import Door, comparable, found, put

REASON = "Found unconscious, allergies unknown"


@pytest.fixture(scope="module")
def record(door: Door, tenant: Tenant) -> UUID:
    system = door.system(tenant)
    for name in ("hurt", "other"):
        put(system, {"resourceType": "Patient", "id": name, "name": [{"family": name}]})
        put(
            system,
            {
                "resourceType": "Observation",
                "id": f"of-{name}",
                "status": "final",
                "code": {"text": "x"},
                "subject": {"reference": f"Patient/{name}"},
            },
        )
    return door.row_id(tenant, "Patient", "hurt")


@pytest.fixture
def clinician(door: Door, tenant: Tenant, record: UUID) -> UUID:
    """A clinician of a place where nobody has been."""
    place = uuid4()
    door.execute(
        "INSERT INTO locations (tenant_id, id, name) VALUES (%s, %s, 'Empty')", tenant.id, place
    )
    return door.user(tenant, ("CLINICIAN", "LOCATION", place))


def open_record(
    door: Door, tenant: Tenant, user: UUID, scope: str = "user/*.cruds", **body: Any
) -> httpx.Response:
    given = {"patient": "Patient/hurt", "reason": REASON} | body
    caller = door.caller(tenant, scope, user=user, door="")
    return caller.post("/emergency-access", json=given)


def with_access(
    door: Door, tenant: Tenant, user: UUID, opened: httpx.Response, scope: str = "user/*.cruds"
) -> httpx.Client:
    assert opened.status_code == 201, opened.text
    caller = door.caller(tenant, scope, user=user)
    caller.headers.update(opened.json()["send"])
    return caller


def test_the_record_opens_to_who_says_why_and_each_read_is_logged(
    door: Door, tenant: Tenant, clinician: UUID, record: UUID
) -> None:
    before = door.caller(tenant, "user/*.cruds", user=clinician)
    assert before.get("/Patient/hurt").status_code == 404

    opened = open_record(door, tenant, clinician)
    caller = with_access(door, tenant, clinician, opened)

    assert caller.get("/Patient/hurt").status_code == 200
    assert caller.get("/Observation/of-hurt/_history/1").status_code == 200
    assert found(caller.get("/Observation")) == {"Observation/of-hurt"}
    assert comparable(caller.get("/Patient/other")) == comparable(caller.get("/Patient/nobod"))
    assert before.get("/Patient/hurt").status_code == 404  # without the header as before
    logged = door.execute(
        "SELECT p.action, p.is_break_glass, p.break_glass_reason, p.patient_id"
        " FROM phi_access_logs AS p JOIN audit_events AS e ON e.tenant_id = p.tenant_id"
        " AND e.id = p.audit_event_id WHERE e.tenant_id = %s AND e.user_id = %s"
        " ORDER BY p.accessed_at",
        tenant.id,
        clinician,
    )
    access = opened.json()["id"]
    reads = [row for row in logged if row[1]]
    assert [row[0] for row in reads] == ["READ", "READ", "SEARCH"]
    assert all(row[2:] == (access, record) for row in reads)


def test_opening_alerts_and_is_audited(
    door: Door, tenant: Tenant, clinician: UUID, record: UUID
) -> None:
    opened = open_record(door, tenant, clinician)

    audit = door.last_audit(tenant)
    alerts = door.execute(
        "SELECT payload FROM outbox WHERE tenant_id = %s AND topic = 'security.break_glass'"
        " ORDER BY id DESC LIMIT 1",
        tenant.id,
    )
    assert (audit["event_type"], audit["outcome"]) == ("EMERGENCY_ACCESS", "SUCCESS")
    assert audit["patient_id"] == str(record)
    assert alerts[0][0]["emergency_access"] == opened.json()["id"]
    assert REASON not in str(alerts) + str(audit)


@pytest.mark.parametrize(
    "body",
    [
        {"reason": ""},
        {"reason": "urgent"},
        {"reason": " " * 40},
        {"reason": None},
        {"reason": "x" * 1001},
        {"patient": "Observation/of-hurt"},
        {"patient": "*"},
        {"for": "ever"},
    ],
)
def test_without_a_reason_nothing_opens(
    door: Door, tenant: Tenant, clinician: UUID, body: dict[str, Any]
) -> None:
    response = open_record(door, tenant, clinician, **body)

    assert response.status_code == 400
    assert door.last_audit(tenant)["outcome"] == "FAILURE"


def test_after_the_hour_it_is_over(door: Door, tenant: Tenant, clinician: UUID) -> None:
    caller = with_access(door, tenant, clinician, open_record(door, tenant, clinician))
    assert caller.get("/Patient/hurt").status_code == 200

    door.execute(
        "UPDATE emergency_accesses SET opened_at = opened_at - interval '61 minutes',"
        " expires_at = expires_at - interval '61 minutes' WHERE user_id = %s",
        clinician,
    )

    assert caller.get("/Patient/hurt").status_code == 403
    assert caller.get("/Observation").status_code == 403


def test_an_access_is_its_users_alone(
    door: Door, tenant: Tenant, other_tenant: Tenant, clinician: UUID
) -> None:
    opened = open_record(door, tenant, clinician)
    colleague = door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None))
    stranger = door.user(other_tenant, ("CLINICIAN", "ALL_LOCATIONS", None))

    for where, user in ((tenant, colleague), (other_tenant, stranger), (tenant, None)):
        caller = door.caller(where, "user/*.rs system/*.rs", user=user)
        caller.headers.update(opened.json()["send"])
        assert caller.get("/Patient").status_code == 403
    caller = door.caller(tenant, "user/*.rs", user=clinician)
    caller.headers["Emergency-Access"] = "nonsense"
    assert caller.get("/Patient").status_code == 403


def test_it_reads_and_never_writes(door: Door, tenant: Tenant, clinician: UUID) -> None:
    caller = with_access(door, tenant, clinician, open_record(door, tenant, clinician))

    assert caller.delete("/Observation/of-hurt").status_code == 403
    assert door.system(tenant).get("/Observation/of-hurt").status_code == 200


def test_kinds_of_data_and_scopes_still_bound_it(
    door: Door, tenant: Tenant, clinician: UUID
) -> None:
    opened = open_record(door, tenant, clinician)
    caller = with_access(door, tenant, clinician, opened)
    narrow = with_access(door, tenant, clinician, opened, scope="user/Observation.rs")

    assert caller.get("/Claim").status_code == 403
    assert narrow.get("/Patient/hurt").status_code == 403
    assert narrow.get("/Observation/of-hurt").status_code == 200


@pytest.mark.parametrize("role", [None, "READ_ONLY_AUDITOR", "DATA_SCIENTIST", "PATIENT"])
def test_it_needs_the_permission(
    door: Door, tenant: Tenant, record: UUID, role: str | None
) -> None:
    user = door.user(tenant, *([(role, "ALL_LOCATIONS", None)] if role else []))

    assert open_record(door, tenant, user).status_code == 403
    assert open_record(door, tenant, user, scope="user/Observation.rs").status_code == 403
    system = door.caller(tenant, "system/*.cruds", door="")
    body = {"patient": "Patient/hurt", "reason": REASON}
    assert system.post("/emergency-access", json=body).status_code == 403


def test_another_tenants_patient_is_nobody(
    door: Door, tenant: Tenant, other_tenant: Tenant, record: UUID
) -> None:
    user = door.user(other_tenant, ("CLINICIAN", "ALL_LOCATIONS", None))

    theirs = open_record(door, other_tenant, user, patient="Patient/hurt")
    nobodys = open_record(door, other_tenant, user, patient="Patient/nope")

    assert theirs.status_code == 404
    assert comparable(theirs) == comparable(nobodys)
