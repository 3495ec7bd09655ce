"""A database as it looks from within one open transaction.

What reads by `Database.run` or `Database.connection` sees there what the transaction has written
and not committed yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from uuid import UUID

from storage.blocking_statements import run_batch, savepoint
from storage.database import AsyncConnection, Connection, Database
from storage.statements import Row, Statement


class LentDatabase(Database):
    """One connection of `owner`, in its transaction of one tenant; it opens none of its own."""

    def __init__(self, owner: Database, connection: Connection, tenant_id: UUID) -> None:
        super().__init__(owner.url)
        # The keys are the owner's.
        self._platform = owner
        self._connection = connection
        self._tenant_id = tenant_id

    async def run(self, tenant_id: UUID, *statements: Statement) -> list[list[Row]]:
        """Run the statements, in a thread; what they set of commits does not hold afterwards."""
        return await asyncio.to_thread(self.run_blocking, tenant_id, *statements)

    def run_blocking(self, tenant_id: UUID, *statements: Statement) -> list[list[Row]]:
        """The same for a thread."""
        self._require(tenant_id)
        # Nothing is kept prepared: a batch that fails while it prepares ends its connection.
        batch = [replace(statement, keeps_plan=False) for statement in statements]
        found = run_batch(self._connection, batch)
        # A read does not wait for the disk; the writes of this transaction must.
        self._connection.execute("SET LOCAL synchronous_commit TO DEFAULT")
        return found

    @contextmanager
    def connection(self, tenant_id: UUID) -> Iterator[Connection]:
        """The connection, in a savepoint."""
        self._require(tenant_id)
        with savepoint(self._connection):
            yield self._connection

    @contextmanager
    def unbound_connection(self, tenant_id: UUID) -> Iterator[Connection]:
        """The same: it is bound already, to this tenant."""
        with self.connection(tenant_id) as connection:
            yield connection

    @asynccontextmanager
    async def async_connection(self, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
        """A connection of the owner, beside the transaction."""
        assert self._platform is not None
        async with self._platform.async_connection(tenant_id) as connection:
            yield connection

    def _require(self, tenant_id: UUID) -> None:
        if tenant_id != self._tenant_id:
            raise ValueError("a transaction belongs to one tenant")
