"""How one FHIR value becomes one column value and back.

`get` answers None for an absent node and for one that the column cannot hold: such a value stays
in the stored resource. `put` is called only when the column says something else than the node does
(lens.py), so a value that means the same, however it is written, is never rewritten.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, Protocol

UCUM: Final = "http://unitsofmeasure.org"

# FHIR R4 datatypes.html#dateTime; a time must have seconds and a zone.
_DATE_TIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2}))?"
)


class Converter(Protocol):
    """One node against one column, or against a tuple of columns."""

    @property
    def label(self) -> str:
        """What the conversion is, in a few words, for the generated documentation."""
        ...

    def get(self, node: Any) -> Any: ...

    def put(self, value: Any, node: Any) -> Any:
        """The node that says `value`, made from the old node; None to remove it."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A string; an empty one is no value, as FHIR has none."""

    label: str = "string"

    def get(self, node: Any) -> str | None:
        return node if isinstance(node, str) and node else None

    def put(self, value: str | None, node: Any) -> str | None:
        return value or None


@dataclass(frozen=True, slots=True)
class Boolean:
    """A boolean."""

    label: str = "boolean"

    def get(self, node: Any) -> bool | None:
        return node if isinstance(node, bool) else None

    def put(self, value: bool | None, node: Any) -> bool | None:
        return value


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number."""

    label: str = "integer"

    def get(self, node: Any) -> int | None:
        return node if isinstance(node, int) and not isinstance(node, bool) else None

    def put(self, value: int | None, node: Any) -> int | None:
        return value


@dataclass(frozen=True, slots=True)
class Counted(Integer):
    """A whole number that an integer column holds, from `low`."""

    low: int = 0
    label: str = "integer"

    def get(self, node: Any) -> int | None:
        value = Integer.get(self, node)
        return value if value is not None and self.low <= value < 2**31 else None


def number(node: Any) -> Decimal | None:
    """A JSON number as a decimal with the digits that were sent."""
    if isinstance(node, bool) or not isinstance(node, int | float | Decimal):
        return None
    return Decimal(str(node))


@dataclass(frozen=True, slots=True)
class Float:
    """A number that a double precision column holds, within `low` and `high`."""

    low: float = float("-inf")
    high: float = float("inf")
    label: str = "decimal"

    def get(self, node: Any) -> float | None:
        value = number(node)
        if value is None or not self.low <= float(value) <= self.high:
            return None
        return float(value)

    def put(self, value: float | None, node: Any) -> Decimal | None:
        return None if value is None else Decimal(str(value))


@dataclass(frozen=True, slots=True)
class Day:
    """A full date; a year or a month has no counterpart in a date column."""

    label: str = "date; a partial date stays in the resource"

    def get(self, node: Any) -> date | None:
        if not isinstance(node, str) or not _DATE_TIME.fullmatch(node):
            return None
        try:
            return date.fromisoformat(node[:10])
        except ValueError:
            return None

    def put(self, value: date | None, node: Any) -> str | None:
        return None if value is None else value.isoformat()


@dataclass(frozen=True, slots=True)
class Moment:
    """A dateTime or instant; a bare date is midnight UTC, less than that stays in the resource."""

    label: str = "dateTime; a bare date is midnight UTC, a partial date stays in the resource"

    def get(self, node: Any) -> datetime | None:
        if not isinstance(node, str) or not _DATE_TIME.fullmatch(node):
            return None
        try:
            value = datetime.fromisoformat(node)
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # 2024-02-30, a leap second, before the year 1
            return None

    def put(self, value: datetime | None, node: Any) -> str | None:
        return None if value is None else instant(value)


_INTERVAL = re.compile(r"(?P<year>\d{4})(?:-(?P<month>\d{2})(?:-(?P<day>\d{2})(?P<time>T.+)?)?)?")


def first_moment(node: Any) -> datetime | None:
    """The first moment of the interval that a dateTime of any precision means."""
    return _bounds(node)[0]


def last_moment(node: Any) -> datetime | None:
    """The last moment of the interval that a dateTime of any precision means.

    A Period includes all of its end (datatypes.html#Period): what ends in "2026" holds all 2026.
    """
    return _bounds(node)[1]


def _bounds(node: Any) -> tuple[datetime, datetime] | tuple[None, None]:
    match = _INTERVAL.fullmatch(node) if isinstance(node, str) else None
    if match is None:
        return None, None
    if match["time"]:
        # A leap second (FHIR allows :60) is the end of the one before.
        moment = Moment().get(re.sub(r"(T\d{2}:\d{2}):60", r"\1:59", match[0]))
        return (moment, moment) if moment else (None, None)
    year, month, day = int(match["year"]), match["month"], match["day"]
    try:
        first = datetime(year, int(month or 1), int(day or 1), tzinfo=UTC)
        last_month = int(month or 12)
        last_day = int(day) if day else monthrange(year, last_month)[1]
        last = datetime(year, last_month, last_day, 23, 59, 59, 999999, tzinfo=UTC)
    except ValueError:  # 2024-02-30
        return None, None
    return first, last


@dataclass(frozen=True, slots=True)
class LastMoment:
    """The end of a period, which includes all of a partial date."""

    label: str = "dateTime; the last moment of a date or of a partial date, UTC"

    def get(self, node: Any) -> datetime | None:
        return last_moment(node)

    def put(self, value: datetime | None, node: Any) -> str | None:
        return None if value is None else instant(value)


def instant(value: datetime) -> str:
    """A point in time as FHIR writes it, in UTC."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Codes:
    """A code of a required value set against an enum; several codes may mean one enum value."""

    codes: Mapping[str, str]
    label: str = ""
    enum_to_code: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        first: dict[str, str] = {}
        for code, value in self.codes.items():
            first.setdefault(value, code)
        object.__setattr__(self, "enum_to_code", first)
        if not self.label:
            pairs = ", ".join(f"{code} = {value}" for code, value in self.codes.items())
            object.__setattr__(self, "label", pairs)

    def get(self, node: Any) -> str | None:
        return self.codes.get(node) if isinstance(node, str) else None

    def put(self, value: str | None, node: Any) -> str | None:
        return None if value is None else self.enum_to_code.get(value)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity in one UCUM unit; others are accepted by conversion.

    `places` are the decimals that the column keeps; more of them stay in the resource.
    """

    unit: str
    shown: str = ""
    # unit -> (factor, offset): value * factor + offset in our unit
    accepted: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    low: float = float("-inf")
    high: float = float("inf")
    places: int | None = None

    @property
    def label(self) -> str:
        others = f" (also {', '.join(self.accepted)})" if self.accepted else ""
        return f"Quantity in {self.unit}{others}"

    def get(self, node: Any) -> Any:
        if not isinstance(node, Mapping) or node.get("comparator"):
            return None
        value, unit = number(node.get("value")), node.get("code") or node.get("unit")
        if value is None or node.get("system", UCUM) != UCUM:
            return None
        if unit != self.unit:
            if unit is None or unit not in self.accepted:
                return None
            factor, offset = self.accepted[unit]
            value = Decimal(str(round(float(value) * factor + offset, 4)))
        if self.places is not None:
            value = value.quantize(Decimal(1).scaleb(-self.places), ROUND_HALF_UP)
        if not self.low <= float(value) <= self.high:
            return None
        return float(value) if self.places is None else value

    def put(self, value: Any, node: Any) -> Any:
        if value is None:
            return None
        kept = {key: node[key] for key in ("id", "extension") if key in (node or {})}
        unit = {"unit": self.shown or self.unit, "system": UCUM, "code": self.unit}
        return {**kept, "value": plain(Decimal(str(value))), **unit}


def plain(value: Decimal) -> Decimal:
    """A decimal without the zeros and the exponent that a column's type has added."""
    normal = value.normalize()
    return normal if normal.as_tuple().exponent <= 0 else normal.quantize(Decimal(1))  # type: ignore[operator]
