"""Rate limits of a tenant, its clients and its users, without a round trip per request.

Each process leases a slice of a shared bucket (a twentieth: three seconds' worth), spends it from
memory and fetches the next one in the background before it is used up; what it does not spend goes
back within two seconds. The first requests to a bucket that this process has not met are admitted
on credit and charged afterwards, so the most by which a limit is exceeded is one slice (or one
request, where that costs more) per process, once, and it is paid back by later refusals.

While the shared buckets are away, each process keeps the limit by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from interop.errors import TooManyRequests
from storage.database import Database
from storage.quotas import CACHE_SECONDS, TenantLimits
from storage.rate_limits import WINDOW_SECONDS, Buckets, BucketsUnavailable

logger = logging.getLogger(__name__)

SLICES = 20
# After an empty answer the shared bucket is not asked again for this long.
PATIENCE_SECONDS = 0.25
SETTLE_SECONDS = 1.0
IDLE_SECONDS = 1.0
FORGET_SECONDS = 2 * WINDOW_SECONDS
MOST_CALLERS = 10_000


class Lease:
    """What this process holds of one shared bucket."""

    __slots__ = (
        "allowance",
        "at",
        "debt",
        "is_new",
        "left_over",
        "limit",
        "pending",
        "policy",
        "refused_until",
        "slice",
        "subject",
        "tenant_id",
        "used_at",
    )

    def __init__(self, tenant_id: UUID, policy: str, subject: str, limit: int) -> None:
        self.tenant_id = tenant_id
        self.policy = policy
        self.subject = subject
        self.limit = float(limit)
        self.slice = max(1.0, math.ceil(limit / SLICES))
        self.allowance = 0.0
        self.debt = 0.0
        self.left_over = float(limit)
        self.at = self.used_at = time.monotonic()
        self.refused_until = 0.0
        self.is_new = True
        self.pending: asyncio.Task[None] | None = None

    def filled(self, now: float) -> float:
        """What the shared bucket holds by now, as far as this process knows."""
        return min(self.limit, self.left_over + (now - self.at) * self.limit / WINDOW_SECONDS)

    def remaining(self, now: float) -> int:
        """Units that may be spent now: `r` of the RateLimit field."""
        return max(0, math.floor(self.filled(now) + self.allowance - self.debt))

    def seconds_until(self, units: float, now: float) -> int:
        """Seconds until so many units may be spent."""
        if self.limit <= 0:
            return int(WINDOW_SECONDS)
        missing = units - (self.filled(now) + self.allowance - self.debt)
        return max(0, math.ceil(missing * WINDOW_SECONDS / self.limit))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is too much, of which policy, and when to come again."""

    policy: str
    limit: int
    retry_after: int


Leases = tuple[Lease, ...]


