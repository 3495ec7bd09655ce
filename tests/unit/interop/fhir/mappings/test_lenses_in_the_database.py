"""Lenses against the real tables, driven by the engine's own writing and rendering."""

from __future__ import annotations

import copy
import gzip
import importlib
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import jsonschema_rs
import psycopg
import pytest

from ai.routing import has_consent
from interop.access import Caller, Scopes
from interop.errors import Conflict, Unprocessable
from interop.fhir import gate
from interop.fhir import json as fhir_json
from interop.fhir.mappings import LENSES, perio, perio_sites, references
from interop.fhir.mappings.ai_device import DISCLAIMER
from interop.fhir.mappings.body_site import tooth_of
from interop.fhir.mappings.practitioner import NOT_PRESENTED
from interop.fhir.mappings.related_person import RELATED_PATIENT
from interop.fhir.rendering import render_stale
from interop.fhir.writing import Precondition, Writer
from storage import resources
from storage.database import Database
from storage.tenancy import Tenant

SHARED = Path(__file__).parents[6] / "shared" / "fhir"
BASE = "https://example.org/t/demo/fhir/R4"
NOW = datetime(2026, 11, 1, 10, 15, 0, 250000, tzinfo=UTC)
Resource = dict[str, Any]


class Server:
    """What the engine does of a request that concerns lenses, in one tenant."""

    def __init__(self, database: Database, tenant: Tenant) -> None:
        self.database = database
        self.tenant_id = tenant.id
        caller = Caller(
            tenant=tenant,
            actor_type="SYSTEM",
            actor_id=None,
            actor_name="test",
            scopes=Scopes.parse("system/*.cruds"),
            request_id="test",
            remote_address="127.0.0.1",
            user_agent="pytest",
        )
        self.writer = Writer(database, caller, BASE)

    def write(self, resource: Resource) -> Resource:
        self.writer.update(resource["id"], resource, Precondition())
        return resource

    def stored(self, resource_type: str, resource_id: str | UUID) -> Resource:
        """The bytes of the last version, as a search or history finds them before a rendering."""
        with self.database.connection(self.tenant_id) as connection:
            found = resources.current(connection, self.tenant_id, resource_type, str(resource_id))
        assert found is not None and found.body
        return without_stamps(fhir_json.loads(found.body.encode()))

    def delete(self, resource_type: str, resource_id: str) -> None:
        self.writer.delete(resource_type, resource_id, Precondition())

    def read(self, resource_type: str, resource_id: str | UUID) -> Resource | None:
        """The resource as it is served, its rows rendered into it; without what engines stamp."""
        render_stale(self.database, self.tenant_id, own_base=BASE)
        with self.database.connection(self.tenant_id) as connection:
            stored = resources.current(connection, self.tenant_id, resource_type, str(resource_id))
        if stored is None or stored.deleted or not stored.body:
            return None
        resource = fhir_json.loads(stored.body.encode())
        assert_conforms(resource)
        return without_stamps(resource)

    def one(self, resource_type: str, resource_id: str | UUID) -> Resource:
        resource = self.read(resource_type, resource_id)
        assert resource is not None
        return resource

    def sql(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        with self.database.connection(self.tenant_id) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def add(self, table: str, **values: object) -> UUID:
        """A row that other code than a lens has written."""
        row = {"id": uuid4(), "tenant_id": self.tenant_id, **values}
        if table in ("users", "ai_models", "ai_model_versions"):
            del row["tenant_id"]
        with self.database.connection(self.tenant_id) as connection:
            names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, row))
            places = psycopg.sql.SQL(", ").join(map(psycopg.sql.Placeholder, row))
            statement = psycopg.sql.SQL("INSERT INTO {} ({}) VALUES ({})")
            connection.execute(statement.format(psycopg.sql.Identifier(table), names, places), row)
        made = row["id"]
        assert isinstance(made, UUID)
        return made


def without_stamps(resource: Resource) -> Resource:
    meta = {k: v for k, v in resource["meta"].items() if k not in ("versionId", "lastUpdated")}
    rest = {key: item for key, item in resource.items() if key != "meta"}
    return {**rest, "meta": meta} if meta else rest


@cache
def _validator() -> Any:
    path = SHARED / "r4" / "fhir.schema.json.gz"
    return jsonschema_rs.validator_for(json.loads(gzip.decompress(path.read_bytes())))


def assert_conforms(resource: Resource) -> None:
    """Valid by the server's gate, by the official JSON Schema where at hand, by fhir.resources."""
    gate.check(resource, resource["resourceType"])
    plain = json.loads(fhir_json.dumps(resource))
    if (SHARED / "r4" / "fhir.schema.json.gz").exists():
        assert [error.message for error in _validator().iter_errors(plain)] == []
    name = resource["resourceType"]
    model = getattr(importlib.import_module(f"fhir.resources.R4B.{name.lower()}"), name)
    model.model_validate(plain)


@pytest.fixture(scope="module")
def server(database: Database, tenant: Tenant) -> Iterator[Server]:
    yield Server(database, tenant)


@pytest.fixture(scope="module")
def other_server(database: Database, other_tenant: Tenant) -> Server:
    return Server(database, other_tenant)


def unique(name: str) -> str:
    return f"{name}-{uuid4().hex[:12]}"


def a_patient(server: Server, **elements: Any) -> Resource:
    return server.write({"resourceType": "Patient", "id": unique("patient"), **elements})


def row_of(server: Server, resource: Resource) -> UUID:
    found = server.sql(
        "SELECT row_id FROM fhir_resources WHERE resource_type = %s AND resource_id = %s",
        resource["resourceType"],
        resource["id"],
    )
    row_id = found[0][0]
    assert isinstance(row_id, UUID)
    return row_id


def subject(patient: Resource) -> Resource:
    return {"reference": f"Patient/{patient['id']}"}


RICH_PATIENT: Resource = {
    "extension": [{"url": "urn:client", "valueDecimal": Decimal("12500.00")}],
    "identifier": [
        {
            "use": "usual",
            "type": {
                "coding": [
                    {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}
                ]
            },
            "system": "http://clinic.example/mrn",
            "value": "4711",
        },
        {"system": "urn:driving", "value": "X", "type": {"text": "driving licence"}},
    ],
    "active": True,
    "name": [
        {"use": "old", "family": "Maiden"},
        {
            "use": "official",
            "family": "Baxter",
            "_family": {"extension": [{"url": "urn:client", "valueString": "own"}]},
            "given": ["Amy", "V."],
        },
    ],
    "telecom": [
        {"system": "email", "value": "amy@example.com", "rank": 1},
        {"system": "phone", "use": "home", "value": "555-1"},
        {"system": "fax", "value": "555-9"},
    ],
    "gender": "female",
    "birthDate": "1987-02-20",
    "_birthDate": {
        "extension": [
            {
                "url": "http://hl7.org/fhir/StructureDefinition/patient-birthTime",
                "valueDateTime": "1987-02-20T10:00:00+02:00",
            }
        ]
    },
    "address": [
        {"use": "old", "line": ["49 Meadow St"], "city": "Mounds"},
        {"line": ["183 Mountain View St", "Floor 2", "Left"], "city": "Tulsa", "state": "OK"},
    ],
    "contact": [{"name": {"text": "Shaw"}}],
}


# -- Patient --------------------------------------------------------------------------------------


