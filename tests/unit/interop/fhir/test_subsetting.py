"""Parts of resources: what `_summary` and `_elements` leave, and what they never take away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interop.errors import BadRequest
from interop.fhir import gate, json
from interop.fhir.definitions import definitions
from interop.fhir.subsetting import SUBSETTED, parse_subset

EXAMPLES = Path(__file__).parents[5] / "shared/fhir/examples"
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "1",
    "meta": {"versionId": "3", "tag": [{"code": "own"}]},
    "text": {"status": "generated", "div": "<div>x</div>"},
    "contained": [{"resourceType": "Patient", "id": "p"}],
    "extension": [{"url": "urn:x", "valueCode": "y"}],
    "status": "final",
    "_status": {"id": "s"},
    "code": {"id": "c", "text": "a code", "extension": [{"url": "urn:x", "valueCode": "y"}]},
    "subject": {"reference": "#p"},
    "valueQuantity": {"value": 1, "unit": "mm"},
    "note": [{"text": "not in the summary"}],
    "component": [
        {"code": {"text": "part"}, "valueString": "v", "interpretation": [{"text": "high"}]}
    ],
}
TAGGED = {"versionId": "3", "tag": [{"code": "own"}, SUBSETTED]}


def subset(**parameters: str) -> dict[str, Any]:
    return parse_subset([(f"_{name}", value) for name, value in parameters.items()]).of(OBSERVATION)


def test_summary_true_keeps_what_is_marked_at_every_level() -> None:
    assert subset(summary="true") == {
        "resourceType": "Observation",
        "id": "1",
        "meta": TAGGED,
        "status": "final",
        "_status": {"id": "s"},
        "code": {"id": "c", "text": "a code"},
        "subject": {"reference": "#p"},
        "valueQuantity": {"value": 1, "unit": "mm"},
        "component": [{"code": {"text": "part"}, "valueString": "v"}],
    }


def test_summary_text_keeps_text_and_what_is_mandatory() -> None:
    shown = subset(summary="text")

    assert set(shown) == {"resourceType", "id", "meta", "text", "status", "_status", "code"}
    assert shown["code"] == OBSERVATION["code"]
    assert shown["meta"] == TAGGED


def test_summary_data_leaves_out_the_text() -> None:
    assert set(OBSERVATION) - set(subset(summary="data")) == {"text"}


def test_summary_false_is_everything_without_a_tag() -> None:
    assert subset(summary="false") is OBSERVATION


@pytest.mark.parametrize("name", ["value", "value[x]", "valueQuantity"])
def test_elements_keep_what_is_named_and_what_is_mandatory(name: str) -> None:
    shown = subset(elements=f"{name}, subject")

    assert set(shown) == {
        "resourceType", "id", "meta", "status", "_status", "code", "subject", "valueQuantity",
    }  # fmt: skip
    assert shown["meta"] == TAGGED


def test_elements_of_a_type_are_for_that_type_alone() -> None:
    asked = parse_subset([("_elements", "subject,Patient.name")])
    patient = {"resourceType": "Patient", "id": "2", "active": True, "name": [{"text": "P"}]}
    device = {"resourceType": "Device", "id": "3"}
    page = {
        "resourceType": "Bundle",
        "type": "searchset",
        "entry": [
            {"resource": OBSERVATION, "search": {"mode": "match"}},
            {"resource": patient, "search": {"mode": "include"}},
            {"resource": device, "search": {"mode": "include"}},
            {"fullUrl": "x"},
        ],
    }

    shown = [entry.get("resource") for entry in asked.of_page(page)["entry"]]

    assert set(shown[0]) == {
        "resourceType", "id", "meta", "status", "_status", "code", "subject"
    }  # fmt: skip
    assert shown[1] == {
        "resourceType": "Patient",
        "id": "2",
        "meta": {"tag": [SUBSETTED]},
        "name": [{"text": "P"}],
    }
    assert shown[2:] == [device, None]


def test_a_bundle_that_is_no_page_keeps_its_entries() -> None:
    batch = {"resourceType": "Bundle", "type": "batch-response", "entry": [{"resource": {}}]}

    assert parse_subset([("_summary", "true")]).of_page(batch) is batch


def test_an_outcome_is_never_cut() -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"diagnostics": "x"}]}

    assert parse_subset([("_elements", "id")]).of(outcome) is outcome


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ([("_summary", "yes")], "accepted: true, text, data, count, false"),
        ([("_elements", "a"), ("_summary", "true")], "send one of them"),
        ([("_summary", "text"), ("_include", "Observation:subject")], "goes without _include"),
        ([("_elements", "name.family")], "<resource type>.<element>"),
        ([("_elements", "Patient.nonsense")], "Patient has no element 'nonsense'; accepted: id"),
        ([("_elements", ",".join(["a"] * 201))], "at most 200"),
    ],
)
def test_what_is_not_understood_is_refused(parameters: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(BadRequest) as raised:
        parse_subset(parameters)

    assert said in raised.value.diagnostics


def test_names_that_the_type_has_not_are_refused() -> None:
    with pytest.raises(BadRequest, match="Observation has no element 'birthDate'"):
        parse_subset([("_elements", "birthDate")]).require_elements_of("Observation")


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no official examples at hand")
def test_a_summary_of_any_official_example_is_a_valid_resource() -> None:
    asked = parse_subset([("_summary", "true")])
    text, one = parse_subset([("_summary", "text")]), parse_subset([("_elements", "id")])
    seen = 0

    for path in sorted(EXAMPLES.glob("*.json")):
        resource = json.loads(path.read_bytes())
        if resource.get("resourceType") in definitions().resource_types:
            for part in (asked.of(resource), text.of(resource), one.of(resource)):
                gate.check(_without_local_references(part), resource["resourceType"])
                seen += part["meta"]["tag"][-1] == SUBSETTED

    assert seen > 300


def _without_local_references(value: Any) -> Any:
    """References to contained resources, which a summary leaves out, name nothing any more."""
    if isinstance(value, dict):
        kept = {k: _without_local_references(v) for k, v in value.items()}
        if str(kept.get("reference", "")).startswith("#"):
            kept["reference"] = "urn:x"
        return kept
    if isinstance(value, list):
        return [_without_local_references(item) for item in value]
    return value
