"""The schema of a SCHEMA tenant: the tenant tables of `public` again, under the same names.

It is copied from PostgreSQL's catalog and not from the models, so it is what the migrations made of
`public`: columns, constraints, indexes, statistics, triggers, policies and grants. Global tables,
rows of the platform and functions stay in `public`. Definitions are read with `public` in the
search path and run with the new schema before it: every name in them then means the copy where
there is one and `public` otherwise.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import Table

from storage.database import APP_ROLE
from storage.migrations import MIGRATION_LOCK

Owner = psycopg.Connection[Any]

NAME = re.compile(r"t_[0-9a-f]{32}")

# A tenant's table has a tenant in every row; a table of the platform may have none. The schema
# remembers its revision as `public` does.
_COPIED = """
SELECT c.oid FROM pg_class AS c
WHERE c.relnamespace = {schema}::regnamespace AND c.relkind = 'r'
    AND (c.relname = 'alembic_version' OR EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'
            AND a.attnotnull AND NOT a.attisdropped))
"""

# Each yields statements: (order within the step). In all, names that `public` leads to are bare.
_TABLES = """
SELECT format('CREATE %sTABLE %I.%I (LIKE public.%I INCLUDING ALL EXCLUDING INDEXES'
        ' EXCLUDING STATISTICS)%s',
    CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, {name}, c.relname, c.relname,
    coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', ''))
FROM pg_class AS c WHERE c.oid IN (SELECT oid FROM copied) ORDER BY c.relname
"""
# LIKE brings the comments of columns, not that of the table.
_COMMENTS = """
SELECT format('COMMENT ON TABLE %I.%I IS %L', {name}, c.relname, obj_description(c.oid, 'pg_class'))
FROM pg_class AS c
WHERE c.oid IN (SELECT oid FROM copied) AND obj_description(c.oid, 'pg_class') IS NOT NULL
"""
_COLUMN_TARGETS = """
SELECT format('ALTER TABLE %I.%I ALTER COLUMN %I SET STATISTICS %s', {name}, c.relname, a.attname,
    a.attstattarget)
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE a.attrelid IN (SELECT oid FROM copied) AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attstattarget >= 0
"""
_KEYS = """
SELECT format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', {name}, c.relname, k.conname,
    pg_get_constraintdef(k.oid, true))
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
WHERE k.conrelid IN (SELECT oid FROM copied) AND k.contype = ANY ({kinds})
ORDER BY c.relname, k.conname
"""
_INDEXES = """
SELECT pg_get_indexdef(i.indexrelid, 0, true)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid IN (SELECT oid FROM copied)
    AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid
        AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x'))
ORDER BY c.relname
"""
_STATISTICS = """
SELECT format('CREATE STATISTICS %I.%I%s', {name}, s.stxname, substr(pg_get_statisticsobjdef(s.oid),
        length(format('CREATE STATISTICS %I.%I', 'public', s.stxname)) + 1))
FROM pg_statistic_ext AS s WHERE s.stxrelid IN (SELECT oid FROM copied)
UNION ALL
SELECT format('ALTER STATISTICS %I.%I SET STATISTICS %s', {name}, s.stxname, s.stxstattarget)
FROM pg_statistic_ext AS s WHERE s.stxrelid IN (SELECT oid FROM copied) AND s.stxstattarget >= 0
"""
_TRIGGERS = """
SELECT pg_get_triggerdef(t.oid, true)
FROM pg_trigger AS t WHERE t.tgrelid IN (SELECT oid FROM copied) AND NOT t.tgisinternal
ORDER BY t.tgrelid::regclass::text, t.tgname
"""
_TRIGGER_STATES = """
SELECT format('ALTER TABLE %I.%I %s TRIGGER %I', {name}, c.relname,
    CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS'
        ELSE 'ENABLE REPLICA' END, t.tgname)
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE t.tgrelid IN (SELECT oid FROM copied) AND NOT t.tgisinternal AND t.tgenabled <> 'O'
"""
_ROW_SECURITY = """
SELECT format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY', {name}, c.relname)
FROM pg_class AS c WHERE c.oid IN (SELECT oid FROM copied) AND c.relrowsecurity
UNION ALL
SELECT format('ALTER TABLE %I.%I FORCE ROW LEVEL SECURITY', {name}, c.relname)
FROM pg_class AS c WHERE c.oid IN (SELECT oid FROM copied) AND c.relforcerowsecurity
UNION ALL
SELECT format('CREATE POLICY %I ON %I.%I AS %s FOR %s TO %s%s%s', p.polname, {name}, c.relname,
    CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
        WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
    (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE role::regrole::text END, ', ')
        FROM unnest(p.polroles) AS role),
    ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
    ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
