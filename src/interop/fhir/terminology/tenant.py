"""A tenant's stored CodeSystems and ValueSets over those that come with the server.

Seen by one caller on their open transaction: what the policy does not show them does not exist for
their terminology either.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlencode

from interop.access import Caller, decide
from interop.fhir import json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.search.criteria import matching_ids
from interop.fhir.terminology.code_system import CodeSystem, code_system
from interop.fhir.terminology.evaluation import NotExpandable, Terminology
from interop.fhir.terminology.packages import terminology
from interop.fhir.terminology.value_set import ValueSet, value_set
from storage import resources

T = TypeVar("T", CodeSystem, ValueSet)

# Definitions of one URL that are looked at, and URLs that one question may look up.
MOST_VERSIONS = 50
MOST_LOOKUPS = 200


class TenantSource:
    """Definitions by URL from the read model; each URL is looked up once."""

    def __init__(self, connection: Connection, caller: Caller, own_base: str) -> None:
        self._connection = connection
        self._caller = caller
        self._own_base = own_base
        self._found: dict[tuple[str, str], list[JsonObject]] = {}

    def code_system(self, url: str, version: str) -> CodeSystem | None:
        return self._best("CodeSystem", url, version, code_system)

    def value_set(self, url: str, version: str) -> ValueSet | None:
        return self._best("ValueSet", url, version, value_set)

    def by_id(self, resource_type: str, resource_id: str) -> JsonObject | None:
        """The definition of an id, where there is one and the caller may see it."""
        found = self._stored(resource_type, {"_id": resource_id})
        return found[0] if found else None

    def _best(
        self, resource_type: str, url: str, version: str, parse: Callable[[JsonObject], T]
    ) -> T | None:
        key = (resource_type, url)
        if key not in self._found:
            if len(self._found) >= MOST_LOOKUPS:
                raise NotExpandable(
                    "too-costly", f"more than {MOST_LOOKUPS} definitions are needed"
                )
            self._found[key] = self._stored(resource_type, {"url": url})
        candidates = [one for one in self._found[key] if version in ("", one.get("version", ""))]
        return parse(max(candidates, key=_precedence)) if candidates else None

    def _stored(self, resource_type: str, wanted: dict[str, str]) -> list[JsonObject]:
        filter_ = decide(self._caller, "r", resource_type).filter
        if not filter_.ways:
            return []
        # In a search value a comma is an or, a dollar or a bar divides (search.html#escaping).
        escaped = {name: re.sub(r"([\\,|$])", r"\\\1", text) for name, text in wanted.items()}
        ids = matching_ids(
            self._connection,
            self._caller,
            filter_,
            resource_type,
            urlencode(escaped),
            MOST_VERSIONS,
            own_base=self._own_base,
        )
        if not ids:
            return []
        found = resources.bodies(self._connection, self._caller.tenant.id, resource_type, ids)
        return [json.loads(body.encode()) for body in found]


def tenant_terminology(connection: Connection, caller: Caller, own_base: str) -> Terminology:
    """What comes with the server, and over it what the caller's tenant has stored."""
    return terminology().beneath(TenantSource(connection, caller, own_base))


def _precedence(resource: JsonObject) -> tuple[bool, list[tuple[int, str]], str]:
    """Of several versions counts the active one, the highest, the latest."""
    version = str(resource.get("version", ""))
    parts = [(int(p), "") if p.isdigit() else (-1, p) for p in version.split(".")]
    updated = str(resource.get("meta", {}).get("lastUpdated", ""))
    return resource.get("status") == "active", parts, updated
