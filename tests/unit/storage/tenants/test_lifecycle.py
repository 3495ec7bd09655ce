"""Suspending, resuming and closing: what each allows, and who finds the tenant afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage import tenancy
from storage.database import Database
from storage.tenancy import Tenant, TenantDirectory
from storage.tenants import lifecycle
from storage.tenants.lifecycle import WrongState

MakeTenant = Callable[..., Tenant]


def status(database: Database, tenant: Tenant) -> str:
    found = TenantDirectory(database).even_closed(tenant.slug)
    assert found is not None
    return found.status


def test_a_suspended_tenant_is_readable_and_not_active(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()

    lifecycle.suspend(database, tenant.id, "unpaid")

    found = TenantDirectory(database).by_slug(tenant.slug)
    assert found is not None
    assert (found.is_active, found.is_readable) == (False, True)
    lifecycle.resume(database, tenant.id, "paid")
    assert status(database, tenant) == "ACTIVE"


def test_a_closed_tenant_is_found_by_no_name(database: Database) -> None:
    directory = TenantDirectory(database)
    tenant = directory.create("closing", ae_title="CLOSING")

    lifecycle.close(database, tenant.id, "left")

    assert directory.by_slug("closing") is None
    assert directory.by_ae_title("CLOSING") is None
    assert directory.by_id(tenant.id) is None
    assert tenant.slug not in {one.slug for one in directory.all_active()}
    closed = directory.even_closed("closing")
    assert closed is not None and not closed.is_readable


def test_a_process_forgets_a_tenant_within_a_minute(
    database: Database, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = make_tenant()
    directory = TenantDirectory(database)
    assert directory.by_slug(tenant.slug) is not None
    lifecycle.close(database, tenant.id, "left")
    assert tenancy.CACHE_SECONDS < 60

    clock = tenancy.time.monotonic
    monkeypatch.setattr(tenancy.time, "monotonic", lambda: clock() + tenancy.CACHE_SECONDS)

    assert directory.by_slug(tenant.slug) is None


@pytest.mark.parametrize(
    ("steps", "step"),
    [
        ((), lifecycle.resume),
        ((lifecycle.suspend,), lifecycle.suspend),
        ((lifecycle.close,), lifecycle.close),
        ((lifecycle.close,), lifecycle.suspend),
    ],
)
def test_a_step_from_the_wrong_state_is_refused(
    database: Database,
    make_tenant: MakeTenant,
    steps: tuple[Callable[..., None], ...],
    step: Callable[..., None],
) -> None:
    tenant = make_tenant()
    for before in steps:
        before(database, tenant.id, "a reason")

    with pytest.raises(WrongState, match="the tenant is"):
        step(database, tenant.id, "a reason")


def test_each_step_is_audited_with_its_reason(database: Database, make_tenant: MakeTenant) -> None:
    tenant = make_tenant()
    lifecycle.suspend(database, tenant.id, "unpaid")
    lifecycle.resume(database, tenant.id, "paid")
    lifecycle.close(database, tenant.id, "left")

    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT metadata -> 'changes' ->> 'to', metadata -> 'changes' ->> 'reason'"
            " FROM audit_events WHERE tenant_id = %s AND event_type = 'CONFIG_CHANGED'"
            " ORDER BY timestamp",
            (tenant.id,),
        ).fetchall()

    assert rows == [("SUSPENDED", "unpaid"), ("ACTIVE", "paid"), ("CLOSED", "left")]


def test_a_reason_is_needed(database: Database, make_tenant: MakeTenant) -> None:
    with pytest.raises(ValueError, match="a reason is needed"):
        lifecycle.suspend(database, make_tenant().id, " ")
