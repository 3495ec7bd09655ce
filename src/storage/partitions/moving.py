"""A tenant goes from one place to another while its clients read and write.

    COPYING   the empty place is made; changes of the tenant's rows are noted from now on; all rows
              are copied in one snapshot, then rounds bring what has changed, until one is short
    last step (seconds: who comes to the tenant waits, nobody is refused)
              the destination is compared with the source; the registry says that the tenant is on
              its way; older transactions end; the last round; compared again; the registry leads
              to the destination
    SWITCHED  the rows at the source are removed

Until the registry leads to the destination everything can be undone and the tenant lives where it
lived; from then on it lives at the destination and what is left is to clear up. A move that was
cut off is undone, or finished, by the next one or by `recover`: both look at the state in the
platform's database (moving_state). Runs as the owner of the databases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from storage.database import Database
from storage.partitions import (
    databases,
    moving_accounts,
    moving_capture,
    moving_copy,
    moving_fence,
    moving_jobs,
    moving_state,
    moving_verify,
    schemas,
)
from storage.partitions.mirror import mirror, named_tenants
from storage.partitions.moving_cargo import Owner, bind, cargo, statement
from storage.partitions.moving_removal import (
    is_empty,
    remove_destination,
    remove_source,
)
from storage.partitions.moving_state import COPYING, SWITCHED, State
from storage.partitions.provisioning import (
    Destination,
    ProvisioningFailed,
    current,
    prepare,
)
from storage.places import ELSEWHERE, HERE, MOVING, WAIT_SECONDS, url_place
from storage.tenancy import STRATEGIES
from storage.tenants.changes import OPERATOR, Actor

logger = logging.getLogger(__name__)

EVENT_TYPE = "TENANT_MOVED"

# Of the last step together; clients wait WAIT_SECONDS.
HOLD_SECONDS = 0.7 * WAIT_SECONDS
OLDER_SECONDS = 0.35 * WAIT_SECONDS
# A comparison that takes longer is made before the last step; in it, of what changed since.
FULL_COMPARISON_SECONDS = 0.2 * WAIT_SECONDS
ATTEMPTS = 5
# A round is short when it takes less, or brings less.
SHORT_SECONDS = 0.5
SHORT_KEYS = 500
ROUNDS = 100
# Longer than a process remembers where a tenant lives without being told better.
GRACE_SECONDS = 45.0
# More than these are not burnt for a server that is behind.
TRANSACTIONS_BEHIND = 5_000_000
# How many more may be used at the source until the switch.
TRANSACTIONS_AHEAD = 10_000


class MoveFailed(Exception):
    """The tenant was not moved and lives where it lived; the message says why."""


class _HeldTooLong(Exception):
    """The last step took so long that clients would have been refused."""


@dataclass(slots=True)
class Event:
    """What a move has just done, or what it copies."""

    step: str
    table: str | None = None
    rows: int = 0


Told = Callable[[Event], None]


@dataclass(slots=True)
class Moved:
    """What a move did."""

    tenant_id: UUID
    source: Destination
    destination: Destination
    rows: dict[str, int] = field(default_factory=dict)
    changes: int = 0
    jobs: int = 0
    kept_accounts: int = 0
    copy_seconds: float = 0.0
    held_seconds: float = 0.0
    attempts: int = 0
    is_compared_in_full: bool = True


def move(
    owner: Database,
    tenant_id: UUID,
    strategy: str,
    database_url: str | None = None,
    *,
    actor: Actor = OPERATOR,
    told: Told = lambda _: None,
    grace_seconds: float = GRACE_SECONDS,
) -> Moved:
    """Move the tenant; when this returns it lives at the destination and nowhere else.

    `owner` owns the platform's database and has the vault. A move that was cut off before is
    undone or finished first. Raises MoveFailed, and MoveUnderWay while another process moves one.
    """
    with moving_state.registry(owner) as registry:
        _recover(registry, owner, told, grace_seconds)
        state = _planned(registry, owner, tenant_id, strategy, database_url)
        try:
            moved = _Move(owner, registry, state, actor, told).run()
        except BaseException as error:
            if _undo(owner, registry, grace_seconds, error) == SWITCHED:
                raise MoveFailed(f"it was moved all the same, and ends so: {error}") from error
            raise _said(error) from error
        _clear_up(registry, owner, state, told, grace_seconds)
        return moved


def recover(
    owner: Database,
    *,
    told: Told = lambda _: None,
    grace_seconds: float = GRACE_SECONDS,
    patience_seconds: float = moving_state.ENDING_SECONDS,
) -> State | None:
    """Undo or finish a move that has died; the state it was in, None where there was none.

    Raises MoveUnderWay while the move lives.
    """
    with moving_state.registry(owner, patience_seconds) as registry:
        return _recover(registry, owner, told, grace_seconds)


def _recover(registry: Owner, owner: Database, told: Told, grace_seconds: float) -> State | None:
    state = moving_state.read(registry, owner)
    if state is None:
        return None
    logger.warning(
        "tenant_move_recovered", extra={"tenant": str(state.tenant_id), "phase": state.phase}
    )
    if state.phase == SWITCHED:
        _clear_up(registry, owner, state, told, grace_seconds)
        return state
    # First of all the tenant lives where it lived.
    with state.source.connect(owner) as source:
        bind(source, state.tenant_id, [])
        moving_fence.reopen(registry, source, state.source, state.tenant_id)
        moving_capture.remove_triggers(source)
        if state.crosses:
            came = moving_accounts.members(source)
            state.accounts = [account for account in came if account not in set(state.kept)]
        if state.source.strategy == "DATABASE":
            moving_capture.drop_schema(source)
    remove_destination(owner, state)
    moving_capture.drop_schema(registry)
    told(Event("undone"))
    return state


def _undo(
    owner: Database, registry: Owner, grace_seconds: float, cause: BaseException
) -> str | None:
    """After a failure do as the next command would; returns the phase that the move was in."""
    try:
        if registry.closed:
            # The lock went with the connection.
            found = recover(owner, grace_seconds=grace_seconds)
        else:
            found = _recover(registry, owner, lambda _: None, grace_seconds)
    except Exception as error:
        cause.add_note(f"undoing failed too ({error}); `interop tenant move --abort` repeats it")
        return None
    return found.phase if found else None


def _said(error: BaseException) -> BaseException:
    expected = (
        ProvisioningFailed,
        moving_accounts.AccountsCollide,
        moving_capture.TablesBusy,
        moving_fence.StillThere,
    )
    notes = "; ".join(getattr(error, "__notes__", ()))
    more = f" ({notes})" if notes else ""
    if isinstance(error, expected):
        return MoveFailed(f"{error}{more}")
    if isinstance(error, moving_verify.Differs):
        return MoveFailed(
            f"the copy is not what the source is, so nothing was switched: {error}{more}"
        )
    if isinstance(error, psycopg.Error):
        said = error.diag.message_primary or type(error).__name__
        return MoveFailed(f"the database refused: {said} ({error.sqlstate}){more}")
    return error


def _clear_up(
    registry: Owner, owner: Database, state: State, told: Told, grace_seconds: float
) -> None:
    remove_source(owner, state, grace_seconds)
    moving_capture.drop_schema(registry)
    told(Event("removed"))


def _planned(
    registry: Owner, owner: Database, tenant_id: UUID, strategy: str, url: str | None
) -> State:
    """The move as it will be, where nothing speaks against it. Raises MoveFailed."""
    if strategy not in STRATEGIES:
        raise MoveFailed(f"--to {strategy}: one of {', '.join(STRATEGIES)}")
    if url is not None and strategy != "DATABASE":
        raise MoveFailed(f"--database-url is for DATABASE only, not for {strategy}")
    mine = registry.execute("SELECT has_table_privilege('tenants', 'DELETE')").fetchone()
    if mine != (True,):
        raise MoveFailed(
            f"the login {registry.info.user} does not own this database: a tenant is moved with its"
            " owner's (INTEROP_DATABASE_OWNER_URL)"
        )
    source = current(owner, tenant_id)
    if source.place == MOVING:
        raise MoveFailed("the tenant has no place yet: it is being created")
    destination = _aim(tenant_id, strategy, url)
    if destination == source:
        raise MoveFailed(f"the tenant lives there already: {strategy}")
    _require_free(registry, owner, tenant_id, destination)
    return State(tenant_id, source, destination)


def _aim(tenant_id: UUID, strategy: str, url: str | None) -> Destination:
    if strategy == "ROW_LEVEL":
        return Destination(strategy, HERE)
    if strategy == "SCHEMA":
        return Destination(strategy, schemas.schema_name(tenant_id))
    try:
        name = databases.name_in(url) if url else databases.database_name(tenant_id)
    except databases.DatabaseRefused as error:
        raise MoveFailed(str(error)) from error
    return Destination(strategy, ELSEWHERE, name, url)


def _require_free(
    registry: Owner, owner: Database, tenant_id: UUID, destination: Destination
) -> None:
    """What is there already is not ours, and must not be taken for ours if this dies."""
    if destination.database_url is not None:
        try:
            databases.require_empty(destination.database_url)
        except databases.DatabaseRefused as error:
            raise MoveFailed(str(error)) from error
    elif destination.strategy == "DATABASE":
        found = registry.execute(
            "SELECT FROM pg_database WHERE datname = %s", (destination.database_name,)
        ).fetchone()
        if found is not None:
            raise MoveFailed(f"a database {destination.database_name} exists already")
    elif destination.strategy == "SCHEMA":
        if schemas.has_schema(registry, destination.place):
            raise MoveFailed(f"a schema {destination.place} exists already")
    else:
        with destination.connect(owner) as connection:
            bind(connection, tenant_id, [])
            if not is_empty(connection, tenant_id):
                raise MoveFailed("rows of the tenant lie in the tables of the installation already")


class _Move:
    """One move, from the plan to the switch."""

    def __init__(
        self, owner: Database, registry: Owner, state: State, actor: Actor, told: Told
    ) -> None:
        self._owner = owner
        self._registry = registry
        self._state = state
        self._actor = actor
        self._told = told
        self._cargo = cargo(crosses=state.crosses)
        self._moved = Moved(state.tenant_id, state.source, state.destination)
        self._source: Owner
        self._destination: Owner

    def run(self) -> Moved:
        state = self._state
        moving_state.write(self._registry, self._owner, state)
        self._say("planned")
        prepare(
            self._owner, state.tenant_id, state.destination.strategy, state.destination.database_url
        )
        self._say("prepared")
        with ExitStack() as stack:
            self._connect(stack)
            began = time.monotonic()
            moving_capture.install(self._source, state.tenant_id, self._cargo)
            moving_copy.open_notes(self._source, self._destination)
            self._say("noting")
            self._mirror()
            total = sum(moving_copy.count_all(self._source, self._cargo).values())
            self._told(Event("counted", rows=total))
            moving_copy.copy_all(self._source, self._destination, self._cargo, self._copied)
            self._analyze()
            self._moved.copy_seconds = time.monotonic() - began
            self._say("copied")
            moving_copy.advance_sequences(self._destination, self._cargo)
            self._catch_up()
            self._say("caught up")
            self._switch_soon()
        self._say("settled")
        return self._moved

    # -- before the last step -----------------------------------------------------------------

    def _connect(self, stack: ExitStack) -> None:
        state = self._state
        self._source = stack.enter_context(state.source.connect(self._owner))
        self._destination = stack.enter_context(state.destination.connect(self._owner))
        kept: list[UUID] = []
        for connection in (self._source, self._destination):
            bind(connection, state.tenant_id, kept)
        self._require_revision()
        self._require_transactions()
        if state.crosses:
            kept = moving_accounts.known_there(self._source, self._destination)
            moving_accounts.require_no_collision(self._source, self._destination)
            for connection in (self._source, self._destination):
                bind(connection, state.tenant_id, kept)
            state.kept = kept
            self._moved.kept_accounts = len(kept)
            moving_state.write(self._registry, self._owner, state)

    def _require_revision(self) -> None:
        here, there = (
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
            for connection in (self._source, self._destination)
        )
        if here != there:
            raise MoveFailed(
                f"the source is at revision {here and here[0]}, the destination at"
                f" {there and there[0]}: run `interop migrate` first"
            )

    def _require_transactions(self) -> None:
        """Seals of the log name transactions: new ones must have higher numbers than old ones."""
        newest = _number(
            self._source,
            "SELECT greatest((SELECT max(next_transaction) FROM audit_seals WHERE tenant_id ="
            " current_setting('app.tenant')::uuid), (SELECT transaction_id::text::bigint FROM"
            " audit_events WHERE tenant_id = current_setting('app.tenant')::uuid"
            " ORDER BY tenant_id, transaction_id DESC LIMIT 1), 0)",
        )
        # As far as nothing else is written there meanwhile.
        behind = newest - _number(
            self._destination, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        )
        if behind > TRANSACTIONS_BEHIND:
            raise MoveFailed(
                f"the log of the tenant names transactions up to {newest}, and the server of the"
                f" destination is {behind} behind: its log could not be sealed there. Take a server"
                " that has worked for longer"
            )
        if behind >= 0:
            self._destination.execute(
                statement(
                    f"DO $$ BEGIN FOR i IN 1..{behind + TRANSACTIONS_AHEAD} LOOP"
                    " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
                )
            )

    def _mirror(self) -> None:
        """The destination knows the tenants and catalogs that rows point at."""
        state = self._state
        if state.destination.strategy != "DATABASE":
            return
        schema = state.source.place if state.source.strategy == "SCHEMA" else HERE
        with psycopg.connect(self._owner.url) as platform:
            platform.execute("SELECT set_config('app.tenant', %s, false)", (str(state.tenant_id),))
            platform.commit()
            there = self._source if state.source.strategy == "DATABASE" else platform
            named = named_tenants(there, state.tenant_id, schema)
            platform.commit()
            mirror(platform, self._destination, state.tenant_id, named=named)
        # The registry may lead to another database of the tenant.
        moving_fence.mark_own(self._destination, state.tenant_id, MOVING)

    def _copied(self, table: str, rows: int) -> None:
        self._told(Event("copying", table, rows))

    def _analyze(self) -> None:
        """A new place has no statistics, and a round asks for rows by their keys."""
        if self._state.destination.strategy != "ROW_LEVEL":
            for one in self._cargo:
                self._destination.execute(statement(f"ANALYZE {one.table}"))

    def _catch_up(self) -> None:
        for _ in range(ROUNDS):
            began = time.monotonic()
            with moving_copy.round_(self._source, self._destination, self._cargo) as made:
                self._moved.changes += made.keys
            if made.keys < SHORT_KEYS or time.monotonic() - began < SHORT_SECONDS:
                return
        raise MoveFailed(
            f"the tenant changes faster than it can be copied ({ROUNDS} rounds, the last of"
            f" {made.keys} rows): move it at a quieter time"
        )

    # -- the last step ------------------------------------------------------------------------

    def _switch_soon(self) -> None:
        """Clients wait for a bounded time only; what takes longer is put off."""
        for attempt in range(1, ATTEMPTS + 1):
            self._moved.attempts = attempt
            try:
                self._switch()
                return
            except (_HeldTooLong, moving_fence.StillThere) as error:
                if attempt == ATTEMPTS:
                    raise MoveFailed(
                        f"the last step was tried {ATTEMPTS} times, and each time put off so that"
                        f" clients need not wait for too long: {error}"
                    ) from error
                self._say("put off")
            time.sleep(attempt)
            self._catch_up()

    def _switch(self) -> None:
        state, source, destination = self._state, self._source, self._destination
        self._mirror()
        self._require_transactions()
        self._forget_event()
        with moving_copy.round_(source, destination, self._cargo) as made:
            self._moved.changes += made.keys
            began = time.monotonic()
            state.rows = moving_verify.compare(source, destination, self._cargo)
            in_full = time.monotonic() - began < FULL_COMPARISON_SECONDS
        self._moved.is_compared_in_full = in_full
        self._say("compared")
        held = time.monotonic()
        try:
            moving_fence.close(self._registry, source, state.source, state.tenant_id)
            self._say("closed")
            moving_fence.await_older(source, OLDER_SECONDS)
            with moving_copy.round_(source, destination, self._cargo) as made:
                self._moved.changes += made.keys
                rows = moving_verify.compare(
                    source, destination, self._cargo, only_changed=not in_full
                )
            moving_copy.advance_sequences(destination, self._cargo)
            if in_full:
                # Else they are those of the first comparison: to count all again takes too long.
                state.rows = rows
            self._say("compared again")
            self._settle(held)
        except BaseException:
            # Once the registry leads to the destination there is no way back.
            if state.phase == COPYING and not self._registry.closed:
                moving_fence.reopen(self._registry, source, state.source, state.tenant_id)
                if state.destination.strategy == "DATABASE":
                    moving_fence.mark_own(destination, state.tenant_id, MOVING)
            raise
        self._moved.held_seconds = time.monotonic() - held
        self._moved.rows = state.rows

    def _settle(self, held: float) -> None:
        """Have the registry lead to the destination, if nobody has had to wait for too long."""
        state = self._state
        leaves_platform = state.crosses and state.source.strategy != "DATABASE"
        self._write_event()
        # Until its end no worker takes up the jobs that go.
        with self._source.transaction():
            jobs: list[tuple[Any, ...]] = []
            if state.crosses:
                jobs = moving_jobs.take(
                    self._source, state.tenant_id, even_running=not leaves_platform
                )
                state.accounts = moving_accounts.members(self._source) if leaves_platform else []
            state.jobs = [job[0] for job in jobs] if leaves_platform else []
            if state.destination.strategy == "DATABASE":
                moving_jobs.discard(self._destination, state.tenant_id)
                moving_jobs.put(self._destination, jobs)
                # Nobody is led there yet.
                moving_fence.mark_own(self._destination, state.tenant_id, HERE)
            if time.monotonic() - held > HOLD_SECONDS:
                raise _HeldTooLong(f"it took more than {HOLD_SECONDS:.0f} s")
            state.phase = SWITCHED
            try:
                self._enter_in_registry(
                    jobs if state.crosses and state.destination.strategy != "DATABASE" else []
                )
            except BaseException:
                state.phase = COPYING
                raise
            if leaves_platform:
                moving_jobs.discard(self._source, state.tenant_id, state.jobs)
        # What was stale there is stale here.
        self._destination.execute("SELECT pg_notify('fhir_stale', %s)", (str(state.tenant_id),))
        self._moved.jobs = len(jobs)

    def _enter_in_registry(self, jobs: list[tuple[Any, ...]]) -> None:
        """The switch: one transaction, on the connection that holds the lock."""
        state, registry = self._state, self._registry
        url = state.destination.database_url
        sealed = self._owner.vault.seal(None, url_place(state.tenant_id), url) if url else None
        with registry.transaction():
            changed = registry.execute(
                "UPDATE tenants SET partition_strategy = %s, place = %s, database_name = %s,"
                " database_url_encrypted = %s WHERE id = %s AND place = %s",
                (
                    state.destination.strategy,
                    state.destination.place,
                    state.destination.database_name,
                    sealed,
                    state.tenant_id,
                    MOVING,
                ),
            ).rowcount
            if changed != 1:
                raise MoveFailed("somebody else has changed where the tenant lives")
            moving_jobs.put(registry, jobs)
            moving_state.write(registry, self._owner, state)

    # -- what the log says --------------------------------------------------------------------

    def _write_event(self) -> None:
        """The move itself, in the tenant's log at the destination; it counts with the switch."""
        state, actor = self._state, self._actor
        said = {
            "by": actor.name,
            "from": state.source.strategy,
            "to": state.destination.strategy,
            "rows": sum(state.rows.values()),
            "tables": {table: rows for table, rows in state.rows.items() if rows},
        }
        self._destination.execute(
            "INSERT INTO audit_events (tenant_id, id, user_id, api_client_id, actor_type,"
            " event_type, resource_type, resource_id, outcome, request_id, metadata) VALUES"
            " (%s, %s, %s, %s, %s, %s, 'TENANT', %s, 'SUCCESS', %s, %s)",
            (
                state.tenant_id,
                state.move_id,
                actor.user_id,
                actor.api_client_id,
                actor.actor_type,
                EVENT_TYPE,
                str(state.tenant_id),
                actor.request_id,
                Jsonb(said),
            ),
        )

    def _forget_event(self) -> None:
        """An attempt that was put off has not moved anything."""
        self._destination.execute(
            "DELETE FROM audit_events WHERE tenant_id = %s AND id = %s",
            (self._state.tenant_id, self._state.move_id),
        )

    def _say(self, step: str) -> None:
        self._told(Event(step))


def _number(connection: Owner, query: str) -> int:
    row = connection.execute(statement(query)).fetchone()
    return int(row[0]) if row is not None and row[0] is not None else 0
