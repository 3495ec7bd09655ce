"""From nothing to head: by any kind of owner, twice, at once, and to what the models say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from storage.embedded import OWNER_ROLE, SUPERUSER, EmbeddedPostgres
from storage.migrations import current_revision, newest_revision, upgrade
from storage.migrations.initial import script
from storage.schema import metadata


def execute(url: str, statement: sql.Composed | sql.SQL) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture
def empty(cluster: EmbeddedPostgres, cluster_url: str) -> Iterator[str]:
    """The name of an empty database."""
    name = f"empty_{uuid4().hex}"
    execute(cluster_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield name
    execute(
        cluster.url(SUPERUSER, "postgres"),
        sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)),
    )


def rows(url: str, query: str, *, options: str = "") -> list[tuple[object, ...]]:
    with psycopg.connect(make_conninfo(url, options=options)) as connection:
        return connection.execute(query).fetchall()


def test_the_migrated_database_is_what_the_models_say(owner_url: str) -> None:
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(owner_url), poolclass=NullPool
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, _: (
                    not (kind == "table" and (name or "").startswith("procrastinate_"))
                ),
            },
        )

        assert compare_metadata(context, metadata) == []
        assert current_revision(connection) == newest_revision()


CATALOG = """
SELECT 'column ' || c.oid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod)
    || ' ' || attnotnull || ' ' || attidentity::text || attgenerated::text
    || ' collate ' || coalesce((SELECT collname FROM pg_collation WHERE oid = attcollation), '-')
    || ' default ' || coalesce(pg_get_expr(adbin, adrelid), '-')
FROM pg_class AS c JOIN pg_attribute AS a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
UNION ALL SELECT 'table ' || oid::regclass || relrowsecurity || relforcerowsecurity
    || coalesce(reloptions::text, '') || ' ' || coalesce((
        SELECT string_agg(concat(grantee::regrole, ':', privilege_type), ' '
            ORDER BY grantee::regrole::text, privilege_type) FROM aclexplode(relacl)), '-')
FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' '
    || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index
    JOIN pg_class ON oid = indrelid WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'policy ' || concat_ws(' ', tablename, policyname, permissive, roles, cmd, qual,
    with_check) FROM pg_policies WHERE schemaname = 'public'
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function ' || pg_get_functiondef(oid) || coalesce(proacl::text, '-')
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'view ' || viewname || definition FROM pg_views WHERE schemaname = 'public'
"""


def test_the_revisions_add_up_to_the_script_of_the_models(
    cluster: EmbeddedPostgres, owner_url: str, empty: str
) -> None:
    """Checks, policies, triggers, functions and grants too, which Alembic does not compare."""
    with psycopg.connect(cluster.url(OWNER_ROLE, empty)) as connection:
        connection.execute(
            "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL"
            " CONSTRAINT alembic_version_pkc PRIMARY KEY)"
        )
        for statement in script():
            connection.execute(statement)

    migrated = {row[0] for row in rows(owner_url, CATALOG)}
    modelled = {row[0] for row in rows(cluster.url(OWNER_ROLE, empty), CATALOG)}

    assert len(migrated) > 2000
    assert migrated - modelled == set()
    assert modelled - migrated == set()


def test_migrating_again_changes_nothing(owner_url: str) -> None:
    query = "SELECT relname, oid FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    before = rows(owner_url, query)

    upgrade(owner_url)

    assert rows(owner_url, query) == before


def test_an_installation_begins_with_the_documents_roles_permissions_and_meters(
    owner_url: str,
) -> None:
    roles = rows(owner_url, "SELECT code FROM roles WHERE tenant_id IS NULL")
    permissions = rows(owner_url, "SELECT code FROM permissions")
    meters = rows(owner_url, "SELECT code FROM usage_meters")
    clinician = rows(
        owner_url,
        "SELECT p.code FROM role_permissions AS g JOIN roles AS r ON r.id = g.role_id"
        " JOIN permissions AS p ON p.id = g.permission_id WHERE r.code = 'CLINICIAN'",
    )

    assert {"TENANT_ADMIN", "CLINICIAN", "READ_ONLY_AUDITOR", "DATA_SCIENTIST"} <= {
        row[0] for row in roles
    }
    assert {
        "view_patient",
        "edit_patient",
        "view_imaging",
        "run_ai_analysis",
        "manage_billing",
    } <= {row[0] for row in permissions}
    assert {row[0] for row in meters} == {
        "AI_INFERENCES",
        "STORAGE_GB",
        "ACTIVE_USERS",
        "API_CALLS",
    }
    assert ("run_ai_analysis",) in clinician and ("manage_billing",) not in clinician


def test_processes_that_start_together_migrate_once(cluster: EmbeddedPostgres, empty: str) -> None:
    url = cluster.url(OWNER_ROLE, empty)
    failures: list[Exception] = []

    def run() -> None:
        try:
            upgrade(url)
        except Exception as error:
            failures.append(error)

    starters = [threading.Thread(target=run) for _ in range(3)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()

    assert failures == []
    assert rows(url, "SELECT version_num FROM alembic_version") == [(newest_revision(),)]


def test_a_superuser_may_be_the_owner(cluster: EmbeddedPostgres, empty: str) -> None:
    url = cluster.url(SUPERUSER, empty)

    upgrade(url)

    app = rows(url, "SELECT current_user, count(*) FROM patients", options="-c role=interop_app")
    assert app == [("interop_app", 0)]


def test_an_owner_without_special_rights_migrates_and_becomes_the_application(
    cluster: EmbeddedPostgres, empty: str
) -> None:
    """A managed database hands out one login that is neither superuser nor BYPASSRLS."""
    plain = f"plain_{uuid4().hex}"
    admin = cluster.url(SUPERUSER, "postgres")
    name = sql.Identifier(plain)
    execute(admin, sql.SQL("CREATE ROLE {} LOGIN").format(name))
    execute(admin, sql.SQL("GRANT interop_app TO {} WITH ADMIN OPTION").format(name))
    execute(admin, sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(empty), name))
    url = make_conninfo(cluster.url(SUPERUSER, empty), user=plain)
    try:
        upgrade(url)

        who = rows(url, "SELECT current_user FROM tenants", options="-c role=interop_app")
        assert who == []
        assert rows(url, "SELECT count(*) FROM patients") == [(0,)]
    finally:
        execute(cluster.url(SUPERUSER, empty), sql.SQL("DROP OWNED BY {} CASCADE").format(name))
        execute(
            admin, sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(sql.Identifier(empty))
        )
        execute(admin, sql.SQL("DROP ROLE {}").format(name))


def test_a_role_that_can_bypass_policies_is_refused(cluster: EmbeddedPostgres, empty: str) -> None:
    admin = cluster.url(SUPERUSER, "postgres")
    with psycopg.connect(cluster.url(SUPERUSER, empty)) as connection:
        # In a transaction that is rolled back: the role is shared with every other test.
        connection.execute("ALTER ROLE interop_app BYPASSRLS")
        from storage.migrations.row_security import CREATE_ROLE

        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="bypass tenant isolation"):
            connection.execute(CREATE_ROLE)
        connection.rollback()

    query = "SELECT rolbypassrls FROM pg_roles WHERE rolname = 'interop_app'"
    assert rows(admin, query) == [(False,)]
