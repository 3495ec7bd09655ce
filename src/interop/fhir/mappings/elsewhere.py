"""Other resources that show the rows of a table, which a lens' write to it makes stale.

The staleness triggers keep quiet about the writes of lenses, so that a lens need not render what it
was just given. Where one row is shown in several resources (a visit as Encounter and Appointment, a
planned procedure in its ServiceRequest and in the CarePlan), a lens says of the others what the
triggers would: it asks the same `storage.schema.presentation`.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from interop.fhir.lens import Connection
from interop.fhir.mappings.statements import mark_stale
from storage.schema.presentation import PRESENTED, Presented

Image = dict[str, Any]
_ROWS: Final = "(SELECT * FROM jsonb_populate_recordset(NULL::{table}, %s))"


class Elsewhere:
    """The resources that show rows of `table`, but for `own`: the type and column of the lens."""

    def __init__(self, table: str, own: tuple[str, str]) -> None:
        self._table = table
        self._shown = tuple(
            item for item in PRESENTED.get(table, ()) if item.when or not _is_own(item, own)
        )

    def image(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> Image | None:
        """The row as it stands; None where there is none, or nothing else shows it."""
        if not self._shown:
            return None
        statement = sql.SQL(
            "SELECT to_jsonb(t) FROM {} AS t WHERE t.tenant_id = %s AND t.id = %s"
        ).format(sql.Identifier(self._table))
        found = connection.execute(statement, (tenant_id, row_id)).fetchone()
        return found[0] if found else None

    def images(
        self, connection: Connection, tenant_id: UUID, column: str, value: UUID
    ) -> list[Image]:
        """The rows with a value in a column; none where nothing else shows such rows."""
        if not self._shown:
            return []
        statement = sql.SQL(
            "SELECT to_jsonb(t) FROM {} AS t WHERE t.tenant_id = %s AND t.{} = %s"
        ).format(sql.Identifier(self._table), sql.Identifier(column))
        return [row[0] for row in connection.execute(statement, (tenant_id, value)).fetchall()]

    def mark_rows(
        self, connection: Connection, tenant_id: UUID, before: list[Image], now: list[Image]
    ) -> None:
        """The same for the rows of a list, of which some may have come or gone."""
        changed = [row for row in before if row not in now] + [r for r in now if r not in before]
        for item in self._shown if changed else ():
            for target in self._targets(connection, item, changed):
                mark_stale(connection, tenant_id, item.resource_type, target)

    def mark(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, before: Image | None
    ) -> None:
        """Have what shows the row, as it was `before` or as it is now, rendered again."""
        if not self._shown:
            return
        now = self.image(connection, tenant_id, row_id)
        for item in self._shown:
            rows = [image for image in (before, now) if image is not None]
            if item.when and not _matters(item, before, now):
                continue
            for target in self._targets(connection, item, rows):
                mark_stale(connection, tenant_id, item.resource_type, target)

    def _targets(self, connection: Connection, item: Presented, rows: list[Image]) -> list[UUID]:
        source = item.rows(self._table, _ROWS.format(table=self._table))
        statement = (
            f"SELECT DISTINCT {item.column} FROM ({source}) AS rows"
            f" WHERE {item.column} IS NOT NULL ORDER BY 1"
        )
        found = connection.execute(statement.encode(), (Jsonb(rows),)).fetchall()
        return [row[0] for row in found]


def _is_own(item: Presented, own: tuple[str, str]) -> bool:
    return (item.resource_type, item.column) == own


def _matters(item: Presented, before: Image | None, now: Image | None) -> bool:
    if before is None or now is None:
        return item.arrives
    return any(before[column] != now[column] for column in item.when)
