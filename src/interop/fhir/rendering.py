"""Rendering: resources whose rows changed outside the lenses become new versions.

A trigger marks them stale; the next reader renders them before it answers, and a worker does so
within a second (design.md 1). Nothing that was acknowledged is ever invisible.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from interop.fhir import json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.row_writing import RowWriter, lenses, resolve_waiting
from interop.fhir.search.extraction import extract
from interop.fhir.versions import is_same_content, next_time, stamped
from storage import resources
from storage.database import Database
from storage.resources import Stored

logger = logging.getLogger(__name__)

ACTOR = "server"
# Small transactions: whoever changes one of these rows waits for the batch.
BATCH = 50


def render_stale(
    database: Database,
    tenant_id: UUID,
    types: Sequence[str] | None = None,
    limit: int | None = None,
    own_base: str | None = None,
) -> int:
    """Render the stale resources of `types` (all when None), at most `limit`. Returns how many."""
    rendered = 0
    if types is None:
        with database.connection(tenant_id) as connection:
            types = resources.stale_types(connection, tenant_id)
    for resource_type in types:
        while limit is None or rendered < limit:
            size = BATCH if limit is None else min(BATCH, limit - rendered)
            done = _render_batch(database, tenant_id, resource_type, size, None, own_base)
            rendered += done
            if done < size:
                break
    return rendered


def render_one(
    database: Database,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    own_base: str | None = None,
) -> None:
    """Render one resource, if it is stale."""
    _render_batch(database, tenant_id, resource_type, 1, resource_id, own_base)


def _render_batch(
    database: Database,
    tenant_id: UUID,
    resource_type: str,
    limit: int,
    resource_id: str | None,
    own_base: str | None,
) -> int:
    with database.connection(tenant_id) as connection:
        resources.begin_write(connection, ACTOR)
        found = resources.lock_stale(connection, tenant_id, resource_type, limit, resource_id)
        for stale_id, stored in found:
            render_resource(connection, tenant_id, resource_type, stale_id, stored, own_base)
    return len(found)


def render_resource(
    connection: Connection,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    stored: Stored,
    own_base: str | None,
) -> None:
    """Make the version that a stale resource's rows now say. The resource is locked."""
    key = (resource_type, resource_id)
    lens = lenses(own_base).get(resource_type)
    if lens is None or stored.row_id is None:
        resources.mark_fresh(connection, tenant_id, *key)
        return
    before = json.loads(stored.body.encode()) if stored.body else None
    presented = lens.present(connection, tenant_id, stored.row_id, before)
    now = resources.begin_write(connection, ACTOR)
    if presented is None:
        if stored.version == 0:
            resources.drop_stub(connection, tenant_id, *key)
        elif stored.deleted:
            resources.mark_fresh(connection, tenant_id, *key)
        else:
            _store(connection, tenant_id, key, stored, now, None, own_base)
    elif before is not None and is_same_content(before, presented):
        resources.mark_fresh(connection, tenant_id, *key)
    else:
        _store(connection, tenant_id, key, stored, now, presented, own_base)
        if stored.version == 0 or stored.deleted:
            resolve_waiting(RowWriter(connection, tenant_id, ACTOR, own_base), f"{key[0]}/{key[1]}")


def _store(
    connection: Connection,
    tenant_id: UUID,
    key: tuple[str, str],
    stored: Stored,
    now: datetime,
    presented: JsonObject | None,
    own_base: str | None,
) -> None:
    version = stored.version + 1
    moment = next_time(now, stored.last_updated if stored.version else None)
    body, search_rows = None, {}
    if presented is not None:
        whole = stamped({**presented, "resourceType": key[0]}, key[1], version, moment)
        body = json.dumps(whole)
        search_rows = extract(whole, own_base).as_json()
    resources.store(
        connection,
        tenant_id,
        *key,
        row_id=stored.row_id,
        version=version,
        last_updated=moment,
        method="DELETE" if body is None else ("PUT" if stored.version else "POST"),
        body=body,
        search_rows=search_rows,
    )