def test_a_patient_becomes_rows_and_comes_back_whole(server: Server) -> None:
    patient = a_patient(server, **RICH_PATIENT)

    row_id = row_of(server, patient)
    row = server.sql(
        "SELECT first_name, middle_name, last_name, dob, sex_at_birth, contact_email, phone_home,"
        " status FROM patients WHERE id = %s",
        row_id,
    )
    numbers = server.sql(
        "SELECT system, assigner, value, is_primary FROM patient_identifiers WHERE patient_id = %s",
        row_id,
    )

    assert row == [
        ("Amy", "V.", "Baxter", date(1987, 2, 20), "FEMALE", "amy@example.com", "555-1", "ACTIVE")
    ]
    assert numbers == [("MRN", "http://clinic.example/mrn", "4711", True)]
    server.sql("UPDATE patients SET updated_by = 'touched' WHERE id = %s", row_id)
    assert server.read("Patient", patient["id"]) == patient


def test_a_row_changed_by_sql_shows_with_the_clients_elements_intact(server: Server) -> None:
    patient = a_patient(server, **RICH_PATIENT)
    row_id = row_of(server, patient)

    server.sql(
        "UPDATE patients SET phone_home = '555-2', dob = '1987-02-21', last_name = 'Shaw',"
        " preferred_contact_method = 'EMAIL' WHERE id = %s",
        row_id,
    )

    expected = copy.deepcopy(patient)
    expected["telecom"][1]["value"] = "555-2"
    expected["birthDate"] = "1987-02-21"
    expected["name"][1]["family"] = "Shaw"
    del expected["name"][1]["_family"]
    assert server.read("Patient", patient["id"]) == expected


def test_columns_without_a_place_in_the_resource_are_kept_on_write(server: Server) -> None:
    patient = a_patient(server, **RICH_PATIENT)
    row_id = row_of(server, patient)
    server.sql("UPDATE patients SET preferred_contact_method = 'SMS' WHERE id = %s", row_id)

    server.write({**patient, "gender": "other"})

    found = server.sql(
        "SELECT preferred_contact_method, sex_at_birth FROM patients WHERE id = %s", row_id
    )
    assert found == [("SMS", "OTHER")]


def test_child_rows_follow_the_list_and_keep_their_ids(server: Server) -> None:
    patient = a_patient(server, **RICH_PATIENT)
    row_id = row_of(server, patient)
    query: LiteralString = (
        "SELECT id, city FROM patient_addresses WHERE patient_id = %s ORDER BY city"
    )
    before = server.sql(query, row_id)

    moved = copy.deepcopy(patient)
    moved["address"][1]["city"] = "Zurich"
    moved["address"].append({"city": "Aachen"})
    server.write(moved)

    after = server.sql(query, row_id)
    assert [city for _, city in after] == ["Aachen", "Mounds", "Zurich"]
    assert {row for row, _ in before} <= {row for row, _ in after}


def test_a_patient_made_by_ingest_is_presented(server: Server) -> None:
    row_id = server.add("patients", last_name="Yamada", first_name="Taro", dob=date(1970, 1, 2))
    server.add("patient_identifiers", patient_id=row_id, system="MRN", assigner="CLINIC", value="7")

    patient = server.one("Patient", row_id)

    assert patient["name"] == [{"use": "official", "family": "Yamada", "given": ["Taro"]}]
    assert patient["identifier"][0]["assigner"] == {"display": "CLINIC"}
    assert "system" not in patient["identifier"][0]


def test_a_patient_with_records_is_not_deleted(server: Server) -> None:
    patient = a_patient(server)
    server.write(
        {
            "resourceType": "Condition",
            "id": unique("condition"),
            "subject": subject(patient),
            "code": {"text": "caries"},
        }
    )

    with pytest.raises(Conflict, match="patient_conditions"):
        server.delete("Patient", patient["id"])


def test_a_value_that_the_tables_refuse_is_unprocessable(server: Server) -> None:
    patient = a_patient(server)
    oneself = {"url": RELATED_PATIENT, "valueReference": subject(patient)}

    with pytest.raises(Unprocessable, match="not_self"):
        server.write(
            {
                "resourceType": "RelatedPerson",
                "id": unique("self"),
                "extension": [oneself],
                "patient": subject(patient),
                "relationship": [{"coding": [role_code("SPS")]}],
            }
        )


def role_code(code: str) -> Resource:
    return {"system": "http://terminology.hl7.org/CodeSystem/v3-RoleCode", "code": code}


# -- references -----------------------------------------------------------------------------------


def an_encounter(patient_id: str, **elements: Any) -> Resource:
    ambulatory = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    return {
        "resourceType": "Encounter",
        "id": unique("encounter"),
        "status": "finished",
        "class": ambulatory,
        "subject": {"reference": f"Patient/{patient_id}", "display": "Amy"},
        "period": {"start": "2024-05-01T10:00:00+02:00", "end": "2024-05-01T10:30:00+02:00"},
        **elements,
    }


def encounters(server: Server, patient_id: str) -> list[tuple[Any, ...]]:
    return server.sql(
        "SELECT e.status, e.check_in_at FROM encounters AS e JOIN fhir_resources AS r"
        " ON r.row_id = e.patient_id AND r.resource_type = 'Patient' WHERE r.resource_id = %s",
        patient_id,
    )


def test_unresolved_references_are_returned_and_nothing_is_written(
    server: Server, tenant: Tenant
) -> None:
    encounter = an_encounter("nobody")
    row_id = uuid4()

    with server.database.connection(tenant.id) as connection:
        lens = LENSES["Encounter"]
        unresolved = lens.write(connection, tenant.id, row_id, encounter, "test")

    assert unresolved == ["Patient/nobody"]
    assert server.sql("SELECT count(*) FROM encounters WHERE id = %s", row_id) == [(0,)]


def test_an_encounter_before_its_patient_gets_its_row_when_the_patient_comes(
    server: Server,
) -> None:
    patient_id = unique("patient")
    encounter = server.write(an_encounter(patient_id))
    assert encounters(server, patient_id) == []

    server.write({"resourceType": "Patient", "id": patient_id})

    assert encounters(server, patient_id) == [("COMPLETED", datetime(2024, 5, 1, 8, tzinfo=UTC))]
    server.sql("UPDATE encounters SET updated_by = 'x' WHERE status = 'COMPLETED'")
    assert server.read("Encounter", encounter["id"]) == encounter


def test_the_resources_of_another_tenant_never_resolve(
    server: Server, other_server: Server
) -> None:
    patient = a_patient(other_server)

    encounter = server.write(an_encounter(patient["id"]))

    assert encounters(server, patient["id"]) == []
    assert server.read("Encounter", encounter["id"]) == encounter
    with server.database.connection(server.tenant_id) as connection:
        found = references.row_id(connection, server.tenant_id, "Patient", patient["id"])
    assert found is None


def test_absolute_references_are_those_of_this_tenant_only(server: Server) -> None:
    with server.database.connection(server.tenant_id) as connection:
        ours = "https://example.org/t/demo/fhir/R4/Patient/1"
        theirs = "https://example.org/t/other/fhir/R4/Patient/1"

        assert references.local_part(connection, server.tenant_id, ours) == "Patient/1"
        assert references.local_part(connection, server.tenant_id, theirs) is None


