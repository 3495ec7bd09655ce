"""The tables in profiles/r4 are what the script derives from the official files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from interop.fhir.definitions import definitions, read_table

ROOT = Path(__file__).parents[4]
OFFICIAL = ROOT.parent / "shared/fhir/r4"


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no official definitions at hand")
def test_tables_are_what_the_script_derives() -> None:
    script = ROOT / "tools/derive_fhir_definitions.py"
    spec = importlib.util.spec_from_file_location("derive_fhir_definitions", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    derived = module.derive(OFFICIAL)

    assert derived.keys() == {path.name for path in (ROOT / "profiles/r4").glob("*.json.gz")}
    for name, content in derived.items():
        expected = json.loads(json.dumps(content))
        assert read_table(name.removesuffix(".json.gz")) == expected, name


def test_all_r4_resource_types_are_known() -> None:
    tables = definitions()

    assert len(tables.resource_types) == 146
    assert {"Patient", "Questionnaire", "MolecularSequence"} <= tables.resource_types
    assert not {"Resource", "DomainResource"} & tables.resource_types


def test_elements_say_types_cardinality_and_targets() -> None:
    patient = definitions().types["Patient"]

    assert patient["name"].is_list and patient["name"].types == ("HumanName",)
    assert patient["deceased"].keys() == [
        ("deceasedBoolean", "boolean"),
        ("deceasedDateTime", "dateTime"),
    ]
    assert patient["generalPractitioner"].targets == {
        "Organization",
        "Practitioner",
        "PractitionerRole",
    }
    assert patient["gender"].code_system == "http://hl7.org/fhir/administrative-gender"
    assert definitions().types["Observation"]["status"].minimum == 1
    assert definitions().types["Questionnaire.item"]["item"].types == ("Questionnaire.item",)


def test_patient_compartment_names_search_parameters() -> None:
    tables = definitions()

    for type_, codes in tables.patient_compartment.items():
        assert set(codes) <= {*tables.search_parameters[type_], "link"}, type_
