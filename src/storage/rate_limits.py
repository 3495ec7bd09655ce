"""Token buckets that all processes share, in PostgreSQL or in Redis.

A bucket holds `limit` units and fills up in a minute. A process does not ask for each request: it
leases some units, spends them, and settles. What a lease returns is taken out of the bucket, so
what one process holds no other can spend; what was spent on credit is taken out too, and a bucket
may owe units, which delays the next ones and loses none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from storage.database import Database
from storage.statements import function_call

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

WINDOW_SECONDS = 60.0
STORE_SECONDS = 1.0


class BucketsUnavailable(Exception):
    """The shared buckets cannot be reached."""


class Buckets(Protocol):
    """Where buckets are. Raises BucketsUnavailable."""

    async def lease(
        self, tenant_id: UUID, subject: str, limit: float, debt: float, wanted: float
    ) -> tuple[float, float]:
        """Settle `debt` (negative: units given back) and take up to `wanted` whole units.

        Returns what was taken and what is left in the bucket.
        """

    async def close(self) -> None:
        """Close connections of its own."""


class PostgresBuckets:
    """Buckets in the table `rate_limit_buckets`; one round trip each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lease(
        self, tenant_id: UUID, subject: str, limit: float, debt: float, wanted: float
    ) -> tuple[float, float]:
        import psycopg
        from psycopg_pool import PoolTimeout

        try:
            values = {
                "tenant": tenant_id,
                "subject": subject,
                "limit": limit,
                "debt": debt,
                "wanted": wanted,
            }
            async with asyncio.timeout(STORE_SECONDS):
                ((row,),) = await self._database.run(
                    tenant_id, function_call("lease_rate_units", values)
                )
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise BucketsUnavailable from error
        return float(row[0]), float(row[1])

    async def close(self) -> None:
        """The pool is the database's."""


# The same as lease_rate_units in migrations/tenants.sql. A full bucket need not be kept.
_LEASE = """
local limit, debt, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local known = redis.call('HMGET', KEYS[1], 'tokens', 'filled_at')
local tokens = limit
if known[1] then
    tokens = math.min(limit, tonumber(known[1])
        + math.max(0, now - tonumber(known[2])) * limit / 60)
end
tokens = tokens - debt
local granted = math.max(0, math.min(wanted, math.floor(tokens)))
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens),
    'filled_at', string.format('%.17g', now))
redis.call('EXPIRE', KEYS[1], math.ceil((limit - tokens) / math.max(limit, 1) * 60) + 60)
return {string.format('%.17g', granted), string.format('%.17g', tokens)}
"""


class RedisBuckets:
    """Buckets in Redis, for installations of many machines."""

    def __init__(self, url: str) -> None:
        # Loaded only where it is configured.
        from redis.asyncio import Redis

        self._redis: Redis = Redis.from_url(
            url, socket_timeout=STORE_SECONDS, socket_connect_timeout=STORE_SECONDS
        )
        self._lease: AsyncScript = self._redis.register_script(_LEASE)

    async def lease(
        self, tenant_id: UUID, subject: str, limit: float, debt: float, wanted: float
    ) -> tuple[float, float]:
        from redis.exceptions import RedisError

        try:
            granted, left_over = await self._lease(
                keys=[f"interop:rate:{{{tenant_id}}}:{subject}"], args=[limit, debt, wanted]
            )
        except (RedisError, OSError, TimeoutError) as error:
            raise BucketsUnavailable from error
        return float(granted), float(left_over)

    async def close(self) -> None:
        await self._redis.aclose()


def open_buckets(database: Database, redis_url: str | None) -> Buckets:
    """The buckets that the settings name."""
    return RedisBuckets(redis_url) if redis_url else PostgresBuckets(database)
