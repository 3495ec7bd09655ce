"""D11 of security.md: no table, view or function of the live database lets a tenant out.

Everything is read from the catalog of a migrated database, so a table that somebody adds without
a policy fails here, whatever the models say.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from storage.database import APP_ROLE
from storage.migrations.row_security import CURRENT_TENANT, GLOBAL_WRITES

Row = tuple[object, ...]
Catalog = psycopg.Connection[Row]

# Without a tenant by design (the working contract names them), and what others bring along.
pytestmark = pytest.mark.strategies(
    ("ROW_LEVEL", "ROW_LEVEL"), ("SCHEMA", "ROW_LEVEL"), ("DATABASE", "ROW_LEVEL")
)

GLOBAL_TABLES = {
    "tenants",
    "tenant_closure",
    "subscription_plans",
    "users",
    "user_auth_identities",
    "permissions",
    "ai_models",
    "ai_model_versions",
    "external_systems",
    "usage_meters",
    "code_systems",
    "code_values",
    "drug_reference",
    "material_reference",
    "equipment_reference",
    "platform_data_keys",
    "signing_keys",
    "sign_in_throttles",
    "alembic_version",
}
PLATFORM_TABLES = {"roles", "role_permissions", "ai_model_deployments", "ai_routing_rules"}

TABLES = """
SELECT relname, relrowsecurity, relforcerowsecurity,
    EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant_id')
FROM pg_class AS c
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
    AND relname NOT LIKE 'procrastinate\\_%'
"""


@pytest.fixture(scope="module")
def catalog(place_url: str) -> Iterator[Catalog]:
    """That of the platform's tables, of a tenant's schema, of a tenant's database."""
    with psycopg.connect(place_url, autocommit=True) as connection:
        yield connection


def tenant_tables(catalog: Catalog) -> list[str]:
    return [str(row[0]) for row in catalog.execute(TABLES) if row[3]]


def test_a_table_without_a_tenant_is_one_of_the_known(
    catalog: Catalog, strategies: tuple[str, str]
) -> None:
    found = {row[0] for row in catalog.execute(TABLES) if not row[3]}

    # What belongs to the platform is not in a schema, which only knows its own revision.
    assert found == ({"alembic_version"} if strategies[0] == "SCHEMA" else GLOBAL_TABLES)


def test_every_tenant_table_enables_and_forces_row_security(catalog: Catalog) -> None:
    rows = catalog.execute(TABLES).fetchall()

    assert len([row for row in rows if row[3]]) > 90
    assert [row[0] for row in rows if row[3] and not (row[1] and row[2])] == []


def test_every_policy_compares_the_tenant_in_both_directions(catalog: Catalog) -> None:
    policies: dict[str, list[Row]] = {}
    for row in catalog.execute(
        "SELECT tablename, policyname, permissive, roles::text, cmd, qual, with_check"
        " FROM pg_policies WHERE schemaname = current_schema()"
    ):
        policies.setdefault(str(row[0]), []).append(row[1:])
    owner = catalog.execute("SELECT current_user").fetchone()
    assert owner is not None
    closed = _canonical(catalog, f"tenant_id = {CURRENT_TENANT}")

    for table in tenant_tables(catalog):
        expected = {("tenant_isolation", "PERMISSIVE", "{public}", "ALL", closed, closed)}
        if table in PLATFORM_TABLES:
            null = "(tenant_id IS NULL)"
            expected |= {
                ("platform_rows", "PERMISSIVE", "{public}", "SELECT", null, None),
                (
                    "platform_administration",
                    "PERMISSIVE",
                    f"{{{owner[0]}}}",
                    "ALL",
                    null,
                    null,
                ),
            }
        assert set(policies[table]) == expected, table


def _canonical(catalog: Catalog, condition: str) -> object:
    """A condition as PostgreSQL writes it back."""
    catalog.execute(f"CREATE TEMP TABLE probe (tenant_id uuid, CHECK ({condition}))")
    row = catalog.execute(
        "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conrelid = 'probe'::regclass"
        " AND contype = 'c'"
    ).fetchone()
    catalog.execute("DROP TABLE probe")
    assert row is not None
    return row[0]


