"""Tenants in a tree, and members of them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from storage.database import Connection, Database
from storage.tenancy import Tenant, TenantDirectory


@pytest.fixture
def make_tenant(database: Database) -> Callable[..., Tenant]:
    """Makes tenants with names of their own, below another one if wanted."""

    def make(parent: Tenant | None = None) -> Tenant:
        slug = f"t{uuid4().hex[:12]}"
        return TenantDirectory(database).create(slug, parent_id=parent.id if parent else None)

    return make


@pytest.fixture
def make_member(database: Database) -> Callable[..., UUID]:
    """Makes users who are members of a tenant."""

    def make(tenant: Tenant, user_type: str = "ADMIN") -> UUID:
        with database.connection(tenant.id) as connection:
            return add_member(connection, tenant.id, user_type)

    return make


def add_member(connection: Connection, tenant_id: UUID, user_type: str = "ADMIN") -> UUID:
    row = connection.execute(
        "INSERT INTO users (full_name, email) VALUES ('A', gen_random_uuid() || '@x.example')"
        " RETURNING id"
    ).fetchone()
    assert row is not None
    connection.execute(
        "INSERT INTO user_tenants (tenant_id, user_id, user_type) VALUES (%s, %s, %s)",
        (tenant_id, row[0], user_type),
    )
    return UUID(str(row[0]))
