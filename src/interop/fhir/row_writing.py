"""Rows of a resource through its lens, and the references that they wait for.

Feeds arrive out of order: a resource whose required references do not resolve yet is stored and
served, and its rows are written in the transaction that makes the last of them resolve
(design.md 1).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from uuid import UUID, uuid4

import psycopg

from interop.errors import Conflict, ServerError, Unprocessable
from interop.fhir import json
from interop.fhir.lens import (
    Connection,
    FillsLinks,
    HoldsSome,
    JsonObject,
    Lens,
    NamesItsRow,
    ShowsRows,
)
from interop.fhir.mappings import build_lenses
from interop.fhir.mappings.custom_fields import CustomFieldsLens
from storage import resources
from storage.blocking_statements import savepoint
from storage.resources import Stored

logger = logging.getLogger(__name__)


@cache
def lenses(own_base: str | None) -> Mapping[str, Lens]:
    """The lenses of a server whose FHIR base URL is `own_base`: http://host/t/{tenant}/fhir/R4."""
    return build_lenses(own_base.rpartition("/t/")[0] if own_base else None)


class RowWriter:
    """Writes rows within one transaction.

    Without `has_custom_fields` the tenant has added no fields to its records, and nobody need look.
    """

    def __init__(
        self,
        connection: Connection,
        tenant_id: UUID,
        actor: str,
        own_base: str | None,
        *,
        has_custom_fields: bool = True,
    ) -> None:
        self.connection = connection
        self.tenant_id = tenant_id
        self._actor = actor
        self._lenses = lenses(own_base)
        self._has_custom_fields = has_custom_fields
        # Whether something that was written here waits for a reference.
        self.has_waited = False

    def lens_of_new(self, resource: JsonObject) -> Lens | None:
        """What writes the rows of a resource whose id has just been made; None: no table does."""
        lens = self.lens_of(str(resource["resourceType"]))
        return lens.lens_of_new(resource) if isinstance(lens, HoldsSome) else lens

    def lens_of(self, resource_type: str) -> Lens | None:
        """What writes the rows of a resource type; None: it has no tables."""
        lens = self._lenses.get(resource_type)
        if isinstance(lens, CustomFieldsLens) and not self._has_custom_fields:
            return lens.lens
        return lens

    def write_new(self, lens: Lens, key: tuple[str, str], resource: JsonObject) -> UUID | None:
        """The same as `write` for a resource whose id has just been made: nothing stands for it."""
        return self._write(lens, key, resource, None, UUID(key[1]))

    def write(
        self, lens: Lens, key: tuple[str, str], resource: JsonObject, before: Stored | None
    ) -> UUID | None:
        """Write the rows of a resource by the lens of its type, or remember what they wait for.

        Returns the row that holds it: None while it waits, and where no table holds it. Raises
        Unprocessable where the tenant requires references to resolve.
        """
        proposed = before.row_id if before and before.row_id else self._free_row_id(key)
        return self._write(lens, key, resource, before, proposed)

    def _write(
        self,
        lens: Lens,
        key: tuple[str, str],
        resource: JsonObject,
        before: Stored | None,
        proposed: UUID,
    ) -> UUID | None:
        named = self._named_row(lens, key, resource, proposed)
        row_id = named or proposed
        unresolved = lens.write(self.connection, self.tenant_id, row_id, resource, self._actor)
        if unresolved:
            unresolved = self._wait_for(lens, row_id, resource, unresolved)
        if unresolved or before is not None:
            resources.set_pending(self.connection, self.tenant_id, *key, unresolved)
        exists = before is not None and not before.deleted and before.row_id is not None
        if unresolved and exists:
            raise Unprocessable(
                f"references that do not resolve: {', '.join(unresolved)}; "
                "a record that exists cannot be changed to wait for them"
            )
        if unresolved or named is None:
            return None
        self._remember_open_links(lens, key, named, resource)
        return named

    def overlaid(self, lens: Lens, resource: JsonObject, row_id: UUID | None) -> JsonObject:
        """What is stored of a client's resource: where its row is the server's own, that wins."""
        if row_id is None or not isinstance(lens, ShowsRows):
            return resource
        return lens.overlay(self.connection, self.tenant_id, row_id, resource)

    def delete(self, key: tuple[str, str], before: Stored) -> None:
        """Remove the rows of a resource, and what it waited for."""
        lens = self._lenses.get(key[0])
        if lens is None:
            return
        if before.row_id is not None:
            lens.delete(self.connection, self.tenant_id, before.row_id)
        resources.set_pending(self.connection, self.tenant_id, *key, [])

    def _named_row(
        self, lens: Lens, key: tuple[str, str], resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The row that will hold the resource; None where no table does, or none yet."""
        if not isinstance(lens, NamesItsRow):
            return proposed
        named = lens.row_id(self.connection, self.tenant_id, resource, proposed)
        if named is not None and named != proposed:
            owner = resources.row_owner(self.connection, self.tenant_id, key[0], named)
            if owner not in (None, key[1]) and not self._release(lens, (key[0], owner), named):
                raise Conflict(f"{key[0]}/{owner} already stands for what this resource describes")
        return named

    def _release(self, lens: Lens, owner: tuple[str, str], row_id: UUID) -> bool:
        """Take a row's id from a resource that was deleted or withdrawn, and has no row any more.

        A stale one is rendered first: that its rows are gone is still to be said of it.
        """
        stored = resources.current(self.connection, self.tenant_id, *owner)
        if stored is not None and stored.stale and not stored.deleted:
            return False
        if lens.present(self.connection, self.tenant_id, row_id, None) is not None:
            return False
        resources.set_row_id(self.connection, self.tenant_id, *owner, None)
        return True

    def _free_row_id(self, key: tuple[str, str]) -> UUID:
        """The resource's own id where it is a UUID that no other resource's row has taken."""
        try:
            wanted = UUID(key[1])
        except ValueError:
            return uuid4()
        owner = resources.row_owner(self.connection, self.tenant_id, key[0], wanted)
        return wanted if owner in (None, key[1]) else uuid4()

    def _wait_for(
        self, lens: Lens, row_id: UUID, resource: JsonObject, unresolved: list[str]
    ) -> list[str]:
        """Look once more, holding the names: whoever creates them now will see that we wait."""
        self.has_waited = True
        resources.lock_awaited(self.connection, self.tenant_id, unresolved)
        unresolved = lens.write(self.connection, self.tenant_id, row_id, resource, self._actor)
        if unresolved and resources.requires_resolution(self.connection, self.tenant_id):
            raise Unprocessable(f"references that do not resolve: {', '.join(unresolved)}")
        return unresolved

    def _remember_open_links(
        self, lens: Lens, key: tuple[str, str], row_id: UUID, resource: JsonObject
    ) -> None:
        """Have the rows written again when a resource comes that an empty column refers to."""
        if not isinstance(lens, FillsLinks):
            return
        waiting = lens.waits_for(self.connection, self.tenant_id, resource)
        if not waiting:
            return
        self.has_waited = True
        resources.lock_awaited(self.connection, self.tenant_id, waiting)
        lens.write(self.connection, self.tenant_id, row_id, resource, self._actor)
        waiting = lens.waits_for(self.connection, self.tenant_id, resource)
        resources.set_pending(self.connection, self.tenant_id, *key, waiting)


def resolve_waiting(rows: RowWriter, reference: str) -> None:
    """Write the rows of what waited for "Type/id", and of what waited for those in turn."""
    connection, tenant_id = rows.connection, rows.tenant_id
    todo = [reference]
    while todo:
        for key in resources.pending_on(connection, tenant_id, todo.pop()):
            stored = resources.current(connection, tenant_id, *key)
            lens = rows.lens_of(key[0])
            if stored is None or stored.deleted or lens is None:
                resources.set_pending(connection, tenant_id, *key, [])
                continue
            try:
                with savepoint(connection):
                    resources.set_pending(connection, tenant_id, *key, [])
                    row_id = rows.write(lens, key, json.loads(stored.body.encode()), stored)
                    if row_id is not None and stored.row_id is None:
                        resources.set_row_id(connection, tenant_id, *key, row_id)
                        todo.append(f"{key[0]}/{key[1]}")
            except (ServerError, psycopg.Error) as error:
                # The resource was accepted and is served; that its rows do not fit is for the
                # operator to see, not a reason to refuse the one that came now.
                logger.warning(
                    "pending_rows_refused",
                    extra={"resource_type": key[0], "reason": type(error).__name__},
                )
