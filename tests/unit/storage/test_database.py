"""Connections: bound to one tenant for one transaction, durable unless told otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from storage.database import Database
from storage.tenancy import Tenant


def value(database: Database, query: str) -> Any:
    with database.platform_connection() as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    return row[0]


def test_commits_wait_for_the_disk_by_default(database: Database) -> None:
    assert value(database, "SHOW synchronous_commit") == "on"


def test_relaxed_commits_do_not(database: Database) -> None:
    relaxed = Database(database.url, is_durable=False)

    assert value(relaxed, "SHOW synchronous_commit") == "off"
    relaxed.close()


def test_the_tenant_is_gone_with_its_transaction(database: Database, tenant: Tenant) -> None:
    bound = "SELECT nullif(current_setting('app.tenant', true), '')"
    with database.connection(tenant.id) as connection:
        row = connection.execute(bound).fetchone()

    assert row == (str(tenant.id),)
    assert value(database, bound) is None


@pytest.mark.parametrize("nothing", [None, "", "1d6b9e18-6b4a-4f65-afcc-146a404b0c87", 0])
def test_anything_but_a_uuid_is_refused_as_a_tenant(database: Database, nothing: Any) -> None:
    with pytest.raises(TypeError, match="UUID"), database.connection(nothing):
        pass
    with pytest.raises(TypeError, match="UUID"), database.session(nothing):
        pass
