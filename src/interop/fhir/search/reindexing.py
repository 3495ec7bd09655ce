"""The job that writes the search rows of what a tenant has defined, and removes those it dropped.

Small transactions, each of which notes where it has come to: a job that dies is followed by one
that goes on there. Resources are locked while their rows are written, so that nobody's newer rows
are replaced by older ones; what is written meanwhile has its rows already.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from psycopg import errors

from interop.fhir import json
from interop.fhir.search import custom
from interop.fhir.search.extraction import Indexing, extract, extract_only
from interop.fhir.sensitive import blinding
from storage import search_definitions, search_rows
from storage import search_parameters as stored
from storage.database import Connection, Database
from storage.search_definitions import BUILDING, DROPPING, EVERYTHING, Definition
from storage.search_rows import Indexed

logger = logging.getLogger(__name__)

# Whoever changes one of these resources waits for the batch.
BATCH = 100
ATTEMPTS = 5


def reindex(database: Database, tenant_id: UUID, own_base: str | None) -> int:
    """Do all that is to be done for a tenant. Returns how many resources were indexed.

    `own_base` is the tenant's FHIR base URL. Raises what keeps a resource from being read; the next
    job goes on there.
    """
    indexed = 0
    while True:
        with database.connection(tenant_id) as connection:
            task = stored.next_task(connection, tenant_id)
        if task is None:
            return indexed
        _remove(database, tenant_id, task)
        if task.status == BUILDING:
            indexed += _Building(database, tenant_id, task, own_base).run()
        elif task.status == DROPPING:
            with database.connection(tenant_id) as connection:
                stored.finish(connection, tenant_id, task)
        logger.info("search_parameter_done", extra={"definition_id": task.definition_id})


def _remove(database: Database, tenant_id: UUID, task: Definition) -> None:
    """Remove the rows that a parameter has; not of one whose building goes on."""
    if task.position or task.definition_id == EVERYTHING:
        return
    names = custom.row_names(custom.parameter_of(task))
    types = custom.bases_of(task.definition)
    removed = 1
    while removed:
        with database.connection(tenant_id) as connection:
            removed = stored.remove_rows(connection, tenant_id, types, names)


class _Superseded(Exception):
    """The parameter was defined anew, or dropped; another turn of the job sees to that."""


class _Building:
    """The building of one parameter's index, or of everything that is indexed."""

    def __init__(
        self, database: Database, tenant_id: UUID, task: Definition, own_base: str | None
    ) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._task = task
        self._own_base = own_base
        self._types = custom.bases_of(task.definition)
        self._names = custom.row_names(custom.parameter_of(task))
        self._done = task.done
        self._total = task.total

    def run(self) -> int:
        """Index all resources from where it stands; returns how many."""
        before = self._done
        type_, _, after = self._task.position.partition("/")
        if not type_:
            with self._database.connection(self._tenant_id) as connection:
                self._total = stored.count(connection, self._tenant_id, self._types)
        first = self._types.index(type_) if type_ in self._types else 0
        try:
            for resource_type in self._types[first:]:
                position: str | None = after if resource_type == type_ else ""
                while position is not None:
                    position = self._batch(resource_type, position)
        except _Superseded:
            return self._done - before
        with self._database.connection(self._tenant_id) as connection:
            stored.finish(connection, self._tenant_id, self._task)
        return self._done - before

    def _batch(self, resource_type: str, after: str) -> str | None:
        """Index the next resources of a type; the last one's id, None where there are no more."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return self._try_batch(resource_type, after)
            except (errors.DeadlockDetected, errors.SerializationFailure):
                search_definitions.forget(self._tenant_id)
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _try_batch(self, resource_type: str, after: str) -> str | None:
        with self._database.connection(self._tenant_id) as connection:
            found = stored.lock_after(connection, self._tenant_id, resource_type, after, BATCH)
            if not found:
                return None
            self._write(connection, resource_type, found)
            done, position = self._done + len(found), f"{resource_type}/{found[-1][0]}"
            if not stored.advance(
                connection, self._tenant_id, self._task, position, done, max(self._total, done)
            ):
                raise _Superseded
        self._done = done
        return found[-1][0]

    def _write(
        self, connection: Connection, resource_type: str, found: Sequence[tuple[str, str]]
    ) -> None:
        is_everything = self._task.definition_id == EVERYTHING
        indexing = custom.indexing_by(search_definitions.read(connection, self._tenant_id))
        indexed = [
            Indexed(resource_type, id_, self._rows(connection, body, indexing), is_everything)
            for id_, body in found
        ]
        if not is_everything:
            ids = [resource_id for resource_id, _ in found]
            stored.remove_rows_of(connection, self._tenant_id, resource_type, ids, self._names)
        search_rows.write(connection, self._tenant_id, indexed)

    def _rows(
        self, connection: Connection, body: str, indexing: Indexing | None
    ) -> dict[str, object]:
        resource = json.loads(body.encode())
        blind = blinding(connection, self._tenant_id)
        if self._task.definition_id == EVERYTHING:
            rows = extract(resource, self._own_base, blind=blind, indexing=indexing)
            return rows.as_json()
        parameter = custom.parameter_of(self._task)
        extractor = custom.extractor_of(parameter, resource["resourceType"])
        rows = extract_only(extractor, resource, self._own_base, blind=blind)
        rows.epoch = indexing.epoch if indexing else 0
        return rows.as_json()
