"""The database of a DATABASE tenant, and what belongs to the platform in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from storage import migrations
from storage.database import APP_ROLE, Database
from storage.embedded import OWNER_ROLE, SUPERUSER, EmbeddedPostgres
from storage.partitions import databases, mirror, provisioning
from storage.partitions.databases import DatabaseRefused, database_name
from storage.partitions.provisioning import ProvisioningFailed, current, drop
from storage.schema import metadata
from storage.tenancy import Tenant, TenantDirectory
from tests.conftest import MigratedDatabase, start_cluster

Owner = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def apart(owner: Database) -> Tenant:
    """A tenant with a database of its own, between one above it and one below."""
    directory = TenantDirectory(owner)
    above = directory.create("group", ae_title="GROUP")
    made = directory.create("apart", partition_strategy="DATABASE", parent_id=above.id)
    directory.create("branch", parent_id=made.id)
    directory.create("stranger")
    return made


@pytest.fixture
def platform(owner: Database) -> Iterator[Owner]:
    with psycopg.connect(owner.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def place(owner: Database, apart: Tenant) -> Iterator[Owner]:
    """The owner's connection to the tenant's database, bound to the tenant."""
    with current(owner, apart.id).connect(owner) as connection:
        connection.autocommit = True
        connection.execute("SELECT set_config('app.tenant', %s, false)", (str(apart.id),))
        yield connection


def brought(platform: Owner, place: Owner, tenant: Tenant) -> int:
    """Mirror, and require that a second time there is nothing to do."""
    changed = mirror.mirror(platform, place, tenant.id)
    assert mirror.mirror(platform, place, tenant.id) == 0
    return changed


def one(connection: Owner, query: str, *values: object) -> Any:
    row = connection.execute(query.encode(), values).fetchone()
    return None if row is None else row[0]


def shown(connection: Owner, table: str) -> list[tuple[Any, ...]]:
    """The platform's rows of a table, as far as they are mirrored."""
    left_out = {"updated_at", "updated_by", *mirror.LEFT_OUT.get(table, ())}
    columns = [column.name for column in metadata.tables[table].c if column.name not in left_out]
    ours = "tenant_id IS NULL" if table in mirror.SHARED else "true"
    query = f"SELECT {', '.join(columns)} FROM {table} WHERE {ours} ORDER BY id"
    return connection.execute(query.encode()).fetchall()


# -- the database ---------------------------------------------------------------------------------


def test_it_has_the_tenant_and_nobody_elses_rows(
    database: MigratedDatabase, owner: Database, apart: Tenant
) -> None:
    home = current(owner, apart.id)
    assert (home.strategy, home.place, home.database_name) == (
        "DATABASE",
        "-",
        database_name(apart.id),
    )

    with database.connection(apart.id) as connection:
        where = connection.execute(
            "SELECT current_database(), current_schema(), current_user,"
            " (SELECT count(*) FROM tenant_settings), (SELECT count(*) FROM tenants)"
        ).fetchone()

    assert where == (database_name(apart.id), "public", APP_ROLE, 1, 2)


def test_only_the_application_may_connect(
    cluster: EmbeddedPostgres, apart: Tenant, cluster_url: str
) -> None:
    stranger = f"stranger_{uuid4().hex}"
    admin = cluster.url(SUPERUSER, "postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(stranger)))
    try:
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(cluster.url(stranger, database_name(apart.id)))
        psycopg.connect(cluster.url(APP_ROLE, database_name(apart.id))).close()
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(stranger)))


def test_a_login_that_may_not_create_databases_is_told_what_to_do(
    cluster: EmbeddedPostgres, owner: Database
) -> None:
    plain = f"plain_{uuid4().hex}"
    admin = cluster.url(SUPERUSER, "postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(plain)))
    try:
        with pytest.raises(DatabaseRefused, match=f'ALTER ROLE "{plain}" CREATEDB.*--database-url'):
            databases.create_database(make_conninfo(admin, user=plain), "interop_t_none")
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(plain)))


