"""Our own definitions are there in every tenant, the same, and nobody changes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from interop.fhir import published
from interop.r4_tables import profiles_directory
from storage.database import Database
from storage.tenancy import Tenant

PERIO = "urn:dental-interop:StructureDefinition:perio-tooth"
PERIO_ID = "dental-interop-perio-tooth"
EXAMPLES = profiles_directory() / "dental-interop/examples"
BASE = "https://example.org/t/demo/fhir/R4"


def ids(page: httpx.Response) -> list[str]:
    assert page.status_code == 200, page.text
    return [entry["resource"]["id"] for entry in page.json().get("entry", [])]


def test_they_are_read_searched_and_have_a_history_in_every_tenant(
    fhir: httpx.Client, other_fhir: httpx.Client
) -> None:
    for client in (fhir, other_fhir):
        assert ids(client.get("/", params={"_type": "StructureDefinition", "url": PERIO})) == [
            PERIO_ID
        ]
        read = client.get(f"/StructureDefinition/{PERIO_ID}")

        assert read.status_code == 200, read.text
        assert read.json()["url"] == PERIO
        assert read.json()["snapshot"]["element"][0]["path"] == "Observation"
        assert ids(client.get("/StructureDefinition", params={"url": PERIO})) == [PERIO_ID]
        assert ids(client.get("/SearchParameter", params={"code": "tooth", "base": "Claim"})) == [
            "dental-interop-tooth"
        ]
        assert ids(client.get("/ValueSet", params={"reference": "urn:iso:std:iso:3950"})) == [
            "dental-interop-tooth-fdi"
        ]
        history = client.get(f"/StructureDefinition/{PERIO_ID}/_history").json()
        assert [entry["response"]["status"][:3] for entry in history["entry"]] == ["201"]


def test_all_that_is_published_is_there_and_the_guide_lists_it(fhir: httpx.Client) -> None:
    guide = fhir.get("/ImplementationGuide/dental-interop").json()

    listed = {row["reference"]["reference"] for row in guide["definition"]["resource"]}

    for reference in listed:
        assert fhir.get(f"/{reference}").status_code == 200, reference
    expected = {"/".join(key) for key in published.keys() if key != published.GUIDE}
    assert listed == expected


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("resource_type", ["StructureDefinition", "ImplementationGuide"])
def test_nobody_changes_them(
    fhir: httpx.Client, assert_outcome: Callable[..., Any], method: str, resource_type: str
) -> None:
    resource_id = PERIO_ID if resource_type == "StructureDefinition" else "dental-interop"
    url = f"/{resource_type}/{resource_id}"
    stored = fhir.get(url)
    patch: Any = [{"op": "replace", "path": "/status", "value": "retired"}]
    content = json.dumps({"PUT": stored.json() | {"status": "retired"}, "PATCH": patch}.get(method))
    kind = "application/json-patch+json" if method == "PATCH" else "application/fhir+json"

    refused = fhir.request(method, url, content=content, headers={"Content-Type": kind})

    assert_outcome(refused, 403, "forbidden")
    assert fhir.get(url).content == stored.content


def test_a_tenant_may_have_definitions_of_its_own_beside_them(fhir: httpx.Client) -> None:
    own = fhir.get(f"/StructureDefinition/{PERIO_ID}").json()
    own |= {"id": "clinic-perio", "url": "http://clinic.test/perio"}

    assert fhir.put("/StructureDefinition/clinic-perio", json=own).status_code == 201
    assert ids(fhir.get("/StructureDefinition", params={"url": own["url"]})) == ["clinic-perio"]
    assert fhir.delete("/StructureDefinition/clinic-perio").status_code == 204


def test_the_policy_holds_for_them_too(
    client_for: Callable[..., httpx.Client], tenant: Tenant, assert_outcome: Callable[..., Any]
) -> None:
    narrow = client_for(tenant, "system/Patient.rs")

    assert_outcome(narrow.get(f"/StructureDefinition/{PERIO_ID}"), 403, "forbidden")


def test_a_release_makes_versions_of_what_changed_and_deletes_what_went(
    database: Database, other_tenant: Tenant, other_fhir: httpx.Client, monkeypatch: Any
) -> None:
    url = f"/StructureDefinition/{PERIO_ID}"
    assert other_fhir.get(url).status_code == 200
    every = published._paths()
    fewer = [path for path in every if PERIO_ID not in path.name]
    versions = count_of_versions(database, other_tenant)

    monkeypatch.setattr(published, "_paths", lambda: fewer)
    monkeypatch.setattr(published, "source", lambda: published.SOURCE + "next")
    assert published.supply(database, other_tenant.id, BASE) == 2
    assert other_fhir.get(url).status_code == 410
    monkeypatch.undo()
    assert published.supply(database, other_tenant.id, BASE) == 2
    assert published.supply(database, other_tenant.id, BASE) == 0

    assert other_fhir.get(url).status_code == 200
    assert count_of_versions(database, other_tenant) == versions + 4


def count_of_versions(database: Database, tenant: Tenant) -> int:
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT count(*) FROM fhir_history WHERE tenant_id = %s", (tenant.id,)
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_our_search_parameters_find_teeth_surfaces_sites_and_confidence(
    fhir: httpx.Client,
) -> None:
    patient = fhir.post("/Patient", json={"resourceType": "Patient"}).json()["id"]
    subject = {"reference": f"Patient/{patient}"}
    made = {}
    for path in sorted(EXAMPLES.glob("*.json")):
        example = json.loads(path.read_text())
        for name in ("subject", "patient"):
            if name in example:
                example[name] = subject
        stored = fhir.put(f"/{example['resourceType']}/{example['id']}", json=example)
        assert stored.status_code == 201, stored.text
        made[example["id"]] = stored.json()
    condition = {
        "resourceType": "Condition",
        "id": "caries",
        "subject": subject,
        "bodySite": [made["perio-tooth-36"]["bodySite"]],
    }
    assert fhir.put("/Condition/caries", json=condition).status_code == 201
    request = condition | {"resourceType": "ServiceRequest", "status": "active", "intent": "plan"}
    assert fhir.put("/ServiceRequest/caries", json=request).status_code == 201

    def found(url: str) -> list[str]:
        return ids(fhir.get(url))

    assert found("/Observation?tooth=urn:iso:std:iso:3950|36&periodontal-site=MB") == [
        "perio-tooth-36"
    ]
    assert found("/Observation?tooth=19&ai-confidence=gt0.9") == ["ai-finding"]
    assert found("/Observation?ai-confidence=lt0.9") == []
    assert found("/Claim?tooth=19&tooth-surface=O") == ["dental-claim"]
    assert found("/Claim?tooth=30") == []
    assert found("/ServiceRequest?tooth=19") == ["caries"]
    assert found(f"/Patient?_has:Condition:subject:tooth=36&_id={patient}") == [patient]
