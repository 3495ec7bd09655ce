"""The SQL of the lenses: rows of a table by a key that begins with the tenant.

A statement is put together once per table and set of columns: psycopg prepares what it sees again.
What goes into a sealed column is sealed here, and what comes out is opened; the lenses see neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, LiteralString
from uuid import UUID, uuid4

from psycopg import sql
from psycopg.types.json import Jsonb

from interop.fhir.lens import Connection
from interop.fhir.mappings.lens import Row
from storage.database import vault_of
from storage.encryption.columns import SEALED, needed_to_open, open_row, seal_row


def select(
    connection: Connection, table: str, columns: tuple[str, ...], key: Mapping[str, Any]
) -> list[Row]:
    """The rows of a key, in a stable order. Sealed values are opened, or EncryptionError raised."""
    if table not in SEALED:
        return _selected(connection, table, columns, key)
    wanted = tuple(dict.fromkeys((*columns, *needed_to_open(table))))
    vault, tenant_id = vault_of(connection), key["tenant_id"]
    opened = (
        open_row(vault, tenant_id, table, row, connection)
        for row in _selected(connection, table, wanted, key)
    )
    return [{column: row[column] for column in columns} for row in opened]


def _selected(
    connection: Connection, table: str, columns: tuple[str, ...], key: Mapping[str, Any]
) -> list[Row]:
    statement = _select_statement(table, columns, tuple(key))
    found = connection.execute(statement, dict(key)).fetchall()
    return [dict(zip(columns, row, strict=True)) for row in found]


def exists(connection: Connection, table: str, key: Mapping[str, Any]) -> bool:
    """Whether there is a row of a key."""
    return bool(connection.execute(_exists_statement(table, tuple(key)), dict(key)).fetchall())


def query(connection: Connection, statement: LiteralString, *values: object) -> list[Row]:
    """The rows of a statement, by the names of its columns."""
    cursor = connection.execute(statement, values)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def insert(connection: Connection, table: str, row: Row) -> None:
    """Add a row."""
    if table in SEALED:
        # A sealed value is bound to its row, so the row must have its id before it is written.
        row = sealed(connection, table, {"id": uuid4(), **row}, {})
    connection.execute(_insert_statement(table, tuple(row)), bound(row))


def update(connection: Connection, table: str, row: Row, key: Mapping[str, Any]) -> bool:
    """Change the row of a key; whether there was one."""
    if table in SEALED:
        row = sealed(connection, table, row, key)
    values = {f"new_{column}": value for column, value in bound(row).items()}
    statement = _update_statement(table, tuple(row), tuple(key))
    return connection.execute(statement, {**values, **key}).rowcount > 0


def delete(connection: Connection, table: str, key: Mapping[str, Any]) -> None:
    """Remove the rows of a key."""
    connection.execute(_delete_statement(table, tuple(key)), dict(key))


@contextmanager
def announced(connection: Connection) -> Iterator[None]:
    """Have the staleness triggers speak: what a removal takes along is in nobody's hands."""
    connection.execute("SELECT set_config('app.lens', 'off', true)")
    yield
    connection.execute("SELECT set_config('app.lens', 'on', true)")


def sealed(connection: Connection, table: str, row: Row, key: Mapping[str, Any]) -> Row:
    """The row as its table takes it: what is especially sensitive sealed."""
    if table not in SEALED:
        return row
    whole = {**row, **key}
    written = seal_row(vault_of(connection), whole["tenant_id"], table, whole, connection)
    return {column: value for column, value in written.items() if column not in key}


def mark_stale(connection: Connection, tenant_id: UUID, resource_type: str, row_id: UUID) -> None:
    """Have a resource rendered that a lens' write has changed besides its own.

    The staleness triggers keep quiet about the writes of lenses; this says what they would.
    """
    connection.execute(
        "INSERT INTO fhir_resources AS known"
        " (tenant_id, resource_type, resource_id, row_id, version, last_updated, body, stale)"
        " SELECT %(tenant_id)s, %(type)s, CASE WHEN EXISTS (SELECT FROM fhir_resources AS other"
        "  WHERE other.tenant_id = %(tenant_id)s AND other.resource_type = %(type)s"
        "  AND other.resource_id = %(own_id)s AND other.row_id IS DISTINCT FROM %(row_id)s)"
        " THEN gen_random_uuid()::text ELSE %(own_id)s END, %(row_id)s, 0, now(), '', true"
        " ON CONFLICT (tenant_id, resource_type, row_id) DO UPDATE SET stale = true",
        # As a text: a cast in the comparison would keep row-level security from using the index.
        {
            "tenant_id": tenant_id,
            "type": resource_type,
            "row_id": row_id,
            "own_id": str(row_id),
        },
    )
    connection.execute("SELECT pg_notify('fhir_stale', %s)", (str(tenant_id),))


def bound(row: Row) -> Row:
    return {
        column: Jsonb(value) if isinstance(value, dict) else value for column, value in row.items()
    }


@cache
def _select_statement(table: str, columns: tuple[str, ...], key: tuple[str, ...]) -> bytes:
    return _composed(
        "SELECT {columns} FROM {table} WHERE {key} ORDER BY id",
        table=sql.Identifier(table),
        columns=_names(columns),
        key=_matching(key),
    )


@cache
def _exists_statement(table: str, key: tuple[str, ...]) -> bytes:
    return _composed(
        "SELECT 1 FROM {table} WHERE {key} LIMIT 1",
        table=sql.Identifier(table),
        key=_matching(key),
    )


@cache
def _insert_statement(table: str, columns: tuple[str, ...]) -> bytes:
    return _composed(
        "INSERT INTO {table} ({columns}) VALUES ({places})",
        table=sql.Identifier(table),
        columns=_names(columns),
        places=sql.SQL(", ").join(map(sql.Placeholder, columns)),
    )


@cache
def _update_statement(table: str, columns: tuple[str, ...], key: tuple[str, ...]) -> bytes:
    changes = (
        sql.SQL("{} = {}").format(sql.Identifier(column), sql.Placeholder(f"new_{column}"))
        for column in columns
    )
    return _composed(
        "UPDATE {table} SET {changes} WHERE {key}",
        table=sql.Identifier(table),
        changes=sql.SQL(", ").join(changes),
        key=_matching(key),
    )


@cache
def _delete_statement(table: str, key: tuple[str, ...]) -> bytes:
    return _composed(
        "DELETE FROM {table} WHERE {key}", table=sql.Identifier(table), key=_matching(key)
    )


@cache
def upsert_statement(
    table: str, columns: tuple[str, ...], changed: tuple[str, ...], where: tuple[str, ...]
) -> bytes:
    """A row of another kind (`where`) under the same id is not changed, and returns nothing."""
    changes = (sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(item)) for item in changed)
    ours = sql.SQL(" WHERE {}").format(_matching(where, table)) if where else sql.SQL("")
    return _composed(
        "INSERT INTO {table} ({columns}) VALUES ({places})"
        " ON CONFLICT (tenant_id, id) DO UPDATE SET {changes}{ours} RETURNING xmax = 0",
        table=sql.Identifier(table),
        columns=_names(columns),
        places=sql.SQL(", ").join(map(sql.Placeholder, columns)),
        changes=sql.SQL(", ").join(changes),
        ours=ours,
    )


def _composed(template: LiteralString, **parts: sql.Composable) -> bytes:
    return sql.SQL(template).format(**parts).as_bytes(None)


def _names(columns: tuple[str, ...]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _matching(key: tuple[str, ...], *table: str) -> sql.Composable:
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(*table, column), sql.Placeholder(column))
        for column in key
    )
