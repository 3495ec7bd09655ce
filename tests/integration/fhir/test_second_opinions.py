"""Validators and clients of others on what is served: fhirkit-rs, @medplum/core, fhir-kit-client.

The latter two want `npm install --prefix tests/clients`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from interop.access import Scopes
from interop.fhir.xml import from_xml
from storage.tenancy import Tenant

ROOT = Path(__file__).parents[3]
CLIENTS = ROOT / "tests/clients"
SHARED = ROOT.parent / "shared/fhir"
DEFINITIONS = SHARED / "r4/structure-definitions.ndjson.gz"
FHIR_JSON = {"Content-Type": "application/fhir+json"}
NODE = shutil.which("node")
# Not the server's own, and no batch makes an AuditEvent or a Binary in FHIR's form.
LEFT_OUT = {"AuditEvent", "Binary", "Bundle", "Parameters"}
# Medplum misses that ras-2 is about decimals alone, and takes bdl-8 to ask for a fullUrl.
MEDPLUM_ERRS = {"RiskAssessment", "batch-response"}

needs_clients = pytest.mark.skipif(
    NODE is None or not (CLIENTS / "node_modules").is_dir(),
    reason="node or tests/clients/node_modules is not there (npm install --prefix tests/clients)",
)


@pytest.fixture(scope="module")
def served(fhir: httpx.Client) -> dict[str, bytes]:
    """Name -> an answer of the server: resources, pages, outcomes, Parameters."""
    patient = fhir.put(
        "/Patient/opinion",
        content='{"resourceType":"Patient","id":"opinion","name":[{"family":"Opinion"}]}',
        headers=FHIR_JSON,
    )
    assert patient.status_code == 201
    entries = []
    for path in sorted((SHARED / "examples").glob("*.json"))[::3]:
        resource = json.loads(path.read_bytes())
        if resource.get("resourceType", "Bundle") in LEFT_OUT or len(path.read_bytes()) > 4_000:
            continue
        type_ = resource["resourceType"]
        request = {"method": "PUT", "url": f"{type_}/{uuid4()}"}
        resource["id"] = request["url"].partition("/")[2]
        entries.append({"resource": resource, "request": request})
    body = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    answers = fhir.post("/", content=json.dumps(body), headers=FHIR_JSON)
    found = {"batch-response": answers.content, "Patient/opinion": patient.content}
    for entry, answer in zip(entries, answers.json().get("entry", []), strict=False):
        if answer["response"]["status"].startswith("201"):
            found[entry["request"]["url"]] = fhir.get(f"/{entry['request']['url']}").content
    assert len(found) > 20 or not entries
    for url in (
        "/Patient?_summary=true", "/Patient?_elements=name", "/Patient/opinion?_summary=text",
        "/Observation?_include=*&_count=5", "/Patient/opinion/_history", "/Patient/_history",
        "/_history?_count=5", "/Patient/opinion/$everything", "/Patient/opinion/$meta",
        "/Nonsense/1", "/Patient/nobody", "/Patient?nonsense=1", "/metadata",
        "/metadata?_summary=true",
        "/StructureDefinition?status=active&_count=100", "/ImplementationGuide/dental-interop",
        "/SearchParameter?status=active&_count=20", "/ValueSet?status=active&_count=20",
        "/CodeSystem/dental-interop-iso-3950",
        "/ValueSet/$expand?url=urn:dental-interop:ValueSet:tooth",
        "/ValueSet/$validate-code?url=urn:dental-interop:ValueSet:tooth"
        "&system=urn:iso:std:iso:3950&code=36",
    ):  # fmt: skip
        found[url] = fhir.get(url).content
    return found


def test_fhirkit_finds_nothing_wrong(served: dict[str, bytes]) -> None:
    fhirkit = pytest.importorskip("fhirkit", reason="fhirkit-rs is not installed")

    wrong = {name: list(map(str, fhirkit.validate(body))) for name, body in served.items()}

    assert {name: issues for name, issues in wrong.items() if issues} == {}


def test_fhirkit_reads_the_same_from_what_was_xml(
    fhir: httpx.Client, served: dict[str, bytes]
) -> None:
    fhirkit = pytest.importorskip("fhirkit", reason="fhirkit-rs is not installed")
    from interop.fhir import json as exact

    for url in ("/Patient?_summary=true", "/Patient/opinion/_history", "/metadata"):
        answer = fhir.get(url, headers={"Accept": "application/fhir+xml"})
        assert fhirkit.validate(exact.dumps(from_xml(answer.content))) == [], url


@needs_clients
@pytest.mark.skipif(not DEFINITIONS.is_file(), reason="no official definitions at hand")
def test_medplum_finds_nothing_wrong(served: dict[str, bytes]) -> None:
    resources = {
        name: json.loads(body)
        for name, body in served.items()
        if name.partition("/")[0] not in MEDPLUM_ERRS
    }

    refused = _run("validate_medplum.mjs", definitions=str(DEFINITIONS), resources=resources)

    assert refused == {}


@needs_clients
def test_fhir_kit_client_spends_a_day(live: SimpleNamespace, tenant: Tenant) -> None:
    token = live.services.tokens.issue(tenant, None, "kit", Scopes.parse("system/*.cruds"))

    seen = _run("fhir_kit_client.mjs", baseUrl=f"{live.url}/t/{tenant.slug}/fhir/R4", token=token)

    assert seen == {
        "fhirVersion": "4.0.1",
        "updated": True,
        "patched": "other",
        "first": "female",
        "history": 3,
        "typeHistory": True,
        "systemHistory": True,
        "found": 1,
        "transaction": ["201", "201"],
        "batch": True,
        "everything": ["Observation", "Observation", "Patient"],
        "next": 1,
        "gone": 410,
    }


def _run(script: str, **given: Any) -> Any:
    assert NODE is not None
    done = subprocess.run(
        [NODE, str(CLIENTS / script)],
        input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
