"""Create, update and delete: one transaction for rows, bytes, history, search rows and audit.

Blocking; the router runs these in threads. FHIR R4 http.html#create, #update, #delete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg import errors

from interop.access import Caller, Filter
from interop.access.audit import audit_parameters, is_audit_failure, mark_audited
from interop.errors import Conflict, PreconditionFailed, Unavailable, Unprocessable
from interop.fhir import json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.references import local_references
from interop.fhir.rendering import render_resource
from interop.fhir.row_writing import RowWriter, resolve_waiting
from interop.fhir.search.extraction import MAX_ROWS, SearchRows, extract
from interop.fhir.sensitive import blinding
from interop.fhir.versions import Version, next_time, stamped
from interop.fhir.write_bounds import WriteBounds, unresolved
from storage import resources
from storage.database import Database
from storage.encryption import EncryptionError
from storage.resources import Stored

logger = logging.getLogger(__name__)

ATTEMPTS = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Precondition:
    """If-Match and If-None-Match of a write. `version` None: any."""

    version: int | None = None
    must_be_new: bool = False

    def check(self, stored: Stored | None) -> None:
        """Raise PreconditionFailed unless the stored version is what the client expects."""
        exists = stored is not None and not stored.deleted
        if self.must_be_new and exists:
            raise PreconditionFailed("If-None-Match: * and the resource exists")
        if self.version is None:
            return
        if not exists or stored is None:
            raise PreconditionFailed(f'If-Match: W/"{self.version}" and there is no such resource')
        if stored.version != self.version:
            raise PreconditionFailed(
                f'If-Match: W/"{self.version}" and the current version is W/"{stored.version}"'
            )


class Writer:
    """Writes of one caller to what the policy's `filter_` admits, before and after the write.

    `own_base` is the tenant's FHIR base URL.
    """

    def __init__(self, database: Database, caller: Caller, own_base: str, filter_: Filter) -> None:
        self._database = database
        self._caller = caller
        self._own_base = own_base
        self._tenant_id = caller.tenant.id
        self._bounds = WriteBounds(caller, own_base, filter_)

    def create(self, resource: JsonObject) -> Version:
        """Store a new resource under an id of ours. It passed the gate."""
        resource_type = str(resource["resourceType"])

        def attempt(connection: Connection, now: datetime) -> Version:
            key = (resource_type, str(uuid4()))
            return self._put(connection, now, key, resource, None, "POST", "FHIR_CREATE")

        return self._in_transaction(attempt)

    def update(self, resource_id: str, resource: JsonObject, precondition: Precondition) -> Version:
        """Store a new version under the client's id, or create it (update as create)."""
        resource_type = str(resource["resourceType"])

        def attempt(connection: Connection, now: datetime) -> Version:
            before = self._current(connection, resource_type, resource_id)
            before = self._bounds.seen(connection, (resource_type, resource_id), before)
            precondition.check(before)
            self._bounds.require_existing(before)
            key = (resource_type, resource_id)
            event = "FHIR_UPDATE" if before and not before.deleted else "FHIR_CREATE"
            return self._put(connection, now, key, resource, before, "PUT", event)

        return self._in_transaction(attempt)

    def delete(
        self, resource_type: str, resource_id: str, precondition: Precondition
    ) -> Version | None:
        """Mark a resource deleted; None when there was nothing to delete."""

        def attempt(connection: Connection, now: datetime) -> Version | None:
            before = self._current(connection, resource_type, resource_id)
            before = self._bounds.seen(connection, (resource_type, resource_id), before)
            precondition.check(before)
            self._audit(connection, "FHIR_DELETE", resource_type, resource_id)
            if before is None or before.deleted:
                return None
            key = (resource_type, resource_id)
            self._rows(connection).delete(key, before)
            moment = next_time(now, before.last_updated)
            version = Version(resource_type, resource_id, before.version + 1, moment, None)
            self._store(connection, version, before.row_id, "DELETE", SearchRows())
            return version

        return self._in_transaction(attempt)

    # -- one write ----------------------------------------------------------------------

    def _put(
        self,
        connection: Connection,
        now: datetime,
        key: tuple[str, str],
        resource: JsonObject,
        before: Stored | None,
        method: str,
        event: str,
    ) -> Version:
        number = before.version + 1 if before else 1
        moment = next_time(now, before.last_updated if before else None)
        whole = stamped(resource, key[1], number, moment)
        self._check_references(connection, whole)
        self._bounds.check(connection, whole, before.row_id if before else None)
        rows = self._rows(connection)
        row_id = rows.write(key, whole, before)
        whole = rows.overlaid(key, whole, row_id)
        is_new = before is None or before.deleted
        self._bounds.settle(connection, whole, row_id, is_new=is_new)
        self._bounds.check_rows(connection, whole, row_id)
        version = Version(*key, number, moment, json.dumps(whole), is_new)
        blind = blinding(connection, self._tenant_id)
        search_rows = extract(whole, self._own_base, limit=MAX_ROWS, blind=blind)
        self._store(connection, version, row_id, method, search_rows)
        self._audit(connection, event, *key)
        resolve_waiting(rows, version.reference)
        return version

    def _rows(self, connection: Connection) -> RowWriter:
        return RowWriter(connection, self._tenant_id, self._caller.actor_name, self._own_base)

    def _current(
        self, connection: Connection, resource_type: str, resource_id: str
    ) -> Stored | None:
        """The current version, locked, and what its rows say now rendered into it."""
        key = (self._tenant_id, resource_type, resource_id)
        before = resources.current(connection, *key)
        if before is None or before.deleted:
            # Two clients may create the same id at once: the second waits, and then finds it. And
            # whoever begins to wait for this resource holds its name until we can see them wait.
            resources.lock_name(connection, self._tenant_id, f"{resource_type}/{resource_id}")
            before = resources.current(connection, *key)
        if before is not None and before.stale:
            self._render(connection, resource_type, resource_id, before)
            before = resources.current(connection, *key)
        return before

    def _render(
        self, connection: Connection, resource_type: str, resource_id: str, before: Stored
    ) -> None:
        """Raises Conflict where the rows cannot be shown: nobody has seen what would be lost."""
        try:
            with connection.transaction():
                key = (self._tenant_id, resource_type, resource_id)
                render_resource(connection, *key, before, self._own_base)
        except (psycopg.OperationalError, EncryptionError):  # deadlocks among the former
            raise
        except Exception as error:
            reference = f"{resource_type}/{resource_id}"
            logger.exception("row_not_presentable", extra={"reference": reference})
            raise Conflict(
                f"the record behind {reference} was changed to what no resource can hold; it can "
                "be written again when an operator has corrected it"
            ) from error

    def _check_references(self, connection: Connection, resource: JsonObject) -> None:
        references = set(local_references(resource, self._own_base))
        references.discard(f"{resource['resourceType']}/{resource['id']}")
        if not references or not resources.requires_resolution(connection, self._tenant_id):
            return
        if unknown := resources.missing(connection, self._tenant_id, references):
            raise unresolved(unknown)

    def _store(
        self,
        connection: Connection,
        version: Version,
        row_id: UUID | None,
        method: str,
        search_rows: SearchRows,
    ) -> None:
        resources.store(
            connection,
            self._tenant_id,
            version.resource_type,
            version.resource_id,
            row_id=row_id,
            version=version.version,
            last_updated=version.last_updated,
            method=method,
            body=version.body,
            search_rows=search_rows.as_json(),
            is_sensitive=search_rows.is_sensitive,
        )

    def _audit(
        self, connection: Connection, event: str, resource_type: str, resource_id: str
    ) -> None:
        audit = audit_parameters(self._caller, event, resource_type, resource_id)
        connection.execute(
            resources.AUDIT_WRITE,
            (self._tenant_id, resource_type, resource_id, resources.json_text(audit)),
        )

    # -- the transaction around it ------------------------------------------------------

    def _in_transaction(self, attempt: Callable[[Connection, datetime], T]) -> T:
        """Run a write, again where the database asks for it (deadlock, a race for one key)."""
        for left in reversed(range(ATTEMPTS)):
            try:
                with self._database.connection(self._tenant_id) as connection:
                    now = resources.begin_write(connection, self._caller.actor_name)
                    written = attempt(connection, now)
                mark_audited()
                return written
            except (errors.DeadlockDetected, errors.SerializationFailure) as error:
                logger.info("write_retried", extra={"reason": type(error).__name__, "left": left})
            except psycopg.Error as error:
                raise translated(error) from error
        raise Unavailable("too many writes to the same resources at once; try again")


def translated(error: psycopg.Error) -> Exception:
    """What a refusal of the database means to the client; other errors stay what they are."""
    if is_audit_failure(error):
        return Unavailable("the audit log cannot be written; nothing was done")
    rule = error.diag.constraint_name or error.diag.column_name or ""
    if isinstance(error, errors.UniqueViolation):
        return Conflict(f"another record holds the same key ({rule})")
    if isinstance(error, errors.ForeignKeyViolation):
        return Conflict(f"other records refer to this one, or it refers to none ({rule})")
    if isinstance(error, errors.IntegrityError | errors.DataError):
        return Unprocessable(f"the record cannot hold this value ({rule or 'see the data model'})")
    if isinstance(error, errors.QueryCanceled | psycopg.OperationalError):
        return Unavailable("the database did not answer in time; try again")
    return error
