"""Every official R4 example: stored, served digit for digit, found by all it says, deleted.

What must find an example, and what must not, is told by tests/search_oracle.py, which shares
nothing with the server's reading of resources. Examples of our own run where those are not at hand.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from interop.fhir import json
from interop.fhir.definitions import definitions
from tests.search_oracle import Asked, asked_of, parameters_of

EXAMPLES = Path(__file__).parents[4] / "shared/fhir/examples"
FHIR_JSON = {"Content-Type": "application/fhir+json"}
SEED = 20261123
# Of the searches that must find nothing so many are asked of each example; those that must find it
# are all asked, many in one request.
MISSES = 10
TOGETHER = 20
UCUM = "http://unitsofmeasure.org"

OWN: list[dict[str, Any]] = [
    {
        "resourceType": "Patient",
        "id": "own",
        "text": {
            "status": "generated",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml">Anna Müller</div>',
        },
        "identifier": [
            {
                "type": {
                    "text": "Card number",
                    "coding": [{"system": "urn:t", "code": "MR", "display": "Medical record"}],
                },
                "system": "urn:mrn",
                "value": "M|1,2",
            },
            {"value": "bare"},
        ],
        "active": True,
        "name": [{"family": "Müller-Łoś", "given": ["Anna", "O'Neil"], "prefix": ["Dr."]}],
        "telecom": [{"system": "phone", "value": "+43 1 234"}, {"system": "email", "value": "a@b"}],
        "gender": "female",
        "birthDate": "1970-06",
        "deceasedDateTime": "2020-03-10T23:59:59-05:00",
        "address": [{"line": ["Ring 1"], "city": "Wien", "postalCode": "1010", "country": "AT"}],
        "generalPractitioner": [{"reference": "Practitioner/dr-1"}],
        "managingOrganization": {"identifier": {"system": "urn:org", "value": "o1"}},
    },
    {
        "resourceType": "Observation",
        "id": "own",
        "meta": {"profile": ["http://example.test/StructureDefinition/depth|1.0"]},
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "x-1", "display": "Depth"}]},
        "subject": {"reference": "Patient/own"},
        "effectivePeriod": {"start": "2020-03-10"},
        "component": [
            {
                "code": {"coding": [{"system": "urn:site", "code": site}], "text": f"Site {site}"},
                "valueQuantity": {"value": value, "system": UCUM, "code": unit, "unit": unit},
            }
            for site, value, unit in (("MB", 3.5, "mm"), ("DB", 20, "mg"), ("L", -1, "Cel"))
        ],
    },
    {
        "resourceType": "RiskAssessment",
        "status": "final",
        "subject": {"reference": "Patient/own"},
        "prediction": [
            {"probabilityDecimal": 0.50},
            {"probabilityRange": {"low": {"value": 1}, "high": {"value": 3}}},
        ],
    },
    {
        "resourceType": "Location",
        "name": "Operatory 2",
        "position": {"latitude": 48.2, "longitude": 16.37},
        "partOf": {"reference": "Location/house"},
    },
    {
        "resourceType": "Questionnaire",
        "url": "http://example.test/fhir/Questionnaire/recall",
        "version": "1.2",
        "status": "draft",
        "effectivePeriod": {"start": "2020", "end": "2021-06"},
        "useContext": [
            {
                "code": {"system": "urn:u", "code": "age"},
                "valueQuantity": {"value": 18, "system": UCUM, "code": "a"},
            },
            {
                "code": {"system": "urn:u", "code": "focus"},
                "valueCodeableConcept": {"coding": [{"system": "urn:f", "code": "teeth"}]},
            },
        ],
    },
    {
        "resourceType": "DocumentReference",
        "status": "current",
        "content": [{"attachment": {"contentType": "text/plain", "creation": "2020-01-01"}}],
        "relatesTo": [
            {"code": "replaces", "target": {"reference": "DocumentReference/a"}},
            {"code": "signs", "target": {"reference": "DocumentReference/b"}},
        ],
    },
]  # fmt: skip


def examples() -> Iterator[Any]:
    for number, resource in enumerate(OWN):
        yield pytest.param(resource, id=f"own-{number}-{resource['resourceType']}")
    for path in sorted(EXAMPLES.glob("*.json")) if EXAMPLES.is_dir() else []:
        resource = json.loads(path.read_bytes())
        # The server alone makes an AuditEvent (docs/audit.md).
        if resource.get("resourceType") not in (None, "AuditEvent"):
            yield pytest.param(resource, id=path.stem)


def without_server_fields(resource: dict[str, Any]) -> bytes:
    meta = {
        k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")
    }
    rest = {k: v for k, v in resource.items() if k not in ("id", "meta")}
    return json.dumps({**rest, **({"meta": meta} if meta else {})})


@pytest.mark.parametrize("resource", list(examples()))
def test_example_is_kept_whole_and_found(fhir: httpx.Client, resource: dict[str, Any]) -> None:
    resource_type = resource["resourceType"]

    created = fhir.post(f"/{resource_type}", content=json.dumps(resource), headers=FHIR_JSON)

    assert created.status_code == 201, created.text
    stored = json.loads(created.content)
    assert without_server_fields(stored) == without_server_fields(resource)
    url = f"/{resource_type}/{stored['id']}"
    # Without the header a Binary is served as what it holds.
    assert fhir.get(url, headers={"Accept": "application/fhir+json"}).content == created.content
    check_searches(fhir, resource_type, stored["id"], asked_of(created.json()))
    updated = fhir.put(url, content=created.content, headers=FHIR_JSON)
    assert updated.status_code == 200, updated.text
    assert without_server_fields(json.loads(updated.content)) == without_server_fields(resource)
    assert fhir.delete(url).status_code == 204
    assert fhir.get(url).status_code == 410
    assert not finds(fhir, resource_type, [("_id", stored["id"])])


def finds(fhir: httpx.Client, resource_type: str, pairs: list[tuple[str, str]]) -> bool:
    response = fhir.post(f"/{resource_type}/_search", data=grouped(pairs))
    assert response.status_code == 200, (pairs, response.text)
    return "entry" in response.json()


def grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def check_searches(fhir: httpx.Client, type_: str, resource_id: str, asked: Asked) -> None:
    own = ("_id", resource_id)
    hits = list(dict.fromkeys(asked.hits))
    for start in range(0, len(hits), TOGETHER):
        together = hits[start : start + TOGETHER]
        if not finds(fhir, type_, [own, *together]):
            wrong = [pair for pair in together if not finds(fhir, type_, [own, pair])]
            raise AssertionError(f"{type_} is not found by {wrong}")
    misses = sorted({*asked.misses} - {*asked.hits})
    chosen = random.Random(SEED).sample(misses, min(MISSES, len(misses)))
    wrong = [pair for pair in chosen if finds(fhir, type_, [own, pair])]
    assert not wrong, f"{type_} is found by {wrong}"


def test_every_search_parameter_of_r4_can_be_searched_by(fhir: httpx.Client) -> None:
    for resource_type in sorted(definitions().resource_types - {"AuditEvent"}):
        names = [parameter.code for parameter in parameters_of(resource_type)]
        for start in range(0, len(names), TOGETHER):
            pairs = [(f"{name}:missing", "true") for name in names[start : start + TOGETHER]]
            finds(fhir, resource_type, [("_id", "none"), *pairs])
