"""G3 of security.md: whoever changes the log with the rights of its owner is found out, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from storage.audit import INSERT_AUDIT, system_audit
from storage.audit_chain import AuditKey
from storage.audit_seals import anchor, seal
from storage.audit_verification import Verification, verify
from storage.database import Database
from storage.encryption import MasterKey
from storage.objects import ObjectStore
from storage.tenancy import Tenant, TenantDirectory
from tests.audit_horizon import seal_settled

KEY = AuditKey(MasterKey(bytes(32)))
Owner = psycopg.Connection[Any]


@pytest.fixture
def chained(database: Database) -> Tenant:
    """A tenant with three seals over nine rows, each row with a patient."""
    slug = f"t{uuid4().hex[:12]}"
    tenant = TenantDirectory(database).create(slug)
    for _ in range(3):
        for _ in range(3):
            write(database, tenant)
        assert seal_settled(database, tenant.id, KEY) == 3
    return tenant


@pytest.fixture
def tampering(owner_url: str) -> Callable[[Tenant], Any]:
    """A transaction with the owner's rights and without the triggers, for one tenant."""

    @contextmanager
    def open_one(tenant: Tenant) -> Iterator[Owner]:
        with psycopg.connect(owner_url) as connection:
            connection.execute("SELECT set_config('app.tenant', %s, true)", (str(tenant.id),))
            for table in ("audit_events", "phi_access_logs", "audit_seals"):
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            yield connection
            for table in ("audit_events", "phi_access_logs", "audit_seals"):
                connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")

    return open_one


def write(database: Database, tenant: Tenant, **changes: Any) -> None:
    audit = system_audit(
        tenant.id, "FHIR_READ", "Patient", str(uuid4()), patient_id=uuid4(), **changes
    )
    with database.connection(tenant.id) as connection:
        connection.execute(INSERT_AUDIT, audit)


def ids(owner: Owner, tenant: Tenant) -> list[UUID]:
    """All rows in the order of the chain."""
    rows = owner.execute(
        "SELECT id FROM audit_events WHERE tenant_id = %s ORDER BY transaction_id, id", (tenant.id,)
    )
    return [row[0] for row in rows]


def checked(database: Database, tenant: Tenant, objects: ObjectStore | None = None) -> Verification:
    return verify(database, tenant.id, KEY, objects)


def problem(report: Verification) -> str:
    assert report.problem is not None
    return report.problem.message


def test_g3_an_untouched_chain_verifies(database: Database, chained: Tenant) -> None:
    write(database, chained)

    report = checked(database, chained)

    assert report.problem is None
    assert (report.seals, report.rows, report.unsealed_rows) == (3, 9, 1)


@pytest.mark.parametrize(
    "change",
    [
        "outcome = 'FAILURE'",
        "user_id = gen_random_uuid()",
        "timestamp = timestamp + interval '1 microsecond'",
        "metadata = '{\"a\": 1}'",
        "patient_id = NULL",
        "ip_address = '10.0.0.1'",
        "event_type = 'FHIR_SEARCH'",
    ],
)
def test_g3_an_edited_row_is_named(
    database: Database, chained: Tenant, tampering: Callable[..., Any], change: str
) -> None:
    with tampering(chained) as owner:
        victim = ids(owner, chained)[4]
        owner.execute(f"UPDATE audit_events SET {change} WHERE id = %s", (victim,))

    report = checked(database, chained)

    assert f"row {victim}" in problem(report) and "was changed after seal 2" in problem(report)
    assert report.problem is not None and report.problem.row_id == victim


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE phi_access_logs SET patient_id = gen_random_uuid() WHERE audit_event_id = %s",
        "UPDATE phi_access_logs SET is_break_glass = true WHERE audit_event_id = %s",
        "DELETE FROM phi_access_logs WHERE audit_event_id = %s",
    ],
)
def test_g3_an_edited_access_row_names_its_event(
    database: Database, chained: Tenant, tampering: Callable[..., Any], statement: str
) -> None:
    with tampering(chained) as owner:
        victim = ids(owner, chained)[7]
        owner.execute(statement, (victim,))

    assert f"row {victim}" in problem(checked(database, chained))


def test_g3_a_deleted_row_is_named(
    database: Database, chained: Tenant, tampering: Callable[..., Any]
) -> None:
    with tampering(chained) as owner:
        victim = ids(owner, chained)[3]
        owner.execute("DELETE FROM audit_events WHERE id = %s", (victim,))

    assert problem(checked(database, chained)) == f"row {victim} of seal 2 was deleted"


