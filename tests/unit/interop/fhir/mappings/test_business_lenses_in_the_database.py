"""Financial, administrative and knowledge lenses against the real tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from interop.errors import Conflict, Unprocessable
from interop.fhir.mappings.custom_fields import url_of
from interop.fhir.validation import validate
from storage.database import Database
from storage.tenancy import Tenant
from tests.unit.interop.fhir.mappings.test_lenses_in_the_database import (
    NOW,
    Resource,
    Server,
    a_patient,
    row_of,
    subject,
    unique,
)

CDT = "http://www.ada.org/cdt"
TOOTH_36 = {"coding": [{"system": "urn:iso:std:iso:3950", "code": "36"}]}


US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
# What is shown of rows alone is held against these too.
PROFILES = {
    "Claim": "urn:dental-interop:StructureDefinition:dental-claim",
    "Coverage": f"{US_CORE}coverage",
    "Location": f"{US_CORE}location",
    "Medication": f"{US_CORE}medication",
    "Organization": f"{US_CORE}organization",
    "PractitionerRole": f"{US_CORE}practitionerrole",
    "RelatedPerson": f"{US_CORE}relatedperson",
}


def errors_of(resource: Resource, *profiles: str) -> list[str]:
    found = validate(resource, profiles, with_warnings=False)
    return [f"{item.expression}: {item.diagnostics}" for item in found if item.severity == "error"]


class ValidServer(Server):
    """A server all of whose answers are valid by R4's rules."""

    def read(self, resource_type: str, resource_id: str | UUID) -> Resource | None:
        resource = super().read(resource_type, resource_id)
        if resource is not None:
            assert errors_of(resource) == []
        return resource

    def of_rows(self, resource_type: str, row_id: UUID) -> Resource:
        """What rows alone are presented as, which its profile holds for."""
        resource = self.one(resource_type, row_id)
        assert errors_of(resource, PROFILES[resource_type]) == []
        return resource


@pytest.fixture(scope="module")
def server(database: Database, tenant: Tenant) -> Iterator[ValidServer]:
    yield ValidServer(database, tenant)


@pytest.fixture(scope="module")
def other_server(database: Database, other_tenant: Tenant) -> ValidServer:
    return ValidServer(database, other_tenant)


def platform(database: Database, statement: str, *values: object) -> None:
    """What the owner of the database writes into the catalogues."""
    with psycopg.connect(database.owner_url) as connection:  # type: ignore[attr-defined]
        connection.execute(statement.encode(), values)


def a_member(server: Server, name: str = "Eva Sato", **columns: Any) -> UUID:
    user = server.add("users", full_name=name)
    server.add("user_tenants", user_id=user, **columns)
    return user


def a_payer(server: Server, type_: str = "PAYER") -> UUID:
    payer = uuid4()
    server.sql(
        "INSERT INTO tenants (id, slug, name, type) VALUES (%s, %s, 'Acme Dental', %s)",
        payer,
        f"payer-{payer.hex[:8]}",
        type_,
    )
    return payer


def a_policy(server: Server, patient: Resource, **elements: Any) -> Resource:
    own: Resource = {
        "resourceType": "Coverage",
        "id": unique("coverage"),
        "status": "active",
        "subscriberId": "M-4711",
        "beneficiary": subject(patient),
        "payor": [{"display": "Acme Dental"}],
    }
    return server.write({**own, **elements})


def texts(server: Server, query: Any, *values: object) -> list[Any]:
    return [row[0] for row in server.sql(query, *values)]


# -- Coverage, RelatedPerson ----------------------------------------------------------------------


def test_a_coverage_becomes_a_policy_and_its_number_is_sealed(server: Server) -> None:
    patient = a_patient(server)
    class_ = "http://terminology.hl7.org/CodeSystem/coverage-class"
    group = {"type": {"coding": [{"system": class_, "code": "group"}]}, "value": "G1"}
    coverage = a_policy(
        server, patient, order=2, period={"start": "2026-01-01"}, **{"class": [group]}
    )

    row = server.sql(
        "SELECT patient_id, payer_name, group_number, coverage_start, priority, policy_number"
        " FROM patient_insurance_policies WHERE id = %s",
        row_of(server, coverage),
    )[0]

    assert row[:5] == (row_of(server, patient), "Acme Dental", "G1", date(2026, 1, 1), "SECONDARY")
    assert row[5].startswith("sealed:")
    server.sql(
        "UPDATE patient_insurance_policies SET payer_name = 'Zenith', coverage_end = '2026-12-31'"
        " WHERE id = %s",
        row_of(server, coverage),
    )
    shown = server.one("Coverage", coverage["id"])
    assert shown["payor"] == [{"display": "Zenith"}]
    assert shown["period"] == {"start": "2026-01-01", "end": "2026-12-31"}
    assert shown["subscriberId"] == "M-4711"


