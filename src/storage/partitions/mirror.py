"""What belongs to the platform, kept in the database of a DATABASE tenant.

Its rows point at catalogs, models, plans and roles of the platform, and its functions read the
state of the tenant and the tree around it. So these are copied there, when the database is made and
again whenever they have changed: never accounts, signing keys, keys of the platform or where other
tenants lie. The tenant's own rows are not touched.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

Owner = psycopg.Connection[Any]
Row = dict[str, Any]
# Of a table: (table, column) of each foreign key that points at it.
Ties = dict[str, list[tuple[str, str]]]
# Of each table: how many rows there are, and what they are.
Summary = dict[str, tuple[Any, ...]]

# Parents first.
CATALOGS = (
    "permissions",
    "subscription_plans",
    "usage_meters",
    "external_systems",
    "code_systems",
    "code_values",
    "drug_reference",
    "material_reference",
    "equipment_reference",
    "ai_models",
    "ai_model_versions",
)
# Tables that tenants share with the platform: of these only rows without a tenant.
SHARED = ("roles", "role_permissions", "ai_routing_rules", "ai_model_deployments")
# Columns that stay empty there: they name accounts, which each database has for itself.
LEFT_OUT: Mapping[str, frozenset[str]] = {"ai_model_deployments": frozenset({"created_by_id"})}
# Say who wrote the copy; a difference in them is none.
_OWN = frozenset({"updated_at", "updated_by"})
# What vanished but is pointed at by the tenant stays, and must have no effect any more.
_DISARMED = {
    "ai_model_deployments": "status = 'DISABLED'",
    "ai_routing_rules": "enabled = false",
}
_CHUNK = 1000
# So long tables that were alike are not compared again while no row was written.
ALIKE_SECONDS = 600.0
# Any number will do: two that mirror into one database at once would collide.
LOCK = 0x6D6972726F72

# What this process found alike: of each place until when, and by which rows of both sides.
_alike: dict[tuple[str, int, str, UUID], tuple[float, tuple[Summary, ...]]] = {}

# The tenants that are known there: the tenant, those above and below it, and whoever pays or is
# referred to. Nothing says where they lie; that they lie elsewhere is all that must be known.
_TENANTS = """
SELECT t.id, t.slug, t.name, t.type, t.primary_region, t.partition_strategy, t.status, t.ae_title,
    t.status_reason, t.status_changed_at, t.created_at, t.created_by,
    CASE WHEN t.parent_tenant_id = ANY (near.ids) THEN t.parent_tenant_id END AS parent_tenant_id,
    -- Closed while the registry does not lead there: the tenant has not come yet, or is leaving.
    CASE WHEN t.id <> %(tenant)s THEN '-' WHEN t.place = '-' THEN 'public' ELSE '' END AS place,
    CASE WHEN t.id = %(tenant)s THEN NULL ELSE '' END AS database_name
FROM (SELECT array_agg(t.id) AS ids FROM tenants AS t
    WHERE t.type = 'PAYER' OR t.id = ANY (%(named)s) OR t.id IN (
        SELECT ancestor_id FROM tenant_closure WHERE descendant_id = %(tenant)s
        UNION SELECT descendant_id FROM tenant_closure WHERE ancestor_id = %(tenant)s)) AS near
