"""Removes objects that no row names: what a crash between blob and row leaves behind.

Objects are written before their rows (design.md 2), so a young object without a row is a write
under way. Only keys that `storage.objects.keys.new_key` made are ever touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from storage.database import Connection, Database
from storage.objects import ObjectStat, ObjectStore
from storage.objects.keys import hour_prefix, parse_key, tenant_prefix

logger = logging.getLogger(__name__)

OLDER_THAN = timedelta(hours=1)
BATCH = 1000

# Every column that names an object. A test compares this with the catalog: a column that is
# forgotten here would lose its objects.
REFERENCES: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("imaging_objects", "storage_uri"),
    ("quarantined_objects", "storage_uri"),
    ("removed_objects", "storage_uri"),
    ("documents", "storage_uri"),
    ("messages", "storage_uri"),
    ("consents", "document_uri"),
    ("research_datasets", "storage_uri"),
    ("research_datasets", "expert_report_uri"),
    ("research_dataset_members", "storage_uri"),
    ("tenant_branding", "logo_uri"),
)

_NAMED: LiteralString = " UNION ALL ".join(
    f"SELECT {column} FROM {table} WHERE tenant_id = %(tenant_id)s AND {column} = ANY (%(keys)s)"
    for table, column in REFERENCES
)


@dataclass
class SweepReport:
    """What a sweep looked at and removed, or would have removed in a dry run."""

    tenants: int = 0
    not_swept: int = 0
    objects: int = 0
    unreferenced: int = 0
    unreferenced_bytes: int = 0
    deleted: int = 0
    abandoned_writes: int = 0
    is_dry_run: bool = False


def sweep(
    database: Database,
    objects: ObjectStore,
    older_than: timedelta = OLDER_THAN,
    *,
    within: timedelta | None = None,
    dry_run: bool = False,
) -> SweepReport:
    """Delete the objects older than `older_than` that no row of their tenant names.

    With `within`, only the hours of that last span are listed, which is cheap enough to do often;
    without it every object of every tenant is.
    """
    if older_than < OLDER_THAN:
        raise ValueError(f"objects younger than {OLDER_THAN} may still get their rows")
    before = datetime.now(UTC) - older_than
    report = SweepReport(is_dry_run=dry_run)
    for tenant_id in _tenant_ids(database):
        listed = _listed(objects, tenant_id, before, within)
        try:
            while batch := list(islice(listed, BATCH)):
                _sweep_batch(database, objects, tenant_id, batch, report)
        except (psycopg.Error, PoolTimeout):
            # Its database does not answer, or it is being moved: the others are swept.
            logger.exception("tenant_not_swept", extra={"tenant_id": str(tenant_id)})
            report.not_swept += 1
        else:
            report.tenants += 1
    if not dry_run:
        report.abandoned_writes = objects.remove_abandoned(before)
    return report


def _tenant_ids(database: Database) -> list[UUID]:
    with database.platform_connection() as connection:
        return [row[0] for row in connection.execute("SELECT id FROM tenants ORDER BY id")]


def _listed(
    objects: ObjectStore, tenant_id: UUID, before: datetime, within: timedelta | None
) -> Iterator[ObjectStat]:
    """Yield the tenant's objects that were written before a time and have a key of ours."""
    for prefix in _prefixes(tenant_id, before, within):
        for found in objects.list(prefix):
            parts = parse_key(found.key)
            # The hour in the key is the server's clock, the time of writing the store's: both
            # must be old, so that neither clock alone can make a young object look old.
            if parts is not None and parts.hour < before and found.modified < before:
                yield found


def _prefixes(tenant_id: UUID, before: datetime, within: timedelta | None) -> Iterable[str]:
    if within is None:
        return [tenant_prefix(tenant_id)]
    hours = int(within / timedelta(hours=1)) + 1
    return [hour_prefix(tenant_id, before - timedelta(hours=hour)) for hour in range(hours)]


def _sweep_batch(
    database: Database,
    objects: ObjectStore,
    tenant_id: UUID,
    batch: list[ObjectStat],
    report: SweepReport,
) -> None:
    with database.connection(tenant_id) as connection:
        named = _named(connection, tenant_id, [found.key for found in batch])
    report.objects += len(batch)
    for found in batch:
        if found.key in named:
            continue
        report.unreferenced += 1
        report.unreferenced_bytes += found.size
        if not report.is_dry_run:
            objects.delete(found.key)
            report.deleted += 1
            logger.info("unreferenced_object_deleted", extra={"key": found.key})


def _named(connection: Connection, tenant_id: UUID, keys: list[str]) -> set[str]:
    rows = connection.execute(_NAMED, {"tenant_id": tenant_id, "keys": keys})
    return {row[0] for row in rows}
