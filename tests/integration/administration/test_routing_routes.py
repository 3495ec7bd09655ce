"""Routing rules and destinations over /api/v1: made, changed by who has seen them, forgotten."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from .conftest import Office, assert_problem

WEB = {"url": "https://pacs.example.org/dicom-web"}
# Path, how one is made, what is changed of it.
KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/routing-destinations", WEB, {**WEB, "active": False}),
    ("/routing-rules", {"web_destination": "base"}, {"web_destination": "base", "enabled": False}),
]


@pytest.fixture(scope="module", autouse=True)
def base(office: Office) -> None:
    office.operator.post("/routing-destinations", json={"name": "base", **WEB})


@pytest.mark.parametrize(("path", "terms", "changed"), KINDS, ids=[kind[0] for kind in KINDS])
def test_what_has_a_name_is_made_changed_and_forgotten(
    office: Office, path: str, terms: dict[str, Any], changed: dict[str, Any]
) -> None:
    door, one = office.operator, f"{path}/first"

    def names() -> list[str]:
        return [item["name"] for item in door.get(path).json()["items"] if item["name"] != "base"]

    def change(match: str) -> httpx.Response:
        return door.put(one, json=changed, headers={"If-Match": match})

    assert_problem(door.get(one), 404)
    made = door.post(path, json={"name": "first", **terms})
    door.post(path, json={"name": "second", **terms})
    assert (made.status_code, names()) == (201, ["first", "second"])
    assert door.get(one).headers["etag"] == made.headers["etag"]
    assert "first" in assert_problem(door.post(path, json={"name": "first", **terms}), 409)

    assert_problem(door.put(one, json=changed), 428)
    replaced = change(made.headers["etag"])
    assert replaced.json() == door.get(one).json() != made.json()
    assert_problem(change(made.headers["etag"]), 412)
    assert_problem(door.put(f"{path}/third", json=changed, headers={"If-Match": "*"}), 404)

    assert door.delete(one).json() == replaced.json()
    assert_problem(door.delete(one), 404)
    assert names() == ["second"]


def test_pages_of_rules_go_on_after_the_last_name(office: Office) -> None:
    for name in ("c", "a", "b"):
        office.operator.post("/routing-destinations", json={"name": name, **WEB})

    first = office.operator.get("/routing-destinations", params={"limit": 2}).json()
    rest = office.operator.get(
        "/routing-destinations", params={"limit": 2, "after": first["next"]}
    ).json()

    assert [item["name"] for item in first["items"]] == ["a", "b"]
    assert [item["name"] for item in rest["items"]][:2] == ["base", "c"]


@pytest.mark.parametrize("path", [kind[0] for kind in KINDS])
def test_each_call_is_one_audit_row(office: Office, path: str) -> None:
    door = office.operator

    assert office.rows_of(lambda: door.get(path), 1) == 1
    assert office.rows_of(lambda: door.get(f"{path}/none"), 1) == 1
    assert office.rows_of(lambda: door.delete(f"{path}/none"), 1) == 1
