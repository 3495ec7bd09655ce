"""Histories of resources, types and everything: order, pages, moments (R4 http.html#history)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

Outcome = Callable[..., dict[str, Any]]
Version = tuple[str, int]
FHIR_JSON = {"Content-Type": "application/fhir+json"}


def put(fhir: httpx.Client, reference: str, text: str) -> str:
    """Store a version; returns its time."""
    type_, _, id_ = reference.partition("/")
    body = {"resourceType": type_, "id": id_, "code": {"text": text}}
    if type_ == "Flag":
        body |= {"status": "active", "subject": {"reference": f"Group/{id_}"}}
    written = fhir.put(f"/{reference}", json=body, headers=FHIR_JSON)
    assert written.status_code in (200, 201), written.text
    time: str = written.json()["meta"]["lastUpdated"]
    return time


@pytest.fixture(scope="module")
def story(fhir: httpx.Client) -> list[tuple[Version, str]]:
    """What was written in this order, with its time; Basic/b was deleted and made again."""
    written: list[tuple[Version, str]] = []
    for name, number in (("Basic/a", 1), ("Basic/b", 1), ("Flag/f", 1), ("Basic/a", 2)):
        written.append(((name, number), put(fhir, name, f"{name} {number}")))
    assert fhir.delete("/Basic/b").status_code == 204
    gone = fhir.get("/Basic/b/_history").json()["entry"][0]["response"]
    written.append((("Basic/b", 2), gone["lastModified"]))
    for name, number in (("Basic/b", 3), ("Basic/a", 3)):
        written.append(((name, number), put(fhir, name, f"{name} {number}")))
    return written


def versions(bundle: dict[str, Any]) -> list[Version]:
    found = []
    for entry in bundle.get("entry", []):
        number = int(entry["response"]["etag"].removeprefix('W/"').rstrip('"'))
        reference = "/".join(entry["fullUrl"].split("/")[-2:])
        if not reference.startswith(("Basic/", "Flag/")):
            continue  # what rows of the server stand for
        if "resource" in entry:
            meta = entry["resource"]["meta"]
            assert meta["versionId"] == str(number)
            assert meta["lastUpdated"] == entry["response"]["lastModified"]
        found.append((reference, number))
    return found


def pages(fhir: httpx.Client, url: str, **asked: str) -> Iterator[dict[str, Any]]:
    bundle = fhir.get(url, params=asked).json()
    while True:
        assert bundle["type"] == "history", bundle
        yield bundle
        links = {link["relation"]: link["url"] for link in bundle["link"]}
        assert urlsplit(links["self"]).path.endswith("/_history")
        if "next" not in links:
            return
        bundle = fhir.get(links["next"]).json()


def named(story: list[tuple[Version, str]], type_: str = "") -> list[Version]:
    """The versions of a type, newest first."""
    return [version for version, _ in reversed(story) if version[0].startswith(type_)]


def test_everything_newest_first(fhir: httpx.Client, story: list[tuple[Version, str]]) -> None:
    bundle = fhir.get("/_history").json()

    assert versions(bundle) == named(story)
    entries = [
        one for one in bundle["entry"] if "/Basic/" in one["fullUrl"] or "/Flag/" in one["fullUrl"]
    ]
    assert bundle["total"] == len(bundle["entry"])
    deleted = entries[2]
    assert deleted["request"] == {"method": "DELETE", "url": "Basic/b"}
    assert deleted["response"]["status"] == "204"
    assert "resource" not in deleted
    assert entries[-1]["request"] == {"method": "PUT", "url": "Basic/a"}
    assert entries[-1]["response"]["status"] == "201"


def test_a_type_and_a_resource(fhir: httpx.Client, story: list[tuple[Version, str]]) -> None:
    assert versions(fhir.get("/Basic/_history").json()) == named(story, "Basic")
    assert versions(fhir.get("/Flag/_history").json()) == [("Flag/f", 1)]
    assert fhir.get("/Account/_history").json()["total"] == 0
    one = fhir.get("/Basic/b/_history").json()
    assert versions(one) == [("Basic/b", 3), ("Basic/b", 2), ("Basic/b", 1)]
    assert one["total"] == 3


@pytest.mark.parametrize("url", ["/_history", "/Basic/_history", "/Basic/a/_history"])
@pytest.mark.parametrize("sort", ["-_lastUpdated", "_lastUpdated"])
def test_pages_hold_each_version_once(
    fhir: httpx.Client, story: list[tuple[Version, str]], url: str, sort: str
) -> None:
    whole = versions(fhir.get(url).json())

    found = [versions(page) for page in pages(fhir, url, _count="2", _sort=sort)]

    assert all(len(page) == 2 for page in found[:-1] if url != "/_history")
    listed = [version for page in found for version in page]
    assert listed == (whole if sort == "-_lastUpdated" else whole[::-1])


@pytest.mark.parametrize("url", ["/_history", "/Basic/_history", "/Basic/a/_history"])
def test_since_and_at_choose_moments(
    fhir: httpx.Client, story: list[tuple[Version, str]], url: str
) -> None:
    whole = versions(fhir.get(url).json())
    about = [(version, time) for version, time in story if version in whole]
    for _, moment in story:
        since = [version for version, time in reversed(about) if time >= moment]
        # Current at the moment: the last of each resource that was written up to it.
        current = {version[0]: version for version, time in about if time <= moment}

        found = fhir.get(url, params={"_since": moment}).json()
        at = fhir.get(url, params={"_at": moment}).json()

        assert versions(found) == since
        assert set(versions(at)) == set(current.values())
        assert f"_since={moment}" in found["link"][0]["url"]
    day = story[0][1][:10]
    assert versions(fhir.get(url, params={"_at": day}).json()) == whole
    assert versions(fhir.get(url, params={"_at": "2001"}).json()) == []
    later = (datetime.fromisoformat(story[-1][1]) + timedelta(days=1)).isoformat()
    assert versions(fhir.get(url, params={"_since": later}).json()) == []


def test_pages_stay_while_writes_go_on(fhir: httpx.Client) -> None:
    for number in range(9):
        put(fhir, f"Basic/page-{number}", "before")
    before = versions(fhir.get("/Basic/_history", params={"_count": "1000"}).json())
    done = threading.Event()

    def write() -> None:
        with httpx.Client(base_url=fhir.base_url, headers=fhir.headers, timeout=60) as other:
            while not done.is_set():
                put(other, "Basic/page-3", "meanwhile")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [v for page in pages(fhir, "/Basic/_history", _count="3") for v in versions(page)]
    finally:
        done.set()
        writer.join()

    assert len(found) == len(set(found))
    assert [version for version in found if version in before] == before


def test_counts(fhir: httpx.Client, story: list[tuple[Version, str]]) -> None:
    number = len(versions(fhir.get("/Basic/_history", params={"_count": "1000"}).json()))
    for asked in ({"_summary": "count"}, {"_count": "0"}):
        bundle = fhir.get("/Basic/_history", params=asked).json()
        assert bundle["total"] == number
        assert "entry" not in bundle
    page = fhir.get("/Basic/_history", params={"_count": "2", "_total": "accurate"}).json()
    assert page["total"] == number >= len(named(story, "Basic"))
    assert "total" not in fhir.get("/Basic/_history", params={"_count": "2"}).json()


@pytest.mark.parametrize(
    "query",
    [
        "_count=x", "_since=yesterday", "_at=", "_sort=name", "_total=yes", "_list=1", "code=x",
        "_cursor=x", "_cursor=WzEsMiwzLDRd", "_count=1&_count=2", "_summary=all",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(
    fhir: httpx.Client, assert_outcome: Outcome, query: str
) -> None:
    for url in ("/_history", "/Basic/_history", "/Basic/a/_history"):
        assert_outcome(fhir.get(f"{url}?{query}"), 400)


def test_what_is_not_there_has_no_history(fhir: httpx.Client, assert_outcome: Outcome) -> None:
    assert_outcome(fhir.get(f"/Basic/{uuid4()}/_history"), 404, "not-found")
    assert_outcome(fhir.get(f"/Basic/{uuid4()}/_history?_since=2020"), 404, "not-found")
    assert_outcome(fhir.get("/Nonsense/_history"), 404)
    assert_outcome(fhir.get("/AuditEvent/_history"), 405)


def test_other_tenants_have_another_history(
    other_fhir: httpx.Client, fhir: httpx.Client, story: list[tuple[Version, str]]
) -> None:
    cursor = fhir.get("/_history", params={"_count": "1"}).json()["link"][1]["url"]

    assert versions(other_fhir.get("/_history").json()) == []
    assert versions(other_fhir.get(f"/_history?{urlsplit(cursor).query}").json()) == []
    assert other_fhir.get("/Basic/a/_history").status_code == 404
