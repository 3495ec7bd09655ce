"""Lenses over rows that belong to a parent, which alone knows the patient.

A note is of a visit, a planned procedure of a plan: the column `patient_id` of the mapping is the
parent's. A client may say it, and says the same; where it does not, what is stored says it all the
same, for by it the policy tells whose record a resource belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from interop.errors import Unprocessable
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.lens import ResourceMapping, Row
from interop.fhir.mappings.tables import TableLens


@dataclass(frozen=True, slots=True)
class Through:
    """Where a column that the table lacks is found: in the first parent that the row has.

    `parents` are tables by the column of the row that points at them.
    """

    parents: Mapping[str, str]
    column: str = "patient_id"

    def of(self, connection: Connection, tenant_id: UUID, row: Row) -> UUID | None:
        """The parent's value."""
        for link, table in self.parents.items():
            if row[link] is not None:
                statement = sql.SQL("SELECT {} FROM {} WHERE tenant_id = %s AND id = %s").format(
                    sql.Identifier(self.column), sql.Identifier(table)
                )
                found = connection.execute(statement, (tenant_id, row[link])).fetchone()
                return found[0] if found else None
        return None


class ChildLens(TableLens):
    """A lens whose mapping has a column `through` a parent of the row."""

    def __init__(
        self,
        mapping: ResourceMapping,
        through: Through,
        *,
        needs: tuple[str, ...] = (),
        normalize: Callable[[Row], Row] = lambda row: row,
        links: Mapping[str, tuple[str, ...]] | None = None,
        beside: tuple[str, ...] = (),
        derived: tuple[str, ...] = (),
    ) -> None:
        super().__init__(
            mapping,
            needs=needs,
            normalize=normalize,
            links=links,
            beside=beside,
            derived=(through.column, *derived),
        )
        self.through = through

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        row = self.get(resource).row
        said = [row[link] for link in (*self.through.parents, self.through.column) if row[link]]
        # A patient who is not here yet cannot be the parent's; the row waits with the parent.
        waiting = references.unresolved(connection, tenant_id, said)
        return waiting or super().write(connection, tenant_id, row_id, resource, actor)

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """The client's resource, with the patient of its parent."""
        return self.present(connection, tenant_id, row_id, resource) or resource

    def derive(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, row: Row, said: Row
    ) -> Row:
        return {self.through.column: self.through.of(connection, tenant_id, row)}

    def _upsert(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, row: Row, actor: str
    ) -> bool:
        said = row[self.through.column]
        if said is not None and said != self.through.of(connection, tenant_id, row):
            raise Unprocessable(
                f"{self.resource_type}: the patient is another one than that of what it belongs to"
                f" ({', '.join(self.through.parents.values())}); name the same patient, or none"
            )
        return super()._upsert(connection, tenant_id, row_id, row, actor)
