"""Bundles of search results and history, put together from stored bytes without reading them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interop.fhir.versions import etag, instant
from storage import resources


@dataclass(frozen=True, slots=True)
class Entry:
    """A resource in a page of search results."""

    mode: str  # match, include
    resource_type: str
    resource_id: str
    body: str


def searchset(
    own_base: str, entries: Sequence[Entry], links: Iterable[tuple[str, str]], total: int | None
) -> bytes:
    """A Bundle of type searchset (FHIR R4 search.html, bundle.html)."""
    listed = ",".join(
        f'{{"fullUrl":"{own_base}/{entry.resource_type}/{entry.resource_id}",'
        f'"resource":{entry.body},"search":{{"mode":"{entry.mode}"}}}}'
        for entry in entries
    )
    return _bundle("searchset", links, total, listed)


def history(
    own_base: str,
    resource_type: str,
    resource_id: str,
    versions: Iterable[resources.Version],
    links: Iterable[tuple[str, str]],
    total: int | None,
) -> bytes:
    """A Bundle of type history, newest first (FHIR R4 http.html#history)."""
    reference = f"{resource_type}/{resource_id}"
    entries: list[str] = []
    for version in versions:
        request = {"method": version.method, "url": reference}
        if version.method == "POST":
            request["url"] = resource_type
        response = {
            "status": {"POST": "201", "DELETE": "204"}.get(version.method, "200"),
            "etag": etag(version.version),
            "lastModified": instant(version.last_updated),
        }
        resource = f'"resource":{version.body},' if version.body else ""
        entries.append(
            f'{{"fullUrl":"{own_base}/{reference}",{resource}'
            f'"request":{_text(request)},"response":{_text(response)}}}'
        )
    return _bundle("history", links, total, ",".join(entries))


def _bundle(type_: str, links: Iterable[tuple[str, str]], total: int | None, entries: str) -> bytes:
    head: dict[str, object] = {"resourceType": "Bundle", "type": type_}
    if total is not None:
        head["total"] = total
    head["link"] = [{"relation": relation, "url": url} for relation, url in links]
    text = _text(head)
    # json.html: an array is never empty, so a Bundle without results has no entry.
    return (f'{text[:-1]},"entry":[{entries}]}}' if entries else text).encode()


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
