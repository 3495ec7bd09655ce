"""What of a tenant moves from place to place: which tables, which rows of them, in which order.

Between two places of one database the tenant's own tables move. To or from a database of its own
its rows in the tables that it shares with the platform (roles, rules, deployments) move too, and
the accounts of its members. Buckets of rate limits stay: they are full again where they are not.

Statements are for connections that are bound to the tenant (`bind`), on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    # The models take a second to load.
    from sqlalchemy import Table

Owner = psycopg.Connection[Any]

TENANT = "current_setting('app.tenant')::uuid"
# Accounts that the destination has already: they stay as they are there.
KEPT = "current_setting('app.kept_accounts')::uuid[]"
EPHEMERAL = frozenset({"rate_limit_buckets"})
# Columns by which a row of the tenant names an account.
NAMES_ACCOUNT = {"user_tenants": "user_id", "ai_model_deployments": "created_by_id"}
_MEMBERS = (
    f"SELECT m.user_id FROM user_tenants AS m WHERE m.tenant_id = {TENANT}"
    f" UNION SELECT d.created_by_id FROM ai_model_deployments AS d WHERE d.tenant_id = {TENANT}"
)

# Values have the same text on both servers, and triggers leave rows as they are (is_in_transit).
_SETTINGS = {
    "app.moving": "on",
    "app.lens": "on",
    "app.actor": "operator",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "application_name": "interop tenant move",
}


@dataclass(frozen=True, slots=True)
class Cargo:
    """The rows of one table that move."""

    table: str
    # What tells a row of the tenant from others; several rows of `user_auth_identities` share one.
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    columns: tuple[str, ...]
    generated: tuple[str, ...]
    condition: str  # over the alias t
    identity: str | None
    # Rows that point at rows of the same table come together.
    is_one_statement: bool
    has_tenant_key: bool
    is_key_unique: bool = True

    @property
    def listed(self) -> str:
        return ", ".join(f'"{name}"' for name in self.columns)

    @property
    def is_of_accounts(self) -> bool:
        return self.table in ("users", "user_auth_identities")

    def matches(self, keys: str) -> str:
        """SQL: whether row t has the key of row `keys` (an array of texts)."""
        return " AND ".join(
            f't."{name}" = ({keys}.key[{n}])::{type_}'
            for n, (name, type_) in enumerate(zip(self.key, self.key_types, strict=True), 1)
        )


def cargo(*, crosses: bool) -> list[Cargo]:
    """Everything that moves, parents first; `crosses`: from one database to another."""
    from storage.schema import metadata

    found = []
    for table in metadata.sorted_tables:
        scope = table.info["scope"]
        if table.name in EPHEMERAL:
            continue
        if scope == "tenant" or (crosses and scope == "platform"):
            key = [c.name for c in table.primary_key.columns if c.name != "tenant_id"]
            # Of some tables a tenant has one row, which only the tenant tells.
            key = key or ["tenant_id"]
            found.append(_cargo(table, key, f"t.tenant_id = {TENANT}"))
        elif crosses and table.name == "users":
            members = f"t.id IN ({_MEMBERS}) AND t.id <> ALL ({KEPT})"
            found.append(_cargo(table, ["id"], members))
        elif crosses and table.name == "user_auth_identities":
            members = f"t.user_id IN ({_MEMBERS}) AND t.user_id <> ALL ({KEPT})"
            found.append(_cargo(table, ["user_id"], members, is_key_unique=False))
    return found


def _cargo(table: Table, key: list[str], condition: str, *, is_key_unique: bool = True) -> Cargo:
    from sqlalchemy.dialects.postgresql import dialect

    types = dialect()  # type: ignore[no-untyped-call]
    return Cargo(
        table=table.name,
        key=tuple(key),
        key_types=tuple(table.c[name].type.compile(types) for name in key),
        columns=tuple(c.name for c in table.c if c.computed is None),
        generated=tuple(c.name for c in table.c if c.computed is not None),
        condition=condition,
        identity=next((c.name for c in table.c if c.identity is not None), None),
        is_one_statement=any(key.column.table is table for key in table.foreign_keys),
        has_tenant_key="tenant_id" in table.primary_key.columns,
        is_key_unique=is_key_unique,
    )


def bind(connection: Owner, tenant_id: UUID, kept_accounts: list[UUID]) -> None:
    """Make a connection of an owner one of the mover's, for as long as it lasts."""
    connection.autocommit = True
    accounts = "{" + ",".join(map(str, kept_accounts)) + "}"
    settings = {**_SETTINGS, "app.tenant": str(tenant_id), "app.kept_accounts": accounts}
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))


def statement(text: str) -> sql.SQL:
    """SQL that is made of the names of our own tables and columns, and of nothing from outside."""
    return sql.SQL(text)


def identities(cargo_: list[Cargo]) -> Iterator[tuple[str, str]]:
    """(table, column) of the numbers that a sequence gives."""
    for one in cargo_:
        if one.identity is not None:
            yield one.table, one.identity
