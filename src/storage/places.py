"""Where the rows of each tenant lie, and the way there: one TenantRouter for all three strategies.

ROW_LEVEL: the tables of the installation. SCHEMA: tables of its own in a schema of the same
database. DATABASE: a database of its own. Everybody asks the platform's `Database` for a connection
of a tenant and gets one that leads to the right place (decision 0011).

The database has the last word: `enter_tenant` refuses a transaction that came to a place where the
tenant does not live (any more). So what a process remembers may be old, and a tenant can move while
others write: whoever comes too late is turned away before its first statement, and asks again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from storage.database import Database

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Values of tenants.place besides the name of a schema.
HERE = "public"
ELSEWHERE = "-"
MOVING = ""
# The last step of a move takes seconds at most; who comes meanwhile waits for its end.
WAIT_SECONDS = 10.0
PAUSE_SECONDS = 0.1
# Of one place: an organization that has one for itself is large, and there may be hundreds.
POOL_SIZE = 5
# Connections of a place that nobody used for so long are closed.
IDLE_SECONDS = 60.0
# So long a process goes by what it remembers without being told better. A database that a tenant
# has left is removed later than this (storage.partitions.moving): nobody is led there then.
REMEMBER_SECONDS = 30.0
# So soon after `interop migrate` a place that was outdated is served.
OUTDATED_SECONDS = 5.0
# Raised by enter_tenant in migrations/functions.sql.
PLACE_CONSTRAINT = "tenants_place"

_HomeRow = tuple[UUID, str, str | None, str | None]

_HOMES: LiteralString = (
    "SELECT id, place, database_name, database_url_encrypted FROM tenants WHERE place <> 'public'"
)


class TenantMoving(psycopg.OperationalError):
    """The tenant is on its way to another place; try again in some seconds."""


class PlaceOutdated(psycopg.OperationalError):
    """The place of a tenant is at another revision than the platform: run 'interop migrate'."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a tenant lives that does not live in the tables of the installation."""

    place: str  # tenants.place
    database_name: str | None = None
    url_encrypted: str | None = None

    @property
    def is_other_database(self) -> bool:
        return self.place == ELSEWHERE

    @property
    def is_moving(self) -> bool:
        return self.place == MOVING


