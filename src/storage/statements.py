"""Statements for hot reads: a batch is one transaction and one round trip, over bare libpq.

A batch travels in libpq's pipeline mode with a single Sync, so PostgreSQL runs it as one
transaction and forgets a tenant that was set in it. The sockets stay registered with the event
loop, and a statement costs a tenth of the CPU of a psycopg cursor; connecting, adaptation of
values and errors remain psycopg's.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg_pool import PoolTimeout

# A connection that keeps more plans than this forgets all of them.
MAX_PLANS = 200
# So does one that keeps more characters of them: a plan takes some hundred times their room.
MAX_PLANNED = 150_000
MAX_GAPS = 3
# A managed database moves to another host; connections follow within this time.
MAX_AGE_SECONDS = 3600.0
_PARAMETER = re.compile(r"%\((\w+)\)s|%%")
_BINARY = pq.Format.BINARY
_STALE_PLAN = (errors.FeatureNotSupported, errors.InvalidSqlStatementName)

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `%(name)s` parameters, or with `$1`, `$2` ... for all of them in their order.

    With `keeps_plan` it is prepared once a connection: right where the best plan does not depend
    on the values. Without, it is planned with its values each time.
    """

    sql: str
    parameters: Mapping[str, Any]
    keeps_plan: bool = False


def function_call(function: str, arguments: Mapping[str, Any]) -> Statement:
    """The call of a SQL function with its arguments in their order, and a plan that is kept."""
    return Statement(_call_of(function, tuple(arguments)), arguments, keeps_plan=True)


@lru_cache
def _call_of(function: str, names: tuple[str, ...]) -> str:
    placeholders = ", ".join(f"%({name})s" for name in names)
    return f"SELECT * FROM {function}({placeholders})"


