"""A platform with tenants that move, and what can be said of them from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from storage.audit_chain import AuditKey
from storage.audit_seals import seal
from storage.audit_verification import verify
from storage.database import Database
from storage.encryption import MasterKey
from storage.partitions.provisioning import Destination, current
from storage.schema import metadata
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase

AUDIT_KEY = AuditKey(MasterKey(b"k" * 32))
# Not moved: full again wherever they are not.
EPHEMERAL = "rate_limit_buckets"


@dataclass
class World:
    """The platform as application (`database`) and as owner."""

    database: MigratedDatabase
    owner: Database

    def place(self, tenant: Tenant) -> Destination:
        return current(self.owner, tenant.id)

    def rows(self, tenant: Tenant, place: Destination | None = None) -> dict[str, list[str]]:
        """Every row of the tenant in every table, as text, and its members' accounts."""
        found: dict[str, list[str]] = {}
        with (place or self.place(tenant)).connect(self.owner) as connection:
            connection.execute("SET timezone = 'UTC'")
            connection.execute("SELECT set_config('app.tenant', %s, false)", (str(tenant.id),))
            members = "SELECT user_id FROM user_tenants WHERE tenant_id = %(tenant)s"
            queries = {
                table.name: f"SELECT t::text FROM {table.name} t WHERE tenant_id = %(tenant)s"
                for table in metadata.sorted_tables
                if table.info["scope"] in ("tenant", "platform") and table.name != EPHEMERAL
            }
            queries["users"] = f"SELECT t::text FROM users t WHERE id IN ({members})"
            queries["user_auth_identities"] = (
                f"SELECT t::text FROM user_auth_identities t WHERE user_id IN ({members})"
            )
            queries["procrastinate_jobs"] = (
                "SELECT concat_ws(' ', queue_name, task_name, priority, lock, queueing_lock, args,"
                " status, scheduled_at, attempts) FROM procrastinate_jobs"
                " WHERE args ->> 'tenant_id' = %(tenant)s::text"
            )
            for name, query in queries.items():
                rows = connection.execute(query.encode(), {"tenant": tenant.id}).fetchall()
                found[name] = sorted(row[0] for row in rows)
        return found

    def leftovers(self, tenant: Tenant, place: Destination) -> dict[str, int]:
        """What of the tenant lies in a place of the platform's database."""
        found = {name: len(rows) for name, rows in self.rows(tenant, place).items()}
        return {name: count for name, count in found.items() if count}

    def seal(self, tenant: Tenant) -> None:
        seal(self.database, tenant.id, AUDIT_KEY)

    def audit_problem(self, tenant: Tenant) -> str | None:
        problem = verify(self.database, tenant.id, AUDIT_KEY, None).problem
        return problem.message if problem else None

    def execute(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement in the platform's database as its owner."""
        with psycopg.connect(self.owner.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def moves(self, tenant: Tenant) -> list[dict[str, Any]]:
        """What the tenant's log says of its moves, in their order."""
        with self.database.connection(tenant.id) as connection:
            rows = connection.execute(
                "SELECT metadata FROM audit_events WHERE tenant_id = %s AND event_type ="
                " 'TENANT_MOVED' ORDER BY transaction_id",
                (tenant.id,),
            ).fetchall()
        return [dict(row[0]) for row in rows]

    def is_tidy(self) -> bool:
        """Whether nothing is left of any move: no notes, no triggers, no tenant on its way."""
        return (
            self.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'moves'") == []
            and self.execute("SELECT 1 FROM pg_trigger WHERE tgname LIKE 'moving_%%'") == []
            and self.execute("SELECT 1 FROM tenants WHERE place = ''") == []
        )


@contextmanager
def opened(database: MigratedDatabase) -> Iterator[World]:
    """The world of a migrated database."""
    owner = Database(database.owner_url)
    owner.vault = database.vault
    yield World(database, owner)
    owner.close()


def without_moves(rows: dict[str, list[str]]) -> dict[str, list[str]]:
    """The rows but for what the log says of moves."""
    kept = [row for row in rows["audit_events"] if "TENANT_MOVED" not in row]
    return {**rows, "audit_events": kept}
