"""Profiles and value sets that a tenant has stored, beside those of the server.

Looked up on an open transaction, each URL once. What the server brings cannot be overlaid: a
tenant's profile has a URL of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from interop.access import Caller, Filter, Way
from interop.fhir import json
from interop.fhir.lens import Connection
from interop.fhir.search.criteria import matching_ids
from interop.fhir.terminology import terminology
from interop.fhir.terminology.tenant import tenant_terminology
from interop.fhir.validation.bindings import Codes, server_codes
from interop.fhir.validation.library import Definition, ProfileLibrary, library
from storage import resources

RESOURCE_TYPE = "StructureDefinition"
# URLs that one request may look up, and definitions of one URL that are looked at.
MOST_LOOKUPS = 200
MOST_VERSIONS = 20
# A tenant's rules hold for everybody who writes, who may read them or not.
WHOLE_TENANT = Filter((Way(),))
_ANY = (
    "SELECT EXISTS (SELECT FROM fhir_resources WHERE tenant_id = %s AND resource_type = %s"
    " AND NOT deleted)"
)


class StoredProfiles(Mapping[str, Definition]):
    """StructureDefinitions by URL: of those that `filter_` admits, the active and newest one."""

    def __init__(
        self, connection: Connection, caller: Caller, own_base: str, filter_: Filter
    ) -> None:
        self._connection = connection
        self._caller = caller
        self._own_base = own_base
        self._filter = filter_
        self._found: dict[str, Definition | None] = {}
        self._are_any: bool | None = None

    def __getitem__(self, url: str) -> Definition:
        found = self._lookup(url)
        if found is None:
            raise KeyError(url)
        return found

    def __iter__(self) -> Iterator[str]:
        return (url for url, found in self._found.items() if found is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _lookup(self, url: str) -> Definition | None:
        if url not in self._found:
            if len(self._found) >= MOST_LOOKUPS or not self._has_any():
                return None
            self._found[url] = max(self._stored(url), key=_precedence, default=None)
        return self._found[url]

    def _has_any(self) -> bool:
        if self._are_any is None:
            row = self._connection.execute(_ANY, (self._caller.tenant.id, RESOURCE_TYPE)).fetchone()
            self._are_any = bool(row and row[0] and self._filter.ways)
        return self._are_any

    def _stored(self, url: str) -> list[Definition]:
        escaped = url.replace("\\", "\\\\")
        for sign in ",|$":
            escaped = escaped.replace(sign, "\\" + sign)
        ids = matching_ids(
            self._connection,
            self._caller,
            self._filter,
            RESOURCE_TYPE,
            urlencode({"url": escaped}),
            MOST_VERSIONS,
            own_base=self._own_base,
        )
        if not ids:
            return []
        bodies = resources.bodies(self._connection, self._caller.tenant.id, RESOURCE_TYPE, ids)
        return [json.loads(body.encode()) for body in bodies]


def _precedence(definition: Definition) -> tuple[bool, str]:
    meta: dict[str, Any] = definition.get("meta", {})
    return definition.get("status") == "active", str(meta.get("lastUpdated", ""))


def stored_library(
    connection: Connection, caller: Caller, own_base: str, filter_: Filter = WHOLE_TENANT
) -> ProfileLibrary:
    """The server's profiles, and those that the tenant has stored."""
    return library().with_own(StoredProfiles(connection, caller, own_base, filter_))


class _StoredCodes(Codes):
    """A tenant's value sets, for those that the server does not bring."""

    def __init__(self, connection: Connection, caller: Caller, own_base: str) -> None:
        super().__init__(tenant_terminology(connection, caller, own_base))

    def contains(self, url: str, system: str | None, code: str) -> bool | None:
        known = terminology()
        if known.value_set(url) or known.value_set(url.partition("|")[0]):
            return server_codes().contains(url, system, code)
        return super().contains(url, system, code)


def stored_codes(connection: Connection, caller: Caller, own_base: str) -> Codes:
    """The server's value sets, and those that the tenant has stored and the caller may read."""
    return _StoredCodes(connection, caller, own_base)
