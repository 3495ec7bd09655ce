"""The work of one call: a transaction of the tenant with exactly one audit row in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, LiteralString, TypeVar

from fastapi import Depends
from starlette.requests import Request

from interop.access.audit import INSERT_AUDIT, audit_parameters, mark_audited
from interop.access.principals import Caller
from interop.identity import actors
from storage.database import Connection, Database
from storage.tenancy import Tenant
from storage.tenants import changes

if TYPE_CHECKING:
    from interop.services import Services

T = TypeVar("T")

_IS_AUDITED: LiteralString = (
    "SELECT EXISTS (SELECT FROM audit_events WHERE tenant_id = %s"
    " AND transaction_id = pg_current_xact_id())"
)


@dataclass(frozen=True, slots=True)
class Desk:
    """One call, and what it needs."""

    services: Services
    caller: Caller

    @property
    def tenant(self) -> Tenant:
        return self.caller.tenant

    @property
    def database(self) -> Database:
        return self.services.database

    @property
    def actor(self) -> actors.Actor:
        """The caller, as interop.identity names them."""
        return actors.Actor.of_caller(self.caller)

    @property
    def changer(self) -> changes.Actor:
        """The caller, as storage.tenants names them."""
        caller = self.caller
        return changes.Actor(
            caller.actor_name,
            caller.actor_type,
            caller.user_id,
            caller.client_id,
            caller.request_id,
            caller.remote_address,
            caller.user_agent,
        )

    def read(
        self,
        work: Callable[[Connection], T],
        what: str,
        resource_id: object = None,
        *,
        event_type: str = "CONFIG_VIEWED",
    ) -> T:
        """Do `work`, which changes nothing; its row is there before its answer is."""
        with self.database.connection(self.tenant.id) as connection:
            connection.execute("SELECT set_config('synchronous_commit', 'off', true)")
            found = work(connection)
            self._write(connection, event_type, what, resource_id, {})
        mark_audited()
        return found

    def change(self, work: Callable[[Connection], T], what: str, resource_id: object = None) -> T:
        """Do `work`, which writes its own row where it changes something."""
        with self.database.connection(self.tenant.id) as connection:
            changes.take_turns(connection, self.tenant.id)
            done = work(connection)
            row = connection.execute(_IS_AUDITED, (self.tenant.id,)).fetchone()
            assert row is not None
            if not row[0]:
                self._write(connection, "CONFIG_CHANGED", what, resource_id, {"changes": {}})
        mark_audited()
        return done

    def record(
        self,
        event_type: str,
        what: str,
        resource_id: object = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the row of work that had transactions of its own and wrote none."""
        with self.database.connection(self.tenant.id) as connection:
            self._write(connection, event_type, what, resource_id, metadata or {})
        mark_audited()

    def _write(
        self,
        connection: Connection,
        event_type: str,
        what: str,
        resource_id: object,
        metadata: Mapping[str, Any],
    ) -> None:
        identifier = None if resource_id is None else str(resource_id)
        row = audit_parameters(self.caller, event_type, what, identifier, metadata=metadata)
        connection.execute(INSERT_AUDIT, row)


def _desk(request: Request) -> Desk:
    return Desk(request.app.state.services, request.state.caller)


AtDesk = Annotated[Desk, Depends(_desk)]