def test_tenant_leads_every_unique_index(catalog: Catalog) -> None:
    """A unique key over all tenants tells that another tenant has a value."""
    found = catalog.execute(
        "SELECT t.relname, i.relname, a.attname FROM pg_index AS x"
        " JOIN pg_class AS t ON t.oid = x.indrelid JOIN pg_class AS i ON i.oid = x.indexrelid"
        " LEFT JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = x.indkey[0]"
        " WHERE x.indisunique AND t.relname = ANY(%s)",
        (tenant_tables(catalog),),
    ).fetchall()
    assert len(found) > 90

    # NULL cannot be in a primary key: rows of the platform and of tenants share random UUIDs.
    wrong = [
        row
        for row in found
        if row[2] != "tenant_id" and not (row[0] in PLATFORM_TABLES and row[1] == f"pk_{row[0]}")
    ]

    assert wrong == []


FOREIGN_KEYS = """
SELECT t.relname, f.relname,
    (SELECT array_agg(attname::text ORDER BY n) FROM unnest(c.conkey) WITH ORDINALITY AS k(num, n)
        JOIN pg_attribute ON attrelid = c.conrelid AND attnum = num),
    (SELECT array_agg(attname::text ORDER BY n) FROM unnest(c.confkey) WITH ORDINALITY AS k(num, n)
        JOIN pg_attribute ON attrelid = c.confrelid AND attnum = num),
    EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.conrelid AND tgenabled = 'O'
        AND tgfoid = 'refuse_foreign_platform_row'::regproc
        AND tgname = 'guard_' || (SELECT attname FROM pg_attribute
            WHERE attrelid = c.conrelid AND attnum = c.conkey[1])),
    c.conrelid, c.conkey
FROM pg_constraint AS c
JOIN pg_class AS t ON t.oid = c.conrelid JOIN pg_class AS f ON f.oid = c.confrelid
WHERE c.contype = 'f' AND t.relnamespace = current_schema()::regnamespace
    AND t.relname NOT LIKE 'procrastinate\\_%'
"""


def test_no_foreign_key_reaches_another_tenant(catalog: Catalog) -> None:
    tenant_owned = set(tenant_tables(catalog))
    keys = catalog.execute(FOREIGN_KEYS).fetchall()
    assert len(keys) > 200

    for table, target, columns, referenced, is_guarded, *_ in keys:
        if target in PLATFORM_TABLES:
            assert is_guarded, f"{table}{columns} -> {target} has no guard"
        elif target in tenant_owned:
            place = f"{table}{columns} -> {target}{referenced}"
            assert columns[0] == "tenant_id" and referenced[0] == "tenant_id", place  # type: ignore[index]
        else:
            assert target in GLOBAL_TABLES


def test_every_foreign_key_has_an_index_that_begins_with_the_tenant(catalog: Catalog) -> None:
    tenant_owned = set(tenant_tables(catalog))
    indexes: dict[str, list[list[str]]] = {}
    for table, columns in catalog.execute(
        "SELECT t.relname, (SELECT array_agg(attname::text ORDER BY n)"
        " FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k(num, n)"
        " JOIN pg_attribute ON attrelid = x.indrelid AND attnum = num)"
        " FROM pg_index AS x JOIN pg_class AS t ON t.oid = x.indrelid"
        " WHERE x.indpred IS NULL AND x.indexprs IS NULL"
        " AND t.relnamespace = current_schema()::regnamespace"
    ):
        indexes.setdefault(str(table), []).append(columns)  # type: ignore[arg-type]

    missing = []
    for table, _, columns, *_ in catalog.execute(FOREIGN_KEYS):
        own = [name for name in columns if name != "tenant_id"]  # type: ignore[attr-defined]
        wanted = ["tenant_id", *own] if table in tenant_owned else own
        if not any(index[: len(wanted)] == wanted for index in indexes[str(table)]):
            missing.append((table, wanted))

    assert missing == []


