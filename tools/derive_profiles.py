"""Derive the compact profile tables of profiles/ for the compiled validator.

    .venv/bin/python tools/derive_profiles.py --source ../shared/fhir

From R4 itself, US Core 6.1 and the HL7 Dental Data Exchange guide: StructureDefinitions to
`profiles.ndjson.gz`, terminology as `derive_terminology.py` does. profiles/README.md says what a
line holds. Snapshots that a guide does not bring are made here.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from pathlib import Path
from typing import Any

from derive_terminology import derive, packed, read_lines
from fhir_snapshots import CORE, snapshot
from interop.fhir.definitions import definitions
from interop.fhir.xml import from_xml

Json = Any
ROOT = Path(__file__).resolve().parent.parent
KEPT = (
    "id",
    "path",
    "sliceName",
    "slicing",
    "min",
    "max",
    "type",
    "contentReference",
    "binding",
    "maxLength",
)
KEPT_PREFIXES = ("fixed", "pattern", "minValue", "maxValue")


class Library:
    """Every StructureDefinition that a snapshot may rest on, by URL."""

    def __init__(self, known: list[Json]) -> None:
        self._known = {definition["url"]: definition for definition in known}

    def add(self, found: list[Json]) -> None:
        self._known |= {definition["url"]: definition for definition in found}

    def find(self, url: str) -> Json | None:
        definition = self._known.get(url.partition("|")[0])
        if definition is not None and "snapshot" not in definition:
            definition["snapshot"] = {"element": snapshot(definition, self.find)}
        return definition


def compact_element(element: Json) -> Json:
    kept = {
        key: value for key, value in element.items() if key in KEPT or key.startswith(KEPT_PREFIXES)
    }
    if "binding" in kept:
        kept["binding"] = {
            key: kept["binding"][key] for key in ("strength", "valueSet") if key in kept["binding"]
        }
    if "type" in kept:
        kept["type"] = [
            {
                key: type_[key]
                for key in ("code", "profile", "targetProfile", "aggregation")
                if key in type_
            }
            for type_ in kept["type"]
        ]
    if "slicing" in kept:
        kept["slicing"] = {k: v for k, v in kept["slicing"].items() if k != "description"}
    return kept


def own_constraints(element: Json) -> list[Json]:
    """The rules of profiles; those of R4's own types hold without being said again."""
    return [
        {key: rule[key] for key in ("key", "severity", "expression", "human") if key in rule}
        for rule in element.get("constraint", [])
        if "expression" in rule and not _is_of_core_type(rule.get("source", ""))
    ]


def _is_of_core_type(source: str) -> bool:
    name = source.removeprefix(CORE)
    kinds = definitions().kinds
    return not source or name in kinds or name in ("DomainResource", "Resource", "Element")


def compact_profile(definition: Json, find: Any) -> Json:
    """What a profile asks beyond its type: the elements that differ, with their own rules."""
    base = find(CORE + definition["type"])
    of_type = {element["id"]: compact_element(element) for element in base["snapshot"]["element"]}
    elements = []
    for element in find(definition["url"])["snapshot"]["element"]:
        row = compact_element(element)
        rules = own_constraints(element)
        if rules:
            row["constraint"] = rules
        if row != of_type.get(row["id"]) or row["id"] == definition["type"]:
            elements.append(row)
    keys = ("url", "version", "name", "title", "type", "kind", "baseDefinition", "context")
    return {key: definition[key] for key in keys if key in definition} | {"element": elements}


def profiles_of(found: list[Json], library: Library) -> list[Json]:
    library.add(found)
    rows = [
        compact_profile(definition, library.find)
        for definition in found
        if definition.get("derivation") == "constraint" and definition["kind"] != "logical"
    ]
    return sorted(rows, key=lambda row: row["url"])


# -- reading the guides -------------------------------------------------------------------


def us_core(source: Path) -> list[Json]:
    with tarfile.open(source / "igs/us_core_610.tgz") as archive:
        return [
            json.load(archive.extractfile(member))  # type: ignore[arg-type]
            for member in archive.getmembers()
            if member.name.startswith(
                ("package/StructureDefinition-", "package/ValueSet-", "package/CodeSystem-")
            )
        ]


def dental_data_exchange(source: Path) -> list[Json]:
    """The JSON of the first edition before the XML of the ballot of the second."""
    folder = source / "igs/dental-data-exchange"
    names = ("StructureDefinition", "ValueSet", "CodeSystem")
    found = [
        json.loads(p.read_text()) for p in sorted(folder.glob("*.json")) if p.name.startswith(names)
    ]
    for name in names:
        found += [
            from_xml(path.read_bytes()) for path in sorted((folder / name.lower()).glob("*.xml"))
        ]
    return found


# -- what is written ----------------------------------------------------------------------


def derive_all(source: Path) -> dict[str, list[Json]]:
    """Path below profiles/ -> the lines of that file."""
    core = read_lines(source / "r4/structure-definitions.ndjson.gz")
    library = Library(core)
    tables = {"r4/profiles": profiles_of(core, library)}
    for name, found in (
        ("us-core", us_core(source)),
        ("dental-data-exchange", dental_data_exchange(source)),
    ):
        by_type: dict[str, list[Json]] = {
            "StructureDefinition": [],
            "ValueSet": [],
            "CodeSystem": [],
        }
        for resource in found:
            by_type[resource["resourceType"]].append(resource)
        tables[f"{name}/profiles"] = profiles_of(by_type["StructureDefinition"], library)
        terminology = derive(by_type["CodeSystem"], by_type["ValueSet"])
        tables |= {f"{name}/{table}": rows for table, rows in terminology.items()}
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared/fhir")
    parser.add_argument("--target", type=Path, default=ROOT / "profiles")
    arguments = parser.parse_args()
    for name, rows in derive_all(arguments.source).items():
        path = arguments.target / f"{name}.ndjson.gz"
        path.parent.mkdir(exist_ok=True)
        content = packed(rows)
        path.write_bytes(content)
        print(f"{name}: {len(rows)} definitions, {len(content):,} bytes")


if __name__ == "__main__":
    main()