class StatementPool:
    """Connections of one event loop. `run` is all that is needed; `close` when it ends."""

    def __init__(
        self,
        conninfo: str,
        *,
        size: int,
        timeout: float = 30.0,
        idle_seconds: float | None = None,
    ) -> None:
        """`idle_seconds`: when nothing ran for so long, the connections are closed."""
        self._conninfo = conninfo
        self._size = size
        self._timeout = timeout
        self._idle_seconds = idle_seconds
        self._reaping: asyncio.TimerHandle | None = None
        self._open = 0
        self._idle: list[_Connection] = []
        self._waiting: deque[asyncio.Future[_Connection | None]] = deque()
        self._is_closed = False

    async def run(self, *statements: Statement) -> list[list[Row]]:
        """Run the statements in one transaction; the rows of each that has rows.

        Raises psycopg.Error, and PoolTimeout when no connection is free in time. The answer that a
        cancelled caller left behind is read to its end before the connection serves another.
        """
        connection = await self._take()
        if self._idle_seconds is not None:
            if self._reaping is not None:
                self._reaping.cancel()
            loop = asyncio.get_running_loop()
            self._reaping = loop.call_later(self._idle_seconds, self._close_idle)
        return await connection.run(statements)

    @property
    def open_connections(self) -> int:
        """How many connections there are, idle or busy."""
        return self._open

    async def close(self) -> None:
        """Close what is idle now, and the rest when its statement ends."""
        self._is_closed = True
        if self._reaping is not None:
            self._reaping.cancel()
        self._close_idle()
        while self._waiting:
            self._wake(self._waiting.popleft(), None)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().discard()

    async def _take(self) -> _Connection:
        while not self._is_closed:
            if self._idle:
                return self._idle.pop()
            if self._open < self._size:
                return await self._connect()
            connection = await self._wait()
            if connection is not None:
                return connection
        raise psycopg.OperationalError("the pool of statements is closed")

    async def _connect(self) -> _Connection:
        self._open += 1
        try:
            return _Connection(
                await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True), self
            )
        except BaseException:
            self._lost()
            raise

    async def _wait(self) -> _Connection | None:
        """The next connection that is given back; None when there is room for a new one."""
        loop = asyncio.get_running_loop()
        place: asyncio.Future[_Connection | None] = loop.create_future()
        self._waiting.append(place)
        alarm = loop.call_later(self._timeout, _expire, place, self._timeout)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                # Handed over in the moment of the cancellation.
                connection = place.result()
                if connection is None:
                    self._wake_next(None)
                else:
                    self.give_back(connection)
            raise
        finally:
            alarm.cancel()

    def give_back(self, connection: _Connection) -> None:
        """Called by a connection whose batch has ended."""
        if self._is_closed or connection.is_old:
            connection.discard()
        elif not self._wake_next(connection):
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """Called by a connection that is closed."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._lost()

    def _lost(self) -> None:
        self._open -= 1
        self._wake_next(None)

    def _wake_next(self, connection: _Connection | None) -> bool:
        while self._waiting:
            if self._wake(self._waiting.popleft(), connection):
                return True
        return False

    @staticmethod
    def _wake(place: asyncio.Future[_Connection | None], connection: _Connection | None) -> bool:
        if place.done():
            return False
        place.set_result(connection)
        return True


def _expire(place: asyncio.Future[_Connection | None], seconds: float) -> None:
    if not place.done():
        place.set_exception(PoolTimeout(f"no connection was free within {seconds:.0f} s"))


Ready = tuple[bytes, Sequence[Any], bool]


@dataclass(frozen=True, slots=True)
class Settled:
    """How a batch ended: the results that have rows, or why it failed and left nothing."""

    results: Sequence[pq.abc.PGresult]
    error: psycopg.Error | None = None
    # Whether the connection may serve another batch.
    is_sound: bool = True


class Wire:
    """Batches as they go out over one connection in pipeline mode, and what comes back."""

    def __init__(self, connection: psycopg.Connection[Row] | psycopg.AsyncConnection[Row]) -> None:
        self._wire = connection.pgconn
        self._transformer = Transformer(connection)
        self._plans: dict[bytes, bytes] = {}
        self._unconfirmed: dict[bytes, bytes] = {}
        self._prepared = 0
        self._planned = 0

    def ready(self, statements: Sequence[Statement]) -> list[Ready]:
        """What `send` takes; values that cannot be sent are found out before anything is."""
        return [self._adapted(statement) for statement in statements]

    def send(self, batch: Sequence[Ready]) -> None:
        """Give a batch and its end to libpq; whoever calls flushes."""
        if len(self._plans) + len(batch) > MAX_PLANS or self._planned > MAX_PLANNED:
            # One by one: psycopg may keep some of its own on this connection.
            for name in self._plans.values():
                self._wire.send_query_params(b"DEALLOCATE " + name, None)
            self._plans.clear()
            self._planned = 0
        for text, values, keeps_plan in batch:
            self._send(text, values, keeps_plan)
        self._wire.pipeline_sync()

    def settle(self, results: Sequence[pq.abc.PGresult]) -> Settled:
        """Read the results of a batch, which are all there."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        failed = next((r for r in results if r.status == pq.ExecStatus.FATAL_ERROR), None)
        if failed is None:
            self._plans |= unconfirmed
            return Settled([r for r in results if r.status == pq.ExecStatus.TUPLES_OK])
        error = errors.error_from_result(failed)
        # What is kept prepared is not known any more where this prepared, or met a stale plan.
        return Settled((), error, not unconfirmed and not isinstance(error, _STALE_PLAN))

    def forget(self) -> None:
        """Nothing is prepared any more. New names are taken: some of the last batch may be."""
        self._plans.clear()
        self._planned = 0

    def keep(self, names: Sequence[str]) -> None:
        """Only these are still prepared."""
        there = {name.encode() for name in names}
        self._plans = {text: name for text, name in self._plans.items() if name in there}

    def rows(self, result: pq.abc.PGresult) -> list[Row]:
        """The rows of one result."""
        transformer = self._transformer
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _adapted(self, statement: Statement) -> Ready:
        text, names = positional(statement.sql)
        values = [statement.parameters[name] for name in names or statement.parameters]
        dumped = self._transformer.dump_sequence(values, [PyFormat.TEXT] * len(values))
        return text, dumped, statement.keeps_plan

    def _send(self, text: bytes, values: Sequence[Any], keeps_plan: bool) -> None:
        if not keeps_plan:
            self._wire.send_query_params(text, values, result_format=_BINARY)
            return
        name = self._plans.get(text) or self._unconfirmed.get(text)
        if name is None:
            self._prepared += 1
            self._planned += len(text)
            name = self._unconfirmed[text] = b"p%d" % self._prepared
            self._wire.send_prepare(name, text)
        self._wire.send_query_prepared(name, values, result_format=_BINARY)


