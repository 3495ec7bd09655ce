"""Clients that work for others see only the records of patients who have consented (part 4).

A refusal is explained in the audit row, never to the caller; a revocation holds with the next read.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest

from storage.tenancy import Tenant
from tests.integration.access.conftest import Door, comparable, found, put

NAMES = ["agreed", "silent", "refused", "revoked", "expired", "research", "later-no", "elsewhere"]


def observation(name: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"of-{name}",
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": f"Patient/{name}"},
        **more,
    }


@pytest.fixture(scope="module")
def rows(door: Door, tenant: Tenant) -> dict[str, UUID]:
    system = door.system(tenant)
    for name in NAMES:
        put(system, {"resourceType": "Patient", "id": name, "name": [{"family": name}]})
        put(system, observation(name))
    put(system, observation("shared", subject={"reference": "Patient/agreed"}, performer=[
        {"reference": "Patient/silent"}]))  # fmt: skip
    put(system, observation("unknown", subject={"reference": "Patient/never"}))
    put(system, observation("by-number", subject={"identifier": {"value": "1"}}))
    put(system, {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Who"}]})
    put(system, {"resourceType": "Device", "id": "device"})
    return {name: door.row_id(tenant, "Patient", name) for name in NAMES}


@pytest.fixture(scope="module")
def said(door: Door, tenant: Tenant, rows: dict[str, UUID]) -> dict[str, UUID]:
    def say(name: str, consent: str = "DATA_SHARING", **times: str) -> None:
        columns = ", ".join(times)
        values = ", ".join(f"now() + interval '{value}'" for value in times.values())
        door.execute(
            "INSERT INTO consents (tenant_id, subject_type, subject_id, consent_type,"
            f" {columns}) VALUES (%s, 'PATIENT', %s, %s, {values})",
            tenant.id,
            rows[name],
            consent,
        )

    say("agreed", granted_at="-2 days", expires_at="2 days")
    say("refused", refused_at="-1 days")
    say("revoked", granted_at="-3 days", revoked_at="-1 days")
    say("expired", granted_at="-3 days", expires_at="-1 days")
    say("research", "RESEARCH", granted_at="-1 days")
    say("later-no", granted_at="-3 days")
    say("later-no", refused_at="-1 days")
    say("elsewhere", "AI_ANALYSIS", granted_at="-1 days")
    return rows


@pytest.fixture(scope="module")
def outside(door: Door, tenant: Tenant, said: dict[str, UUID]) -> httpx.Client:
    """A client of another organization."""
    client = door.api_client(tenant, "DATA_SHARING")
    return door.caller(tenant, "system/*.cruds", client=client)


def test_only_who_agreed_is_disclosed(outside: httpx.Client) -> None:
    assert found(outside.get("/Patient")) == {"Patient/agreed"}
    assert found(outside.get("/Observation")) == {"Observation/of-agreed"}
    assert outside.get("/Observation", params={"_summary": "count"}).json()["total"] == 1
    for name in NAMES:
        status = 200 if name == "agreed" else 404
        assert outside.get(f"/Patient/{name}").status_code == status, name
        assert outside.get(f"/Observation/of-{name}").status_code == status, name
        assert outside.get(f"/Observation/of-{name}/_history/1").status_code == status, name


def test_every_patient_of_a_resource_must_agree(outside: httpx.Client) -> None:
    for name in ("shared", "unknown", "by-number"):
        assert outside.get(f"/Observation/of-{name}").status_code == 404, name


def test_what_is_no_patients_needs_no_consent_and_what_may_be_is_refused(
    outside: httpx.Client,
) -> None:
    assert outside.get("/Practitioner/dr").status_code == 200
    assert outside.get("/Device/device").status_code == 403


def test_another_purpose_asks_for_another_consent(
    door: Door, tenant: Tenant, said: dict[str, UUID]
) -> None:
    client = door.api_client(tenant, "RESEARCH")
    research = door.caller(tenant, "system/*.rs", client=client)

    assert found(research.get("/Patient")) == {"Patient/research"}


def test_clients_of_the_care_organization_need_none(
    door: Door, tenant: Tenant, said: dict[str, UUID]
) -> None:
    own = door.caller(tenant, "system/*.rs", client=door.api_client(tenant))

    assert found(own.get("/Patient")) == {f"Patient/{name}" for name in NAMES}


def test_the_audit_says_why_and_the_answer_does_not(
    door: Door, tenant: Tenant, outside: httpx.Client
) -> None:
    refused = outside.get("/Patient/refused")
    why = door.last_audit(tenant)
    nothing = outside.get("/Patient/nobodyy")
    never = door.last_audit(tenant)

    assert comparable(refused) == comparable(nothing)
    assert "consent" not in refused.text
    assert (why["outcome"], why["metadata"]["refused"]) == ("FAILURE", "consent")
    assert never["metadata"]["refused"] != "consent"


def test_a_revocation_holds_with_the_next_read(
    door: Door, tenant: Tenant, rows: dict[str, UUID], said: dict[str, UUID], outside: httpx.Client
) -> None:
    mine = "WHERE tenant_id = %s AND subject_id = %s"
    assert outside.get("/Patient/agreed").status_code == 200

    door.execute(f"UPDATE consents SET revoked_at = now() {mine}", tenant.id, rows["agreed"])
    try:
        assert outside.get("/Patient/agreed").status_code == 404
        assert found(outside.get("/Observation")) == set()
    finally:
        door.execute(f"UPDATE consents SET revoked_at = NULL {mine}", tenant.id, rows["agreed"])
    assert outside.get("/Patient/agreed").status_code == 200


def test_d9_a_consent_row_that_is_gone_is_no_consent(
    door: Door, tenant: Tenant, rows: dict[str, UUID], said: dict[str, UUID], outside: httpx.Client
) -> None:
    kept = door.execute(
        "DELETE FROM consents WHERE tenant_id = %s AND subject_id = %s RETURNING id",
        tenant.id,
        rows["agreed"],
    )
    assert kept
    try:
        assert outside.get("/Patient/agreed").status_code == 404
        assert found(outside.get("/Patient")) == set()
    finally:
        door.execute(
            "INSERT INTO consents (tenant_id, subject_type, subject_id, consent_type, granted_at)"
            " VALUES (%s, 'PATIENT', %s, 'DATA_SHARING', now() - interval '1 d')",
            tenant.id,
            rows["agreed"],
        )


def test_writes_of_others_stay_among_the_consenting(outside: httpx.Client) -> None:
    assert outside.delete("/Observation/of-silent").status_code == 204
    assert comparable(outside.delete("/Observation/of-silent")) == comparable(
        outside.delete("/Observation/of-nobody")
    )


def test_patients_need_no_consent_to_their_own_record(
    door: Door, tenant: Tenant, said: dict[str, UUID]
) -> None:
    """The app of another organization, in the patient's own hands."""
    client = door.api_client(tenant, "DATA_SHARING")
    user = door.user(tenant, ("PATIENT", "SELF", None), user_type="PATIENT", patient=said["silent"])
    clinician = door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None))

    own = door.caller(tenant, "patient/*.rs", client=client, user=user)
    assert found(own.get("/Patient")) == {"Patient/silent"}
    theirs = door.caller(tenant, "user/*.rs", client=client, user=clinician)
    assert found(theirs.get("/Patient")) == {"Patient/agreed"}