def test_a_database_that_cannot_be_migrated_is_removed(
    owner: Database, platform: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(migrations, "upgrade", fail)

    with pytest.raises(OSError, match="disk"):
        databases.create_database(owner.url, "interop_t_failed")

    assert one(platform, "SELECT 1 FROM pg_database WHERE datname = 'interop_t_failed'") is None


def test_a_managed_login_without_special_rights_makes_places_too(
    cluster: EmbeddedPostgres,
) -> None:
    """Neither superuser nor BYPASSRLS: row-level security holds for this owner."""
    plain, home = f"managed_{uuid4().hex}", f"managed_{uuid4().hex}"
    admin = cluster.url(SUPERUSER, "postgres")
    role, name = sql.Identifier(plain), sql.Identifier(home)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(role))
        connection.execute(sql.SQL("GRANT interop_app TO {} WITH ADMIN OPTION").format(role))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, role))
        url = make_conninfo(admin, user=plain, dbname=home)
        names = [home]
        try:
            migrations.upgrade(url)
            with closing(Database(url)) as owner, closing(Database(url, role=APP_ROLE)) as served:
                directory = TenantDirectory(owner)
                for strategy in ("SCHEMA", "DATABASE"):
                    made = directory.create(strategy.lower(), partition_strategy=strategy)
                    names += [n for n in [current(owner, made.id).database_name] if n]
                    with served.connection(made.id) as bound:
                        found = bound.execute(
                            "SELECT session_user, current_user, count(*) FROM tenant_settings"
                        ).fetchall()
                    assert found == [(plain, APP_ROLE, 1)]
                with psycopg.connect(url) as platform, current(owner, made.id).connect(owner) as to:
                    platform.execute("INSERT INTO roles (code, name) VALUES ('LATER', 'Later')")
                    platform.commit()
                    assert mirror.mirror(platform, to, made.id) == 1
        finally:
            for database in names:
                connection.execute(
                    sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database))
                )
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
            connection.execute(sql.SQL("DROP ROLE {}").format(role))


# -- the mirror -----------------------------------------------------------------------------------


def test_every_mirrored_column_points_at_what_is_mirrored_too() -> None:
    """A foreign key into anything else would refuse the platform's rows."""
    mirrored = {*mirror.CATALOGS, *mirror.SHARED, "tenants"}
    for name in (*mirror.CATALOGS, *mirror.SHARED):
        for key in metadata.tables[name].foreign_key_constraints:
            columns = {column.name for column in key.columns}
            if not columns & mirror.LEFT_OUT.get(name, frozenset()):
                assert key.referred_table.name in mirrored, f"{name}.{columns}"


def test_every_global_table_is_mirrored_or_kept_away_on_purpose() -> None:
    kept_away = {
        "users",
        "user_auth_identities",
        "signing_keys",
        "platform_data_keys",
        "sign_in_throttles",
        "tenant_closure",  # follows tenants by its triggers
        "tenants",  # some of them, below
    }
    scopes: dict[str, set[str]] = {"global": set(), "platform": set(), "tenant": set()}
    for table in metadata.sorted_tables:
        scopes[table.info["scope"]].add(table.name)

    assert scopes["global"] == {*mirror.CATALOGS} | kept_away
    assert scopes["platform"] == {*mirror.SHARED}


def test_catalogs_that_change_later_follow(platform: Owner, place: Owner, apart: Tenant) -> None:
    brought(platform, place, apart)
    system, model, version, role = uuid4(), uuid4(), uuid4(), uuid4()
    platform.execute(
        "INSERT INTO code_systems (id, code, uri, name) VALUES (%s, 'X', 'urn:x', 'X')", (system,)
    )
    platform.cursor().executemany(
        "INSERT INTO code_values (code_system_id, code, display) VALUES (%s, %s, %s)",
        [(system, f"{n}", f"Code {n}") for n in range(2500)],
    )
    platform.execute(
        "INSERT INTO ai_models (id, name, domain, vendor) VALUES (%s, 'later', 'PERIO',"
        " 'INTERNAL')",
        (model,),
    )
    platform.execute(
        "INSERT INTO ai_model_versions (id, model_id, version_tag, artifact_uri, artifact_digest,"
        " thresholds) VALUES (%s, %s, '1', 'file:///x', 'sha256:0', '{\"caries\": 0.10}')",
        (version, model),
    )
    account = uuid4()
    platform.execute(
        "INSERT INTO users (id, email, full_name) VALUES (%s, 'x@example.org', 'X')", (account,)
    )
    platform.execute(
        "INSERT INTO ai_model_deployments (model_version_id, status, created_by_id)"
        " VALUES (%s, 'ROLLED_OUT', %s)",
        (version, account),
    )
    platform.execute(
        "INSERT INTO roles (id, code, name) VALUES (%s, 'HYGIENIST', 'Hygienist')", (role,)
    )
    platform.execute(
        "INSERT INTO role_permissions (role_id, permission_id)"
        " SELECT %s, id FROM permissions WHERE code = 'view_patient'",
        (role,),
    )

    added = brought(platform, place, apart)

    assert added == 1 + 2500 + 1 + 1 + 1 + 1 + 1
    for table in (*mirror.CATALOGS, *mirror.SHARED):
        assert shown(platform, table) == shown(place, table), table
    assert one(place, "SELECT count(*) FROM users") == 0
    assert one(place, "SELECT count(*) FROM signing_keys") == 0
    assert one(place, "SELECT created_by_id FROM ai_model_deployments") is None

    platform.execute("UPDATE code_values SET display = 'Changed' WHERE code = '7'")
    platform.execute("DELETE FROM code_values WHERE code = '8'")
    platform.execute("UPDATE roles SET name = 'Dental hygienist' WHERE id = %s", (role,))
    assert brought(platform, place, apart) == 3
    assert one(place, "SELECT display FROM code_values WHERE code = '7'") == "Changed"
    assert one(place, "SELECT 1 FROM code_values WHERE code = '8'") is None