class RateLimiter:
    """The leases of one process (one event loop)."""

    def __init__(self, database: Database, limits: TenantLimits, buckets: Buckets) -> None:
        self._database = database
        self._limits = limits
        self._buckets = buckets
        self._leases: dict[tuple[UUID, str], Lease] = {}
        self._callers: dict[tuple[UUID, UUID | None, UUID | None], tuple[float, Leases]] = {}
        self._settling: asyncio.Task[None] | None = None

    async def leases(self, tenant_id: UUID, client_id: UUID | None, user_id: UUID | None) -> Leases:
        """The limits that hold for a caller, looked up again twice a minute."""
        key = (tenant_id, client_id, user_id)
        known = self._callers.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        found = await self._look_up(tenant_id, client_id, user_id)
        if len(self._callers) >= MOST_CALLERS:
            self._callers.clear()
        self._callers[key] = (time.monotonic() + CACHE_SECONDS, found)
        return found

    async def charge(self, leases: Leases, cost: float) -> Refusal | None:
        """Spend `cost` of every limit, or of none and say which forbids it."""
        now = time.monotonic()
        for n, lease in enumerate(leases):
            # A cost above the limit would never be met: a full bucket pays for it.
            wanted = min(cost, lease.limit)
            if self._spend(lease, wanted, now) or await self._obtain(lease, wanted):
                continue
            for earlier in leases[:n]:
                earlier.allowance += min(cost, earlier.limit)
            retry_after = max(1, lease.seconds_until(wanted, time.monotonic()))
            return Refusal(lease.policy, int(lease.limit), retry_after)
        return None

    async def close(self) -> None:
        """Give back what is left, and close the buckets."""
        await self.close_leases()
        await self._buckets.close()

    async def close_leases(self) -> None:
        """Give back what is left."""
        if self._settling is not None:
            self._settling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._settling
        for lease in list(self._leases.values()):
            if lease.pending is not None:
                await asyncio.wait([lease.pending])
            await self._give_back(lease)

    def _spend(self, lease: Lease, cost: float, now: float) -> bool:
        """Spend from memory; False asks for `_obtain`. The hot path."""
        lease.used_at = now
        if lease.allowance >= cost and lease.limit > 0:
            lease.allowance -= cost
            if (
                lease.allowance < lease.slice / 2
                and lease.pending is None
                and now >= lease.refused_until
            ):
                self._refill(lease, lease.slice)
            return True
        if lease.is_new and lease.limit > 0 and lease.debt + cost <= max(lease.slice, cost):
            lease.debt += cost
            if lease.pending is None:
                self._refill(lease, lease.slice)
            return True
        return False

    async def _obtain(self, lease: Lease, cost: float) -> bool:
        """Spend what the shared bucket grants; the requests of a process wait for one answer."""
        if lease.limit <= 0:
            return False
        while lease.allowance < cost:
            if time.monotonic() < lease.refused_until:
                return False
            if lease.pending is None:
                self._refill(lease, max(lease.slice, cost - lease.allowance))
            if lease.pending is not None:
                await asyncio.wait([lease.pending])
        lease.allowance -= cost
        return True

    def _refill(self, lease: Lease, wanted: float) -> None:
        lease.pending = asyncio.create_task(self._lease(lease, wanted))
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle_for_ever())

    async def _lease(self, lease: Lease, wanted: float) -> None:
        debt, lease.debt = lease.debt, 0.0
        try:
            granted, left_over = await self._buckets.lease(
                lease.tenant_id, lease.subject, lease.limit, debt, wanted
            )
        except Exception as error:
            # Whatever it is, requests must not wait for ever.
            is_known = isinstance(error, BucketsUnavailable)
            logger.warning("rate_limit_buckets_unavailable", exc_info=not is_known)
            held = lease.filled(time.monotonic()) - debt
            granted = max(0.0, min(wanted, math.floor(held)))
            left_over = held - granted
        except BaseException:
            lease.debt += debt
            raise
        finally:
            lease.pending = None
        now = time.monotonic()
        lease.is_new = False
        lease.allowance += granted
        lease.left_over, lease.at = left_over, now
        if granted < wanted:
            lease.refused_until = now + PATIENCE_SECONDS

    async def _settle_for_ever(self) -> None:
        """Give back what nobody spends, so that other processes can; forget who is gone."""
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                await self._settle(time.monotonic())
            except Exception:
                logger.exception("rate_limit_settling_failed")

    async def _settle(self, now: float) -> None:
        for key, lease in list(self._leases.items()):
            idle = now - lease.used_at
            # Who is refused holds too little for himself, and perhaps enough for another process.
            if lease.pending is None and (idle > IDLE_SECONDS or now < lease.refused_until + 1):
                await self._give_back(lease)
            if idle > FORGET_SECONDS:
                self._leases.pop(key, None)
                self._callers.clear()

    async def _give_back(self, lease: Lease) -> None:
        if lease.allowance or lease.debt:
            lease.debt -= lease.allowance
            lease.allowance = 0.0
            await self._lease(lease, 0.0)

    async def _look_up(
        self, tenant_id: UUID, client_id: UUID | None, user_id: UUID | None
    ) -> Leases:
        limits = await self._limits.aof(tenant_id)
        wanted: list[tuple[str, str, int | None]] = [
            ("tenant", "tenant", limits.requests_per_minute)
        ]
        if client_id is not None:
            of_client = await self._client_limit(tenant_id, client_id)
            wanted.append(("client", f"client {client_id}", of_client))
        if user_id is not None:
            of_user = limits.requests_per_user_per_minute
            wanted.append(("user", f"user {user_id}", of_user))
        return tuple(
            self._lease_of(tenant_id, policy, subject, limit)
            for policy, subject, limit in wanted
            if limit is not None
        )

    async def _client_limit(self, tenant_id: UUID, client_id: UUID) -> int | None:
        async with self._database.async_connection(tenant_id) as connection:
            cursor = await connection.execute(
                "SELECT rate_limit_per_minute FROM api_clients WHERE tenant_id = %s AND id = %s",
                (tenant_id, client_id),
            )
            row = await cursor.fetchone()
        return row[0] if row else None

    def _lease_of(self, tenant_id: UUID, policy: str, subject: str, limit: int) -> Lease:
        known = self._leases.get((tenant_id, subject))
        if known is None or known.limit != limit:
            former, known = known, Lease(tenant_id, policy, subject, limit)
            if former is not None:
                known.debt = former.debt - former.allowance
            self._leases[tenant_id, subject] = known
        return known


def policy_field(leases: Sequence[Lease]) -> str:
    """RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers): quota and window in seconds."""
    return ", ".join(f'"{x.policy}";q={x.limit:.0f};w={WINDOW_SECONDS:.0f}' for x in leases)


def limit_field(leases: Sequence[Lease], now: float) -> str:
    """RateLimit: what remains, and the seconds until the quota is whole again."""
    return ", ".join(
        f'"{x.policy}";r={x.remaining(now)};t={x.seconds_until(x.limit, now)}' for x in leases
    )


def too_many(refusal: Refusal, leases: Sequence[Lease]) -> TooManyRequests:
    """The error of a request that a limit forbids, with the fields that explain it."""
    whose = {"tenant": "this organization", "client": "this client", "user": "this user"}
    return TooManyRequests(
        f"{whose[refusal.policy]} may spend {refusal.limit} units a minute (a read costs 1, a"
        " version history 10, a search 20, a change 100);"
        f" try again in {refusal.retry_after} s",
        headers={
            "Retry-After": str(refusal.retry_after),
            "RateLimit-Policy": policy_field(leases),
            "RateLimit": limit_field(leases, time.monotonic()),
        },
    )