def test_an_optional_reference_that_does_not_resolve_stays_in_the_resource(
    server: Server,
) -> None:
    patient = a_patient(server)
    performer = {"individual": {"reference": "Practitioner/not-yet-here"}}
    encounter = server.write(an_encounter(patient["id"], participant=[performer]))

    server.sql("UPDATE encounters SET reason = 'pain'")

    presented = server.one("Encounter", encounter["id"])
    assert presented["participant"] == [performer]
    assert presented["reasonCode"] == [{"text": "pain"}]


def test_an_optional_reference_is_filled_when_its_resource_comes(server: Server) -> None:
    patient = a_patient(server)
    practitioner_id = unique("practitioner")
    performer = {"individual": {"reference": f"Practitioner/{practitioner_id}"}}
    encounter = server.write(an_encounter(patient["id"], participant=[performer]))

    server.write({"resourceType": "Practitioner", "id": practitioner_id, "name": [{"text": "D"}]})

    found = server.sql(
        "SELECT provider_id IS NOT NULL FROM encounters WHERE id = %s", row_of(server, encounter)
    )
    assert found == [(True,)]
    server.sql("UPDATE encounters SET reason = 'x' WHERE id = %s", row_of(server, encounter))
    assert server.one("Encounter", encounter["id"])["participant"] == [performer]


# -- clinical -------------------------------------------------------------------------------------


def test_a_reference_cleared_by_sql_is_cleared_in_the_resource(server: Server) -> None:
    patient = a_patient(server)
    practitioner = server.write(
        {"resourceType": "Practitioner", "id": unique("dr"), "name": [{"text": "Dr A"}]}
    )
    performer = {"individual": {"reference": f"Practitioner/{practitioner['id']}"}}
    encounter = server.write(an_encounter(patient["id"], participant=[performer]))

    server.sql("UPDATE encounters SET provider_id = NULL WHERE id = %s", row_of(server, encounter))

    assert "participant" not in server.one("Encounter", encounter["id"])


def test_a_visit_without_a_patient_is_stored_whole_and_gets_no_row(server: Server) -> None:
    encounter = an_encounter("x")
    del encounter["subject"]

    server.write(encounter)

    assert server.read("Encounter", encounter["id"]) == encounter


def test_dental_examples_become_rows_with_tooth_and_come_back_whole(server: Server) -> None:
    folder = SHARED / "igs" / "dental-data-exchange"
    if not folder.exists():
        pytest.skip("the Dental Data Exchange examples are not at hand")
    patient = a_patient(server)

    for path in sorted(folder.glob("*-example-*.json")):
        resource = json.loads(path.read_text(), parse_float=Decimal)
        resource["id"] = unique("dde")
        resource["subject"] = subject(patient)
        server.write(resource)
        table = "patient_conditions" if resource["resourceType"] == "Condition" else "procedures"
        row_id = row_of(server, resource)
        server.sql(
            "UPDATE patient_conditions SET updated_by = 'x' WHERE id = %s"
            if table == "patient_conditions"
            else "UPDATE procedures SET updated_by = 'x' WHERE id = %s",
            row_id,
        )
        assert server.read(resource["resourceType"], resource["id"]) == resource

    teeth = server.sql(
        "SELECT DISTINCT tooth_number FROM patient_conditions WHERE tooth_number IS NOT NULL"
    )
    assert {17, 16, 22} <= {tooth for (tooth,) in teeth}


def test_rows_of_a_chart_are_presented_as_dental_resources(server: Server) -> None:
    patient = server.add("patients", last_name="Chart")
    visit = server.add("encounters", patient_id=patient, scheduled_start_at=NOW)
    condition = server.add(
        "patient_conditions",
        patient_id=patient,
        encounter_id=visit,
        code_system="SNOMED",
        code="251330002",
        display="Active caries",
        tooth_number=36,
        surface="MOD",
        clinical_status="ACTIVE",
        onset_at=NOW,
    )
    procedure = server.add(
        "procedures", patient_id=patient, cdt_code="D2330", tooth_number=75, start_at=NOW
    )

    presented = server.one("Condition", condition)
    done = server.one("Procedure", procedure)
    planned = server.one("Encounter", visit)

    codes = {coding["code"] for coding in presented["bodySite"][0]["coding"]}
    assert codes == {"866006002", "36", "19"}
    structure = presented["contained"][0]
    surfaces = [item["coding"][0]["code"] for item in structure["locationQualifier"]]
    assert surfaces == ["M", "O", "D"]
    assert presented["code"]["coding"][0]["system"] == "http://snomed.info/sct"
    assert presented["subject"] == {"reference": f"Patient/{patient}"}
    assert presented["encounter"] == {"reference": f"Encounter/{visit}"}
    assert done["code"]["coding"] == [{"system": "http://www.ada.org/cdt", "code": "D2330"}]
    assert done["performedDateTime"] == "2026-11-01T10:15:00.250000Z"
    assert planned["status"] == "planned"
    assert planned["period"]["start"] == "2026-11-01T10:15:00.250000Z"


@pytest.mark.parametrize(
    ("verification", "clinical", "is_abated", "shown"),
    [
        ("ENTERED_IN_ERROR", "ACTIVE", True, None),
        ("ENTERED_IN_ERROR", "ACTIVE", False, None),
        ("CONFIRMED", "ACTIVE", True, "resolved"),
        ("CONFIRMED", None, True, "resolved"),
        ("CONFIRMED", "REMISSION", True, "remission"),
        ("CONFIRMED", "ACTIVE", False, "active"),
    ],
)
def test_a_condition_is_never_shown_against_con_4_and_con_5(
    server: Server, verification: str, clinical: str | None, is_abated: bool, shown: str | None
) -> None:
    patient = server.add("patients", last_name="Over")
    row_id = server.add(
        "patient_conditions",
        patient_id=patient,
        verification_status=verification,
        clinical_status=clinical,
        abated_at=NOW if is_abated else None,
    )

    condition = server.one("Condition", row_id)

    codes = [item["code"] for item in condition.get("clinicalStatus", {}).get("coding", [])]
    assert codes == ([shown] if shown else [])
    if shown == "active":
        server.sql("UPDATE patient_conditions SET abated_at = %s WHERE id = %s", NOW, row_id)
        ended = server.one("Condition", row_id)
        assert ended["clinicalStatus"]["coding"][0]["code"] == "resolved"


ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
AI_CONSENT = {"coding": [{"system": "urn:dental-interop:consent-type", "code": "ai-analysis"}]}


def rule(code: str) -> Resource:
    return {"coding": [{"system": ACT_CODE, "code": code}]}


def a_consent(patient: Resource, **elements: Any) -> Resource:
    consent: Resource = {
        "resourceType": "Consent",
        "id": unique("consent"),
        "status": "active",
        "scope": {"coding": [{"code": "patient-privacy"}]},
        "category": [AI_CONSENT],
        "patient": subject(patient),
        "dateTime": "2026-01-05",
        "policyRule": rule("OPTIN"),
        **elements,
    }
    return {key: value for key, value in consent.items() if value is not None}


def may_analyse(server: Server, patient: Resource) -> bool:
    with server.database.connection(server.tenant_id) as connection:
        return has_consent(connection, server.tenant_id, row_of(server, patient))