WHERE p.polrelid IN (SELECT oid FROM copied)
"""
_GRANTS = """
SELECT format('GRANT USAGE ON SCHEMA %I TO %s', {name}, acl.grantee::regrole)
FROM pg_namespace AS n, aclexplode(n.nspacl) AS acl
WHERE n.nspname = 'public' AND acl.privilege_type = 'USAGE' AND acl.grantee = {role}::regrole
UNION ALL
SELECT format('GRANT %s ON %I.%I TO %s', string_agg(acl.privilege_type, ', '), {name}, c.relname,
    CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END)
FROM pg_class AS c, aclexplode(c.relacl) AS acl
WHERE c.oid IN (SELECT oid FROM copied) AND acl.grantee <> c.relowner
GROUP BY c.relname, acl.grantee
UNION ALL
SELECT format('GRANT %s (%s) ON %I.%I TO %s', acl.privilege_type,
    string_agg(quote_ident(a.attname), ', '), {name}, c.relname,
    CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid, aclexplode(a.attacl) AS acl
WHERE c.oid IN (SELECT oid FROM copied) AND NOT a.attisdropped AND acl.grantee <> c.relowner
GROUP BY c.relname, acl.grantee, acl.privilege_type
"""


def schema_name(tenant_id: UUID) -> str:
    """The schema of a tenant, as it stands in tenants.place."""
    return f"t_{tenant_id.hex}"


# What a schema is, one (name, definition) a row. Read with the schema before `public` in the search
# path, where a name that leads to a table in the wrong place is not bare.
_CATALOG = """
SELECT 'schema', coalesce((SELECT string_agg(concat(acl.grantee::regrole, ':', privilege_type), ' '
        ORDER BY acl.grantee::regrole::text, privilege_type)
    FROM aclexplode(n.nspacl) AS acl WHERE acl.grantee = {role}::regrole), '')
FROM pg_namespace AS n WHERE n.nspname = {name}
UNION ALL
SELECT format('table %s', c.relname), concat_ws(' ', c.relpersistence::text,
    'row security', c.relrowsecurity, c.relforcerowsecurity, c.reloptions::text,
    obj_description(c.oid, 'pg_class'), (
        SELECT string_agg(concat(acl.grantee::regrole, ':', privilege_type), ' '
            ORDER BY acl.grantee::regrole::text, privilege_type)
        FROM aclexplode(c.relacl) AS acl WHERE acl.grantee <> c.relowner))
FROM pg_class AS c WHERE c.oid IN (SELECT oid FROM copied)
UNION ALL
SELECT format('column %s.%s', c.relname, a.attname), concat_ws(' ',
    row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum),
    format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
    a.attidentity::text || a.attgenerated::text || a.attstorage::text || a.attcompression::text,
    (SELECT 'COLLATE ' || collname FROM pg_collation WHERE oid = a.attcollation),
    'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid),
    'STATISTICS ' || nullif(a.attstattarget, -1), col_description(c.oid, a.attnum), (
        SELECT string_agg(concat(acl.grantee::regrole, ':', privilege_type), ' '
            ORDER BY acl.grantee::regrole::text, privilege_type)
        FROM aclexplode(a.attacl) AS acl WHERE acl.grantee <> c.relowner))
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.oid IN (SELECT oid FROM copied)
UNION ALL
SELECT format('constraint %s of %s', k.conname, c.relname), pg_get_constraintdef(k.oid, true)
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
WHERE k.conrelid IN (SELECT oid FROM copied)
UNION ALL
SELECT format('index %s', c.relname), pg_get_indexdef(i.indexrelid, 0, true)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid IN (SELECT oid FROM copied)
UNION ALL
SELECT format('statistics %s', s.stxname), concat(s.stxstattarget, substr(
    pg_get_statisticsobjdef(s.oid), length(format('CREATE STATISTICS %I.', {name})) + 1))