def test_g3_a_reordered_pair_is_named(
    database: Database, chained: Tenant, tampering: Callable[..., Any]
) -> None:
    with tampering(chained) as owner:
        first, second = ids(owner, chained)[3:5]
        swap = (
            "UPDATE audit_events AS e SET transaction_id = o.transaction_id FROM audit_events AS o"
            " WHERE (e.id, o.id) IN ((%(a)s, %(b)s), (%(b)s, %(a)s))"
        )
        owner.execute(swap, {"a": first, "b": second})

    assert "is not in its place" in problem(checked(database, chained))


def test_g3_a_truncated_log_is_noticed_at_its_first_row(
    database: Database, chained: Tenant, tampering: Callable[..., Any]
) -> None:
    with tampering(chained) as owner:
        first = ids(owner, chained)[0]
        owner.execute("DELETE FROM audit_events WHERE tenant_id = %s", (chained.id,))

    assert problem(checked(database, chained)) == f"row {first} of seal 1 was deleted"


def test_g3_a_row_inserted_behind_a_seal_is_named(
    database: Database, chained: Tenant, tampering: Callable[..., Any]
) -> None:
    with tampering(chained) as owner:
        neighbour = ids(owner, chained)[4]
        forged = owner.execute(
            "INSERT INTO audit_events (tenant_id, transaction_id, actor_type, event_type)"
            " SELECT tenant_id, transaction_id, 'SYSTEM', 'FHIR_READ' FROM audit_events"
            " WHERE id = %s RETURNING id",
            (neighbour,),
        ).fetchone()
        assert forged is not None

    message = problem(checked(database, chained))
    assert message == f"row {forged[0]} was inserted behind seal 2"


def test_g3_a_row_of_a_transaction_to_come_is_named(
    database: Database, chained: Tenant, tampering: Callable[..., Any]
) -> None:
    """Such a row would never come under a horizon, and so never under a seal."""
    with tampering(chained) as owner:
        owner.execute(
            "INSERT INTO audit_events (tenant_id, transaction_id, actor_type, event_type)"
            " VALUES (%s, '9000000000000000', 'SYSTEM', 'FHIR_READ')",
            (chained.id,),
        )

    assert "names a transaction that has not happened" in problem(checked(database, chained))


def test_g3_an_access_row_without_an_event_is_named(
    database: Database, chained: Tenant, tampering: Callable[..., Any]
) -> None:
    event = uuid4()
    with tampering(chained) as owner:
        owner.execute(
            "INSERT INTO phi_access_logs (tenant_id, audit_event_id, patient_id, action)"
            " VALUES (%s, %s, gen_random_uuid(), 'READ')",
            (chained.id, event),
        )

    assert str(event) in problem(checked(database, chained))


@pytest.mark.parametrize("sequence", [1, 2])
def test_g3_a_removed_seal_is_named(
    database: Database, chained: Tenant, tampering: Callable[..., Any], sequence: int
) -> None:
    with tampering(chained) as owner:
        owner.execute(
            "DELETE FROM audit_seals WHERE tenant_id = %s AND sequence = %s",
            (chained.id, sequence),
        )

    assert problem(checked(database, chained)) == f"seal {sequence} is missing"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("row_count = 2", "seal 2 was changed"),
        ("next_transaction = next_transaction + 1", "seal 2 was changed"),
        ("entries = substr(entries, 49)", "the entries of seal 2 were changed"),
        ("signature = decode(repeat('00', 32), 'hex')", "seal 2 is not signed by this"),
    ],
)
def test_g3_a_changed_seal_is_named(
    database: Database, chained: Tenant, tampering: Callable[..., Any], change: str, found: str
) -> None:
    with tampering(chained) as owner:
        owner.execute(
            f"UPDATE audit_seals SET {change} WHERE tenant_id = %s AND sequence = 2", (chained.id,)
        )

    assert found in problem(checked(database, chained))


def test_g3_a_chain_made_anew_without_the_key_is_found_out(
    database: Database, chained: Tenant, tampering: Callable[..., Any]
) -> None:
    with tampering(chained) as owner:
        owner.execute("DELETE FROM audit_events WHERE id = %s", (ids(owner, chained)[0],))
        owner.execute("DELETE FROM audit_seals WHERE tenant_id = %s", (chained.id,))
    seal_settled(database, chained.id, AuditKey(MasterKey(bytes([7]) * 32)))

    assert "which is not this installation's" in problem(checked(database, chained))


