"""What the engine asks of a lens: the two-way mapping between one resource type and its rows.

The laws (design.md 1): `get(put(rows, resource)) == rows` and `put(get(resource), resource) ==
resource`, so a client's resource comes back whole and a changed row shows in it.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable
from uuid import UUID

import psycopg

JsonObject = dict[str, Any]
Connection = psycopg.Connection[tuple[Any, ...]]


class Lens(Protocol):
    """One resource type over its tables.

    Every call runs in the caller's transaction, the tenant bound and `app.lens` = 'on', so that
    the staleness triggers keep quiet about the lens' own writes.
    """

    @property
    def resource_type(self) -> str: ...

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        """Insert or update the rows of `resource`.

        Returns the references ("Patient/123") that rows need and that do not resolve yet; when
        there are any, nothing was written. A resource that no table holds writes nothing and
        returns []. Raises ServerError when the rows cannot hold the resource.
        """
        ...

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        """The resource as its rows stand, laid over the stored one; None when the rows are gone."""
        ...

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        """Remove (or end) the rows of a deleted resource."""
        ...


@runtime_checkable
class NamesItsRow(Protocol):
    """A lens whose row ids follow from the content (perio Observations: patient, tooth, day)."""

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The row that holds the resource; None where no table does, or none yet (references).

        Called before `write`, which gets the answer, or `proposed`, what the engine would take.
        """
        ...


@runtime_checkable
class HoldsSome(Protocol):
    """A lens whose tables hold only some of the resources, which their content tells."""

    def lens_of_new(self, resource: JsonObject) -> Lens | None:
        """Which lens writes the rows of a new resource; None where no table holds it.

        No row can have the id that it has just been given, so none need be looked for.
        """
        ...


@runtime_checkable
class ShowsRows(Protocol):
    """A lens with rows that are the server's own: what they say wins over a client at once."""

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """What may be stored of a client's `resource`, whose row is `row_id`, after `write`.

        Raises ServerError where a row stands for it of which there is nothing to show yet.
        """
        ...


@runtime_checkable
class FillsLinks(Protocol):
    """A lens whose rows can be without some of the rows that the resource refers to."""

    def waits_for(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> list[str]:
        """References whose columns are empty because they do not resolve yet.

        When one of them comes to exist, the rows are written again.
        """
        ...
