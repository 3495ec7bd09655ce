"""Our own definitions (profiles/dental-interop) as resources of every tenant, read-only.

StructureDefinitions, value sets, code systems and search parameters are found where a tenant's own
are: by read, history and search, within its policy. They come into a tenant when somebody there
first asks for a resource of their types, and a new release of them becomes new versions, so that a
tenant that asks for none holds none. What is current, the ImplementationGuide says: its meta.source
has the digest of all.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json as standard_json
import logging
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from interop.errors import Forbidden
from interop.fhir import json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.search import custom
from interop.fhir.search.extraction import Indexing, extract
from interop.fhir.versions import is_same_content, next_time, stamped
from interop.r4_tables import profiles_directory
from storage import resources, search_definitions
from storage.acting import as_server
from storage.database import Database
from storage.resources import NewVersion, Stored

logger = logging.getLogger(__name__)

Key = tuple[str, str]
FOLDER = "dental-interop"
GUIDE: Key = ("ImplementationGuide", "dental-interop")
GUIDE_URL = "urn:dental-interop:ImplementationGuide"
SOURCE = "urn:dental-interop:package#"
ACTOR = "server"
# Tenants that this process knows to be supplied.
REMEMBERED = 100_000
_SUPPLIED: WeakKeyDictionary[Database, set[UUID]] = WeakKeyDictionary()


@cache
def keys() -> frozenset[Key]:
    """The (type, id) of everything that is published."""
    named = (path.stem.partition("-") for path in _paths())
    return frozenset((resource_type, resource_id) for resource_type, _, resource_id in named)


@cache
def types() -> frozenset[str]:
    return frozenset(resource_type for resource_type, _ in keys())


@cache
def source() -> str:
    """The meta.source that the guide of this release has."""
    digest = hashlib.sha256()
    for path in _paths():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return SOURCE + digest.hexdigest()[:32]


@cache
def profiles_by_type() -> dict[str, tuple[str, ...]]:
    """Resource type -> the profiles of it that the server validates, but for those of R4 itself."""
    found: dict[str, list[str]] = {}
    for path in sorted(profiles_directory().glob("*/profiles.ndjson.gz")):
        if path.parent.name == "r4":
            continue
        for row in _lines(path):
            if row["kind"] == "resource":
                found.setdefault(row["type"], []).append(row["url"])
    return {resource_type: tuple(sorted(urls)) for resource_type, urls in found.items()}


def refuse_change(key: Key) -> None:
    """Raise Forbidden for what is published: it is the same in every tenant."""
    if key in keys():
        raise Forbidden(
            f"{key[0]}/{key[1]} comes with the server and cannot be changed; store your own "
            "definition under another id and url"
        )


async def provide(database: Database, tenant_id: UUID, asked: Iterable[str], own_base: str) -> None:
    """See that the tenant has what is published, where a type that is asked for is one of it."""
    if types().isdisjoint(asked) or tenant_id in _SUPPLIED.get(database, ()):
        return
    await asyncio.to_thread(supply, database, tenant_id, own_base)


def supply(database: Database, tenant_id: UUID, own_base: str) -> int:
    """Bring the tenant's copies up to this release; returns how many versions that took."""
    with database.connection(tenant_id) as connection:
        resources.lock_name(connection, tenant_id, f"{GUIDE[0]}/{GUIDE[1]}")
        before = resources.bodies(connection, tenant_id, GUIDE[0], [GUIDE[1]])
        guide = json.loads(before[0].encode()) if before else {}
        made = 0
        if guide.get("meta", {}).get("source") != source():
            with as_server(connection):
                made = _store(connection, tenant_id, guide, own_base)
    supplied = _SUPPLIED.setdefault(database, set())
    if len(supplied) >= REMEMBERED:
        supplied.clear()
    supplied.add(tenant_id)
    if made:
        logger.info("definitions_supplied", extra={"tenant_id": str(tenant_id), "versions": made})
    return made


def _store(connection: Connection, tenant_id: UUID, guide: JsonObject, own_base: str) -> int:
    """Store what differs from what is there, and delete what an earlier release had more."""
    now = resources.begin_write(connection, ACTOR)
    wanted = {_key_of(resource): resource for resource in map(_loaded, _paths())}
    outdated = _listed(guide) - wanted.keys()
    found = resources.current_many(connection, tenant_id, sorted(wanted.keys() | outdated))
    indexing = custom.indexing_by(search_definitions.read(connection, tenant_id))
    versions: list[NewVersion] = []
    for key, resource in wanted.items():
        stored = found.get(key)
        if stored is not None and not stored.deleted:
            if is_same_content(json.loads(stored.body.encode()), resource):
                continue
        versions.append(_version(key, stored, now, resource, own_base, indexing))
    for key in outdated & found.keys():
        if not found[key].deleted:
            versions.append(_version(key, found[key], now, None, own_base, None))
    resources.store(connection, tenant_id, *versions)
    return len(versions)


def _version(
    key: Key,
    stored: Stored | None,
    now: datetime,
    resource: JsonObject | None,
    own_base: str,
    indexing: Indexing | None,
) -> NewVersion:
    number = stored.version + 1 if stored else 1
    moment = next_time(now, stored.last_updated if stored else None)
    body, rows = None, {}
    if resource is not None:
        whole = stamped(resource, key[1], number, moment)
        body = json.dumps(whole)
        rows = extract(whole, own_base, indexing=indexing).as_json()
    method = "DELETE" if body is None else ("PUT" if stored else "POST")
    return NewVersion(*key, None, number, moment, method, body, rows)


def _listed(guide: JsonObject) -> set[Key]:
    """What the guide of an earlier release lists."""
    rows = guide.get("definition", {}).get("resource", [])
    parts = (str(row["reference"].get("reference", "")).partition("/") for row in rows)
    return {(resource_type, resource_id) for resource_type, _, resource_id in parts}


def _paths() -> list[Path]:
    return sorted((profiles_directory() / FOLDER).glob("*.json"))


def _loaded(path: Path) -> JsonObject:
    resource = json.loads(path.read_bytes())
    if _key_of(resource) == GUIDE:
        resource = {**resource, "meta": {"source": source()}}
    return resource


def _key_of(resource: JsonObject) -> Key:
    return str(resource["resourceType"]), str(resource["id"])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [standard_json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
