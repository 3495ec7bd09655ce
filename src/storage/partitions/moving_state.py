"""What the platform's database knows of a move: one at a time, and how far it is.

The mover holds a lock for as long as its connection lasts; the registry is changed on that
connection only. Where there is a state and nobody holds the lock, a move has died.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from storage.database import Database
from storage.partitions import moving_capture
from storage.partitions.moving_cargo import Owner
from storage.partitions.provisioning import Destination
from storage.places import url_place

# The server notices the end of a mover that was killed after a moment only.
ENDING_SECONDS = 3.0
# Any number will do.
LOCK = 0x6D6F7665
# The destination is made and filled; what there is of it goes when the move fails.
COPYING = "COPYING"
# The registry leads to the destination; what is left at the source goes.
SWITCHED = "SWITCHED"

_TABLE = """
CREATE TABLE IF NOT EXISTS moves.state (
    move_id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    phase text NOT NULL,
    source jsonb NOT NULL,
    destination jsonb NOT NULL,
    kept uuid[] NOT NULL,
    accounts uuid[] NOT NULL,
    jobs bigint[] NOT NULL,
    rows jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now()
)
"""


class MoveUnderWay(Exception):
    """Another move is under way."""


@dataclass(slots=True)
class State:
    """One move."""

    tenant_id: UUID
    source: Destination
    destination: Destination
    move_id: UUID = field(default_factory=uuid4)
    phase: str = COPYING
    # Those that the destination had already, and those that may have to go at the source.
    kept: list[UUID] = field(default_factory=list)
    accounts: list[UUID] = field(default_factory=list)
    # Of the platform's queue, that were taken along.
    jobs: list[int] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def crosses(self) -> bool:
        """Whether it leads from one database to another."""
        return "DATABASE" in (self.source.strategy, self.destination.strategy)


@contextmanager
def registry(owner: Database, patience_seconds: float = ENDING_SECONDS) -> Iterator[Owner]:
    """The connection of a mover to the platform's database. Raises MoveUnderWay."""
    with psycopg.connect(owner.url, autocommit=True) as connection:
        connection.execute("SET statement_timeout = 0")
        connection.execute("SET client_min_messages = warning")
        # Where a tenant lives is nothing that its FHIR resources tell: none becomes stale.
        connection.execute("SELECT set_config('app.lens', 'on', false)")
        deadline = time.monotonic() + patience_seconds
        while connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,)).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise MoveUnderWay(
                    "a tenant is being moved by another process; one moves at a time, try again"
                    " later"
                )
            time.sleep(0.1)
        yield connection


def write(connection: Owner, owner: Database, state: State) -> None:
    """Note how far the move is, in the caller's transaction."""
    moving_capture.create_schema(connection)
    connection.execute(_TABLE)
    connection.execute(
        "INSERT INTO moves.state (move_id, tenant_id, phase, source, destination, kept, accounts,"
        " jobs, rows) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (move_id) DO UPDATE"
        " SET phase = excluded.phase, kept = excluded.kept, accounts = excluded.accounts,"
        " jobs = excluded.jobs, rows = excluded.rows",
        (
            state.move_id,
            state.tenant_id,
            state.phase,
            Jsonb(_written(owner, state.tenant_id, state.source)),
            Jsonb(_written(owner, state.tenant_id, state.destination)),
            state.kept,
            state.accounts,
            state.jobs,
            Jsonb(state.rows),
        ),
    )


def read(connection: Owner, owner: Database) -> State | None:
    """The move that was begun and has not come to its end."""
    known = connection.execute("SELECT to_regclass('moves.state') IS NOT NULL").fetchone()
    if known is None or not known[0]:
        return None
    row = connection.execute(
        "SELECT tenant_id, source, destination, move_id, phase, kept, accounts, jobs, rows"
        " FROM moves.state"
    ).fetchone()
    if row is None:
        return None
    tenant_id, source, destination, *rest = row
    return State(
        tenant_id, _read(owner, tenant_id, source), _read(owner, tenant_id, destination), *rest
    )


def _written(owner: Database, tenant_id: UUID, place: Destination) -> dict[str, Any]:
    url = place.database_url
    return {
        "strategy": place.strategy,
        "place": place.place,
        "database_name": place.database_name,
        # As it stands in the registry: it has a password.
        "url": owner.vault.seal(None, url_place(tenant_id), url) if url else None,
    }


def _read(owner: Database, tenant_id: UUID, said: dict[str, Any]) -> Destination:
    url = said["url"] and owner.vault.open(None, url_place(tenant_id), said["url"])
    return Destination(said["strategy"], said["place"], said["database_name"], url)
