"""The terminology in profiles/ is what the script derives, and says what the official files say."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from interop.fhir.definitions import definitions
from interop.fhir.terminology import terminology
from interop.r4_tables import profiles_directory

ROOT = Path(__file__).parents[5]
SOURCE = ROOT.parent / "shared/fhir/r4"

needs_official_files = pytest.mark.skipif(not SOURCE.is_dir(), reason="no ../shared/fhir/r4")


def script() -> Any:
    spec = importlib.util.spec_from_file_location(
        "derive_terminology", ROOT / "tools/derive_terminology.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_official_files
def test_the_tables_of_r4_are_what_the_script_derives() -> None:
    derived = script().derive_r4(SOURCE)

    for name, rows in derived.items():
        stored = gzip.decompress((profiles_directory() / f"r4/{name}.ndjson.gz").read_bytes())
        assert [json.loads(line) for line in stored.splitlines()] == rows


@pytest.mark.parametrize(
    "licensed", ["http://snomed.info/sct", "http://loinc.org", "http://www.ada.org", "nucc.org"]
)
def test_no_table_hands_on_a_list_of_licensed_codes(licensed: str) -> None:
    for path in profiles_directory().glob("*/*.ndjson.gz"):
        if path.parent.name == "dental-interop":
            continue  # Single codes that the server itself writes.
        for line in gzip.decompress(path.read_bytes()).splitlines():
            resource = json.loads(line)
            if "content" in resource:
                assert licensed not in resource["url"]
            for rows in resource.get("compose", {}).values():
                for row in rows if isinstance(rows, list) else ():
                    assert licensed not in row.get("system", "") or "concept" not in row


def test_every_required_binding_of_r4_is_known_and_nearly_all_can_be_enumerated() -> None:
    bound = {
        element.value_set
        for elements in definitions().types.values()
        for element in elements.values()
        if element.value_set
    }

    not_here = {url for url in bound if terminology().expansion(url) is None}

    # Media types, currencies and units have no list; the others are tables of v3 and of LOINC.
    assert {url.rsplit("/", 1)[1] for url in not_here} == {
        "mimetypes",
        "currencies",
        "ucum-units",
        "LL379-9",
        "v3-ConfidentialityClassification",
    }


@needs_official_files
def test_every_code_of_a_value_set_drawn_from_whole_systems_is_in_its_expansion() -> None:
    systems = {row["url"]: row for row in script().read_lines(SOURCE / "code-systems.ndjson.gz")}

    def all_codes(concepts: list[dict[str, Any]]) -> set[str]:
        return {c["code"] for c in concepts}.union(
            *(all_codes(c.get("concept", [])) for c in concepts)
        )

    compared = 0
    for row in script().read_lines(SOURCE / "value-sets.ndjson.gz"):
        include = row.get("compose", {}).get("include", [])
        whole = [
            part for part in include if part.keys() == {"system"} and part["system"] in systems
        ]
        if len(whole) != len(include) or "exclude" in row["compose"]:
            continue
        expansion = terminology().expansion(row["url"])
        if expansion is None:
            continue
        expected = {
            (part["system"], code)
            for part in whole
            for code in all_codes(systems[part["system"]].get("concept", []))
        }
        assert expansion == expected, row["url"]
        compared += 1
    assert compared > 350
