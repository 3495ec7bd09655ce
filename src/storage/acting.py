"""Whose work a transaction is, where the server does some of its own within that of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from storage.database import Connection


@contextmanager
def as_server(connection: Connection) -> Iterator[None]:
    """Afterwards the transaction's actor and its silence about lenses are what they were before."""
    row = connection.execute(
        "SELECT current_setting('app.lens', true), current_setting('app.actor', true)"
    ).fetchone()
    assert row is not None
    yield
    connection.execute(
        "SELECT set_config('app.lens', %s, true), set_config('app.actor', %s, true)",
        (row[0] or "", row[1] or ""),
    )
