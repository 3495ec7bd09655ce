"""G1 of security.md: the log is kept six years, and goes only by seals that say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from storage.audit import INSERT_AUDIT, system_audit
from storage.audit_chain import AuditKey
from storage.audit_pruning import prune
from storage.audit_verification import verify
from storage.database import Database
from storage.encryption import MasterKey
from storage.tenancy import Tenant, TenantDirectory
from tests.audit_horizon import seal_settled

KEY = AuditKey(MasterKey(bytes(32)))


@pytest.fixture(scope="module")
def owner(owner_url: str) -> Iterator[Database]:
    made = Database(owner_url)
    yield made
    made.close()


@pytest.fixture
def aged(database: Database) -> Tenant:
    return TenantDirectory(database).create(f"t{uuid4().hex[:12]}")


def write(owner: Database, tenant: Tenant, years: float, patient: UUID | None = None) -> None:
    """One row of so many years ago, as only the owner could make it, sealed."""
    with owner.connection(tenant.id) as connection:
        connection.execute(
            INSERT_AUDIT,
            system_audit(tenant.id, "FHIR_READ", "Patient", "x", patient_id=patient or uuid4()),
        )
        connection.execute("ALTER TABLE audit_events DISABLE TRIGGER USER")
        connection.execute(
            "UPDATE audit_events SET timestamp = now() - make_interval(days => %s)"
            " WHERE tenant_id = %s AND transaction_id = pg_current_xact_id()",
            (int(years * 365.25), tenant.id),
        )
        connection.execute("ALTER TABLE audit_events ENABLE TRIGGER USER")
    assert seal_settled(owner, tenant.id, KEY) == 1


def execute(owner: Database, tenant: Tenant, statement: str, *values: Any) -> list[Any]:
    with owner.connection(tenant.id) as connection:
        cursor = connection.execute(statement, (tenant.id, *values))
        return cursor.fetchall() if cursor.description else []


def test_g1_rows_go_after_six_years_and_a_seal_says_so(owner: Database, aged: Tenant) -> None:
    for years in (7, 6.5, 5.9, 0.1):
        write(owner, aged, years)

    report = prune(owner, aged.id, KEY)

    assert (report.rows, report.seals) == (2, 2)
    left = execute(owner, aged, "SELECT 1 FROM phi_access_logs WHERE tenant_id = %s")
    assert len(left) == 2, "accesses go with their events"
    seal_settled(owner, aged.id, KEY)
    verified = verify(owner, aged.id, KEY, None)
    assert verified.problem is None
    assert verified.pruned_rows == 2
    said = execute(
        owner,
        aged,
        "SELECT first_sequence, last_sequence, row_count FROM audit_seals"
        " WHERE tenant_id = %s AND kind = 'PRUNED'",
    )
    assert said == [(1, 2, 2)]
    assert prune(owner, aged.id, KEY).rows == 0


def test_g1_a_policy_of_the_tenant_decides(owner: Database, aged: Tenant) -> None:
    write(owner, aged, 7)
    execute(
        owner,
        aged,
        "INSERT INTO data_retention_policies (tenant_id, data_class, min_years, max_years,"
        " archival_strategy) VALUES (%s, 'LOGS', 6, 10, 'DELETE')",
    )
    assert prune(owner, aged.id, KEY).rows == 0

    execute(owner, aged, "UPDATE data_retention_policies SET max_years = 6 WHERE tenant_id = %s")
    assert prune(owner, aged.id, KEY).rows == 1


def test_g1_a_policy_to_keep_keeps_for_ever(owner: Database, aged: Tenant) -> None:
    write(owner, aged, 60)
    execute(
        owner,
        aged,
        "INSERT INTO data_retention_policies (tenant_id, data_class, min_years)"
        " VALUES (%s, 'LOGS', 6)",
    )

    assert prune(owner, aged.id, KEY).rows == 0


@pytest.mark.parametrize("entity_type", ["TENANT", "PATIENT"])
def test_g1_nothing_goes_under_a_legal_hold(
    owner: Database, aged: Tenant, entity_type: str
) -> None:
    patient = uuid4()
    write(owner, aged, 8)
    write(owner, aged, 7, patient)
    execute(
        owner,
        aged,
        "INSERT INTO legal_holds (tenant_id, entity_type, entity_id, reason)"
        " VALUES (%s, %s, %s, 'lawsuit')",
        entity_type,
        patient,
    )

    report = prune(owner, aged.id, KEY)

    kept = 2 if entity_type == "TENANT" else 1
    assert (report.held_seals, report.rows) == (kept, 2 - kept)
    execute(owner, aged, "UPDATE legal_holds SET released_at = now() WHERE tenant_id = %s")
    assert prune(owner, aged.id, KEY).rows == kept


def test_g1_a_seal_that_announces_too_early_is_refused(owner: Database, aged: Tenant) -> None:
    write(owner, aged, 5)

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="the log is kept for 6 years"):
        execute(
            owner,
            aged,
            "INSERT INTO audit_seals (tenant_id, sequence, kind, first_transaction,"
            " next_transaction, first_sequence, last_sequence, row_count, oldest_at, newest_at,"
            " rows_digest, previous_digest, seal_digest, signature, signed_by, sealed_at)"
            " SELECT tenant_id, 2, 'PRUNED', 0, next_transaction, 1, 1, 1, oldest_at,"
            " now() - interval '9 years', rows_digest, seal_digest, seal_digest, signature,"
            " signed_by, now() FROM audit_seals WHERE tenant_id = %s",
        )
