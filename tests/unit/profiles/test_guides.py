"""US Core 6.1 and Dental Data Exchange: derived tables, and their judgement of the examples."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interop.fhir import json as fhir_json
from interop.fhir.validation import validate
from interop.fhir.xml import from_xml
from tests.unit.profiles.test_own_definitions import ROOT, SOURCE, needs_official_files, tool

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition"
DENTAL = "http://hl7.org/fhir/us/dental-data-exchange/StructureDefinition"
# Named by the guides and not among what we hold: other guides, and US Core before its third split.
NOT_HELD = "it is not known here"
# Codes with spaces at their ends.
UNTIDY = ("ValueSet", "tooth-identification-valueset")
Resource = dict[str, Any]


def us_core_examples() -> Iterator[Resource]:
    with tarfile.open(SOURCE / "igs/us_core_610.tgz") as archive:
        for member in archive.getmembers():
            found = archive.extractfile(member)
            if member.name.startswith("package/example/") and found:
                resource = json.load(found)
                if "resourceType" in resource:
                    yield resource


def dental_examples() -> Iterator[Resource]:
    for path in sorted((SOURCE / "igs/dental-data-exchange").rglob("*.*")):
        resource = from_xml(path.read_bytes()) if path.suffix == ".xml" else _read(path)
        if resource["resourceType"] != "StructureDefinition":
            yield resource


def _read(path: Path) -> Resource:
    return fhir_json.loads(path.read_bytes())


def wrong_of(resource: Resource) -> list[str]:
    issues = validate(resource, with_warnings=False)
    return [issue.diagnostics for issue in issues if NOT_HELD not in issue.diagnostics]


@needs_official_files
def test_the_tables_are_what_the_script_derives() -> None:
    """When this fails: `python tools/derive_profiles.py`."""
    for name, rows in tool("derive_profiles").derive_all(SOURCE).items():
        path = ROOT / f"profiles/{name}.ndjson.gz"
        assert tool("derive_terminology").read_lines(path) == rows, name


@needs_official_files
def test_every_example_of_us_core_is_valid() -> None:
    wrong = {example["id"]: wrong_of(example) for example in us_core_examples()}

    assert len(wrong) > 170
    assert {name: issues for name, issues in wrong.items() if issues} == {}


@needs_official_files
def test_every_example_of_dental_data_exchange_is_valid() -> None:
    judged = 0
    for example in dental_examples():
        if (example["resourceType"], example.get("id")) != UNTIDY:
            assert wrong_of(example) == [], example.get("id")
            judged += 1

    assert judged > 90


@needs_official_files
@pytest.mark.parametrize(
    ("profile", "without", "said"),
    [
        (f"{US_CORE}/us-core-patient", "name", "Patient.name"),
        (f"{US_CORE}/us-core-patient", "gender", "Patient.gender"),
        (f"{US_CORE}/us-core-condition-encounter-diagnosis", "category", "Condition.category"),
        (f"{US_CORE}/us-core-blood-pressure", "component", "component"),
        (f"{US_CORE}/us-core-smokingstatus", "valueCodeableConcept", "value"),
    ],
)
def test_a_profile_of_us_core_refuses_what_lacks_an_element(
    profile: str, without: str, said: str
) -> None:
    example = next(
        example
        for example in us_core_examples()
        if profile in example.get("meta", {}).get("profile", [])
        and without in example
        and f"_{without}" not in example
    )

    del example[without]

    assert any(said in diagnostics for diagnostics in wrong_of(example))


@needs_official_files
def test_a_dental_condition_must_say_that_it_is_dental() -> None:
    example = next(
        example
        for example in dental_examples()
        if example["resourceType"] == "Condition"
        and f"{DENTAL}/dental-condition" in example.get("meta", {}).get("profile", [])
        and wrong_of(example) == []
    )

    example["category"] = [
        category
        for category in example["category"]
        if all("dental-category" not in coding["system"] for coding in category["coding"])
    ]

    assert any("dental" in diagnostics for diagnostics in wrong_of(example))
