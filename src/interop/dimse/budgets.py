"""What one application entity may send a minute: objects and bytes, in each process.

A budget fills steadily and holds one minute's worth. It is asked before an object is received and
charged after it, so the last object may be larger than what was left; what it took too much is
missing afterwards.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from uuid import UUID

from interop.dimse.registry import ApplicationEntity

_REMEMBERED = 4096


class Budget:
    """The budget of one entity, shared by its associations. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: _Bucket | None = None
        self._bytes: _Bucket | None = None

    def set_limits(self, objects: int | None, byte_size: int | None) -> None:
        """Take over limits that may have changed; what is spent stays spent."""
        with self._lock:
            self._objects = _resized(self._objects, objects)
            self._bytes = _resized(self._bytes, byte_size)

    def refusal(self) -> str | None:
        """Why no further object may come now; None when one may."""
        with self._lock:
            for bucket, unit in ((self._objects, "objects"), (self._bytes, "bytes")):
                if bucket is not None and bucket.level() <= 0:
                    return f"the limit of {bucket.limit} {unit} a minute is reached"
        return None

    def charge(self, byte_size: int) -> None:
        """Count an object that was received."""
        with self._lock:
            if self._objects is not None:
                self._objects.spend(1)
            if self._bytes is not None:
                self._bytes.spend(byte_size)


class _Bucket:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tokens = float(limit)
        self._filled_at = time.monotonic()

    def level(self) -> float:
        now = time.monotonic()
        gained = (now - self._filled_at) * self.limit / 60
        self._tokens = min(self.limit, self._tokens + gained)
        self._filled_at = now
        # Less than one object is none.
        return 0.0 if self._tokens < 1 else self._tokens

    def spend(self, amount: int) -> None:
        self.level()
        self._tokens -= amount


def _resized(bucket: _Bucket | None, limit: int | None) -> _Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return _Bucket(limit)
    bucket.level()
    bucket.limit = limit
    return bucket


class Budgets:
    """The budgets of a process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._budgets: OrderedDict[tuple[UUID, str], Budget] = OrderedDict()

    def of(self, tenant_id: UUID, entity: ApplicationEntity | None) -> Budget | None:
        """The entity's budget; None when nothing limits it, which is what costs nothing."""
        if entity is None:
            return None
        limits = entity.max_objects_per_minute, entity.max_bytes_per_minute
        if limits == (None, None):
            return None
        key = tenant_id, entity.ae_title
        with self._lock:
            budget = self._budgets.setdefault(key, Budget())
            self._budgets.move_to_end(key)
            if len(self._budgets) > _REMEMBERED:
                self._budgets.popitem(last=False)
        budget.set_limits(*limits)
        return budget