FROM pg_statistic_ext AS s WHERE s.stxrelid IN (SELECT oid FROM copied)
UNION ALL
SELECT format('trigger %s of %s', t.tgname, c.relname),
    concat(t.tgenabled, ' ', pg_get_triggerdef(t.oid, true))
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE t.tgrelid IN (SELECT oid FROM copied) AND NOT t.tgisinternal
UNION ALL
SELECT format('policy %s of %s', p.polname, c.relname), concat_ws(' ', p.polcmd::text,
    p.polpermissive, p.polroles::regrole[]::text, pg_get_expr(p.polqual, p.polrelid),
    pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
WHERE p.polrelid IN (SELECT oid FROM copied)
"""


def tenant_tables() -> list[Table]:
    """The tables that a tenant's schema has, in order of foreign keys (parents first)."""
    from storage.schema import metadata  # the models take a second to load

    return [table for table in metadata.sorted_tables if table.info["scope"] == "tenant"]


def create_schema(owner: Owner, name: str) -> None:
    """Make the schema with all tables, empty, at the revision of `public`.

    In the transaction of `owner` where one is open, else in one of its own; one at a time, and
    never beside a migration. Raises psycopg.errors.DuplicateSchema.
    """
    _require_name(name)
    with owner.transaction():
        owner.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        before = owner.execute("SELECT current_setting('search_path')").fetchone()
        owner.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        for step, values in _steps(name):
            _look_in(owner, "public")
            statements = [row[0] for row in owner.execute(_selected(step, values)).fetchall()]
            _look_in(owner, f"{name}, public")
            if statements:
                # One round trip for all: without parameters the driver takes several statements.
                owner.execute(";\n".join(statements))
        owner.execute(
            sql.SQL("INSERT INTO {}.alembic_version SELECT * FROM public.alembic_version").format(
                sql.Identifier(name)
            )
        )
        _look_in(owner, before[0] if before else "public")


def drop_schema(owner: Owner, name: str) -> None:
    """Remove the schema with everything in it; nothing happens where there is none."""
    _require_name(name)
    owner.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def has_schema(owner: Owner, name: str) -> bool:
    found = owner.execute("SELECT FROM pg_namespace WHERE nspname = %s", (name,)).fetchone()
    return found is not None


def differences(owner: Owner, name: str) -> list[str]:
    """What the schema has other than `public`, one line each; empty where it is an exact copy."""
    _require_name(name)
    with owner.transaction():
        before = owner.execute("SELECT current_setting('search_path')").fetchone()
        wanted = _catalog(owner, "public")
        found = _catalog(owner, name)
        _look_in(owner, before[0] if before else "public")
    lines = []
    for item in sorted(wanted.keys() | found.keys()):
        here, there = found.get(item), wanted.get(item)
        if here is None:
            lines.append(f"{item}: missing; public has {there!r}")
        elif there is None:
            lines.append(f"{item}: not in public; here {here!r}")
        elif here != there:
            lines.append(f"{item}: here {here!r}, public {there!r}")
    return lines


def _catalog(owner: Owner, schema: str) -> dict[str, str]:
    _look_in(owner, schema if schema == "public" else f"{schema}, public")
    values = {"name": sql.Literal(schema), "role": sql.Literal(APP_ROLE)}
    copied = sql.SQL(_COPIED).format(schema=sql.Literal(schema))
    body = sql.SQL(_CATALOG).format(**values)
    return dict(owner.execute(sql.SQL("WITH copied AS ({}) {}").format(copied, body)).fetchall())


def _steps(name: str) -> list[tuple[str, dict[str, sql.Composable]]]:
    quoted: dict[str, sql.Composable] = {"name": sql.Literal(name), "role": sql.Literal(APP_ROLE)}
    keys, foreign = sql.SQL("'{p,u,x}'::\"char\"[]"), sql.SQL("'{f}'::\"char\"[]")
    return [
        (_TABLES, quoted),
        (_COMMENTS, quoted),
        (_COLUMN_TARGETS, quoted),
        (_KEYS, {**quoted, "kinds": keys}),
        (_INDEXES, quoted),
        (_STATISTICS, quoted),
        (_KEYS, {**quoted, "kinds": foreign}),
        (_TRIGGERS, quoted),
        (_TRIGGER_STATES, quoted),
        (_ROW_SECURITY, quoted),
        (_GRANTS, quoted),
    ]


def _selected(step: str, values: dict[str, sql.Composable]) -> sql.Composed:
    copied = sql.SQL(_COPIED).format(schema=sql.Literal("public"))
    body = sql.SQL(step).format(**values)
    return sql.SQL("WITH copied AS ({}) {}").format(copied, body)


def _look_in(owner: Owner, search_path: str) -> None:
    """Set where bare names are looked for, until the end of the transaction."""
    owner.execute("SELECT set_config('search_path', %s, true)", (search_path,))


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no schema of a tenant: t_ and 32 hexadecimal digits")