def test_a_policy_of_another_tenant_as_payer_shows_it_by_name_alone(server: ValidServer) -> None:
    patient, payer = a_patient(server), a_payer(server)
    assert server.read("Organization", payer) is None

    policy = row_of(server, a_policy(server, patient))
    server.sql("UPDATE patient_insurance_policies SET payer_id = %s WHERE id = %s", payer, policy)
    organization = server.of_rows("Organization", payer)

    assert organization["name"] == "Acme Dental"
    assert organization["type"][0]["coding"][0]["code"] == "pay"
    assert "identifier" not in organization
    written = a_policy(server, patient, payor=[{"reference": f"Organization/{payer}"}])
    found = server.sql(
        "SELECT payer_id FROM patient_insurance_policies WHERE id = %s", row_of(server, written)
    )
    assert found == [(payer,)]


def test_a_coverage_that_comes_before_its_patient_waits(server: Server) -> None:
    patient = {"resourceType": "Patient", "id": unique("patient")}
    coverage = a_policy(server, patient)
    assert row_of_or_none(server, coverage) is None

    server.write(patient)

    assert texts(
        server,
        "SELECT patient_id FROM patient_insurance_policies WHERE id = %s",
        row_of(server, coverage),
    ) == [row_of(server, patient)]


def row_of_or_none(server: Server, resource: Resource) -> UUID | None:
    found = server.sql(
        "SELECT row_id FROM fhir_resources WHERE resource_type = %s AND resource_id = %s",
        resource["resourceType"],
        resource["id"],
    )
    return found[0][0] if found else None


def test_what_a_deleted_patient_takes_along_is_deleted_too(server: Server) -> None:
    patient = a_patient(server)
    coverage, relative = a_policy(server, patient), a_relative(server, patient)

    server.delete("Patient", patient["id"])

    assert server.read("Coverage", coverage["id"]) is None
    assert server.read("RelatedPerson", relative["id"]) is None
    assert server.read("Patient", patient["id"]) is None


GUARDIAN = {"system": "http://terminology.hl7.org/CodeSystem/v3-RoleCode", "code": "GUARD"}


def a_relative(server: Server, patient: Resource, **elements: Any) -> Resource:
    own: Resource = {
        "resourceType": "RelatedPerson",
        "id": unique("relative"),
        "patient": subject(patient),
        "relationship": [{"coding": [GUARDIAN]}],
        "name": [{"family": "Ito", "given": ["Ken"], "use": "official"}],
        "telecom": [{"system": "phone", "value": "555-3"}],
        "gender": "male",
    }
    return server.write({**own, **elements})


def test_a_guardian_is_a_contact_and_comes_back_whole(server: Server) -> None:
    patient = a_patient(server)
    relative = a_relative(server, patient)

    query = (
        "SELECT r.relationship_type, c.full_name, c.phone FROM patient_relationships AS r"
        " JOIN external_contacts AS c ON c.id = r.external_contact_id WHERE r.id = %s"
    )
    assert server.sql(query, row_of(server, relative)) == [("GUARDIAN", "Ken Ito", "555-3")]
    server.sql("UPDATE external_contacts SET phone = '555-4' WHERE full_name = 'Ken Ito'")
    changed = {**relative, "telecom": [{"system": "phone", "value": "555-4"}]}
    assert server.read("RelatedPerson", relative["id"]) == changed


