"""Search parameters that a tenant defines: when they are in force, for whom, and what they find."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest

from interop.fhir import json, published
from interop.fhir.search import custom, reindexing
from interop.fhir.search.reindexing import reindex
from storage import search_definitions
from storage.database import Database
from storage.tenancy import Tenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}
SHADE = "http://example.test/StructureDefinition/tooth-shade"
Outcome = Callable[..., dict[str, Any]]


def post(fhir: httpx.Client, resource: dict[str, Any]) -> str:
    url = f"/{resource['resourceType']}"
    response = fhir.post(url, content=json.dumps(resource), headers=FHIR_JSON)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def put(fhir: httpx.Client, resource: dict[str, Any]) -> httpx.Response:
    url = f"/{resource['resourceType']}/{resource['id']}"
    return fhir.put(url, content=json.dumps(resource), headers=FHIR_JSON)


def search(fhir: httpx.Client, type_: str, **pairs: str) -> set[str]:
    response = fhir.get(f"/{type_}", params={**pairs, "_count": "500"})
    assert response.status_code == 200, (pairs, response.text)
    return {entry["resource"]["id"] for entry in response.json().get("entry", [])}


def parameter(code: str, type_: str = "string", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "SearchParameter",
        "id": f"sp-{code}",
        "url": f"http://example.test/SearchParameter/{code}",
        "name": code.replace("-", ""),
        "status": "active",
        "description": "a test",
        "code": code,
        "base": ["Patient"],
        "type": type_,
        "expression": f"Patient.extension('{SHADE}').value.ofType({type_})",
        **more,
    }


def patient(shade: str | None, **more: Any) -> dict[str, Any]:
    extension = {"extension": [{"url": SHADE, "valueString": shade}]} if shade else {}
    return {"resourceType": "Patient", **extension, **more}


@pytest.fixture(scope="module")
def build(live: SimpleNamespace, tenant: Tenant) -> Callable[[], int]:
    """Does what the worker does with the job that is queued."""

    def run() -> int:
        return reindex(live.services.database, tenant.id, f"{live.url}/t/{tenant.slug}/fhir/R4")

    return run


@pytest.fixture
def shade(fhir: httpx.Client, build: Callable[[], int]) -> Iterator[str]:
    """A parameter that is in force during the test."""
    assert put(fhir, parameter("shade")).status_code in (200, 201)
    build()
    yield "shade"
    fhir.delete("/SearchParameter/sp-shade")
    build()


def test_a_release_of_our_own_definitions_is_indexed_by_the_tenants_parameters(
    live: SimpleNamespace,
    fhir: httpx.Client,
    tenant: Tenant,
    build: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    perio = "dental-interop-perio-tooth"
    expression = "StructureDefinition.purpose"
    own = parameter("why", base=["StructureDefinition"], expression=expression)
    assert put(fhir, own).status_code == 201
    build()
    database, base = live.services.database, f"{live.url}/t/{tenant.slug}/fhir/R4"
    load = published._loaded

    def next_release(path: Path) -> dict[str, Any]:
        resource = load(path)
        return resource | {"purpose": "perio"} if resource["id"] == perio else resource

    monkeypatch.setattr(published, "_loaded", next_release)
    monkeypatch.setattr(published, "source", lambda: published.SOURCE + "next")
    assert published.supply(database, tenant.id, base) == 2
    assert search(fhir, "StructureDefinition", why="perio") == {perio}
    monkeypatch.undo()
    assert published.supply(database, tenant.id, base) == 2
    assert search(fhir, "StructureDefinition", why="perio") == set()

    assert fhir.delete("/SearchParameter/sp-why").status_code == 204
    build()


def test_a_parameter_is_refused_until_its_index_is_whole(
    fhir: httpx.Client, build: Callable[[], int], assert_outcome: Outcome
) -> None:
    before = post(fhir, patient("A2"))
    other = post(fhir, patient("B1"))
    assert_outcome(fhir.get("/Patient", params={"shade": "A2"}), 400, "not-supported")

    assert put(fhir, parameter("shade")).status_code == 201
    during = post(fhir, patient("a2 light"))

    outcome = assert_outcome(fhir.get("/Patient", params={"shade": "A2"}), 400, "not-supported")
    assert "being built" in outcome["issue"][0]["diagnostics"]
    assert "0 of " in outcome["issue"][0]["diagnostics"]
    status = fhir.get("/SearchParameter/sp-shade/$reindex").json()
    assert status["parameter"][0] == {"name": "status", "valueCode": "building"}

    assert build() >= 3

    after = post(fhir, patient("A2"))
    assert search(fhir, "Patient", shade="A2") == {before, during, after}
    assert search(fhir, "Patient", **{"shade:exact": "A2"}) == {before, after}
    assert search(fhir, "Patient", **{"shade:contains": "ight"}) == {during}
    missing = search(fhir, "Patient", **{"shade:missing": "false"})
    assert missing == {before, other, during, after}
    put(fhir, patient("C4", id=before))
    assert search(fhir, "Patient", shade="A2") == {during, after}
    assert search(fhir, "Patient", shade="C") == {before}
    status = fhir.get("/SearchParameter/sp-shade/$reindex").json()
    assert status["parameter"][0]["valueCode"] == "ready"
    assert fhir.delete("/SearchParameter/sp-shade").status_code == 204
    assert_outcome(fhir.get("/Patient", params={"shade": "A2"}), 400, "not-supported")
    build()
    rows = "SELECT count(*) FROM fhir_search_string WHERE parameter LIKE 'shade%%'"
    assert count(fhir, rows) == 0


def count(fhir: httpx.Client, query: str) -> int:
    with psycopg.connect(OWNER[0]) as connection:
        found = connection.execute(query).fetchone()
        assert found is not None
        return int(found[0])


OWNER: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def _owner(place_url: str) -> None:
    OWNER[:] = [place_url]


def test_it_is_the_tenants_own(
    fhir: httpx.Client, other_fhir: httpx.Client, shade: str, assert_outcome: Outcome
) -> None:
    post(other_fhir, patient("A2"))

    assert_outcome(other_fhir.get("/Patient", params={shade: "A2"}), 400, "not-supported")
    stated = json.dumps(other_fhir.get("/metadata").json())
    assert b'"shade"' not in stated


def test_it_is_chained_included_and_sorted_by(fhir: httpx.Client, shade: str) -> None:
    light, dark = post(fhir, patient("A1 chained")), post(fhir, patient("D4 chained"))
    made = post(
        fhir,
        {"resourceType": "Observation", "status": "final", "code": {"text": "x"},
         "subject": {"reference": f"Patient/{light}"}},
    )  # fmt: skip

    assert search(fhir, "Observation", **{"patient.shade": "A1 ch"}) == {made}
    assert search(fhir, "Observation", **{"patient.shade": "D4 ch"}) == set()
    page = fhir.get("/Patient", params={"_id": f"{light},{dark}", "_sort": "-shade"}).json()
    assert [entry["resource"]["id"] for entry in page["entry"]] == [dark, light]


@pytest.mark.parametrize(
    ("type_", "expression", "resource", "hit", "miss"),
    [
        (
            "token",
            "Patient.extension.where(url = 'urn:t').value",
            {"extension": [{"url": "urn:t", "valueCodeableConcept": {
                "coding": [{"system": "urn:s", "code": "c"}], "text": "Words"}}]},
            {"custom": "urn:s|c", "custom:text": "words"},
            {"custom": "urn:s|d"},
        ),
        (
            "quantity",
            "Patient.extension('urn:q').value.as(Quantity)",
            {"extension": [{"url": "urn:q", "valueQuantity": {
                "value": 5, "system": "http://unitsofmeasure.org", "code": "mm"}}]},
            {"custom": "0.5|http://unitsofmeasure.org|cm"},
            {"custom": "5|http://unitsofmeasure.org|cm"},
        ),
        (
            "date",
            "Patient.contact.period",
            {"contact": [{"name": {"text": "x"}, "period": {"start": "2020", "end": "2021"}}]},
            {"custom": "ge2020-06"},
            {"custom": "2022"},
        ),
        (
            "reference",
            "Patient.contact.organization",
            {"contact": [{"organization": {"reference": "Organization/o1"}}]},
            {"custom": "Organization/o1"},
            {"custom": "Organization/o2"},
        ),
        (
            "number",
            "Patient.multipleBirth.as(integer)",
            {"multipleBirthInteger": 2},
            {"custom": "2"},
            {"custom": "gt2"},
        ),
        (
            "uri",
            "Patient.photo.url",
            {"photo": [{"url": "urn:u:1"}]},
            {"custom": "urn:u:1"},
            {"custom": "urn:u:2"},
        ),
    ],
)  # fmt: skip
def test_every_type_of_parameter_has_its_values(
    fhir: httpx.Client, build: Callable[[], int], type_: str, expression: str,
    resource: dict[str, Any], hit: dict[str, str], miss: dict[str, str],
) -> None:  # fmt: skip
    own = post(fhir, {"resourceType": "Patient", **resource})

    response = put(fhir, parameter("custom", type_, expression=expression))

    assert response.status_code in (200, 201), response.text
    build()
    for name, value in hit.items():
        assert own in search(fhir, "Patient", **{name: value}), name
    for name, value in miss.items():
        assert own not in search(fhir, "Patient", **{name: value}), name
    fhir.delete("/SearchParameter/sp-custom")


def test_a_composite_of_r4_parameters(fhir: httpx.Client, build: Callable[[], int]) -> None:
    said = parameter(
        "language-of-contact",
        "composite",
        base=["Patient"],
        expression="Patient.communication",
        component=[
            {"definition": "http://hl7.org/fhir/SearchParameter/Patient-language",
             "expression": "language"},
            {"definition": "http://hl7.org/fhir/SearchParameter/Patient-active",
             "expression": "preferred"},
        ],
    )  # fmt: skip
    own = post(
        fhir,
        {"resourceType": "Patient", "communication": [
            {"language": {"coding": [{"code": "de"}]}, "preferred": True},
            {"language": {"coding": [{"code": "en"}]}, "preferred": False},
        ]},
    )  # fmt: skip

    assert put(fhir, said).status_code == 201
    build()

    assert search(fhir, "Patient", **{"language-of-contact": "de$true"}) == {own}
    assert search(fhir, "Patient", **{"language-of-contact": "en$true"}) == set()
    fhir.delete("/SearchParameter/sp-language-of-contact")


@pytest.mark.parametrize(
    "change",
    [
        {"expression": "Patient.nothing"},
        {"expression": "Patient.name.given.substring(1)"},
        {"expression": "Patient.(("},
        {"expression": "(" * 900 + "Patient.name" + ")" * 900},
        {"expression": "Patient.active", "type": "date"},
        {"expression": None},
        {"type": "special"},
        {"base": ["AuditEvent"], "expression": "AuditEvent.type"},
        {"code": "a b"},
        {"code": "_own"},
        {"code": "gender"},
        {"expression": "Patient.extension.value.extension.value.extension.value"},
        {"type": "composite", "expression": "Patient"},
    ],
    ids=lambda change: str(change)[:60],
)
def test_what_cannot_be_indexed_is_refused_with_the_reason(
    fhir: httpx.Client, assert_outcome: Outcome, change: dict[str, Any]
) -> None:
    said = {k: v for k, v in {**parameter("bad"), **change}.items() if v is not None}

    response = put(fhir, said)

    outcome = assert_outcome(response, 422)
    assert "SearchParameter" in outcome["issue"][0]["diagnostics"]
    assert fhir.get("/SearchParameter/sp-bad").status_code == 404


def test_what_is_no_parameter_in_force_is_stored_all_the_same(
    fhir: httpx.Client, assert_outcome: Outcome
) -> None:
    draft = parameter("drafted", status="draft", expression="not FHIRPath at all")
    r4s = parameter(
        "name", url="http://hl7.org/fhir/SearchParameter/Patient-name", expression="Patient.name"
    )
    narrowed = parameter(
        "family", derivedFrom="http://hl7.org/fhir/SearchParameter/individual-family"
    )

    for said in (draft, r4s, narrowed):
        assert put(fhir, said).status_code == 201, said

    assert_outcome(fhir.get("/Patient", params={"drafted": "x"}), 400, "not-supported")
    assert fhir.get("/Patient", params={"family": "x"}).status_code == 200


def test_two_parameters_of_one_code_are_refused(
    fhir: httpx.Client, shade: str, assert_outcome: Outcome
) -> None:
    outcome = assert_outcome(put(fhir, parameter("shade", id="another")), 422)

    assert "sp-shade" in outcome["issue"][0]["diagnostics"]


def test_a_changed_parameter_is_built_anew(
    fhir: httpx.Client, shade: str, build: Callable[[], int], assert_outcome: Outcome
) -> None:
    own = post(fhir, patient("Z9", gender="male"))
    assert search(fhir, "Patient", shade="Z9") == {own}

    put(fhir, parameter("shade", "token", expression="Patient.gender"))

    assert_outcome(fhir.get("/Patient", params={"shade": "male"}), 400)
    build()
    assert own in search(fhir, "Patient", shade="male")
    assert count(fhir, "SELECT count(*) FROM fhir_search_string WHERE parameter = 'shade'") == 0
    put(fhir, parameter("hue", id="sp-shade"))
    build()
    assert search(fhir, "Patient", hue="Z9") == {own}
    assert_outcome(fhir.get("/Patient", params={"shade": "male"}), 400, "not-supported")
    assert count(fhir, "SELECT count(*) FROM fhir_search_token WHERE parameter = 'shade'") == 0


def test_a_build_that_dies_goes_on_where_it_was(
    fhir: httpx.Client, build: Callable[[], int], monkeypatch: pytest.MonkeyPatch,
    assert_outcome: Outcome,
) -> None:  # fmt: skip
    made = {post(fhir, patient(f"resume {n}")) for n in range(12)}
    monkeypatch.setattr(reindexing, "BATCH", 5)
    put(fhir, parameter("again"))
    write, batches = reindexing._Building._write, []

    def dies(self: Any, connection: Any, type_: str, found: Any) -> None:
        batches.append([id_ for id_, _ in found])
        if len(batches) == 2:
            raise KeyboardInterrupt
        write(self, connection, type_, found)

    monkeypatch.setattr(reindexing._Building, "_write", dies)

    with pytest.raises(KeyboardInterrupt):
        build()

    outcome = assert_outcome(fhir.get("/Patient", params={"again": "resume"}), 400)
    assert "5 of" in outcome["issue"][0]["diagnostics"]
    build()
    assert search(fhir, "Patient", again="resume") == made
    # What was done before it died is not done again.
    assert not set(batches[0]) & {id_ for batch in batches[1:] for id_ in batch}
    fhir.delete("/SearchParameter/sp-again")
    build()


def test_writes_during_the_build_are_indexed_once_and_whole(
    fhir: httpx.Client, build: Callable[[], int]
) -> None:
    """Random updates while parameters come and go, and then the index is what the bodies say."""
    made = [post(fhir, patient(f"race {n}")) for n in range(20)]
    stop = threading.Event()
    said = dict.fromkeys(made, "")

    def write(ids: list[str]) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            for id_ in ids:
                value = f"race {id_[:4]} {turn}"
                response = put(fhir, patient(value, id=id_))
                assert response.status_code == 200, response.text
                said[id_] = value

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, made[:10]), pool.submit(write, made[10:])]
        for turn in range(3):
            put(fhir, parameter("racing", description=f"turn {turn}"))
            assert fhir.post("/SearchParameter/sp-racing/$reindex").status_code == 202
            build()
        stop.set()
        for writer in writers:
            writer.result()

    for id_, value in said.items():
        assert search(fhir, "Patient", **{"racing:exact": value}) == {id_}
    assert search(fhir, "Patient", racing="race") == set(made)
    fhir.delete("/SearchParameter/sp-racing")
    build()


def test_another_process_that_has_not_heard_of_it_indexes_by_it_too(
    fhir: httpx.Client, shade: str, tenant: Tenant, assert_outcome: Outcome
) -> None:
    search(fhir, "Patient", shade="x")
    search_definitions._known.pop(tenant.id)

    own = post(fhir, patient("unheard"))

    assert search(fhir, "Patient", shade="unheard") == {own}


def test_a_search_that_was_read_with_old_parameters_is_not_answered(
    fhir: httpx.Client, shade: str, tenant: Tenant, build: Callable[[], int],
    assert_outcome: Outcome,
) -> None:  # fmt: skip
    search(fhir, "Patient", shade="x")
    old = search_definitions.known(tenant.id)
    fhir.post("/SearchParameter/sp-shade/$reindex")
    search_definitions._known[tenant.id] = old  # as another process still has it

    outcome = assert_outcome(fhir.get("/Patient", params={"shade": "x"}), 400)

    assert "being built" in outcome["issue"][0]["diagnostics"]
    build()
    assert search(fhir, "Patient", shade="nothing such") == set()


def test_everything_can_be_built_anew(
    fhir: httpx.Client, shade: str, build: Callable[[], int], place_url: str
) -> None:
    own = post(fhir, patient("everything", gender="other", name=[{"family": "Reindexed"}]))
    with psycopg.connect(place_url) as connection:
        connection.execute("DELETE FROM fhir_search_token WHERE resource_id = %s", (own,))
        connection.execute("DELETE FROM fhir_search_string WHERE resource_id = %s", (own,))
    assert search(fhir, "Patient", family="reindexed") == set()

    response = fhir.post("/$reindex")

    assert response.status_code == 202, response.text
    assert fhir.get("/$reindex").json()["parameter"][0]["valueCode"] == "building"
    build()
    assert search(fhir, "Patient", family="reindexed", gender="other", shade="every") == {own}
    assert fhir.get("/$reindex").json()["parameter"][0]["valueCode"] == "ready"


def test_who_may_not_change_parameters_may_not_rebuild_them(
    client_for: Callable[..., httpx.Client], tenant: Tenant, other_fhir: httpx.Client, shade: str,
    assert_outcome: Outcome,
) -> None:  # fmt: skip
    reader = client_for(tenant, "system/Patient.rs system/SearchParameter.rs")

    assert_outcome(reader.post("/SearchParameter/sp-shade/$reindex"), 403)
    assert reader.get("/SearchParameter/sp-shade/$reindex").status_code == 200
    assert_outcome(other_fhir.post("/SearchParameter/sp-shade/$reindex"), 404)


def test_a_sealed_number_is_not_indexed_by_what_a_tenant_defines(
    fhir: httpx.Client, build: Callable[[], int]
) -> None:
    """The expression of a tenant may lead to where a social security number stands."""
    put(fhir, parameter("number", expression="Patient.identifier.value"))
    build()
    identifiers = [
        {"system": "http://hl7.org/fhir/sid/us-ssn", "value": "078-05-1120"},
        {"system": "urn:mrn", "value": "M-1"},
    ]
    own = post(fhir, {"resourceType": "Patient", "identifier": identifiers})

    assert search(fhir, "Patient", number="M-1") == {own}
    assert search(fhir, "Patient", number="078") == set()
    query = "SELECT count(*) FROM fhir_search_string WHERE value LIKE '%%078-05%%'"
    assert count(fhir, query) == 0
    put(fhir, parameter("number", expression="Patient.identifier.value", description="again"))
    fhir.post("/SearchParameter/sp-number/$reindex")
    build()
    assert search(fhir, "Patient", number="M-1") == {own}
    assert count(fhir, query) == 0


def test_parameters_are_bounded(
    fhir: httpx.Client, assert_outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom, "MAX_PARAMETERS", 2)
    responses = [put(fhir, parameter(f"bound{n}")) for n in range(4)]

    assert_outcome(responses[-1], 400, "too-costly")
    for n in range(4):
        fhir.delete(f"/SearchParameter/sp-bound{n}")


def test_the_job_is_queued_with_the_definition(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    put(fhir, parameter("queued"))

    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'reindex'"
            " AND status = 'todo' AND args ->> 'tenant_id' = %s", (str(tenant.id),)
        ).fetchone()  # fmt: skip
    assert row == (1,)
    fhir.delete("/SearchParameter/sp-queued")
