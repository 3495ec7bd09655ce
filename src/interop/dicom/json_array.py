"""An array of DICOM JSON data sets (PS3.18 F.2.1), read from a file one data set at a time.

The request of a store transaction holds all its instances in one array. Brackets are counted before
a parser sees anything, so that one data set, its nesting and the number of its values bound what
is in memory (security.md C2).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from interop.dicom.failures import LIMIT_EXCEEDED, MALFORMED, Failure
from interop.dicom.limits import DEFAULT_LIMITS, Limits

Json = dict[str, Any]

# Of one data set. A value costs its parser up to 100 bytes, whatever it costs the sender.
MAX_BYTES = 8 << 20
MAX_VALUES = 200_000
# Of a whole array: brackets are counted at some 3 MB a second.
MAX_ARRAY_VALUES = 5_000_000
# Each level of a sequence is an attribute, its array and an item.
_LEVELS_PER_SEQUENCE = 3
# A string that does not end is one token as well: none of its quotes begins another scan.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{}\[\],]', re.DOTALL)
_SPACE = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BRACE, _BRACE_END, _COMMA = b"{},"


@dataclass(frozen=True, slots=True)
class JsonDataSet:
    """One data set of an array: where its text lies."""

    path: Path
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    def read(self) -> Json:
        """Parse the text, with the digits of its numbers. Raises Failure."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            text = file.read(self.size)
        try:
            found: Json = json.loads(
                text,
                object_pairs_hook=_without_repeats,
                parse_float=str,
                parse_int=str,
                parse_constant=_refuse_constant,
            )
        except UnicodeDecodeError as error:
            raise _malformed(self.start + error.start, "the text is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise _malformed(self.start + error.pos, error.msg) from None
        except ValueError as error:
            raise Failure.of(MALFORMED, f"The metadata of an instance: {error}.") from None
        return found


def data_sets(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[JsonDataSet | Failure]:
    """Yield the data sets of an array, or the one that stands without an array.

    One that is refused is yielded as its Failure and the next one follows; where the array itself
    is broken, MALFORMED is raised.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise Failure.of(MALFORMED, "The metadata part is empty.")
        # Closed with its last reference: a scan that fails still holds it.
        data = mmap(file.fileno(), 0, access=ACCESS_READ)
    for start, end, problem in _Extents(data, limits):
        yield problem or JsonDataSet(path, start, end)


class _Extents:
    """Where each data set begins and ends, and what makes it one that is not parsed."""

    def __init__(self, data: mmap, limits: Limits) -> None:
        self._data = data
        self._limits = limits
        self._deepest = (limits.depth + 1) * _LEVELS_PER_SEQUENCE
        self._depth = self._values = self._start = 0
        self._all_values = 0
        self._problem: Failure | None = None
        self._is_separated = True
        # The depth at which data sets stand: in an array, or alone.
        self._top = 0

    def __iter__(self) -> Iterator[tuple[int, int, Failure | None]]:
        tokens = _TOKEN.finditer(self._data)
        after = self._begin(next(tokens, None))
        for token in tokens if self._top else _TOKEN.finditer(self._data):
            at, kind = token.start(), self._data[token.start()]
            if self._depth == self._top:
                _require_space(self._data, after, at)
                after = token.end()
            if kind in b"{[":
                self._open(at, kind)
            elif kind in b"}]":
                self._depth -= 1
                if self._depth > self._top:
                    continue
                if (kind == _BRACE_END) != (self._depth == self._top):
                    raise _malformed(at, "another bracket was opened")
                after = token.end()
                if self._depth == self._top:
                    yield self._start, after, self._problem or self._too_large(after)
                elif self._is_separated and self._start:
                    raise _malformed(at, "a comma stands before the end of the array")
                if self._depth < max(self._top, 1):
                    break
            else:
                self._between(at, kind)
        if self._depth >= max(self._top, 1):
            raise _malformed(len(self._data), "the text ends within the array or a data set")
        _require_space(self._data, after, len(self._data))

    def _begin(self, token: re.Match[bytes] | None) -> int:
        if token is None or token[0] not in (b"[", b"{"):
            raise _malformed(0, "an array of data sets is expected")
        mark = len(_BYTE_ORDER_MARK) * (self._data[:3] == _BYTE_ORDER_MARK)
        _require_space(self._data, mark, token.start())
        self._top = self._depth = 1 if token[0] == b"[" else 0
        return token.end() if self._top else token.start()

    def _open(self, at: int, kind: int) -> None:
        if self._depth == self._top:
            if kind != _BRACE or not self._is_separated:
                raise _malformed(at, "a data set, an object, is expected")
            self._start, self._values, self._problem = at, 0, None
            self._is_separated = False
        self._depth += 1
        self._values += 1
        if self._depth - self._top > self._deepest and self._problem is None:
            self._problem = Failure.of(
                LIMIT_EXCEEDED,
                f"Sequences are nested deeper than {self._limits.depth}, the most accepted.",
            )

    def _between(self, at: int, kind: int) -> None:
        """A comma or a string."""
        self._values += kind == _COMMA
        if self._depth == self._top:
            if kind != _COMMA or self._is_separated:
                raise _malformed(at, "a data set, an object, is expected")
            self._is_separated = True

    def _too_large(self, end: int) -> Failure | None:
        size = end - self._start
        self._all_values += self._values
        if self._all_values > MAX_ARRAY_VALUES:
            raise Failure.of(
                LIMIT_EXCEEDED,
                f"The metadata part has more than {MAX_ARRAY_VALUES} values; send the rest apart.",
            )
        if size > MAX_BYTES:
            return Failure.of(
                LIMIT_EXCEEDED,
                f"The metadata of an instance has {size} bytes; {MAX_BYTES} are taken. Send long"
                " values as bulk data.",
            )
        if self._values > MAX_VALUES:
            return Failure.of(
                LIMIT_EXCEEDED, f"The metadata of an instance has more than {MAX_VALUES} values."
            )
        return None


def _require_space(data: mmap, start: int, end: int) -> None:
    # No more than is shown: the rest may be a whole body of anything.
    if data[start : min(end, start + 4096)].strip(_SPACE) or end - start > 1 << 20:
        raise _malformed(start, "only white space may stand between data sets")


def _without_repeats(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice[:40]!r} stands twice in one object")
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number; send it as a string")


def _malformed(at: int, what: str) -> Failure:
    return Failure.of(MALFORMED, f"Not DICOM JSON at byte {at} of the metadata part: {what}.")