def test_what_somebody_changed_in_the_copy_is_put_right(
    platform: Owner, place: Owner, apart: Tenant
) -> None:
    brought(platform, place, apart)
    place.execute("UPDATE permissions SET description = 'anything' WHERE code = 'view_patient'")
    place.execute("DELETE FROM role_permissions WHERE tenant_id IS NULL")
    place.execute("INSERT INTO code_systems (code, uri, name) VALUES ('OWN', 'urn:own', 'Own')")

    assert brought(platform, place, apart) > 2

    for table in (*mirror.CATALOGS, *mirror.SHARED):
        assert shown(platform, table) == shown(place, table), table


def test_the_tenants_own_rows_are_never_touched(
    platform: Owner, place: Owner, apart: Tenant
) -> None:
    brought(platform, place, apart)
    own = uuid4()
    place.execute(
        "INSERT INTO roles (id, tenant_id, code, name) VALUES (%s, %s, 'OWN', 'Ours')",
        (own, apart.id),
    )
    # Whoever takes the id of the tenant's row for one of the platform changes nothing there.
    platform.execute("INSERT INTO roles (id, code, name) VALUES (%s, 'THEIRS', 'Theirs')", (own,))
    try:
        mirror.mirror(platform, place, apart.id)

        assert one(place, "SELECT name FROM roles WHERE id = %s", own) == "Ours"
    finally:
        platform.execute("DELETE FROM roles WHERE id = %s", (own,))
        place.execute("DELETE FROM roles WHERE id = %s", (own,))


