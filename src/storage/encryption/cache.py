"""Unwrapped keys in memory: few, and not for long.

What is kept is not the key but the OpenSSL context made of it, which OpenSSL overwrites with zeros
when it is freed (OPENSSL_cleanse); the bytes themselves were overwritten when it was made. A key
that nobody asks for is dropped on time all the same: a thread waits for the next to expire, and
ends when none is left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

MAX_SECONDS = 300.0
MAX_KEYS = 1024

# Tenant (None: the platform), purpose and version.
KeyName = tuple[UUID | None, str, int]


class KeyCache:
    """Keys by name, the oldest dropped first; safe for all threads of a process."""

    def __init__(
        self,
        *,
        seconds: float = MAX_SECONDS,
        size: int = MAX_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < seconds <= MAX_SECONDS:
            raise ValueError(f"keys are kept for more than 0 and at most {MAX_SECONDS} s")
        self._seconds = seconds
        self._size = size
        self._clock = clock
        # In the order of insertion, which is the order in which they expire.
        self._kept: dict[KeyName, tuple[float, Any]] = {}
        self._lock = threading.Lock()
        self._reaper: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: KeyName) -> Any:
        """The key, or None. Takes no lock."""
        found = self._kept.get(name)
        return found[1] if found is not None and found[0] > self._clock() else None

    def put(self, name: KeyName, key: Any) -> None:
        with self._lock:
            self._kept.pop(name, None)
            while len(self._kept) >= self._size:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = (self._clock() + self._seconds, key)
            if self._reaper is None:
                self._reaper = threading.Thread(target=self._reap, name="key-reaper", daemon=True)
                self._reaper.start()

    def forget(self, tenant_id: UUID | None) -> None:
        """Drop the keys of one tenant."""
        with self._lock:
            for name in [name for name in self._kept if name[0] == tenant_id]:
                del self._kept[name]

    def drop_expired(self) -> float | None:
        """Drop what is too old. Returns the seconds until the next one is; None: none is left."""
        with self._lock:
            now = self._clock()
            for name, (expires_at, _) in list(self._kept.items()):
                if expires_at > now:
                    return expires_at - now
                del self._kept[name]
            self._reaper = None
            return None

    def _reap(self) -> None:
        while (wait := self.drop_expired()) is not None:
            time.sleep(wait)
