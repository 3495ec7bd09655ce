"""Numbered places that the processes of one machine share, held by locks of the kernel.

A place is one locked byte of a file. The kernel frees it when its process ends, however it ends,
so nothing is left to clean up and no count can go wrong. Several machines do not see each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """One place that was taken, to be given back."""

    name: str
    number: int


@dataclass(slots=True)
class _Row:
    descriptor: int
    held: set[int] = field(default_factory=set)


class SharedPlaces:
    """Rows of places in a folder. Thread-safe; one instance a process and folder.

    Locks of this kind belong to the process, and go when it closes the file once: so a row keeps
    its one descriptor as long as a place of it is held.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}

    def take(self, name: str, limit: int) -> Place | None:
        """Take a place of the row that has `limit` of them; None when all are taken.

        Raises OSError when the folder cannot be used.
        """
        with self._lock:
            row = self._rows.get(name) or self._open(name)
            try:
                for number in range(limit):
                    if number not in row.held and _try_lock(row.descriptor, number):
                        row.held.add(number)
                        return Place(name, number)
                return None
            finally:
                self._close_if_empty(name)

    def give_back(self, place: Place) -> None:
        """Free a place that `take` returned."""
        with self._lock:
            row = self._rows[place.name]
            fcntl.lockf(row.descriptor, fcntl.LOCK_UN, 1, place.number)
            row.held.remove(place.number)
            self._close_if_empty(place.name)

    def _open(self, name: str) -> _Row:
        path = self._folder / hashlib.sha256(name.encode()).hexdigest()[:32]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._rows[name] = row = _Row(descriptor)
        return row

    def _close_if_empty(self, name: str) -> None:
        row = self._rows[name]
        if not row.held:
            os.close(row.descriptor)
            del self._rows[name]


def _try_lock(descriptor: int, number: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except BlockingIOError:
        return False
    except PermissionError:  # POSIX allows EACCES for a lock that another process holds
        return False
    return True
