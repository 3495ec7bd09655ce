"""Dates, times, moments and numbers in the form in which they are compared: as text.

A range of text includes whatever begins with its end, so that each end counts at the precision that
it is written in. A moment whose offset from UTC is known is compared as UTC.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from interop.errors import BadRequest

_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?")
_OFFSET = r"[+-](?:0\d|1[0-4])[0-5]\d"
_MOMENT = rf"\d{{4}}(?:\d\d(?:\d\d(?:\d\d(?:\d\d(?:\d\d(?:\.\d{{1,6}})?)?)?)?)?)?(?:{_OFFSET})?"
_MOMENT_RANGE = re.compile(rf"(?P<low>{_MOMENT})?(?:(?P<dash>-)(?P<high>{_MOMENT})?)?")
_ENDS_IN_OFFSET = re.compile(rf"(.*?)({_OFFSET})")
_ZONE = re.compile(_OFFSET)


def date_range(keyword: str, value: str) -> tuple[str, str]:
    """The ends of a DA key; both are the same for a single value. Raises BadRequest."""
    expected = "YYYYMMDD, or a range such as 20260101-20261231"
    low, high = _ends(keyword, value, _DATE, expected)
    for bound in filter(None, (low, high)):
        if not is_calendar_date(bound):
            raise BadRequest(
                f"{keyword}={bound!r} is not a date of the calendar; expected {expected}"
            )
    return low, high


def time_range(keyword: str, value: str) -> tuple[str, str]:
    """The ends of a TM key. Raises BadRequest."""
    return _ends(keyword, value, _TIME, "HHMMSS.FFFFFF or its beginning, or a range of such")


def datetime_range(keyword: str, value: str, offset: int | None) -> tuple[str, str]:
    """The ends of a DT key, as UTC where an end, or else the query, has an offset."""
    found = _MOMENT_RANGE.fullmatch(value)
    if found is None or value == "-":
        raise BadRequest(
            f"{keyword}={value[:80]!r} is not valid; expected YYYYMMDDHHMMSS.FFFFFF&ZZXX or its"
            " beginning, or a range of such"
        )
    low = in_utc(found["low"] or "", offset)
    high = in_utc(found["high"] or "", offset) if found["dash"] else low
    return low, high


def _ends(keyword: str, value: str, form: re.Pattern[str], expected: str) -> tuple[str, str]:
    low, dash, high = value.partition("-")
    low, high = low.strip(), high.strip()
    bounds = [low, high] if dash else [low]
    if not any(bounds) or not all(form.fullmatch(b) for b in bounds if b):
        raise BadRequest(f"{keyword}={value[:80]!r} is not valid; expected {expected}")
    return low, high if dash else low


def is_calendar_date(text: str) -> bool:
    """Whether eight digits are a day."""
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


def days_from(day: str, days: int) -> str:
    """The day so many days later; the day itself at the ends of the calendar."""
    try:
        moved = date(int(day[:4]), int(day[4:6]), int(day[6:8])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return day
    return f"{moved:%Y%m%d}".rjust(8, "0")


def offset_of(text: str) -> int | None:
    """The minutes east of UTC that `&ZZXX` says (PS3.3 C.12.1.1.8); None for anything else."""
    if not _ZONE.fullmatch(text):
        return None
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    return -minutes if text[0] == "-" else minutes


def in_utc(moment: str, offset: int | None) -> str:
    """A DT value without its offset, as UTC where it or the caller (`offset`) names one.

    A value that ends before the hour stays: no offset can be taken from a day.
    """
    found = _ENDS_IN_OFFSET.fullmatch(moment)
    if found is not None:
        moment, offset = found[1], offset_of(found[2])
    if not offset or len(moment) < 10:
        return moment
    whole, dot, fraction = moment.partition(".")
    try:
        local = datetime.strptime(whole.ljust(14, "0"), "%Y%m%d%H%M%S")
        utc = local - timedelta(minutes=offset)
    except (ValueError, OverflowError):
        return moment
    shifted = utc.strftime("%Y%m%d%H%M%S").rjust(14, "0")
    # The minutes of the offset show, so an hour becomes an hour and minutes.
    digits = max(len(whole), 12 if offset % 60 else 10)
    return shifted[:digits] + dot + fraction


def is_moment(text: str) -> bool:
    """Whether the text is a DT value."""
    return re.fullmatch(_MOMENT, text) is not None


def is_time(text: str) -> bool:
    """Whether the text is a TM value."""
    return _TIME.fullmatch(text) is not None


def number_text(number: str | float) -> str:
    """One text for each number, whatever way it is written in. Raises ValueError, OverflowError."""
    value = float(number)
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{number} is no number")
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
