"""A few limited child processes that decode for all threads of this process (security.md B5).

A child that takes too long, dies or answers nonsense is killed and replaced; the caller gets an
error that says so, and the parent never runs a codec itself. Children stay warm between requests.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any

import orjson

from interop.dicom.decode_child import FRAME
from interop.errors import Unavailable, Unprocessable

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
# A child is replaced after so many requests, whatever leaked in it.
CHILD_REQUESTS = 1000
_WAIT_SECONDS = 30.0
# The largest the kernel gives without asking: a picture crosses in one piece.
_PIPE_BYTES = 1 << 20
# Of the memory that bodies go through, what a child keeps for its next request.
_KEPT_BYTES = 32 << 20
_LARGEST_HEADER = 1 << 20
_LARGEST_BODY = 1 << 31


class DecodeChild:
    """One child process; used by one thread at a time. It imports its codecs while it waits."""

    def __init__(self) -> None:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._body = _memory_file()
        self._process = subprocess.Popen(  # noqa: S603  ourselves
            [sys.executable, "-m", "interop.dicom.decode_child", str(self._body)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            pass_fds=(self._body,),
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._streams = (self._process.stdin, self._process.stdout)
        self._stdin, self._stdout = (stream.fileno() for stream in self._streams)
        self.requests = 0
        for pipe in (self._stdin, self._stdout):
            os.set_blocking(pipe, False)
            with suppress(OSError, AttributeError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def ask(
        self, header: dict[str, Any], body: bytes, timeout: float
    ) -> tuple[dict[str, Any], bytes]:
        """Return the child's answer. Raises ChildFailed when there is none in time."""
        self.requests += 1
        deadline = time.monotonic() + timeout
        encoded = orjson.dumps(header)
        try:
            self._lay_out(body)
            self._send(FRAME.pack(len(encoded), len(body)) + encoded, deadline)
            answer, data = self._answer(deadline)
            if len(body) > _KEPT_BYTES:
                os.ftruncate(self._body, 0)
        except (OSError, ValueError) as error:
            raise ChildFailed from error
        if not isinstance(answer, dict):
            raise ChildFailed
        return answer, data

    def _lay_out(self, body: bytes) -> None:
        """Put the body where the child reads it.

        Written, not mapped: a child that was taken over could cut the file, and what is mapped
        beyond its end kills who touches it.
        """
        left, at = memoryview(body), 0
        while left:
            written = os.pwrite(self._body, left, at)
            left, at = left[written:], at + written

    def _send(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._stdin, left) :]
            except BlockingIOError:
                _wait(self._stdin, select.POLLOUT, deadline)

    def _answer(self, deadline: float) -> tuple[Any, bytes]:
        received = self._at_least(FRAME.size, b"", deadline)
        header_size, body_size = FRAME.unpack_from(received)
        # What was taken over may say anything of itself.
        if header_size > _LARGEST_HEADER or body_size > _LARGEST_BODY:
            raise ChildFailed
        start = FRAME.size + header_size
        received = self._at_least(start, received, deadline)
        data = self._at_least(body_size, received[start:], deadline)
        if len(data) != body_size:
            raise ChildFailed
        return orjson.loads(received[FRAME.size : start]), data

    def _at_least(self, size: int, received: bytes, deadline: float) -> bytes:
        """``received`` and what follows it, until there are ``size`` bytes; perhaps more."""
        if len(received) >= size:
            return received
        pieces, missing = [received], size - len(received)
        while missing > 0:
            try:
                piece = os.read(self._stdout, _PIPE_BYTES)
            except BlockingIOError:
                _wait(self._stdout, select.POLLIN, deadline)
                continue
            if not piece:
                raise ChildFailed
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        for stream in self._streams:
            with suppress(OSError, ValueError):
                stream.close()
        os.close(self._body)
        self._process.kill()
        self._process.wait()


def _memory_file() -> int:
    """A file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("decode-body")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _wait(pipe: int, event: int, deadline: float) -> None:
    """Wait until the child reads or has written. Raises ChildFailed at the deadline."""
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        raise ChildFailed


class ChildFailed(Exception):
    """The decoding process ended or ran out of time or memory."""


class DecodePool:
    """Starts children when they are first needed, at most ``size`` of them."""

    def __init__(self, size: int = 2, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        # None stands for a child that is not running yet.
        self._idle: queue.LifoQueue[DecodeChild | None] = queue.LifoQueue()
        for _ in range(size):
            self._idle.put(None)

    def warm(self) -> None:
        """Start a child now, so that the first who asks does not wait for its imports."""
        with suppress(queue.Empty):
            # The last in is the first out: an idle child that runs is found here.
            self._idle.put(self._idle.get_nowait() or DecodeChild())

    def ask(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Return (header, body) of the answer.

        Raises Unprocessable where the pixels cannot be decoded within the limits, Unavailable
        where all children stay busy.
        """
        try:
            child = self._idle.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            raise Unavailable("all decoders are busy; try again later") from None
        try:
            child = child or DecodeChild()
            answer, data = child.ask(header, body, self._timeout)
            if child.requests >= CHILD_REQUESTS:
                child.close()
                child = DecodeChild()
        except ChildFailed:
            logger.warning("decode.child.failed", extra={"pid": child.pid if child else 0})
            if child is not None:
                child.close()
            # The next who asks finds one that is ready, or nearly.
            child = DecodeChild()
            raise Unprocessable(
                "the image cannot be rendered: decoding it took too long or too much memory"
            ) from None
        finally:
            self._idle.put(child)
        if "error" in answer:
            raise Unprocessable(f"the image cannot be rendered: {answer['error']}")
        return answer, data

    def close(self) -> None:
        """Stop the idle children."""
        taken = []
        with suppress(queue.Empty):
            while True:
                taken.append(self._idle.get_nowait())
        for child in taken:
            if child is not None:
                child.close()
            self._idle.put(None)


_pools: dict[int, DecodePool] = {}
_pools_lock = threading.Lock()


def shared_pool() -> DecodePool:
    """Return this process's pool; a forked process makes its own."""
    pid = os.getpid()
    with _pools_lock:
        pool = _pools.get(pid)
        if pool is None:
            if not _pools:
                atexit.register(close_shared_pool)
            _pools.clear()
            pool = _pools[pid] = DecodePool()
        return pool


def close_shared_pool() -> None:
    """Stop the children of this process."""
    with _pools_lock:
        pool = _pools.pop(os.getpid(), None)
    if pool is not None:
        pool.close()
