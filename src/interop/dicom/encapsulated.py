"""Pixel Data of compressed frames, written one by one (PS3.5 A.4, PS3.3 C.7.6.3.1.8).

Each frame is one fragment. The offset table stands before the frames and is filled in after the
last of them: the Basic Offset Table, or the Extended one where 32 bits may not reach.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from struct import pack
from typing import BinaryIO

_ITEM = 0xFFFEE000
_DELIMITER = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_EXTENDED_OFFSET_TABLE = 0x7FE00001
_EXTENDED_OFFSET_TABLE_LENGTHS = 0x7FE00002
_PIXEL_DATA = 0x7FE00010
_LONGEST_FRAGMENT = 0xFFFFFFFE


class EncapsulatedPixelData:
    """Writes the element at the end of ``out``, which stands behind all smaller tags.

    ``largest`` is the most that the fragments may have together.
    """

    def __init__(self, out: BinaryIO, frames: int, largest: int) -> None:
        self._out = out
        self._frames = frames
        self._is_extended = largest + 8 * frames > _UNDEFINED
        self._lengths = array("Q")
        self._padded = array("Q")
        if self._is_extended:
            for tag in (_EXTENDED_OFFSET_TABLE, _EXTENDED_OFFSET_TABLE_LENGTHS):
                out.write(_element(tag, b"OV", 8 * frames))
                out.write(bytes(8 * frames))
        out.write(_element(_PIXEL_DATA, b"OB", _UNDEFINED))
        table = 0 if self._is_extended else 4 * frames
        out.write(_item(_ITEM, table))
        out.write(bytes(table))
        self._first_item = out.tell()

    def append(self, codestream: bytes) -> None:
        """Write the next frame. Raises ValueError for more than a fragment can be."""
        length = len(codestream) + len(codestream) % 2
        if length > _LONGEST_FRAGMENT:
            raise ValueError(f"a frame of {length} bytes does not fit a fragment")
        self._out.write(_item(_ITEM, length))
        self._out.write(codestream)
        self._out.write(b"\0" * (length - len(codestream)))
        self._lengths.append(len(codestream))
        self._padded.append(length + 8)

    def finish(self) -> None:
        """Write the delimiter and fill in the table."""
        assert len(self._lengths) == self._frames, "not every frame was written"
        self._out.write(_item(_DELIMITER, 0))
        end = self._out.tell()
        offsets = list(accumulate(self._padded, initial=0))[:-1]
        if self._is_extended:
            values = pack(f"<{self._frames}Q", *offsets)
            lengths = pack(f"<{self._frames}Q", *self._lengths)
            # Back over the empty table, the head of Pixel Data and the tables' own heads.
            at = self._first_item - 8 - 12 - 8 * self._frames
            self._out.seek(at)
            self._out.write(lengths)
            self._out.seek(at - 12 - 8 * self._frames)
            self._out.write(values)
        else:
            self._out.seek(self._first_item - 4 * self._frames)
            self._out.write(pack(f"<{self._frames}I", *offsets))
        self._out.seek(end)


def _element(tag: int, vr: bytes, length: int) -> bytes:
    return pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)


def _item(tag: int, length: int) -> bytes:
    return pack("<HHI", tag >> 16, tag & 0xFFFF, length)
