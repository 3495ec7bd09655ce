"""Connections to PostgreSQL, each bound to one tenant for one transaction.

`Database` is the platform's database. A connection of a tenant leads to where the tenant's rows
lie: in its tables, in a schema of its own or in another database (storage.places). The tenant is a
transaction-local setting (`app.tenant`) that the row-level security policies read; it is gone with
the transaction, whatever the pool does next. A connection without a tenant sees the global tables
and no tenant's rows (reliability.md, "Tenancy: the shape").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from storage.blocking_statements import KEPT_PLANS, keep_plans, run_batch
from storage.places import IDLE_SECONDS, POOL_SIZE, TenantRouter, is_elsewhere
from storage.statements import Row, Statement, StatementPool

if TYPE_CHECKING:
    # Loaded at first use: hot paths and short commands speak psycopg only.
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from storage.encryption.vault import Vault

Connection = psycopg.Connection[tuple[Any, ...]]
AsyncConnection = psycopg.AsyncConnection[tuple[Any, ...]]

# Owns nothing and cannot bypass row-level security; the migration makes it where it is missing.
APP_ROLE = "interop_app"

# The attribute of a connection that names the Database that opened it.
_OWNER = "interop_database"

# Raises CannotConnectNow where the tenant does not live.
ENTER_TENANT = "SELECT enter_tenant(%s)"
ENTER_SCHEMA = f"SELECT set_config('search_path', %s, true), {KEPT_PLANS}"

# A statement that runs longer than this is a runaway search, not work (reliability.md, limits).
STATEMENT_TIMEOUT_MS = 30_000


class Database:
    """One PostgreSQL database reached as the application role.

    `role` is what a connection switches to at the start when the URL names another login, for
    managed databases that hand out one URL; the embedded cluster logs in as the role itself.
    Without `is_durable` a commit does not wait for the disk: what was acknowledged in the last
    moments before a power cut may be lost, though never half of it.
    """

    def __init__(
        self,
        url: str,
        *,
        role: str | None = None,
        pool_size: int = 10,
        is_durable: bool = True,
    ) -> None:
        self.url = url
        self._role = role
        self._is_durable = is_durable
        self._pool_size = pool_size
        self.conninfo = self._conninfo()
        self.router = TenantRouter(self)
        # Of a place of tenants: the platform's, which has the keys.
        self._platform: Database | None = None
        self._search_path: str | None = None
        # Set by who looks after all tenants at once: the blocking connections of schemas are then
        # this database's, led there for a transaction, and not some for each schema. Plans are
        # made anew wherever the tenant changes.
        self.lends_to_schemas = False
        self._async_pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._statements: StatementPool | None = None
        self._opening = asyncio.Lock()
        self._vault: Vault | None = None

    def part(self, *, url: str | None = None, search_path: str | None = None) -> Database:
        """A place of tenants beside this one: a schema of it, or another database."""
        place = Database(
            url or self.url,
            role=self._role,
            pool_size=POOL_SIZE,
            is_durable=self._is_durable,
        )
        place._search_path = search_path
        place.conninfo = place._conninfo(search_path)
        place._platform = self
        return place

    def _conninfo(self, search_path: str | None = None) -> str:
        options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC"
        if self._role is not None:
            options += f" -c role={self._role}"
        if not self._is_durable:
            options += " -c synchronous_commit=off"
        if search_path is not None:
            options += f" -c search_path={search_path.replace(' ', '')}"
        given = conninfo_to_dict(self.url).get("options")
        return make_conninfo(
            self.url,
            options=f"{given} {options}" if given else options,
            application_name="interop",
            connect_timeout=10,
        )

    @property
    def vault(self) -> Vault:
        """What seals and opens the especially sensitive columns of this database."""
        if self._platform is not None:
            return self._platform.vault
        if self._vault is None:
            raise RuntimeError("this database was opened without encryption keys (Database.vault)")
        return self._vault

    @vault.setter
    def vault(self, vault: Vault) -> None:
        self._vault = vault

    @cached_property
    def pool(self) -> ConnectionPool[Connection]:
        """The pool of blocking connections, opened at the first use."""
        return ConnectionPool(
            self.conninfo,
            open=True,
            num_workers=1,
            kwargs={"autocommit": False},
            configure=self._claim,
            **self._limits,
        )

    @property
    def _limits(self) -> dict[str, Any]:
        limits: dict[str, Any] = {"min_size": 1, "max_size": self._pool_size, "timeout": 30}
        if self._platform is not None:
            limits |= {"min_size": 0, "max_idle": IDLE_SECONDS}
        return limits

    def _claim(self, connection: Connection) -> None:
        """Have whoever is lent the connection find this database, and so its vault."""
        setattr(connection, _OWNER, self)

    @cached_property
    def engine(self) -> Engine:
        """SQLAlchemy on connections of its own, for models and administration."""
        from sqlalchemy import create_engine

        return create_engine("postgresql+psycopg://", creator=self._checkout, pool_pre_ping=True)

    def _checkout(self) -> Connection:
        connection = psycopg.connect(self.conninfo)
        self._claim(connection)
        return connection

    # -- blocking ---------------------------------------------------------------------------

    @contextmanager
    def session(self, tenant_id: UUID) -> Iterator[Session]:
        """A SQLAlchemy session in one transaction of one tenant; commits on success."""
        require_tenant(tenant_id)
        with ExitStack() as stack:
            yield self.router.enter(tenant_id, lambda place: place._session(stack, tenant_id))

    def _session(self, stack: ExitStack, tenant_id: UUID) -> Session:
        from sqlalchemy import text
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.orm import Session

        with ExitStack() as trying:
            session = trying.enter_context(Session(self.engine))
            trying.enter_context(session.begin())
            try:
                session.execute(text("SELECT enter_tenant(:tenant)"), {"tenant": tenant_id})
            except DBAPIError as error:
                raise error.orig or error from None
            stack.push(trying.pop_all())
        return session

    @contextmanager
    def connection(self, tenant_id: UUID) -> Iterator[Connection]:
        """A psycopg connection in one transaction of one tenant; commits on success."""
        require_tenant(tenant_id)
        with ExitStack() as stack:
            yield self.router.enter(
                tenant_id, lambda place: place._entered(stack, tenant_id, place._lent())
            )

    @staticmethod
    def _entered(
        stack: ExitStack, tenant_id: UUID, given: AbstractContextManager[Connection]
    ) -> Connection:
        """The connection that `given` opens, in the tenant; `stack` closes it."""
        with ExitStack() as trying:
            connection = trying.enter_context(given)
            connection.execute(ENTER_TENANT, (tenant_id,))
            stack.push(trying.pop_all())
        return connection

    @contextmanager
    def _lent(self) -> Iterator[Connection]:
        platform = self._platform
        if self._search_path is None or platform is None or not platform.lends_to_schemas:
            with self.pool.connection() as connection:
                yield connection
            return
        with platform.pool.connection() as connection:
            # For this transaction, like the tenant.
            row = connection.execute(ENTER_SCHEMA, (self._search_path,)).fetchone()
            assert row is not None
            keep_plans(connection, row[1])
            yield connection

    @contextmanager
    def unbound_connection(self, tenant_id: UUID) -> Iterator[Connection]:
        """A connection to where the tenant lives, for whoever binds it with what they send first.

        Raises CannotConnectNow where the tenant has just moved; it is found the next time.
        """
        try:
            with self.router.place_of(tenant_id)._lent() as connection:
                yield connection
        except psycopg.errors.CannotConnectNow as error:
            self._forget_place(error)
            raise

    def run_blocking(self, tenant_id: UUID, *statements: Statement) -> list[list[Row]]:
        """The blocking twin of `run`."""
        require_tenant(tenant_id)
        return self.router.enter(tenant_id, lambda place: place._run_blocking(statements))

    def _run_blocking(self, statements: tuple[Statement, ...]) -> list[list[Row]]:
        with self._lent() as connection:
            return run_batch(connection, statements)

    def _forget_place(self, error: psycopg.Error) -> None:
        if is_elsewhere(error):
            self.router.forget()

    @contextmanager
    def platform_connection(self) -> Iterator[Connection]:
        """A connection without a tenant: global tables only."""
        with self.pool.connection() as connection:
            yield connection

    @contextmanager
    def connection_apart(self, tenant_id: UUID | None) -> Iterator[Connection]:
        """The same, beside the pool: for what must be committed while its caller holds one of it.

        None: no tenant. Rare and slow; a pool whose every user waits for one more stands still.
        """
        if tenant_id is None:
            with self._checkout() as connection:
                yield connection
            return
        require_tenant(tenant_id)
        with ExitStack() as stack:
            yield self.router.enter(
                tenant_id, lambda place: place._entered(stack, tenant_id, place._checkout())
            )

    # -- asyncio ----------------------------------------------------------------------------

    async def open_async(self) -> None:
        """Open the pools of this event loop; call once before the first async use."""
        pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
            self.conninfo,
            open=False,
            num_workers=1,
            kwargs={"autocommit": False},
            **self._limits,
        )
        await pool.open()
        idle = None if self._platform is None else IDLE_SECONDS
        self._statements = StatementPool(self.conninfo, size=self._pool_size, idle_seconds=idle)
        self._async_pool = pool

    async def close_async(self) -> None:
        """Close the pools of this event loop, those of all places."""
        await self.router.aclose()
        if self._async_pool is not None:
            await self._async_pool.close()
        if self._statements is not None:
            await self._statements.close()
        self._async_pool = self._statements = None

    @property
    def async_pool(self) -> AsyncConnectionPool[AsyncConnection]:
        """The pool that `open_async` opened."""
        if self._async_pool is None:
            raise RuntimeError("Database.open_async() was not called in this event loop")
        return self._async_pool

    async def run(self, tenant_id: UUID, *statements: Statement) -> list[list[Row]]:
        """Run statements that bind the tenant themselves, where CPU counts more than comfort.

        They are one transaction and one round trip; returns the rows of each that has rows.
        """
        require_tenant(tenant_id)
        return await self.router.aenter(tenant_id, lambda place: place._run(statements))

    async def _run(self, statements: tuple[Statement, ...]) -> list[list[Row]]:
        if self._statements is None:
            await self._open_place()
        assert self._statements is not None
        return await self._statements.run(*statements)

    async def _open_place(self) -> None:
        """Open the pools of a place at its first use; the platform's owner opens its own."""
        if self._platform is None:
            raise RuntimeError("Database.open_async() was not called in this event loop")
        async with self._opening:
            if self._async_pool is None:
                await self.open_async()

    @asynccontextmanager
    async def async_connection(self, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
        """An async psycopg connection in one transaction of one tenant; commits on success."""
        require_tenant(tenant_id)
        async with AsyncExitStack() as stack:
            yield await self.router.aenter(
                tenant_id, lambda place: place._aentered(stack, tenant_id)
            )

    async def _aentered(self, stack: AsyncExitStack, tenant_id: UUID) -> AsyncConnection:
        if self._async_pool is None:
            await self._open_place()
        async with AsyncExitStack() as trying:
            connection = await trying.enter_async_context(self.async_pool.connection())
            await connection.execute(ENTER_TENANT, (tenant_id,))
            stack.push_async_exit(trying.pop_all())
        return connection

    @asynccontextmanager
    async def unbound_async_connection(self, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
        """The async twin of `unbound_connection`."""
        place = await self.router.aplace_of(tenant_id)
        if place._async_pool is None:
            await place._open_place()
        try:
            async with place.async_pool.connection() as connection:
                yield connection
        except psycopg.errors.CannotConnectNow as error:
            self._forget_place(error)
            raise

    @asynccontextmanager
    async def async_platform_connection(self) -> AsyncIterator[AsyncConnection]:
        """An async connection without a tenant: global tables only."""
        async with self.async_pool.connection() as connection:
            yield connection

    def close(self) -> None:
        """Close the blocking pools and engines, those of all places."""
        self.router.close()
        if "pool" in self.__dict__:
            self.pool.close()
        if "engine" in self.__dict__:
            self.engine.dispose()


def lender_of(connection: Connection) -> Database | None:
    """The database that lent the connection: the platform's, or a place of tenants."""
    lender: Database | None = getattr(connection, _OWNER, None)
    return lender


def vault_of(connection: Connection) -> Vault:
    """The vault of the database that lent the connection."""
    database = lender_of(connection)
    if database is None:
        raise RuntimeError("a connection that no Database opened can seal and open nothing")
    return database.vault


def require_tenant(tenant_id: object) -> None:
    """Refuse anything but a UUID: a missing tenant must never mean all tenants."""
    if not isinstance(tenant_id, UUID):
        raise TypeError(f"tenant_id must be a UUID, not {type(tenant_id).__name__}")
