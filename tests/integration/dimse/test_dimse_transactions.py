"""The transaction log is written in the background, and its faults disturb nobody."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from interop.dimse.transactions import AuditRow, Transaction, TransactionRecorder
from storage.audit import system_audit
from storage.database import Database


def transaction(tenant: Any, **changes: Any) -> Transaction:
    values = {
        "tenant_id": tenant.id,
        "operation": "C-STORE",
        "calling_ae_title": "PEER",
        "called_ae_title": "INTEROP",
        "remote_address": "192.0.2.1",
        "status_code": 0xA700,
        "status": "FAILURE",
        **changes,
    }
    return Transaction(**values)


def messages(database: Database, tenant: Any) -> list[str]:
    with database.connection(tenant.id) as connection:
        found = connection.execute(
            "SELECT message FROM dicom_transactions WHERE tenant_id = %s ORDER BY message",
            (tenant.id,),
        ).fetchall()
    return [row[0] for row in found]


def test_rows_of_several_tenants_are_written_to_each(
    database: Database, tenant: Any, other_tenant: Any
) -> None:
    recorder = TransactionRecorder(database)
    for number in range(700):
        owner = tenant if number % 2 else other_tenant
        recorder.record(transaction(owner, message=f"{number:04}"))
    recorder.close()

    assert messages(database, tenant) == [f"{n:04}" for n in range(1, 700, 2)]
    assert messages(database, other_tenant) == [f"{n:04}" for n in range(0, 700, 2)]


def test_text_that_postgresql_does_not_take_is_written_all_the_same(
    database: Database, tenant: Any
) -> None:
    recorder = TransactionRecorder(database)
    recorder.record(transaction(tenant, message="zz\0end", sop_instance_uid="1.2\0../x"))
    recorder.close()

    assert "zz\N{REPLACEMENT CHARACTER}end" in messages(database, tenant)


def test_a_database_that_is_down_loses_rows_and_no_more(
    tenant: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1", pool_size=1)
    gone.pool.close()
    recorder = TransactionRecorder(gone)
    recorder.record(transaction(tenant))
    recorder.close()

    assert "transactions_lost" in caplog.text


def test_a_full_queue_never_blocks(
    database: Database, tenant: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = TransactionRecorder(database)
    recorder.close()
    recorder._queue = queue.Queue(1)

    recorder.record(transaction(tenant))
    recorder.record(transaction(tenant))

    assert "transaction_dropped" in caplog.text


def test_rows_that_come_together_are_one_commit(database: Database, tenant: Any) -> None:
    recorder = TransactionRecorder(database)
    values = system_audit(tenant.id, "DICOM_ECHO", metadata={"calling_ae_title": "GATHERED"})
    for number in range(40):
        recorder.record(transaction(tenant, message="together", status_code=number))
        recorder.record(AuditRow(tenant.id, values))
    recorder.close()

    with database.connection(tenant.id) as connection:
        logged = connection.execute(
            "SELECT xmin::text, direction, status_code, completed_at >= started_at"
            " FROM dicom_transactions WHERE tenant_id = %s AND message = 'together'"
            " ORDER BY status_code",
            (tenant.id,),
        ).fetchall()
        audited = connection.execute(
            "SELECT xmin::text FROM audit_events WHERE tenant_id = %s"
            " AND metadata ->> 'calling_ae_title' = 'GATHERED'",
            (tenant.id,),
        ).fetchall()
    assert [row[1:] for row in logged] == [("INBOUND", n, True) for n in range(40)]
    assert len(audited) == 40
    assert len({row[0] for row in (*logged, *audited)}) == 1
