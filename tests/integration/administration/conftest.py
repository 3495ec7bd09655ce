"""The whole application, and people who administer or may not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID, uuid4

import httpx
import pytest

from storage.schema.reference_rows import PERMISSIONS, reference_id
from storage.tenancy import Tenant
from tests.integration.access.conftest import Door, comparable, door

__all__ = ["Office", "comparable", "door", "office"]

ALL = frozenset(PERMISSIONS)


@dataclass
class Office:
    """Who knocks at /api/v1 of one tenant."""

    door: Door
    tenant: Tenant

    def __post_init__(self) -> None:
        self.anybody = httpx.Client(base_url=self.base, timeout=60)
        self.operator = self._at(self.door.system(self.tenant))
        self.door.clients.append(self.anybody)

    @property
    def base(self) -> str:
        return f"{self.door.url}/api/v1/tenants/{self.tenant.slug}"

    def _at(self, client: httpx.Client) -> httpx.Client:
        client.base_url = httpx.URL(self.base)
        return client

    def stranger(self, home: Tenant) -> httpx.Client:
        """The operator with a token of another tenant."""
        return self._at(self.door.system(home))

    def member(self, permissions: Iterable[str]) -> UUID:
        """A user with a role of exactly these permissions."""
        user = self.door.user(self.tenant)
        role = uuid4()
        self.door.execute(
            "INSERT INTO roles (id, tenant_id, code, name) VALUES (%s, %s, %s, 'A role')",
            role,
            self.tenant.id,
            f"R{role.hex.upper()}",
        )
        for permission in permissions:
            self.door.execute(
                "INSERT INTO role_permissions (tenant_id, role_id, permission_id)"
                " VALUES (%s, %s, %s)",
                self.tenant.id,
                role,
                reference_id("permissions", permission),
            )
        self.door.execute(
            "INSERT INTO user_roles (tenant_id, user_id, role_id) VALUES (%s, %s, %s)",
            self.tenant.id,
            user,
            role,
        )
        return user

    def user(
        self,
        permissions: Iterable[str],
        scope: str = "user/*.cruds",
        client: UUID | None = None,
    ) -> httpx.Client:
        """That user with a token, of an app where `client` is one."""
        user = self.member(permissions)
        return self._at(self.door.caller(self.tenant, scope, user=user, client=client))

    def service(self, scope: str) -> httpx.Client:
        """A service alone."""
        client = self.door.api_client(self.tenant)
        return self._at(self.door.caller(self.tenant, scope, client=client))

    def rows(self) -> int:
        count = "SELECT count(*) FROM audit_events WHERE tenant_id = %s"
        return int(self.door.execute(count, self.tenant.id)[0][0])

    def rows_of(self, calls: Callable[[], object], wanted: int) -> int:
        """How many audit rows `calls` leave; those of strangers come after the answer."""
        before = self.rows()
        calls()
        deadline = time.monotonic() + 5
        while self.rows() - before < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        return self.rows() - before

    def newest(self) -> tuple[str, str, dict[str, object]]:
        """Type, outcome and metadata of the newest row."""
        ((kind, outcome, metadata),) = self.door.execute(
            "SELECT event_type, outcome, metadata FROM audit_events WHERE tenant_id = %s"
            " ORDER BY transaction_id DESC LIMIT 1",
            self.tenant.id,
        )
        return kind, outcome, metadata


@pytest.fixture(scope="module")
def office(door: Door, tenant: Tenant) -> Office:
    return Office(door, tenant)


def assert_problem(answer: httpx.Response, status: int) -> str:
    """It is problem details of this status; its detail, and what it says of each fault."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["status"] == status and body["title"]
    return str(body)