def test_relatives_who_share_a_contact_change_together_and_the_last_takes_it_away(
    server: Server,
) -> None:
    one, two = a_patient(server), a_patient(server)
    relative = a_relative(server, one, name=[{"text": "Shared Ito"}])
    contact = texts(
        server,
        "SELECT external_contact_id FROM patient_relationships WHERE id = %s",
        row_of(server, relative),
    )[0]
    other = server.add(
        "patient_relationships",
        patient_id=row_of(server, two),
        external_contact_id=contact,
        relationship_type="EMERGENCY_CONTACT",
    )

    server.write({**relative, "name": [{"text": "Renamed Ito"}]})

    assert server.one("RelatedPerson", other)["name"][0]["text"] == "Renamed Ito"
    server.delete("RelatedPerson", relative["id"])
    assert texts(server, "SELECT count(*) FROM external_contacts WHERE id = %s", contact) == [1]
    server.delete("RelatedPerson", str(other))
    assert texts(server, "SELECT count(*) FROM external_contacts WHERE id = %s", contact) == [0]


def test_a_relative_who_is_a_patient_is_named_by_reference_only(server: ValidServer) -> None:
    child = a_patient(server)
    mother = a_patient(server, name=[{"family": "Secretname"}])
    row = server.add(
        "patient_relationships",
        patient_id=row_of(server, child),
        related_patient_id=row_of(server, mother),
        relationship_type="GUARDIAN",
    )

    shown = server.of_rows("RelatedPerson", row)

    assert "Secretname" not in json.dumps(shown)
    assert shown["extension"][0]["valueReference"] == subject(mother)


def test_a_relationship_that_the_table_does_not_know_is_stored_whole(server: Server) -> None:
    relative = a_relative(server, a_patient(server), relationship=[{"text": "neighbour"}])

    assert server.read("RelatedPerson", relative["id"]) == relative
    rows = server.sql(
        "SELECT count(*) FROM patient_relationships WHERE id = %s",
        row_of_or_none(server, relative),
    )
    assert rows == [(0,)]


# -- Claim, ClaimResponse -------------------------------------------------------------------------


def an_item(number: int, code: str, net: str, **elements: Any) -> Resource:
    own = {
        "sequence": number,
        "productOrService": {"coding": [{"system": CDT, "code": code}]},
        "net": {"value": Decimal(net), "currency": "CHF"},
    }
    return {**own, **elements}


def a_claim(server: Server, patient: Resource, **elements: Any) -> Resource:
    own: Resource = {
        "resourceType": "Claim",
        "id": unique("claim"),
        "identifier": [{"system": "urn:pms", "value": unique("C")}],
        "status": "active",
        "type": {
            "coding": [
                {"system": "http://terminology.hl7.org/CodeSystem/claim-type", "code": "oral"}
            ]
        },
        "use": "claim",
        "patient": subject(patient),
        "created": "2026-10-01",
        "provider": {"display": "Clinic"},
        "priority": {"coding": [{"code": "normal"}]},
        "insurance": [{"sequence": 1, "focal": True, "coverage": {"display": "none"}}],
        "item": [
            an_item(1, "D2740", "1250.500", bodySite=TOOTH_36),
            an_item(2, "D0120", "80.00", servicedDate="2026-09-30"),
        ],
        "total": {"value": Decimal("1330.50"), "currency": "CHF"},
    }
    return server.write({**own, **elements})


def test_a_claim_becomes_a_header_and_lines_and_keeps_every_digit(server: Server) -> None:
    patient = a_patient(server)
    claim = a_claim(server, patient)

    header = server.sql(
        "SELECT claim_number, status, currency, total_billed_amount, submitted_at::date"
        " FROM claims WHERE id = %s",
        row_of(server, claim),
    )
    lines = server.sql(
        "SELECT line_number, cdt_code, tooth_number, service_start, billed_amount FROM claim_lines"
        " WHERE claim_id = %s ORDER BY line_number",
        row_of(server, claim),
    )

    number = claim["identifier"][0]["value"]
    assert header == [(number, "SUBMITTED", "CHF", Decimal("1330.50"), date(2026, 10, 1))]
    assert lines == [
        (1, "D2740", 36, None, Decimal("1250.50")),
        (2, "D0120", None, date(2026, 9, 30), Decimal("80.00")),
    ]
    server.sql("UPDATE claims SET updated_by = 'touched' WHERE id = %s", row_of(server, claim))
    shown = server.one("Claim", claim["id"])
    assert shown == claim
    assert str(shown["item"][0]["net"]["value"]) == "1250.500"


