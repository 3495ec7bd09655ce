"""What one sender has ready is stored by one call: one transaction, and an answer for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from interop.dicom.ingest import Ingest, Outcome, Source
from interop.dicom.received import Received
from interop.dicom.spool import Spool
from storage.database import Database
from storage.objects import ObjectStore
from storage.objects.store import ObjectStoreFull
from storage.tenancy import Tenant

from .factories import Remote, instance, spooled

SOURCE = Source("STOW-RS", "sender")


class Sender:
    """One sender of one tenant, and what the database has of what it sent."""

    def __init__(self, ingest: Ingest, spool: Spool, tenant: Tenant, database: Database) -> None:
        self.ingest, self.spool, self.tenant, self.database = ingest, spool, tenant, database

    def store(self, *sent: Dataset | bytes, **options: Any) -> list[Outcome]:
        ready = [spooled(self.spool, content) for content in sent]
        return self.ingest.store_all(self.tenant, ready, SOURCE, **options)

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.database.connection(self.tenant.id) as connection:
            return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def stored(self, *sent: Dataset) -> list[bool]:
        query = "SELECT count(*) FROM imaging_objects WHERE sop_instance_uid = %s"
        return [self.rows(query, each.SOPInstanceUID) == [(1,)] for each in sent]


@pytest.fixture
def sender(
    database: Database, object_store: ObjectStore, spool: Spool, tenant: Tenant
) -> Iterator[Sender]:
    ingest = Ingest(database, object_store, spool)
    yield Sender(ingest, spool, tenant, database)
    ingest.close()


def slices(count: int, **attributes: object) -> list[Dataset]:
    """Instances of one series of one patient."""
    shared: dict[str, object] = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
    }
    shared |= {"PatientID": f"P{str(shared['StudyInstanceUID'])[-12:]}", **attributes}
    return [instance(**shared, InstanceNumber=n + 1) for n in range(count)]


def test_what_comes_together_shares_a_transaction(sender: Sender) -> None:
    sent = slices(12)

    outcomes = sender.store(*sent)

    assert [outcome.kind for outcome in outcomes] == ["stored"] * 12
    assert [o.sop_instance_uid for o in outcomes] == [s.SOPInstanceUID for s in sent]
    uids = [each.SOPInstanceUID for each in sent]
    query = "SELECT count(DISTINCT xmin::text), count(*) FROM imaging_objects" + (
        " WHERE sop_instance_uid = ANY (%s)"
    )
    assert sender.rows(query, uids) == [(1, 12)]


def test_each_has_its_own_answer_in_the_order_it_came(sender: Sender) -> None:
    first, second, third = slices(3)
    other = slices(1, StudyInstanceUID=first.StudyInstanceUID, PatientID="SOMEBODY-ELSE")[0]
    sender.store(first)

    outcomes = sender.store(second, b"no DICOM at all" * 20, first, other, third, third)

    kinds = [outcome.kind for outcome in outcomes]
    assert kinds == ["stored", "refused", "duplicate", "refused", "stored", "duplicate"]
    assert [o.sop_instance_uid for o in outcomes[2:5]] == [
        each.SOPInstanceUID for each in (first, other, third)
    ]
    assert sender.stored(first, second, third, other) == [True, True, True, False]


def test_what_belongs_to_another_study_than_the_request_names_is_refused_alone(
    sender: Sender,
) -> None:
    [wanted], [other] = slices(1), slices(1)

    outcomes = sender.store(other, wanted, expected_study_uid=wanted.StudyInstanceUID)

    assert [outcome.kind for outcome in outcomes] == ["refused", "stored"]


def test_each_is_logged_and_audited_once(sender: Sender) -> None:
    sent = slices(4)

    sender.store(*sent[:2], b"no DICOM at all" * 20, *sent[2:])

    study_uid = sent[0].StudyInstanceUID
    audits = "SELECT count(*), count(DISTINCT patient_id) FROM audit_events WHERE resource_id = %s"
    seen = "SELECT count(*) FROM phi_access_logs l JOIN patient_identifiers i" + (
        " ON i.patient_id = l.patient_id WHERE i.value = %s AND l.action = 'CREATE'"
    )
    log = "SELECT count(*) FROM dicom_transactions WHERE study_instance_uid = %s"
    assert sender.rows(audits, study_uid) == [(4, 1)]
    assert sender.rows(seen, sent[0].PatientID) == [(4,)]
    assert sender.rows(log, study_uid) == [(4,)]


def test_one_that_the_disk_does_not_take_leaves_nothing_and_the_others_stay(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, object_store: ObjectStore, tmp_path: Path
) -> None:
    sent = slices(6)
    original = Ingest._put

    def full(self: Ingest, received: Received, sha256: str | None = None) -> None:
        if received.sop_instance_uid == sent[2].SOPInstanceUID:
            raise ObjectStoreFull("no space")
        original(self, received, sha256)

    monkeypatch.setattr(Ingest, "_put", full)
    before = set(_keys(object_store, sender.tenant))

    outcomes = sender.store(*sent)

    assert [o.kind for o in outcomes] == ["stored"] * 2 + ["failed"] + ["stored"] * 3
    assert outcomes[2].dicom_status == 0xA700
    assert sender.stored(*sent) == [True, True, False, True, True, True]
    assert len(set(_keys(object_store, sender.tenant)) - before) == 5
    left = [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [".lock"]


def test_fault_of_ours_while_bytes_are_kept_fails_all_and_the_next_are_stored(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = slices(5)

    def broken(self: Ingest, received: Received, sha256: str | None = None) -> None:
        raise RuntimeError("a fault")

    with monkeypatch.context() as patched:
        patched.setattr(Ingest, "_put", broken)
        outcomes = sender.store(*sent)

    assert [outcome.kind for outcome in outcomes] == ["failed"] * 5
    assert sender.stored(*sent) == [False] * 5
    assert [outcome.kind for outcome in sender.store(*sent)] == ["stored"] * 5


def test_network_store_keeps_each_before_its_row(
    sender: Sender, database: Database, object_store: ObjectStore, spool: Spool
) -> None:
    sent = slices(3)
    remote = Remote(object_store)
    original = remote.put_file

    def put_file(key: str, path: Path, sha256: str | None = None) -> None:
        if sent[1].SOPInstanceUID.encode() in path.read_bytes():
            raise ObjectStoreFull("no space")
        original(key, path, sha256)

    remote.put_file = put_file  # type: ignore[method-assign]
    sender.ingest = Ingest(database, remote, spool)  # type: ignore[arg-type]

    outcomes = sender.store(*sent)

    sender.ingest.close()
    assert [outcome.kind for outcome in outcomes] == ["stored", "failed", "stored"]
    assert len([digest for digest in remote.digests if digest]) == 2
    assert sender.stored(*sent) == [True, False, True]


def test_new_studies_that_come_together_have_all_that_one_would_have(sender: Sender) -> None:
    sent = [
        slices(1, PatientName=f"Family{n}^Given", ReferringPhysicianName="Referrer^Rita")[0]
        for n in range(6)
    ]

    outcomes = sender.store(*sent)

    assert [outcome.kind for outcome in outcomes] == ["stored"] * 6
    uids = [each.StudyInstanceUID for each in sent]
    studies = sender.rows(
        "SELECT number_of_series, number_of_instances, modalities_in_study, patient_name_key,"
        " last_received_at = created_at, (dicom_json::jsonb #>> '{00201208,Value,0}')::int,"
        " (SELECT count(*) FROM imaging_name_words w WHERE w.study_id = s.id),"
        " (SELECT count(*) FROM study_activity a WHERE a.study_id = s.id AND a.check_scheduled)"
        " FROM imaging_studies s WHERE study_uid = ANY (%s) ORDER BY patient_name_key",
        uids,
    )
    assert studies == [(1, 1, ["IO"], f"FAMILY{n}^GIVEN", True, 1, 4, 1) for n in range(6)]
    jobs = sender.rows(
        "SELECT count(*), count(DISTINCT j.args ->> 'study_id'),"
        " bool_and(j.scheduled_at > now() AND j.queue_name = 'ai')"
        " FROM procrastinate_jobs j JOIN imaging_studies s ON s.id::text = j.args ->> 'study_id'"
        " WHERE j.task_name = 'check_study' AND s.study_uid = ANY (%s)",
        uids,
    )
    assert jobs == [(6, 6, True)]


def test_no_statement_reads_the_other_studies_of_the_tenant(
    database: Database,
    owner_url: str,
    object_store: ObjectStore,
    spool: Spool,
    tenant: Tenant,
) -> None:
    """A join with rows of unknown number would, up to a few hundred studies.

    Before the first statistics PostgreSQL itself does, for foreign keys: every index of the tenant
    seems equally good to it.
    """
    alone = Database(database.url, pool_size=1)
    sender = Sender(Ingest(alone, object_store, spool), spool, tenant, alone)

    def read() -> int:
        sender.rows("SELECT pg_stat_force_next_flush()")
        [(tuples,)] = sender.rows(
            "SELECT sum(idx_tup_fetch + seq_tup_read)::bigint FROM pg_stat_user_tables"
            " WHERE relname IN ('imaging_studies', 'patients', 'patient_identifiers')"
        )
        return int(tuples)

    sender.store(*(slices(1)[0] for _ in range(60)))
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute("ANALYZE")
    series = slices(11)
    sender.store(series[0])

    before = read()
    for each in series[1:]:
        sender.store(each)
    known = read() - before
    for _ in range(10):
        sender.store(*slices(1))
    new = read() - before - known

    sender.ingest.close()
    alone.close()
    assert known < 10 * 30
    assert new < 10 * 30


def _keys(objects: ObjectStore, tenant: Tenant) -> list[str]:
    return [stat.key for stat in objects.list(f"{tenant.id}/")]
