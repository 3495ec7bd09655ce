"""Batches for threads, as `storage.statements` runs them for an event loop.

On a connection that its pool has lent: psycopg's pool and errors, and libpq for what is in between.
A batch is one transaction and one round trip, for half the CPU of a pipeline of psycopg's cursors.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg import pq

from storage.statements import MAX_GAPS, Ready, Row, Settled, Statement, Wire

# The attribute of a connection that keeps its prepared statements.
_WIRE = "interop_wire"
# Those that the database knows of; psycopg's own have other names.
KEPT_PLANS: LiteralString = "ARRAY(SELECT name FROM pg_prepared_statements WHERE name LIKE 'p%%')"


def run_batch(
    connection: psycopg.Connection[Row], statements: Sequence[Statement]
) -> list[list[Row]]:
    """Run the statements in one transaction; the rows of each that has rows.

    Closes the connection where it cannot be used again.
    """
    wire = _wire_of(connection)
    ready = wire.ready(statements)
    is_alone = connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
    settled = _run(connection, wire, ready)
    if is_alone and isinstance(settled.error, psycopg.errors.InvalidSqlStatementName):
        # After a rollback psycopg deallocates everything on its connection, what is ours too. The
        # batch left nothing, once a transaction that it began is ended, so it may be run again.
        connection.rollback()
        wire.forget()
        settled = _run(connection, wire, ready)
    if not settled.is_sound:
        connection.close()
    if settled.error is not None:
        raise settled.error
    return [wire.rows(result) for result in settled.results]


@contextmanager
def savepoint(connection: psycopg.Connection[Row]) -> Iterator[None]:
    """A part of a transaction that can fail alone; batches after it find what they prepared."""
    try:
        with connection.transaction():
            yield
    except BaseException:
        # psycopg has deallocated that too, and within a transaction no batch can be run again.
        _wire_of(connection).forget()
        raise


def keep_plans(connection: psycopg.Connection[Row], names: Sequence[str]) -> None:
    """Keep of what is prepared only what is there, the `KEPT_PLANS`.

    For a transaction that begins without a batch: those in it cannot be run again.
    """
    _wire_of(connection).keep(names)


def _run(connection: psycopg.Connection[Row], wire: Wire, ready: Sequence[Ready]) -> Settled:
    pgconn = connection.pgconn
    try:
        pgconn.enter_pipeline_mode()
        wire.send(ready)
        settled = wire.settle(_results(pgconn))
        pgconn.exit_pipeline_mode()
    except BaseException:
        connection.close()
        raise
    return settled


def _wire_of(connection: psycopg.Connection[Row]) -> Wire:
    wire: Wire | None = getattr(connection, _WIRE, None)
    if wire is None:
        wire = Wire(connection)
        setattr(connection, _WIRE, wire)
    return wire


def _results(pgconn: pq.abc.PGconn) -> list[pq.abc.PGresult]:
    """Send what libpq holds and wait for the end of the batch."""
    poll = select.poll()
    # While it cannot send it must read, or both sides wait for each other.
    poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
    while pgconn.flush():
        poll.poll()
        pgconn.consume_input()
    poll.modify(pgconn.socket, select.POLLIN)
    found: list[pq.abc.PGresult] = []
    gaps = 0
    while gaps <= MAX_GAPS:
        while pgconn.is_busy():
            poll.poll()
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            # One stands between two statements; many, where libpq has lost the batch.
            gaps += 1
        elif result.status == pq.ExecStatus.PIPELINE_SYNC:
            return found
        else:
            gaps = 0
            found.append(result)
    raise psycopg.OperationalError("the database left statements unanswered")
