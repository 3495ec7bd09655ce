"""Dates, dateTimes and times of FHIRPath, compared by the precision that they have (N1 4.1, 6.2).

A comparison of values with different precision that agree as far as both go is neither true nor
false: it is None here, FHIRPath's empty.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

_MOMENT = re.compile(
    r"(?P<year>[0-9]{4})(?:-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2}))?)?"
    r"(?P<t>T)?(?:(?P<hour>[0-9]{2})(?::(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2}(?:\.[0-9]+)?))?)?(?P<zone>Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_TIME = re.compile(r"T?([0-9]{2})(?::([0-9]{2})(?::([0-9]{2}(?:\.[0-9]+)?))?)?")
_FIELDS = ("year", "month", "day", "hour", "minute")
_DATE_PARTS = 3
_MONTHS = 12
_FIRST = (1, 1, 1, 0, 0, 0)
# How long calendar units are in seconds; years and months are counted in months.
_SECONDS = {
    "week": Decimal(604800),
    "day": Decimal(86400),
    "hour": Decimal(3600),
    "minute": Decimal(60),
    "second": Decimal(1),
    "millisecond": Decimal("0.001"),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A date or dateTime. `parts` ends where its precision does; seconds are a Decimal."""

    text: str
    parts: tuple[int | Decimal, ...]
    zone: timezone | None
    is_date: bool

    def in_utc(self) -> tuple[int | Decimal, ...]:
        """The parts on the clock of UTC, where there are hours and minutes to move."""
        if self.zone is None or len(self.parts) <= _DATE_PARTS + 1:
            return self.parts
        year, month, day, hour, minute, *second = self.parts
        try:
            moved = datetime(
                int(year), int(month), int(day), int(hour), int(minute), tzinfo=self.zone
            ).astimezone(UTC)
        except (OverflowError, ValueError):
            return self.parts
        return (moved.year, moved.month, moved.day, moved.hour, moved.minute, *second)


@dataclass(frozen=True, slots=True)
class Time:
    """A time of day."""

    text: str
    parts: tuple[int | Decimal, ...]


def moment(text: str) -> Moment | None:
    """Read a FHIR date, dateTime or instant; None where it is none."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    parts: list[int | Decimal] = [int(found[name]) for name in _FIELDS if found[name]]
    if found["second"]:
        parts.append(Decimal(found["second"]))
    return Moment(text, tuple(parts), _zone(found["zone"]), found["t"] is None)


def time_of_day(text: str) -> Time | None:
    """Read a time; None where it is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    hour, minute, second = found.groups()
    parts: list[int | Decimal] = [int(part) for part in (hour, minute) if part]
    if second:
        parts.append(Decimal(second))
    return Time(text.removeprefix("T"), tuple(parts))


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text == "Z":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def compare(left: Moment | Time, right: Moment | Time) -> int | None:
    """-1, 0 or 1; None where precision or a missing time zone leaves it open."""
    if type(left) is not type(right):
        return None
    if isinstance(left, Moment) and isinstance(right, Moment):
        has_times = len(left.parts) > _DATE_PARTS and len(right.parts) > _DATE_PARTS
        if has_times and (left.zone is None) != (right.zone is None):
            return None
        ours, theirs = (left.in_utc(), right.in_utc()) if has_times else (left.parts, right.parts)
    else:
        ours, theirs = left.parts, right.parts
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            return -1 if one < other else 1
    return 0 if len(ours) == len(theirs) else None


def shifted(start: Moment, amount: Decimal, unit: str) -> Moment | None:
    """`start` and so many calendar units; None beyond the years 1 to 9999."""
    unit = unit.removesuffix("s")
    months = {"year": _MONTHS, "month": 1}.get(unit)
    try:
        if months is not None:
            return _by_months(start, int(amount) * months)
        return _by_seconds(start, amount * _SECONDS[unit])
    except (KeyError, OverflowError, ValueError):
        return None


def _by_months(start: Moment, months: int) -> Moment:
    year, month, *rest = (*start.parts, *_FIRST[1:2]) if len(start.parts) == 1 else start.parts
    index = int(year) * _MONTHS + int(month) - 1 + months
    year, month = index // _MONTHS, index % _MONTHS + 1
    if not 1 <= year <= datetime.max.year:
        raise OverflowError
    if rest:
        rest[0] = min(int(rest[0]), calendar.monthrange(int(year), int(month))[1])
    return _of_parts((year, month, *rest)[: len(start.parts)], start)


def _by_seconds(start: Moment, seconds: Decimal) -> Moment:
    year, month, day, hour, minute, second = start.parts + _FIRST[len(start.parts) :]
    microseconds = int(Decimal(second) * 1_000_000)
    begin = datetime(int(year), int(month), int(day), int(hour), int(minute))
    end = begin + timedelta(microseconds=microseconds + int(seconds * 1_000_000))
    fraction = Decimal(end.microsecond) / 1_000_000
    exact = Decimal(end.second) + fraction if fraction else Decimal(end.second)
    parts = (end.year, end.month, end.day, end.hour, end.minute, exact)
    return _of_parts(parts[: len(start.parts)], start)


def _of_parts(parts: tuple[int | Decimal, ...], like: Moment) -> Moment:
    text = "-".join(
        f"{part:0{width}d}" for part, width in zip(map(int, parts[:3]), (4, 2, 2), strict=False)
    )
    if len(parts) > _DATE_PARTS:
        clock = [f"{int(part):02d}" for part in parts[3:5]]
        clock += [f"{part:0>2}" if part == int(part) else f"{part:06.3f}" for part in parts[5:]]
        text += "T" + ":".join(clock) + _zone_text(like.zone)
    elif not like.is_date:
        text += "T"
    return Moment(text, parts, like.zone, like.is_date)


def _zone_text(zone: timezone | None) -> str:
    if zone is None:
        return ""
    return "Z" if zone is UTC else datetime(2000, 1, 1, tzinfo=zone).isoformat()[19:]
