"""Lenses over rows that the server makes itself: studies, inference jobs, the tenant's own entries.

A client may add to such a resource what the rows do not say, and that stays; what the rows say wins
in what is stored of the client's version and in every presentation. A resource of these types that
no row stands for, such as the Device of an implant, is a client's own: it is stored whole and has
no row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interop.errors import Conflict
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import statements
from interop.fhir.mappings.lens import ResourceMapping, Rows
from interop.fhir.mappings.tables import with_id

# Elements that would say in other words, or take back, what the rows say.
RESERVED: Final = ("text", "implicitRules", "modifierExtension")


@dataclass(frozen=True, slots=True)
class Shown:
    """An element as a loader has made it of rows, whole."""

    label: str

    def get(self, node: Any) -> Any:
        return node

    def put(self, value: Any, node: Any) -> Any:
        return value


Loader = Callable[[Connection, UUID, UUID], Rows | None]


class ViewLens:
    """A mapping over what `load` reads, never written over FHIR."""

    # Elements of the mapping that a client sets after all.
    client_elements: tuple[str, ...] = ()

    def __init__(
        self,
        mapping: ResourceMapping,
        load: Loader,
        origin: str,
        held_in: tuple[str, str] | None = None,
        reserved: tuple[str, ...] = (),
    ) -> None:
        self.mapping = mapping
        self._load = load
        # The table and column that tell cheaply whether there is such a row.
        self._held_in = held_in
        # Where the rows come from, and how they are removed: ends the sentence of the refusal.
        self._origin = origin
        # Elements that a client cannot add.
        self._reserved = {*RESERVED, *reserved}

    @property
    def resource_type(self) -> str:
        return self.mapping.resource_type

    def get(self, resource: JsonObject) -> Rows:
        return self.mapping.get(resource)

    def put(self, rows: Rows, resource: JsonObject | None) -> JsonObject:
        return self.mapping.put(rows, resource)

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The row that the resource already stands for; a client's own resource has none."""
        return proposed if self.exists(connection, tenant_id, proposed) else None

    def exists(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> bool:
        if self._held_in is None:
            return self._load(connection, tenant_id, row_id) is not None
        table, column = self._held_in
        key = {"tenant_id": tenant_id, column: row_id}
        return statements.exists(connection, table, key)

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        return []

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        rows = self._load(connection, tenant_id, row_id)
        return None if rows is None else with_id(self.put(rows, stored), row_id)

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """The client's resource as far as it only adds to the rows, and the rows.

        An element that is not a list is the server's whole, for its display or text would else be
        the client's word for the server's code; lists keep what the client has added.
        """
        added = {key: item for key, item in resource.items() if key not in self._reserved}
        shown = self.present(connection, tenant_id, row_id, added)
        own = self.present(connection, tenant_id, row_id, None)
        if shown is None or own is None:
            raise Conflict(
                f"{self.resource_type}/{resource.get('id')} is made by this server, which has"
                " nothing to say in it yet; it cannot be written before"
            )
        fixed = self.mapping.template(self.get(own).row)
        said = {
            name: node
            for name, node in own.items()
            if (name in fixed or not isinstance(node, list))
            and name not in ("id", "meta", *self.client_elements)
            and not _holds(shown.get(name), node)
        }
        return {**shown, **said}

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        if self.exists(connection, tenant_id, row_id):
            raise Conflict(f"this {self.resource_type} is {self._origin}")


def _holds(node: Any, template: Any) -> bool:
    """Whether an element says what the template says, be it with more items in its list."""
    if isinstance(node, list) and isinstance(template, list):
        return all(item in node for item in template)
    return bool(node == template)
