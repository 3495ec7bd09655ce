"""Our profiles, extensions and terminology: valid, complete, and what the code says."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from interop.fhir.definitions import definitions
from interop.fhir.mappings.body_site import tooth_concept
from interop.fhir.mappings.perio_sites import SITES
from interop.fhir.mappings.systems import ADA_UNIVERSAL, ISO_3950, OWN
from interop.fhir.terminology import terminology
from interop.fhir.validation import validate
from storage.dental import TEETH

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "profiles/dental-interop"
SOURCE = ROOT.parent / "shared/fhir"
FILES = sorted(FOLDER.glob("*.json"))
EXAMPLES = sorted((FOLDER / "examples").glob("*.json"))
Resource = dict[str, Any]

needs_official_files = pytest.mark.skipif(not SOURCE.is_dir(), reason="no ../shared/fhir")


@cache
def tool(name: str) -> Any:
    """A script of tools/, which import each other by their bare names."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    return importlib.import_module(name)


def load(path: Path) -> Resource:
    found: Resource = json.loads(path.read_text())
    return found


def example(name: str) -> Resource:
    return load(FOLDER / "examples" / f"{name}.json")


def errors(resource: Resource) -> list[str]:
    issues = validate(resource)
    return [issue.diagnostics for issue in issues if issue.severity in ("error", "fatal")]


@pytest.mark.parametrize("path", [*FILES, *EXAMPLES], ids=lambda path: path.name)
def test_every_definition_and_example_is_valid(path: Path) -> None:
    assert errors(load(path)) == []


def test_every_profile_of_a_resource_has_an_example() -> None:
    profiles = {
        definition["url"]
        for definition in map(load, FILES)
        if definition["resourceType"] == "StructureDefinition" and definition["kind"] == "resource"
    }

    claimed = {url for path in EXAMPLES for url in load(path)["meta"]["profile"]}

    assert claimed == profiles


@needs_official_files
def test_the_files_and_tables_are_what_the_script_writes() -> None:
    """When this fails: `python tools/write_own_definitions.py`."""
    script = tool("write_own_definitions")

    derived = script.derived(SOURCE)

    assert derived.keys() == {path.name for path in FILES}
    for path in FILES:
        assert path.read_text() == script.text_of(derived[path.name]), path.name
    for name, rows in script.tables(SOURCE, derived).items():
        stored = tool("derive_terminology").read_lines(FOLDER / f"{name}.ndjson.gz")
        assert stored == rows, name


@needs_official_files
def test_every_extension_of_ours_in_the_mappings_is_defined() -> None:
    """When this fails: a row in EXTENSIONS of tools/write_own_definitions.py."""
    used = {
        part.split('"')[1]
        for path in (ROOT / "src/interop/fhir/mappings").glob("*.py")
        for part in path.read_text().split("own_extension(")[1:]
        if part.startswith('"')
    }

    assert used == set(tool("write_own_definitions").EXTENSIONS)


def test_teeth_are_numbered_by_both_notations_alike() -> None:
    known = terminology()

    fdi = known.expansion(f"{OWN}:ValueSet:tooth-fdi")
    universal = known.expansion(f"{OWN}:ValueSet:tooth-universal")

    assert fdi == {(ISO_3950, tooth.fdi) for tooth in TEETH}
    assert universal == {(ADA_UNIVERSAL, tooth.universal) for tooth in TEETH}
    assert known.expansion(f"{OWN}:ValueSet:tooth") == fdi | universal
    for tooth in TEETH:
        words = known.display(ISO_3950, tooth.fdi)
        assert words == known.display(ADA_UNIVERSAL, tooth.universal)
        side = "left" if tooth.fdi[0] in "2367" else "right"
        assert words and side in words and side in tooth.name
        assert ("Primary" in words) is tooth.is_deciduous
        assert ("upper" in words.lower()) is ("axillary" in tooth.name)
        kind = {"1": "central", "2": "lateral", "3": "canine"}.get(tooth.fdi[1], "molar")
        assert kind in words and kind in tooth.name


def test_probing_sites_are_those_of_the_charts() -> None:
    sites = terminology().expansion(f"{OWN}:ValueSet:periodontal-site")

    assert sites == {(f"{OWN}:periodontal-site", code) for code in SITES}


def _change(*path: Any, to: Any = None) -> Callable[[Resource], None]:
    def change(resource: Resource) -> None:
        node: Any = resource
        for step in path[:-1]:
            node = node[step]
        if to is None:
            del node[path[-1]]
        else:
            node[path[-1]] = to

    return change


