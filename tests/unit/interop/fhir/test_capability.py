"""The CapabilityStatement says what is served, and the copy in conformance/ says the same."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path

import pytest

from interop.fhir import gate, json
from interop.fhir.capability import INTERACTIONS, capability_statement, instance_statement
from interop.fhir.definitions import definitions
from interop.fhir.router import BASE, routes
from interop.fhir.search.extraction import COLUMN_PARAMETERS, extractors
from interop.fhir.search.full_text import FULL_TEXT

ROOT = Path(__file__).parents[4]


def test_the_copy_is_what_the_code_says() -> None:
    script = ROOT / "tools/write_capability_statement.py"
    spec = importlib.util.spec_from_file_location("write_capability_statement", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    copy = (ROOT / "conformance/capability-statement.json").read_text(encoding="utf-8")

    assert copy == module.text(), "run tools/write_capability_statement.py"
    assert json.loads(copy.encode()) == capability_statement()


def test_it_passes_the_gate() -> None:
    body = instance_statement().body("http://x.test/t/demo/fhir/R4")

    gate.check(json.loads(body), "CapabilityStatement")


@pytest.mark.parametrize("base", ["http://x.test/t/demo/fhir/R4", 'http://x.test/t/"a\\/fhir/R4'])
def test_it_says_the_address_under_which_it_was_asked(base: str) -> None:
    statement = json.loads(instance_statement().body(base))

    assert statement == capability_statement(base)


def test_its_tag_differs_by_address() -> None:
    tags = {instance_statement().etag(f"http://x.test/t/{name}/fhir/R4") for name in "ab"}

    assert len(tags) == 2


def test_asking_under_many_addresses_keeps_nothing() -> None:
    """Names of tenants are not checked here: each kept 600 KB, for whoever has no token."""
    statement = instance_statement()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    for number in range(50):
        statement = instance_statement()
        statement.etag(f"http://x.test/t/t{number}/fhir/R4")
        statement.body(f"http://x.test/t/t{number}/fhir/R4")

    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < 100_000


def test_every_parameter_it_names_is_indexed() -> None:
    (rest,) = capability_statement()["rest"]
    common = {parameter["name"] for parameter in rest["searchParam"]}

    assert {one["type"] for one in rest["resource"]} == definitions().resource_types
    for one in rest["resource"]:
        named = {parameter["name"] for parameter in one.get("searchParam", [])} | common
        indexed = {e.parameter.code for e in extractors(one["type"])}
        indexed |= {*COLUMN_PARAMETERS, *FULL_TEXT}
        if one["type"] == "AuditEvent":
            # Served from the log itself, which has no search rows.
            assert named < indexed
            continue
        assert named == indexed, one["type"]


def test_every_interaction_it_names_has_a_route() -> None:
    served = {
        (route.path.removeprefix(BASE), method)
        for route in routes()
        for method in route.methods or ()
    }
    urls = {
        "read": ("/{resource_type}/{resource_id}", "GET"),
        "vread": ("/{resource_type}/{resource_id}/_history/{version_id}", "GET"),
        "update": ("/{resource_type}/{resource_id}", "PUT"),
        "patch": ("/{resource_type}/{resource_id}", "PATCH"),
        "delete": ("/{resource_type}/{resource_id}", "DELETE"),
        "history-type": ("/{resource_type}/_history", "GET"),
        "history-instance": ("/{resource_type}/{resource_id}/_history", "GET"),
        "create": ("/{resource_type}", "POST"),
        "search-type": ("/{resource_type}", "GET"),
    }

    assert set(urls) == set(INTERACTIONS)
    assert set(urls.values()) <= served
