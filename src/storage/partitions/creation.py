"""A new tenant with a place for itself: the whole of it, or nothing.

While the place is made the registry has the tenant as CLOSED and without a place, so no door knows
it. What a crash leaves is told by that; the next `create` of the same slug removes it and begins
anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors

from storage.database import Database
from storage.partitions import databases, schemas
from storage.partitions.mirror import mirror
from storage.partitions.provisioning import (
    Destination,
    ProvisioningFailed,
    current,
    drop,
    prepare,
    settle,
)
from storage.places import ELSEWHERE, MOVING, url_place
from storage.tenancy import BEING_MADE, Tenant, TenantExists

Owner = psycopg.Connection[Any]

_INSERT = (
    "INSERT INTO tenants (id, slug, name, type, ae_title, status, status_reason,"
    " partition_strategy, parent_tenant_id, place, database_name, database_url_encrypted)"
    " VALUES (%s, %s, %s, %s, %s, 'CLOSED', %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT DO NOTHING RETURNING id"
)


def create_apart(
    owner: Database, tenant: Tenant, tenant_type: str, database_url: str | None = None
) -> None:
    """Make the place of `tenant` and register it there.

    Raises ProvisioningFailed, TenantExists and ValueError, and has left nothing then.
    """
    if database_url is not None and tenant.partition_strategy != "DATABASE":
        raise ProvisioningFailed(
            f"a database URL is for DATABASE only, not for {tenant.partition_strategy}"
        )
    with _claimed(owner, tenant.slug) as registry:
        _remove_half_made(owner, registry, tenant.slug)
        if database_url is not None:
            _require_empty(database_url)
        _register(owner, registry, tenant, tenant_type, database_url)
        destination: Destination | None = None
        try:
            destination = prepare(owner, tenant.id, tenant.partition_strategy, database_url)
            _write_settings(owner, tenant.id, destination)
            settle(owner, tenant.id, destination)
            registry.execute(
                "UPDATE tenants SET status = %s, status_reason = NULL WHERE id = %s",
                (tenant.status, tenant.id),
            )
            _tell(owner, tenant.id, destination)
        except BaseException:
            if destination is not None:
                drop(owner, destination)
            _unregister(registry, tenant.id)
            raise


@contextmanager
def _claimed(owner: Database, slug: str) -> Iterator[Owner]:
    """A connection that holds the slug, so that nobody takes what is being made for half-made."""
    with psycopg.connect(owner.url, autocommit=True) as registry:
        row = registry.execute(
            "SELECT pg_try_advisory_lock(hashtextextended('tenant create ' || %s, 0)),"
            " has_table_privilege('tenants', 'DELETE')",
            (slug,),
        ).fetchone()
        if row is None or not row[1]:
            raise ProvisioningFailed(
                f"the login {registry.info.user} does not own this database: a place for a tenant"
                " is made with its owner's (INTEROP_DATABASE_OWNER_URL)"
            )
        if not row[0]:
            raise ProvisioningFailed(f"tenant {slug!r} is being created by another process")
        yield registry


def _remove_half_made(owner: Database, registry: Owner, slug: str) -> None:
    row = registry.execute(
        "SELECT id FROM tenants WHERE slug = %s AND status = 'CLOSED' AND status_reason = %s",
        (slug, BEING_MADE),
    ).fetchone()
    if row is None:
        return
    tenant_id: UUID = row[0]
    left = current(owner, tenant_id)
    if left.database_url is not None:
        # It was empty when the tenant was registered; whatever came since must be ours.
        if not databases.holds_only(left.database_url, tenant_id):
            raise ProvisioningFailed(
                f"the database {left.database_name} was to be that of {slug!r} and has other"
                " content now: empty it, or bring it out of reach"
            )
        drop(owner, left)
    elif left.strategy == "SCHEMA":
        drop(owner, Destination("SCHEMA", schemas.schema_name(tenant_id)))
    else:
        drop(owner, Destination("DATABASE", ELSEWHERE, databases.database_name(tenant_id)))
    _unregister(registry, tenant_id)


def _require_empty(url: str) -> None:
    try:
        databases.require_empty(url)
    except databases.DatabaseRefused as error:
        raise ProvisioningFailed(str(error)) from error


def _register(
    owner: Database, registry: Owner, tenant: Tenant, tenant_type: str, url: str | None
) -> None:
    sealed = owner.vault.seal(None, url_place(tenant.id), url) if url is not None else None
    created = registry.execute(
        _INSERT,
        (
            tenant.id,
            tenant.slug,
            tenant.name,
            tenant_type,
            tenant.ae_title,
            BEING_MADE,
            tenant.partition_strategy,
            tenant.parent_id,
            MOVING,
            databases.name_in(url) if url is not None else None,
            sealed,
        ),
    ).fetchone()
    if created is None:
        raise TenantExists(
            f"a tenant with slug {tenant.slug!r} or AE title {tenant.ae_title!r} exists"
        )


def _unregister(registry: Owner, tenant_id: UUID) -> None:
    registry.execute("DELETE FROM tenants WHERE id = %s", (tenant_id,))


def _write_settings(owner: Database, tenant_id: UUID, destination: Destination) -> None:
    with destination.connect(owner) as place:
        # Not enter_tenant: in the platform's database the tenant has no place yet.
        place.execute("SELECT set_config('app.tenant', %s, true)", (str(tenant_id),))
        place.execute("INSERT INTO tenant_settings (tenant_id) VALUES (%s)", (tenant_id,))


def _tell(owner: Database, tenant_id: UUID, destination: Destination) -> None:
    """Have the tenant's own database know that it is open now."""
    if destination.strategy != "DATABASE":
        return
    with psycopg.connect(owner.url) as platform, destination.connect(owner) as place:
        try:
            mirror(platform, place, tenant_id)
        except errors.OperationalError as error:
            raise ProvisioningFailed(
                f"the new database is not reached any more: {error}"
            ) from error