SITE_CODING = ("component", 0, "extension", 0, "valueCodeableConcept", "coding", 0)
CHARTED = "Observation-charted-tooth-36"
TOOTH, FINDING, CLAIM = "Observation-perio-tooth-36", "Observation-ai-finding", "Claim-dental-claim"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("Observation-perio-exam", _change("subject"), "Observation.subject"),
        ("Observation-perio-exam", _change("valueString", to="x"), "value"),
        (TOOTH, _change("bodySite"), "bodySite"),
        (TOOTH, _change("bodySite", "coding", 2), "coding:universal"),
        (TOOTH, _change("bodySite", "coding", 1), "coding:fdi"),
        (TOOTH, _change("bodySite", "coding", 1, "code", to="99"), "tooth-fdi"),
        (TOOTH, _change("bodySite", "coding", 2, "code", to="33"), "tooth-universal"),
        (TOOTH, _change("category", 1), "dental"),
        (TOOTH, _change("component", 0, "valueQuantity"), "dip-1"),
        (TOOTH, _change("component", 0, "valueQuantity", "code", to="cm"), "valueQuantity"),
        (TOOTH, _change("component", 6, "valueInteger", to=4), "at most 3"),
        (
            TOOTH,
            _change(*SITE_CODING, "code", to="Q"),
            "periodontal-site",
        ),
        (TOOTH, _change("component", 0, "extension", 0, "valueCodeableConcept"), "ext-1"),
        (FINDING, _change("meta", "security"), "dip-2"),
        (FINDING, _change("derivedFrom"), "derivedFrom"),
        (FINDING, _change("code", "coding", 0, "code", to="121070"), "Observation.code"),
        (CLAIM, _change("type", "coding", 0, "code", to="vision"), "Claim.type"),
        (CLAIM, _change("supportingInfo", 0, "code"), "supportingInfo[0].code"),
        (CLAIM, _change("supportingInfo", 0, "code", "coding", 2), "dip-4"),
        (CLAIM, _change("item", 0, "bodySite", "coding", 1), "coding:fdi"),
        (CHARTED, _change("bodySite", "coding", 1), "coding:fdi"),
        (CHARTED, _change("code", "coding", 0, "code", to="tooth-chart"), "Observation.code"),
    ],
)  # fmt: skip
def test_a_profile_refuses_what_it_rules_out(
    name: str, change: Callable[[Resource], None], said: str
) -> None:
    resource = copy.deepcopy(example(name))

    change(resource)

    assert any(said in diagnostics for diagnostics in errors(resource)), errors(resource)


def test_a_measure_is_taken_at_one_site() -> None:
    resource = copy.deepcopy(example(TOOTH))
    component = resource["component"][0]

    component["extension"] *= 2

    assert any("dip-3" in diagnostics for diagnostics in errors(resource))


def test_a_tooth_of_the_lenses_has_the_codings_that_the_profiles_ask_for() -> None:
    for tooth in TEETH:
        resource = example(TOOTH) | {"bodySite": tooth_concept(int(tooth.fdi))}

        assert errors(resource) == []


@needs_official_files
def test_snapshots_agree_with_those_that_hl7_published() -> None:
    """Of US Core, but for differentials in the short form of choices, which ours do not use."""
    profiles = tool("derive_profiles")
    core = tool("derive_terminology").read_lines(SOURCE / "r4/structure-definitions.ndjson.gz")
    guide = [r for r in profiles.us_core(SOURCE) if r["resourceType"] == "StructureDefinition"]
    known = {definition["url"]: definition for definition in (*core, *guide)}
    agreeing = 0
    for definition in guide:
        try:
            made = tool("fhir_snapshots").snapshot(
                definition, lambda url: known.get(url.partition("|")[0])
            )
        except tool("fhir_snapshots").SnapshotError:
            continue
        expected = list(map(profiles.compact_element, definition["snapshot"]["element"]))
        agreeing += list(map(profiles.compact_element, made)) == expected

    assert agreeing >= 30


def test_what_is_published_names_only_elements_that_r4_has() -> None:
    """The contexts of extensions and the bases of search parameters."""
    types = definitions().types
    for definition in map(load, FILES):
        for context in definition.get("context", []):
            owner, _, name = context["expression"].rpartition(".")
            assert context["expression"] in types or name in types[owner], definition["url"]
