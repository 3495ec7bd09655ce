"""Search rows of resources in the form in which SQL takes those of many at once.

A resource has its rows by table, as {"token": [[parameter, ordinal, cluster, ...], ...], ...}, the
characters of `gram` and the two texts of `text`. Together they are by table too, each row with the
number of its resource in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import orjson

from storage.database import Connection

Rows = Mapping[str, Any]

WRITE: LiteralString = "SELECT fhir_write_search_rows(%s, %s, %s, %s, %s, %s)"


@dataclass(frozen=True, slots=True)
class Indexed:
    """A resource and its search rows; `is_replaced`: it has others already."""

    resource_type: str
    resource_id: str
    rows: Rows
    is_replaced: bool


def epoch_of(rows: Rows) -> int:
    """By which search parameters of the tenant's own the rows were extracted."""
    return int(rows.get("epoch", 0))


def together(rows_of_all: Iterable[Rows]) -> str:
    """The rows of many resources, which are numbered from 1, as the SQL functions take them."""
    found: dict[str, list[list[Any]]] = {}
    for number, rows in enumerate(rows_of_all, 1):
        for table, values in rows.items():
            if table == "gram":
                found.setdefault(table, []).extend([number, gram] for gram in values)
            elif table == "text":
                found.setdefault(table, []).append([number, *values])
            elif table != "epoch":
                found.setdefault(table, []).extend([number, *row] for row in values)
    return orjson.dumps(found).decode()


def write(connection: Connection, tenant_id: UUID, resources: Sequence[Indexed]) -> None:
    """Write search rows besides what else there is of the resources."""
    connection.execute(
        WRITE,
        (
            tenant_id,
            [one.resource_type for one in resources],
            [one.resource_id for one in resources],
            [one.is_replaced for one in resources],
            sorted({epoch_of(one.rows) for one in resources}),
            together(one.rows for one in resources),
        ),
    )
