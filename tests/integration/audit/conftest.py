"""The whole application over the module's database, and a counter of what it writes down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from storage.tenancy import Tenant
from tests.integration.access.conftest import Door, door

__all__ = ["Event", "Watch", "door", "watch"]


@dataclass(frozen=True)
class Event:
    """A row of the log with the number of its rows of phi_access_logs."""

    event_type: str
    outcome: str
    accesses: int
    row: dict[str, Any]


class Watch:
    """Sees the rows that one action adds to a tenant's log."""

    def __init__(self, door: Door, tenant: Tenant) -> None:
        self._door, self._tenant = door, tenant

    def events(self) -> list[Event]:
        rows = self._door.execute(
            "SELECT row_to_json(e), (SELECT count(*) FROM phi_access_logs AS p"
            " WHERE p.tenant_id = e.tenant_id AND p.audit_event_id = e.id) FROM audit_events AS e"
            " WHERE tenant_id = %s ORDER BY transaction_id, id",
            self._tenant.id,
        )
        return [Event(row["event_type"], row["outcome"], count, row) for row, count in rows]

    def during(self, action: Callable[[], Any], *, at_least: int = 1) -> list[Event]:
        """The rows that `action` adds; looked at until they are there, and a moment longer."""
        before = {event.row["id"] for event in self.events()}
        action()
        deadline = time.monotonic() + 5
        while True:
            new = [event for event in self.events() if event.row["id"] not in before]
            if len(new) >= at_least or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        time.sleep(0.1)
        return [event for event in self.events() if event.row["id"] not in before]


@pytest.fixture(scope="module")
def watch(door: Door, tenant: Tenant) -> Watch:
    return Watch(door, tenant)