def test_every_tenant_table_belongs_to_a_tenant_that_exists(catalog: Catalog) -> None:
    """By its own key or over its parents; logs and the read model are the named exceptions."""
    logs = {
        "audit_events",
        "phi_access_logs",
        "dicom_transactions",
        "outbox",
        "imaging_changes",
    }
    parents: dict[str, set[str]] = {}
    for table, target, columns, *_ in catalog.execute(FOREIGN_KEYS):
        required = catalog.execute(
            "SELECT bool_and(attnotnull) FROM pg_attribute WHERE attrelid = %s::regclass"
            " AND attname = ANY(%s)",
            (table, columns),
        ).fetchone()
        # tenant_id alone may be NULL for rows of the platform.
        if required == (True,) or (table in PLATFORM_TABLES and columns == ["tenant_id"]):
            parents.setdefault(str(table), set()).add(str(target))

    def reaches_tenant(table: str, seen: frozenset[str] = frozenset()) -> bool:
        nexts = parents.get(table, set()) - seen - GLOBAL_TABLES
        return "tenants" in parents.get(table, set()) or any(
            reaches_tenant(parent, seen | {table}) for parent in nexts
        )

    lost = {
        table
        for table in tenant_tables(catalog)
        if table not in logs and not table.startswith("fhir_") and not reaches_tenant(table)
    }
    assert lost == set()


def test_no_function_runs_with_the_rights_of_its_owner(catalog: Catalog) -> None:
    found = catalog.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
        " AND prosecdef"
    ).fetchall()

    assert found == []


def test_every_view_asks_with_the_rights_of_its_reader(
    catalog: Catalog, strategies: tuple[str, str]
) -> None:
    views = catalog.execute(
        "SELECT relname, relkind, coalesce(reloptions::text, '') FROM pg_class"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('v', 'm')"
    ).fetchall()

    # It is one of a global table, which a schema has not.
    expected = [] if strategies[0] == "SCHEMA" else ["billing_plans"]
    assert [row[0] for row in views] == expected
    assert [row[0] for row in views if row[1] == "m" or "security_invoker=true" not in row[2]] == []  # type: ignore[operator]


def test_the_application_role_can_bypass_nothing(catalog: Catalog) -> None:
    role = catalog.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication, rolcanlogin"
        " FROM pg_roles WHERE rolname = %s",
        (APP_ROLE,),
    ).fetchone()
    owned = catalog.execute(
        "SELECT relname FROM pg_class WHERE relowner = %s::regrole", (APP_ROLE,)
    ).fetchall()
    member_of = catalog.execute(
        "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = %s::regrole", (APP_ROLE,)
    ).fetchall()

    assert role == (False, False, False, False, False, True)
    assert owned == []
    assert member_of == []


def test_the_application_role_has_no_more_than_it_needs(
    catalog: Catalog, strategies: tuple[str, str]
) -> None:
    rights: dict[str, set[str]] = {}
    for table, right in catalog.execute(
        "SELECT relname, privilege_type FROM pg_class, aclexplode(relacl) AS acl"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'v')"
        " AND acl.grantee = %s::regrole",
        (APP_ROLE,),
    ):
        rights.setdefault(str(table), set()).add(str(right))
    everything = {"SELECT", "INSERT", "UPDATE", "DELETE"}

    # Inserting is granted by column: transaction and time of a row are PostgreSQL's to say.
    assert rights["audit_events"] == {"SELECT"}
    assert rights["audit_seals"] == {"SELECT", "INSERT"}
    assert rights["phi_access_logs"] == {"SELECT", "INSERT"}
    assert rights["patients"] == everything
    assert all(found <= everything for found in rights.values())
    if strategies[0] == "SCHEMA":
        assert rights["alembic_version"] == {"SELECT"}
        return
    for table in GLOBAL_TABLES - set(GLOBAL_WRITES):
        assert rights[table] == {"SELECT"}, table


def test_nobody_else_has_any_right(catalog: Catalog) -> None:
    public = catalog.execute(
        "SELECT relname FROM pg_class, aclexplode(relacl) AS acl"
        " WHERE relnamespace = current_schema()::regnamespace AND acl.grantee = 0"
    ).fetchall()
    callable_by_all = catalog.execute(
        "SELECT proname FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS a"
        " WHERE pronamespace = current_schema()::regnamespace AND a.grantee = 0"
    ).fetchall()
    creators = catalog.execute(
        "SELECT 1 FROM pg_namespace, aclexplode(nspacl) AS acl WHERE nspname = current_schema()"
        " AND acl.grantee = 0 AND acl.privilege_type = 'CREATE'"
    ).fetchall()

    assert public == []
    assert callable_by_all == []
    assert creators == []