def test_consents_answer_whether_a_use_is_consented_to(server: Server) -> None:
    patient = a_patient(server)
    consent = a_consent(patient, policyRule={"coding": [{"code": "OPTIN"}]})
    server.write(consent)
    query: LiteralString = (
        "SELECT consent_type, granted_at, revoked_at, refused_at, subject_id"
        " FROM consents WHERE id = %s"
    )
    row_id, patient_row = row_of(server, consent), row_of(server, patient)
    granted = datetime(2026, 1, 5, tzinfo=UTC)
    assert server.sql(query, row_id) == [("AI_ANALYSIS", granted, None, None, patient_row)]
    assert may_analyse(server, patient)

    server.sql("UPDATE consents SET revoked_at = %s WHERE id = %s", NOW, row_id)

    presented = server.one("Consent", consent["id"])
    assert presented["status"] == "inactive"
    assert presented["dateTime"] == "2026-01-05"
    assert not may_analyse(server, patient)
    server.write({**consent, "provision": {"type": "deny"}})
    refused = datetime(2026, 1, 5, 23, 59, 59, 999999, tzinfo=UTC)
    assert server.sql(query, row_id) == [("AI_ANALYSIS", None, None, refused, patient_row)]


LONG_AGO, SOON = "2020", "2999-01-01"


@pytest.mark.parametrize(
    ("elements", "is_permitted"),
    [
        ({"provision": {"type": "permit"}}, True),
        ({"provision": {"type": "permit"}, "policyRule": None, "policy": [{"uri": "urn:p"}]}, True),
        ({"dateTime": LONG_AGO, "provision": {"period": {"start": LONG_AGO, "end": SOON}}}, True),
        ({"provision": {"provision": [{"type": "permit"}]}}, True),
        ({"provision": {"period": {"end": "9999-12-31"}}}, True),
        ({"policyRule": rule("OPTOUT")}, False),
        ({"policyRule": rule("OPTOUTE"), "provision": {"provision": [{"type": "permit"}]}}, False),
        ({"policyRule": rule("OPTOUT"), "provision": {"type": "permit"}}, False),
        ({"policyRule": rule("hipaa-auth")}, False),
        ({"policyRule": None, "policy": [{"uri": "urn:p"}]}, False),
        ({"provision": {"type": "deny"}}, False),
        ({"provision": {"provision": [{"type": "deny"}]}}, False),
        ({"provision": {"provision": [{"provision": [{"type": "deny"}]}]}}, False),
        ({"provision": {"period": {"start": SOON}}}, False),
        ({"provision": {"period": {"end": "2021"}}}, False),
        ({"provision": {"period": {"end": "2021-02"}}}, False),
        ({"dateTime": SOON}, False),
        *(({"status": status}, False) for status in ("draft", "proposed", "rejected", "inactive")),
        ({"status": "entered-in-error"}, False),
    ],
)
def test_only_a_plain_permission_of_today_is_a_grant(
    server: Server, elements: Resource, is_permitted: bool
) -> None:
    patient = a_patient(server)
    consent = a_consent(patient, **elements)
    assert_conforms(consent)

    server.write(consent)

    assert may_analyse(server, patient) is is_permitted
    server.sql("UPDATE consents SET updated_by = 'x' WHERE id = %s", row_of(server, consent))
    assert server.one("Consent", consent["id"]) == consent


@pytest.mark.parametrize(
    ("earlier", "later", "is_permitted"),
    [
        ({}, {"policyRule": rule("OPTOUT"), "dateTime": "2026-06-01"}, False),
        ({}, {"provision": {"type": "deny"}, "dateTime": "2026-06-01T08:00:00Z"}, False),
        ({}, {"policyRule": rule("OPTOUT"), "dateTime": "2026-01"}, False),
        ({}, {"policyRule": rule("OPTOUT"), "dateTime": "2026-01-05"}, False),
        (
            {},
            {
                "policyRule": rule("OPTOUT"),
                "dateTime": None,
                "meta": {"lastUpdated": "2026-02-01T00:00:00Z"},
            },
            False,
        ),
        ({}, {"status": "rejected", "dateTime": "2026-06-01"}, False),
        ({}, {"status": "draft", "policyRule": rule("OPTOUT"), "dateTime": "2026-06-01"}, True),
        ({"policyRule": rule("OPTOUT")}, {"dateTime": "2026-06-01"}, True),
        ({"status": "inactive"}, {"dateTime": "2026-06-01"}, True),
    ],
)
@pytest.mark.parametrize("order", [1, -1], ids=["in order", "late"])
def test_the_newest_statement_of_a_patient_counts(
    server: Server, earlier: Resource, later: Resource, is_permitted: bool, order: int
) -> None:
    patient = a_patient(server)

    for elements in (earlier, later)[::order]:
        server.write(a_consent(patient, **elements))

    assert may_analyse(server, patient) is is_permitted


def test_a_refusal_or_a_grant_written_in_sql_is_presented_as_what_it_is(server: Server) -> None:
    patient = a_patient(server)
    consent = server.write(a_consent(patient))
    row_id = row_of(server, consent)

    server.sql("UPDATE consents SET granted_at = NULL, refused_at = %s WHERE id = %s", NOW, row_id)
    refusal = server.one("Consent", consent["id"])
    assert (refusal["status"], refusal["policyRule"]["coding"][0]["code"]) == ("active", "OPTOUT")
    server.sql("UPDATE consents SET granted_at = %s, refused_at = NULL WHERE id = %s", NOW, row_id)
    grant = server.one("Consent", consent["id"])
    assert (grant["status"], grant["policyRule"]["coding"][0]["code"]) == ("active", "OPTIN")


# -- Practitioner, Organization, Endpoint, Location ------------------------------------------------


def test_a_practitioner_of_a_feed_is_a_user_who_never_signs_in(server: Server) -> None:
    practitioner = server.write(
        {
            "resourceType": "Practitioner",
            "id": unique("practitioner"),
            "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}],
            "name": [{"family": "Bone", "given": ["Ronald"], "prefix": ["Dr."]}],
        }
    )
    row_id = row_of(server, practitioner)

    user = server.sql("SELECT full_name, email FROM users WHERE id = %s", row_id)
    server.write({**practitioner, "name": [{"text": "Ronald Q. Bone"}]})
    renamed = server.sql("SELECT full_name FROM users WHERE id = %s", row_id)

    assert user == [("Dr. Ronald Bone", None)]
    assert renamed == [("Ronald Q. Bone",)]


def test_the_name_of_a_user_who_signs_in_is_not_changed_over_fhir(server: Server) -> None:
    email = f"{unique('dentist')}@example.com"
    user = server.add("users", full_name="Ada Molar", email=email)
    server.add("user_tenants", user_id=user, user_type="HYGIENIST")
    presented = server.one("Practitioner", user)
    assert presented["name"] == [{"text": "Ada Molar", "family": "Molar", "given": ["Ada"]}]
    assert presented["qualification"][0]["code"]["coding"][0]["code"] == "124Q00000X"

    server.write({"resourceType": "Practitioner", "id": str(user), "name": [{"text": "Eve"}]})

    found = server.sql(
        "SELECT u.full_name, m.user_type FROM users AS u JOIN user_tenants AS m ON m.user_id = u.id"
        " WHERE u.id = %s",
        user,
    )
    assert found == [("Ada Molar", "HYGIENIST")]


def test_a_user_of_another_tenant_never_becomes_a_member(
    server: Server, other_server: Server
) -> None:
    theirs = other_server.add("users", full_name="Secret Name")
    other_server.add("user_tenants", user_id=theirs)
    practitioner = {"resourceType": "Practitioner", "id": str(theirs), "name": [{"text": "Eve"}]}

    server.write(practitioner)

    assert row_of(server, practitioner) != theirs
    assert server.sql("SELECT 1 FROM user_tenants WHERE user_id = %s", theirs) == []
    assert server.sql("SELECT full_name FROM users WHERE id = %s", theirs) == [("Secret Name",)]


