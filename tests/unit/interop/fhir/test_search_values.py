"""Dates as intervals, numbers with precision, folded text: the ground under search."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.fhir.search.clauses import split_values, unescape
from interop.fhir.search.request import Cursor
from interop.fhir.search.values import (
    LATEST,
    date_interval,
    exact_key,
    fold,
    grams,
    parse_number,
    precision_interval,
)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2024", utc(2024, 1, 1), utc(2025, 1, 1)),
        ("2023", utc(2023, 1, 1), utc(2024, 1, 1)),
        ("2024-02", utc(2024, 2, 1), utc(2024, 3, 1)),
        ("2024-12", utc(2024, 12, 1), utc(2025, 1, 1)),
        ("2024-02-29", utc(2024, 2, 29), utc(2024, 3, 1)),
        ("2024-01-01T10:00Z", utc(2024, 1, 1, 10), utc(2024, 1, 1, 10, 1)),
        ("2024-01-01T10:00:00Z", utc(2024, 1, 1, 10), utc(2024, 1, 1, 10, 0, 1)),
        ("2024-01-01T10:00:00+02:00", utc(2024, 1, 1, 8), utc(2024, 1, 1, 8, 0, 1)),
        ("2024-01-01T00:30:00-05:30", utc(2024, 1, 1, 6), utc(2024, 1, 1, 6, 0, 1)),
        ("2016-12-31T23:59:60Z", utc(2017, 1, 1), utc(2017, 1, 1, 0, 0, 1)),
    ],
)
def test_a_date_covers_its_precision(text: str, low: datetime, high: datetime) -> None:
    assert date_interval(text) == (low, high)


def test_fractions_narrow_the_interval() -> None:
    low, high = date_interval("2024-01-01T10:00:00.25Z")

    assert high - low == timedelta(milliseconds=10)
    assert low == utc(2024, 1, 1, 10, 0, 0, 250_000)
    assert date_interval("2024-01-01T10:00:00.1234567Z")[0].microsecond == 123_456


@pytest.mark.parametrize("text", ["9999", "9999-12-31", "9999-12-31T23:59:59Z"])
def test_the_end_of_the_calendar_is_open(text: str) -> None:
    assert date_interval(text)[1] == LATEST or date_interval(text)[1] <= LATEST


@pytest.mark.parametrize(
    "text",
    ["", "24", "2024-13", "2024-02-30", "2023-02-29", "2024-1-1", "2024-01-01T25:00:00Z",
     "2024-01-01T24:00:00Z", "0000", "2024-01-01T10", "now", "2024-01-01T10:00:00+99:00",
     "２０２４"],
)  # fmt: skip
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        date_interval(text)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("100", 99.5, 100.5),
        ("100.00", 99.995, 100.005),
        ("1e2", 50.0, 150.0),
        ("1.0e2", 95.0, 105.0),
        ("5.4", 5.35, 5.45),
        ("-5.4", -5.45, -5.35),
        ("0", -0.5, 0.5),
    ],
)
def test_a_number_covers_its_precision(text: str, low: float, high: float) -> None:
    assert tuple(map(float, precision_interval(parse_number(text)))) == (low, high)


@pytest.mark.parametrize(
    "text", ["", "abc", "1e999", "NaN", "Infinity", "0x1", "1,5", "--1", "01", "1."]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_number(text)


def test_folding_removes_case_accents_and_extra_spaces() -> None:
    assert fold("  Émile   MÜLLER-ß\n") == "emile muller-ss"
    assert fold("Ａｂｃ") == "abc"


@given(st.text(max_size=40))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.text(max_size=30), st.integers(0, 29), st.integers(0, 29))
def test_a_part_has_only_grams_of_the_whole(text: str, start: int, end: int) -> None:
    assert grams(text[start:end]) <= grams(text)


def test_long_codes_keep_equality() -> None:
    one, other = "x" * 5000 + "a", "x" * 5000 + "b"

    assert exact_key(one) != exact_key(other)
    assert len(exact_key(one)) < 300
    assert exact_key("short") == "short"


@given(st.lists(st.text(",|$\\ab", max_size=5), min_size=1, max_size=5))
def test_escaped_values_are_split_and_read_as_they_were(values: list[str]) -> None:
    def escape(text: str) -> str:
        for character in "\\,|$":
            text = text.replace(character, "\\" + character)
        return text

    parts = split_values(",".join(escape(value) for value in values))

    assert [unescape(part) for part in parts] == values


@given(st.lists(st.none() | st.text(max_size=5), max_size=4), st.text(max_size=10))
def test_a_cursor_comes_back_whole(keys: list[str | None], resource_id: str) -> None:
    cursor = Cursor(tuple(keys), resource_id)

    assert Cursor.decode(cursor.encode()) == cursor


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=3
    )
)
def test_a_value_lies_within_its_own_precision(value: Decimal) -> None:
    low, high = precision_interval(value)

    assert low <= value <= high
