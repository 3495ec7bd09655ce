"""What a process remembers of a study is used only while it is still what the database holds."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from interop.dicom import batch
from interop.dicom.ingest import Ingest, Source
from interop.dicom.spool import Spool
from storage.database import Database
from storage.objects import ObjectStore
from storage.tenancy import Tenant

from .factories import instance, spooled

SOURCE = Source("C-STORE", "MODALITY", calling_ae_title="MODALITY", called_ae_title="INTEROP")


@pytest.fixture
def processes(
    database: Database, object_store: ObjectStore, spool: Spool
) -> Iterator[tuple[Ingest, Ingest]]:
    """Two ingests that know nothing of each other, as two processes have them."""
    made = Ingest(database, object_store, spool), Ingest(database, object_store, spool)
    yield made
    for ingest in made:
        ingest.close()


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each transaction took: 'seen' when the remembered study still held."""
    taken: list[str] = []
    as_seen, read = batch.store_as_seen, batch.store

    def store_as_seen(*arguments: Any) -> Any:
        stored = as_seen(*arguments)
        taken.append("seen" if stored else "out of date")
        return stored

    def store(*arguments: Any) -> Any:
        taken.append("read")
        return read(*arguments)

    monkeypatch.setattr(batch, "store_as_seen", store_as_seen)
    monkeypatch.setattr(batch, "store", store)
    return taken


class Study:
    """Instances of one series of one new patient."""

    def __init__(self, ingest: Ingest, spool: Spool, tenant: Tenant, database: Database) -> None:
        self._spool, self._tenant, self._database = spool, tenant, database
        self.ingest = ingest
        self.uid, self.series_uid = generate_uid(), generate_uid()
        self.patient_id = generate_uid()[-16:]

    def instance(self, **attributes: Any) -> Dataset:
        known = {
            "StudyInstanceUID": self.uid,
            "SeriesInstanceUID": self.series_uid,
            "PatientID": self.patient_id,
        }
        return instance(**{**known, **attributes})

    def send(self, ingest: Ingest | None = None, **attributes: Any) -> str:
        sent = self.instance(**attributes)
        return (ingest or self.ingest).store(self._tenant, spooled(self._spool, sent), SOURCE).kind

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run SQL with the study's UID as its parameter."""
        with self._database.connection(self._tenant.id) as connection:
            cursor = connection.execute(sql, (self.uid,))  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def counts(self) -> tuple[Any, ...]:
        """Counts of the study, of its series, in its ready JSON, and the objects themselves."""
        return self.execute(
            "SELECT s.number_of_instances, e.number_of_instances,"
            " (s.dicom_json::jsonb #>> '{00201208,Value,0}')::int,"
            " (e.dicom_json::jsonb #>> '{00201209,Value,0}')::int,"
            " (SELECT count(*) FROM imaging_objects o WHERE o.study_id = s.id)"
            " FROM imaging_studies s JOIN imaging_series e ON e.study_id = s.id"
            " WHERE s.study_uid = %s"
        )[0]


@pytest.fixture
def study(
    processes: tuple[Ingest, Ingest], spool: Spool, tenant: Tenant, database: Database
) -> Study:
    return Study(processes[0], spool, tenant, database)


def test_a_study_that_nobody_else_touches_is_read_once(study: Study, paths: list[str]) -> None:
    assert [study.send() for _ in range(5)] == ["stored"] * 5
    assert paths == ["read", "seen", "seen", "seen", "seen"]
    assert study.counts() == (5,) * 5


def test_what_another_process_stored_is_counted(
    study: Study, processes: tuple[Ingest, Ingest], paths: list[str]
) -> None:
    first, second = processes

    for ingest in (first, second, first, second, second):
        assert study.send(ingest) == "stored"

    assert paths == ["read", "read", "out of date", "read", "out of date", "read", "seen"]
    assert study.counts() == (5,) * 5


def test_two_processes_that_receive_one_study_at_once_lose_no_count(
    study: Study, processes: tuple[Ingest, Ingest]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        kinds = list(pool.map(lambda n: study.send(processes[n % 2]), range(60)))

    assert kinds == ["stored"] * 60
    assert study.counts() == (60,) * 5


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE imaging_studies SET patient_name = 'ROE^RICHARD' WHERE study_uid = %s",
        "UPDATE tenant_settings SET default_issuer_of_patient_id = 'CLINIC' WHERE %s::text <> ''",
        "UPDATE study_activity a SET check_scheduled = false FROM imaging_studies s"
        " WHERE s.id = a.study_id AND s.study_uid = %s",
    ],
    ids=["the study", "the settings of the tenant", "the completeness check"],
)
def test_a_change_from_elsewhere_is_seen(study: Study, paths: list[str], change: str) -> None:
    study.send()
    study.execute(change)

    assert study.send() == "stored"

    assert paths == ["read", "out of date", "read"]
    assert study.counts() == (2,) * 5
    assert study.execute(
        "SELECT a.check_scheduled FROM study_activity a JOIN imaging_studies s"
        " ON s.id = a.study_id WHERE s.study_uid = %s"
    ) == [(True,)]


def test_a_known_study_still_refuses_another_patient(study: Study, paths: list[str]) -> None:
    study.send()

    assert study.send(PatientID="SOMEBODY-ELSE") == "refused"

    assert paths == ["read", "out of date", "read"]
    assert study.counts() == (1,) * 5


def test_a_repeat_in_a_known_study_changes_nothing(
    study: Study, spool: Spool, tenant: Tenant, paths: list[str]
) -> None:
    sent = study.instance()
    outcomes = [study.ingest.store(tenant, spooled(spool, sent), SOURCE) for _ in range(2)]

    assert [outcome.kind for outcome in outcomes] == ["stored", "duplicate"]
    assert paths == ["read", "out of date", "read"]
    assert study.counts() == (1,) * 5


def test_another_tenant_with_the_same_uids_is_not_known(
    study: Study, spool: Spool, other_tenant: Tenant, paths: list[str]
) -> None:
    study.send()

    stored = study.ingest.store(other_tenant, spooled(spool, study.instance()), SOURCE)

    assert stored.kind == "stored"
    assert paths == ["read", "read"]
    assert study.counts() == (1,) * 5
