"""What rows of the lens laws are made of, and the type of a case of the laws."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from hypothesis import strategies as st

from interop.fhir.mappings.lens import ResourceMapping, Row
from storage.dental import TEETH

Case = tuple[ResourceMapping, st.SearchStrategy[Row], dict[str, st.SearchStrategy[Any]]]
PUBLIC = "https://example.org"
TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=12
)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
DAYS = st.dates(date(1850, 1, 1), date(2200, 1, 1))
TEETH_OR_NONE = st.none() | st.sampled_from([int(tooth.fdi) for tooth in TEETH])
SURFACES = st.none() | st.text("MODBLIFVP", min_size=1, max_size=6)
UIDS = st.from_regex(r"1\.2\.[1-9][0-9]{0,6}", fullmatch=True)


def ref(*types: str) -> st.SearchStrategy[str]:
    return st.builds(
        "{}/{}".format, st.sampled_from(types), st.from_regex(r"[a-z0-9\-.]{1,8}", fullmatch=True)
    )


def refs(*types: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.sets(ref(*types), max_size=4).map(lambda items: tuple(sorted(items)))


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def record(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries(columns)


def joined(*parts: st.SearchStrategy[Row]) -> st.SearchStrategy[Row]:
    return st.tuples(*parts).map(lambda items: {k: v for item in items for k, v in item.items()})


def enum(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


def distinct(rows: st.SearchStrategy[Row], *key: str) -> st.SearchStrategy[list[Row]]:
    def by(row: Row) -> tuple[Any, ...]:
        return tuple(row[column] for column in key)

    return st.lists(rows, max_size=4, unique_by=by if key else lambda row: repr(row))


def floats(low: float, high: float) -> st.SearchStrategy[float | None]:
    return maybe(st.floats(low, high))


BODY_SITE = record(tooth_number=TEETH_OR_NONE, surface=SURFACES)