def test_a_line_names_its_procedure_where_r4_has_it(server: Server) -> None:
    patient = a_patient(server)
    procedure = {
        "resourceType": "Procedure",
        "id": unique("procedure"),
        "status": "completed",
        "subject": subject(patient),
    }
    named = {"sequence": 4, "procedureReference": {"reference": f"Procedure/{procedure['id']}"}}
    claim = a_claim(
        server,
        patient,
        procedure=[named],
        item=[an_item(1, "D2740", "10.00", procedureSequence=[4])],
    )
    query = "SELECT procedure_id FROM claim_lines WHERE claim_id = %s"
    assert texts(server, query, row_of(server, claim)) == [None]

    server.write(procedure)

    assert texts(server, query, row_of(server, claim)) == [row_of(server, procedure)]
    server.sql("UPDATE claim_lines SET quantity = 2 WHERE claim_id = %s", row_of(server, claim))
    shown = server.one("Claim", claim["id"])
    assert shown["item"] == [{**claim["item"][0], "quantity": {"value": 2}}]
    assert shown["procedure"] == [named]
    server.sql("UPDATE claim_lines SET procedure_id = NULL WHERE claim_id = %s",
               row_of(server, claim))  # fmt: skip
    assert "procedureSequence" not in server.one("Claim", claim["id"])["item"][0]


def test_a_claim_of_rows_is_a_valid_claim(server: ValidServer) -> None:
    patient, payer = a_patient(server), a_payer(server)
    own = row_of(server, patient)
    row = server.add("claims", patient_id=own, payer_id=payer, claim_number=unique("N"))
    procedure = server.add("procedures", patient_id=own)
    server.add(
        "claim_lines",
        claim_id=row,
        line_number=1,
        cdt_code="D0150",
        procedure_id=procedure,
        billed_amount=Decimal("99.90"),
    )

    claim = server.of_rows("Claim", row)

    assert claim["status"] == "draft"
    assert claim["insurer"] == {"reference": f"Organization/{payer}"}
    assert claim["item"][0]["net"] == {"value": Decimal("99.90"), "currency": "USD"}
    assert claim["procedure"][0]["procedureReference"] == {"reference": f"Procedure/{procedure}"}
    assert server.of_rows("Organization", payer)["name"] == "Acme Dental"


def test_what_the_payer_says_is_a_response_and_outlives_the_claim_sent_again(
    server: Server,
) -> None:
    claim = a_claim(server, a_patient(server))
    row = row_of(server, claim)
    assert server.read("ClaimResponse", row) is None

    server.sql(
        "UPDATE claims SET status = 'PAID', total_allowed_amount = 1200,"
        " total_paid_amount = 900.10, adjudicated_at = '2026-11-02T00:00:00Z' WHERE id = %s",
        row,
    )
    server.sql(
        "UPDATE claim_lines SET allowed_amount = 1100, paid_amount = 850.10,"
        " patient_responsibility = 250 WHERE claim_id = %s AND line_number = 1",
        row,
    )
    server.add("claim_status_events", claim_id=row, status="PAID", message="Settled")

    response = server.one("ClaimResponse", row)
    assert response["outcome"] == "complete"
    assert response["request"] == {"reference": f"Claim/{claim['id']}"}
    assert response["disposition"] == "Settled"
    amounts = [part["amount"]["value"] for part in response["item"][0]["adjudication"]]
    assert amounts == [Decimal(v) for v in ("1250.50", "1100.00", "850.10", "250.00")]
    assert response["payment"]["amount"] == {"value": Decimal("900.10"), "currency": "CHF"}
    server.write({**claim, "priority": {"coding": [{"code": "stat"}]}})
    assert texts(server, "SELECT status FROM claims WHERE id = %s", row) == ["PAID"]
    with pytest.raises(Conflict):
        server.delete("ClaimResponse", str(row))


def test_two_claims_have_not_one_number(server: Server) -> None:
    patient = a_patient(server)
    claim = a_claim(server, patient)

    with pytest.raises(Conflict, match="claim_number"):
        a_claim(server, patient, identifier=claim["identifier"])


# -- catalog, invoices ----------------------------------------------------------------------------


