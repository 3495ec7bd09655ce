"""Another tenant's data is no data: every route, type, interaction and search parameter, generated.

The victim's records are full of canaries. The attacker asks for them by their ids with every route
of the live table, and with every search parameter of every type that is served; each answer is byte
for byte that about an id that never was (security.md D1, D3, D10).
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from interop.access.routes import DICOMWEB, FHIR, ROUTES
from interop.dicomweb import router as dicomweb
from interop.fhir.definitions import definitions
from storage.tenancy import Tenant
from tests.integration.access.conftest import FHIR_JSON, Door, comparable, found, put

# Of the attacker and of the victim.
pytestmark = pytest.mark.strategies(
    ("ROW_LEVEL", "ROW_LEVEL"),
    ("SCHEMA", "SCHEMA"),
    ("ROW_LEVEL", "DATABASE"),
    ("DATABASE", "SCHEMA"),
)
CANARY = "Zanzibarcanary"
PATIENT = "11111111-2222-4333-8444-555555555555"
NOBODY = "99999999-8888-4777-8666-555555555555"
CODES = {"coding": [{"system": "urn:c", "code": CANARY, "display": CANARY}], "text": CANARY}
SUBJECT = {"reference": f"Patient/{PATIENT}", "display": CANARY}
TAGS = {"tag": [{"system": "urn:t", "code": CANARY}], "source": "urn:" + CANARY}
IDENTIFIER = [{"system": "urn:i", "value": CANARY}]

RECORDS: list[dict[str, Any]] = [
    {"resourceType": "Patient", "name": [{"family": CANARY}], "identifier": IDENTIFIER,
     "birthDate": "1970-01-01", "generalPractitioner": [{"reference": f"Practitioner/{PATIENT}"}]},
    {"resourceType": "Observation", "status": "final", "code": CODES, "subject": SUBJECT,
     "identifier": IDENTIFIER, "effectiveDateTime": "2020-01-01", "valueString": CANARY},
    {"resourceType": "Condition", "code": CODES, "subject": SUBJECT, "identifier": IDENTIFIER,
     "clinicalStatus": {"coding": [{"code": "active",
        "system": "http://terminology.hl7.org/CodeSystem/condition-clinical"}]}},
    {"resourceType": "Procedure", "status": "completed", "code": CODES, "subject": SUBJECT},
    {"resourceType": "Encounter", "status": "finished", "subject": SUBJECT,
     "class": {"system": "urn:c", "code": CANARY}, "identifier": IDENTIFIER},
    {"resourceType": "AllergyIntolerance", "code": CODES, "patient": SUBJECT,
     "clinicalStatus": {"coding": [{"code": "active",
        "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical"}]}},
    {"resourceType": "Practitioner", "name": [{"family": CANARY}], "identifier": IDENTIFIER},
    {"resourceType": "Location", "name": CANARY, "identifier": IDENTIFIER},
    {"resourceType": "Questionnaire", "status": "draft", "title": CANARY},
    {"resourceType": "ValueSet", "status": "draft", "name": CANARY, "url": "urn:" + CANARY},
    {"resourceType": "Basic", "code": CODES, "subject": SUBJECT},
    {"resourceType": "DocumentReference", "status": "current", "subject": SUBJECT,
     "content": [{"attachment": {"title": CANARY}}]},
    {"resourceType": "Claim", "status": "active", "use": "claim", "type": CODES, "patient": SUBJECT,
     "created": "2020-01-01", "provider": {"display": CANARY}, "priority": CODES,
     "identifier": IDENTIFIER,
     "insurance": [{"sequence": 1, "focal": True, "coverage": {"display": CANARY}}]},
    {"resourceType": "Coverage", "status": "active", "beneficiary": SUBJECT,
     "subscriberId": CANARY, "payor": [{"display": CANARY}]},
    {"resourceType": "RelatedPerson", "patient": SUBJECT, "name": [{"text": CANARY}],
     "identifier": IDENTIFIER, "relationship": [{"coding": [{"code": "GUARD",
        "system": "http://terminology.hl7.org/CodeSystem/v3-RoleCode"}]}]},
    {"resourceType": "ChargeItemDefinition", "status": "active", "url": "urn:" + CANARY,
     "title": CANARY, "code": {"coding": [{"system": "http://www.ada.org/cdt", "code": CANARY}]}},
    {"resourceType": "Binary", "contentType": "text/plain", "data": "QQ=="},
]  # fmt: skip
# Values with which the victim finds its own, by the type of the parameter.
VALUES = {
    "token": [CANARY, f"|{CANARY}"],
    "string": [CANARY],
    "reference": [f"Patient/{PATIENT}", PATIENT],
    "uri": ["urn:" + CANARY],
    "date": ["ge1900-01-01"],
    "number": ["ge0"],
    "quantity": ["ge0"],
}
TYPES = sorted(definitions().resource_types)


@pytest.fixture(scope="module")
def victim(door: Door, other_tenant: Tenant) -> httpx.Client:
    client = door.system(other_tenant)
    for record in RECORDS:
        put(client, {"id": PATIENT, "meta": TAGS, **record})
    return client


@pytest.fixture(scope="module")
def attacker(door: Door, tenant: Tenant, victim: httpx.Client) -> httpx.Client:
    return door.system(tenant)


def assert_no_canary(response: httpx.Response, asked: str = "") -> None:
    """Nothing of the victim is in the answer but what the attacker wrote into the question."""
    text = response.text.replace(quote(asked, safe=":|,/$"), "").replace(asked, "")
    assert CANARY not in text
    assert not any(CANARY in value for value in response.headers.values())


LABELS = {
    "resourceType": "Parameters",
    "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}],
}


def what_is_sent(method: str, path: str, type_: str) -> tuple[dict[str, str], str | None]:
    """Headers, and a body that is accepted, so that the answer is about the id."""
    if method == "PATCH":
        same = [{"op": "test", "path": "/resourceType", "value": type_}]
        return {"Content-Type": "application/json-patch+json"}, json.dumps(same)
    if method != "POST" or path.endswith("$validate"):
        return FHIR_JSON, None  # $validate is about what is sent, whoever has the id
    meta = {"name": "meta", "valueMeta": {"tag": [{"system": "urn:example", "code": "seen"}]}}
    code = {"name": "code", "valueCode": "seen"}
    system = {"name": "system", "valueUri": "urn:example"}
    given = [meta] if "$meta" in path else [code, system] if "validate-code" in path else []
    return FHIR_JSON, json.dumps(
        {"resourceType": "Parameters", **({"parameter": given} if given else {})}
    )


def test_every_token_route_answers_about_the_victims_ids_as_about_nobodys(
    door: Door, tenant: Tenant, attacker: httpx.Client
) -> None:
    def ask(method: str, path: str, type_: str, id_: str) -> httpx.Response:
        url = (
            path.replace("{tenant}", tenant.slug)
            .replace("{resource_type}", type_)
            .replace("{resource_id}", id_)
            .replace("{version_id}", "1")
            .replace("{path:fhir_path}", f"{type_}/{id_}/$everything")
        )
        headers, body = what_is_sent(method, path, type_)
        return attacker.request(method, door.url + url, headers=headers, content=body)

    for (method, path), rule in ROUTES.items():
        if rule.guard != "TOKEN" or path.startswith(DICOMWEB) or "{resource_id}" not in path:
            continue
        if method == "PUT":
            continue  # creates under an id that the attacker's own tenant has not: below
        for record in RECORDS:
            type_ = record["resourceType"]
            theirs, nobodys = (ask(method, path, type_, id_) for id_ in (PATIENT, NOBODY))
            assert comparable(theirs) == comparable(nobodys), (method, path, type_)
            assert_no_canary(theirs)
            # A body that is missing is said before anything is looked for.
            accepted = {"DELETE": (204,), "POST": (400, 404), "PATCH": (400, 404)}
            assert theirs.status_code in accepted.get(method, (404,)), (method, path, type_)
    for operation in ("$meta-add", "$meta-delete"):
        for id_ in (PATIENT, NOBODY):
            url = f"{door.url}/t/{tenant.slug}/fhir/R4/Patient/{id_}/{operation}"
            asked = attacker.post(url, content=json.dumps(LABELS), headers=FHIR_JSON)
            assert asked.status_code == 404
            assert_no_canary(asked)
    for path in (f"{FHIR}/Patient/{PATIENT}/$everything", f"{FHIR}/Patient/{PATIENT}/Observation"):
        url = door.url + path.replace("{tenant}", tenant.slug)
        theirs, nobodys = attacker.get(url), attacker.get(url.replace(PATIENT, NOBODY))
        # A compartment that is empty has a self link, which says what was asked.
        (status, content, headers), expected = comparable(theirs), comparable(nobodys)
        assert (status, content.replace(PATIENT.encode(), NOBODY.encode()), headers) == expected
        assert_no_canary(theirs)


def test_a_write_under_the_victims_id_is_the_writers_own(
    attacker: httpx.Client, victim: httpx.Client
) -> None:
    for id_ in (PATIENT, NOBODY):
        answer = put(attacker, {"resourceType": "Questionnaire", "id": id_, "status": "draft"})
        assert answer.status_code == 201
        assert answer.json()["meta"]["versionId"] == "1"
        attacker.delete(f"/Questionnaire/{id_}").raise_for_status()
    assert CANARY in victim.get(f"/Questionnaire/{PATIENT}").text


@pytest.mark.parametrize("type_", TYPES)
def test_no_search_parameter_of_any_type_finds_the_victims(
    attacker: httpx.Client, type_: str
) -> None:
    # What a tenant has from its beginning: its Organization, say.
    own = found(attacker.get(f"/{type_}"))
    for code, parameter in definitions().search_parameters[type_].items():
        values = [PATIENT] if code == "_id" else VALUES.get(parameter.type, [])
        if not parameter.has_index():
            values = []
        for value in values:
            answer = attacker.get(f"/{type_}", params={code: value, "_total": "accurate"})
            assert_no_canary(answer, value.strip("|"))
            if type_ == "AuditEvent":  # has some of the parameters, and events of this very test
                assert answer.status_code in (200, 400)
                continue
            assert answer.status_code == 200, (code, value, answer.text)
            assert found(answer) <= own
            if own:
                continue
            nothing: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "total": 0}
            nothing["link"] = [{"relation": "self", "url": answer.json()["link"][0]["url"]}]
            assert answer.content == json.dumps(nothing, separators=(",", ":")).encode(), code


def test_the_victims_own_searches_do_find(victim: httpx.Client) -> None:
    """What makes the probe worth anything: the same values find the canaries for their owner."""
    hits = 0
    for record in RECORDS:
        type_ = record["resourceType"]
        for code, parameter in definitions().search_parameters[type_].items():
            if not parameter.has_index() or parameter.type not in VALUES:
                continue
            values = [PATIENT] if code == "_id" else VALUES[parameter.type]
            params = {code: values[0], "_total": "accurate"}
            hits += victim.get(f"/{type_}", params=params).json()["total"]
    assert hits > 50


@pytest.mark.parametrize(
    "query",
    [
        "_include=*", "_has:Observation:patient:code=x", "_text=x", "_content=x", "_list=x",
        "_query=x", "_filter=x", "subject.name=x", "_include=Observation:subject",
        "_include:iterate=Observation:subject", "_revinclude=Provenance:target", "_elements=id",
        "_summary=count", "_summary=true", "_contained=true",
    ],
)  # fmt: skip
def test_d3_every_other_way_to_ask_shows_nothing_of_the_victim(
    attacker: httpx.Client, query: str
) -> None:
    """What is served finds nothing, what is not is refused; neither tells of another tenant."""
    for criteria in ("", f"&_id={PATIENT}", f"&_tag={CANARY}"):
        answer = attacker.get(f"/Observation?{query}{criteria}")
        assert answer.status_code in (200, 400)
        assert_no_canary(answer, CANARY if CANARY in criteria else "")
        if answer.status_code == 200:
            assert "entry" not in answer.json()
            assert answer.json().get("total", 0) == 0


def test_d10_a_tag_of_the_victim_is_no_key_to_its_answer(
    attacker: httpx.Client, victim: httpx.Client, door: Door, tenant: Tenant
) -> None:
    known = victim.get(f"/Patient/{PATIENT}")
    headers = {"If-None-Match": known.headers["etag"]}

    assert victim.get(f"/Patient/{PATIENT}", headers=headers).status_code == 304
    assert attacker.get(f"/Patient/{PATIENT}", headers=headers).status_code == 404
    system = door.system(tenant)
    put(system, {"resourceType": "Patient", "id": "own", "name": [{"family": "Own"}]})
    app = door.caller(tenant, "patient/*.rs", patient=door.row_id(tenant, "Patient", "own"))
    put(system, {"resourceType": "Patient", "id": "not-own"})
    assert app.get("/Patient/own", headers=headers).status_code == 304
    assert app.get("/Patient/not-own", headers=headers).status_code == 404
    for answer in (known, app.get("/Patient/own"), app.get("/Patient"), app.get("/Patient/none")):
        assert answer.headers["cache-control"] == "private, no-store"
        assert "Authorization" in answer.headers["vary"]


def test_a_token_of_one_tenant_is_none_in_another(
    door: Door, tenant: Tenant, other_tenant: Tenant, attacker: httpx.Client
) -> None:
    """Whatever the route: another tenant's slug and one that nobody has are the same."""
    uid = "1.2.3"
    urls = [f"/fhir/R4/Patient/{PATIENT}", "/fhir/R4/Patient", "/fhir/R4/nothing/here"]
    for sub in (*dicomweb.GET, "/nothing"):
        for name in ("study", "series", "instance"):
            sub = sub.replace(f"{{{name}}}", uid)
        urls.append("/dicom-web" + sub.replace("{frames}", "1").replace("{path:path}", "7FE00010"))
    for url in urls:
        theirs = attacker.get(f"{door.url}/t/{other_tenant.slug}{url}")
        nobodys = attacker.get(f"{door.url}/t/nobody{url}")
        assert theirs.status_code == 404, url
        assert comparable(theirs) == comparable(nobodys), url
        assert_no_canary(theirs)
