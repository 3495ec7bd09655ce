"""One lens for a resource type that several tables hold: which of them, content or row decide.

Rows that are the server's own (a ViewLens) are told by their id; what a client writes goes to the
first table whose part admits the content. What no part admits is stored whole and has no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from interop.fhir.lens import (
    Connection,
    FillsLinks,
    JsonObject,
    Lens,
    NamesItsRow,
    ShowsRows,
)
from interop.fhir.mappings.lens import ResourceMapping
from interop.fhir.mappings.views import ViewLens


class Table(Lens, Protocol):
    """A lens over rows that clients write."""

    @property
    def mapping(self) -> ResourceMapping: ...

    def exists(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> bool:
        """Whether there is such a row."""
        ...


@dataclass(frozen=True, slots=True)
class Writable:
    """A part whose rows clients write: those resources that it `admits`."""

    lens: Table
    admits: Callable[[JsonObject], bool]


class SharedLens:
    """Views, whose rows are the server's own, and tables that clients write, under one type."""

    def __init__(self, views: Sequence[ViewLens], tables: Sequence[Writable] = ()) -> None:
        self.views = tuple(views)
        self.tables = tuple(tables)
        (self.resource_type,) = {part.resource_type for part in self._parts()}

    @property
    def mappings(self) -> tuple[ResourceMapping, ...]:
        return tuple(part.mapping for part in self._parts())

    def lens_of_new(self, resource: JsonObject) -> Lens | None:
        """The part whose table admits the content; this one, where the content names the row."""
        table = self._table(resource)
        return self if isinstance(table, NamesItsRow) else table

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The row of the server that has this id, else the row that the content asks for."""
        if self._view(connection, tenant_id, proposed) is not None:
            return proposed
        table = self._table(resource)
        if table is None:
            return None
        if isinstance(table, NamesItsRow):
            return table.row_id(connection, tenant_id, resource, proposed)
        return proposed

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        if self._view(connection, tenant_id, row_id) is not None:
            return []
        table = self._table(resource)
        for other in self.tables:
            if other.lens is not table and other.lens.exists(connection, tenant_id, row_id):
                # What the resource was before is no longer what its rows could say.
                other.lens.delete(connection, tenant_id, row_id)
        return table.write(connection, tenant_id, row_id, resource, actor) if table else []

    def waits_for(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> list[str]:
        """References whose columns are empty until their resources exist."""
        table = self._table(resource)
        if table is None or not isinstance(table, FillsLinks):
            return []
        return table.waits_for(connection, tenant_id, resource)

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        for part in self._parts():
            presented = part.present(connection, tenant_id, row_id, stored)
            if presented is not None:
                return presented
        return None

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """What is the server's own as the server has it; the rest is its sender's."""
        view = self._view(connection, tenant_id, row_id)
        if view is not None:
            return view.overlay(connection, tenant_id, row_id, resource)
        table = self._table(resource)
        if table is None or not isinstance(table, ShowsRows):
            return resource
        return table.overlay(connection, tenant_id, row_id, resource)

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        for part in self._parts():
            part.delete(connection, tenant_id, row_id)

    def _parts(self) -> Iterator[Table | ViewLens]:
        yield from self.views
        yield from (part.lens for part in self.tables)

    def _view(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> ViewLens | None:
        return next(
            (view for view in self.views if view.exists(connection, tenant_id, row_id)), None
        )

    def _table(self, resource: JsonObject) -> Lens | None:
        return next((part.lens for part in self.tables if part.admits(resource)), None)