def test_a_catalogued_service_shows_its_fees_and_keeps_them(server: Server) -> None:
    code = unique("X")
    definition = server.write(
        {
            "resourceType": "ChargeItemDefinition",
            "id": unique("service"),
            "url": "urn:uuid:" + str(uuid4()),
            "status": "active",
            "title": "Crown",
            "code": {"coding": [{"system": "urn:dental-interop:procedure-code", "code": code}]},
            "propertyGroup": [{"applicability": [{"description": "mine"}]}],
        }
    )
    row = row_of(server, definition)
    query = "SELECT code_system, code, description FROM procedure_catalog WHERE id = %s"
    assert server.sql(query, row) == [("CUSTOM", code, "Crown")]
    schedule = server.add("fee_schedules", name="Main", effective_from=date(2026, 1, 1))
    server.add(
        "fee_schedule_items", fee_schedule_id=schedule, procedure_catalog_id=row, fee=Decimal("950")
    )

    shown = server.one("ChargeItemDefinition", definition["id"])
    mine, fees = shown["propertyGroup"]
    assert mine == definition["propertyGroup"][0]
    assert fees["priceComponent"] == [
        {"type": "base", "amount": {"value": Decimal("950.00"), "currency": "USD"}}
    ]
    server.write({**definition, "title": "Gold crown"})
    stored = server.stored("ChargeItemDefinition", definition["id"])
    assert stored["propertyGroup"] == [mine, fees]
    server.sql("UPDATE fee_schedules SET currency = 'EUR' WHERE id = %s", schedule)
    changed = server.one("ChargeItemDefinition", definition["id"])["propertyGroup"][1]
    assert changed["priceComponent"][0]["amount"]["currency"] == "EUR"


def test_an_invoice_of_the_platform_is_shown(server: Server) -> None:
    row = server.add(
        "invoices",
        invoice_number=unique("I"),
        period_start=date(2026, 10, 1),
        period_end=date(2026, 10, 31),
        status="OVERDUE",
        total_amount=Decimal("110.00"),
    )
    server.add(
        "invoice_line_items",
        invoice_id=row,
        item_type="AI_OVERAGE",
        description="Inferences",
        quantity=Decimal("1200"),
        amount=Decimal("110"),
    )

    invoice = server.one("Invoice", row)

    assert (invoice["status"], invoice["extension"][0]["valueCode"]) == ("issued", "overdue")
    assert invoice["totalNet"] == {"value": Decimal("110.00"), "currency": "USD"}
    assert invoice["lineItem"][0]["chargeItemCodeableConcept"]["text"] == "Inferences (1200)"
    server.sql(
        "UPDATE invoices SET status = 'PAID', paid_at = now() WHERE id = %s",
        row,
    )
    assert server.one("Invoice", row)["status"] == "balanced"


# -- people ---------------------------------------------------------------------------------------


def test_a_team_is_a_care_team_of_its_members(server: Server) -> None:
    dentist = a_member(server)
    patient_user = a_member(server, "Pat Ient", user_type="PATIENT")
    team = server.add("teams", name=unique("Hygiene"), description="Mornings")
    server.add("team_members", team_id=team, user_id=dentist, role_in_team="lead")
    server.add("team_members", team_id=team, user_id=patient_user)

    shown = server.one("CareTeam", team)

    (participant,) = shown["participant"]
    assert participant["member"] == {"reference": f"Practitioner/{dentist}"}
    assert participant["role"][0]["text"] == "lead"
    server.sql("UPDATE user_tenants SET user_type = 'HYGIENIST' WHERE user_id = %s", dentist)
    role = server.one("CareTeam", team)["participant"][0]["role"][0]
    assert role["coding"][0]["code"] == "124Q00000X"
    with pytest.raises(Conflict, match="administration"):
        server.delete("CareTeam", str(team))


