"""Derive the compact code systems and value sets of profiles/ from the official FHIR R4 files.

    .venv/bin/python tools/derive_terminology.py --source ../shared/fhir/r4

Each line of what this writes is one CodeSystem or ValueSet in FHIR's own form, `url` first, with
what evaluation needs and no prose. Code systems of others than HL7 stay out, and of the value sets
the lists of codes of systems whose owners license them: such an include says in `withheld` how
many codes it had.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Json = Any
ROOT = Path(__file__).resolve().parent.parent

HL7 = ("http://hl7.org/fhir/", "http://terminology.hl7.org/", "http://cds-hooks.hl7.org/")
# Lists of their codes are not ours to hand on.
LICENSED = (
    "http://snomed.info/sct",
    "http://loinc.org",
    "http://www.ada.org/",
    "http://ada.org/",
    "http://www.ama-assn.org/",
    "http://nucc.org/",
    "http://hl7.org/fhir/sid/icd-",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
)
KEPT_PROPERTIES = ("notSelectable", "abstract", "status", "inactive", "parent", "child")


def read_lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def compact_concept(concept: Json) -> Json:
    kept = {key: concept[key] for key in ("code", "display") if key in concept}
    properties = [row for row in concept.get("property", []) if row["code"] in KEPT_PROPERTIES]
    if properties:
        kept["property"] = properties
    if "concept" in concept:
        kept["concept"] = [compact_concept(child) for child in concept["concept"]]
    return kept


def compact_code_system(resource: Json) -> Json:
    keys = ("url", "version", "name", "title", "status", "caseSensitive", "valueSet")
    kept = {key: resource[key] for key in keys if key in resource}
    kept |= {key: resource[key] for key in ("content", "supplements") if key in resource}
    if "concept" in resource:
        kept["concept"] = [compact_concept(concept) for concept in resource["concept"]]
    return kept


def compact_include(include: Json, displays: dict[str, dict[str, str]], ours: bool) -> Json:
    kept = {key: include[key] for key in ("system", "version", "filter") if key in include}
    if "valueSet" in include:
        kept["valueSet"] = include["valueSet"]
    concepts = include.get("concept", [])
    if concepts and include["system"].startswith(LICENSED) and not ours:
        return kept | {"withheld": len(concepts)}
    own = displays.get(include.get("system", ""), {})
    rows = [
        {
            key: concept[key]
            for key in ("code", "display")
            if key in concept
            and not (key == "display" and own.get(concept["code"]) == concept[key])
        }
        for concept in concepts
    ]
    return kept | ({"concept": rows} if rows else {})


def compact_value_set(resource: Json, displays: dict[str, dict[str, str]], ours: bool) -> Json:
    keys = ("url", "version", "name", "title", "status")
    kept = {key: resource[key] for key in keys if key in resource}
    compose = resource.get("compose", {})
    kept["compose"] = {
        key: [compact_include(include, displays, ours) for include in compose[key]]
        for key in ("include", "exclude")
        if compose.get(key)
    }
    if "inactive" in compose:
        kept["compose"]["inactive"] = compose["inactive"]
    return kept


def displays_of(concepts: Iterable[Json]) -> dict[str, str]:
    found: dict[str, str] = {}
    for concept in concepts:
        if "display" in concept:
            found[concept["code"]] = concept["display"]
        found |= displays_of(concept.get("concept", []))
    return found


def derive(
    code_systems: list[Json], value_sets: list[Json], *, ours: bool = False
) -> dict[str, list[Json]]:
    """File name -> the definitions of that file, in the order of their URLs.

    Of `ours` every code is one that the server writes, and so are those of licensed systems.
    """
    systems = [
        compact_code_system(resource)
        for resource in code_systems
        if resource["resourceType"] == "CodeSystem" and (ours or resource["url"].startswith(HL7))
    ]
    displays = {system["url"]: displays_of(system.get("concept", [])) for system in systems}
    sets = [
        compact_value_set(resource, displays, ours)
        for resource in value_sets
        if resource["resourceType"] == "ValueSet"
    ]
    return {
        "code-systems": sorted(systems, key=lambda row: row["url"]),
        "value-sets": sorted(sets, key=lambda row: row["url"]),
    }


def packed(rows: list[Json]) -> bytes:
    """The bytes of a table: one definition a line."""
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    return gzip.compress("".join(lines).encode(), 9, mtime=0)


def derive_r4(source: Path) -> dict[str, list[Json]]:
    return derive(
        read_lines(source / "code-systems.ndjson.gz"), read_lines(source / "value-sets.ndjson.gz")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared/fhir/r4")
    parser.add_argument("--target", type=Path, default=ROOT / "profiles/r4")
    arguments = parser.parse_args()
    for name, rows in derive_r4(arguments.source).items():
        content = packed(rows)
        (arguments.target / f"{name}.ndjson.gz").write_bytes(content)
        print(f"{name}: {len(rows)} definitions, {len(content):,} bytes")


if __name__ == "__main__":
    main()
