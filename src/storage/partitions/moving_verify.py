"""Whether the destination has what the source has: of each table the rows counted, and summed up.

The sum is over digests of the rows' text, so it is the same in whatever order they come; all
columns count, those that the database itself makes too.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.partitions.moving_cargo import Cargo, Owner, statement


@dataclass(frozen=True, slots=True)
class Sum:
    """What can be said of many rows in few words."""

    rows: int
    digest: int


class Differs(Exception):
    """The destination is not what the source is."""


def compare(
    source: Owner, destination: Owner, cargo: list[Cargo], *, only_changed: bool = False
) -> dict[str, int]:
    """The rows of each table, the same on both sides. Raises Differs.

    `only_changed`: the rows of the last round only.
    """
    queries = [(one.table, _query(one, only_changed)) for one in cargo]
    with ThreadPoolExecutor(1) as beside:
        there = beside.submit(_sums, destination, queries)
        here = _sums(source, queries)
    arrived = there.result()
    wrong = [
        f"{table}: {sum_.rows} rows at the source, {arrived[table].rows} at the destination"
        + (", not the same ones" if sum_.rows == arrived[table].rows else "")
        for table, sum_ in here.items()
        if sum_ != arrived[table]
    ]
    if wrong:
        raise Differs("; ".join(wrong[:5]))
    return {table: sum_.rows for table, sum_ in here.items()}


def _sums(connection: Owner, queries: Iterable[tuple[str, str]]) -> dict[str, Sum]:
    found = {}
    for table, query in queries:
        rows, digest = connection.execute(statement(query)).fetchall()[0]
        found[table] = Sum(rows, int(digest))
    return found


def _query(one: Cargo, only_changed: bool) -> str:
    columns = ", ".join(f't."{name}"' for name in (*one.columns, *one.generated))
    changed = (
        f" AND EXISTS (SELECT FROM changed AS c WHERE c.table_name = '{one.table}'"
        f" AND {one.matches('c')})"
        if only_changed
        else ""
    )
    return (
        "SELECT count(*), coalesce(sum(('x' || encode(substr(sha256(convert_to("
        f"ROW({columns})::text, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint), 0)"
        f" FROM {one.table} AS t WHERE {one.condition}{changed}"
    )
