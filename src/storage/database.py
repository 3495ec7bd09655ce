"""Connections to the one PostgreSQL database, each bound to one tenant for one transaction.

The tenant is a transaction-local setting (`app.tenant`) that the row-level security policies read;
it is set by `set_config(..., true)` and so is gone with the transaction, whatever the pool does
next. A connection without a tenant sees the global tables and no tenant's rows (reliability.md,
"Tenancy: the shape").
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from storage.statements import StatementPool

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

SET_TENANT = "SELECT set_config('app.tenant', %s, true)"

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
        options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC"
        if role is not None:
            options += f" -c role={role}"
        if not is_durable:
            options += " -c synchronous_commit=off"
        given = conninfo_to_dict(url).get("options")
        self.conninfo = make_conninfo(
            url,
            options=f"{given} {options}" if given else options,
            application_name="interop",
            connect_timeout=10,
        )
        self._pool_size = pool_size
        self._async_pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._statement_pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._statements: StatementPool | None = None
        self._vault: Vault | None = None

    @property
    def vault(self) -> Vault:
        """What seals and opens the especially sensitive columns of this database."""
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
            min_size=1,
            max_size=self._pool_size,
            open=True,
            timeout=30,
            kwargs={"autocommit": False},
            configure=self._claim,
        )

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
        from sqlalchemy import text
        from sqlalchemy.orm import Session

        require_tenant(tenant_id)
        with Session(self.engine) as session, session.begin():
            session.execute(
                text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": str(tenant_id)}
            )
            yield session

    @contextmanager
    def connection(self, tenant_id: UUID) -> Iterator[Connection]:
        """A psycopg connection in one transaction of one tenant; commits on success."""
        require_tenant(tenant_id)
        with self.pool.connection() as connection:
            connection.execute(SET_TENANT, (str(tenant_id),))
            yield connection

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
        with psycopg.connect(self.conninfo) as connection:
            self._claim(connection)
            if tenant_id is not None:
                require_tenant(tenant_id)
                connection.execute(SET_TENANT, (str(tenant_id),))
            yield connection

    # -- asyncio ----------------------------------------------------------------------------

    async def open_async(self) -> None:
        """Open the pool of this event loop; call once before the first async use."""
        self._async_pool = await self._open_pool(autocommit=False)
        self._statement_pool = await self._open_pool(autocommit=True)
        self._statements = StatementPool(self.conninfo, size=self._pool_size)

    async def _open_pool(self, *, autocommit: bool) -> AsyncConnectionPool[AsyncConnection]:
        pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
            self.conninfo,
            min_size=1,
            max_size=self._pool_size,
            open=False,
            timeout=30,
            kwargs={"autocommit": autocommit},
        )
        await pool.open()
        return pool

    async def close_async(self) -> None:
        """Close the pool of this event loop."""
        for pool in (self._async_pool, self._statement_pool):
            if pool is not None:
                await pool.close()
        if self._statements is not None:
            await self._statements.close()
        self._async_pool = self._statement_pool = self._statements = None

    @property
    def async_pool(self) -> AsyncConnectionPool[AsyncConnection]:
        """The pool that `open_async` opened."""
        if self._async_pool is None:
            raise RuntimeError("Database.open_async() was not called in this event loop")
        return self._async_pool

    @property
    def statement_pool(self) -> AsyncConnectionPool[AsyncConnection]:
        """Connections in autocommit, for calls of SQL functions that bind the tenant themselves.

        One statement is one transaction and one round trip; a tenant set here is gone with it.
        """
        if self._statement_pool is None:
            raise RuntimeError("Database.open_async() was not called in this event loop")
        return self._statement_pool

    @property
    def statements(self) -> StatementPool:
        """Batches that bind the tenant themselves, where CPU counts more than comfort."""
        if self._statements is None:
            raise RuntimeError("Database.open_async() was not called in this event loop")
        return self._statements

    @asynccontextmanager
    async def async_connection(self, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
        """An async psycopg connection in one transaction of one tenant; commits on success."""
        require_tenant(tenant_id)
        async with self.async_pool.connection() as connection:
            await connection.execute(SET_TENANT, (str(tenant_id),))
            yield connection

    @asynccontextmanager
    async def async_platform_connection(self) -> AsyncIterator[AsyncConnection]:
        """An async connection without a tenant: global tables only."""
        async with self.async_pool.connection() as connection:
            yield connection

    def close(self) -> None:
        """Close the blocking pool and the engine."""
        if "pool" in self.__dict__:
            self.pool.close()
        if "engine" in self.__dict__:
            self.engine.dispose()


def vault_of(connection: Connection) -> Vault:
    """The vault of the database that lent the connection."""
    database: Database | None = getattr(connection, _OWNER, None)
    if database is None:
        raise RuntimeError("a connection that no Database opened can seal and open nothing")
    return database.vault


def require_tenant(tenant_id: object) -> None:
    """Refuse anything but a UUID: a missing tenant must never mean all tenants."""
    if not isinstance(tenant_id, UUID):
        raise TypeError(f"tenant_id must be a UUID, not {type(tenant_id).__name__}")
