"""Migrations over all places: the platform's database first, then all others side by side.

Each place has its own revision. One that fails stays at the one it had, is reported, and does not
stop the others; `storage.places` leads nobody there until `interop migrate` has brought it along.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo
from sqlalchemy.exc import DBAPIError

from storage import migrations
from storage.database import Database
from storage.partitions import schemas
from storage.partitions.mirror import mirror
from storage.partitions.provisioning import Destination, current
from storage.places import HERE, PAUSE_SECONDS, WAIT_SECONDS
from storage.tenancy import BEING_MADE

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PUBLIC = "public"
# Places share the global tables that their foreign keys point at, and may wait for each other.
ATTEMPTS = 4
CONNECT_SECONDS = 10
# What an operator may have added to `public` by hand, to make it faster.
_TUNING = ("index ", "statistics ")

_APART = (
    "SELECT id FROM tenants WHERE place <> %s"
    " AND NOT (status = 'CLOSED' AND status_reason IS NOT DISTINCT FROM %s) ORDER BY id"
)


class SchemaDiffers(Exception):
    """After the revisions a tenant's schema is not what `public` is."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What became of one place: a schema, a database (its name), or `public`, the platform's."""

    place: str
    tenant_id: UUID | None
    from_revision: str | None
    to_revision: str | None
    error: str | None = None


def upgrade_all(owner: Database | str, *, workers: int = 4) -> list[Upgraded]:
    """Bring every place to the newest revision, and the mirrors in databases up to date.

    A `Database` with a vault reaches those on other servers too. Raises where the platform's own
    database cannot be migrated; nothing else is touched then.
    """
    platform = Database(owner) if isinstance(owner, str) else owner
    before, after = migrations.upgrade(platform.url)
    with psycopg.connect(platform.url) as connection:
        rows = connection.execute(_APART, (HERE, BEING_MADE)).fetchall()
    with ThreadPoolExecutor(workers, thread_name_prefix="upgrade") as pool:
        places = list(pool.map(lambda row: _upgraded(platform, row[0]), rows))
    return [Upgraded(PUBLIC, None, before, after), *places]


def _upgraded(platform: Database, tenant_id: UUID) -> Upgraded:
    place = str(tenant_id)
    try:
        destination = _arrived(platform, tenant_id)
        place = destination.database_name or destination.place
        before, after = _bring_along(platform, tenant_id, destination)
    except Exception as error:
        logger.exception("place_not_migrated", extra={"tenant_id": str(tenant_id)})
        return Upgraded(place, tenant_id, None, None, _first_line(error))
    return Upgraded(place, tenant_id, before, after)


def _arrived(platform: Database, tenant_id: UUID) -> Destination:
    """Where the tenant lives, after the end of a move that is under way."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (destination := current(platform, tenant_id)).place:
        if time.monotonic() > deadline:
            raise LookupError("the tenant is on its way to another place: migrate again later")
        time.sleep(PAUSE_SECONDS)
    return destination


def _bring_along(
    platform: Database, tenant_id: UUID, destination: Destination
) -> tuple[str | None, str | None]:
    name = destination.place
    if destination.strategy == "SCHEMA":
        return _patiently(
            lambda: migrations.upgrade(
                platform.url, schema=name, check=lambda owner: _require_same(owner, name)
            )
        )
    if destination.strategy == "DATABASE":
        url = make_conninfo(destination.owner_url(platform), connect_timeout=CONNECT_SECONDS)
        moved = _patiently(lambda: migrations.upgrade(url))
        with psycopg.connect(platform.url) as known, psycopg.connect(url) as place:
            mirror(known, place, tenant_id)
        return moved
    # It has moved into the platform's tables meanwhile.
    revision = migrations.newest_revision()
    return revision, revision


def _require_same(owner: psycopg.Connection[Any], name: str) -> None:
    """Raise SchemaDiffers where a revision forgot what it owes to tenants."""
    found = [line for line in schemas.differences(owner, name) if not line.startswith(_TUNING)]
    if found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        raise SchemaDiffers(f"not what public is: {'; '.join(found[:3])}{more}")


def _patiently(upgrade: Callable[[], Result]) -> Result:
    """Again where two places got into each other's way."""
    for attempt in range(1, ATTEMPTS):
        try:
            return upgrade()
        except (errors.DeadlockDetected, DBAPIError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if not isinstance(cause, errors.DeadlockDetected):
                raise
            time.sleep(attempt * PAUSE_SECONDS)
    return upgrade()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