def test_what_vanished_but_is_in_use_stays_without_effect(
    platform: Owner, place: Owner, apart: Tenant
) -> None:
    role, model, rule, version, deployment = (uuid4() for _ in range(5))
    platform.execute("INSERT INTO roles (id, code, name) VALUES (%s, 'GONE', 'Gone')", (role,))
    platform.execute(
        "INSERT INTO role_permissions (role_id, permission_id) SELECT %s, id FROM permissions",
        (role,),
    )
    platform.execute(
        "INSERT INTO ai_models (id, name, domain, vendor) VALUES (%s, 'gone', 'CARIES',"
        " 'INTERNAL')",
        (model,),
    )
    platform.execute(
        "INSERT INTO ai_model_versions (id, model_id, version_tag, artifact_uri, artifact_digest)"
        " VALUES (%s, %s, '1', 'file:///x', 'sha256:0')",
        (version, model),
    )
    platform.execute(
        "INSERT INTO ai_model_deployments (id, model_version_id, status)"
        " VALUES (%s, %s, 'ROLLED_OUT')",
        (deployment, version),
    )
    platform.execute(
        "INSERT INTO ai_routing_rules (id, name, predicate, model_id, enabled)"
        " VALUES (%s, 'gone', '{}', %s, true)",
        (rule, model),
    )
    brought(platform, place, apart)
    person = uuid4()
    place.execute(
        "INSERT INTO users (id, email, full_name) VALUES (%s, 'p@example.org', 'P')", (person,)
    )
    place.execute(
        "INSERT INTO user_tenants (tenant_id, user_id, user_type) VALUES (%s, %s, 'HYGIENIST')",
        (apart.id, person),
    )
    place.execute(
        "INSERT INTO user_roles (tenant_id, user_id, role_id) VALUES (%s, %s, %s)",
        (apart.id, person, role),
    )
    place.execute(
        "INSERT INTO ai_inference_jobs (tenant_id, model_version_id, deployment_id, input_type,"
        " idempotency_key) VALUES (%s, %s, %s, 'IMAGING_STUDY', 'x')",
        (apart.id, version, deployment),
    )
    patient = one(
        place,
        "INSERT INTO patients (tenant_id, last_name, first_name, dob, sex_at_birth)"
        " VALUES (%s, 'X', 'X', '1980-01-01', 'FEMALE') RETURNING id",
        apart.id,
    )
    place.execute(
        "WITH study AS (INSERT INTO imaging_studies (tenant_id, patient_id, study_uid, modality)"
        " VALUES (%(tenant)s, %(patient)s, '1.2.3', 'OTHER') RETURNING id)"
        " INSERT INTO ai_routing_decisions (tenant_id, study_id, generation, rule_id, decision)"
        " SELECT %(tenant)s, id, 1, %(rule)s, 'RUN' FROM study",
        {"tenant": apart.id, "patient": patient, "rule": rule},
    )
    for table in ("ai_routing_rules", "ai_model_deployments", "ai_model_versions", "ai_models"):
        platform.execute(
            sql.SQL("DELETE FROM {} WHERE id = ANY (%s)").format(sql.Identifier(table)),
            ([rule, deployment, version, model],),
        )
    platform.execute("DELETE FROM role_permissions WHERE role_id = %s", (role,))
    platform.execute("DELETE FROM roles WHERE id = %s", (role,))

    brought(platform, place, apart)

    assert one(place, "SELECT count(*) FROM role_permissions WHERE role_id = %s", role) == 0
    assert one(place, "SELECT role_id FROM user_roles WHERE user_id = %s", person) == role
    assert one(place, "SELECT status FROM ai_model_deployments WHERE id = %s", deployment) == (
        "DISABLED"
    )
    assert one(place, "SELECT count(*) FROM ai_models WHERE id = %s", model) == 1
    assert one(place, "SELECT coalesce(bool_or(enabled), false) FROM ai_routing_rules") is False


# -- tenants in the mirror ------------------------------------------------------------------------


def tree(place: Owner) -> dict[str, tuple[str, str | None]]:
    """Of each tenant by slug: where it lives as far as this database knows, and its parent."""
    return {
        slug: (where, parent)
        for slug, where, parent in place.execute(
            "SELECT t.slug, t.place, p.slug FROM tenants AS t"
            " LEFT JOIN tenants AS p ON p.id = t.parent_tenant_id"
        ).fetchall()
    }


def closure(connection: Owner, ids: list[UUID]) -> set[tuple[Any, ...]]:
    return set(
        connection.execute(
            "SELECT ancestor_id, descendant_id, depth FROM tenant_closure"
            " WHERE ancestor_id = ANY (%s) AND descendant_id = ANY (%s)",
            (ids, ids),
        ).fetchall()
    )


def test_only_the_near_tenants_are_there(platform: Owner, place: Owner, apart: Tenant) -> None:
    brought(platform, place, apart)

    assert tree(place) == {
        "group": ("-", None),
        "apart": ("public", "group"),
        "branch": ("-", "apart"),
    }
    assert one(place, "SELECT count(*) FROM tenants WHERE database_url_encrypted IS NOT NULL") == 0
    assert one(place, "SELECT count(*) FROM tenants WHERE database_name <> ''") == 0
    ids = [row[0] for row in place.execute("SELECT id FROM tenants").fetchall()]
    assert closure(place, ids) == closure(platform, ids)


def test_a_tenant_that_lives_elsewhere_is_turned_away(
    platform: Owner, place: Owner, apart: Tenant
) -> None:
    brought(platform, place, apart)
    group = one(place, "SELECT id FROM tenants WHERE slug = 'group'")

    with pytest.raises(psycopg.errors.CannotConnectNow):
        place.execute("SELECT enter_tenant(%s)", (group,))


