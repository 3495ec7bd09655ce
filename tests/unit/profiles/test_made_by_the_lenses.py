"""What the lenses make of rows is what the profiles describe, for generated rows of every shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interop.fhir import json as fhir_json
from interop.fhir.definitions import definitions
from interop.fhir.mappings.lens import Rows
from interop.fhir.mappings.perio_sites import COLUMNS
from interop.fhir.mappings.systems import OWN
from interop.fhir.validation import validate
from tests.unit.interop.fhir.mappings.test_lens_laws import CASES, rows_of
from tests.unit.profiles.test_own_definitions import FILES

MOMENT = datetime(2026, 10, 5, 9, 10, tzinfo=UTC)
PROBED = ({"site": "MB", "pocket_depth_mm": 3},)
# What the tables and their joins always give, where the laws leave it open.
PRESENT: dict[str, dict[str, Any]] = {
    "Observation of a tooth": {
        "patient_id": "Patient/a",
        "measured_at": MOMENT,
        "tooth_number": 36,
    },
    "Observation of a perio exam": {"patient_id": "Patient/a", "measured_at": MOMENT},
    "Observation of the AI": {
        "patient": "Patient/a",
        "derived_from": "ImagingStudy/a",
        "effective": MOMENT,
    },
    "Claim": {"patient_id": "Patient/a"},
}
PROFILES = {
    "Observation of a tooth": "perio-tooth",
    "Observation of a perio exam": "perio-exam",
    "Observation of the AI": "ai-finding",
    "Claim": "dental-claim",
}


def as_stored(name: str, rows: Rows) -> Rows:
    """The rows as the tables hold them."""
    row = dict(rows.row)
    for column, value in PRESENT[name].items():
        row[column] = row[column] if row[column] is not None else value
    if name == "Observation of a tooth" and not row["sites"]:
        row["sites"] = tuple({**_no_measures(), **site} for site in PROBED)
    if name == "Observation of the AI":
        row["label"] = "AI" if row["status"] == "OPEN" else "REVIEWED"
        row["code"] = row["code"] and "SCT|80967001"
    if name == "Claim":
        row |= {"created_at": MOMENT}
        lines = tuple(map(_in_order, rows.children["claim_lines"]))
        return Rows(row, {"claim_lines": lines})
    return Rows(row, rows.children)


def _in_order(line: dict[str, Any]) -> dict[str, Any]:
    start, end = line["service_start"], line["service_end"]
    if start and end and end < start:
        return {**line, "service_start": end, "service_end": start}
    return line


def _no_measures() -> dict[str, Any]:
    return dict.fromkeys(COLUMNS)


@pytest.mark.parametrize("name", PROFILES)
@settings(
    max_examples=30,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_what_a_lens_makes_is_valid_by_its_profile(name: str, data: st.DataObject) -> None:
    rows = as_stored(name, data.draw(rows_of(CASES[name])))

    made = CASES[name][0].put(rows, None)

    resource = json.loads(fhir_json.dumps({**made, "id": "a"}))
    issues = validate(resource, [f"{OWN}:StructureDefinition:{PROFILES[name]}"])
    wrong = [i.diagnostics for i in issues if i.severity in ("error", "fatal")]
    assert wrong == [], resource


def contexts_of(type_: str, path: str, node: dict[str, Any]) -> Iterator[tuple[set[str], str]]:
    """(type and path of the element that is extended, URL) of each extension in a node."""
    for extension in node.get("extension", []):
        yield {type_, path}, extension["url"]
    forms = {
        key: child for item in definitions().types[type_].values() for key, child in item.keys()
    }
    for key, value in node.items():
        child = forms.get(key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and key != "extension" and child in definitions().types:
                yield from contexts_of(str(item.get("resourceType", child)), f"{type_}.{key}", item)


@pytest.mark.parametrize("name", CASES)
@settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_extensions_of_ours_stand_where_their_definitions_say(
    name: str, data: st.DataObject
) -> None:
    mapping = CASES[name][0]

    made = mapping.put(data.draw(rows_of(CASES[name])), None)

    for contexts, url in contexts_of(mapping.resource_type, mapping.resource_type, made):
        if url.startswith(f"{OWN}:extension:"):
            assert contexts & allowed()[url], (contexts, url)


@cache
def allowed() -> dict[str, set[str]]:
    """URL of an extension of ours -> what it may extend."""
    found = (json.loads(path.read_text()) for path in FILES if "StructureDefinition" in path.name)
    return {
        definition["url"]: {context["expression"] for context in definition["context"]}
        for definition in found
        if definition["type"] == "Extension"
    }
