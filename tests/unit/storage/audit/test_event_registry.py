"""Every event type that the source writes is one of the registry (storage.audit_events)."""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.audit_events import DICOM_EVENTS, EVENT_TYPES, INTERACTION, REST

ROOT = Path(__file__).parents[4]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# Calls whose argument at this place is an event type.
CALLS = {"system_audit": 1, "audit_parameters": 1, "record": 2, "reading": 2}
NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|LOGOUT")
FAMILY = re.compile(
    r"(FHIR|IMAGING|DICOM|IMAGES?|LOGIN|LOGOUT|TOKEN|ACCESS|EMERGENCY|AUDIT_LOG|CONFIG|CLIENT|APP"
    r"|LAUNCH|TENANT|JOBS|QUARANTINE|AI_MODEL)_[A-Z_]+"
)
# Names of the same shape that are something else: columns' values, permissions, failure codes.
OTHERS = {
    "AI_DIAGNOSTICS", "AI_ANALYSIS", "AI_INFERENCES", "DICOM_JSON", "ACCESS_TOKEN",
    "CLIENT_REQUEST", "CLIENT_SECRET", "CLIENT_CREDENTIALS", "IMAGE_STUDY", "TENANT_DELETION",
    "TENANT_FEATURE", "TENANT_GRANT", "TENANT_SUBSCRIPTION", "IMAGING_STUDY", "EMERGENCY_CONTACT",
}  # fmt: skip


def written_types(path: Path) -> Iterator[str]:
    """The event types that a module passes to the log."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = CALLS.get(name)
            given = [keyword.value for keyword in node.keywords if keyword.arg == "event_type"]
            if place is not None and len(node.args) > place:
                given.append(node.args[place])
            for value in given:
                yield from texts(value, constants)


def texts(node: ast.expr, constants: dict[str, ast.expr]) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body, constants)
        yield from texts(node.orelse, constants)
    elif isinstance(node, ast.Name) and node.id in constants:
        yield from texts(constants[node.id], {})


def test_the_walk_sees_what_is_written() -> None:
    found = {name for path in SOURCES for name in written_types(path)}

    assert {"FHIR_READ", "DICOM_INSTANCE_REFUSED", "IMAGE_ANALYZED", "ACCESS_DENIED"} <= found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_type_that_a_module_writes_is_registered(path: Path) -> None:
    names = {name for name in written_types(path) if NAME.fullmatch(name)}

    assert names - set(EVENT_TYPES) == set()


def test_every_text_that_looks_like_an_event_is_registered() -> None:
    """What reaches the log by a variable is found by its name."""
    found: dict[str, str] = {}
    for path in SOURCES:
        if "schema" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and FAMILY.fullmatch(node.value):
                found[node.value] = str(path.relative_to(ROOT))

    assert {k: v for k, v in found.items() if k not in EVENT_TYPES and k not in OTHERS} == {}


@pytest.mark.parametrize("code", sorted(EVENT_TYPES))
def test_every_type_has_codes_that_exist(code: str) -> None:
    kind = EVENT_TYPES[code]

    assert kind.dicom in DICOM_EVENTS
    assert (kind.type == REST) == (kind.interaction is not None)
    if kind.interaction is not None and kind.interaction != "search":
        assert kind.subtypes[0] == (INTERACTION, kind.interaction, kind.interaction)
        assert kind.interaction in interactions()


def interactions() -> set[str]:
    """The codes of http://hl7.org/fhir/restful-interaction."""
    systems = ROOT.parent / "shared/fhir/r4/code-systems.ndjson.gz"
    if not systems.exists():
        pytest.skip("shared/fhir is not here")
    with gzip.open(systems, "rt", encoding="utf-8") as lines:
        for line in lines:
            system = json.loads(line)
            if system.get("url") == INTERACTION:
                found: set[str] = set()
                todo = list(system["concept"])
                while todo:
                    concept = todo.pop()
                    found.add(concept["code"])
                    todo += concept.get("concept", [])
                return found
    raise AssertionError(f"{INTERACTION} is not among the code systems of R4")
