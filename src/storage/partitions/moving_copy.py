"""Rows of a tenant from place to place: all of them once, then again those that have changed.

The copy is made in one snapshot of the source and arrives in short transactions. A round then
takes the keys that were noted, reads their rows as they are at one moment and has the destination
agree with that moment, in one transaction; what happens meanwhile is the next round's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import errors

from storage.partitions.moving_cargo import KEPT, TENANT, Cargo, Owner, identities, statement

BATCH_ROWS = 20_000
BATCH_BYTES = 32 << 20
# Bytes that go to the driver at once.
_CHUNK = 1 << 18

Told = Callable[[str, int], None]

# On both sides: the keys of a round.
_KEYS = "CREATE TEMP TABLE IF NOT EXISTS changed (id bigint, table_name text, key text[])"
_TAKE = """
WITH taken AS (DELETE FROM moves.changes RETURNING id, table_name, key)
INSERT INTO changed SELECT max(id), table_name, key FROM taken
WHERE table_name = ANY (%s) GROUP BY table_name, key
"""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round brought."""

    keys: int
    tables: dict[str, int]


def open_notes(source: Owner, destination: Owner) -> None:
    for connection in (source, destination):
        connection.execute("SET client_min_messages = warning")
        connection.execute(_KEYS)


def count_all(source: Owner, cargo: Iterable[Cargo]) -> dict[str, int]:
    """How many rows each table has to move."""
    query = " UNION ALL ".join(
        f"SELECT '{one.table}', count(*) FROM {one.table} AS t WHERE {one.condition}"
        for one in cargo
    )
    return dict(source.execute(statement(query)).fetchall())


def copy_all(source: Owner, destination: Owner, cargo: Iterable[Cargo], told: Told) -> int:
    """Copy every row as it is at one moment; returns how many."""
    total = 0
    with source.transaction():
        source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for one in cargo:
            with _read(
                source, f"SELECT {_columns(one)} FROM {one.table} AS t WHERE {one.condition}"
            ) as rows:
                for batch, count in _batches(rows, whole=one.is_one_statement):
                    with destination.transaction():
                        _stage(destination, one, batch)
                        destination.execute(statement(_insert(one)))
                    total += count
                    told(one.table, count)
    return total


@contextmanager
def round_(source: Owner, destination: Owner, cargo: list[Cargo]) -> Iterator[Round]:
    """Have the destination agree with the source of this moment.

    Inside, the transaction of the source still sees that moment. The notes are gone with its end;
    a round that fails takes nothing.
    """
    names = [one.table for one in cargo]
    with source.transaction():
        source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        source.execute("TRUNCATE changed")
        source.execute(_TAKE, (names,))
        counts = dict(
            source.execute("SELECT table_name, count(*) FROM changed GROUP BY 1").fetchall()
        )
        made = Round(sum(counts.values()), counts)
        if made.keys:
            source.execute("ANALYZE changed")
        moved = [one for one in cargo if one.table in counts]
        try:
            _bring(source, destination, moved, in_order=False)
        except (errors.UniqueViolation, errors.ForeignKeyViolation):
            # Changes that depend on each other, such as a mark that went from one row to another.
            _bring(source, destination, moved, in_order=True)
        yield made


def _bring(source: Owner, destination: Owner, moved: list[Cargo], *, in_order: bool) -> None:
    with destination.transaction():
        destination.execute("TRUNCATE changed")
        with (
            _read(source, "SELECT id, table_name, key FROM changed") as rows,
            destination.cursor() as cursor,
            cursor.copy("COPY changed FROM STDIN") as into,
        ):
            for row in rows:
                into.write(row)
        destination.execute("ANALYZE changed")
        for one in moved:
            with _read(source, _changed_rows(one)) as rows:
                _stage(destination, one, rows)
        if in_order:
            _in_order(destination, moved)
            return
        for one in reversed(moved):
            destination.execute(statement(_delete(one)))
        for one in moved:
            destination.execute(statement(_upsert(one)))


def _in_order(destination: Owner, moved: list[Cargo]) -> None:
    """One by one, each row when it changed last."""
    by_table = {one.table: one for one in moved}
    keys = destination.execute("SELECT id, table_name FROM changed ORDER BY id").fetchall()
    # An id is the note of one key of one table, so it tells the row.
    for id_, table in keys:
        one = by_table[table]
        destination.execute(statement(_delete(one, f" AND c.id = {int(id_)}")))
        destination.execute(statement(_upsert(one, int(id_))))


