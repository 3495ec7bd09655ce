"""The database of a DATABASE tenant: made, or adopted from an operator, and migrated.

It has all tables, as a platform of its own has; what of them belongs to the platform is kept there
by `storage.partitions.mirror`. Made by us it lies on the platform's server and is called after the
tenant. An operator who wants it on another server makes an empty one there and names its URL.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from storage import migrations
from storage.database import APP_ROLE

Owner = psycopg.Connection[Any]

_THINGS = """
SELECT format('%s %I', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
        WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, c.relname)
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass
        AND d.objid = c.oid AND d.deptype IN ('i', 'e'))
UNION ALL
SELECT format('%s %s', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE'
        ELSE 'FUNCTION' END, p.oid::regprocedure)
FROM pg_proc AS p
WHERE p.pronamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass
        AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT format('TYPE %I', t.typname)
FROM pg_type AS t
WHERE t.typnamespace = 'public'::regnamespace AND t.typtype IN ('c', 'e', 'd', 'r')
    AND (t.typrelid = 0
        OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_type'::regclass
        AND d.objid = t.oid AND d.deptype = 'e')
"""


class DatabaseRefused(Exception):
    """The database of a tenant cannot be made or used; the message says what to change."""


def database_name(tenant_id: UUID) -> str:
    """The database that we make for a tenant, as it stands in tenants.database_name."""
    return f"interop_t_{tenant_id.hex}"


def database_url(owner_url: str, name: str) -> str:
    """The owner's URL of another database of the same server."""
    return make_conninfo(owner_url, dbname=name)


def name_in(url: str) -> str:
    """The database that a URL names. Raises DatabaseRefused."""
    try:
        name = conninfo_to_dict(url).get("dbname")
    except psycopg.ProgrammingError as error:
        raise DatabaseRefused(f"the database URL cannot be read: {error}") from error
    if not name:
        raise DatabaseRefused("the database URL names no database: postgresql://.../DATABASE")
    return str(name)


def create_database(owner_url: str, name: str) -> str:
    """Make the database on the platform's server; returns its URL, migrated to head.

    Nothing is left where migrating fails. Raises DatabaseRefused.
    """
    url = database_url(owner_url, name)
    with psycopg.connect(owner_url, autocommit=True) as connection:
        try:
            # template0: what somebody put into the other template is not ours.
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
            )
        except errors.DuplicateDatabase as error:
            raise DatabaseRefused(f"a database {name} exists already on this server") from error
        except errors.InsufficientPrivilege as error:
            user = sql.Identifier(connection.info.user).as_string(connection)
            raise DatabaseRefused(
                f"the login {user} may not create databases. Either ALTER ROLE {user} CREATEDB, or"
                " create an empty database that it owns, on this or another server, and name it"
                " with --database-url"
            ) from error
    try:
        _migrate(url)
    except BaseException:
        drop_database(owner_url, name)
        raise
    return url


def require_empty(url: str) -> None:
    """Raise DatabaseRefused where the database cannot be reached or has anything in it."""
    name = name_in(url)
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            found = connection.execute(_THINGS + " LIMIT 3").fetchall()
    except psycopg.OperationalError as error:
        raise DatabaseRefused(f"the database {name} cannot be reached: {error}") from error
    if found:
        raise DatabaseRefused(
            f"the database {name} is not empty: it has {', '.join(row[0] for row in found)}."
            " Name an empty one"
        )


def adopt_database(url: str) -> str:
    """Migrate an empty database that an operator made; returns its URL. Raises DatabaseRefused."""
    require_empty(url)
    try:
        _migrate(url)
    except errors.InsufficientPrivilege as error:
        # Migrations are one transaction; the rights on the database itself come after it.
        empty_database(url)
        raise DatabaseRefused(
            f"the login of the database {name_in(url)} must own it, and be allowed to create roles"
            f" where there is no role {APP_ROLE} on that server:"
            f" {error.diag.message_primary}"
        ) from error
    return url


def holds_only(url: str, tenant_id: UUID) -> bool:
    """Whether a database is empty, or is the tenant's and nobody else's."""
    with psycopg.connect(url, connect_timeout=10) as connection:
        connection.execute("SET LOCAL search_path = public")
        found = connection.execute("SELECT to_regclass('tenants'), to_regclass('alembic_version')")
        if found.fetchone() != ("tenants", "alembic_version"):
            return connection.execute(_THINGS + " LIMIT 1").fetchone() is None
        others = connection.execute(
            "SELECT count(*) FROM tenants WHERE place <> '-' AND id <> %s", (tenant_id,)
        ).fetchone()
        return others == (0,)


def _migrate(url: str) -> None:
    migrations.upgrade(url)
    with psycopg.connect(url) as connection:
        name = sql.Identifier(connection.info.dbname)
        role = sql.Identifier(APP_ROLE)
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, role))


def drop_database(owner_url: str, name: str) -> None:
    """Remove a database of the platform's server, whoever is connected to it."""
    drop = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    with psycopg.connect(owner_url, autocommit=True) as connection:
        for is_last in (False,) * 5 + (True,):
            try:
                connection.execute(drop + sql.SQL(" WITH (FORCE)"))
                return
            except errors.InsufficientPrivilege:
                # An autovacuum worker is nobody whom an owner may end by force; without force
                # PostgreSQL ends it, and refuses where others are connected too.
                with suppress(errors.ObjectInUse):
                    connection.execute(drop)
                    return
                if is_last:
                    raise


def empty_database(url: str) -> None:
    """Remove everything that migrations made; the database itself is its operator's."""
    with psycopg.connect(url) as connection:
        connection.execute("SET LOCAL search_path = public")
        while things := [row[0] for row in connection.execute(_THINGS).fetchall()]:
            # One statement a thing, as far as another's CASCADE did not take it already.
            for thing in things:
                kind, _, name = thing.rpartition(" ") if "(" not in thing else thing.partition(" ")
                connection.execute(f"DROP {kind} IF EXISTS {name} CASCADE")
