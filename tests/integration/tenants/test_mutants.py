"""Each lock between tenants is taken off in turn, and the attack that it stops must then succeed.

An attack that stays without success proves nothing where it could not succeed either way. So each
is tried against the product as it is, and against a mutant of it that lacks one lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from storage.database import Connection, Database
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase
from tests.unit.storage.tenants.conftest import add_member

REFUSED = (
    errors.InsufficientPrivilege,
    errors.ForeignKeyViolation,
    errors.CannotConnectNow,
    errors.RaiseException,
)


@dataclass(frozen=True)
class World:
    """Two tenants of one database, and what the second has that the first is after."""

    database: Database
    mine: Tenant
    theirs: Tenant
    patient: UUID
    role: UUID


@pytest.fixture(scope="module")
def world(database: MigratedDatabase, tenant: Tenant, other_tenant: Tenant) -> World:
    with database.connection(other_tenant.id) as connection:
        patient = _one(
            connection,
            "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'Theirs') RETURNING id",
            other_tenant.id,
        )
        role = _one(
            connection,
            "INSERT INTO roles (tenant_id, code, name) VALUES (%s, 'CLINICIAN', 'X') RETURNING id",
            other_tenant.id,
        )
        connection.execute(
            "INSERT INTO audit_events (tenant_id, actor_type, event_type)"
            " VALUES (%s, 'SYSTEM', 'FHIR_READ')",
            (other_tenant.id,),
        )
    return World(database, tenant, other_tenant, patient, role)


def _one(connection: Connection, query: str, *values: object) -> UUID:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return UUID(str(row[0]))


# -- attacks: each says whether it got what it wanted -----------------------------------------


def sees(world: World) -> bool:
    with world.database.connection(world.mine.id) as connection:
        found = connection.execute("SELECT id FROM patients").fetchall()
    return (world.patient,) in found


def sees_by_function(world: World) -> bool:
    """Through a hot path, which carries the tenant in its statement."""
    with world.database.connection(world.mine.id) as connection:
        found = connection.execute(
            "SELECT * FROM fhir_read(%s, 'Patient', %s, %s)",
            (world.mine.id, str(world.patient), '{"event_type": "X", "actor_type": "SYSTEM"}'),
        ).fetchall()
        connection.rollback()
    return found != []


def writes(world: World) -> bool:
    with world.database.connection(world.mine.id) as connection:
        # Else the trigger that marks FHIR resources would be stopped by their policy.
        connection.execute("SELECT set_config('app.lens', 'on', true)")
        connection.execute(
            "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'Planted')", (world.theirs.id,)
        )
        connection.rollback()
    return True


def refers(world: World) -> bool:
    """A row of ours that points at a patient of theirs."""
    with world.database.connection(world.mine.id) as connection:
        connection.execute(
            "INSERT INTO patient_conditions (tenant_id, patient_id) VALUES (%s, %s)",
            (world.mine.id, world.patient),
        )
        connection.rollback()
    return True


def takes_a_role(world: World) -> bool:
    with world.database.connection(world.mine.id) as connection:
        user = add_member(connection, world.mine.id)
        connection.execute(
            "INSERT INTO user_roles (tenant_id, user_id, role_id) VALUES (%s, %s, %s)",
            (world.mine.id, user, world.role),
        )
        connection.rollback()
    return True


def grants_sideways(world: World) -> bool:
    """A grant on a tenant that does not lie below."""
    with world.database.connection(world.mine.id) as connection:
        user = add_member(connection, world.mine.id)
        connection.execute(
            "INSERT INTO tenant_grants (tenant_id, root_tenant_id, user_id) VALUES (%s, %s, %s)",
            (world.mine.id, world.theirs.id, user),
        )
        connection.rollback()
    return True


def rewrites_the_log(world: World) -> bool:
    with world.database.connection(world.theirs.id) as connection:
        connection.execute("UPDATE audit_events SET event_type = 'NOTHING'")
        connection.rollback()
    return True


def writes_where_nobody_lives(world: World) -> bool:
    """Into the tables that the tenant has left, by a process that does not know."""
    with psycopg.connect(world.database.conninfo) as connection:
        connection.execute("SELECT enter_tenant(%s)", (world.mine.id,))
        connection.execute(
            "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'Lost')", (world.mine.id,)
        )
        connection.rollback()
    return True


# -- mutants ----------------------------------------------------------------------------------


def dropped(trigger: str, table: str) -> tuple[str, str]:
    return (
        f"ALTER TABLE {table} DISABLE TRIGGER {trigger}",
        f"ALTER TABLE {table} ENABLE TRIGGER {trigger}",
    )


OPEN = "ALTER TABLE {0} DISABLE ROW LEVEL SECURITY", "ALTER TABLE {0} ENABLE ROW LEVEL SECURITY"
NO_USING = (
    "ALTER POLICY tenant_isolation ON patients USING (true)",
    "ALTER POLICY tenant_isolation ON patients USING (tenant_id ="
    " nullif(current_setting('app.tenant', true), '')::uuid)",
)
NO_CHECK = (
    "ALTER POLICY tenant_isolation ON patients WITH CHECK (true)",
    "ALTER POLICY tenant_isolation ON patients WITH CHECK (tenant_id ="
    " nullif(current_setting('app.tenant', true), '')::uuid)",
)
PLAIN_KEY = (
    "ALTER TABLE patients ADD CONSTRAINT mutant_id UNIQUE (id);"
    " ALTER TABLE patient_conditions DROP CONSTRAINT fk_patient_conditions_tenant_id_patient_id,"
    " ADD CONSTRAINT mutant_key FOREIGN KEY (patient_id) REFERENCES patients (id)",
    "ALTER TABLE patient_conditions DROP CONSTRAINT mutant_key,"
    " ADD CONSTRAINT fk_patient_conditions_tenant_id_patient_id"
    " FOREIGN KEY (tenant_id, patient_id) REFERENCES patients (tenant_id, id);"
    " ALTER TABLE patients DROP CONSTRAINT mutant_id",
)
LOG = (
    "GRANT UPDATE ON audit_events TO interop_app;"
    " ALTER TABLE audit_events DISABLE TRIGGER keep_rows",
    "REVOKE UPDATE ON audit_events FROM interop_app;"
    " ALTER TABLE audit_events ENABLE TRIGGER keep_rows",
)
LIVES_ELSEWHERE = (
    "UPDATE tenants SET place = '' WHERE slug = 'demo'",
    "UPDATE tenants SET place = 'public' WHERE slug = 'demo'",
)

Change = tuple[str, str]
Attack = Callable[[World], bool]


def without(function: str, condition: str, instead: str) -> Callable[[Connection], Change]:
    """The mutant of a SQL function that lacks one condition."""

    def change(owner: Connection) -> Change:
        row = owner.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s", (function,)
        ).fetchone()
        assert row is not None
        body = str(row[0])
        mutant, count = re.subn(re.escape(condition), instead, body)
        assert count == 1, f"{function} has {condition!r} {count} times"
        return mutant, body

    return change


# (name, what holds already, the lock that goes, the attack)
MUTANTS: list[tuple[str, tuple[Change, ...], Change | Callable[[Connection], Change], Attack]] = [
    ("row security", (), (OPEN[0].format("patients"), OPEN[1].format("patients")), sees),
    ("the policy's USING", (), NO_USING, sees),
    ("the policy's WITH CHECK", (), NO_CHECK, writes),
    (
        "the tenant in the statement",
        ((OPEN[0].format("fhir_resources"), OPEN[1].format("fhir_resources")),),
        without("fhir_read", "r.tenant_id = p_tenant AND ", ""),
        sees_by_function,
    ),
    ("the tenant in the foreign key", (), PLAIN_KEY, refers),
    ("the guard of shared tables", (), dropped("guard_role_id", "user_roles"), takes_a_role),
    (
        "the guard of grants",
        (),
        dropped("refuse_outside_subtree", "tenant_grants"),
        grants_sideways,
    ),
    ("the log's rights and trigger", (), LOG, rewrites_the_log),
    (
        "the fence of places",
        (LIVES_ELSEWHERE,),
        without("enter_tenant", "home <> current_schema()", "false"),
        writes_where_nobody_lives,
    ),
]


@contextmanager
def changed(owner: Connection, change: Change) -> Iterator[None]:
    owner.execute(change[0].encode())
    try:
        yield
    finally:
        owner.execute(change[1].encode())


def succeeds(attack: Attack, world: World) -> bool:
    try:
        return attack(world)
    except REFUSED:
        return False


@pytest.mark.parametrize(
    ("given", "lock", "attack"), [mutant[1:] for mutant in MUTANTS], ids=[m[0] for m in MUTANTS]
)
def test_without_the_lock_the_attack_succeeds_and_with_it_it_does_not(
    world: World,
    database: MigratedDatabase,
    given: tuple[Change, ...],
    lock: Change | Callable[[Connection], Change],
    attack: Attack,
) -> None:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        change = lock(owner) if callable(lock) else lock
        for one in given:
            owner.execute(one[0].encode())
        try:
            assert not succeeds(attack, world)
            with changed(owner, change):
                assert succeeds(attack, world)
            assert not succeeds(attack, world)
        finally:
            for one in given:
                owner.execute(one[1].encode())