def test_state_and_tree_follow(platform: Owner, place: Owner, apart: Tenant) -> None:
    brought(platform, place, apart)
    directory_ids = dict(platform.execute("SELECT slug, id FROM tenants").fetchall())
    branch, stranger = directory_ids["branch"], directory_ids["stranger"]
    place.execute(
        "INSERT INTO roles (tenant_id, code, name) VALUES (%s, 'GRANTED', 'Granted')", (apart.id,)
    )
    place.execute(
        "INSERT INTO tenant_grants (tenant_id, root_tenant_id, role_id)"
        " SELECT %s, %s, id FROM roles WHERE code = 'GRANTED'",
        (apart.id, branch),
    )
    platform.execute(
        "UPDATE tenants SET status = 'SUSPENDED', ae_title = 'MINE', name = 'New name'"
        " WHERE id = %s",
        (apart.id,),
    )
    # It leaves, another comes below it and takes its name.
    platform.execute(
        "UPDATE tenants SET parent_tenant_id = NULL, slug = 'left' WHERE id = %s", (branch,)
    )
    platform.execute(
        "UPDATE tenants SET parent_tenant_id = %s, slug = 'branch' WHERE id = %s",
        (apart.id, stranger),
    )
    try:
        assert brought(platform, place, apart) >= 3

        found = tree(place)
        assert found["branch"] == ("-", "apart")
        assert one(place, "SELECT id FROM tenants WHERE slug = 'branch'") == stranger
        # A grant names the one that left: it is known, outside the tree.
        assert found["left"] == ("-", None)
        assert one(place, "SELECT status FROM tenants WHERE id = %s", apart.id) == "SUSPENDED"
        assert one(place, "SELECT ae_title FROM tenants WHERE id = %s", apart.id) == "MINE"
        ids = [apart.id, branch, stranger, directory_ids["group"]]
        assert closure(place, ids) == closure(platform, ids)

        place.execute("DELETE FROM tenant_grants")
        brought(platform, place, apart)
        assert "left" not in tree(place)
    finally:
        for query, values in (
            ("UPDATE tenants SET status = 'ACTIVE' WHERE id = %s", (apart.id,)),
            (
                "UPDATE tenants SET parent_tenant_id = NULL, slug = 'stranger' WHERE id = %s",
                (stranger,),
            ),
            (
                "UPDATE tenants SET parent_tenant_id = %s, slug = 'branch' WHERE id = %s",
                (apart.id, branch),
            ),
        ):
            platform.execute(query.encode(), values)


def test_a_tenant_that_is_no_more_but_is_named_has_no_name(
    platform: Owner, place: Owner, apart: Tenant
) -> None:
    gone = one(
        platform,
        "INSERT INTO tenants (slug, name, ae_title, parent_tenant_id)"
        " VALUES ('gone', 'Gone', 'GONE', %s) RETURNING id",
        apart.id,
    )
    brought(platform, place, apart)
    place.execute(
        "INSERT INTO roles (tenant_id, code, name) VALUES (%s, 'NAMED', 'Named')", (apart.id,)
    )
    place.execute(
        "INSERT INTO tenant_grants (tenant_id, root_tenant_id, role_id)"
        " SELECT %s, %s, id FROM roles WHERE code = 'NAMED'",
        (apart.id, gone),
    )
    platform.execute("DELETE FROM tenants WHERE id = %s", (gone,))

    brought(platform, place, apart)

    assert tree(place)[gone.hex] == ("-", None)
    assert one(place, "SELECT status FROM tenants WHERE id = %s", gone) == "CLOSED"
    assert one(place, "SELECT ae_title FROM tenants WHERE id = %s", gone) is None
    place.execute("DELETE FROM tenant_grants")
    brought(platform, place, apart)
    assert gone.hex not in tree(place)


def test_two_that_change_places_in_the_tree_do_so_in_the_copy(
    platform: Owner, place: Owner, apart: Tenant
) -> None:
    brought(platform, place, apart)
    group, branch = (
        one(platform, "SELECT id FROM tenants WHERE slug = %s", slug)
        for slug in ("group", "branch")
    )
    steps = [(None, apart.id), (None, branch), (apart.id, group), (branch, apart.id)]
    for parent, child in steps:
        platform.execute("UPDATE tenants SET parent_tenant_id = %s WHERE id = %s", (parent, child))
    try:
        brought(platform, place, apart)

        assert tree(place) == {
            "branch": ("-", None),
            "apart": ("public", "branch"),
            "group": ("-", "apart"),
        }
        ids = [group, branch, apart.id]
        assert closure(place, ids) == closure(platform, ids)
    finally:
        for parent, child in [
            (None, group),
            (None, apart.id),
            (group, apart.id),
            (apart.id, branch),
        ]:
            platform.execute(
                "UPDATE tenants SET parent_tenant_id = %s WHERE id = %s", (parent, child)
            )
        brought(platform, place, apart)


