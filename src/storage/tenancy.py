"""Which tenants there are, and how a name on a wire (slug, AE title) finds one.

The registry `tenants` is global and holds no patient data; everything a tenant owns is behind
row-level security and reached only with its id (reliability.md, "Tenancy: the shape").
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID, uuid4

from storage.database import AsyncConnection, Connection, Database

CACHE_SECONDS = 30.0
SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# PS3.5 6.2, VR AE: 16 characters at most, no backslash, no control characters, not only spaces.
AE_TITLE = re.compile(r"(?=.*[^ ])[ -\[\]-~]{1,16}")

_SELECT: LiteralString = (
    "SELECT id, slug, name, ae_title, status, partition_strategy, parent_tenant_id FROM tenants"
)
STRATEGIES = ("ROW_LEVEL", "SCHEMA", "DATABASE")
# The status_reason of a tenant whose place is still being made (storage.partitions.creation).
BEING_MADE = "being made"
# A closed tenant is answered like one that never was, at every door that asks the directory.
_OPEN: LiteralString = " AND status <> 'CLOSED'"


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization whose data nobody else sees."""

    id: UUID
    slug: str
    name: str
    ae_title: str | None
    status: str
    partition_strategy: str
    parent_id: UUID | None = None

    @property
    def is_active(self) -> bool:
        """True while everything works. A suspended tenant is read, and nothing else."""
        return self.status == "ACTIVE"

    @property
    def is_readable(self) -> bool:
        """True while its data may be read: it is active or suspended, not closed."""
        return self.status in ("ACTIVE", "SUSPENDED")


class TenantExists(ValueError):
    """A tenant with this slug or AE title exists."""


class TenantDirectory:
    """The registry of tenants, read through a short cache.

    A tenant that is suspended, closed or renamed is seen so within `CACHE_SECONDS` in every
    process; an unknown name is looked up each time, so a new tenant works at once. A closed tenant
    is found by nobody but `even_closed`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[tuple[str, str], tuple[float, Tenant]] = {}

    def by_slug(self, slug: str) -> Tenant | None:
        return self._find("slug", slug)

    def by_ae_title(self, ae_title: str) -> Tenant | None:
        return self._find("ae_title", ae_title)

    def by_id(self, tenant_id: UUID) -> Tenant | None:
        return self._find("id", str(tenant_id))

    async def aby_slug(self, slug: str) -> Tenant | None:
        """The async twin of `by_slug`, for the event loop."""
        known = self._cached("slug", slug)
        if known is not None:
            return known
        async with self._database.async_platform_connection() as connection:
            return self._remember("slug", slug, await _fetch_async(connection, "slug", slug))

    def even_closed(self, slug: str) -> Tenant | None:
        """The tenant as it is at this moment, for an operator who ends or reopens it."""
        with self._database.platform_connection() as connection:
            row = connection.execute(_SELECT + " WHERE slug = %s", (slug,)).fetchone()
        return Tenant(*row) if row else None

    def all_active(self) -> list[Tenant]:
        with self._database.platform_connection() as connection:
            rows = connection.execute(_SELECT + " WHERE status = 'ACTIVE' ORDER BY slug").fetchall()
        return [Tenant(*row) for row in rows]

    def everyone(self) -> list[Tenant]:
        """All tenants there are, suspended and closed ones too."""
        with self._database.platform_connection() as connection:
            rows = connection.execute(_SELECT + " ORDER BY slug").fetchall()
        return [Tenant(*row) for row in rows]

    def create(
        self,
        slug: str,
        *,
        name: str | None = None,
        ae_title: str | None = None,
        tenant_type: str = "SOLO_PRACTICE",
        partition_strategy: str = "ROW_LEVEL",
        parent_id: UUID | None = None,
        owner: Database | None = None,
        database_url: str | None = None,
    ) -> Tenant:
        """Register a tenant with its settings row, alone or below another one.

        SCHEMA and DATABASE make a place for it, as the owner of the database; `database_url`: an
        empty database on another server. Raises ValueError, TenantExists, ProvisioningFailed.
        """
        if not SLUG.fullmatch(slug):
            raise ValueError(
                f"slug {slug!r}: 1 to 63 characters of a-z, 0-9 and '-', not at either end"
            )
        if ae_title is not None and not AE_TITLE.fullmatch(ae_title):
            raise ValueError(f"AE title {ae_title!r}: 1 to 16 printable characters, no backslash")
        if partition_strategy not in STRATEGIES:
            raise ValueError(f"strategy {partition_strategy!r}: one of {', '.join(STRATEGIES)}")
        tenant = Tenant(
            uuid4(), slug, name or slug, ae_title, "ACTIVE", partition_strategy, parent_id
        )
        if partition_strategy != "ROW_LEVEL" or database_url is not None:
            # It needs the models, which hot paths do without.
            from storage.partitions.creation import create_apart

            create_apart(owner or self._database, tenant, tenant_type, database_url)
            self._database.router.forget()
            return tenant
        with self._database.connection(tenant.id) as connection:
            created = connection.execute(
                "INSERT INTO tenants (id, slug, name, type, ae_title, status, partition_strategy,"
                " parent_tenant_id)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING id",
                (
                    tenant.id,
                    slug,
                    tenant.name,
                    tenant_type,
                    ae_title,
                    tenant.status,
                    partition_strategy,
                    parent_id,
                ),
            ).fetchone()
            if created is None:
                raise TenantExists(f"a tenant with slug {slug!r} or AE title {ae_title!r} exists")
            connection.execute("INSERT INTO tenant_settings (tenant_id) VALUES (%s)", (tenant.id,))
        return tenant

    def forget(self) -> None:
        """Drop the cache, after this process changed the registry."""
        self._cache.clear()

    def _find(self, column: LiteralString, value: str) -> Tenant | None:
        known = self._cached(column, value)
        if known is not None:
            return known
        with self._database.platform_connection() as connection:
            return self._remember(column, value, _fetch(connection, column, value))

    def _cached(self, column: str, value: str) -> Tenant | None:
        entry = self._cache.get((column, value))
        return entry[1] if entry and entry[0] > time.monotonic() else None

    def _remember(self, column: str, value: str, row: tuple[object, ...] | None) -> Tenant | None:
        if row is None:
            return None
        tenant = Tenant(*row)  # type: ignore[arg-type]
        self._cache[column, value] = (time.monotonic() + CACHE_SECONDS, tenant)
        return tenant


def _fetch(connection: Connection, column: LiteralString, value: str) -> tuple[object, ...] | None:
    return connection.execute(_SELECT + f" WHERE {column} = %s" + _OPEN, (value,)).fetchone()


async def _fetch_async(
    connection: AsyncConnection, column: LiteralString, value: str
) -> tuple[object, ...] | None:
    cursor = await connection.execute(_SELECT + f" WHERE {column} = %s" + _OPEN, (value,))
    return await cursor.fetchone()
