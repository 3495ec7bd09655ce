"""The ingest against the real database: what is stored, what is refused, and who is kept apart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from interop.dicom import batch, group_commit
from interop.dicom.ingest import Ingest, Outcome, Source
from interop.dicom.spool import Spool
from storage import quotas
from storage.database import Database
from storage.objects import ObjectStore
from storage.objects.store import ObjectStoreFull, ObjectStoreUnavailable
from storage.tenancy import Tenant

from .factories import Remote, encoded, instance, spooled

SOURCE = Source("C-STORE", "MODALITY", calling_ae_title="MODALITY", called_ae_title="INTEROP")


@pytest.fixture
def ingest(database: Database, object_store: ObjectStore, spool: Spool) -> Iterator[Ingest]:
    made = Ingest(database, object_store, spool)
    yield made
    made.close()


class World:
    """One tenant seen through the ingest and through SQL."""

    def __init__(
        self, ingest: Ingest, spool: Spool, tenant: Tenant, database: Database, objects: ObjectStore
    ) -> None:
        self.ingest, self.spool, self.tenant = ingest, spool, tenant
        self.database, self.objects = database, objects

    def store(self, content: bytes | Dataset, source: Source = SOURCE, **options: Any) -> Outcome:
        return self.ingest.store(self.tenant, spooled(self.spool, content), source, **options)

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.database.connection(self.tenant.id) as connection:
            return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def study(self, uid: str) -> dict[str, Any]:
        with self.database.connection(self.tenant.id) as connection:
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            found = cursor.execute(
                "SELECT * FROM imaging_studies WHERE study_uid = %s", (uid,)
            ).fetchone()
        assert found is not None
        return found

    def blobs(self) -> set[str]:
        return {stat.key for stat in self.objects.list(f"{self.tenant.id}/")}


@pytest.fixture
def world(
    ingest: Ingest, spool: Spool, tenant: Tenant, database: Database, object_store: ObjectStore
) -> World:
    return World(ingest, spool, tenant, database, object_store)


@pytest.fixture
def other(
    ingest: Ingest,
    spool: Spool,
    other_tenant: Tenant,
    database: Database,
    object_store: ObjectStore,
) -> World:
    return World(ingest, spool, other_tenant, database, object_store)


def patient_id() -> str:
    return generate_uid()[-16:]


def test_stored_object_has_every_row_and_the_bytes_as_sent(world: World) -> None:
    sent = instance(PatientID=patient_id(), frames=3)
    content = encoded(sent)

    outcome = world.store(content)

    assert outcome.kind == "stored"
    assert outcome.dicom_status == 0
    study = world.study(sent.StudyInstanceUID)
    assert (study["number_of_series"], study["number_of_instances"]) == (1, 1)
    assert study["modality"] == "INTRAORAL"
    assert study["patient_name_key"] == "DOE^JANE"
    assert study["acquisition_datetime"].isoformat() == "2026-01-02T10:11:12+00:00"
    ready = json.loads(study["dicom_json"])
    assert ready["00080061"] == {"vr": "CS", "Value": ["IO"]}
    assert ready["00201208"]["Value"] == [1]
    assert ready["00100020"]["Value"] == [sent.PatientID]
    key, offset, length, frames, metadata = world.rows(
        "SELECT storage_uri, pixel_data_offset, frame_length, number_of_frames, dicom_json"
        " FROM imaging_objects WHERE sop_instance_uid = %s",
        sent.SOPInstanceUID,
    )[0]
    assert world.objects.get(key) == content
    assert frames == 3
    begin = offset + 2 * length
    assert content[begin : begin + length] == sent.PixelData[2 * length :]
    assert json.loads(metadata)["7FE00010"]["BulkDataURI"] == "@@BULK@@/7FE00010"
    assert [
        row[0]
        for row in world.rows(
            "SELECT status FROM dicom_transactions WHERE sop_instance_uid = %s", sent.SOPInstanceUID
        )
    ] == ["SUCCESS"]
    assert world.rows(
        "SELECT stale FROM fhir_resources WHERE resource_type = 'ImagingStudy' AND row_id = %s",
        study["id"],
    ) == [(True,)]
    assert world.rows(
        "SELECT check_scheduled, instance_count FROM study_activity WHERE study_id = %s",
        study["id"],
    ) == [(True, 1)]
    assert world.rows(
        "SELECT event_type, outcome FROM audit_events WHERE resource_id = %s", sent.StudyInstanceUID
    ) == [("DICOM_INSTANCE_STORED", "SUCCESS")]


def test_counts_follow_series_and_instances(world: World) -> None:
    first = instance(PatientID=patient_id())
    same_series = instance(
        PatientID=first.PatientID,
        StudyInstanceUID=first.StudyInstanceUID,
        SeriesInstanceUID=first.SeriesInstanceUID,
    )
    other_series = instance(
        PatientID=first.PatientID, StudyInstanceUID=first.StudyInstanceUID, Modality="XC"
    )

    for sent in (first, same_series, other_series):
        assert world.store(sent).kind == "stored"

    study = world.study(first.StudyInstanceUID)
    assert (study["number_of_series"], study["number_of_instances"]) == (2, 3)
    assert study["modalities_in_study"] == ["IO", "XC"]
    ready = json.loads(study["dicom_json"])
    assert ready["00201206"]["Value"] == [2]
    series = dict(
        world.rows(
            "SELECT series_uid, dicom_json FROM imaging_series WHERE study_id = %s", study["id"]
        )
    )
    assert json.loads(series[first.SeriesInstanceUID])["00201209"]["Value"] == [2]
    assert json.loads(series[other_series.SeriesInstanceUID])["00201209"]["Value"] == [1]


def test_same_bytes_again_succeed_and_change_nothing(world: World) -> None:
    sent = instance(PatientID=patient_id())
    world.store(sent)
    before = world.blobs()
    generation = world.study(sent.StudyInstanceUID)["last_received_at"]

    outcome = world.store(sent)

    assert outcome.kind == "duplicate"
    assert outcome.dicom_status == 0
    assert world.blobs() == before
    study = world.study(sent.StudyInstanceUID)
    assert study["number_of_instances"] == 1
    assert study["last_received_at"] == generation


def test_other_bytes_under_a_known_uid_are_refused_and_kept_once(world: World) -> None:
    sent = instance(PatientID=patient_id())
    world.store(sent)
    stored = world.blobs()
    sent.ImageComments = "changed"

    outcomes = [world.store(sent), world.store(sent)]

    assert {outcome.kind for outcome in outcomes} == {"refused"}
    assert {outcome.dicom_status for outcome in outcomes} == {0x0111}
    quarantined = world.rows(
        "SELECT storage_uri, reason_code, state FROM quarantined_objects"
        " WHERE sop_instance_uid = %s",
        sent.SOPInstanceUID,
    )
    assert [row[1:] for row in quarantined] == [("0111", "PENDING")]
    assert world.objects.get(quarantined[0][0]) == encoded(sent)
    assert world.blobs() == stored | {quarantined[0][0]}


def test_d17_what_is_kept_in_quarantine_counts_as_stored(world: World) -> None:
    def used() -> int:
        with world.database.connection(world.tenant.id) as connection:
            return quotas.storage_bytes(connection, world.tenant.id)

    def limit(bytes_: int | None) -> None:
        with world.database.connection(world.tenant.id) as connection:
            connection.execute(
                "INSERT INTO tenant_quotas (tenant_id, max_storage_bytes) VALUES (%(id)s, %(n)s)"
                " ON CONFLICT (tenant_id) DO UPDATE SET max_storage_bytes = %(n)s",
                {"id": world.tenant.id, "n": bytes_},
            )

    sent = instance(PatientID=patient_id())
    world.store(sent)
    before = used()
    sent.ImageComments = "changed"

    kept = [world.store(sent).kind, world.store(sent).kind]

    # Once, however often the same bytes come.
    assert kept == ["refused", "refused"]
    assert used() == before + len(encoded(sent))

    full, blobs = used(), world.blobs()
    limit(full + 10)
    try:
        sent.ImageComments = "changed once more"
        outcome = world.store(sent)
    finally:
        limit(None)

    assert (outcome.kind, outcome.dicom_status) == ("failed", 0xA700)
    assert (used(), world.blobs()) == (full, blobs)


def test_concurrent_repeats_make_one_object(world: World) -> None:
    sent = encoded(instance(PatientID=patient_id()))

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: world.store(sent), range(24)))

    kinds = [outcome.kind for outcome in outcomes]
    assert kinds.count("stored") == 1
    assert kinds.count("duplicate") == 23
    uid = outcomes[0].sop_instance_uid
    assert world.rows("SELECT count(*) FROM imaging_objects WHERE sop_instance_uid = %s", uid) == [
        (1,)
    ]


def test_two_processes_on_one_study_agree_on_the_counts(
    world: World, database: Database, object_store: ObjectStore, tmp_path: Path
) -> None:
    beside = World(
        Ingest(database, object_store, Spool(tmp_path / "beside")),
        Spool(tmp_path / "second"),
        world.tenant,
        database,
        object_store,
    )
    patient, study = patient_id(), generate_uid()
    sent = [instance(PatientID=patient, StudyInstanceUID=study) for _ in range(40)]

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(
            pool.map(
                lambda pair: pair[1].store(pair[0]),
                [(s, world if n % 2 else beside) for n, s in enumerate(sent)],
            )
        )
    beside.ingest.close()

    assert {outcome.kind for outcome in outcomes} == {"stored"}
    row = world.study(study)
    assert (row["number_of_series"], row["number_of_instances"]) == (40, 40)
    assert world.rows("SELECT count(*) FROM patient_identifiers WHERE value = %s", patient) == [
        (1,)
    ]


def test_two_tenants_hold_the_same_uids_apart(world: World, other: World) -> None:
    sent = instance(PatientID=patient_id())

    assert world.store(sent).kind == "stored"
    sent.PatientName = "Other^Person"
    assert other.store(sent).kind == "stored"

    assert world.study(sent.StudyInstanceUID)["patient_name"] == "Doe^Jane"
    assert other.study(sent.StudyInstanceUID)["patient_name"] == "Other^Person"
    count = "SELECT count(*) FROM imaging_objects WHERE sop_instance_uid = %s"
    assert world.rows(count, sent.SOPInstanceUID) == [(1,)]
    assert other.rows(count, sent.SOPInstanceUID) == [(1,)]


def test_b10_study_uid_with_another_patient_id_is_kept_apart_and_flagged(world: World) -> None:
    first = instance(PatientID=patient_id())
    second = instance(PatientID=patient_id(), StudyInstanceUID=first.StudyInstanceUID)
    world.store(first)

    outcome = world.store(second)

    assert outcome.kind == "refused"
    assert outcome.dicom_status == 0xA910
    study = world.study(first.StudyInstanceUID)
    assert study["number_of_instances"] == 1
    assert study["demographics_conflict"][0]["kind"] == "OTHER_PATIENT"
    assert world.rows(
        "SELECT reason_code FROM quarantined_objects WHERE sop_instance_uid = %s",
        second.SOPInstanceUID,
    ) == [("A910",)]


def test_b10_same_patient_id_of_two_issuers_is_two_patients(world: World) -> None:
    number = patient_id()
    first = instance(PatientID=number, IssuerOfPatientID="CLINIC-A")
    second = instance(PatientID=number, IssuerOfPatientID="CLINIC-B")
    third = instance(PatientID=number, IssuerOfPatientID="CLINIC-A")

    for sent in (first, second, third):
        world.store(sent)

    patients = [world.study(sent.StudyInstanceUID)["patient_id"] for sent in (first, second, third)]
    assert patients[0] == patients[2] != patients[1]


def test_differing_demographics_are_flagged_and_not_merged(world: World) -> None:
    first = instance(PatientID=patient_id())
    second = instance(PatientID=first.PatientID, PatientName="Doe^John", PatientSex="M")
    world.store(first)

    assert world.store(second).kind == "stored"

    study = world.study(second.StudyInstanceUID)
    assert study["demographics_conflict"][0]["attributes"] == ["PatientName", "PatientSex"]
    name = world.rows(
        "SELECT first_name, sex_at_birth FROM patients WHERE id = %s", study["patient_id"]
    )
    assert name == [("Jane", "FEMALE")]


def test_studies_without_a_patient_id_get_a_patient_each(world: World) -> None:
    first, second = instance(PatientID=""), instance(PatientID="")

    world.store(first)
    world.store(second)

    assert (
        world.study(first.StudyInstanceUID)["patient_id"]
        != world.study(second.StudyInstanceUID)["patient_id"]
    )


@pytest.mark.parametrize(
    "uid",
    ["../../x", "/etc/x", "..\\x", "1." * 40 + "1", "1.2\0.3", "", "1.2.", "1..2", "abc"],
)
@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.filterwarnings("ignore")
def test_a1_what_is_no_uid_is_refused_and_leaves_nothing(
    world: World, keyword: str, uid: str
) -> None:
    before = world.blobs()
    sent = instance(PatientID=patient_id())
    placeholder = "1.2.3.4" if keyword == "SOPInstanceUID" else generate_uid()
    setattr(sent, keyword, placeholder)
    raw = encoded(sent)
    tag = {"SOPInstanceUID": b"\x08\0\x18\0", "StudyInstanceUID": b"\x20\0\x0d\0"}.get(
        keyword, b"\x20\0\x0e\0"
    )
    at = raw.index(tag + b"UI", 132 + 200)
    length = int.from_bytes(raw[at + 6 : at + 8], "little")
    value = uid.encode() + b"\0" * (len(uid) % 2)
    raw = raw[: at + 6] + len(value).to_bytes(2, "little") + value + raw[at + 8 + length :]

    outcome = world.store(raw, Source("STOW-RS", "client"))

    assert outcome.kind == "refused"
    assert outcome.dicom_status & 0xF000 in (0xC000, 0xA000)
    assert world.blobs() == before


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_leading_zero_in_a_uid_is_accepted(world: World) -> None:
    uid = f"1.2.{patient_id().replace('.', '')}.01"

    assert world.store(instance(StudyInstanceUID=uid)).kind == "stored"

    logged = world.rows(
        "SELECT status, message FROM dicom_transactions WHERE study_instance_uid = %s", uid
    )
    assert logged == [("WARNING", "(0020,000D) has a UID component that begins with 0")]


def test_a1_data_set_that_is_not_the_announced_instance_is_refused(
    world: World, spool: Spool
) -> None:
    sent = instance(PatientID=patient_id())
    raw = encoded(sent)
    writer = spool.writer()
    writer.write_meta(sent.SOPClassUID, "1.2.3.4.5.6", "1.2.840.10008.1.2.1", "MODALITY")
    writer.write(raw[raw.index(b"\x08\0\x05\0CS") :])

    outcome = world.ingest.store(world.tenant, writer.finish(), SOURCE)

    assert outcome.dicom_status == 0xA900


def test_a8_names_with_shell_text_are_stored_verbatim(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = "$(touch x)`touch x`;touch x^a"
    sent = instance(PatientID=patient_id(), PatientName=evil)

    assert world.store(sent).kind == "stored"

    assert world.study(sent.StudyInstanceUID)["patient_name"] == evil
    assert not (tmp_path / "x").exists()


def test_object_for_another_study_than_the_request_names_is_refused(world: World) -> None:
    outcome = world.store(instance(), expected_study_uid="1.2.3")

    assert outcome.kind == "refused"
    assert outcome.failure is not None
    assert "1.2.3" in outcome.failure.message


def test_own_results_do_not_schedule_an_analysis(world: World) -> None:
    from interop.dicom.implementation import MANUFACTURER

    first = instance(PatientID=patient_id())
    second = instance(PatientID=first.PatientID, Manufacturer=MANUFACTURER)

    assert world.store(first, Source("AI", "pipeline")).kind == "stored"
    assert world.store(second).kind == "stored"

    for sent in (first, second):
        study = world.study(sent.StudyInstanceUID)
        assert world.rows("SELECT 1 FROM study_activity WHERE study_id = %s", study["id"]) == []


def test_refusal_is_logged_with_its_reason(world: World) -> None:
    outcome = world.store(b"x" * 500, Source("UPLOAD", "user", request_id="r-1"))

    assert outcome.kind == "refused"
    assert world.rows(
        "SELECT count(*) FROM audit_events WHERE request_id = 'r-1' AND outcome = 'FAILURE'"
    ) == [(1,)]
    assert world.rows("SELECT status_code FROM dicom_transactions WHERE operation = 'UPLOAD'") == [
        (0xC001,)
    ]


def test_a_bad_row_does_not_take_its_neighbours_with_it(world: World) -> None:
    # A sender's AE title that PostgreSQL cannot hold breaks the statement for its own row only.
    bad = Source("C-STORE", "M", calling_ae_title="NUL\0AE")
    sent = [instance(PatientID=patient_id()) for _ in range(9)]
    before = len(world.blobs())

    with ThreadPoolExecutor(9) as pool:
        outcomes = list(
            pool.map(lambda n: world.store(sent[n], bad if n == 4 else SOURCE), range(9))
        )

    assert [outcome.kind for outcome in outcomes].count("stored") == 8
    assert outcomes[4].kind == "failed"
    assert outcomes[4].dicom_status == 0x0110
    assert len(world.blobs()) == before + 8


def test_database_that_is_gone_gives_a700_and_leaves_no_blob(
    object_store: ObjectStore, spool: Spool, tenant: Tenant
) -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/none")
    nowhere.pool.timeout = 0.3
    broken = Ingest(nowhere, object_store, spool)
    before = {stat.key for stat in object_store.list(f"{tenant.id}/")}

    outcome = broken.store(tenant, spooled(spool, instance()), SOURCE)

    broken.close()
    nowhere.close()
    assert outcome.kind == "failed"
    assert outcome.dicom_status == 0xA700
    assert {stat.key for stat in object_store.list(f"{tenant.id}/")} == before


def test_network_store_gets_the_digest_and_failure_leaves_no_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(world.objects)
    ingest = Ingest(world.database, remote, world.spool)  # type: ignore[arg-type]
    first, second = instance(PatientID=patient_id()), instance(PatientID=patient_id())
    ready = spooled(world.spool, first)

    assert ingest.store(world.tenant, ready, SOURCE).kind == "stored"
    monkeypatch.setattr(remote, "put_file", lambda *_: _raise(ObjectStoreUnavailable("down")))
    outcome = ingest.store(world.tenant, spooled(world.spool, second), SOURCE)

    ingest.close()
    assert remote.digests == [ready.sha256]
    assert (outcome.kind, outcome.dicom_status) == ("failed", 0xA700)
    count = "SELECT count(*) FROM imaging_objects WHERE sop_instance_uid = %s"
    assert world.rows(count, second.SOPInstanceUID) == [(0,)]


def _raise(error: Exception) -> None:
    raise error


def test_object_that_does_not_reach_the_store_leaves_no_row_and_its_neighbours_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [instance(PatientID=patient_id()) for _ in range(8)]
    original = type(world.objects).put_file

    def put_file(self: ObjectStore, key: str, path: Path, sha256: str | None = None) -> None:
        if sent[3].SOPInstanceUID.encode() in path.read_bytes():
            raise ObjectStoreFull("no space")
        original(self, key, path, sha256)

    monkeypatch.setattr(type(world.objects), "put_file", put_file)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(world.store, sent))

    assert [outcome.kind for outcome in outcomes].count("stored") == 7
    assert outcomes[3].kind == "failed"
    assert outcomes[3].dicom_status == 0xA700
    count = "SELECT count(*) FROM imaging_objects WHERE sop_instance_uid = %s"
    assert [world.rows(count, s.SOPInstanceUID)[0][0] for s in sent] == [1, 1, 1, 0, 1, 1, 1, 1]


def test_fault_of_ours_is_an_answer_with_an_incident_and_no_values_in_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    value = "^".join(("Doe", "Jane"))

    def broken(*_: object) -> None:
        raise KeyError(value)

    monkeypatch.setattr("interop.dicom.batch.store", broken)
    outcome = world.store(instance())
    monkeypatch.setattr("interop.dicom.ingest.parse", broken)
    second = world.store(instance())

    assert [outcome.kind, second.kind] == ["failed", "failed"]
    assert [outcome.dicom_status, second.dicom_status] == [0x0110, 0x0110]
    assert second.failure is not None and "incident" in second.failure.message
    assert len(caplog.records) == 2
    assert not any(value in str(vars(record)) for record in caplog.records)


def test_bare_data_set_gets_a_part_10_header(world: World) -> None:
    sent = instance(PatientID=patient_id())
    raw = encoded(sent)
    bare = raw[raw.index(b"\x08\0\x05\0CS") :]

    assert world.store(bare, Source("IMPORT", "operator")).kind == "stored"

    key = world.rows(
        "SELECT storage_uri FROM imaging_objects WHERE sop_instance_uid = %s", sent.SOPInstanceUID
    )[0][0]
    stored = world.objects.get(key)
    assert stored.endswith(bare)
    assert stored[128:132] == b"DICM"


def test_spool_is_empty_after_every_kind_of_answer(world: World, tmp_path: Path) -> None:
    sent = instance(PatientID=patient_id())
    world.store(sent)
    world.store(sent)
    world.store(b"y" * 300)

    left = [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [".lock"]


@pytest.mark.parametrize("first_id", ["", "A100"])
def test_b10_study_without_a_patient_id_takes_in_nobodys_images(
    world: World, first_id: str
) -> None:
    study_uid = generate_uid()
    first = instance(StudyInstanceUID=study_uid, PatientID=first_id, PatientName="")
    world.store(first)

    second_id = "" if first_id else "A100"
    second = instance(StudyInstanceUID=study_uid, PatientID=second_id, PatientName="Smith^Ann")
    outcome = world.store(second)

    assert (outcome.kind, outcome.dicom_status) == ("refused", 0xA910)
    study = world.study(study_uid)
    assert study["number_of_instances"] == 1
    assert [entry["kind"] for entry in study["demographics_conflict"]] == ["OTHER_PATIENT"]
    assert world.rows(
        "SELECT reason_code FROM quarantined_objects WHERE sop_instance_uid = %s",
        second.SOPInstanceUID,
    ) == [("A910",)]


@pytest.mark.parametrize("number", ["", "A100"])
def test_b10_demographics_that_the_first_object_lacks_are_compared_among_the_others(
    world: World, number: str
) -> None:
    study_uid = generate_uid()

    for name in ("", "Smith^Ann", "Jones^Bob"):
        sent = instance(StudyInstanceUID=study_uid, PatientID=number, PatientName=name)
        assert world.store(sent).kind == "stored"

    study = world.study(study_uid)
    assert (study["patient_name"], study["patient_name_key"]) == ("Smith^Ann", "SMITH^ANN")
    assert json.loads(study["dicom_json"])["00100010"]["Value"] == [{"Alphabetic": "Smith^Ann"}]
    within = [e for e in study["demographics_conflict"] or [] if e["kind"] == "WITHIN_STUDY"]
    assert [entry["received"]["PatientName"] for entry in within] == ["Jones^Bob"]


def person(world: World, number: str, status: str, valid_until: str | None) -> str:
    """Return the id of a patient with this medical record number."""
    [(made,)] = world.rows(
        "INSERT INTO patients (tenant_id, last_name, first_name, dob, sex_at_birth, status)"
        " VALUES (%s, 'Doe', 'Jane', '1980-01-02', 'FEMALE', %s) RETURNING id",
        world.tenant.id,
        status,
    )
    world.rows(
        "INSERT INTO patient_identifiers (tenant_id, patient_id, system, value, valid_until)"
        " VALUES (%s, %s, 'MRN', %s, %s) RETURNING id",
        world.tenant.id,
        made,
        number,
        valid_until,
    )
    return str(made)


@pytest.mark.parametrize(("status", "until"), [("INACTIVE", None), ("ACTIVE", "2019-01-01")])
def test_patient_is_found_by_an_identifier_that_is_in_force(
    world: World, status: str, until: str | None
) -> None:
    number = patient_id()
    person(world, number, status, until)
    current = person(world, number, "ACTIVE", None)
    sent = instance(PatientID=number)

    world.store(sent)

    study = world.study(sent.StudyInstanceUID)
    assert str(study["patient_id"]) == current
    assert study["demographics_conflict"] is None


def test_identifier_of_two_patients_gives_the_study_to_neither_and_says_so(world: World) -> None:
    number = patient_id()
    both = {person(world, number, "ACTIVE", None) for _ in range(2)}
    first, second = instance(PatientID=number), instance(PatientID=number)

    for sent in (first, second):
        assert world.store(sent).kind == "stored"

    for sent in (first, second):
        study = world.study(sent.StudyInstanceUID)
        assert str(study["patient_id"]) not in both
        assert [entry["kind"] for entry in study["demographics_conflict"]] == ["AMBIGUOUS_PATIENT"]
    assert len(world.rows("SELECT 1 FROM patient_identifiers WHERE value = %s", number)) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "".join(chr(33 + n * n % 90) for n in range(4000)).replace("\\", "/")),
        ("AccessionNumber", "7" * 300),
        ("Modality", "M" * 300),
        ("PatientName", "N" * 1100),
        # 300 bytes as sent; each character is 33 bytes when it is decomposed.
        ("PatientName", "\ufdfa" * 100),
    ],
)
def test_value_that_no_index_can_hold_is_refused_and_named(
    world: World, keyword: str, value: str
) -> None:
    sent = instance(**{"PatientID": patient_id(), keyword: value})

    outcome = world.store(sent)

    assert (outcome.kind, outcome.dicom_status) == ("refused", 0xC005)
    assert outcome.failure is not None
    assert f"{sent[keyword].tag}".replace(", ", ",").upper() in outcome.failure.message.upper()


@pytest.mark.parametrize(
    "error",
    [psycopg.errors.ProgramLimitExceeded("index row size"), TypeError("surrogates not allowed")],
)
def test_a_value_that_breaks_the_transaction_does_not_break_it_for_others(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sent = [instance(PatientID=patient_id()) for _ in range(9)]
    original = batch.store

    def store(connection: Any, tenant_id: Any, objects: Any, *known: Any) -> Any:
        if any(o.sop_instance_uid == sent[4].SOPInstanceUID for o in objects):
            raise error
        return original(connection, tenant_id, objects)

    monkeypatch.setattr(batch, "store", store)
    with ThreadPoolExecutor(9) as pool:
        outcomes = list(pool.map(world.store, sent))

    assert [outcome.kind for outcome in outcomes].count("stored") == 8
    assert (outcomes[4].kind, outcomes[4].dicom_status) == ("failed", 0x0110)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (psycopg.errors.ProgramLimitExceeded, 0x0110),
        (psycopg.errors.LockNotAvailable, 0x0110),
        (psycopg.errors.DiskFull, 0xA700),
        (psycopg.errors.AdminShutdown, 0xA700),
        (psycopg.errors.ConnectionFailure, 0xA700),
        (psycopg.errors.IoError, 0xA700),
        (psycopg.OperationalError, 0xA700),
        (PoolTimeout, 0xA700),
    ],
)
def test_only_an_outage_asks_the_sender_to_repeat(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[Exception], status: int
) -> None:
    monkeypatch.setattr(batch, "store", lambda *_: _raise(error("said by a test")))

    outcome = world.store(instance(PatientID=patient_id()))

    assert (outcome.kind, outcome.dicom_status) == ("failed", status)


@pytest.mark.filterwarnings("ignore:The value length")
def test_one_transaction_takes_a_bounded_number_of_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "_MOST_BYTES_PER_TRANSACTION", 60_000)
    taken: list[int] = []
    original = batch.store

    def store(connection: Any, tenant_id: Any, objects: Any, *known: Any) -> Any:
        taken.append(sum(len(o.instance.dicom_json) for o in objects))
        # The others gather meanwhile.
        time.sleep(0.3)
        return original(connection, tenant_id, objects)

    monkeypatch.setattr(batch, "store", store)
    sent = [instance(PatientID=patient_id(), ImageComments="c" * 20_000) for _ in range(9)]
    sent.append(instance(PatientID=patient_id(), TextComments="c" * 60_001))

    with ThreadPoolExecutor(10) as pool:
        outcomes = list(pool.map(world.store, sent))

    assert {outcome.kind for outcome in outcomes} == {"stored"}
    assert len(taken) >= 5
    assert sorted(taken)[-2] <= 60_000


def test_stored_json_can_be_searched_by_the_database(world: World) -> None:
    sent = instance(PatientID=patient_id())
    step = Dataset()
    step.ScheduledProcedureStepID = "AB\0CD"
    sent.RequestAttributesSequence = [step]

    assert world.store(sent).kind == "stored"

    found = world.rows(
        "SELECT dicom_json::jsonb #>> '{00400275,Value,0,00400009,Value,0}' FROM imaging_objects"
        " WHERE sop_instance_uid = %s",
        sent.SOPInstanceUID,
    )
    assert found == [("ABCD",)]


@pytest.mark.parametrize("harm", ["lost", "cut short"])
def test_repeat_of_an_object_whose_bytes_are_gone_brings_them_back(world: World, harm: str) -> None:
    sent = instance(PatientID=patient_id(), frames=2)
    content = encoded(sent)
    # With a longer header, so that every offset is another one.
    longer = instance(frames=2)
    longer.update(sent)
    longer.file_meta = sent.file_meta
    longer.file_meta.PrivateInformationCreatorUID = "1.2.3"
    longer.file_meta.PrivateInformation = bytes(100)
    again = encoded(longer)
    world.store(content)
    query = (
        "SELECT storage_uri, byte_size, pixel_data_offset, frame_length FROM imaging_objects"
        " WHERE sop_instance_uid = %s"
    )
    [(key, *_)] = world.rows(query, sent.SOPInstanceUID)
    world.objects.delete(key)
    if harm == "cut short":
        world.objects.put_bytes(key, content[:-1])

    outcomes = [world.store(again), world.store(content)]

    assert [outcome.kind for outcome in outcomes] == ["duplicate", "duplicate"]
    [(found, size, offset, length)] = world.rows(query, sent.SOPInstanceUID)
    assert found != key
    assert (world.objects.get(found), size) == (again, len(again))
    assert world.objects.get_range(found, offset, 2 * length) == sent.PixelData
    assert world.study(sent.StudyInstanceUID)["number_of_instances"] == 1
    events = world.rows(
        "SELECT event_type FROM audit_events WHERE resource_id = %s ORDER BY timestamp",
        sent.StudyInstanceUID,
    )
    assert events.count(("DICOM_INSTANCE_RESTORED",)) == 1


def test_repeat_is_no_success_while_nobody_can_say_whether_the_bytes_are_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = instance(PatientID=patient_id())
    world.store(sent)
    before = world.blobs()
    monkeypatch.setattr(
        type(world.objects), "stat", lambda *_: _raise(ObjectStoreUnavailable("down"))
    )

    outcome = world.store(sent)

    assert (outcome.kind, outcome.dicom_status) == ("failed", 0xA700)
    assert world.blobs() == before


def test_an_object_beyond_the_quota_is_refused_and_the_refusal_written_down(world: World) -> None:
    with world.database.connection(world.tenant.id) as connection:
        connection.execute(
            "INSERT INTO tenant_quotas (tenant_id, max_storage_bytes) VALUES (%(id)s, 1)"
            " ON CONFLICT (tenant_id) DO UPDATE SET max_storage_bytes = 1",
            {"id": world.tenant.id},
        )
    sent = instance(PatientID=patient_id())
    try:
        outcome = world.store(sent)
    finally:
        with world.database.connection(world.tenant.id) as connection:
            connection.execute("UPDATE tenant_quotas SET max_storage_bytes = NULL")

    assert (outcome.kind, outcome.dicom_status) == ("failed", 0xA700)
    uid = sent.SOPInstanceUID
    assert world.rows(
        "SELECT status, status_code FROM dicom_transactions WHERE sop_instance_uid = %s", uid
    ) == [("FAILURE", 0xA700)]
    assert world.rows(
        "SELECT event_type, outcome FROM audit_events WHERE resource_id = %s",
        sent.StudyInstanceUID,
    ) == [("DICOM_INSTANCE_REFUSED", "FAILURE")]
    assert world.rows("SELECT 1 FROM imaging_objects WHERE sop_instance_uid = %s", uid) == []