def test_a_membership_and_each_role_are_practitioner_roles(server: ValidServer) -> None:
    place = server.add("locations", name="North")
    user = a_member(server, default_location_id=place)
    member = texts(server, "SELECT id FROM user_tenants WHERE user_id = %s", user)[0]
    role = texts(server, "SELECT id FROM roles WHERE code = 'CLINICIAN'")[0]
    held = server.add("user_roles", user_id=user, role_id=role, location_id=place,
                      resource_scope="LOCATION", valid_from=NOW)  # fmt: skip

    membership, assignment = (server.of_rows("PractitionerRole", row) for row in (member, held))

    assert membership["practitioner"] == {"reference": f"Practitioner/{user}"}
    assert membership["specialty"][0]["coding"][0]["code"] == "122300000X"
    assert membership["location"] == [{"reference": f"Location/{place}"}]
    assert assignment["code"][0]["coding"][0]["code"] == "CLINICIAN"
    assert assignment["period"]["start"].startswith("2026-11-01T10:15")
    # The membership ends over FHIR; the roles follow.
    practitioner = server.one("Practitioner", user)
    server.write({**practitioner, "active": False})
    assert server.of_rows("PractitionerRole", held)["active"] is False
    patient_user = a_member(server, "Pat Ient", user_type="PATIENT")
    theirs = texts(server, "SELECT id FROM user_tenants WHERE user_id = %s", patient_user)[0]
    assert server.read("PractitionerRole", theirs) is None


# -- documents, messages, webhooks ----------------------------------------------------------------


def test_a_document_of_a_visit_is_the_patients(server: Server) -> None:
    one, two = (server.add("patients") for _ in range(2))
    visit = server.add("encounters", patient_id=one)
    row = server.add(
        "documents",
        owner_type="ENCOUNTER",
        owner_id=visit,
        document_type="consent-form",
        storage_uri="secret/key",
        hash="a" * 64,
        byte_size=2**40,
        media_type="application/pdf",
    )

    shown = server.one("DocumentReference", row)

    assert shown["subject"] == {"reference": f"Patient/{one}"}
    assert shown["context"] == {"encounter": [{"reference": f"Encounter/{visit}"}]}
    assert "secret" not in json.dumps(shown)
    server.sql("UPDATE encounters SET patient_id = %s WHERE id = %s", two, visit)
    assert server.one("DocumentReference", row)["subject"] == {"reference": f"Patient/{two}"}


def test_messages_of_a_patient_are_communications_and_team_chats_are_not(server: Server) -> None:
    patient, user = server.add("patients"), a_member(server)
    rows = {}
    for kind in ("PATIENT_MESSAGING", "CASE_DISCUSSION", "TEAM_CHAT"):
        conversation = server.add(
            "conversations", conversation_type=kind, patient_id=patient, subject="Crown"
        )
        for who in ({"user_id": user}, {"patient_id": patient}):
            server.add("conversation_participants", conversation_id=conversation,
                       joined_at=NOW, **who)  # fmt: skip
        rows[kind] = server.add(
            "messages",
            conversation_id=conversation,
            sender_type="PATIENT",
            sender_patient_id=patient,
            content="Does it hurt?",
            sent_at=NOW,
        )

    message = server.one("Communication", rows["PATIENT_MESSAGING"])
    discussion = server.one("Communication", rows["CASE_DISCUSSION"])

    assert message["subject"] == message["sender"] == {"reference": f"Patient/{patient}"}
    assert message["recipient"] == [{"reference": f"Practitioner/{user}"}]
    assert message["payload"] == [{"contentString": "Does it hurt?"}]
    assert "subject" not in discussion
    assert discussion["about"] == [{"reference": f"Patient/{patient}"}]
    assert server.read("Communication", rows["TEAM_CHAT"]) is None


def test_a_webhook_is_a_subscription_without_its_secrets(server: Server) -> None:
    row = server.add(
        "webhook_subscriptions",
        name="Billing",
        target_url="https://user:pass@hooks.example/in?token=abc",
        event_types=["claim.paid", "claim.denied"],
        secret_encrypted="sealed:s3cret",
    )

    shown = server.one("Subscription", row)

    assert shown["channel"]["endpoint"] == "https://hooks.example/in"
    assert shown["criteria"] == "claim.paid, claim.denied"
    assert not {"s3cret", "abc", "pass"} & set(json.dumps(shown).replace('"', " ").split())


# -- knowledge, workflows -------------------------------------------------------------------------


