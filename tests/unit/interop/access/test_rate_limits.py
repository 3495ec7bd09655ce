"""D17 of security.md for requests: shared buckets, leased slices, and how little each exceeds."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from interop.access import limits
from interop.access.limits import Lease, RateLimiter, Refusal, limit_field, policy_field
from storage.database import Database
from storage.quotas import TenantLimits
from storage.rate_limits import Buckets, PostgresBuckets, RedisBuckets, open_buckets
from storage.tenancy import Tenant, TenantDirectory
from storage.tenants import configuration


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of this module's own."""
    folder = tmp_path_factory.mktemp("redis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start_redis(folder, port)
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    for _ in range(200):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.02)
    raise AssertionError("redis-server did not start (Debian: apt install redis-server)")


@pytest.fixture(params=["postgresql", "redis"])
def store(request: pytest.FixtureRequest) -> str | None:
    """The URL of Redis, or None for PostgreSQL: every test of buckets holds for both."""
    url: str | None = request.getfixturevalue("redis_url") if request.param == "redis" else None
    return url


@pytest.fixture
def limited(database: Database) -> Callable[..., Tenant]:
    """Makes tenants with limits."""

    def make(**quota: int | None) -> Tenant:
        tenant = TenantDirectory(database).create(f"r{uuid4().hex[:12]}")
        with database.connection(tenant.id) as connection:
            configuration.change(connection, tenant.id, "quota", quota)
        return tenant

    return make


def run(
    database: Database, store: str | None, work: Callable[[Database, Buckets], Awaitable[None]]
) -> None:
    async def body() -> None:
        await database.open_async()
        buckets = open_buckets(database, store)
        try:
            await work(database, buckets)
        finally:
            await buckets.close()
            await database.close_async()

    asyncio.run(body())


def limiter(database: Database, buckets: Buckets) -> RateLimiter:
    return RateLimiter(database, TenantLimits(database), buckets)


async def admitted(
    one: RateLimiter, tenant: Tenant, requests: int, cost: int, user: UUID | None = None
) -> int:
    leases = await one.leases(tenant.id, None, user)
    answers = [await one.charge(leases, cost) for _ in range(requests)]
    return sum(answer is None for answer in answers)


def test_the_settings_choose_the_store(database: Database, redis_url: str) -> None:
    assert isinstance(open_buckets(database, None), PostgresBuckets)
    assert isinstance(open_buckets(database, redis_url), RedisBuckets)


def test_one_process_spends_exactly_the_limit(
    database: Database, store: str | None, limited: Callable[..., Tenant]
) -> None:
    # A minute's 60 units come back one a second: the test takes far less.
    tenant = limited(api_rate_limit_per_minute=60)

    async def work(database: Database, buckets: Buckets) -> None:
        assert await admitted(limiter(database, buckets), tenant, 200, 1) in (60, 61)

    run(database, store, work)


def test_d17_processes_together_exceed_the_limit_by_a_slice_each_at_most(
    database: Database, store: str | None, limited: Callable[..., Tenant]
) -> None:
    limit, processes = 1200, 4
    tenant = limited(api_rate_limit_per_minute=limit)

    async def work(database: Database, buckets: Buckets) -> None:
        made = [limiter(database, buckets) for _ in range(processes)]
        started = time.monotonic()
        found = await asyncio.gather(*(admitted(one, tenant, 1000, 1) for one in made))
        refilled = (time.monotonic() - started) * limit / 60 + 1
        assert limit * 0.8 <= sum(found) <= limit + processes * limit / 20 + refilled

        # What they had too much is owed: nothing is admitted for as long as that takes.
        before = sum(found)
        found = await asyncio.gather(*(admitted(one, tenant, 50, 1) for one in made))
        elapsed = time.monotonic() - started
        assert before + sum(found) <= limit + processes * limit / 20 + elapsed * limit / 60 + 1

    run(database, store, work)


def test_requests_that_arrive_together_do_not_exceed_it_either(
    database: Database, store: str | None, limited: Callable[..., Tenant]
) -> None:
    tenant = limited(api_rate_limit_per_minute=100)

    async def work(database: Database, buckets: Buckets) -> None:
        one = limiter(database, buckets)
        leases = await one.leases(tenant.id, None, None)
        answers = await asyncio.gather(*(one.charge(leases, 1) for _ in range(300)))
        assert sum(answer is None for answer in answers) in (100, 101, 102)

    run(database, store, work)


def test_what_a_process_does_not_spend_goes_back(
    database: Database, store: str | None, limited: Callable[..., Tenant]
) -> None:
    tenant = limited(api_rate_limit_per_minute=100)

    async def work(database: Database, buckets: Buckets) -> None:
        first = limiter(database, buckets)
        assert await admitted(first, tenant, 1, 1) == 1
        await first.close_leases()
        assert await admitted(limiter(database, buckets), tenant, 150, 1) in (99, 100)

    run(database, store, work)


