"""Messages between the server and its inference child: a JSON head and a block of bytes.

Frame: two little-endian uint32 (length of head, length of block), head, block. Every length is
checked before memory is taken, and every wait has a deadline.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

MAX_HEAD_BYTES = 4 << 20
MAX_BLOCK_BYTES = 256 << 20
_LENGTHS = struct.Struct("<II")
_CHUNK = 1 << 20


class WireClosed(Exception):
    """The other side closed its end of the pipe."""


class WireTimeout(Exception):
    """The other side did not read or answer in time."""


class WireInvalid(Exception):
    """The other side sent what is no frame."""


def send(
    descriptor: int, head: dict[str, Any], block: bytes | memoryview, deadline: float | None = None
) -> None:
    """Write one frame before `deadline` (time.monotonic); None waits for ever."""
    text = json.dumps(head, allow_nan=True).encode()
    if len(text) > MAX_HEAD_BYTES or len(block) > MAX_BLOCK_BYTES:
        raise WireInvalid(f"a frame of {len(text)} and {len(block)} bytes is too large")
    for part in (_LENGTHS.pack(len(text), len(block)) + text, block):
        view = memoryview(part).cast("B")
        while view:
            _wait(descriptor, deadline, write=True)
            try:
                view = view[os.write(descriptor, view[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError) as error:
                raise WireClosed from error


def receive(
    descriptor: int, deadline: float | None = None, *, max_block: int = MAX_BLOCK_BYTES
) -> tuple[dict[str, Any], bytearray]:
    """Read one frame before `deadline` (time.monotonic); None waits for ever."""
    head_length, block_length = _LENGTHS.unpack(_read(descriptor, _LENGTHS.size, deadline))
    if head_length > MAX_HEAD_BYTES or block_length > max_block:
        raise WireInvalid(f"a frame of {head_length} and {block_length} bytes is too large")
    head = _read(descriptor, head_length, deadline)
    block = _read(descriptor, block_length, deadline)
    try:
        document = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise WireInvalid(f"the head is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise WireInvalid("the head is no JSON object")
    return document, block


def _read(descriptor: int, count: int, deadline: float | None) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        _wait(descriptor, deadline, write=False)
        try:
            got = os.readv(descriptor, [view[:_CHUNK]])
        except BlockingIOError:
            continue
        if got == 0:
            raise WireClosed
        view = view[got:]
    return data


def _wait(descriptor: int, deadline: float | None, *, write: bool) -> None:
    """Wait until the descriptor is ready. poll, unlike select, takes descriptors above 1023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if write else select.POLLIN)
    if deadline is None:
        poll.poll()
        return
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(int(left * 1000) + 1):
        raise WireTimeout
