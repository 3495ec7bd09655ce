"""Derive profiles/r4/ from the official FHIR R4 (4.0.1) definitions, prose left out.

    .venv/bin/python tools/derive_fhir_definitions.py --source ../shared/fhir/r4

The server loads what this writes at start-up and never needs the official files. `derive` is
pure, so that a test can prove that the tables in the repository are what it makes.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

Json = Any
ROOT = Path(__file__).resolve().parent.parent
SPECIFICATION = "http://hl7.org/fhir/StructureDefinition/"
FHIRPATH_STRING = "http://hl7.org/fhirpath/System.String"


def read(path: Path) -> Json:
    return json.loads(gzip.decompress(path.read_bytes()))


def read_lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def is_base_definition(definition: Json) -> bool:
    """Resources and data types themselves, not profiles of them nor logical models."""
    return definition.get("derivation") != "constraint" and definition["kind"] != "logical"


def code_systems(value_sets: list[Json]) -> dict[str, str]:
    """The one code system that a value set draws from, which is what a bare `code` means."""
    systems = {}
    for value_set in value_sets:
        if value_set["resourceType"] != "ValueSet":
            continue
        included = {part.get("system") for part in value_set.get("compose", {}).get("include", [])}
        if len(included) == 1 and None not in included:
            systems[value_set["url"]] = included.pop()
    return systems


def element_row(element: Json) -> list[Json]:
    """[types, min, max, reference targets, required value set] of one element.

    An element defined by reference (Questionnaire.item.item) names the path it repeats as its type.
    """
    targets: set[str] = set()
    types: list[str] = []
    if "contentReference" in element:
        types = [element["contentReference"].removeprefix("#")]
    for declared in element.get("type", []):
        code = declared["code"]
        if code.startswith("http://hl7.org/fhirpath/"):
            code = "string" if code == FHIRPATH_STRING else code.rsplit(".", 1)[1].lower()
        if code in ("BackboneElement", "Element") and "." in element["path"]:
            code = element["path"]
        types.append(code)
        if code == "Reference":
            profiles = declared.get("targetProfile", [])
            targets |= {url.removeprefix(SPECIFICATION) for url in profiles}
    targets.discard("Resource")
    binding = element.get("binding", {})
    required = binding.get("valueSet") if binding.get("strength") == "required" else None
    row: list[Json] = [types, element["min"], element["max"], sorted(targets), required]
    while row[-1] in (None, []):
        row.pop()
    return row


def elements_of(definition: Json) -> dict[str, dict[str, Json]]:
    """The element rows of a definition and of each backbone element inside, by type name."""
    tables: dict[str, dict[str, Json]] = {definition["type"]: {}}
    for element in definition["snapshot"]["element"][1:]:
        owner, _, name = element["path"].rpartition(".")
        row = element_row(element)
        if name == "id" and owner == definition["type"] and definition["kind"] == "resource":
            row[0] = ["id"]  # R4 declares it as a string and describes it as an id
        tables.setdefault(owner, {})[name] = row
    return tables


def summaries_of(definition: Json) -> dict[str, list[str]]:
    """The names of the elements of each type that belong to its summary (search.html#summary)."""
    found: dict[str, list[str]] = {}
    for element in definition["snapshot"]["element"][1:]:
        owner, _, name = element["path"].rpartition(".")
        if element.get("isSummary"):
            found.setdefault(owner, []).append(name.removesuffix("[x]"))
    return found


def derive_elements(definitions: list[Json], value_sets: list[Json]) -> Json:
    summaries: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    types: dict[str, Json] = {}
    for definition in definitions:
        name = definition["type"]
        if not is_base_definition(definition) or name in kinds:
            continue
        abstract = definition["abstract"] and definition["kind"] == "resource"
        kinds[name] = "abstract" if abstract else definition["kind"]
        if definition["kind"] != "primitive-type":
            types |= elements_of(definition)
            summaries |= summaries_of(definition)
    # The specializations of Quantity carry the type Quantity in their definition.
    for definition in definitions:
        if definition["kind"] == "complex-type" and definition["id"] not in kinds:
            kinds[definition["id"]] = "complex-type"
            types[definition["id"]] = types[definition["type"]]
            summaries[definition["id"]] = summaries[definition["type"]]
    bound = {row[4].split("|")[0] for table in types.values() for row in table.values() if row[4:]}
    systems = code_systems(value_sets)
    return {
        "kinds": dict(sorted(kinds.items())),
        "types": dict(sorted(types.items())),
        "summaries": dict(sorted(summaries.items())),
        "systems": {url: systems[url] for url in sorted(bound) if url in systems},
    }


def derive_invariants(definitions: list[Json]) -> Json:
    """{path: [[key, severity, expression, rule in words]]} for the rules stated at that path."""
    rules: dict[str, list[Json]] = {}
    for definition in definitions:
        if not is_base_definition(definition) and definition["id"] not in QUANTITY_PROFILES:
            continue
        for element in definition["snapshot"]["element"]:
            own = [
                [c["key"], c["severity"], c["expression"], c["human"]]
                for c in element.get("constraint", [])
                if "expression" in c and c.get("source") in (None, definition["url"])
            ]
            path = element["path"]
            if definition["id"] in QUANTITY_PROFILES:
                path = path.replace("Quantity", definition["id"], 1)
            if own:
                rules[path] = own
    return dict(sorted(rules.items()))


QUANTITY_PROFILES = ("SimpleQuantity", "MoneyQuantity")


def derive_bindings(definitions: list[Json]) -> Json:
    """{element: its required or extensible value set, and the profile of Quantity it takes}."""
    asked: dict[str, Json] = {}
    for definition in definitions:
        if not is_base_definition(definition):
            continue
        for element in definition["snapshot"]["element"]:
            row = {}
            binding = element.get("binding", {})
            if binding.get("strength") in ("required", "extensible") and "valueSet" in binding:
                row[binding["strength"]] = binding["valueSet"]
            for type_ in element.get("type", []):
                for url in type_.get("profile", []):
                    if url.removeprefix(SPECIFICATION) in QUANTITY_PROFILES:
                        row["profile"] = url.removeprefix(SPECIFICATION)
            if row:
                asked[element["path"].removesuffix("[x]")] = row
    return dict(sorted(asked.items()))


def derive_search_parameters(bundle: Json) -> Json:
    kept = ("url", "code", "type", "base", "expression", "target", "comparator", "modifier")
    parameters = []
    for resource in (entry["resource"] for entry in bundle["entry"]):
        row = {key: resource[key] for key in kept if key in resource}
        if "component" in resource:
            row["component"] = [
                [component["definition"], component["expression"]]
                for component in resource["component"]
            ]
        parameters.append(row)
    return sorted(parameters, key=lambda row: (row["code"], row["url"]))


def derive_compartment(definition: Json) -> Json:
    return {row["code"]: row["param"] for row in definition["resource"] if row.get("param")}


def without_descriptions(node: Json) -> Json:
    """The JSON Schema with the keyword `description` left out and properties of that name kept."""
    if isinstance(node, list):
        return [without_descriptions(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: (
            {name: without_descriptions(schema) for name, schema in value.items()}
            if key in ("properties", "definitions")
            else without_descriptions(value)
        )
        for key, value in node.items()
        if not (key == "description" and isinstance(value, str))
    }


def derive(source: Path) -> dict[str, Json]:
    """File name -> content of everything under profiles/r4."""
    definitions = read_lines(source / "structure-definitions.ndjson.gz")
    return {
        "elements.json.gz": derive_elements(
            definitions, read_lines(source / "value-sets.ndjson.gz")
        ),
        "invariants.json.gz": derive_invariants(definitions),
        "bindings.json.gz": derive_bindings(definitions),
        "search-parameters.json.gz": derive_search_parameters(
            read(source / "search-parameters.json.gz")
        ),
        "compartment-patient.json.gz": derive_compartment(
            read(source / "compartmentdefinition-patient.json.gz")
        ),
        "fhir.schema.json.gz": without_descriptions(read(source / "fhir.schema.json.gz")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared/fhir/r4")
    parser.add_argument("--target", type=Path, default=ROOT / "profiles/r4")
    arguments = parser.parse_args()
    arguments.target.mkdir(parents=True, exist_ok=True)
    for name, content in derive(arguments.source).items():
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        packed = gzip.compress(text.encode(), 9, mtime=0)
        (arguments.target / name).write_bytes(packed)
        print(f"{name}: {len(text):,} characters, {len(packed):,} bytes")


if __name__ == "__main__":
    main()