def test_only_what_is_approved_of_a_published_document_is_shown(server: Server) -> None:
    row = server.add(
        "knowledge_documents",
        slug=unique("perio"),
        title="Perio",
        document_type="CLINICAL_PROTOCOL",
        tags=["gums"],
    )
    for number, status in ((1, "APPROVED"), (2, "IN_REVIEW")):
        version = server.add(
            "knowledge_versions",
            document_id=row,
            version=number,
            content=f"text {number}",
            review_status=status,
        )
        server.add("knowledge_localizations", version_id=version, language="de", title="Paro",
                   content="Text")  # fmt: skip
    assert server.read("Library", row) is None

    server.sql("UPDATE knowledge_documents SET status = 'PUBLISHED' WHERE id = %s", row)

    shown = server.one("Library", row)
    assert (shown["version"], shown["status"]) == ("1", "active")
    assert [item.get("language") for item in shown["content"]] == [None, "de"]
    server.sql("UPDATE knowledge_versions SET review_status = 'APPROVED' WHERE document_id = %s",
               row)  # fmt: skip
    assert server.one("Library", row)["version"] == "2"


def test_a_workflow_is_a_plan_of_its_states(server: Server) -> None:
    row = server.add(
        "workflows",
        code=unique("review"),
        name="Review",
        initial_state="new",
        states=json.dumps(["new", {"code": "done"}]),
        transitions=json.dumps([{"from": "new", "to": "done", "action": "confirm"}]),
    )

    actions = server.one("PlanDefinition", row)["action"]

    assert [action["title"] for action in actions] == ["new", "done"]
    assert actions[0]["relatedAction"] == [{"actionId": "state-2", "relationship": "before"}]


# -- the platform's catalogues --------------------------------------------------------------------


def test_the_platforms_terminology_is_in_every_tenant(
    server: Server, other_server: Server, database: Database
) -> None:
    system = uuid4()
    platform(
        database,
        "INSERT INTO code_systems (id, code, uri, name) VALUES (%s, 'finding', %s, 'Findings')",
        system,
        f"urn:{system}",
    )
    platform(
        database,
        "INSERT INTO code_values (code_system_id, code, display, parent_code, is_active)"
        " VALUES (%s, 'a', 'A', NULL, true), (%s, 'b', 'B', 'a', false)",
        system,
        system,
    )

    for one in (server, other_server):
        shown = one.one("CodeSystem", system)
        assert [concept["code"] for concept in shown["concept"]] == ["a", "b"]
        assert (shown["content"], shown["count"]) == ("complete", 2)
        include = one.one("ValueSet", system)["compose"]["include"]
        assert include == [{"system": f"urn:{system}"}]


def test_a_catalogued_drug_material_or_machine_is_where_a_record_names_it(
    server: ValidServer, other_server: ValidServer, database: Database
) -> None:
    ids = {name: uuid4() for name in ("drug", "material", "equipment")}
    platform(
        database,
        "INSERT INTO drug_reference (id, code, name, atc_code)"
        " VALUES (%s, %s, 'Amoxil', 'J01CA04')",
        ids["drug"],
        unique("d"),
    )
    platform(
        database,
        "INSERT INTO material_reference (id, code, name, allergens) VALUES (%s, %s, 'Nitinol',"
        " '{nickel}')",
        ids["material"],
        unique("m"),
    )
    platform(
        database,
        "INSERT INTO equipment_reference (id, model_name, modality) VALUES (%s, %s, 'PX')",
        ids["equipment"],
        unique("pano"),
    )
    patient = row_of(server, a_patient(server))
    procedure = server.add("procedures", patient_id=patient)
    server.add(
        "patient_allergies",
        patient_id=patient,
        category="DRUG",
        substance="Amoxil",
        drug_id=ids["drug"],
    )
    server.add("procedure_materials", procedure_id=procedure, material_id=ids["material"])
    server.add(
        "imaging_studies",
        patient_id=patient,
        study_uid=f"2.25.{uuid4().int}",
        performing_device_id=ids["equipment"],
    )

    medication = server.of_rows("Medication", ids["drug"])
    material, machine = (server.one("Device", ids[name]) for name in ("material", "equipment"))

    assert [item["code"] for item in medication["code"]["coding"]][1] == "J01CA04"
    assert material["safety"] == [{"text": "Contains nickel"}]
    assert machine["type"]["coding"][0]["code"] == "PX"
    assert other_server.read("Medication", ids["drug"]) is None
    assert other_server.read("Device", ids["material"]) is None
    server.sql("DELETE FROM procedure_materials WHERE procedure_id = %s", procedure)
    assert server.read("Device", ids["material"]) is None