class TenantRouter:
    """Leads to the place of each tenant, for one `Database` of the platform.

    Only tenants that live apart are remembered. What is remembered is read again when the database
    says that it is not true any more, and after `REMEMBER_SECONDS`.
    """

    def __init__(self, platform: Database) -> None:
        self._platform = platform
        self._homes: dict[UUID, Home] | None = None
        self._read_at = 0.0
        self._places: dict[Home, Database] = {}
        self._left: list[Database] = []
        # Places that were outdated, and when to look again.
        self._outdated: dict[Home, tuple[float, PlaceOutdated]] = {}

    # -- blocking ---------------------------------------------------------------------------

    def enter(self, tenant_id: UUID, enter: Callable[[Database], Result]) -> Result:
        """Call `enter` with the tenant's place, again where the tenant has moved meanwhile."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            place = self.place_of(tenant_id, deadline)
            try:
                return enter(place)
            except psycopg.errors.CannotConnectNow as error:
                if not is_elsewhere(error) or time.monotonic() > deadline:
                    raise
            self.forget()
            time.sleep(PAUSE_SECONDS)

    def place_of(self, tenant_id: UUID, deadline: float | None = None) -> Database:
        """The database (or schema) in which the tenant lives, as far as is known.

        Waits for the end of a move. Raises TenantMoving.
        """
        deadline = deadline or time.monotonic() + WAIT_SECONDS
        while True:
            home = self.home(tenant_id)
            if home is None or not home.is_moving:
                return self._at(tenant_id, home)
            if time.monotonic() > deadline:
                raise TenantMoving(f"tenant {tenant_id} is being moved")
            time.sleep(PAUSE_SECONDS)
            self.forget()

    def home(self, tenant_id: UUID) -> Home | None:
        """Where the tenant lives apart; None for the tables of the installation."""
        homes = self._remembered()
        if homes is None:
            with self._platform.platform_connection() as connection:
                homes = self._remember(connection.execute(_HOMES).fetchall())
        return homes.get(tenant_id)

    def apart(self) -> dict[UUID, Home]:
        """Every tenant that lives apart, as it is at this moment."""
        with self._platform.platform_connection() as connection:
            return dict(self._remember(connection.execute(_HOMES).fetchall()))

    def forget(self) -> None:
        """Read again where tenants live before the next connection."""
        self._homes = None

    def _remembered(self) -> dict[UUID, Home] | None:
        is_fresh = time.monotonic() - self._read_at < REMEMBER_SECONDS
        return self._homes if is_fresh else None

    def _remember(self, rows: list[_HomeRow]) -> dict[UUID, Home]:
        homes = {row[0]: Home(*row[1:]) for row in rows}
        self._homes, self._read_at = homes, time.monotonic()
        # A tenant that comes back gets new connections: those to a dropped database are dead.
        # Whoever holds one of the old ones keeps it; those that nobody holds are closed as idle.
        for home in self._places.keys() - set(homes.values()):
            left = self._places.pop(home, None)
            if left is not None:
                self._left.append(left)
        return homes

    def close(self) -> None:
        for place in (*self._places.values(), *self._left):
            place.close()

    # -- asyncio ----------------------------------------------------------------------------

    async def aenter(
        self, tenant_id: UUID, enter: Callable[[Database], Awaitable[Result]]
    ) -> Result:
        """The async twin of `enter`."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            place = await self.aplace_of(tenant_id, deadline)
            try:
                return await enter(place)
            except psycopg.errors.CannotConnectNow as error:
                if not is_elsewhere(error) or time.monotonic() > deadline:
                    raise
            self.forget()
            await asyncio.sleep(PAUSE_SECONDS)

    async def aplace_of(self, tenant_id: UUID, deadline: float | None = None) -> Database:
        """The async twin of `place_of`."""
        deadline = deadline or time.monotonic() + WAIT_SECONDS
        while True:
            home = await self._ahome(tenant_id)
            if home is None or not home.is_moving:
                return await self._aat(tenant_id, home)
            if time.monotonic() > deadline:
                raise TenantMoving(f"tenant {tenant_id} is being moved")
            await asyncio.sleep(PAUSE_SECONDS)
            self.forget()

    async def _ahome(self, tenant_id: UUID) -> Home | None:
        homes = self._remembered()
        if homes is None:
            async with self._platform.async_platform_connection() as connection:
                cursor = await connection.execute(_HOMES)
                homes = self._remember(await cursor.fetchall())
        return homes.get(tenant_id)

    async def _aat(self, tenant_id: UUID, home: Home | None) -> Database:
        if home is None:
            return self._platform
        if home not in self._places:
            # Its revision is looked at, and the key that opens its URL may have to be fetched.
            return await asyncio.to_thread(self._at, tenant_id, home)
        return self._at(tenant_id, home)

    async def aclose(self) -> None:
        for place in (*self._places.values(), *self._left):
            await place.close_async()

    # -- places -----------------------------------------------------------------------------

    def _at(self, tenant_id: UUID, home: Home | None) -> Database:
        if home is None:
            return self._platform
        known = self._places.get(home)
        if known is None:
            # Of two that open it at once, one is used and the other never connects.
            known = self._places.setdefault(home, self._opened(tenant_id, home))
        return known

    def _opened(self, tenant_id: UUID, home: Home) -> Database:
        until, outdated = self._outdated.get(home, (0.0, None))
        if outdated is not None and time.monotonic() < until:
            raise PlaceOutdated(str(outdated))
        if home.place != ELSEWHERE:
            place = self._platform.part(search_path=f"{home.place}, {HERE}")
        else:
            place = self._platform.part(url=self._url(tenant_id, home))
        self._require_revision(place, home)
        return place

    def _require_revision(self, place: Database, home: Home) -> None:
        """Raise PlaceOutdated where a migration has not come to this place, or has failed there.

        Looked at once a process: the server migrates before it serves.
        """
        where = home.place if home.place != ELSEWHERE else HERE
        wanted, found = _revision(self._platform, HERE), _revision(place, where)
        if found == wanted:
            return
        name = home.database_name or home.place
        error = PlaceOutdated(
            f"{name} is at revision {found}, the platform at {wanted}: run 'interop migrate'"
        )
        logger.error("place_outdated", extra={"place": name, "found": found, "wanted": wanted})
        self._outdated[home] = (time.monotonic() + OUTDATED_SECONDS, error)
        raise error

    def _url(self, tenant_id: UUID, home: Home) -> str:
        if home.url_encrypted is None:
            return make_conninfo(self._platform.url, dbname=home.database_name)
        where = url_place(tenant_id)
        return self._platform.vault.open(None, where, home.url_encrypted)


def _revision(place: Database, schema: str) -> str | None:
    query = sql.SQL("SELECT version_num FROM {}.alembic_version").format(sql.Identifier(schema))
    with place.connection_apart(None) as connection:
        row = connection.execute(query).fetchone()
    return str(row[0]) if row is not None else None


def url_place(tenant_id: UUID) -> str:
    """What the sealed URL of a tenant's database is bound to."""
    from storage.encryption.columns import place

    return place("tenants", "database_url_encrypted", str(tenant_id))


def is_elsewhere(error: psycopg.Error) -> bool:
    """Whether `enter_tenant` refused, because the tenant does not live where it was called."""
    return error.diag.constraint_name == PLACE_CONSTRAINT