def test_a_practitioner_who_was_deleted_can_come_back(server: Server) -> None:
    practitioner = {"resourceType": "Practitioner", "id": str(uuid4()), "name": [{"text": "A B"}]}
    server.write(practitioner)
    server.delete("Practitioner", str(practitioner["id"]))

    server.write({**practitioner, "name": [{"text": "A C"}]})

    found = server.sql("SELECT full_name FROM users WHERE id = %s", row_of(server, practitioner))
    assert found == [("A C",)]


@pytest.mark.parametrize("user_type", NOT_PRESENTED)
def test_users_who_are_no_practitioners_are_not_presented(server: Server, user_type: str) -> None:
    user = server.add("users", full_name="Somebody")
    server.add("user_tenants", user_id=user, user_type=user_type)

    assert server.read("Practitioner", user) is None


def test_the_tenant_is_an_organization_with_a_dicomweb_endpoint(server: Server) -> None:
    found = server.sql("SELECT id FROM tenant_settings WHERE tenant_id = %s", server.tenant_id)
    settings = found[0][0] if found else server.add("tenant_settings")

    organization = server.one("Organization", server.tenant_id)
    endpoint = server.one("Endpoint", settings)

    assert organization["name"] == "Demo"
    assert organization["active"] is True
    assert endpoint["connectionType"]["code"] == "dicom-wado-rs"
    assert endpoint["address"].endswith("/t/demo/dicom-web")
    with pytest.raises(Conflict, match="tenant"):
        server.delete("Organization", str(server.tenant_id))


def test_other_organizations_and_devices_are_stored_whole(server: Server) -> None:
    laboratory = {"resourceType": "Organization", "id": unique("lab"), "name": "Lab"}
    implant = {"resourceType": "Device", "id": unique("implant"), "status": "active"}

    for resource in (laboratory, implant):
        server.write(resource)
        key = (str(resource["resourceType"]), str(resource["id"]))
        assert server.read(*key) == resource
        server.delete(*key)


def test_a_location_becomes_a_row_and_comes_back_whole(server: Server) -> None:
    location = server.write(
        {
            "resourceType": "Location",
            "id": unique("location"),
            "status": "active",
            "name": "South Wing",
            "telecom": [{"system": "phone", "value": "2328"}, {"system": "url", "value": "x"}],
            "address": {"line": ["Galapagosweg 91"], "city": "Den Burg", "country": "NLD"},
            "position": {"longitude": Decimal("4.90"), "latitude": Decimal("52.37")},
        }
    )
    row_id = row_of(server, location)

    row = server.sql("SELECT name, phone, city, longitude FROM locations WHERE id = %s", row_id)
    server.sql("UPDATE locations SET updated_by = 'x' WHERE id = %s", row_id)

    assert row == [("South Wing", "2328", "Den Burg", 4.9)]
    assert server.read("Location", location["id"]) == location


# -- Observation ----------------------------------------------------------------------------------


def a_tooth(patient: Resource, depth: object) -> Resource:
    mesiobuccal = {"system": "urn:dental-interop:periodontal-site", "code": "MB"}
    site = {"url": perio_sites.SITE, "valueCodeableConcept": {"coding": [mesiobuccal]}}
    return {
        "resourceType": "Observation",
        "id": unique("tooth"),
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8704-9"}]},
        "subject": subject(patient),
        "effectiveDateTime": "2026-02-05T22:15:00+01:00",
        "bodySite": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/ex-tooth", "code": "16"}],
            "text": "Zahn 16",
        },
        "component": [
            {
                "extension": [site],
                "code": {"coding": [{"system": "http://loinc.org", "code": "32910-2"}]},
                "valueQuantity": {
                    "value": depth,
                    "unit": "mm",
                    "system": "http://unitsofmeasure.org",
                    "code": "mm",
                },
            },
            {"code": {"text": "client's own"}, "valueString": "kept"},
        ],
    }


def test_a_charted_tooth_is_rows_and_the_exam_names_its_teeth(server: Server) -> None:
    patient = a_patient(server)
    tooth = server.write(a_tooth(patient, Decimal("5.0")))
    row_id = row_of(server, tooth)

    rows = server.sql(
        "SELECT tooth_number, site, pocket_depth_mm, exam_observation_id FROM perio_measurements"
        " WHERE observation_id = %s",
        row_id,
    )
    assert [row[:3] for row in rows] == [(16, "MB", Decimal("5.0"))]

    server.sql(
        "UPDATE perio_measurements SET bleeding_on_probing = true WHERE observation_id = %s", row_id
    )
    presented = server.one("Observation", tooth["id"])
    assert presented["component"][:2] == tooth["component"]
    assert presented["component"][2]["valueBoolean"] is True
    assert presented["bodySite"] == tooth["bodySite"]
    exam = server.one("Observation", rows[0][3])
    assert exam["hasMember"] == [{"reference": f"Observation/{tooth['id']}"}]
    assert exam["subject"] == subject(patient)


