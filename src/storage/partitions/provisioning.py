"""Places for tenants, made and removed; nothing half-made is left behind.

`prepare` makes an empty place, `settle` has the registry lead there, `drop` removes one. A new
tenant gets its place by `create_tenant`, one that moves by `storage.partitions.moving`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import psycopg
from psycopg import errors

from storage.database import Connection, Database
from storage.partitions import databases, schemas
from storage.partitions.mirror import mirror
from storage.places import ELSEWHERE, HERE, url_place
from storage.tenancy import STRATEGIES


class ProvisioningFailed(ValueError):
    """A place could not be made; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A place for one tenant's rows, in the words of the registry.

    `database_url` only where it is not on the platform's server: its owner's login, which becomes
    the application role to serve.
    """

    strategy: str
    place: str
    database_name: str | None = None
    # Not shown: it has a password.
    database_url: str | None = field(default=None, repr=False)

    def owner_url(self, owner: Database) -> str:
        """The URL of the place as its owner; of a schema, that of the database around it."""
        if self.database_url is not None:
            return self.database_url
        if self.database_name is not None:
            return databases.database_url(owner.url, self.database_name)
        return owner.url

    def connect(self, owner: Database) -> Connection:
        """A connection as the owner of the place that finds the tenant's tables by their names."""
        connection = psycopg.connect(self.owner_url(owner))
        if self.strategy == "SCHEMA":
            connection.execute(
                "SELECT set_config('search_path', %s, false)", (f"{self.place}, {HERE}",)
            )
            connection.commit()
        return connection


def prepare(
    owner: Database, tenant_id: UUID, strategy: str, database_url: str | None = None
) -> Destination:
    """Make the empty place; the tenant stays where it is until `settle`.

    Raises ProvisioningFailed and leaves nothing then.
    """
    if strategy not in STRATEGIES:
        raise ProvisioningFailed(f"strategy {strategy!r}: one of {', '.join(STRATEGIES)}")
    if database_url is not None and strategy != "DATABASE":
        raise ProvisioningFailed(f"a database URL is for DATABASE only, not for {strategy}")
    if strategy == "ROW_LEVEL":
        return Destination(strategy, HERE)
    if strategy == "SCHEMA":
        return _prepare_schema(owner, tenant_id)
    return _prepare_database(owner, tenant_id, database_url)


def _prepare_schema(owner: Database, tenant_id: UUID) -> Destination:
    name = schemas.schema_name(tenant_id)
    try:
        with psycopg.connect(owner.url) as connection:
            schemas.create_schema(connection, name)
    except errors.DuplicateSchema as error:
        raise ProvisioningFailed(f"a schema {name} exists already") from error
    except errors.InsufficientPrivilege as error:
        raise ProvisioningFailed(
            "the login of the owner may not make a schema in this database"
            f" (GRANT CREATE ON DATABASE): {error.diag.message_primary}"
        ) from error
    return Destination("SCHEMA", name)


def _prepare_database(owner: Database, tenant_id: UUID, url: str | None) -> Destination:
    try:
        if url is None:
            name = databases.database_name(tenant_id)
            databases.create_database(owner.url, name)
        else:
            name = databases.name_in(url)
            databases.adopt_database(url)
    except databases.DatabaseRefused as error:
        raise ProvisioningFailed(str(error)) from error
    destination = Destination("DATABASE", ELSEWHERE, name, url)
    try:
        with psycopg.connect(owner.url) as platform, destination.connect(owner) as place:
            mirror(platform, place, tenant_id)
    except BaseException:
        drop(owner, destination)
        raise
    return destination


def settle(owner: Database, tenant_id: UUID, destination: Destination) -> None:
    """Have the registry lead to the destination, from its commit on.

    Raises ProvisioningFailed where the platform was migrated since the place was made.
    """
    _require_revision(owner, destination)
    sealed = None
    if destination.database_url is not None:
        sealed = owner.vault.seal(None, url_place(tenant_id), destination.database_url)
    with psycopg.connect(owner.url) as connection:
        connection.execute(
            "UPDATE tenants SET partition_strategy = %s, place = %s, database_name = %s,"
            " database_url_encrypted = %s WHERE id = %s",
            (
                destination.strategy,
                destination.place,
                destination.database_name,
                sealed,
                tenant_id,
            ),
        )


def _require_revision(owner: Database, destination: Destination) -> None:
    query = "SELECT version_num FROM alembic_version"
    with psycopg.connect(owner.url) as platform, destination.connect(owner) as place:
        wanted, found = platform.execute(query).fetchone(), place.execute(query).fetchone()
    if wanted != found:
        raise ProvisioningFailed(
            f"the new place is at revision {found}, the platform meanwhile at {wanted}: try again"
        )


def current(owner: Database, tenant_id: UUID) -> Destination:
    """Where the registry says that the tenant lives. Raises LookupError."""
    with psycopg.connect(owner.url) as connection:
        row = connection.execute(
            "SELECT partition_strategy, place, database_name, database_url_encrypted"
            " FROM tenants WHERE id = %s",
            (tenant_id,),
        ).fetchone()
    if row is None:
        raise LookupError(f"there is no tenant {tenant_id}")
    url = owner.vault.open(None, url_place(tenant_id), row[3]) if row[3] else None
    return Destination(row[0], row[1], row[2], url)


def drop(owner: Database, destination: Destination) -> None:
    """Remove a place with everything in it; that of ROW_LEVEL is everybody's and stays.

    A database that an operator made is emptied, and remains.
    """
    if destination.strategy == "SCHEMA":
        with psycopg.connect(owner.url) as connection:
            schemas.drop_schema(connection, destination.place)
    elif destination.database_url is not None:
        databases.empty_database(destination.database_url)
    elif destination.database_name is not None:
        databases.drop_database(owner.url, destination.database_name)
