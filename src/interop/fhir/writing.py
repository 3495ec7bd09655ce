"""Create, update, patch, delete: one transaction for rows, bytes, history, search rows and audit.

Blocking; the router runs these in threads. A `WriteSession` does any number of writes in one
transaction and keeps versions back until they can be stored together. FHIR R4 http.html#create,
#update, #patch, #delete.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

import psycopg
from psycopg import errors

from interop.access import Caller, Letter, decide
from interop.access.audit import audit_parameters, is_audit_failure, mark_audited
from interop.errors import (
    BadRequest,
    Conflict,
    Gone,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unprocessable,
)
from interop.fhir import gate, json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.references import local_references
from interop.fhir.rendering import render_resource
from interop.fhir.row_writing import RowWriter, resolve_waiting
from interop.fhir.search import custom
from interop.fhir.search.extraction import MAX_ROWS, extract
from interop.fhir.sensitive import blinding
from interop.fhir.validation import Codes, ProfileLibrary, require_valid
from interop.fhir.validation.stored import stored_codes, stored_library
from interop.fhir.versions import Version, next_time, stamped
from interop.fhir.write_bounds import WriteBounds, unresolved
from storage import resources
from storage.blocking_statements import savepoint
from storage.database import Database
from storage.encryption import EncryptionError
from storage.places import is_elsewhere
from storage.resources import Begun, NewVersion, Stored

logger = logging.getLogger(__name__)

ATTEMPTS = 5
# Versions stored by one statement: few enough that none of them runs for long.
STORED_AT_ONCE = 200
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,18})"')
T = TypeVar("T")
Key = tuple[str, str]
Change = Callable[[JsonObject], JsonObject]


@dataclass(frozen=True, slots=True)
class Precondition:
    """If-Match and If-None-Match of a write. `version` None: any."""

    version: int | None = None
    must_be_new: bool = False

    @classmethod
    def of(cls, if_match: str | None, if_none_match: str | None) -> Precondition:
        """From the values of the headers. Raises BadRequest."""
        if if_none_match is not None and if_none_match.strip() != "*":
            raise BadRequest(f"If-None-Match: {if_none_match[:64]!r} on a write; accepted: *")
        must_be_new = if_none_match is not None
        if if_match is None:
            return cls(must_be_new=must_be_new)
        found = _ETAG.fullmatch(if_match.strip())
        if found is None:
            raise BadRequest(f'If-Match: {if_match[:64]!r}; expected W/"<version>" as ETag gave it')
        return cls(int(found[1]), must_be_new)

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


class WriteSession:
    """Writes of one caller in one open transaction, of what the policy admits before and after.

    `own_base` is the tenant's FHIR base URL. No resource may be written twice. What was written is
    stored with `flush`, the transaction is complete with `finish`, and ends with `commit`.
    """

    def __init__(self, connection: Connection, caller: Caller, own_base: str, begun: Begun) -> None:
        self.connection = connection
        self.caller = caller
        self.own_base = own_base
        self._tenant_id = caller.tenant.id
        self._begun = begun
        self._rows = RowWriter(
            connection,
            self._tenant_id,
            caller.actor_name,
            own_base,
            has_custom_fields=begun.has_custom_fields,
        )
        self._bounds: dict[tuple[Letter, str], WriteBounds] = {}
        self._known: dict[Key, Stored | None] = {}
        # Versions that are not stored yet, by their references, and those somebody may wait for.
        self._kept: dict[str, NewVersion] = {}
        self._expected: list[str] = []
        self._references: set[str] = set()
        self._profiles: ProfileLibrary | None = None
        self._codes: Codes | None = None
        # What SearchParameters of this transaction put in force, and out of it (None).
        self._definitions: dict[str, str | None] = {}

    # -- writes -------------------------------------------------------------------------

    def create(self, resource: JsonObject, resource_id: str | None = None) -> Version:
        """Store a new resource under an id of ours, one that nobody knows. It passed the gate."""
        resource_type = str(resource["resourceType"])
        key = (resource_type, resource_id or str(uuid4()))
        bounds = self._bounds_of("c", resource_type)
        return self._put(key, resource, None, bounds, "POST", "FHIR_CREATE")

    def update(self, resource_id: str, resource: JsonObject, precondition: Precondition) -> Version:
        """Store a new version under the client's id, or create it (update as create)."""
        resource_type = str(resource["resourceType"])
        bounds = self._bounds_of("u", resource_type)
        key = (resource_type, resource_id)
        before = bounds.seen(self.connection, key, self._current(key))
        self._check(precondition, before)
        bounds.require_existing(before)
        event = "FHIR_UPDATE" if before and not before.deleted else "FHIR_CREATE"
        return self._put(key, resource, before, bounds, "PUT", event)

    def patch(
        self,
        resource_type: str,
        resource_id: str,
        change: Change,
        precondition: Precondition,
        *,
        event: str = "FHIR_PATCH",
    ) -> Version:
        """Store what `change` makes of the current version; it passes the gate as any other.

        The id cannot be changed, and version and time are the server's, whatever the change says.
        Raises NotFound and Gone.
        """
        bounds = self._bounds_of("u", resource_type)
        key = (resource_type, resource_id)
        before = bounds.seen(self.connection, key, self._current(key))
        if before is None or before.version == 0:
            raise NotFound
        self._check(precondition, before)
        if before.deleted:
            raise Gone(f"{resource_type}/{resource_id} was deleted")
        changed = change(json.loads(before.body.encode()))
        gate.check(changed, resource_type)
        require_id(changed, resource_type, resource_id)
        return self._put(key, changed, before, bounds, "PUT", event)

    def delete(
        self, resource_type: str, resource_id: str, precondition: Precondition
    ) -> Version | None:
        """Mark a resource deleted; None when there was nothing to delete."""
        bounds = self._bounds_of("d", resource_type)
        key = (resource_type, resource_id)
        before = bounds.seen(self.connection, key, self._current(key))
        precondition.check(before)
        if before is None or before.deleted:
            self.note("FHIR_DELETE", *key)
            return None
        self._rows.delete(key, before)
        if resource_type == custom.RESOURCE_TYPE:
            self._definitions[resource_id] = None
        moment = next_time(self._begun.now, before.last_updated)
        version = Version(*key, before.version + 1, moment, None)
        audit = audit_parameters(self.caller, "FHIR_DELETE", *key)
        self._keep(
            NewVersion(
                *key, before.row_id, version.version, moment, "DELETE", None, {}, audit=audit
            )
        )
        return version

    def existing(self, resource_type: str, resource_id: str, event: str) -> Version:
        """The current version of a resource that a condition has found, audited as `event`."""
        key = (resource_type, resource_id)
        stored = self._current(key)
        if stored is None or stored.deleted:
            raise Conflict(f"{resource_type}/{resource_id} was deleted in this moment; try again")
        self.note(event, *key)
        return Version(*key, stored.version, stored.last_updated, stored.body.encode())

    def note(self, event: str, resource_type: str, resource_id: str | None = None) -> None:
        """Write the audit row of an interaction that changed nothing."""
        audit = audit_parameters(self.caller, event, resource_type, resource_id)
        self.connection.execute(
            resources.AUDIT_WRITE,
            (self._tenant_id, resource_type, resource_id, resources.json_text(audit)),
        )

    def lock_criteria(self, named: Iterable[str]) -> None:
        """Have whoever may create by the same criteria wait until the transaction ends."""
        resources.lock_criteria(self.connection, self._tenant_id, named)

    def prefetch(self, keys: Iterable[Key]) -> None:
        """Lock what will be written, in one order, and learn its current versions at once."""
        wanted = sorted(set(keys))
        if not wanted:
            return
        found = resources.current_many(self.connection, self._tenant_id, wanted)
        missing = [key for key in wanted if key not in found or found[key].deleted]
        if missing:
            resources.lock_names(self.connection, self._tenant_id, map("/".join, missing))
            found |= resources.current_many(self.connection, self._tenant_id, missing)
        self._known = {
            key: found.get(key) for key in wanted if key not in found or not found[key].stale
        }

    def flush(self) -> None:
        """Store what was kept back, and write the rows of what waited for it."""
        if self._kept:
            self._store()

    def finish(self) -> None:
        """Store what is left. Raises Unprocessable for references that the tenant forbids."""
        self.flush()
        if self._definitions:
            custom.define(self.connection, self._tenant_id, self._definitions)
        if self._references:
            if unknown := resources.missing(self.connection, self._tenant_id, self._references):
                raise unresolved(unknown)
            self._references.clear()

    def commit(self) -> None:
        """Finish and commit, in one round trip where storing what is left is all there is to do."""
        is_all = not (self._awaited() or self._definitions or self._references)
        if self._kept and is_all:
            self._store(commits=True)
        else:
            self.finish()
            self.connection.commit()

    def _store(self, *, commits: bool = False) -> None:
        awaited = self._awaited()
        kept, self._kept, self._expected = self._kept, {}, []
        for reference in resources.store(
            self.connection, self._tenant_id, *kept.values(), awaited=awaited, commits=commits
        ):
            resolve_waiting(self._rows, reference)

    def _awaited(self) -> list[str]:
        """Those of what was kept back that others may wait for.

        Nobody can wait for an id that we have just made, but for those of this transaction.
        """
        return list(self._kept) if self._rows.has_waited else self._expected

    # -- one write ----------------------------------------------------------------------

    def _bounds_of(self, letter: Letter, resource_type: str) -> WriteBounds:
        """The bounds of such a write. Raises Forbidden where nothing may be written so."""
        key = (letter, resource_type)
        if key not in self._bounds:
            filter_ = decide(self.caller, letter, resource_type).require()
            self._bounds[key] = WriteBounds(self.caller, self.own_base, filter_)
        return self._bounds[key]

    def _check(self, precondition: Precondition, before: Stored | None) -> None:
        precondition.check(before)
        if (
            self._begun.requires_if_match
            and before is not None
            and not before.deleted
            and precondition.version is None
        ):
            raise BadRequest(
                "this organization asks every change to name the version that it changes; send"
                ' If-Match: W/"<version>" (a read has it as ETag)'
            )

    def _put(
        self,
        key: Key,
        resource: JsonObject,
        before: Stored | None,
        bounds: WriteBounds,
        method: str,
        event: str,
    ) -> Version:
        connection = self.connection
        number = before.version + 1 if before else 1
        moment = next_time(self._begun.now, before.last_updated if before else None)
        whole = stamped(resource, key[1], number, moment)
        self._require_valid(whole)
        is_own_id = method == "POST"
        lens = self._rows.lens_of_new(whole) if is_own_id else self._rows.lens_of(key[0])
        self._follow_references(whole, asks_rows=lens is not None or not bounds.is_open)
        bounds.check(connection, whole, before.row_id if before else None)
        row_id = None
        if lens is not None:
            if is_own_id:
                row_id = self._rows.write_new(lens, key, whole)
            else:
                row_id = self._rows.write(lens, key, whole, before)
            whole = self._rows.overlaid(lens, whole, row_id)
        is_new = before is None or before.deleted
        bounds.settle(connection, whole, row_id, is_new=is_new)
        bounds.check_rows(connection, whole, row_id)
        version = Version(*key, number, moment, json.dumps(whole), is_new)
        blind = blinding(connection, self._tenant_id)
        indexing = custom.indexing(connection, self._tenant_id)
        rows = extract(whole, self.own_base, limit=MAX_ROWS, blind=blind, indexing=indexing)
        if key[0] == custom.RESOURCE_TYPE:
            self._definitions[key[1]] = custom.read(whole)
        audit = audit_parameters(self.caller, event, *key)
        if not is_own_id:
            self._expected.append(version.reference)
        self._keep(
            NewVersion(
                *key,
                row_id,
                number,
                moment,
                method,
                version.body,
                rows.as_json(),
                rows.is_sensitive,
                audit,
            )
        )
        return version

    def _require_valid(self, resource: JsonObject) -> None:
        """Have the resource be what the tenant asks for beyond its structure."""
        if self._begun.validation_level == "PROFILE" and self._profiles is None:
            about = (self.connection, self.caller, self.own_base)
            self._profiles, self._codes = stored_library(*about), stored_codes(*about)
        require_valid(resource, self._begun.validation_level, self._profiles, self._codes)

    def _keep(self, version: NewVersion) -> None:
        self._kept[f"{version.resource_type}/{version.resource_id}"] = version
        if len(self._kept) >= STORED_AT_ONCE:
            self.flush()

    def _follow_references(self, resource: JsonObject, *, asks_rows: bool) -> None:
        """Have what a resource refers to stored before it, and note what must exist in the end.

        `asks_rows`: what is stored is looked at for what it refers to.
        """
        if not (self._begun.requires_resolution or (self._kept and asks_rows)):
            return
        references = set(local_references(resource, self.own_base))
        references.discard(f"{resource['resourceType']}/{resource['id']}")
        if self._begun.requires_resolution:
            self._references |= references
        if asks_rows and not references.isdisjoint(self._kept):
            self.flush()

    def _current(self, key: Key) -> Stored | None:
        """The current version, locked, and what its rows say now rendered into it."""
        if "/".join(key) in self._kept:
            self.flush()
        elif key in self._known:
            return self._known.pop(key)
        before = resources.current(self.connection, self._tenant_id, *key)
        if before is None or before.deleted:
            # Two clients may create the same id at once: the second waits, and then finds it. And
            # whoever begins to wait for this resource holds its name until we can see them wait.
            resources.lock_name(self.connection, self._tenant_id, "/".join(key))
            before = resources.current(self.connection, self._tenant_id, *key)
        if before is not None and before.stale:
            self._render(key, before)
            before = resources.current(self.connection, self._tenant_id, *key)
        return before

    def _render(self, key: Key, before: Stored) -> None:
        """Raises Conflict where the rows cannot be shown: nobody has seen what would be lost."""
        try:
            with savepoint(self.connection):
                render_resource(self.connection, self._tenant_id, *key, before, self.own_base)
        except (psycopg.OperationalError, EncryptionError):  # deadlocks among the former
            raise
        except Exception as error:
            reference = "/".join(key)
            logger.exception("row_not_presentable", extra={"reference": reference})
            raise Conflict(
                f"the record behind {reference} was changed to what no resource can hold; it can "
                "be written again when an operator has corrected it"
            ) from error