def test_a_chart_written_in_sql_is_one_observation_a_tooth(server: Server) -> None:
    patient = server.add("patients", last_name="Perio")
    for site, depth in (("MB", 3), ("B", 4), ("DB", None)):
        server.add(
            "perio_measurements",
            patient_id=patient,
            tooth_number=46,
            site=site,
            pocket_depth_mm=depth,
            measured_at=NOW,
        )
    found = server.sql(
        "SELECT DISTINCT observation_id, exam_observation_id FROM perio_measurements"
        " WHERE patient_id = %s",
        patient,
    )
    ((tooth_id, exam_id),) = found

    tooth = server.one("Observation", tooth_id)

    assert tooth_id == perio.exam_id(patient, None, NOW, 46)
    assert exam_id == perio.exam_id(patient, None, NOW)
    assert len(tooth["component"]) == 3
    assert tooth["component"][2]["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    server.write({**tooth, "component": tooth["component"][:1]})
    left = server.sql("SELECT site FROM perio_measurements WHERE patient_id = %s", patient)
    assert left == [("MB",)]
    server.delete("Observation", str(tooth_id))
    assert server.sql("SELECT 1 FROM perio_measurements WHERE patient_id = %s", patient) == []


def exam_of(server: Server, tooth: Resource) -> UUID:
    found = server.sql(
        "SELECT exam_observation_id FROM perio_measurements WHERE observation_id = %s",
        row_of(server, tooth),
    )
    exam = found[0][0]
    assert isinstance(exam, UUID)
    return exam


def test_an_exam_follows_the_teeth_that_clients_send_and_withdraw(server: Server) -> None:
    patient = a_patient(server)
    first = server.write(a_tooth(patient, 5))
    exam = exam_of(server, first)
    second = a_tooth(patient, 4)
    second["bodySite"]["coding"][0]["code"] = "17"
    server.write(second)
    both = [{"reference": f"Observation/{item['id']}"} for item in (first, second)]

    assert server.one("Observation", exam)["hasMember"] == sorted(both, key=str)

    server.write({**second, "status": "entered-in-error"})
    assert server.one("Observation", exam)["hasMember"] == both[:1]
    assert server.one("Observation", second["id"])["status"] == "entered-in-error"
    server.delete("Observation", first["id"])
    assert server.read("Observation", exam) is None


def test_what_a_client_adds_to_an_exam_stays(server: Server) -> None:
    tooth = server.write(a_tooth(a_patient(server), 5))
    exam = server.one("Observation", exam_of(server, tooth))

    server.write({**exam, "note": [{"text": "calm"}], "hasMember": []})
    server.sql(
        "UPDATE perio_measurements SET plaque = true WHERE observation_id = %s",
        row_of(server, tooth),
    )

    assert server.one("Observation", exam["id"]) == {**exam, "note": [{"text": "calm"}]}
    with pytest.raises(Conflict, match="teeth"):
        server.delete("Observation", exam["id"])


def test_a_charted_tooth_cannot_become_another_tooth(server: Server) -> None:
    tooth = server.write(a_tooth(a_patient(server), 4))
    moved = copy.deepcopy(tooth)
    moved["bodySite"]["coding"][0]["code"] = "17"

    with pytest.raises(Unprocessable, match="known by"):
        server.write(moved)


def test_a_tooth_charted_before_its_patient_is_known_gets_rows_later(server: Server) -> None:
    patient = {"resourceType": "Patient", "id": unique("patient")}
    tooth = server.write(a_tooth(patient, 6))

    server.write(patient)

    count = server.sql(
        "SELECT count(*) FROM perio_measurements WHERE observation_id = %s", row_of(server, tooth)
    )
    assert count == [(1,)]


@pytest.mark.parametrize("how", ["withdrawn", "deleted"])
def test_a_tooth_charted_in_error_is_charted_again_as_another_resource(
    server: Server, how: str
) -> None:
    patient = a_patient(server)
    wrong = server.write(a_tooth(patient, 9))
    row_id = row_of(server, wrong)
    if how == "withdrawn":
        server.write({**wrong, "status": "entered-in-error"})
    else:
        server.delete("Observation", wrong["id"])

    right = server.write(a_tooth(patient, 4))

    assert row_of(server, right) == row_id
    depths = "SELECT pocket_depth_mm FROM perio_measurements WHERE observation_id = %s"
    assert server.sql(depths, row_id) == [(4,)]
    assert server.one("Observation", right["id"]) == right
    if how == "withdrawn":
        assert server.one("Observation", wrong["id"])["status"] == "entered-in-error"
    else:
        assert server.read("Observation", wrong["id"]) is None


def test_a_withdrawn_tooth_of_the_servers_own_is_charted_again_by_sql(server: Server) -> None:
    patient = server.add("patients", last_name="Again")
    chart: dict[str, Any] = {"patient_id": patient, "tooth_number": 46, "measured_at": NOW}
    server.add("perio_measurements", **chart, site="MB", pocket_depth_mm=9)
    tooth_id = perio.exam_id(patient, None, NOW, 46)
    wrong = server.one("Observation", tooth_id)
    server.write({**wrong, "status": "entered-in-error"})

    server.add("perio_measurements", **chart, site="MB", pocket_depth_mm=4)

    exam = server.one("Observation", perio.exam_id(patient, None, NOW))
    (member,) = exam["hasMember"]
    right = server.one("Observation", member["reference"].removeprefix("Observation/"))
    assert right["status"] == "final"
    assert right["component"][0]["valueQuantity"]["value"] == 4
    assert server.one("Observation", tooth_id)["status"] == "entered-in-error"


def test_a_tooth_that_another_resource_stands_for_is_refused(server: Server) -> None:
    patient = a_patient(server)
    first = server.write(a_tooth(patient, 4))

    with pytest.raises(Conflict, match=first["id"]):
        server.write(a_tooth(patient, 5))


def test_a_deleted_visit_comes_back_before_its_patient_does(server: Server) -> None:
    patient = a_patient(server)
    visit = server.write(an_encounter(patient["id"]))
    server.delete("Encounter", visit["id"])
    server.delete("Patient", patient["id"])

    server.write(visit)
    assert encounters(server, patient["id"]) == []
    server.write(patient)

    assert server.one("Encounter", visit["id"]) == visit
    row = server.sql("SELECT id FROM encounters WHERE patient_id = %s", row_of(server, patient))
    assert row == [(row_of(server, visit),)]


def a_vital_sign(patient: Resource, code: str, **value: Any) -> Resource:
    return {
        "resourceType": "Observation",
        "id": unique("vital"),
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": subject(patient),
        "effectiveDateTime": "2026-02-05",
        **value,
    }


def quantity(value: object, unit: str) -> Resource:
    return {"value": value, "system": "http://unitsofmeasure.org", "code": unit}


def test_vital_signs_are_rows_in_our_units_and_keep_what_was_sent(server: Server) -> None:
    warm = quantity(Decimal("98.60"), "[degF]")
    vital = server.write(a_vital_sign(a_patient(server), "8310-5", valueQuantity=warm))
    row_id = row_of(server, vital)
    assert server.sql("SELECT temperature_celsius FROM vital_signs WHERE id = %s", row_id) == [
        (37.0,)
    ]

    server.sql("UPDATE vital_signs SET updated_by = 'x' WHERE id = %s", row_id)
    assert server.read("Observation", vital["id"]) == vital

    server.sql("UPDATE vital_signs SET systolic_mmhg = 120 WHERE id = %s", row_id)
    panel = server.one("Observation", vital["id"])
    assert panel["code"]["coding"][0]["code"] == "85353-1"
    assert len(panel["component"]) == 2


def test_blood_pressure_alone_is_the_blood_pressure_panel(server: Server) -> None:
    patient = server.add("patients")
    row_id = server.add(
        "vital_signs", patient_id=patient, systolic_mmhg=120, diastolic_mmhg=80, measured_at=NOW
    )

    panel = server.one("Observation", row_id)

    assert panel["code"]["coding"][0]["code"] == "85354-9"
    values = [part["valueQuantity"]["value"] for part in panel["component"]]
    assert values == [120, 80]


def test_an_observation_of_no_table_is_stored_whole(server: Server) -> None:
    glucose = a_vital_sign(a_patient(server), "2339-0", valueQuantity=quantity(90, "mg/dL"))

    server.write(glucose)

    assert server.read("Observation", glucose["id"]) == glucose


def test_an_observation_that_is_no_vital_sign_any_more_loses_its_row(server: Server) -> None:
    vital = server.write(
        a_vital_sign(a_patient(server), "8867-4", valueQuantity=quantity(70, "/min"))
    )
    row_id = row_of(server, vital)

    changed = {**vital, "code": {"text": "other"}}
    server.write(changed)

    assert server.sql("SELECT 1 FROM vital_signs WHERE id = %s", row_id) == []
    assert server.read("Observation", vital["id"]) == changed


# -- imaging and AI -------------------------------------------------------------------------------


class Study:
    """A panoramic study with one image, and a finished job over it with one finding."""

    def __init__(self, server: Server) -> None:
        self.uid = f"1.2.3.{uuid4().int % 10**12}"
        self.patient = server.add("patients", last_name="Image")
        self.study = server.add(
            "imaging_studies",
            patient_id=self.patient,
            study_uid=self.uid,
            modality="PANORAMIC",
            acquisition_datetime=NOW,
            modalities_in_study=["PX"],
            number_of_series=1,
            number_of_instances=1,
            accession_number="A1",
        )
        self.series = server.add(
            "imaging_series",
            study_id=self.study,
            series_uid=f"{self.uid}.1",
            modality="PX",
            series_date="20261101",
            number_of_instances=1,
            body_part_examined="JAW",
        )
        self.image = server.add(
            "imaging_objects",
            study_id=self.study,
            series_id=self.series,
            sop_instance_uid=f"{self.uid}.1.1",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            storage_uri="x",
            hash="0" * 64,
            byte_size=1,
            instance_number=1,
        )

    def analyse(self, server: Server) -> None:
        model = server.add("ai_models", name=unique("pano"), domain="CARIES")
        self.version = server.add(
            "ai_model_versions",
            model_id=model,
            version_tag="1.2.0",
            artifact_uri="x",
            artifact_digest="ab" * 32,
        )
        self.job = server.add(
            "ai_inference_jobs",
            model_version_id=self.version,
            study_id=self.study,
            status="RUNNING",
            idempotency_key=unique("key"),
            started_at=NOW,
        )
        points = [[10, 20], [30, 20], [30, 40]]
        region = server.add(
            "image_annotations",
            imaging_object_id=self.image,
            source_type="AI",
            annotation_type="MASK",
            geometry=psycopg.types.json.Jsonb({"type": "Polygon", "coordinates": points}),
            confidence=0.9,
        )
        self.prediction = server.add(
            "ai_predictions",
            job_id=self.job,
            patient_id=self.patient,
            imaging_object_id=self.image,
            prediction_type="CARIES",
            code="SCT|80967001",
            confidence=0.913,
            tooth_number=36,
            surface="M",
            value=Decimal("2.5"),
            unit="mm",
            roi_ref=region,
            tracking_uid="2.25.5",
        )

    def finish(self, server: Server) -> None:
        server.sql(
            "UPDATE ai_inference_jobs SET status = 'SUCCEEDED', completed_at = %s,"
            " sr_sop_instance_uid = %s WHERE id = %s",
            NOW,
            f"{self.uid}.1.1",
            self.job,
        )


def test_a_dicom_study_is_presented_and_wins_over_a_client(server: Server) -> None:
    study = Study(server)
    presented = server.one("ImagingStudy", study.study)
    assert presented["identifier"][0]["value"] == f"urn:oid:{study.uid}"
    assert presented["series"][0]["instance"][0]["uid"] == f"{study.uid}.1.1"
    assert presented["series"][0]["bodySite"]["code"] == "661005"
    assert presented["status"] == "available"

    visit = server.add("encounters", patient_id=study.patient)
    changed = copy.deepcopy(presented)
    changed["note"] = [{"text": "client's own"}]
    changed["series"][0]["performer"] = [{"actor": {"display": "Eve"}}]
    changed["numberOfInstances"] = 99
    changed["encounter"] = {"reference": f"Encounter/{visit}"}
    server.write(changed)
    server.sql("UPDATE imaging_studies SET study_description = 'OPG' WHERE id = %s", study.study)

    after = server.one("ImagingStudy", study.study)
    assert after == {**changed, "numberOfInstances": 1, "description": "OPG"}
    assert server.sql("SELECT encounter_id FROM imaging_studies WHERE id = %s", study.study) == [
        (visit,)
    ]
    with pytest.raises(Conflict, match="DICOMweb"):
        server.delete("ImagingStudy", str(study.study))


def test_negative_numbers_of_dicom_are_not_shown(server: Server) -> None:
    study = Study(server)
    server.sql("UPDATE imaging_series SET series_number = -7 WHERE id = %s", study.series)
    server.sql("UPDATE imaging_objects SET instance_number = -3 WHERE id = %s", study.image)

    (series,) = server.one("ImagingStudy", study.study)["series"]

    assert "number" not in series and "number" not in series["instance"][0]


def test_a_second_resource_of_a_held_study_is_refused(server: Server) -> None:
    study = Study(server)
    server.one("ImagingStudy", study.study)
    copied = {
        "resourceType": "ImagingStudy",
        "id": unique("study"),
        "status": "available",
        "subject": {"reference": f"Patient/{study.patient}"},
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{study.uid}"}],
    }

    with pytest.raises(Conflict, match=str(study.study)):
        server.write(copied)


def test_images_held_elsewhere_are_stored_whole(server: Server) -> None:
    elsewhere: Resource = {
        "resourceType": "ImagingStudy",
        "id": unique("study"),
        "status": "available",
        "subject": subject(a_patient(server)),
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.999"}],
    }

    server.write(elsewhere)

    assert server.read("ImagingStudy", elsewhere["id"]) == elsewhere


def test_a_finished_job_is_task_report_provenance_device_and_findings(server: Server) -> None:
    study = Study(server)
    study.analyse(server)
    assert server.one("Task", study.job)["status"] == "in-progress"
    assert server.read("DiagnosticReport", study.job) is None

    study.finish(server)

    task = server.one("Task", study.job)
    report = server.one("DiagnosticReport", study.job)
    provenance = server.one("Provenance", study.job)
    device = server.one("Device", study.version)
    finding = server.one("Observation", study.prediction)
    assert task["status"] == "completed"
    assert task["output"][0]["valueReference"] == {"reference": f"DiagnosticReport/{study.job}"}
    assert report["result"] == [{"reference": f"Observation/{study.prediction}"}]
    assert report["conclusion"].endswith(f"tooth 36 (certainty 91%). {DISCLAIMER}")
    assert report["presentedForm"][0]["url"].endswith(
        f"/t/demo/dicom-web/studies/{study.uid}/series/{study.uid}.1/instances/{study.uid}.1.1"
    )
    assert {item["reference"] for item in provenance["target"]} == {
        f"DiagnosticReport/{study.job}",
        f"Observation/{study.prediction}",
    }
    assert device["note"] == [{"text": DISCLAIMER}]
    assert finding["status"] == "preliminary"
    assert finding["meta"]["security"][0]["code"] == "AIAST"
    assert finding["valueCodeableConcept"]["coding"][0]["code"] == "80967001"
    assert {item["code"] for item in finding["bodySite"]["coding"]} == {"866006002", "36", "19"}
    by_code = {part["code"]["coding"][0]["code"]: part for part in finding["component"]}
    assert by_code["111012"]["valueQuantity"]["value"] == Decimal("91.3")
    region = f"{study.uid}.1.1|1|POLYLINE|10,20,30,20,30,40,10,20"
    assert by_code["111030"]["valueString"] == region
    performer = finding["performer"][0]["extension"][0]["valueReference"]
    assert performer == {"reference": f"Device/{study.version}"}


@pytest.mark.parametrize(
    ("action", "status"), [("CONFIRMED", "final"), ("REJECTED", "entered-in-error")]
)
def test_a_review_changes_the_status_and_the_label(
    server: Server, action: str, status: str
) -> None:
    study = Study(server)
    study.analyse(server)
    study.finish(server)
    reviewer = server.add("users", full_name="Dr Review")
    server.add("user_tenants", user_id=reviewer)

    server.add(
        "ai_review_events",
        prediction_id=study.prediction,
        reviewer_id=reviewer,
        review_action=action,
    )

    finding = server.one("Observation", study.prediction)
    assert finding["status"] == status
    assert [item["code"] for item in finding["meta"]["security"]] == ["CLINAST_AIRPT"]
    assert finding["performer"][1] == {"reference": f"Practitioner/{reviewer}"}
    assert server.one("DiagnosticReport", study.job)["status"] == "final"


def review(server: Server, study: Study, action: str, new_value: object = None) -> None:
    changed = None if new_value is None else psycopg.types.json.Jsonb(new_value)
    server.add(
        "ai_review_events",
        prediction_id=study.prediction,
        review_action=action,
        new_value=changed,
    )


@pytest.mark.parametrize("confirmed", [False, True])
def test_an_edited_finding_is_final_as_it_was_corrected(server: Server, confirmed: bool) -> None:
    study = Study(server)
    study.analyse(server)
    study.finish(server)

    review(server, study, "EDITED", {"code": "SCT|39273001", "tooth_number": 37, "surface": None})
    review(server, study, "EDITED", {"value": 1.5})
    if confirmed:
        review(server, study, "CONFIRMED")

    finding = server.one("Observation", study.prediction)
    assert finding["status"] == "final"
    assert [item["code"] for item in finding["meta"]["security"]] == ["CLINAST_AIRPT"]
    assert finding["valueCodeableConcept"]["coding"][0]["code"] == "39273001"
    assert tooth_of(finding["bodySite"]) == 37
    by_code = {part["code"]["coding"][0]["code"]: part for part in finding["component"]}
    assert by_code["measured-value"]["valueQuantity"]["value"] == Decimal("1.5")
    assert "111012" not in by_code and "AIconfidence" not in str(finding["extension"])
    report = server.one("DiagnosticReport", study.job)
    assert report["status"] == "final"
    assert "Findings: Apical periodontitis at tooth 37." in report["conclusion"]


def test_an_edit_that_nobody_can_show_leaves_the_finding_preliminary(server: Server) -> None:
    study = Study(server)
    study.analyse(server)
    study.finish(server)
    before = server.one("Observation", study.prediction)

    review(server, study, "EDITED", {"tooth_number": 37, "grade": "III"})

    assert server.one("Observation", study.prediction) == before
    assert before["status"] == "preliminary"
    assert server.one("DiagnosticReport", study.job)["status"] == "preliminary"
    review(server, study, "EDITED", {"tooth_number": 37})
    assert server.one("Observation", study.prediction)["status"] == "final"


def test_what_a_client_adds_to_a_finding_stays_and_what_the_rows_say_wins(server: Server) -> None:
    study = Study(server)
    study.analyse(server)
    study.finish(server)
    finding = server.one("Observation", study.prediction)

    server.write({**finding, "status": "final", "note": [{"text": "seen"}]})
    server.sql("UPDATE ai_predictions SET severity = 'deep' WHERE id = %s", study.prediction)

    after = server.one("Observation", study.prediction)
    assert after["status"] == "preliminary"
    assert after["note"] == [{"text": "seen"}]
    with pytest.raises(Conflict, match="review"):
        server.delete("Observation", str(study.prediction))


def test_what_is_stored_of_a_client_never_contradicts_the_rows_of_a_finding(server: Server) -> None:
    study = Study(server)
    study.analyse(server)
    study.finish(server)
    other = a_patient(server)
    finding = server.one("Observation", study.prediction)
    claims = {
        "status": "final",
        "subject": subject(other),
        "code": {"text": "No caries"},
        "valueCodeableConcept": {**finding["valueCodeableConcept"], "text": "healthy"},
        "category": [{"text": "client's"}],
        "interpretation": [{"text": "normal"}],
        "focus": [subject(other)],
        "text": {
            "status": "additional",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml">No caries</div>',
        },
        "bodySite": {"text": "tooth 11"},
        "component": [],
    }
    note = [{"text": "client's own"}]

    server.write({k: v for k, v in {**finding, **claims, "note": note}.items() if v != []})

    assert server.stored("Observation", study.prediction) == {**finding, "note": note}


def test_what_is_stored_of_a_client_never_contradicts_the_rows_of_a_job(server: Server) -> None:
    study = Study(server)
    study.analyse(server)
    early: Resource = {
        "resourceType": "DiagnosticReport",
        "id": str(study.job),
        "status": "final",
        "code": {"text": "Report"},
        "conclusion": "No findings",
    }
    with pytest.raises(Conflict, match="nothing to say"):
        server.write(early)
    study.finish(server)
    before = {
        name: server.one(name, row)
        for name, row in (
            ("DiagnosticReport", study.job),
            ("Task", study.job),
            ("Device", study.version),
            ("ImagingStudy", study.study),
            ("Organization", server.tenant_id),
        )
    }
    claims: dict[str, Resource] = {
        "DiagnosticReport": {**early, "conclusionCode": [{"text": "healthy"}], "result": []},
        "Task": {"status": "failed", "intent": "proposal", "focus": {"display": "other"}},
        "Device": {"modelNumber": "x", "note": [], "type": {"text": "drill"}, "status": "inactive"},
        "ImagingStudy": {"subject": subject(a_patient(server)), "series": [], "started": "2001"},
        "Organization": {"name": "Evil", "active": False, "type": [{"text": "payer"}]},
    }

    for name, claim in claims.items():
        sent = {**before[name], **claim, "language": "en"}
        server.write({key: item for key, item in sent.items() if item != []})
        assert server.stored(name, before[name]["id"]) == {**before[name], "language": "en"}


def test_the_tenants_endpoint_is_where_the_rows_say(server: Server) -> None:
    ((settings,),) = server.sql("SELECT id FROM tenant_settings")
    server.sql("UPDATE tenants SET name = name WHERE id = %s", server.tenant_id)
    endpoint = server.one("Endpoint", settings)

    server.write({**endpoint, "address": "https://evil.example", "status": "off"})

    assert server.stored("Endpoint", settings) == endpoint


def test_an_exam_is_not_overwritten_with_another_observation(server: Server) -> None:
    patient = a_patient(server)
    tooth = server.write(a_tooth(patient, 5))
    exam = server.one("Observation", exam_of(server, tooth))
    pulse = a_vital_sign(a_patient(server), "8867-4", valueQuantity=quantity(70, "/min"))
    pulse["effectiveDateTime"] = "2001-01-01"

    server.write({**pulse, "id": exam["id"], "status": "cancelled"})

    stored = server.stored("Observation", exam["id"])
    assert {key: stored[key] for key in exam} == exam
    assert server.sql("SELECT 1 FROM vital_signs WHERE id = %s", exam["id"]) == []


def test_the_stored_name_of_a_user_who_signs_in_is_the_users_own(server: Server) -> None:
    user = server.add("users", full_name="Dr Own Name", email=f"{unique('dr')}@example.org")
    server.add("user_tenants", user_id=user, user_type="DENTIST")
    before = server.one("Practitioner", user)

    server.write({**before, "name": [{"text": "Dr Evil"}]})

    assert server.stored("Practitioner", user)["name"] == before["name"]


def test_rows_of_another_tenant_are_not_presented(server: Server, other_server: Server) -> None:
    study = Study(server)
    study.analyse(server)
    study.finish(server)
    rows = {
        "Patient": study.patient,
        "ImagingStudy": study.study,
        "Observation": study.prediction,
        "Task": study.job,
        "DiagnosticReport": study.job,
        "Provenance": study.job,
        "Device": study.version,
        "Organization": server.tenant_id,
    }

    with other_server.database.connection(other_server.tenant_id) as connection:
        for resource_type, row_id in rows.items():
            lens = LENSES[resource_type]
            assert lens.present(connection, other_server.tenant_id, row_id, None) is None
