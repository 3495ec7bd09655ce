"""Refused associations: one audit row a source and minute, and sources that ask too often.

The event is PS3.15 A.5.3.11, Security Alert, of type Node Authentication. The first refusal of a
source is written at once; what follows within a minute is counted and written as one row when
the minute is over. A refusal that belongs to no tenant (called AE title unknown, TLS handshake
failed) is in the log only: the audit trail is the tenants' own.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from interop.dimse.transactions import AuditRow, storable
from storage.audit import system_audit

logger = logging.getLogger(__name__)

WINDOW_SECONDS: Final = 60.0
# Look-ups that ended in a refusal, from one source within a minute. More are not looked up: an
# invented AE title costs its sender nothing and us a query (security.md A9).
MAX_LOOKUPS: Final = 120
_SOURCES: Final = 4096
_TITLES: Final = 10


@dataclass(frozen=True, slots=True)
class Refusal:
    """One association that was not accepted, or one handshake that failed."""

    tenant_id: UUID | None
    remote_address: str
    reason: str
    code: str = ""  # result/source/reason of PS3.8 Table 9-21
    calling_ae_title: str = ""
    called_ae_title: str = ""
    certificate_fingerprint: str | None = None


@dataclass(slots=True)
class _Window:
    ends: float = 0.0
    count: int = 0
    last: Refusal | None = None
    titles: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, refusal: Refusal) -> _Window:
        window = cls()
        window.add(refusal)
        return window

    def add(self, refusal: Refusal) -> None:
        self.count += 1
        self.last = refusal
        if len(self.titles) < _TITLES:
            self.titles.add(refusal.calling_ae_title)


class RefusalLog:
    """Counts refusals and hands rows to `record`. Thread-safe."""

    def __init__(
        self,
        record: Callable[[AuditRow], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: OrderedDict[tuple[UUID | None, str], _Window] = OrderedDict()
        self._lookups: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def note(self, refusal: Refusal) -> None:
        """Write the refusal down, or count it where its source had one within the minute."""
        key = refusal.tenant_id, source_of(refusal.remote_address)
        with self._lock:
            window = self._windows.get(key)
            if window is not None:
                window.add(refusal)
                return
            self._begin(key, self._clock())
            oldest = self._windows.popitem(last=False)[1] if len(self._windows) > _SOURCES else None
        self._write(_Window.of(refusal))
        if oldest is not None:
            self._write(oldest)

    def flush(self, *, everything: bool = False) -> None:
        """Write what was counted in minutes that are over, or in all; the listener calls it."""
        now = self._clock()
        due = []
        with self._lock:
            while self._windows:
                key, window = next(iter(self._windows.items()))
                if window.ends > now and not everything:
                    break
                del self._windows[key]
                if window.count:
                    due.append(window)
                    if not everything:
                        self._begin(key, now)
        for window in due:
            self._write(window)

    def _begin(self, key: tuple[UUID | None, str], now: float) -> _Window:
        # At the end: windows are as long as each other, so the first one ends first.
        self._windows[key] = window = _Window(now + WINDOW_SECONDS)
        return window

    def _write(self, window: _Window) -> None:
        refusal = window.last
        if refusal is None:
            return
        if refusal.tenant_id is None:
            logger.warning(
                "connections_refused",
                extra={
                    "peer": refusal.remote_address,
                    "reason": refusal.reason,
                    "count": window.count,
                },
            )
            return
        self._record(AuditRow(refusal.tenant_id, _row(refusal.tenant_id, refusal, window)))

    # -- sources that ask too often ---------------------------------------------------------

    def count_lookup(self, remote_address: str) -> None:
        """Count a look-up that ended in a refusal."""
        source, now = source_of(remote_address), self._clock()
        with self._lock:
            ends, count = self._lookups.pop(source, (0.0, 0))
            if ends <= now:
                ends, count = now + WINDOW_SECONDS, 0
            self._lookups[source] = ends, count + 1
            if len(self._lookups) > _SOURCES:
                self._lookups.popitem(last=False)

    def is_flooding(self, remote_address: str) -> bool:
        """True while the source has used up its look-ups of this minute."""
        if not self._lookups:
            return False
        source = source_of(remote_address)
        with self._lock:
            ends, count = self._lookups.get(source, (0.0, 0))
        return count >= MAX_LOOKUPS and ends > self._clock()


def source_of(remote_address: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 of an IPv6 address."""
    address = ipaddress.ip_address(remote_address.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _row(tenant_id: UUID, refusal: Refusal, window: _Window) -> dict[str, Any]:
    metadata = {
        "dicom_event_type": "110126",  # DCM Node Authentication (PS3.16 CID 403)
        "reason": storable(refusal.reason),
        "code": refusal.code,
        "count": window.count,
        "calling_ae_titles": sorted(storable(title) for title in window.titles),
        "called_ae_title": storable(refusal.called_ae_title),
        "certificate_sha256": refusal.certificate_fingerprint,
    }
    return system_audit(
        tenant_id,
        "DICOM_ASSOCIATION_REJECTED",
        outcome="FAILURE",
        metadata={name: value for name, value in metadata.items() if value not in (None, "")},
        ip_address=refusal.remote_address,
    )