def advance_sequences(destination: Owner, cargo: list[Cargo]) -> None:
    """Numbers that a sequence gives go on above those that came; others may draw meanwhile."""
    for table, column in identities(cargo):
        destination.execute(
            statement(
                f"WITH gap AS MATERIALIZED (SELECT coalesce((SELECT max({column}) FROM {table} AS t"
                f" WHERE t.tenant_id = {TENANT}), 0) - nextval(pg_get_serial_sequence('{table}',"
                f" '{column}')) AS size) SELECT count(nextval(pg_get_serial_sequence('{table}',"
                f" '{column}'))) FROM gap, generate_series(1, gap.size)"
            )
        )


# -- reading and writing ----------------------------------------------------------------------


@contextmanager
def _read(source: Owner, query: str) -> Iterator[Iterable[bytes]]:
    with source.cursor() as cursor, cursor.copy(statement(f"COPY ({query}) TO STDOUT")) as copy:
        # PostgreSQL sends each row as one message.
        yield (bytes(row) for row in copy)


def _batches(rows: Iterable[bytes], *, whole: bool) -> Iterator[tuple[list[bytes], int]]:
    """Rows in portions: (chunks, number of rows)."""
    chunks: list[bytes] = []
    chunk: list[bytes] = []
    count = size = pending = 0
    for row in rows:
        chunk.append(row)
        count += 1
        pending += len(row)
        if pending >= _CHUNK:
            chunks.append(b"".join(chunk))
            size += pending
            chunk, pending = [], 0
        if not whole and (count >= BATCH_ROWS or size >= BATCH_BYTES):
            yield [*chunks, b"".join(chunk)], count
            chunks, chunk, count, size, pending = [], [], 0, 0, 0
    if count:
        yield [*chunks, b"".join(chunk)], count


def _stage(destination: Owner, one: Cargo, rows: Iterable[bytes]) -> None:
    """Into a table of this connection: COPY knows no row-level security, INSERT does."""
    destination.execute(
        statement(
            f"CREATE TEMP TABLE IF NOT EXISTS staged_{one.table} AS SELECT {one.listed}"
            f" FROM {one.table} WITH NO DATA"
        )
    )
    # Not ON COMMIT DELETE ROWS: every commit would empty the staged rows of all tables.
    destination.execute(statement(f"TRUNCATE staged_{one.table}"))
    with (
        destination.cursor() as cursor,
        cursor.copy(statement(f"COPY staged_{one.table} ({one.listed}) FROM STDIN")) as into,
    ):
        for row in rows:
            into.write(row)


def _columns(one: Cargo) -> str:
    return ", ".join(f't."{name}"' for name in one.columns)


def _insert(one: Cargo) -> str:
    return (
        f"INSERT INTO {one.table} ({one.listed}) OVERRIDING SYSTEM VALUE"
        f" SELECT {one.listed} FROM staged_{one.table}"
    )


def _changed_rows(one: Cargo) -> str:
    return (
        f"SELECT {_columns(one)} FROM changed AS c JOIN {one.table} AS t ON {one.matches('c')}"
        f" WHERE c.table_name = '{one.table}' AND {one.condition}"
    )


def _delete(one: Cargo, only: str = "") -> str:
    """Of the rows with changed keys those that are no more."""
    mine = f"t.tenant_id = {TENANT}"
    if one.is_of_accounts:
        mine = f't."{one.key[0]}" <> ALL ({KEPT})'
    is_there = " AND ".join(f's."{name}" = t."{name}"' for name in one.key)
    # Where several rows have one key, all of them come anew.
    rest = (
        f" AND NOT EXISTS (SELECT FROM staged_{one.table} AS s WHERE {is_there})"
        if one.is_key_unique
        else ""
    )
    return (
        f"DELETE FROM {one.table} AS t USING changed AS c WHERE c.table_name = '{one.table}'"
        f" AND {one.matches('c')} AND {mine}{rest}{only}"
    )


def _upsert(one: Cargo, only: int | None = None) -> str:
    which = ""
    if only is not None:
        which = (
            f" WHERE EXISTS (SELECT FROM changed AS c WHERE c.id = {only} AND {one.matches('c')})"
        )
    insert = (
        f"INSERT INTO {one.table} ({one.listed}) OVERRIDING SYSTEM VALUE"
        f" SELECT {one.listed} FROM staged_{one.table} AS t{which}"
    )
    if not one.is_key_unique:
        return insert
    key = [*dict.fromkeys(["tenant_id", *one.key] if one.has_tenant_key else one.key)]
    rest = [name for name in one.columns if name not in key]
    if not rest:
        return f"{insert} ON CONFLICT DO NOTHING"
    changes = ", ".join(f'"{name}" = excluded."{name}"' for name in rest)
    return f"{insert} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
