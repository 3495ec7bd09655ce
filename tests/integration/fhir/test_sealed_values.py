"""Security checklist G6 over the FHIR door: national and insurance numbers lie nowhere in clear."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import psycopg
import pytest

from storage.database import Database
from storage.encryption import shred
from storage.encryption.cache import KeyCache
from storage.encryption.providers import KeyProviders
from storage.encryption.rotation import reseal, rotate
from storage.encryption.vault import Vault
from storage.tenancy import Tenant, TenantDirectory
from tests.kms import KmsServer

SSN_SYSTEM = "http://hl7.org/fhir/sid/us-ssn"
TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
MEMBER_SYSTEM = "https://insurer.example/members"
MRN_SYSTEM = "https://clinic.example/mrn"


def number() -> str:
    """Looks like nothing else in the database."""
    return f"canary-{uuid4().hex[:16]}"


def typed(code: str, system: str, value: str) -> dict[str, Any]:
    return {"type": {"coding": [{"system": TYPES, "code": code}]}, "system": system, "value": value}


def patient(**elements: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "name": [{"family": "Ko"}], **elements}


def create(fhir: httpx.Client, resource: dict[str, Any]) -> dict[str, Any]:
    response = fhir.post(f"/{resource['resourceType']}", json=resource)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [entry["resource"]["id"] for entry in response.json().get("entry", [])]


def tables_holding(owner_url: str, text: str) -> list[str]:
    """Every table with a row in which the text stands, in clear or in base64."""
    spellings = [text, *in_base64(text)]
    with psycopg.connect(owner_url, autocommit=True) as owner:
        names = owner.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = current_schema()::regnamespace"
        ).fetchall()
        return [
            name
            for (name,) in names
            for (row,) in owner.execute(
                f"SELECT string_agg(t::text, ' ') FROM \"{name}\" AS t"
            ).fetchall()
            if row and any(spelling in row for spelling in spellings)
        ]


def in_base64(text: str) -> list[str]:
    """What of its base64 does not depend on where in the encoded text it began."""
    encoded = [base64.b64encode(b" " * shift + text.encode()).decode() for shift in range(3)]
    return [part[4:-4] for part in encoded]


@pytest.fixture
def sealed_patient(fhir: httpx.Client) -> dict[str, Any]:
    return create(
        fhir,
        patient(
            identifier=[
                typed("MR", MRN_SYSTEM, f"mrn-{uuid4().hex}"),
                typed("SS", SSN_SYSTEM, number()),
                {"system": "http://hl7.org/fhir/sid/us-mbi", "value": number()},
                typed("PPN", "http://hl7.org/fhir/sid/passport-DEU", number()),
            ]
        ),
    )


def test_g6_no_table_holds_a_national_or_insurance_number_in_clear(
    fhir: httpx.Client, place_url: str
) -> None:
    secret, clear = number(), number()
    div = f'<div xmlns="http://www.w3.org/1999/xhtml">{secret}</div>'
    made = create(
        fhir,
        patient(
            text={"status": "additional", "div": div},
            identifier=[typed("SS", SSN_SYSTEM, secret), typed("MR", MRN_SYSTEM, clear)],
            contained=[{"resourceType": "RelatedPerson", "id": "r", "patient": {"reference": "#"}}],
            extension=[{"url": "urn:x", "valueIdentifier": typed("NNDEU", "urn:y", secret)}],
        ),
    )
    untyped = create(fhir, patient(identifier=[{"system": SSN_SYSTEM, "value": secret}]))
    coverage = create(
        fhir,
        {
            "resourceType": "Coverage",
            "status": "active",
            "subscriberId": secret,
            "identifier": [{"system": MEMBER_SYSTEM, "value": secret}],
            "beneficiary": {
                "reference": f"Patient/{made['id']}",
                "identifier": typed("SS", SSN_SYSTEM, secret),
            },
            "payor": [{"display": "Insurer"}],
        },
    )
    fhir.put(f"/Patient/{untyped['id']}", json={**untyped, "active": True}).raise_for_status()
    for query in (
        f"Patient?identifier={secret}",
        f"Patient?identifier={quote(SSN_SYSTEM)}|{secret}",
        f"Patient?identifier:of-type={quote(TYPES)}|SS|{secret}",
        f"Coverage?beneficiary:identifier={quote(SSN_SYSTEM)}|{secret}",
        f"Coverage?identifier={secret}",
    ):
        assert ids(fhir.get(f"/{query}")), query
    assert fhir.get(f"/Coverage/{coverage['id']}").json()["subscriberId"] == secret

    assert tables_holding(place_url, secret) == []
    assert "patient_identifiers" in tables_holding(place_url, clear)


def test_a_sealed_resource_comes_back_as_it_was_sent(
    fhir: httpx.Client, sealed_patient: dict[str, Any]
) -> None:
    url = f"/Patient/{sealed_patient['id']}"
    changed = fhir.put(url, json={**sealed_patient, "active": True})
    changed.raise_for_status()

    assert fhir.get(url).json() == changed.json()
    assert fhir.get(f"{url}/_history/1").json() == sealed_patient
    history = fhir.get(f"{url}/_history").json()
    assert [entry["resource"] for entry in history["entry"]] == [changed.json(), sealed_patient]
    found = fhir.get(f"/Patient?_id={sealed_patient['id']}").json()
    assert [entry["resource"] for entry in found["entry"]] == [changed.json()]


@pytest.mark.parametrize(
    "query",
    [
        "identifier={ssn}",
        "identifier=http://hl7.org/fhir/sid/us-ssn|{ssn}",
        "identifier=http://hl7.org/fhir/sid/us-ssn|{spaced}",
        "identifier=nobody,{ssn}",
        "identifier=http://hl7.org/fhir/sid/us-ssn|{ssn},http://x|nobody",
        "identifier=http://hl7.org/fhir/sid/passport-DEU|{passport}",
        "identifier=http://hl7.org/fhir/sid/us-mbi|{member}",
        "identifier=https://clinic.example/mrn|{mrn}",
        "identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|SS|{ssn}",
        "identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|{mrn}",
        "identifier=http://hl7.org/fhir/sid/us-ssn|&identifier={ssn}",
        "_id={id}&identifier:not=nobody",
    ],
)
def test_search_by_identifier_finds_a_sealed_value(
    fhir: httpx.Client, other_fhir: httpx.Client, sealed_patient: dict[str, Any], query: str
) -> None:
    mrn, ssn, member, passport = (item["value"] for item in sealed_patient["identifier"])
    asked = query.format(
        id=sealed_patient["id"],
        mrn=mrn,
        ssn=ssn,
        spaced=ssn.replace("-", " "),
        member=member,
        passport=passport,
    )

    assert ids(fhir.get(f"/Patient?{asked}")) == [sealed_patient["id"]]
    assert ids(other_fhir.get(f"/Patient?{asked}")) == []


@pytest.mark.parametrize(
    "query",
    [
        "identifier=https://clinic.example/mrn|{ssn}",
        "identifier=http://hl7.org/fhir/sid/us-ssn|{passport}",
        "identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|{ssn}",
        "_id={id}&identifier:not={ssn}",
    ],
)
def test_search_by_identifier_does_not_find_another_kind(
    fhir: httpx.Client, sealed_patient: dict[str, Any], query: str
) -> None:
    _, ssn, _, passport = (item["value"] for item in sealed_patient["identifier"])
    asked = query.format(id=sealed_patient["id"], ssn=ssn, passport=passport)

    assert ids(fhir.get(f"/Patient?{asked}")) == []


def test_rows_changed_in_sql_show_beside_the_sealed_ones(
    fhir: httpx.Client, database: Database, tenant: Tenant, sealed_patient: dict[str, Any]
) -> None:
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE patients SET last_name = 'Lee' WHERE id = %s", (sealed_patient["id"],)
        )

    shown = fhir.get(f"/Patient/{sealed_patient['id']}").json()

    assert shown["name"][0]["family"] == "Lee"
    assert shown["identifier"] == sealed_patient["identifier"]


def test_a_number_that_is_taken_out_leaves_the_resource_open_again(
    fhir: httpx.Client, database: Database, tenant: Tenant, sealed_patient: dict[str, Any]
) -> None:
    url = f"/Patient/{sealed_patient['id']}"
    ssn = sealed_patient["identifier"][1]["value"]
    body = {**sealed_patient, "identifier": sealed_patient["identifier"][:1]}
    fhir.put(url, json=body).raise_for_status()

    assert ids(fhir.get(f"/Patient?identifier={ssn}")) == []
    with database.connection(tenant.id) as connection:
        stored = connection.execute(
            "SELECT body FROM fhir_resources WHERE resource_id = %s", (sealed_patient["id"],)
        ).fetchone()
        rows = connection.execute(
            "SELECT system FROM patient_identifiers WHERE patient_id = %s", (sealed_patient["id"],)
        ).fetchall()
    assert stored is not None and stored[0].startswith("{")
    assert rows == [("MRN",)]


def test_what_only_looks_like_a_sealed_value_is_a_value(fhir: httpx.Client) -> None:
    made = create(fhir, patient(identifier=[typed("MR", MRN_SYSTEM, "sealed:1:AAAA")]))
    both = create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, "sealed:1:AAAB")]))

    assert fhir.get(f"/Patient/{made['id']}").json() == made
    assert fhir.get(f"/Patient/{both['id']}").json() == both


@pytest.mark.parametrize("system", ["NATIONAL_ID", "INSURANCE_MEMBER"])
def test_sql_cannot_write_a_number_in_clear(
    database: Database, tenant: Tenant, sealed_patient: dict[str, Any], system: str
) -> None:
    with (
        pytest.raises(psycopg.errors.CheckViolation, match="value_sealed"),
        database.connection(tenant.id) as connection,
    ):
        connection.execute(
            "INSERT INTO patient_identifiers (tenant_id, patient_id, system, value)"
            " VALUES (%s, %s, %s, '123-45-6789')",
            (tenant.id, sealed_patient["id"], system),
        )


# -- swaps ------------------------------------------------------------------------------------


def test_g6_a_body_swapped_between_resources_is_not_shown(
    fhir: httpx.Client, place_url: str, tenant: Tenant, assert_outcome: Callable[..., Any]
) -> None:
    mine, theirs = number(), number()
    one = create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, mine)]))
    two = create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, theirs)]))
    with psycopg.connect(place_url) as owner:
        owner.execute("SELECT set_config('app.tenant', %s, false)", (str(tenant.id),))
        for table in ("fhir_resources", "fhir_history"):
            owner.execute(
                f"UPDATE {table} SET body = (SELECT body FROM {table} WHERE resource_id = %s)"
                " WHERE resource_id = %s",
                (two["id"], one["id"]),
            )

    for path in (f"/Patient/{one['id']}", f"/Patient/{one['id']}/_history/1"):
        response = fhir.get(path)
        assert_outcome(response, 500, "exception")
        assert theirs not in response.text
    assert fhir.get(f"/Patient/{two['id']}").json() == two


def test_g6_a_value_swapped_between_rows_is_not_shown(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    mine, theirs = number(), number()
    one = create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, mine)]))
    two = create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, theirs)]))
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE patient_identifiers SET value = (SELECT value FROM patient_identifiers"
            " WHERE patient_id = %s) WHERE patient_id = %s",
            (two["id"], one["id"]),
        )

    response = fhir.get(f"/Patient/{one['id']}")

    assert response.status_code == 503, response.text
    assert theirs not in response.text


# -- rotation ---------------------------------------------------------------------------------


def versions(owner_url: str, tenant: Tenant) -> set[str]:
    """The versions of data keys under which something of the tenant lies."""
    with psycopg.connect(owner_url) as owner:
        rows = owner.execute(
            "SELECT value FROM (SELECT tenant_id, body AS value FROM fhir_resources"
            " UNION ALL SELECT tenant_id, body FROM fhir_history"
            " UNION ALL SELECT tenant_id, value FROM patient_identifiers) AS held"
            " WHERE tenant_id = %s AND value LIKE 'sealed:%%'",
            (tenant.id,),
        ).fetchall()
    return {row[0].split(":")[1] for row in rows}


def test_g6_rotation_mid_traffic_loses_nothing_and_ends_with_the_new_key_alone(
    database: Database,
    client_for: Callable[..., httpx.Client],
    owner_url: str,
) -> None:
    busy = TenantDirectory(database).create(f"busy-{uuid4().hex[:12]}")
    fhir = client_for(busy)
    old = [create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, number())])) for _ in range(12)]
    assert versions(owner_url, busy) == {"1"}
    is_over = threading.Event()
    written: list[dict[str, Any]] = []
    wrong: list[str] = []

    def traffic() -> None:
        client = client_for(busy)
        while not is_over.is_set():
            made = create(client, patient(identifier=[typed("SS", SSN_SYSTEM, number())]))
            written.append(made)
            for resource in (made, old[len(written) % len(old)]):
                response = client.get(f"/Patient/{resource['id']}")
                if response.status_code != 200 or response.json() != resource:
                    wrong.append(response.text)
            time.sleep(0.005)

    threads = [threading.Thread(target=traffic) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert rotate(database, busy.id) == 2
    before = len(written)
    reseal(database, busy.id, batch=3)
    while len(written) < before + 10:
        time.sleep(0.01)
    is_over.set()
    for thread in threads:
        thread.join()

    # What the writers sealed under the old key while the job had passed is for its next run.
    reseal(database, busy.id, batch=3)

    assert wrong == []
    assert versions(owner_url, busy) == {"2"}
    for resource in (*old, *written):
        assert fhir.get(f"/Patient/{resource['id']}").json() == resource
        ssn = resource["identifier"][0]["value"]
        assert ids(fhir.get(f"/Patient?identifier={ssn}")) == [resource["id"]]
        assert fhir.get(f"/Patient/{resource['id']}/_history").json()["total"] == 1
    assert reseal(database, busy.id) == 0


def test_a_resealing_job_that_was_cut_off_is_run_again(
    database: Database, client_for: Callable[..., httpx.Client], owner_url: str
) -> None:
    tenant = TenantDirectory(database).create(f"cut-{uuid4().hex[:12]}")
    fhir = client_for(tenant)
    made = [create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, number())])) for _ in range(6)]
    rotate(database, tenant.id)
    seal, calls = database.vault.seal, 0

    def dies(*arguments: Any) -> str:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise ZeroDivisionError
        return seal(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database.vault, "seal", dies)
        with pytest.raises(ZeroDivisionError):
            reseal(database, tenant.id, batch=2)
    assert versions(owner_url, tenant) == {"1", "2"}

    assert reseal(database, tenant.id, batch=2) == 18 - 8

    assert versions(owner_url, tenant) == {"2"}
    assert fhir.get(f"/Patient/{made[0]['id']}").json() == made[0]


# -- outages ----------------------------------------------------------------------------------


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def on_kms(database: Database, kms: KmsServer, clock: SimpleNamespace) -> Iterator[KmsServer]:
    """The server with its keys in KMS, and a clock that a test moves."""
    local = database.vault

    def now() -> float:
        return float(clock.now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.encryption.aws_kms.READ_SECONDS", 0.5)
        providers = KeyProviders(kms.provider(), [local.providers.current])
        database.vault = Vault(database, providers, cache=KeyCache(clock=now), clock=now)
        yield kms
    database.vault = local


def test_g6_kms_down_10_min_sealed_records_fail_closed_and_all_else_goes_on(
    on_kms: KmsServer,
    clock: SimpleNamespace,
    database: Database,
    client_for: Callable[..., httpx.Client],
    assert_outcome: Callable[..., Any],
    place_url: str,
) -> None:
    tenant = TenantDirectory(database).create(f"kms-{uuid4().hex[:12]}")
    fhir = client_for(tenant)
    ssn = number()
    sealed = create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, ssn)]))
    plain = create(fhir, patient(identifier=[typed("MR", MRN_SYSTEM, "mrn-1")]))
    on_kms.pause()
    clock.now += 600

    refused = number()
    for response in (
        fhir.get(f"/Patient/{sealed['id']}"),
        fhir.get(f"/Patient/{sealed['id']}/_history"),
        fhir.get(f"/Patient/{sealed['id']}/_history/1"),
        fhir.get(f"/Patient?identifier={ssn}"),
        fhir.get("/Patient?family=Ko"),
        fhir.put(f"/Patient/{sealed['id']}", json={**sealed, "active": True}),
        fhir.post("/Patient", json=patient(identifier=[typed("SS", SSN_SYSTEM, refused)])),
    ):
        outcome = assert_outcome(response, 503, "transient")
        assert "encryption key" in outcome["issue"][0]["diagnostics"]
        assert int(response.headers["Retry-After"]) > 0
        assert ssn not in response.text
    assert fhir.get(f"/Patient/{plain['id']}").json() == plain
    assert ids(fhir.get(f"/Patient?_id={plain['id']}")) == [plain["id"]]
    changed = fhir.put(f"/Patient/{plain['id']}", json={**plain, "active": True})
    assert changed.status_code == 200, changed.text
    assert create(fhir, {"resourceType": "Organization", "name": "Clinic"})

    on_kms.resume()
    time.sleep(1.1)
    assert fhir.get(f"/Patient/{sealed['id']}").json() == sealed
    assert ids(fhir.get(f"/Patient?identifier={ssn}")) == [sealed["id"]]
    assert tables_holding(place_url, refused) == []


def test_g7_after_crypto_shred_a_sealed_record_is_gone_and_others_are_not(
    database: Database,
    client_for: Callable[..., httpx.Client],
    assert_outcome: Callable[..., Any],
) -> None:
    tenant = TenantDirectory(database).create(f"shred-{uuid4().hex[:12]}")
    fhir = client_for(tenant)
    sealed = create(fhir, patient(identifier=[typed("SS", SSN_SYSTEM, number())]))
    plain = create(fhir, patient())

    with database.connection(tenant.id) as connection:
        shred(connection, tenant.id)

    for path in (f"/Patient/{sealed['id']}", f"/Patient/{sealed['id']}/_history/1"):
        assert_outcome(fhir.get(path), 410, "deleted")
    assert fhir.get(f"/Patient/{plain['id']}").json() == plain


def test_the_hot_path_of_other_resources_touches_no_key(
    database: Database, client_for: Callable[..., httpx.Client]
) -> None:
    fhir = client_for(TenantDirectory(database).create(f"hot-{uuid4().hex[:12]}"))
    made = create(fhir, patient(identifier=[typed("MR", MRN_SYSTEM, "mrn-2")]))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_key", "_sealing_version", "_index_key", "index_now", "open_now"):
            patch.setattr(Vault, name, lambda *_: pytest.fail("a key was asked for"))

        assert fhir.get(f"/Patient/{made['id']}").json() == made
        assert ids(fhir.get(f"/Patient?_id={made['id']}&active:missing=true")) == [made["id"]]
        assert create(fhir, patient(identifier=[typed("MR", MRN_SYSTEM, "mrn-3")]))