def test_payers_are_known_everywhere(platform: Owner, place: Owner, apart: Tenant) -> None:
    platform.execute("INSERT INTO tenants (slug, name, type) VALUES ('payer', 'Payer', 'PAYER')")

    brought(platform, place, apart)

    assert tree(place)["payer"] == ("-", None)
    platform.execute("DELETE FROM tenants WHERE slug = 'payer'")
    brought(platform, place, apart)
    assert "payer" not in tree(place)


# -- another server -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server of an operator, which is not the platform's."""
    server = start_cluster(tmp_path_factory.mktemp("other") / "server")
    yield server
    server.stop()


def made_there(server: EmbeddedPostgres, name: str) -> str:
    with psycopg.connect(server.url(OWNER_ROLE, "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server.url(OWNER_ROLE, name)


def test_an_empty_database_on_another_server_is_adopted(
    database: MigratedDatabase, owner: Database, platform: Owner, other_server: EmbeddedPostgres
) -> None:
    url = made_there(other_server, "adopted")

    made = TenantDirectory(owner).create("far", partition_strategy="DATABASE", database_url=url)

    sealed = one(platform, "SELECT database_url_encrypted FROM tenants WHERE id = %s", made.id)
    assert sealed.startswith("sealed:") and "adopted" not in sealed
    assert "adopted?" not in repr(current(owner, made.id))
    # As the server does it: one login, which becomes the application.
    with closing(Database(database.url, role=APP_ROLE)) as served:
        served.vault = database.vault
        with served.connection(made.id) as connection:
            where = connection.execute(
                "SELECT current_database(), current_user, session_user,"
                " (SELECT count(*) FROM tenant_settings)"
            ).fetchone()
    assert where == ("adopted", APP_ROLE, OWNER_ROLE, 1)
    with psycopg.connect(url) as connection:
        assert mirror.mirror(platform, connection, made.id) == 0


def test_a_database_with_anything_in_it_is_refused(
    owner: Database, platform: Owner, other_server: EmbeddedPostgres
) -> None:
    url = made_there(other_server, "used")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE theirs (id int)")

    with pytest.raises(ProvisioningFailed, match="not empty: it has TABLE theirs"):
        TenantDirectory(owner).create("refused", partition_strategy="DATABASE", database_url=url)

    assert one(platform, "SELECT 1 FROM tenants WHERE slug = 'refused'") is None
    with psycopg.connect(url) as connection:
        assert one(connection, "SELECT count(*) FROM theirs") == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://nobody@127.0.0.1:1/x", "cannot be reached"),
        ("postgresql://nobody@127.0.0.1:1", "names no database"),
        ("this is no URL", "cannot be read"),
    ],
)
def test_a_database_that_cannot_be_reached_is_refused(
    owner: Database, platform: Owner, url: str, said: str
) -> None:
    with pytest.raises(ProvisioningFailed, match=said):
        TenantDirectory(owner).create("nowhere", partition_strategy="DATABASE", database_url=url)

    assert one(platform, "SELECT 1 FROM tenants WHERE slug = 'nowhere'") is None


def test_what_a_crash_left_on_another_server_is_removed_by_the_next_create(
    owner: Database,
    platform: Owner,
    other_server: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from storage.partitions import creation

    url = made_there(other_server, "crashed")

    def die(*arguments: Any) -> None:
        provisioning.prepare(*arguments)
        raise SystemExit

    with monkeypatch.context() as crash:
        crash.setattr(creation, "prepare", die)
        crash.setattr(creation, "_unregister", lambda *_: None)
        with pytest.raises(SystemExit):
            TenantDirectory(owner).create("cut", partition_strategy="DATABASE", database_url=url)
    with psycopg.connect(url) as connection:
        assert one(connection, "SELECT to_regclass('patients')") is not None

    made = TenantDirectory(owner).create("cut", partition_strategy="DATABASE", database_url=url)

    assert current(owner, made.id).database_name == "crashed"


def test_a_dropped_place_is_empty_and_its_operators(
    owner: Database, other_server: EmbeddedPostgres
) -> None:
    url = made_there(other_server, "left")
    made = TenantDirectory(owner).create("leaves", partition_strategy="DATABASE", database_url=url)

    drop(owner, current(owner, made.id))

    databases.require_empty(url)
    databases.adopt_database(url)


def test_a_place_on_another_server_is_no_place_for_a_schema(
    owner: Database, tmp_path: Path
) -> None:
    with pytest.raises(ProvisioningFailed, match="for DATABASE only"):
        TenantDirectory(owner).create("odd", partition_strategy="SCHEMA", database_url="x")
