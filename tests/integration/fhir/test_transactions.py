"""Transactions: all or nothing, links between entries, conditions (R4 http.html#transaction)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from storage.database import Database
from storage.tenancy import Tenant

Outcome = Callable[..., dict[str, Any]]
Json = dict[str, Any]
SYSTEM = "urn:test:transactions"


def urn() -> str:
    return f"urn:uuid:{uuid4()}"


def basic(value: str = "x", **more: Any) -> Json:
    identifier = [{"system": SYSTEM, "value": value}]
    return {"resourceType": "Basic", "identifier": identifier, "code": {"text": "t"}, **more}


def post(resource: Json, full_url: str = "", **request: str) -> Json:
    entry: Json = {
        "resource": resource,
        "request": {"method": "POST", "url": resource["resourceType"], **request},
    }
    return {"fullUrl": full_url, **entry} if full_url else entry


def put(resource: Json, url: str = "", **request: str) -> Json:
    url = url or f"{resource['resourceType']}/{resource['id']}"
    return {"resource": resource, "request": {"method": "PUT", "url": url, **request}}


def request(method: str, url: str, **more: str) -> Json:
    return {"request": {"method": method, "url": url, **more}}


def send(fhir: httpx.Client, *entries: Json, prefer: str = "", type_: str = "transaction") -> Any:
    bundle = {"resourceType": "Bundle", "type": type_, "entry": list(entries)}
    headers = {"Prefer": prefer} if prefer else {}
    return fhir.post("", json=bundle, headers=headers)


def done(answer: httpx.Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    bundle = answer.json()
    assert bundle["type"] == "transaction-response"
    return list(bundle["entry"])


def reference_of(entry: Json) -> str:
    """Type/id of what an entry was answered with."""
    parts = entry["response"]["location"].split("/")
    return "/".join(parts[-4:-2])


def count(fhir: httpx.Client, value: str) -> int:
    bundle = fhir.get(f"/Basic?identifier={SYSTEM}|{value}&_summary=count").json()
    return int(bundle["total"])


@pytest.fixture
def value() -> str:
    return uuid4().hex


# -- links ----------------------------------------------------------------------------------


def test_links_between_entries_are_written_anew_wherever_they_stand(fhir: httpx.Client) -> None:
    patient, other, device = urn(), "http://elsewhere.example/fhir/Patient/17", urn()
    observation: Json = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "test"},
        "text": {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><a href="{patient}">p</a></div>',
        },
        "subject": {"reference": patient, "identifier": {"system": "urn:x", "value": patient}},
        "performer": [{"reference": "Patient/17"}],
        "contained": [{"resourceType": "Basic", "id": "c", "code": {"text": "t"},
                       "subject": {"reference": patient}}],
        "device": {"reference": device},
        "focus": [{"reference": "#c"}, {"reference": urn()}],
        "extension": [
            {"url": "http://example.org/link", "valueUri": patient},
            {"url": "http://example.org/canonical", "valueCanonical": other},
        ],
    }  # fmt: skip

    entries = done(
        send(
            fhir,
            post(observation, "http://elsewhere.example/fhir/Observation/1"),
            post({"resourceType": "Patient", "name": [{"family": "A"}]}, patient),
            post({"resourceType": "Patient", "name": [{"family": "B"}]}, other),
            post({"resourceType": "Device"}, device),
            prefer="return=representation",
        )
    )

    stored = fhir.get(f"/{reference_of(entries[0])}").json()
    first, second, third = (reference_of(entry) for entry in entries[1:])
    assert stored == entries[0]["resource"]
    assert stored["subject"]["reference"] == first
    assert stored["subject"]["identifier"]["value"] == patient  # an identifier is no link
    assert stored["performer"] == [{"reference": second}]
    assert stored["contained"][0]["subject"]["reference"] == first
    assert stored["device"]["reference"] == third
    assert stored["focus"][1]["reference"].startswith("urn:uuid:")  # of nothing in the Bundle
    assert stored["extension"][0]["valueUri"] == first
    assert stored["extension"][1]["valueCanonical"] == other
    assert f'/fhir/R4/{first}"' in stored["text"]["div"]
    found = fhir.get(f"/Observation?subject={first}&_summary=count").json()
    assert found["total"] == 1


def test_resources_that_refer_to_each_other_in_a_circle(fhir: httpx.Client) -> None:
    one, two = urn(), urn()

    entries = done(
        send(
            fhir,
            post({"resourceType": "Location", "partOf": {"reference": two}}, one),
            post({"resourceType": "Location", "partOf": {"reference": one}}, two),
        )
    )

    first, second = (reference_of(entry) for entry in entries)
    assert fhir.get(f"/{first}").json()["partOf"]["reference"] == second
    assert fhir.get(f"/{second}").json()["partOf"]["reference"] == first


def test_rows_follow_in_whatever_order_the_entries_stand(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    patient, encounter = urn(), urn()
    condition = {
        "resourceType": "Condition",
        "subject": {"reference": patient},
        "encounter": {"reference": encounter},
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "80967001"}]},
    }
    visit = {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": patient},
        "period": {"start": "2026-05-17T09:00:00Z"},
    }

    entries = done(
        send(
            fhir,
            post(condition),
            post(visit, encounter),
            post({"resourceType": "Patient", "name": [{"family": "Rows"}]}, patient),
        )
    )

    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT patient_id, encounter_id FROM patient_conditions WHERE id = %s",
            (reference_of(entries[0]).split("/")[1],),
        ).fetchone()
    assert row is not None
    assert [str(one) for one in row] == [
        reference_of(entries[2]).split("/")[1],
        reference_of(entries[1]).split("/")[1],
    ]


# -- conditions -----------------------------------------------------------------------------


def test_conditional_references_find_what_is_there_and_what_the_transaction_makes(
    fhir: httpx.Client, value: str
) -> None:
    known = fhir.post("/Basic", json=basic(value)).json()["id"]
    made = f"{value}-made"

    def refers(to: str) -> Json:
        return basic(subject={"reference": f"Basic?identifier={SYSTEM}|{to}"})

    entries = done(send(fhir, post(refers(made)), post(basic(made)), post(refers(value))))

    first, second, third = (reference_of(entry) for entry in entries)
    assert fhir.get(f"/{first}").json()["subject"]["reference"] == second
    assert fhir.get(f"/{third}").json()["subject"]["reference"] == f"Basic/{known}"


@pytest.mark.parametrize("copies", [0, 2])
def test_a_conditional_reference_must_find_one(
    fhir: httpx.Client, value: str, assert_outcome: Outcome, copies: int
) -> None:
    for _ in range(copies):
        fhir.post("/Basic", json=basic(value))
    refers = basic(subject={"reference": f"Basic?identifier={SYSTEM}|{value}"})

    answer = send(fhir, post(basic(f"{value}-beside")), post(refers))

    outcome = assert_outcome(answer, 412)
    assert outcome["issue"][0]["expression"] == ["Bundle.entry[1]"]
    assert count(fhir, f"{value}-beside") == 0


def test_if_none_exist_within_a_transaction(fhir: httpx.Client, value: str) -> None:
    criteria, mine = f"identifier={SYSTEM}|{value}", urn()

    def ask() -> list[Json]:
        return done(
            send(
                fhir,
                post(basic(value), mine, ifNoneExist=criteria),
                post(basic(value), urn(), ifNoneExist=criteria),
                post(basic(f"{value}-user", subject={"reference": mine})),
            )
        )

    first, again = ask(), ask()

    assert [e["response"]["status"][:3] for e in first] == ["201", "200", "201"]
    assert [e["response"]["status"][:3] for e in again] == ["200", "200", "201"]
    assert len({reference_of(e) for e in (*first[:2], *again[:2])}) == 1
    assert count(fhir, value) == 1
    stored = fhir.get(f"/{reference_of(again[2])}").json()
    assert stored["subject"]["reference"] == reference_of(first[0])


def test_transactions_that_race_with_the_same_conditions_make_each_resource_once(
    fhir: httpx.Client, value: str
) -> None:
    names = [f"{value}-{number}" for number in range(4)]

    def race(number: int) -> int:
        ordered = names if number % 2 else names[::-1]
        entries = [
            post(basic(name), urn(), ifNoneExist=f"identifier={SYSTEM}|{name}") for name in ordered
        ]
        return int(send(fhir, *entries).status_code)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(race, range(12)))

    assert answers == [200] * 12
    assert [count(fhir, name) for name in names] == [1] * 4


def test_conditional_update_patch_and_delete_within_a_transaction(
    fhir: httpx.Client, value: str
) -> None:
    names = {kind: f"{value}-{kind}" for kind in ("update", "patch", "delete", "new")}
    ids = {
        kind: fhir.post("/Basic", json=basic(names[kind])).json()["id"]
        for kind in ("update", "patch", "delete")
    }

    def criteria(kind: str) -> str:
        return f"Basic?identifier={SYSTEM}|{names[kind]}"

    patch = {
        "resourceType": "Parameters",
        "parameter": [{"name": "operation", "part": [
            {"name": "type", "valueCode": "replace"},
            {"name": "path", "valueString": "Basic.code.text"},
            {"name": "value", "valueString": "patched"},
        ]}],
    }  # fmt: skip
    entries = done(
        send(
            fhir,
            put(basic(names["update"], code={"text": "updated"}), criteria("update")),
            {"resource": patch, **request("PATCH", criteria("patch"))},
            request("DELETE", criteria("delete")),
            put(basic(names["new"]), criteria("new")),
        )
    )

    assert [e["response"]["status"][:3] for e in entries] == ["200", "200", "204", "201"]
    assert fhir.get(f"/Basic/{ids['update']}").json()["code"]["text"] == "updated"
    assert fhir.get(f"/Basic/{ids['patch']}").json()["code"]["text"] == "patched"
    assert fhir.get(f"/Basic/{ids['delete']}").status_code == 410
    assert count(fhir, names["new"]) == 1


# -- all or nothing -------------------------------------------------------------------------


def bad_entries() -> dict[str, tuple[Json, int, str]]:
    nowhere = "Basic/no-such-thing"
    return {
        "invalid resource": (post(basic(nonsense=1)), 400, "Bundle.entry[1].resource.nonsense"),
        "stale version": (put(basic(id="tx-a"), ifMatch='W/"7"'), 412, "Bundle.entry[1]"),
        "exists": (put(basic(id="tx-a"), ifNoneMatch="*"), 412, "Bundle.entry[1]"),
        "another id": (put(basic(id="b"), "Basic/a"), 400, "Bundle.entry[1].resource.id"),
        "POST with id": (post(basic()) | request("POST", "Basic/x"), 400, "Bundle.entry[1]"),
        "patch of nothing": (
            {"resource": {"resourceType": "Parameters"}, **request("PATCH", nowhere)},
            404,
            "Bundle.entry[1]",
        ),
        "read of nothing": (request("GET", nowhere), 404, "Bundle.entry[1]"),
        "criteria of nothing": (request("DELETE", "Basic?_format=json"), 400, "Bundle.entry[1]"),
        "no such type": (request("DELETE", "Nonsense/1"), 400, "Bundle.entry[1].request.url"),
        "an operation": (
            {"resource": {"resourceType": "Parameters"}, **request("POST", "Basic/$validate")},
            400,
            "Bundle.entry[1]",
        ),
        "the server's own": (
            request("DELETE", "AuditEvent/1"), 405, "Bundle.entry[1]",
        ),
        "the same resource": (put(basic(id="tx-twice")), 400, "Bundle.entry[2]"),
    }  # fmt: skip


@pytest.mark.parametrize("case", bad_entries())
def test_one_bad_entry_undoes_all_and_is_named(
    fhir: httpx.Client, value: str, assert_outcome: Outcome, case: str
) -> None:
    assert fhir.put("/Basic/tx-a", json=basic(id="tx-a")).status_code in (200, 201)
    entry, status, expression = bad_entries()[case]
    more = [entry, entry] if case == "the same resource" else [entry]

    answer = send(fhir, post(basic(value), urn()), *more)

    outcome = assert_outcome(answer, status)
    assert outcome["issue"][0]["expression"] == [expression]
    assert count(fhir, value) == 0


def frames() -> dict[str, Json]:
    entry = post(basic())
    return {
        "no type": {"entry": [entry]},
        "another type": {"type": "collection", "entry": [entry]},
        "no request": {"type": "transaction", "entry": [{"resource": basic()}]},
        "unknown method": {"type": "transaction", "entry": [request("FETCH", "Basic/1")]},
        "elsewhere": {"type": "transaction", "entry": [request("GET", "http://x.example/Basic/1")]},
        "the base": {"type": "batch", "entry": [{"resource": basic(), **request("POST", "/")}]},
        "unknown element": {"type": "transaction", "entry": [{**entry, "nonsense": 1}]},
        "one fullUrl twice": {
            "type": "transaction",
            "entry": [post(basic(), "urn:uuid:1"), post(basic(), "urn:uuid:1")],
        },
        "entry is no list": {"type": "transaction", "entry": entry},
    }  # fmt: skip


@pytest.mark.parametrize("case", frames())
def test_a_frame_that_is_wrong_is_refused(
    fhir: httpx.Client, assert_outcome: Outcome, case: str
) -> None:
    answer = fhir.post("", json={"resourceType": "Bundle", **frames()[case]})

    assert_outcome(answer, 400)


def test_too_many_entries_are_refused(fhir: httpx.Client, assert_outcome: Outcome) -> None:
    assert_outcome(send(fhir, *[request("GET", "Basic/1")] * 5001), 400, "too-costly")


def test_another_tenants_resources_are_nobodys(
    fhir: httpx.Client, other_fhir: httpx.Client, value: str, assert_outcome: Outcome
) -> None:
    theirs = other_fhir.post("/Basic", json=basic(value)).json()["id"]
    criteria = f"Basic?identifier={SYSTEM}|{value}"

    conditional = send(fhir, post(basic(subject={"reference": criteria})))
    created = done(send(fhir, put(basic(f"{value}-mine", id=theirs))))

    assert_outcome(conditional, 412)
    assert created[0]["response"]["status"].startswith("201")
    assert other_fhir.get(f"/Basic/{theirs}").json()["identifier"][0]["value"] == value


# -- order, reads and answers ---------------------------------------------------------------


def test_entries_are_processed_in_the_order_of_the_specification(
    fhir: httpx.Client, value: str
) -> None:
    """Deletions first, reads last: they see what the transaction itself has written."""
    old = fhir.post("/Basic", json=basic(value)).json()["id"]
    chosen = f"chosen-{value}"

    read, found, created, updated, deleted = done(
        send(
            fhir,
            request("GET", f"Basic/{chosen}"),
            request("GET", f"Basic?identifier={SYSTEM}|{value}"),
            post(basic(value), urn(), ifNoneExist=f"identifier={SYSTEM}|{value}"),
            put(basic(value, id=chosen)),
            request("DELETE", f"Basic/{old}"),
        )
    )

    assert read["resource"]["id"] == chosen
    ids = {entry["resource"]["id"] for entry in found["resource"]["entry"]}
    assert ids == {chosen, reference_of(created).split("/")[1]}
    assert deleted["response"]["etag"] == 'W/"2"'
    assert updated["response"]["status"] == "201 Created"


def test_answers_have_what_was_asked_for(fhir: httpx.Client) -> None:
    plain = done(send(fhir, post(basic())))[0]
    whole = done(send(fhir, post(basic()), prefer="return=representation"))[0]
    told = done(send(fhir, post(basic()), prefer="return=OperationOutcome"))[0]

    assert set(plain) == {"fullUrl", "response"}
    assert set(plain["response"]) == {"status", "location", "etag", "lastModified"}
    assert whole["resource"]["meta"]["versionId"] == "1"
    assert told["response"]["outcome"]["issue"][0]["severity"] == "information"
    stored = fhir.get(f"/{reference_of(plain)}").json()
    assert stored["meta"]["lastUpdated"] == plain["response"]["lastModified"]


def test_each_entry_has_its_audit_row_and_a_refusal_one(
    fhir: httpx.Client, database: Database, tenant: Tenant, value: str
) -> None:
    def rows() -> list[tuple[str, str]]:
        with database.connection(tenant.id) as connection:
            return connection.execute(
                "SELECT event_type, outcome FROM audit_events WHERE tenant_id = %s"
                " ORDER BY timestamp, event_type",
                (tenant.id,),
            ).fetchall()

    old = fhir.post("/Basic", json=basic(value)).json()["id"]
    before = len(rows())
    done(
        send(
            fhir,
            request("DELETE", f"Basic/{old}"),
            post(basic(value)),
            put(basic(id=f"audited-{value}")),
            request("GET", f"Basic/audited-{value}"),
        )
    )
    after = rows()[before:]
    send(fhir, post(basic(value)), put(basic(id="x"), "Basic/y"))
    fhir.post("", json={"resourceType": "Bundle", "type": "transaction"})

    assert sorted(row[0] for row in after) == [
        "FHIR_CREATE", "FHIR_CREATE", "FHIR_DELETE", "FHIR_READ",
    ]  # fmt: skip
    assert rows()[before + 4 :] == [("FHIR_BATCH", "FAILURE"), ("FHIR_BATCH", "SUCCESS")]


def test_a_transaction_is_judged_entry_by_entry_for_who_may(
    client_for: Callable[..., httpx.Client],
    tenant: Tenant,
    fhir: httpx.Client,
    value: str,
    assert_outcome: Outcome,
) -> None:
    creates = client_for(tenant, "system/Basic.c")

    allowed = send(creates, post(basic(value)))
    refused = send(creates, post(basic(f"{value}-2")), request("DELETE", "Basic/1"))

    assert allowed.status_code == 200
    outcome = assert_outcome(refused, 403)
    assert outcome["issue"][0]["expression"] == ["Bundle.entry[1]"]
    assert (count(fhir, value), count(fhir, f"{value}-2")) == (1, 0)