class _Connection:
    """One connection in pipeline mode, with at most one batch under way."""

    def __init__(self, connection: psycopg.AsyncConnection[Row], pool: StatementPool) -> None:
        self._connection = connection
        self._wire = connection.pgconn
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._statements = Wire(connection)
        self._batch: asyncio.Future[Sequence[pq.abc.PGresult]] | None = None
        self._results: list[pq.abc.PGresult] = []
        self._born = time.monotonic()
        self._socket = self._wire.socket
        self._wire.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._readable)

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self._born > MAX_AGE_SECONDS

    async def run(self, statements: tuple[Statement, ...]) -> list[list[Row]]:
        """Send a batch and wait for its end. Gives the connection back, now or at the end."""
        batch: asyncio.Future[Sequence[pq.abc.PGresult]] = self._loop.create_future()
        try:
            ready = self._statements.ready(statements)
        except BaseException:
            self._pool.give_back(self)
            raise
        self._batch = batch
        try:
            self._statements.send(ready)
            self._flush()
        except psycopg.Error as error:
            self._fail(error)
        return [self._statements.rows(result) for result in await batch]

    def discard(self) -> None:
        """Close; whoever waits for the batch gets an OperationalError."""
        self._fail(psycopg.OperationalError("the connection was closed"))

    def _flush(self) -> None:
        if self._wire.flush():
            # The socket is full: a long statement to a database that is busy.
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        try:
            if not self._wire.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self._fail(error)
        else:
            # Where it cannot send libpq reads, and then the socket may never be readable again.
            self._readable()

    def _readable(self) -> None:
        wire, gaps = self._wire, 0
        try:
            wire.consume_input()
            while self._batch is not None and not wire.is_busy():
                result = wire.get_result()
                if result is None:
                    # One stands between two statements; many, where libpq has lost the batch.
                    gaps += 1
                    if gaps > MAX_GAPS:
                        raise psycopg.OperationalError("the database left statements unanswered")
                    continue
                if result.status == pq.ExecStatus.PIPELINE_SYNC:
                    self._end()
                    return
                gaps = 0
                self._results.append(result)
        except psycopg.Error as error:
            self._fail(error)
            return
        if wire.status != pq.ConnStatus.OK:
            self._fail(psycopg.OperationalError("the database closed the connection"))

    def _end(self) -> None:
        """The batch is over, well or not."""
        batch, results, self._results = self._batch, self._results, []
        self._batch = None
        assert batch is not None
        settled = self._statements.settle(results)
        if not batch.done():
            if settled.error is None:
                batch.set_result(settled.results)
            else:
                batch.set_exception(settled.error)
        if settled.is_sound:
            self._pool.give_back(self)
        else:
            self.discard()

    def _fail(self, error: psycopg.Error) -> None:
        if self._socket < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket = -1
        self._wire.finish()
        batch, self._batch = self._batch, None
        if batch is not None and not batch.done():
            batch.set_exception(error)
        self._pool.lost(self)


@lru_cache(maxsize=1024)
def positional(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement with parameters as PostgreSQL numbers them, and their names in that order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PARAMETER.sub(number, sql).encode(), tuple(names)