JOIN tenants AS t ON t.id = ANY (near.ids)
"""
# What is taken from a row before others may get it: a name moves from one tenant to another, and
# two that change places in the tree would for a moment each lie below the other.
_TENANT_TAKEN = "parent_tenant_id = NULL, ae_title = NULL, slug = replace(id::text, '-', '')"

_TIES = """
SELECT k.confrelid::regclass::text, k.conrelid::regclass::text, a.attname::text
FROM pg_constraint AS k
JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace AND cardinality(k.conkey) = 1
ORDER BY 1, 2, 3
"""
_COLUMNS = """
SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attname)
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (%s) AND a.attgenerated = ''
GROUP BY 1
"""
# So that a value has the same text on both servers.
_AS_TEXT = (
    "SELECT set_config('search_path', 'public', true), set_config('TimeZone', 'UTC', true),"
    " set_config('DateStyle', 'ISO', true), set_config('IntervalStyle', 'iso_8601', true),"
    " set_config('bytea_output', 'hex', true), set_config('extra_float_digits', '1', true),"
    # So that the tenant's rows that point at the platform's are seen.
    " set_config('app.tenant', %s, true)"
)


def mirror(platform: Owner, place: Owner, tenant_id: UUID, *, named: Iterable[UUID] = ()) -> int:
    """Bring the tenant's database up to what the platform has; returns how many rows changed.

    One transaction at the place, which must be at the revision of the platform. `named`: tenants
    that rows which are still to come point at. What vanished is removed where nothing of the
    tenant points at it.
    """
    is_first = platform.info.transaction_status == TransactionStatus.IDLE
    with place.transaction(), platform.transaction():
        # Before the registry is read: the mover, who closes the place, waits here too.
        place.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        if is_first:
            # All tables as they were at one moment: a row never comes before what it points at.
            platform.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for connection in (platform, place):
            connection.execute(_AS_TEXT, (str(tenant_id),))
        ties = _ties(place)
        wanted = {*named, *named_tenants(platform, tenant_id), *named_tenants(place, tenant_id)}
        changed = _mirror_tenants(platform, place, tenant_id, wanted, ties["tenants"])
        copies = _differing(platform, place, tenant_id)
        for copy in reversed(copies):
            changed += copy.remove_vanished(ties.get(copy.table, []))
        for copy in copies:
            changed += copy.write()
    return changed


def named_tenants(connection: Owner, tenant_id: UUID, schema: str = "public") -> set[UUID]:
    """Other tenants that rows of the tenant point at: payers, where patients were referred to.

    `connection` must be bound to the tenant or be free of row-level security.
    """
    found: set[UUID] = set()
    for table, column in _ties(connection)["tenants"]:
        if column in ("tenant_id", "parent_tenant_id") or table == "tenant_closure":
            continue
        query = "SELECT DISTINCT {column} FROM {table} WHERE tenant_id = %s AND {column} <> %s"
        found |= {
            row[0]
            for row in connection.execute(
                sql.SQL(query).format(
                    column=sql.Identifier(column), table=sql.Identifier(schema, table)
                ),
                (tenant_id, tenant_id),
            )
        }
    return found


def _ties(connection: Owner) -> Ties:
    ties: Ties = {}
    for target, table, column in connection.execute(_TIES).fetchall():
        ties.setdefault(target, []).append((table, column))
    return ties


# -- tenants ----------------------------------------------------------------------------------


def _mirror_tenants(
    platform: Owner, place: Owner, tenant_id: UUID, named: set[UUID], ties: list[tuple[str, str]]
) -> int:
    parameters = {"tenant": tenant_id, "named": list(named)}
    wanted = _by_id(platform, _TENANTS, parameters)
    if tenant_id not in wanted:
        raise LookupError(f"the platform has no tenant {tenant_id}")
    names = list(wanted[tenant_id])
    listed = ", ".join(names)
    known = _by_id(place, f"SELECT {listed} FROM tenants")
    vanished = [key for key in known if key not in wanted]
    changed = [key for key, row in wanted.items() if known.get(key) != row]
    if not vanished and not changed:
        return 0
    place.execute(f"UPDATE tenants SET {_TENANT_TAKEN} WHERE id = ANY (%s)", (changed,))
    removed = _remove_tenants(place, vanished, ties)
    values = ", ".join(f"%({name})s" for name in names)
    kept = ", ".join(f"{name} = excluded.{name}" for name in names if name != "id")
    insert = (
        f"INSERT INTO tenants ({listed}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {kept}"
    )
    for key in changed:
        place.execute(insert, {**wanted[key], "parent_tenant_id": None})
    for key in changed:
        if wanted[key]["parent_tenant_id"] is not None:
            # The closure follows by its triggers.
            place.execute(
                "UPDATE tenants SET parent_tenant_id = %s WHERE id = %s",
                (wanted[key]["parent_tenant_id"], key),
            )
    return len(changed) + removed


def _remove_tenants(place: Owner, vanished: list[UUID], ties: list[tuple[str, str]]) -> int:
    """Forget tenants that are not near any more, at least in the tree and by name."""
    if not vanished:
        return 0
    disarmed = place.execute(
        f"UPDATE tenants SET {_TENANT_TAKEN}, status = 'CLOSED' WHERE id = ANY (%s)"
        " AND (parent_tenant_id IS NOT NULL OR status <> 'CLOSED')",
        (vanished,),
    ).rowcount
    others = [tie for tie in ties if tie[0] not in ("tenants", "tenant_closure")]
    deleted = place.execute(
        sql.SQL("DELETE FROM tenants AS gone WHERE id = ANY (%s) {}").format(_not_tied(others)),
        (vanished,),
    ).rowcount
    return max(disarmed, deleted)


def _by_id(connection: Owner, query: str, parameters: Row | None = None) -> dict[UUID, Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return {row["id"]: row for row in cursor.execute(query, parameters)}


# -- catalogs ---------------------------------------------------------------------------------


def _differing(platform: Owner, place: Owner, tenant_id: UUID) -> list[_Copy]:
    """The tables that are not alike, parents first: one query on each side tells.

    It reads every value, so it is not asked while neither side shows that a row was written.
    """
    columns = dict(place.execute(_COLUMNS, ([*CATALOGS, *SHARED],)).fetchall())
    copies = [
        _Copy(platform, place, table, set(columns[table]) - _OWN - LEFT_OUT.get(table, frozenset()))
        for table in (*CATALOGS, *SHARED)
    ]
    key = (place.info.host, place.info.port, place.info.dbname, tenant_id)
    ages = tuple(_summaries(side, [copy.age() for copy in copies]) for side in (platform, place))
    known = _alike.get(key)
    if known is not None and known[0] > time.monotonic() and known[1] == ages:
        return []
    there, here = (
        _summaries(side, [copy.summary() for copy in copies]) for side in (platform, place)
    )
    differing = [copy for copy in copies if there[copy.table] != here[copy.table]]
    if not differing:
        _alike[key] = (time.monotonic() + ALIKE_SECONDS, ages)
    return differing


def _summaries(connection: Owner, queries: list[sql.Composed]) -> Summary:
    rows = connection.execute(sql.SQL(" UNION ALL ").join(queries)).fetchall()
    return {table: tuple(rest) for table, *rest in rows}


class _Copy:
    """One table of the platform and its copy at the place."""

    def __init__(self, platform: Owner, place: Owner, table: str, columns: set[str]) -> None:
        self.table = table
        self._platform = platform
        self._place = place
        self._columns = [sql.Identifier(name) for name in sorted(columns)]
        self._name = sql.Identifier(table)
        self._is_ours = sql.SQL("tenant_id IS NULL" if table in SHARED else "true")
        self._wanted: dict[UUID, str] | None = None

    def summary(self) -> sql.Composed:
        """How many rows there are and what they are, the same in whatever order."""
        return sql.SQL(
            "SELECT {title}, count(*), bit_xor(('x' || left(md5({row}), 16))::bit(64)::bigint)"
            " FROM {table} WHERE {ours}"
        ).format(
            title=sql.Literal(self.table), row=self._row(), table=self._name, ours=self._is_ours
        )

    def age(self) -> sql.Composed:
        """What is another whenever a row is inserted, updated or deleted, and cheap to read."""
        return sql.SQL(
            "SELECT {title}, count(*), sum(extract(epoch FROM coalesce(updated_at, created_at)))"
            " FROM {table} WHERE {ours}"
        ).format(title=sql.Literal(self.table), table=self._name, ours=self._is_ours)

    def _row(self) -> sql.Composed:
        return sql.SQL("ROW({})::text").format(sql.SQL(", ").join(self._columns))

    def _hashes(self, connection: Owner) -> dict[UUID, str]:
        query = sql.SQL("SELECT id, md5({}) FROM {} WHERE {}").format(
            self._row(), self._name, self._is_ours
        )
        return dict(connection.execute(query).fetchall())

    def remove_vanished(self, ties: list[tuple[str, str]]) -> int:
        """Delete what the platform has no more; what the tenant points at is disarmed."""
        vanished = list(self._hashes(self._place).keys() - self._hashes(self._platform).keys())
        if not vanished:
            return 0
        changed = self._place.execute(
            sql.SQL("DELETE FROM {} AS gone WHERE {} AND id = ANY (%s) {}").format(
                self._name, self._is_ours, _not_tied(ties)
            ),
            (vanished,),
        ).rowcount
        if self.table in _DISARMED:
            harmless = sql.SQL(_DISARMED[self.table])
            changed += self._place.execute(
                sql.SQL("UPDATE {} SET {} WHERE {} AND id = ANY (%s) AND NOT ({})").format(
                    self._name, harmless, self._is_ours, harmless
                ),
                (vanished,),
            ).rowcount
        return changed

    def write(self) -> int:
        """Insert and update what differs, never a row of the tenant."""
        known = self._hashes(self._place)
        wanted = self._hashes(self._platform)
        changed = [key for key, value in wanted.items() if known.get(key) != value]
        listed = sql.SQL(", ").join(self._columns)
        insert = sql.SQL(
            "INSERT INTO {table} AS known ({columns})"
            " SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, %s::jsonb)"
            " ON CONFLICT (id) DO UPDATE SET {updates} WHERE {ours}"
        ).format(
            table=self._name,
            columns=listed,
            updates=sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(column) for column in self._columns
            ),
            ours=sql.SQL("known.tenant_id IS NULL" if self.table in SHARED else "true"),
        )
        # As text all the way: a Python number would not keep its digits.
        select = sql.SQL(
            "SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]')::text FROM {} AS t WHERE id = ANY (%s)"
        ).format(self._name)
        written = 0
        for start in range(0, len(changed), _CHUNK):
            chunk = changed[start : start + _CHUNK]
            for row in self._platform.execute(select, (chunk,)).fetchall():
                written += self._place.execute(insert, row).rowcount
        return written


def _not_tied(ties: list[tuple[str, str]]) -> sql.Composed:
    return sql.SQL("").join(
        sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS t WHERE t.{} = gone.id)").format(
            sql.Identifier(table), sql.Identifier(column)
        )
        for table, column in ties
    )
