"""A few limited child processes that decode for all threads of this process (security.md B5).

A child that takes too long, dies or answers nonsense is killed and replaced; the caller gets an
error that says so, and the parent never runs a codec itself.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO, cast

from interop.dicom.decode_child import read_message, write_message
from interop.errors import Unavailable, Unprocessable

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
_WAIT_SECONDS = 30.0


class DecodeChild:
    """One child process; used by one thread at a time."""

    def __init__(self) -> None:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "interop.dicom.decode_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def ask(
        self, header: dict[str, Any], body: bytes, timeout: float
    ) -> tuple[dict[str, Any], bytes]:
        """Return the child's answer. Raises ChildFailed when there is none in time."""
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        try:
            write_message(cast(BinaryIO, self._process.stdin), header, body)
            answer = read_message(cast(BinaryIO, self._process.stdout))
        except (OSError, ValueError) as error:
            raise ChildFailed from error
        finally:
            timer.cancel()
        if answer is None or not isinstance(answer[0], dict):
            raise ChildFailed
        return answer

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                cast(BinaryIO, stream).close()
        self._process.kill()
        self._process.wait()


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
        except ChildFailed:
            logger.warning("decode.child.failed", extra={"pid": child.pid if child else 0})
            if child is not None:
                child.close()
            child = None
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