# -- fields of a tenant's own ---------------------------------------------------------------------


def a_field(server: Server, data_type: str, **columns: Any) -> str:
    key = f"f{uuid4().hex[:10]}"
    own = {"entity_type": "PATIENT", "label": "Field", "field_key": key, "data_type": data_type}
    server.add("custom_field_definitions", **{**own, **columns})
    return key


def extension(key: str, **value: Any) -> Resource:
    return {"url": url_of("PATIENT", key), **value}


def test_fields_of_a_tenants_own_are_extensions_both_ways(server: Server) -> None:
    score, recall = a_field(server, "NUMBER"), a_field(server, "DATE")
    patient = a_patient(
        server,
        extension=[
            extension(score, valueDecimal=Decimal("12500.00")),
            {"url": "urn:client", "valueString": "own"},
        ],
    )
    row = row_of(server, patient)
    query = "SELECT field_key, value_number::text, value_text FROM custom_field_values" \
            " WHERE entity_id = %s ORDER BY value_text NULLS FIRST"  # fmt: skip
    assert server.sql(query, row) == [(score, "12500.00", None)]

    definition = texts(
        server, "SELECT id FROM custom_field_definitions WHERE field_key = %s", recall
    )[0]
    server.add(
        "custom_field_values",
        definition_id=definition,
        entity_type="PATIENT",
        entity_id=row,
        field_key=recall,
        value_text="2027-05-01",
    )

    shown = server.one("Patient", patient["id"])
    assert shown["extension"] == [*patient["extension"], extension(recall, valueDate="2027-05-01")]
    assert str(shown["extension"][0]["valueDecimal"]) == "12500.00"
    server.write({**shown, "extension": [extension(recall, valueDate="2027-06-01")]})
    assert server.sql(query, row) == [(recall, None, "2027-06-01")]
    described = server.one("StructureDefinition", definition)
    assert described["url"] == url_of("PATIENT", recall)
    assert described["differential"]["element"][-1]["type"] == [{"code": "date"}]
    assert described["context"] == [{"type": "element", "expression": "Patient"}]
    server.sql("UPDATE custom_field_definitions SET is_active = false WHERE id = %s", definition)
    assert server.one("StructureDefinition", definition)["status"] == "retired"


def test_a_secret_field_is_not_presented(server: Server) -> None:
    key = a_field(server, "TEXT", phi_sensitivity_level="RESTRICTED")
    definition = texts(server, "SELECT id FROM custom_field_definitions WHERE field_key = %s", key)[
        0
    ]
    patient = a_patient(server)
    server.add(
        "custom_field_values",
        definition_id=definition,
        entity_type="PATIENT",
        entity_id=row_of(server, patient),
        field_key=key,
        value_text="hidden",
    )

    assert server.read("Patient", patient["id"]) == patient
    assert server.read("StructureDefinition", definition) is None


def test_a_field_of_a_claim_and_of_a_member(server: Server) -> None:
    clinic = a_field(server, "BOOLEAN", entity_type="CLAIM")
    badge = a_field(server, "JSON", entity_type="USER")
    value = {"url": url_of("CLAIM", clinic), "valueBoolean": True}
    claim = a_claim(server, a_patient(server), extension=[value])
    user = a_member(server)
    definition = texts(
        server, "SELECT id FROM custom_field_definitions WHERE field_key = %s", badge
    )[0]
    server.add(
        "custom_field_values",
        definition_id=definition,
        entity_type="USER",
        entity_id=user,
        field_key=badge,
        value_json=Jsonb({"floor": 2}),
    )

    stored = texts(
        server,
        "SELECT value_text FROM custom_field_values WHERE entity_id = %s",
        row_of(server, claim),
    )
    practitioner = server.one("Practitioner", user)

    assert stored == ["true"]
    assert practitioner["extension"] == [
        {"url": url_of("USER", badge), "valueString": '{"floor": 2}'}
    ]


def test_a_record_cannot_be_made_less_than_its_table_needs(server: Server) -> None:
    coverage = a_policy(server, a_patient(server))

    with pytest.raises(Unprocessable, match="policy_number"):
        server.write({key: node for key, node in coverage.items() if key != "subscriberId"})
