"""What a tenant may use, and the checks that hold when many ask at once.

    max_users                     check_users, in the transaction that adds the membership
    max_storage_bytes             counted and refused by triggers (migrations/tenants.sql)
    max_ai_inferences_per_month   reserve_inferences, in the transaction that adds the jobs
    api rates, associations       TenantLimits, remembered by each process

A limit that is NULL is none. Months are those of UTC.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

import psycopg

from storage.database import Connection, Database

CACHE_SECONDS = 30.0
# The name by which the trigger's refusal is known among other errors of the database.
STORAGE_CONSTRAINT = "tenant_quotas_max_storage_bytes"
STATUS_CONSTRAINT = "tenants_status"

# Serializes those who ask for the same thing of the same tenant, until the end of their
# transactions; a row lock would also stop whoever changes or reads another quota.
_ONE_AT_A_TIME: LiteralString = (
    "SELECT pg_advisory_xact_lock(hashtextextended(%(what)s || ' ' || %(tenant_id)s::text, 0))"
)


class QuotaExceeded(Exception):
    """The tenant's quota is used up."""

    def __init__(self, quota: str, limit: int) -> None:
        self.quota = quota
        self.limit = limit
        super().__init__(f"{quota} is {limit}, and that is used")


@dataclass(frozen=True, slots=True)
class Limits:
    """The quotas that doors ask for on every request or association."""

    requests_per_minute: int | None = None
    requests_per_user_per_minute: int | None = None
    associations: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant uses of its quotas now."""

    users: int
    storage_bytes: int
    ai_inferences_this_month: int


def check_users(connection: Connection, tenant_id: UUID, adding: int = 1) -> None:
    """Raise QuotaExceeded when `adding` more members would be too many.

    Call it in the transaction that adds them, before it does, or after with `adding=0`: those who
    add members of the same tenant wait for each other, so the limit is exact. Who counts can sign
    in and is no patient; practitioners who are only known from a feed have no e-mail address.
    """
    limit = _limit(connection, tenant_id, "max_users")
    if limit is None:
        return
    connection.execute(_ONE_AT_A_TIME, {"what": "quota of users", "tenant_id": tenant_id})
    if _users(connection, tenant_id) + adding > limit:
        raise QuotaExceeded("max_users", limit)


def reserve_inferences(connection: Connection, tenant_id: UUID, wanted: int = 1) -> int | None:
    """None when `wanted` more analyses fit into this month; else the limit that forbids them.

    Call it in the transaction that adds the jobs, before it does; exact as `check_users`.
    """
    limit = _limit(connection, tenant_id, "max_ai_inferences_per_month")
    if limit is None:
        return None
    connection.execute(_ONE_AT_A_TIME, {"what": "quota of analyses", "tenant_id": tenant_id})
    return limit if _inferences(connection, tenant_id) + wanted > limit else None


def storage_bytes(connection: Connection, tenant_id: UUID) -> int:
    """Bytes of all stored objects of the tenant."""
    row = connection.execute(
        "SELECT coalesce(sum(bytes), 0)::bigint FROM tenant_storage_usage WHERE tenant_id = %s",
        (tenant_id,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def is_storage_exceeded(error: BaseException) -> bool:
    """True when a transaction failed because the tenant's storage quota is used up."""
    return isinstance(error, psycopg.errors.ConfigurationLimitExceeded) and (
        error.diag.constraint_name == STORAGE_CONSTRAINT
    )


def is_tenant_closed(error: BaseException) -> bool:
    """True when a transaction failed because nothing may be stored in the tenant any more."""
    return isinstance(error, psycopg.errors.ObjectNotInPrerequisiteState) and (
        error.diag.constraint_name == STATUS_CONSTRAINT
    )


def usage(connection: Connection, tenant_id: UUID) -> Usage:
    """What is used now. `connection` is bound to the tenant."""
    return Usage(
        _users(connection, tenant_id),
        storage_bytes(connection, tenant_id),
        _inferences(connection, tenant_id),
    )


class TenantLimits:
    """The limits of tenants as one process remembers them, for `CACHE_SECONDS` at most."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[UUID, tuple[float, Limits]] = {}

    def known(self, tenant_id: UUID) -> Limits | None:
        """What is remembered and fresh; None asks for `load`."""
        entry = self._known.get(tenant_id)
        return entry[1] if entry is not None and entry[0] > time.monotonic() else None

    def of(self, tenant_id: UUID) -> Limits:
        """The limits; blocks for a query when they are not remembered."""
        known = self.known(tenant_id)
        if known is not None:
            return known
        with self._database.connection(tenant_id) as connection:
            row = connection.execute(_LIMITS, (tenant_id,)).fetchone()
        return self._remember(tenant_id, row)

    async def aof(self, tenant_id: UUID) -> Limits:
        """The async twin of `of`."""
        known = self.known(tenant_id)
        if known is not None:
            return known
        async with self._database.async_connection(tenant_id) as connection:
            row = await (await connection.execute(_LIMITS, (tenant_id,))).fetchone()
        return self._remember(tenant_id, row)

    def associations(self, tenant_id: UUID) -> int | None:
        """How many DICOM associations the tenant may hold at once, over all processes."""
        return self.of(tenant_id).associations

    def _remember(self, tenant_id: UUID, row: tuple[int | None, ...] | None) -> Limits:
        limits = Limits(*row) if row else Limits()
        self._known[tenant_id] = (time.monotonic() + CACHE_SECONDS, limits)
        return limits


_LIMITS: LiteralString = (
    "SELECT api_rate_limit_per_minute, api_rate_limit_per_user_per_minute, max_dicom_associations"
    " FROM tenant_quotas WHERE tenant_id = %s"
)


def _limit(connection: Connection, tenant_id: UUID, column: LiteralString) -> int | None:
    row = connection.execute(
        f"SELECT {column} FROM tenant_quotas WHERE tenant_id = %s", (tenant_id,)
    ).fetchone()
    return row[0] if row else None


def _users(connection: Connection, tenant_id: UUID) -> int:
    row = connection.execute(
        "SELECT count(*) FROM user_tenants m JOIN users u ON u.id = m.user_id"
        " WHERE m.tenant_id = %s AND m.status = 'ACTIVE' AND m.may_sign_in"
        " AND m.user_type <> 'PATIENT' AND u.email IS NOT NULL",
        (tenant_id,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def _inferences(connection: Connection, tenant_id: UUID) -> int:
    row = connection.execute(
        "SELECT count(*) FROM ai_inference_jobs WHERE tenant_id = %s"
        " AND created_at >= date_trunc('month', now())",
        (tenant_id,),
    ).fetchone()
    assert row is not None
    return int(row[0])