def test_units_come_back_with_time(
    database: Database, store: str | None, limited: Callable[..., Tenant]
) -> None:
    tenant = limited(api_rate_limit_per_minute=600)

    async def work(database: Database, buckets: Buckets) -> None:
        one = limiter(database, buckets)
        assert await admitted(one, tenant, 700, 1) >= 600
        leases = await one.leases(tenant.id, None, None)
        refusal = await one.charge(leases, 10)
        assert refusal is not None and refusal.retry_after in (1, 2)
        await asyncio.sleep(refusal.retry_after + 0.1)
        assert await one.charge(leases, 10) is None

    run(database, store, work)


def test_a_cost_above_the_limit_is_paid_by_a_full_bucket(
    database: Database, store: str | None, limited: Callable[..., Tenant]
) -> None:
    tenant = limited(api_rate_limit_per_minute=50)

    async def work(database: Database, buckets: Buckets) -> None:
        assert await admitted(limiter(database, buckets), tenant, 3, 100) == 1

    run(database, store, work)


def test_a_limit_of_nothing_admits_nothing(
    database: Database, limited: Callable[..., Tenant]
) -> None:
    tenant = limited(api_rate_limit_per_minute=0)

    async def work(database: Database, buckets: Buckets) -> None:
        one = limiter(database, buckets)
        leases = await one.leases(tenant.id, None, None)
        assert await one.charge(leases, 1) == Refusal("tenant", 0, 60)

    run(database, None, work)


def test_no_limit_costs_no_lease(database: Database, limited: Callable[..., Tenant]) -> None:
    tenant = limited()

    async def work(database: Database, buckets: Buckets) -> None:
        one = limiter(database, buckets)
        assert await one.leases(tenant.id, None, uuid4()) == ()
        assert await one.charge((), 1_000_000) is None

    run(database, None, work)


def test_each_user_and_client_has_a_limit_of_its_own(
    database: Database, limited: Callable[..., Tenant]
) -> None:
    tenant = limited(api_rate_limit_per_minute=6000, api_rate_limit_per_user_per_minute=10)
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "INSERT INTO api_clients (tenant_id, client_id, name, rate_limit_per_minute)"
            " VALUES (%s, 'c', 'c', 5) RETURNING id",
            (tenant.id,),
        ).fetchone()
    assert row is not None

    async def work(database: Database, buckets: Buckets) -> None:
        one = limiter(database, buckets)
        busy, calm = uuid4(), uuid4()
        assert await admitted(one, tenant, 30, 1, busy) in (10, 11)
        assert await admitted(one, tenant, 5, 1, calm) == 5
        leases = await one.leases(tenant.id, row[0], calm)
        assert [lease.policy for lease in leases] == ["tenant", "client", "user"]
        answers = [await one.charge(leases, 1) for _ in range(6)]
        assert answers[:5] == [None] * 5
        refusal = answers[5]
        assert refusal is not None and (refusal.policy, refusal.limit) == ("client", 5)

    run(database, None, work)


def test_one_tenants_flood_leaves_the_others_alone(
    database: Database, limited: Callable[..., Tenant]
) -> None:
    flooding, other = (limited(api_rate_limit_per_minute=20) for _ in range(2))

    async def work(database: Database, buckets: Buckets) -> None:
        one = limiter(database, buckets)
        assert await admitted(one, flooding, 100, 1) <= 21
        assert await admitted(one, other, 20, 1) == 20

    run(database, None, work)


def test_while_redis_is_away_a_process_keeps_the_limit_itself(
    database: Database, limited: Callable[..., Tenant]
) -> None:
    tenant = limited(api_rate_limit_per_minute=60)

    async def work(database: Database, buckets: Buckets) -> None:
        started = time.monotonic()
        assert await admitted(limiter(database, buckets), tenant, 200, 1) in (60, 61, 62)
        assert time.monotonic() - started < 10

    # Nobody listens on port 1.
    run(database, "redis://127.0.0.1:1/0", work)


def test_a_lease_costs_no_round_trip_per_request(
    database: Database, limited: Callable[..., Tenant]
) -> None:
    tenant = limited(api_rate_limit_per_minute=20_000)

    class Counting(PostgresBuckets):
        calls = 0

        async def lease(self, *args: object) -> tuple[float, float]:
            Counting.calls += 1
            return await super().lease(*args)  # type: ignore[arg-type]

    async def work(database: Database, buckets: Buckets) -> None:
        one = RateLimiter(database, TenantLimits(database), Counting(database))
        assert await admitted(one, tenant, 10_000, 1) == 10_000
        # A slice is a twentieth; the next one is fetched when half of it is spent.
        assert Counting.calls <= 25

    run(database, None, work)


def test_the_fields_say_what_is_left_and_when_it_is_whole() -> None:
    lease = Lease(uuid4(), "tenant", "tenant", 600)
    lease.left_over, lease.allowance = 90.0, 10.0

    assert policy_field([lease]) == '"tenant";q=600;w=60'
    assert limit_field([lease], lease.at) == '"tenant";r=100;t=50'
    assert lease.seconds_until(101, lease.at) == 1
    assert limits.SLICES == 20
