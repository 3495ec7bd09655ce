"""D17 of security.md: limits that hold exactly when many ask at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest

from storage import quotas
from storage.database import Connection, Database
from storage.quotas import QuotaExceeded, TenantLimits
from storage.tenancy import Tenant
from storage.tenants import configuration

from .conftest import add_member

MakeTenant = Callable[..., Tenant]
LIMIT = 7
ASKING = 20


def limited(database: Database, tenant: Tenant, **limits: int | None) -> None:
    with database.connection(tenant.id) as connection:
        configuration.change(connection, tenant.id, "quota", limits)


def all_at_once(work: Callable[[], bool]) -> int:
    """How many of ASKING threads that begin together succeed."""
    ready = threading.Barrier(ASKING)

    def one(_: int) -> bool:
        ready.wait()
        return work()

    with ThreadPoolExecutor(ASKING) as pool:
        return sum(pool.map(one, range(ASKING)))


@pytest.fixture(scope="module")
def wide(database: Database) -> Iterator[Database]:
    """A pool with a connection for each thread: they must not queue before they race."""
    made = Database(database.url, pool_size=ASKING)
    yield made
    made.close()


def test_d17_members_added_at_once_stop_at_the_limit(
    wide: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    limited(wide, tenant, max_users=LIMIT)

    def add() -> bool:
        try:
            with wide.connection(tenant.id) as connection:
                quotas.check_users(connection, tenant.id)
                add_member(connection, tenant.id)
        except QuotaExceeded as error:
            assert (error.quota, error.limit) == ("max_users", LIMIT)
            return False
        return True

    assert all_at_once(add) == LIMIT
    with wide.connection(tenant.id) as connection:
        assert quotas.usage(connection, tenant.id).users == LIMIT


def test_patients_and_former_members_take_no_seat(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    limited(database, tenant, max_users=1)

    with database.connection(tenant.id) as connection:
        add_member(connection, tenant.id, "PATIENT")
        former = add_member(connection, tenant.id)
        connection.execute(
            "UPDATE user_tenants SET status = 'INACTIVE' WHERE user_id = %s", (former,)
        )
        quotas.check_users(connection, tenant.id)
        with pytest.raises(QuotaExceeded):
            quotas.check_users(connection, tenant.id, adding=2)


@pytest.fixture(scope="module")
def model_version(database: Database) -> UUID:
    with database.platform_connection() as connection:
        model = connection.execute(
            "INSERT INTO ai_models (name, domain) VALUES ('m', 'CARIES') RETURNING id"
        ).fetchone()
        assert model is not None
        row = connection.execute(
            "INSERT INTO ai_model_versions (model_id, version_tag, artifact_uri)"
            " VALUES (%s, '1', 'x') RETURNING id",
            model,
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def add_job(connection: Connection, tenant: Tenant, version: UUID, age: str = "0") -> None:
    connection.execute(
        "INSERT INTO ai_inference_jobs (tenant_id, model_version_id, idempotency_key, created_at)"
        " VALUES (%s, %s, %s, now() - %s::interval)",
        (tenant.id, version, uuid4().hex, age),
    )


def test_d17_analyses_asked_for_at_once_stop_at_the_months_limit(
    wide: Database, make_tenant: MakeTenant, model_version: UUID
) -> None:
    tenant = make_tenant()
    limited(wide, tenant, max_ai_inferences_per_month=LIMIT)

    def ask() -> bool:
        with wide.connection(tenant.id) as connection:
            if quotas.reserve_inferences(connection, tenant.id, 2) is not None:
                return False
            for _ in range(2):
                add_job(connection, tenant, model_version)
        return True

    # Seven are three pairs; the one that is left over is for a smaller study.
    assert all_at_once(ask) == 3
    with wide.connection(tenant.id) as connection:
        assert quotas.reserve_inferences(connection, tenant.id, 1) is None
        assert quotas.reserve_inferences(connection, tenant.id, 2) == LIMIT


def test_analyses_of_earlier_months_do_not_count(
    database: Database, make_tenant: MakeTenant, model_version: UUID
) -> None:
    tenant = make_tenant()
    limited(database, tenant, max_ai_inferences_per_month=1)

    with database.connection(tenant.id) as connection:
        add_job(connection, tenant, model_version, "32 days")
        assert quotas.reserve_inferences(connection, tenant.id) is None


# -- bytes ------------------------------------------------------------------------------------


def make_study(connection: Connection, tenant: Tenant) -> UUID:
    patient = connection.execute(
        "INSERT INTO patients (tenant_id) VALUES (%s) RETURNING id", (tenant.id,)
    ).fetchone()
    assert patient is not None
    row = connection.execute(
        "INSERT INTO imaging_studies (tenant_id, patient_id, study_uid)"
        " VALUES (%s, %s, %s) RETURNING id",
        (tenant.id, patient[0], f"1.2.{uuid4().int}"[:64]),
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def add_objects(connection: Connection, tenant: Tenant, study: UUID, *sizes: int) -> None:
    for size in sizes:
        connection.execute(
            "INSERT INTO imaging_objects (tenant_id, study_id, object_type, storage_uri, byte_size,"
            " hash) VALUES (%s, %s, 'JPEG', %s, %s, repeat('0', 64))",
            (tenant.id, study, f"{tenant.id}/2026010100/{uuid4()}", size),
        )


def used(database: Database, tenant: Tenant) -> int:
    with database.connection(tenant.id) as connection:
        return quotas.storage_bytes(connection, tenant.id)


def test_d17_objects_stored_at_once_stop_within_the_limit(
    wide: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    with wide.connection(tenant.id) as connection:
        study = make_study(connection, tenant)
    limited(wide, tenant, max_storage_bytes=7500)

    def add() -> bool:
        try:
            with wide.connection(tenant.id) as connection:
                add_objects(connection, tenant, study, 1000)
        except psycopg.errors.ConfigurationLimitExceeded as error:
            assert quotas.is_storage_exceeded(error)
            return False
        return True

    assert all_at_once(add) == 7
    assert used(wide, tenant) == 7000


def test_bytes_are_counted_by_whatever_way_objects_come_change_and_go(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    with database.connection(tenant.id) as connection:
        study = make_study(connection, tenant)
        add_objects(connection, tenant, study, 10, 20, 70)
    assert used(database, tenant) == 100

    with database.connection(tenant.id) as connection:
        connection.execute("UPDATE imaging_objects SET byte_size = 25 WHERE byte_size = 20")
        connection.execute("DELETE FROM imaging_objects WHERE byte_size = 70")
    assert used(database, tenant) == 35

    # Deleted under a limit that is exceeded already: room is made, not refused.
    limited(database, tenant, max_storage_bytes=30)
    with database.connection(tenant.id) as connection:
        connection.execute("DELETE FROM imaging_objects WHERE byte_size = 10")
        add_objects(connection, tenant, study, 5)
    assert used(database, tenant) == 30


def test_bytes_in_quarantine_are_counted_while_they_are_kept(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    insert = (
        "INSERT INTO quarantined_objects (tenant_id, reason, byte_size) VALUES (%s, 'test', %s)"
    )
    with database.connection(tenant.id) as connection:
        connection.execute(insert, (tenant.id, 70))
        connection.execute(insert, (tenant.id, 30))
        connection.execute(
            "UPDATE quarantined_objects SET state = 'DISCARDED' WHERE byte_size = 30"
        )
    assert used(database, tenant) == 100

    limited(database, tenant, max_storage_bytes=110)
    with (
        pytest.raises(psycopg.errors.ConfigurationLimitExceeded),
        database.connection(tenant.id) as connection,
    ):
        connection.execute(insert, (tenant.id, 20))
    with database.connection(tenant.id) as connection:
        connection.execute("DELETE FROM quarantined_objects WHERE byte_size = 70")
        connection.execute(insert, (tenant.id, 20))
    assert used(database, tenant) == 50


def test_a_refused_transaction_leaves_the_count_as_it_was(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    limited(database, tenant, max_storage_bytes=100)
    with database.connection(tenant.id) as connection:
        study = make_study(connection, tenant)

    with (
        pytest.raises(psycopg.errors.ConfigurationLimitExceeded),
        database.connection(tenant.id) as connection,
    ):
        add_objects(connection, tenant, study, 60, 60)

    assert used(database, tenant) == 0


def test_writers_of_a_tenant_without_limit_do_not_wait_for_each_other(
    wide: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    with wide.connection(tenant.id) as connection:
        studies = [make_study(connection, tenant) for _ in range(2)]

    with wide.connection(tenant.id) as one, wide.connection(tenant.id) as other:
        slots = {c.info.backend_pid % 31 for c in (one, other)}
        other.execute("SET LOCAL lock_timeout = '2s'")
        add_objects(one, tenant, studies[0], 1)
        if len(slots) == 2:  # one pair of connections in 31 shares a slot, and waits as it should
            add_objects(other, tenant, studies[1], 2)

    assert used(wide, tenant) == (3 if len(slots) == 2 else 1)


@pytest.mark.parametrize("status", ["SUSPENDED", "CLOSED"])
def test_nothing_is_stored_into_a_tenant_that_is_not_active(
    database: Database, make_tenant: MakeTenant, status: str
) -> None:
    tenant = make_tenant()
    with database.connection(tenant.id) as connection:
        study = make_study(connection, tenant)
        connection.execute("UPDATE tenants SET status = %s WHERE id = %s", (status, tenant.id))

    with (
        pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught,
        database.connection(tenant.id) as connection,
    ):
        add_objects(connection, tenant, study, 1)

    assert quotas.is_tenant_closed(caught.value)


def test_limits_are_remembered_for_less_than_a_minute(
    database: Database, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = make_tenant()
    limits = TenantLimits(database)
    assert limits.of(tenant.id) == quotas.Limits()
    limited(database, tenant, max_dicom_associations=3, api_rate_limit_per_minute=60)
    assert limits.associations(tenant.id) is None
    assert quotas.CACHE_SECONDS <= 45

    clock = quotas.time.monotonic
    monkeypatch.setattr(quotas.time, "monotonic", lambda: clock() + quotas.CACHE_SECONDS)

    assert limits.of(tenant.id) == quotas.Limits(60, None, 3)
