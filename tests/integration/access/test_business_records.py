"""Who sees what rows of money, people, messages and knowledge become: roles, units, patients' apps.

All rows are written by SQL, as a practice system does; each question is a search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from storage.tenancy import Tenant
from tests.integration.access.conftest import Door, found, put

READ = "user/*.rs"
NORTH, SOUTH = "north", "south"


@dataclass
class Records:
    """The names of the rows: of a patient of each place, and of the organization."""

    locations: dict[str, UUID]
    patients: dict[str, UUID]
    ids: dict[str, dict[str, UUID]]

    def of(self, resource_type: str, *names: str) -> set[str]:
        return {f"{resource_type}/{self.ids[resource_type][name]}" for name in names}


@pytest.fixture(scope="module")
def records(door: Door, tenant: Tenant) -> Records:
    made = Records({}, {}, {})

    def add(table: str, **values: Any) -> UUID:
        row = {"id": uuid4(), "tenant_id": tenant.id, **values}
        columns, places = ", ".join(row), ", ".join(["%s"] * len(row))
        door.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", *row.values())
        return row["id"]

    def keep(resource_type: str, name: str, row: UUID) -> UUID:
        made.ids.setdefault(resource_type, {})[name] = row
        return row

    for place in (NORTH, SOUTH):
        location = made.locations[place] = add("locations", name=place)
        patient = add("patients", last_name=place, primary_location_id=location)
        made.patients[place] = patient
        claim = keep("Claim", place, add("claims", patient_id=patient, claim_number=place))
        add("claim_status_events", claim_id=claim, status="PAID", message=f"of {place}")
        keep("ClaimResponse", place, claim)
        contact = add("external_contacts", full_name=f"kin of {place}")
        relative = add("patient_relationships", patient_id=patient, external_contact_id=contact,
                       relationship_type="GUARDIAN")  # fmt: skip
        keep("RelatedPerson", place, relative)
        document = add("documents", owner_type="PATIENT", owner_id=patient, document_type="form",
                       storage_uri="x", hash="a" * 64)  # fmt: skip
        keep("DocumentReference", place, document)
        for kind in ("PATIENT_MESSAGING", "CASE_DISCUSSION"):
            thread = add("conversations", conversation_type=kind, patient_id=patient)
            message = add("messages", conversation_id=thread, sender_type="SYSTEM", content="x")
            keep("Communication", f"{kind} {place}", message)
    put(door.system(tenant), {
        "resourceType": "Coverage", "id": "cover", "status": "active", "subscriberId": "1",
        "beneficiary": {"reference": f"Patient/{made.patients[NORTH]}"},
        "payor": [{"display": "Acme"}],
    })  # fmt: skip
    keep("CareTeam", "team", add("teams", name="Hygiene"))
    keep("ChargeItemDefinition", "fee", add("procedure_catalog", code="D0120"))
    keep("Invoice", "invoice", add("invoices", invoice_number="1", period_start="2026-10-01",
                                   period_end="2026-10-31"))  # fmt: skip
    article = add("knowledge_documents", slug="a", title="A", status="PUBLISHED",
                  document_type="PATIENT_EDUCATION")  # fmt: skip
    add("knowledge_versions", document_id=article, version=1, content="x",
        review_status="APPROVED")  # fmt: skip
    keep("Library", "article", article)
    keep("Subscription", "hook", add("webhook_subscriptions", name="h", target_url="https://h.x"))
    return made


MONEY = ("Claim", "ClaimResponse", "Coverage", "Invoice", "ChargeItemDefinition")


def ids_of(caller: httpx.Client, resource_type: str) -> set[str]:
    return found(caller.get(f"/{resource_type}", params={"_count": "100"}))


def test_a_clinician_reads_the_records_and_no_money(
    door: Door, tenant: Tenant, records: Records
) -> None:
    caller = door.caller(tenant, READ, user=door.user(tenant, ("CLINICIAN", "ALL_LOCATIONS", None)))

    for type_ in (*MONEY, "Subscription"):
        assert caller.get(f"/{type_}").status_code == 403
    for type_ in ("RelatedPerson", "DocumentReference", "Communication", "CareTeam", "Library"):
        assert ids_of(caller, type_) == records.of(type_, *records.ids[type_])


def test_one_location_reads_what_is_of_its_patients(
    door: Door, tenant: Tenant, records: Records
) -> None:
    unit = ("TENANT_ADMIN", "LOCATION", records.locations[NORTH])
    caller = door.caller(tenant, READ, user=door.user(tenant, unit))

    for type_ in ("Claim", "ClaimResponse", "RelatedPerson", "DocumentReference"):
        assert ids_of(caller, type_) == records.of(type_, NORTH)
    # What colleagues say about a patient is no part of the record, so of no unit's.
    assert ids_of(caller, "Communication") == records.of(
        "Communication", f"PATIENT_MESSAGING {NORTH}"
    )
    for type_ in ("CareTeam", "Invoice"):
        assert ids_of(caller, type_) == set()
    assert caller.get("/ChargeItemDefinition").status_code == 403
    assert ids_of(caller, "Library") == records.of("Library", "article")
    elsewhere = records.ids["Claim"][SOUTH]
    gone = caller.get(f"/Claim/{uuid4()}")
    assert caller.get(f"/Claim/{elsewhere}").status_code == gone.status_code == 404


def test_an_app_of_a_patient_reads_the_own_record(
    door: Door, tenant: Tenant, records: Records
) -> None:
    caller = door.caller(tenant, "patient/*.rs", patient=records.patients[NORTH])

    for type_ in ("Claim", "ClaimResponse", "RelatedPerson", "DocumentReference"):
        assert ids_of(caller, type_) == records.of(type_, NORTH)
    assert ids_of(caller, "Communication") == records.of(
        "Communication", f"PATIENT_MESSAGING {NORTH}"
    )
    assert ids_of(caller, "Coverage") == {"Coverage/cover"}
    for type_ in ("ChargeItemDefinition", "Subscription"):
        assert caller.get(f"/{type_}").status_code == 403
    for type_ in ("CareTeam", "Invoice"):
        assert ids_of(caller, type_) == set()


def test_who_manages_everything_reads_everything(
    door: Door, tenant: Tenant, records: Records
) -> None:
    admin = door.user(tenant, ("TENANT_ADMIN", "ALL_LOCATIONS", None))
    caller = door.caller(tenant, READ, user=admin)

    for type_, rows in records.ids.items():
        assert ids_of(caller, type_) >= records.of(type_, *rows)
    assert ids_of(caller, "Coverage") == {"Coverage/cover"}


def test_the_rows_are_found_by_what_they_say(door: Door, tenant: Tenant, records: Records) -> None:
    system, patient = door.system(tenant), f"Patient/{records.patients[NORTH]}"

    def search(query: str) -> set[str]:
        return set(found(system.get(f"/{query}")))

    claim = records.ids["Claim"][NORTH]
    assert search(f"Claim?patient={patient}") == records.of("Claim", NORTH)
    assert search(f"ClaimResponse?request=Claim/{claim}") == records.of("ClaimResponse", NORTH)
    assert search("RelatedPerson?name=kin of south") == records.of("RelatedPerson", SOUTH)
    assert search(f"Coverage?beneficiary={patient}") == {"Coverage/cover"}
    assert search("Invoice?totalnet=0&status=draft") == records.of("Invoice", "invoice")
    assert search("Library?topic=patient-education") == records.of("Library", "article")
    assert search(f"Communication?subject={patient}") == records.of(
        "Communication", f"PATIENT_MESSAGING {NORTH}"
    )
    assert search("CareTeam?status=active") == records.of("CareTeam", "team")
