"""Bundles of search results and history, put together from stored bytes without reading them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interop.fhir.versions import etag, instant
from storage import histories


@dataclass(frozen=True, slots=True)
class Entry:
    """A resource in a page of search results."""

    mode: str  # match, include
    resource_type: str
    resource_id: str
    body: str


def searchset(
    own_base: str,
    entries: Sequence[Entry],
    links: Iterable[tuple[str, str]],
    total: int | None,
    outcome: bytes | None = None,
) -> bytes:
    """A Bundle of type searchset, with an `outcome` about the search last (FHIR R4 search.html)."""
    listed = [
        f'{{"fullUrl":"{own_base}/{entry.resource_type}/{entry.resource_id}",'
        f'"resource":{entry.body},"search":{{"mode":"{entry.mode}"}}}}'
        for entry in entries
    ]
    if outcome is not None:
        listed.append(f'{{"resource":{outcome.decode()},"search":{{"mode":"outcome"}}}}')
    return _bundle("searchset", links, total, ",".join(listed))


def history(
    own_base: str,
    entries: Iterable[histories.Entry],
    links: Iterable[tuple[str, str]],
    total: int | None,
) -> bytes:
    """A Bundle of type history (FHIR R4 http.html#history)."""
    return _bundle("history", links, total, ",".join(_version(own_base, one) for one in entries))


def _version(own_base: str, entry: histories.Entry) -> str:
    """A version with the request that made it, or the equivalent of a changed row."""
    version, reference = entry.version, f"{entry.resource_type}/{entry.resource_id}"
    url = entry.resource_type if version.method == "POST" else reference
    status = "204" if version.method == "DELETE" else "201" if version.version == 1 else "200"
    response = {
        "status": status,
        "etag": etag(version.version),
        "lastModified": instant(version.last_updated),
    }
    resource = f'"resource":{version.body},' if version.body else ""
    request = _text({"method": version.method, "url": url})
    return (
        f'{{"fullUrl":"{own_base}/{reference}",{resource}'
        f'"request":{request},"response":{_text(response)}}}'
    )


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
