"""Row-level security and grants, derived from the models: the second lock of three.

Every table with a `tenant_id` gets ENABLE, FORCE and one policy that fails closed: without
`app.tenant` the setting is NULL, and after a transaction that had it it is '' (reliability.md M12).
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import MetaData, Table

from storage.database import APP_ROLE

CURRENT_TENANT = "nullif(current_setting('app.tenant', true), '')::uuid"

# Rows that record what has happened: the application can add to them and read them.
APPEND_ONLY = frozenset(
    {
        "audit_events",
        "phi_access_logs",
        "audit_seals",
        "clinical_note_amendments",
        "claim_status_events",
        "research_access_logs",
    }
)

# What PostgreSQL itself says of a row: nobody who writes one may say it instead.
NOT_TO_BE_GIVEN = {"audit_events": frozenset({"transaction_id", "timestamp"})}

# What the application may do to tables without a tenant, beyond reading them.
GLOBAL_WRITES = {
    "tenants": "INSERT, UPDATE",
    "tenant_closure": "INSERT, DELETE",
    "users": "INSERT, UPDATE",
    "user_auth_identities": "INSERT, UPDATE, DELETE",
    "sign_in_throttles": "INSERT, UPDATE, DELETE",
    "ai_models": "INSERT, UPDATE",
    "ai_model_versions": "INSERT, UPDATE",
    "platform_data_keys": "INSERT, UPDATE",
    "signing_keys": "INSERT, UPDATE (retired_at, verifies_until)",
}

# The role may exist already, with a password that an operator gave it, and migrations of several
# databases of one cluster may run at once.
CREATE_ROLE = f"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APP_ROLE}') THEN
        BEGIN
            CREATE ROLE {APP_ROLE} LOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF EXISTS (
        SELECT FROM pg_roles
        WHERE rolname = '{APP_ROLE}' AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb)
    ) THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'role {APP_ROLE} has rights that bypass tenant isolation',
            HINT = 'ALTER ROLE {APP_ROLE} NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB';
    END IF;
END;
$$;
"""

# With the membership, one URL of the owner serves both: `options=-c role=interop_app`.
# pg_auth_members.set_option exists since PostgreSQL 16, where a creator has ADMIN without SET.
JOIN_ROLE = f"""
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_auth_members AS m
        WHERE m.roleid = '{APP_ROLE}'::regrole AND m.member = quote_ident(current_user)::regrole
            AND coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
    ) THEN
        EXECUTE format('GRANT {APP_ROLE} TO %I', current_user);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    -- The role was made by somebody else; it then connects with a login of its own.
    RAISE NOTICE '% may not become {APP_ROLE}: connect as {APP_ROLE} itself', current_user;
END;
$$;
"""


def statements(metadata: MetaData) -> Iterator[str]:
    """All statements that close the schema to everyone but its owner and open it to the role."""
    yield CREATE_ROLE
    yield JOIN_ROLE
    yield _in_current_schema("REVOKE ALL ON ALL TABLES IN SCHEMA {} FROM PUBLIC")
    yield _in_current_schema("REVOKE ALL ON ALL SEQUENCES IN SCHEMA {} FROM PUBLIC")
    yield _in_current_schema("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {} FROM PUBLIC")
    yield _in_current_schema("REVOKE CREATE ON SCHEMA {} FROM PUBLIC")
    yield _in_current_schema(f"GRANT USAGE ON SCHEMA {{}} TO {APP_ROLE}")
    yield _in_current_schema(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {{}} TO {APP_ROLE}")
    for table in metadata.sorted_tables:
        yield from protect(table)
    yield f"GRANT SELECT ON billing_plans TO {APP_ROLE}"
    # Alembic's own table, so that the server can tell which revision it works on.
    yield f"GRANT SELECT ON alembic_version TO {APP_ROLE}"
    yield PROCRASTINATE_GRANTS


def protect(table: Table) -> Iterator[str]:
    """Policies and grants of one table."""
    name = table.name
    if table.info["scope"] == "global":
        yield f"GRANT SELECT ON {name} TO {APP_ROLE}"
        if name in GLOBAL_WRITES:
            yield f"GRANT {GLOBAL_WRITES[name]} ON {name} TO {APP_ROLE}"
        return
    yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"
    yield (
        f"CREATE POLICY tenant_isolation ON {name}"
        f" USING (tenant_id = {CURRENT_TENANT}) WITH CHECK (tenant_id = {CURRENT_TENANT})"
    )
    if table.info["scope"] == "platform":
        yield f"CREATE POLICY platform_rows ON {name} FOR SELECT USING (tenant_id IS NULL)"
        # Rows of the platform are written by the owner of the database only.
        yield (
            f"CREATE POLICY platform_administration ON {name} TO CURRENT_USER"
            " USING (tenant_id IS NULL) WITH CHECK (tenant_id IS NULL)"
        )
    rights = "SELECT, INSERT" if name in APPEND_ONLY else "SELECT, INSERT, UPDATE, DELETE"
    if name in NOT_TO_BE_GIVEN:
        columns = ", ".join(c.name for c in table.c if c.name not in NOT_TO_BE_GIVEN[name])
        rights = f"SELECT, INSERT ({columns})"
    yield f"GRANT {rights} ON {name} TO {APP_ROLE}"


# Jobs hold ids only and name their tenant; the executor works over all tenants by design.
PROCRASTINATE_GRANTS = f"""
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT oid::regclass AS name, relkind FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace
            AND relname LIKE 'procrastinate\\_%' AND relkind IN ('r', 'S')
    LOOP
        IF item.relkind = 'r' THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO {APP_ROLE}', item.name);
        ELSE
            EXECUTE format('GRANT USAGE, SELECT ON SEQUENCE %s TO {APP_ROLE}', item.name);
        END IF;
    END LOOP;
END;
$$;
"""


def _in_current_schema(statement: str) -> str:
    template = statement.format("%I").replace("'", "''")
    return f"DO $$ BEGIN EXECUTE format('{template}', current_schema()); END; $$"
