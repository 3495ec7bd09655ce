"""What values mean when they are compared: dates as intervals, numbers with precision, folded text.

Extraction and search both read values here, so that they cannot disagree (FHIR R4 search.html
3.1.1.4.5 to 3.1.1.4.9).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from calendar import monthrange
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from functools import lru_cache

# Longer texts are indexed by their beginning; a btree entry must stay under 2,704 bytes.
INDEXED_CHARACTERS = 256
# Longer codes and URIs are indexed by their digest, which keeps equality exact.
KEY_CHARACTERS = 256
GRAM_LENGTH = 3

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)

_DATE = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)(?:T(?P<hour>\d\d):(?P<minute>\d\d)"
    r"(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)?(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?",
    re.ASCII,
)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_SPACES = re.compile(r"[\s\x00-\x1f]+")
_MARKS = re.compile("[̀-ͯ]")

Interval = tuple[datetime, datetime]


# -- dates ----------------------------------------------------------------------------------


# The times of a resource are mostly the same one. What is no date raises, and is not kept.
@lru_cache(8192)
def date_interval(text: str) -> Interval:
    """The half-open interval that a date or time of any precision covers; UTC without a zone.

    Raises ValueError for what is not a date, 2021-02-30 included.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a date such as 2024, 2024-05-17 or 2024-05-17T09:30:00Z")
    year, month, day = (int(found[part] or 1) for part in ("year", "month", "day"))
    low = datetime(year, month, day, tzinfo=UTC)
    try:
        if found["hour"] is None:
            return low, _after_date(low, found["month"], found["day"])
        return _time_interval(low, found)
    except OverflowError:
        return low, LATEST


def _after_date(low: datetime, month: str | None, day: str | None) -> datetime:
    if day:
        return low + timedelta(days=1)
    days = monthrange(low.year, low.month)[1] if month else (366 if _is_leap(low.year) else 365)
    return low + timedelta(days=days)


def _is_leap(year: int) -> bool:
    return monthrange(year, 2)[1] == 29


def _time_interval(date: datetime, found: re.Match[str]) -> Interval:
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    # R4 allows the leap second 60; it is the end of its minute. 24:00 is not allowed.
    extra = timedelta(seconds=1) if second == 60 else timedelta()
    fraction = (found["fraction"] or "")[:6]
    low = date.replace(
        hour=hour,
        minute=minute,
        second=59 if second == 60 else second,
        microsecond=int(fraction.ljust(6, "0")),
        tzinfo=_zone(found["zone"]),
    )
    if found["second"] is None:
        width = timedelta(minutes=1)
    else:
        width = timedelta(microseconds=10 ** (6 - len(fraction)))
    low = low.astimezone(UTC) + extra
    return low, low + width


def _zone(text: str | None) -> timezone:
    if text in (None, "Z"):
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


# -- numbers --------------------------------------------------------------------------------


def parse_number(text: str) -> Decimal:
    """A FHIR decimal. Raises ValueError."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number such as 5, 5.40 or 1e-3")
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number") from None
    if value and abs(value.adjusted()) > 307:
        raise ValueError(f"{text!r} is beyond what is indexed (1e307)")
    return value


def precision_interval(value: Decimal) -> tuple[Decimal, Decimal]:
    """The numbers that round to `value` at its own precision: 100 means 99.5 to 100.5."""
    half = Decimal((0, (5,), int(value.as_tuple().exponent) - 1))
    return value - half, value + half


def approximate_interval(value: Decimal) -> tuple[Decimal, Decimal]:
    """search.html: ap is 10 % of the stated value."""
    margin = abs(value) / 10
    return value - margin, value + margin


# -- text -----------------------------------------------------------------------------------


def fold(text: str) -> str:
    """Text as search compares it: no case, no accents, single spaces, punctuation kept."""
    if text.isascii():
        return _SPACES.sub(" ", text.lower()).strip()
    compatible = unicodedata.normalize("NFKD", text).casefold()
    decomposed = unicodedata.normalize("NFKD", compatible).casefold()
    return _SPACES.sub(" ", _MARKS.sub("", decomposed)).strip()


def exact_key(text: str) -> str:
    """A code or URI as it is indexed: itself, or its beginning and digest when it is long."""
    if len(text) <= KEY_CHARACTERS:
        return text
    return f"{text[:64]}…{hashlib.sha256(text.encode()).hexdigest()}"


def grams(folded: str) -> set[str]:
    """Each run of three characters of a folded text."""
    return {folded[at : at + GRAM_LENGTH] for at in range(len(folded) - GRAM_LENGTH + 1)}


def phonetic_words(text: str) -> list[str]:
    """The Soundex code of each word, for the `phonetic` parameters."""
    return [code for word in fold(text).split(" ") if (code := _soundex(word))]


_SOUNDEX = {
    letter: digit
    for letters, digit in (
        ("bfpv", "1"),
        ("cgjkqsxz", "2"),
        ("dt", "3"),
        ("l", "4"),
        ("mn", "5"),
        ("r", "6"),
    )
    for letter in letters
}


def _soundex(word: str) -> str:
    letters = [letter for letter in word if letter.isalpha()]
    if not letters:
        return ""
    code, last = letters[0], _SOUNDEX.get(letters[0], "")
    for letter in letters[1:]:
        digit = _SOUNDEX.get(letter, "")
        if digit and digit != last:
            code += digit
        if letter not in "hw":
            last = digit
    return code[:4].ljust(4, "0")


def expiry_margin(interval: Interval, now: datetime) -> timedelta:
    """search.html: ap on a date is 10 % of the gap between it and now."""
    gap = abs(now - interval[0]) // 10
    seconds = Decimal(gap.total_seconds()).to_integral_value(ROUND_FLOOR)
    return timedelta(seconds=int(seconds))


def shifted(moment: datetime, by: timedelta) -> datetime:
    """A moment moved, within the range of the calendar."""
    try:
        return moment + by
    except OverflowError:
        return LATEST if by > timedelta() else EARLIEST
