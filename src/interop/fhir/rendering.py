"""Rendering: resources whose rows changed outside the lenses become new versions.

A trigger marks them stale; the next reader renders them before it answers, and a worker does so
within a second (design.md 1). Nothing that was acknowledged is ever invisible.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg import errors

from interop.fhir import json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.row_writing import RowWriter, lenses, resolve_waiting
from interop.fhir.search import custom
from interop.fhir.search.extraction import SearchRows, extract
from interop.fhir.sensitive import blinding
from interop.fhir.versions import is_same_content, next_time, stamped
from storage import resources
from storage.acting import as_server
from storage.blocking_statements import savepoint
from storage.database import Database
from storage.encryption import KeysUnavailable
from storage.resources import Stored

logger = logging.getLogger(__name__)

ACTOR = "server"
# Small transactions: whoever changes one of these rows waits for the batch.
BATCH = 50
ATTEMPTS = 5


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
        batch = _Batch(database, tenant_id, resource_type, own_base)
        while limit is None or rendered < limit:
            size = BATCH if limit is None else min(BATCH, limit - rendered)
            found, done = batch.render(size)
            rendered += done
            if found < size:
                break
    return rendered


def render_stale_within(
    connection: Connection, tenant_id: UUID, types: Sequence[str], own_base: str | None = None
) -> None:
    """Render the stale resources of `types` in the open transaction, whose actor stays who it was.

    For what must see, and lock, everything in one transaction. One that cannot be presented is left
    as it was.
    """
    stale = sorted(set(types) & set(resources.stale_types(connection, tenant_id)))
    if not stale:
        return
    with as_server(connection):
        for resource_type in stale:
            after = ""
            while found := resources.lock_stale(
                connection, tenant_id, resource_type, BATCH, after=after
            ):
                for stale_id, stored in found:
                    render_apart(connection, tenant_id, resource_type, stale_id, stored, own_base)
                after = found[-1][0]


def render_one(
    database: Database,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    own_base: str | None = None,
) -> None:
    """Render one resource, if it is stale."""
    _Batch(database, tenant_id, resource_type, own_base).render(1, resource_id)


class _Batch:
    """Walks the stale resources of one type, a small transaction at a time."""

    def __init__(
        self, database: Database, tenant_id: UUID, resource_type: str, own_base: str | None
    ) -> None:
        self._database = database
        self._key = (tenant_id, resource_type)
        self._own_base = own_base
        self._after = ""

    def render(self, size: int, resource_id: str | None = None) -> tuple[int, int]:
        """How many were found, and how many of them could be rendered."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return self._render(size, resource_id)
            except (errors.DeadlockDetected, errors.SerializationFailure):
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _render(self, size: int, resource_id: str | None) -> tuple[int, int]:
        with self._database.connection(self._key[0]) as connection:
            resources.begin_write(connection, ACTOR)
            found = resources.lock_stale(
                connection, *self._key, size, after=self._after, resource_id=resource_id
            )
            done = sum(render_apart(connection, *self._key, *one, self._own_base) for one in found)
        if found:
            self._after = found[-1][0]
        return len(found), done


def render_apart(
    connection: Connection,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    stored: Stored,
    own_base: str | None,
) -> bool:
    """Render one; a row that cannot be presented must not hide the others of its type."""
    try:
        with savepoint(connection):
            render_resource(connection, tenant_id, resource_type, resource_id, stored, own_base)
    except psycopg.OperationalError:  # deadlocks among them
        raise
    except KeysUnavailable:
        logger.warning("row_waits_for_keys", extra={"resource_type": resource_type})
        return False
    except Exception:
        logger.exception(
            "row_not_presentable",
            extra={"resource_type": resource_type, "resource_id": resource_id},
        )
        return False
    return True


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
    body = resources.opened(connection, tenant_id, *key, stored).body
    before = json.loads(body.encode()) if body else None
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
        reference = f"{resource_type}/{resource_id}"
        if stored.version == 0 or stored.deleted:
            # Whoever begins to wait for it holds its name until we can see them wait.
            resources.lock_name(connection, tenant_id, reference)
        resolve_waiting(RowWriter(connection, tenant_id, ACTOR, own_base), reference)


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
    body, rows = None, SearchRows()
    if presented is not None:
        whole = stamped({**presented, "resourceType": key[0]}, key[1], version, moment)
        body = json.dumps(whole)
        rows = extract(
            whole,
            own_base,
            blind=blinding(connection, tenant_id),
            indexing=custom.indexing(connection, tenant_id),
        )
    resources.store(
        connection,
        tenant_id,
        resources.NewVersion(
            *key,
            row_id=stored.row_id,
            version=version,
            last_updated=moment,
            method="DELETE" if body is None else ("PUT" if stored.version else "POST"),
            body=body,
            search_rows=rows.as_json(),
            is_sensitive=rows.is_sensitive,
        ),
    )
