"""Every official R4 example: stored, served digit for digit, found by all it says, deleted."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from interop.fhir import json
from interop.fhir.search.extraction import extract
from interop.fhir.search.values import EARLIEST, LATEST

EXAMPLES = Path(__file__).parents[4] / "shared/fhir/examples"
FHIR_JSON = {"Content-Type": "application/fhir+json"}

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no official examples at hand")


def examples() -> list[Any]:
    found = []
    for path in sorted(EXAMPLES.glob("*.json")) if EXAMPLES.is_dir() else []:
        resource = json.loads(path.read_bytes())
        # The server alone makes an AuditEvent (docs/audit.md).
        if resource.get("resourceType") not in (None, "AuditEvent"):
            found.append(pytest.param(resource, id=path.stem))
    return found


def without_server_fields(resource: dict[str, Any]) -> bytes:
    meta = {
        k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")
    }
    rest = {k: v for k, v in resource.items() if k not in ("id", "meta")}
    return json.dumps({**rest, **({"meta": meta} if meta else {})})


def escaped(text: str) -> str:
    for character in "\\,|$":
        text = text.replace(character, "\\" + character)
    return text


def queries(  # noqa: PLR0912
    resource: dict[str, Any],
) -> list[tuple[str, str]]:
    """A search for each search row of a resource: (parameter, value)."""
    rows = extract(resource).tables
    found: list[tuple[str, str]] = []
    for parameter, _, _, system, code in rows["token"]:
        if "." not in parameter and ":" not in parameter and code:
            found.append(
                (parameter, f"{escaped(system)}|{escaped(code)}" if system else escaped(code))
            )
    for parameter, _, _, value, exact in rows["string"]:
        if parameter.endswith(":text"):
            found.append((parameter, escaped(value)))
        elif parameter != "phonetic":
            found.append((f"{parameter}:exact", escaped(exact)))
            found.append((parameter, escaped(exact[:40])))
            found.append((f"{parameter}:contains", escaped(exact[1:12] or exact)))
    for parameter, _, _, type_, id_, url, version, *_ in rows["reference"]:
        value = f"{type_}/{id_}" if id_ else url
        if value and "." not in parameter:
            found.append((parameter, escaped(value) + (f"|{version}" if version else "")))
    for parameter, _, _, low, high in rows["date"]:
        if "." not in parameter and low != EARLIEST and high != LATEST:
            found.append((parameter, f"ge{low.isoformat()[:19]}Z"))
            found.append((parameter, f"lt{(high + timedelta(seconds=1)).isoformat()[:19]}Z"))
    for parameter, _, _, low, _, system, code, *_ in rows["quantity"]:
        if "." not in parameter and abs(low) < 1e300:
            found.append((parameter, f"ge{low!r}|{escaped(system)}|{escaped(code)}"))
    for parameter, _, _, low, _ in rows["number"]:
        if "." not in parameter:
            found.append((parameter, f"le{low!r}"))
    for parameter, _, _, value in rows["uri"]:
        found.append((parameter, escaped(value)))
    return found


@pytest.mark.parametrize("resource", examples())
def test_example_is_kept_whole_and_found(fhir: httpx.Client, resource: dict[str, Any]) -> None:
    resource_type = resource["resourceType"]

    created = fhir.post(f"/{resource_type}", content=json.dumps(resource), headers=FHIR_JSON)

    assert created.status_code == 201, created.text
    stored = json.loads(created.content)
    assert without_server_fields(stored) == without_server_fields(resource)
    url = f"/{resource_type}/{stored['id']}"
    assert fhir.get(url).content == created.content
    for name, value in queries(stored):
        page = fhir.get(f"/{resource_type}", params={name: value, "_id": stored["id"]})
        assert page.status_code == 200, (name, value, page.text)
        found = [entry["resource"]["id"] for entry in page.json().get("entry", [])]
        assert found == [stored["id"]], (name, value)
    updated = fhir.put(url, content=created.content, headers=FHIR_JSON)
    assert updated.status_code == 200, updated.text
    assert without_server_fields(json.loads(updated.content)) == without_server_fields(resource)
    assert fhir.delete(url).status_code == 204
    assert fhir.get(url).status_code == 410
    page = fhir.get(f"/{resource_type}", params={"_id": stored["id"]})
    assert "entry" not in page.json()
