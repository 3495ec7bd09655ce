"""The bundles of Synthea as transactions: hospitals and practitioners first, then each patient.

They link by urn:uuid and by conditional references; what was sent is counted by search afterwards.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

FOLDER = Path(__file__).parents[4] / "shared/fhir/synthea"
# Enough to meet every type: the smallest ones, so that the suite stays short.
PATIENTS = 2
FHIR_JSON = {"Content-Type": "application/fhir+json"}

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="shared/fhir/synthea is not here")


def files() -> list[Path]:
    """Those that others refer to first, then the smallest patients."""
    common = sorted(FOLDER.glob("0-*.json.gz"))
    patients = sorted(
        set(FOLDER.glob("*.json.gz")) - set(common), key=lambda one: one.stat().st_size
    )
    return common + patients[:PATIENTS]


def test_the_bundles_of_synthea_are_taken_whole(fhir: httpx.Client) -> None:
    sent: Counter[str] = Counter()
    shared: dict[str, set[str]] = {}
    patients: list[str] = []
    contents = [gzip.decompress(path.read_bytes()) for path in files()]
    bundles = [json.loads(content) for content in contents]
    types = {entry["resource"]["resourceType"] for one in bundles for entry in one["entry"]}
    # The server has resources of its own: the tenant is an Organization.
    before = {type_: total(fhir, f"{type_}?_summary=count") for type_ in types}
    for path, content, bundle in zip(files(), contents, bundles, strict=True):
        answer = fhir.post("", content=content, headers=FHIR_JSON, timeout=120)

        assert answer.status_code == 200, f"{path.name}: {answer.text[:2000]}"
        answered = answer.json()["entry"]
        assert len(answered) == len(bundle["entry"])
        for asked, entry in zip(bundle["entry"], answered, strict=True):
            type_ = asked["resource"]["resourceType"]
            reference = "/".join(entry["response"]["location"].split("/")[-4:-2])
            if asked["request"].get("ifNoneExist"):
                shared.setdefault(type_, set()).add(reference)
            else:
                sent[type_] += 1
            if type_ == "Patient":
                patients.append(reference)
    for type_, references in shared.items():
        sent[type_] += len(references)

    for type_, count in sent.items():
        found = total(fhir, f"{type_}?_summary=count") - before[type_]
        # The server says itself of each member what role they have.
        assert found >= count if type_ == "PractitionerRole" else found == count, type_
    assert len(patients) == PATIENTS
    for patient in patients:
        for type_, parameter in (("Encounter", "subject"), ("Observation", "patient")):
            assert total(fhir, f"{type_}?{parameter}={patient}&_summary=count") > 0
    assert_links_resolve(fhir)


def total(fhir: httpx.Client, query: str) -> int:
    return int(fhir.get(f"/{query}").raise_for_status().json()["total"])


def assert_links_resolve(fhir: httpx.Client) -> None:
    """No entry's link is left as it was sent: all lead to resources of the server."""
    page = fhir.get("/Claim?_count=50&_include=Claim:patient&_include=Claim:provider").json()
    claims: list[dict[str, Any]] = [
        e["resource"] for e in page["entry"] if e["search"]["mode"] == "match"
    ]
    included = {
        f"{e['resource']['resourceType']}/{e['resource']['id']}"
        for e in page["entry"]
        if e["search"]["mode"] == "include"
    }
    assert claims
    for claim in claims:
        assert "urn:uuid" not in json.dumps({**claim, "identifier": None})
        assert claim["patient"]["reference"] in included
        assert claim["provider"]["reference"] in included