def test_g3_the_daily_anchor_remembers_a_tail_that_was_cut_off(
    database: Database,
    chained: Tenant,
    tampering: Callable[..., Any],
    object_store: ObjectStore,
) -> None:
    written = anchor(database, object_store, chained.id, KEY)
    assert written is not None and written.sequence == 3
    assert anchor(database, object_store, chained.id, KEY) is None, "a day's anchor is written once"
    assert checked(database, chained, object_store).anchors == 1

    with tampering(chained) as owner:
        tail = ids(owner, chained)[6:]
        owner.execute("DELETE FROM audit_events WHERE id = ANY (%s)", (tail,))
        owner.execute("DELETE FROM phi_access_logs WHERE audit_event_id = ANY (%s)", (tail,))
        owner.execute(
            "DELETE FROM audit_seals WHERE tenant_id = %s AND sequence = 3", (chained.id,)
        )

    assert checked(database, chained).problem is None, "the database alone has forgotten it"
    assert "seal 3, anchored on" in problem(checked(database, chained, object_store))


def test_g3_a_rotated_key_vouches_for_the_seals_of_the_former_one(
    database: Database, chained: Tenant
) -> None:
    rotated = AuditKey(MasterKey(bytes([9]) * 32))
    write(database, chained)
    seal_settled(database, chained.id, rotated)

    assert verify(database, chained.id, rotated, None).problem is None


def test_g3_no_slow_transaction_slips_in_behind_a_seal(database: Database) -> None:
    """Rows of transactions that commit in any order are each sealed once and verify."""
    tenant = TenantDirectory(database).create(f"t{uuid4().hex[:12]}")
    began, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with database.connection(tenant.id) as connection:
            connection.execute(INSERT_AUDIT, system_audit(tenant.id, "FHIR_CREATE", "Patient", "a"))
            began.set()
            assert go_on.wait(20)
            with connection.transaction():  # a subtransaction has a number of its own
                connection.execute(
                    INSERT_AUDIT, system_audit(tenant.id, "FHIR_CREATE", "Patient", "b")
                )

    thread = threading.Thread(target=slow)
    thread.start()
    assert began.wait(20)
    for _ in range(5):
        write(database, tenant)

    assert seal(database, tenant.id, KEY) == 0, "nothing may be sealed above the slow one"
    assert checked(database, tenant).unsealed_rows == 5

    go_on.set()
    thread.join(20)
    write(database, tenant)
    assert seal_settled(database, tenant.id, KEY) == 8
    assert checked(database, tenant).problem is None


def test_g3_racing_writers_and_sealers_leave_one_chain(database: Database) -> None:
    tenant = TenantDirectory(database).create(f"t{uuid4().hex[:12]}")
    stop = threading.Event()
    sealed: list[int] = []

    def sealer() -> None:
        while not stop.is_set():
            sealed.append(seal(database, tenant.id, KEY, limit=7))

    def writer() -> None:
        for number in range(25):
            with database.connection(tenant.id) as connection:
                for _ in range(number % 4 + 1):
                    connection.execute(
                        INSERT_AUDIT, system_audit(tenant.id, "FHIR_READ", patient_id=uuid4())
                    )
                if number % 5 == 4:
                    connection.rollback()

    threads = [threading.Thread(target=writer) for _ in range(4)]
    sealers = [threading.Thread(target=sealer) for _ in range(2)]
    for thread in (*threads, *sealers):
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    for thread in sealers:
        thread.join(60)
    sealed.append(seal_settled(database, tenant.id, KEY))

    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT count(*) FROM audit_events WHERE tenant_id = %s", (tenant.id,)
        ).fetchone()
    report = checked(database, tenant)
    assert report.problem is None
    assert row is not None and report.rows == sum(sealed) == row[0]


def test_g3_the_application_cannot_say_itself_when_a_row_was_written(
    database: Database, tenant: Tenant
) -> None:
    for column, value in (("transaction_id", "'5'"), ("timestamp", "now() - interval '1 year'")):
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            database.connection(tenant.id) as connection,
        ):
            connection.execute(
                f"INSERT INTO audit_events (tenant_id, actor_type, event_type, {column})"
                f" VALUES (%s, 'SYSTEM', 'FHIR_READ', {value})",
                (tenant.id,),
            )


@pytest.mark.parametrize("table", ["audit_events", "phi_access_logs", "audit_seals"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET {} = {}"])
def test_g3_triggers_refuse_the_owner_too(
    chained: Tenant, owner_url: str, table: str, statement: str
) -> None:
    column = {"audit_events": "outcome", "phi_access_logs": "action", "audit_seals": "kind"}[table]

    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"),
        psycopg.connect(owner_url) as connection,
    ):
        connection.execute("SELECT set_config('app.tenant', %s, true)", (str(chained.id),))
        connection.execute(statement.format(table, column, column))