class Writer:
    """Opens the transactions of one caller's writes. `own_base` is the tenant's FHIR base URL."""

    def __init__(self, database: Database, caller: Caller, own_base: str) -> None:
        self._database = database
        self._caller = caller
        self._own_base = own_base

    def create(self, resource: JsonObject) -> Version:
        """Store a new resource under an id of ours. It passed the gate."""
        return self.run(lambda session: session.create(resource))

    def update(self, resource_id: str, resource: JsonObject, precondition: Precondition) -> Version:
        """Store a new version under the client's id, or create it (update as create)."""
        return self.run(lambda session: session.update(resource_id, resource, precondition))

    def delete(
        self, resource_type: str, resource_id: str, precondition: Precondition
    ) -> Version | None:
        """Mark a resource deleted; None when there was nothing to delete."""
        return self.run(lambda session: session.delete(resource_type, resource_id, precondition))

    def run(self, work: Callable[[WriteSession], T]) -> T:
        """Do writes in one transaction, again where the database asks for it.

        So `work` may be called several times: a deadlock, a race for one key, a tenant that moved.
        """
        tenant_id = self._caller.tenant.id
        for left in reversed(range(ATTEMPTS)):
            try:
                with self._database.unbound_connection(tenant_id) as connection:
                    begun = resources.begin(connection, tenant_id, self._caller.actor_name)
                    session = WriteSession(connection, self._caller, self._own_base, begun)
                    done = work(session)
                    session.commit()
                mark_audited()
                return done
            except psycopg.Error as error:
                if not is_worth_another_try(error):
                    raise translated(error) from error
                logger.info("write_retried", extra={"reason": type(error).__name__, "left": left})
        raise Unavailable("too many writes to the same resources at once; try again")


def require_id(resource: JsonObject, resource_type: str, resource_id: str) -> None:
    """Raise BadRequest unless a resource has the id under which it is written."""
    if resource.get("id") != resource_id:
        raise BadRequest(
            f"the resource's id must be that of the URL, {resource_id!r}",
            expression=f"{resource_type}.id",
        )


def is_worth_another_try(error: psycopg.Error) -> bool:
    """Whether a transaction failed for others that ran at the same time."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure) or is_elsewhere(
        error
    )


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
