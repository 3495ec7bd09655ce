"""Segments that are converted while they are sent, so that no value is held in memory whole.

Encapsulated values go out without the item headers between their fragments (PS3.5 A.4), big endian
ones with the bytes of each word reversed (PS3.18 8.7.3). Both know their length before the first
byte is read, and can be cut.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import numpy as np
from anyio import to_thread

from interop.dicomweb.segments import ObjectRange, read_range
from storage.objects import ObjectStore

ITEM_HEADER_BYTES = 8


class ItemHeaders:
    """Takes the item headers out of a run of fragments that comes in pieces."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def removed(self, piece: bytes) -> bytes:
        """What of the next piece is content."""
        kept: list[bytes] = []
        at = 0
        while at < len(piece):
            if self._left:
                content = piece[at : at + self._left]
                self._left -= len(content)
                kept.append(content)
                at += len(content)
                continue
            wanted = ITEM_HEADER_BYTES - len(self._header)
            self._header += piece[at : at + wanted]
            at += wanted
            if len(self._header) == ITEM_HEADER_BYTES:
                self._left = int.from_bytes(self._header[4:], "little")
                self._header = b""
        return b"".join(kept)


async def without_item_headers(objects: ObjectStore, run: ObjectRange) -> AsyncIterator[bytes]:
    """The content of a run that begins at an item header."""
    items = ItemHeaders()
    async for piece in read_range(objects, run):
        # A million fragments of a byte each are a loop of a second.
        yield await to_thread.run_sync(items.removed, piece)


@dataclass(frozen=True, slots=True)
class FragmentedValue:
    """Some bytes of an encapsulated value.

    `offsets` says where its fragments lie in the object, `starts` where each begins in the value,
    with the value's length at the end.
    """

    key: str
    offsets: array[int]
    starts: array[int]
    at: int
    length: int

    def __len__(self) -> int:
        return self.length

    def cut(self, offset: int, length: int) -> FragmentedValue:
        """A part of these bytes."""
        return replace(self, at=self.at + offset, length=length)

    async def read(self, objects: ObjectStore) -> AsyncIterator[bytes]:
        """The bytes, from one range of the stored object."""
        if not self.length:
            return
        first = bisect_right(self.starts, self.at) - 1
        last = bisect_right(self.starts, self.at + self.length - 1) - 1
        begin = self.offsets[first] - ITEM_HEADER_BYTES
        end = self.offsets[last] + self.starts[last + 1] - self.starts[last]
        run = without_item_headers(objects, ObjectRange(self.key, begin, end - begin))
        async for piece in trimmed(run, self.at - self.starts[first], self.length):
            yield piece


@dataclass(frozen=True, slots=True)
class SwappedValue:
    """Some bytes of a big endian value of `size` bytes at `offset`, words of `word` bytes."""

    key: str
    offset: int
    size: int
    word: int
    at: int
    length: int

    def __len__(self) -> int:
        return self.length

    def cut(self, offset: int, length: int) -> SwappedValue:
        """A part of these bytes."""
        return replace(self, at=self.at + offset, length=length)

    async def read(self, objects: ObjectStore) -> AsyncIterator[bytes]:
        """The bytes, little endian; whole words are read and what was not asked for left out."""
        first = self.at - self.at % self.word
        last = min(self.size, self.at + self.length + self.word)
        stored = ObjectRange(self.key, self.offset + first, last - first)
        async for piece in trimmed(self._words(objects, stored), self.at - first, self.length):
            yield piece

    async def _words(self, objects: ObjectStore, stored: ObjectRange) -> AsyncIterator[bytes]:
        rest = b""
        async for piece in read_range(objects, stored):
            data = rest + piece
            whole = len(data) - len(data) % self.word
            yield swapped(data[:whole], self.word)
            rest = data[whole:]
        yield rest


def swapped(data: bytes, word: int) -> bytes:
    """The words of `data` with their bytes reversed; a rest that is no word stays."""
    whole = len(data) - len(data) % word
    return np.frombuffer(data[:whole], f">u{word}").astype(f"<u{word}").tobytes() + data[whole:]


async def trimmed(pieces: AsyncIterator[bytes], skip: int, length: int) -> AsyncIterator[bytes]:
    """`length` bytes of what the pieces are together, from `skip` on."""
    async for piece in pieces:
        wanted = piece[skip : skip + length]
        skip = max(skip - len(piece), 0)
        length -= len(wanted)
        if wanted:
            yield wanted
