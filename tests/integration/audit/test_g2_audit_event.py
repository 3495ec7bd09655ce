"""G2 of security.md: AuditEvent by the patterns of IHE BALP, searchable, and read by who may."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from interop.fhir import gate
from interop.fhir import json as fhir_json
from storage.audit_chain import AuditKey
from storage.encryption import MasterKey
from storage.tenancy import Tenant
from tests.audit_horizon import seal_settled
from tests.integration.access.conftest import FHIR_JSON, Door, put
from tests.integration.audit.conftest import Watch

DCM = "http://dicom.nema.org/resources/ontology/DCM"
ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
PROFILE = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
PATIENT = {"resourceType": "Patient", "id": "p1", "name": [{"family": "Kuckuck"}]}
WEIGHT: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "code": {"text": "weight"},
    "subject": {"reference": "Patient/p1"},
}


@pytest.fixture(scope="module")
def fhir(door: Door, tenant: Tenant) -> httpx.Client:
    client = door.system(tenant)
    for resource in (PATIENT, {**PATIENT, "id": "p2"}, WEIGHT):
        put(client, resource)
    put(client, {"resourceType": "Location", "id": "l1", "name": "Room 1"})
    return client


def agent(event: dict[str, Any], system: str, code: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [
        one
        for one in event["agent"]
        for coding in one["type"]["coding"]
        if (coding["system"], coding["code"]) == (system, code)
    ]
    assert len(found) == 1, event["agent"]
    return found[0]


def entities(event: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [
        one
        for one in event.get("entity", ())
        if one.get("role") and (one["role"]["system"], one["role"]["code"]) == (ROLE, role)
    ]


def events(client: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:
    response = client.get("/AuditEvent", params=parameters)
    assert response.status_code == 200, response.text
    return [entry["resource"] for entry in response.json().get("entry", ())]


# What BALP 1.1 asks for each: interaction, action, roles of client and server, and the entity.
PATTERNS = [
    ("PatientRead", "GET", "/Patient/p1", "read", "R", "110152", "110153"),
    ("Read", "GET", "/Location/l1", "read", "R", "110152", "110153"),
    ("PatientRead", "GET", "/Patient/p1/_history/1", "vread", "R", "110152", "110153"),
    ("PatientQuery", "GET", "/Observation?patient=p1", "search", "E", "110153", "110152"),
    ("Query", "GET", "/Location?name=Room%201", "search", "E", "110153", "110152"),
    ("PatientCreate", "PUT", "/Observation/o2", "create", "C", "110153", "110152"),
    ("PatientUpdate", "PUT", "/Observation/o2", "update", "U", "110153", "110152"),
    ("PatientDelete", "DELETE", "/Observation/o2", "delete", "D", "110150", None),
]


@pytest.mark.parametrize(
    ("profile", "method", "path", "interaction", "action", "client", "server"), PATTERNS
)
def test_g2_each_event_meets_its_balp_profile(
    door: Door,
    tenant: Tenant,
    fhir: httpx.Client,
    watch: Watch,
    profile: str,
    method: str,
    path: str,
    interaction: str,
    action: str,
    client: str,
    server: str | None,
) -> None:
    caller = door.caller(tenant, "system/*.cruds", client=door.api_client(tenant))
    content = {**WEIGHT, "id": "o2", "valueString": interaction}
    body = {"content": json.dumps(content), "headers": FHIR_JSON} if method == "PUT" else {}
    (row,) = watch.during(lambda: caller.request(method, path, **body))

    event = fhir.get(f"/AuditEvent/{row.row['id']}").json()

    gate.check(fhir_json.loads(json.dumps(event).encode()), "AuditEvent")
    assert event["meta"]["profile"] == [PROFILE + profile]
    assert event["type"]["code"] == "rest"
    restful = "http://hl7.org/fhir/restful-interaction"
    assert {"system": restful, "code": interaction, "display": interaction} in event["subtype"]
    assert (event["action"], event["outcome"]) == (action, "0")
    asking = agent(event, DCM, client)
    assert asking["network"] == {"address": "127.0.0.1", "type": "2"}
    assert asking["who"]["identifier"]["value"]
    custodian = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
    answering = agent(event, DCM, server) if server else agent(event, custodian, "custodian")
    assert answering["who"] and answering["network"]["type"] == "5"
    (transaction,) = [one for one in event["entity"] if one["type"]["code"] == "XrequestId"]
    assert transaction["what"]["identifier"]["value"] == row.row["request_id"]
    patients = entities(event, "1")
    assert [one["what"]["reference"] for one in patients] == (
        ["Patient/p1"] if profile.startswith("Patient") else []
    )
    if interaction == "search":
        (query,) = entities(event, "24")
        asked = base64.b64decode(query["query"]).decode()
        assert asked.endswith(path.replace("%20", "+"))
        assert query["type"]["code"] == "2" and "what" not in query
    else:
        (data,) = entities(event, "4")
        assert data["type"] == {"system": TYPE, "code": "2", "display": "System Object"}
        assert data["what"]["reference"] == "/".join(path.strip("/").split("/")[:2])


def test_g2_a_user_is_an_agent_of_its_own(
    door: Door, tenant: Tenant, fhir: httpx.Client, watch: Watch
) -> None:
    user = door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None))
    (row,) = watch.during(lambda: door.caller(tenant, "user/*.rs", user=user).get("/Patient/p1"))

    event = fhir.get(f"/AuditEvent/{row.row['id']}").json()

    who = agent(event, "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP")
    assert who["who"] == {"reference": f"Practitioner/{user}"}
    assert who["requestor"] is True and "network" not in who
    assert [one["id"] for one in events(fhir, agent=f"Practitioner/{user}")] == [event["id"]]


def test_g2_a_search_over_many_patients_names_them_all(fhir: httpx.Client, watch: Watch) -> None:
    (row,) = watch.during(lambda: fhir.get("/Patient?name=kuck"))

    event = fhir.get(f"/AuditEvent/{row.row['id']}").json()

    assert {one["what"]["reference"] for one in entities(event, "1")} == {
        "Patient/p1",
        "Patient/p2",
    }
    for patient in ("p1", "Patient/p2"):
        assert event["id"] in [one["id"] for one in events(fhir, patient=patient)]


def test_g2_events_are_found_by_every_parameter(fhir: httpx.Client, watch: Watch) -> None:
    (row,) = watch.during(lambda: fhir.get("/Patient/p1"))
    (missing,) = watch.during(lambda: fhir.get("/Patient/nobody"))
    wanted, failed = row.row["id"], missing.row["id"]
    now = datetime.now(UTC)

    def ids(**parameters: Any) -> list[str]:
        return [one["id"] for one in events(fhir, _count=1000, **parameters)]

    assert ids(_id=wanted) == [wanted]
    assert wanted in ids(patient="p1", action="R", outcome="0", type="rest", subtype="read")
    assert wanted in ids(entity="Patient/p1")
    assert wanted not in ids(entity="Patient/p2")
    assert failed in ids(outcome="4") and failed not in ids(outcome="0,8")
    assert wanted not in ids(action="C") and wanted not in ids(subtype="vread")
    assert wanted in ids(date=f"ge{now - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}")
    assert ids(date=f"lt{now - timedelta(days=1):%Y-%m-%d}") == []
    assert ids(date=f"gt{now + timedelta(days=1):%Y-%m-%d}") == []
    assert fhir.get("/AuditEvent?colour=red").status_code == 400
    assert fhir.get("/AuditEvent?date=yesterday").status_code == 400


def test_g2_sealing_changes_nothing_of_what_a_search_finds(
    door: Door, tenant: Tenant, fhir: httpx.Client
) -> None:
    since = f"ge{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    before = {one["id"] for one in events(fhir, date=since, _count=1000)}

    assert seal_settled(door.services.database, tenant.id, AuditKey(MasterKey(bytes(32)))) > 0

    assert before <= {one["id"] for one in events(fhir, date=since, _count=1000)}
    assert before


def test_g2_pages_go_through_all_events_once(fhir: httpx.Client) -> None:
    for _ in range(7):
        fhir.get("/Location/l1")
    url: str | None = "/AuditEvent?entity=Location/l1&_count=3"
    seen: list[str] = []
    times: list[str] = []
    while url:
        page = fhir.get(url).json()
        seen += [entry["resource"]["id"] for entry in page.get("entry", ())]
        times += [entry["resource"]["recorded"] for entry in page.get("entry", ())]
        url = next((one["url"] for one in page["link"] if one["relation"] == "next"), None)

    assert len(seen) == len(set(seen)) >= 7
    assert times == sorted(times, reverse=True)


def test_g2_the_log_is_open_to_those_who_may(
    door: Door, tenant: Tenant, other_tenant: Tenant, fhir: httpx.Client, watch: Watch
) -> None:
    (row,) = watch.during(lambda: fhir.get("/Patient/p1"))
    url = f"/AuditEvent/{row.row['id']}"
    clinician = door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None))
    auditor = door.user(tenant, ("READ_ONLY_AUDITOR", "ALL_LOCATIONS", None))

    assert door.caller(tenant, "user/*.rs", user=clinician).get(url).status_code == 403
    assert door.caller(tenant, "system/Patient.rs").get(url).status_code == 403
    assert door.caller(tenant, "user/AuditEvent.rs", user=auditor).get(url).status_code == 200
    assert door.system(other_tenant).get(url).status_code == 404
    assert events(door.system(other_tenant), _id=row.row["id"]) == []


def test_g2_a_patient_in_context_sees_who_looked_and_nobody_else(
    door: Door, tenant: Tenant, fhir: httpx.Client, watch: Watch
) -> None:
    (both,) = watch.during(lambda: fhir.get("/Patient?name=kuck"))
    (other,) = watch.during(lambda: fhir.get("/Patient/p2"))
    auditor = door.user(tenant, ("READ_ONLY_AUDITOR", "ALL_LOCATIONS", None))
    mine = door.caller(
        tenant,
        "patient/AuditEvent.rs",
        user=auditor,
        patient=door.row_id(tenant, "Patient", "p1"),
    )

    found = {one["id"]: one for one in events(mine, _count=1000)}

    assert other.row["id"] not in found
    shared = entities(found[both.row["id"]], "1")
    assert [one["what"]["reference"] for one in shared] == ["Patient/p1"]
    assert events(mine, patient="p2") == []
    assert mine.get(f"/AuditEvent/{other.row['id']}").status_code == 404


def test_g2_an_unknown_patient_matches_nothing(fhir: httpx.Client) -> None:
    assert events(fhir, patient=str(uuid4())) == []
    assert events(fhir, patient="nobody") == []
