"""Auto-routing to DICOM peers: what comes in and matches goes out, whatever dies in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from benchmarks.live_server import free_port
from interop.dimse.commitment_messages import PUSH_MODEL_SOP_CLASS
from interop.routing import deliveries, forgotten, rules
from storage.tenancy import Tenant
from tests.integration.dimse.dicom_jobs import WorkerServices, running_jobs
from tests.waiting import eventually

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("storescp") is None, reason="DCMTK is not installed"),
]

CT = "1.2.840.10008.5.1.4.1.1.2"


class StoreScp:
    """DCMTK's storescp with a folder."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            ["storescp", "+xa", "--aetitle", "ARCHIVE", "-od", str(folder), str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def received(self) -> set[str]:
        """The SOP Instance UIDs of what has arrived."""
        return {
            str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
            for path in self.folder.iterdir()
        }

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def archive(tmp_path: Path, destination: Callable[[int], None]) -> Iterator[StoreScp]:
    made = StoreScp(tmp_path / "archive")
    destination(made.port)
    yield made
    made.close()


@pytest.fixture
def destination(services: Any, tenant: Tenant, registered: Callable[..., None]) -> Any:
    """Registers ARCHIVE at a port; afterwards no rule and no delivery of the test is left."""

    def register(port: int) -> None:
        registered("ARCHIVE", host="127.0.0.1", port=port, may_be_sent_to=True)
        with services.database.connection(tenant.id) as connection:
            connection.execute(
                "UPDATE dicom_application_entities SET port = %s, purpose = 'CARE'"
                " WHERE tenant_id = %s AND ae_title = 'ARCHIVE'",
                (port, tenant.id),
            )

    yield register
    with services.database.connection(tenant.id) as connection:
        for table in ("dicom_deliveries", "dicom_routing_rules"):
            connection.execute(f"DELETE FROM {table} WHERE tenant_id = %s", (tenant.id,))


@pytest.fixture
def rule(services: Any, tenant: Tenant) -> Callable[..., None]:
    def put(name: str = "all", **values: Any) -> None:
        with services.database.connection(tenant.id) as connection:
            rules.put(connection, tenant.id, name, {"ae_title": "ARCHIVE", **values})

    return put


@pytest.fixture
def our_port(start: Any) -> int:
    return int(start().port)


@pytest.fixture
def store(our_port: int, connect: Any) -> Callable[..., None]:
    """C-STORE as PEER, or as another."""

    def send(*samples: Any, calling: str = "PEER", called: str = "INTEROP") -> None:
        peer = connect(our_port)
        peer.associate(calling=calling, called=called)
        for sample in samples:
            assert peer.store(sample).status == 0
        peer.release()

    return send


@pytest.fixture
def listed(services: Any, tenant: Tenant) -> Callable[[], list[dict[str, Any]]]:
    def look() -> list[dict[str, Any]]:
        with services.database.connection(tenant.id) as connection:
            return deliveries.list_deliveries(connection, tenant.id)

    return look


def test_without_rules_nothing_is_queued(store: Any, make_ct: Any, listed: Any) -> None:
    store(make_ct())

    assert listed() == []


def test_what_matches_is_sent_and_written_down(
    archive: StoreScp, rule: Any, store: Any, make_ct: Any, listed: Any, worker: WorkerServices,
    tenant: Tenant, services: Any,
) -> None:  # fmt: skip
    rule(predicate={"modalities": ["CT"], "study_descriptions": ["*pano*"]})
    first, other = make_ct(StudyDescription="Panoramic"), make_ct(StudyDescription="Bitewing")
    later = make_ct(study=first.study_instance_uid, StudyDescription="Panoramic")

    store(first, other, later)
    with running_jobs(worker):
        assert eventually(lambda: {d["status"] for d in listed()} == {"DELIVERED"})

    wanted = {first.sop_instance_uid, later.sop_instance_uid}
    assert archive.received == wanted
    assert {d["sop_instance_uid"] for d in listed()} == wanted
    with services.database.connection(tenant.id) as connection:
        sent = connection.execute(
            "SELECT operation, called_ae_title, status FROM dicom_transactions"
            " WHERE tenant_id = %s AND direction = 'OUTBOUND' AND study_instance_uid = %s",
            (tenant.id, first.study_instance_uid),
        ).fetchall()
        audited = connection.execute(
            "SELECT metadata ->> 'objects' FROM audit_events WHERE tenant_id = %s"
            " AND event_type = 'IMAGES_SENT' AND resource_id = %s",
            (tenant.id, first.study_instance_uid),
        ).fetchall()
    assert sent == [("C-STORE", "ARCHIVE", "SUCCESS")] * 2
    assert sum(int(row[0]) for row in audited) == 2


def test_the_same_object_again_is_sent_once(
    archive: StoreScp, rule: Any, store: Any, make_ct: Any, listed: Any, worker: WorkerServices
) -> None:
    rule("one")
    rule("two", predicate={"modalities": ["CT"]})
    sample = make_ct()

    store(sample)
    store(sample)
    with running_jobs(worker):
        assert eventually(lambda: [d["status"] for d in listed()] == ["DELIVERED"])

    assert archive.received == {sample.sop_instance_uid}


def test_nothing_goes_back_to_where_it_came_from(
    archive: StoreScp, rule: Any, store: Any, make_ct: Any, listed: Any
) -> None:
    rule()
    store(make_ct(), calling="ARCHIVE")

    assert listed() == []


def test_a_study_goes_when_it_has_been_quiet(
    archive: StoreScp, rule: Any, store: Any, make_ct: Any, listed: Any, worker: WorkerServices
) -> None:
    rule(quiet_seconds=4)
    samples = [make_ct()]
    samples.append(make_ct(study=samples[0].study_instance_uid))

    with running_jobs(worker):
        store(samples[0])
        time.sleep(2)  # less than the window: the next one begins it anew
        store(samples[1])
        began = datetime.now(UTC)
        assert eventually(lambda: {d["status"] for d in listed()} == {"DELIVERED"}, 30)

    assert all(d["delivered_at"] >= began + timedelta(seconds=3) for d in listed())
    assert archive.received == {sample.sop_instance_uid for sample in samples}


def test_another_tenants_objects_meet_no_rule_of_ours(
    archive: StoreScp, rule: Any, store: Any, make_ct: Any, listed: Any
) -> None:
    rule()
    store(make_ct(), called="OTHER")

    assert listed() == []


def test_a_peer_that_is_away_gets_it_when_it_is_back(
    tmp_path: Path, destination: Any, rule: Any, store: Any, make_ct: Any, listed: Any,
    worker: WorkerServices, services: Any, tenant: Tenant,
) -> None:  # fmt: skip
    port = free_port()
    destination(port)
    rule()
    sample = make_ct()
    store(sample)

    with running_jobs(worker):
        assert eventually(lambda: [d["status"] for d in listed()] == ["RETRYING"])
        assert "no connection" in listed()[0]["message"]
        archive = StoreScp(tmp_path / "archive", port)
        try:
            with services.database.connection(tenant.id) as connection:
                assert deliveries.retry(connection, tenant.id) == 1
            assert eventually(lambda: [d["status"] for d in listed()] == ["DELIVERED"])
            assert archive.received == {sample.sop_instance_uid}
        finally:
            archive.close()


def test_what_fails_for_ever_becomes_a_dead_letter(
    destination: Any, rule: Any, store: Any, make_ct: Any, listed: Any, services: Any,
    tenant: Tenant, worker: WorkerServices,
) -> None:  # fmt: skip
    destination(free_port())
    rule()
    store(make_ct())
    with services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE dicom_deliveries SET attempts = %s WHERE tenant_id = %s",
            (len(deliveries.DELAYS), tenant.id),
        )

    with running_jobs(worker):
        assert eventually(lambda: [d["status"] for d in listed()] == ["DEAD_LETTER"])


def test_what_lost_its_job_is_found(
    archive: StoreScp, rule: Any, store: Any, make_ct: Any, listed: Any, services: Any,
    tenant: Tenant, worker: WorkerServices,
) -> None:  # fmt: skip
    rule()
    sample = make_ct()
    store(sample)
    with services.database.connection(tenant.id) as connection:
        assert forgotten.reschedule(connection, tenant.id) == 0
    with services.database.platform_connection() as connection:
        connection.execute("DELETE FROM procrastinate_jobs WHERE task_name = 'deliver_images'")
    with services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE dicom_deliveries SET next_attempt_at = now() - interval '1 hour'"
            " WHERE tenant_id = %s",
            (tenant.id,),
        )
        assert forgotten.reschedule(connection, tenant.id) == 1
        assert forgotten.reschedule(connection, tenant.id) == 0

    with running_jobs(worker):
        assert eventually(lambda: [d["status"] for d in listed()] == ["DELIVERED"])
    assert archive.received == {sample.sop_instance_uid}


def test_without_the_patients_consent_nothing_goes(
    archive: StoreScp, rule: Any, store: Any, make_ct: Any, listed: Any, services: Any,
    tenant: Tenant, worker: WorkerServices,
) -> None:  # fmt: skip
    rule(required_consent="DATA_SHARING")
    willing, unwilling = make_ct(PatientID=f"W{uuid4().hex}"), make_ct(PatientID=f"U{uuid4().hex}")
    store(willing, unwilling)
    with services.database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO consents (tenant_id, subject_type, subject_id, consent_type, granted_at)"
            " SELECT tenant_id, 'PATIENT', patient_id, 'DATA_SHARING', now() - interval '1 hour'"
            " FROM imaging_studies WHERE tenant_id = %s AND study_uid = %s",
            (tenant.id, willing.study_instance_uid),
        )

    with running_jobs(worker):
        assert eventually(
            lambda: (
                {d["sop_instance_uid"]: d["status"] for d in listed()}
                == {willing.sop_instance_uid: "DELIVERED", unwilling.sop_instance_uid: "WITHHELD"}
            )
        )

    assert archive.received == {willing.sop_instance_uid}


def test_a_destination_of_another_purpose_gets_only_patients_who_consented(
    archive: StoreScp, rule: Any, store: Any, make_ct: Any, listed: Any, services: Any,
    tenant: Tenant, worker: WorkerServices,
) -> None:  # fmt: skip
    """Whatever the rule says: for whom the AE works is said where it is registered."""
    rule()
    with services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE dicom_application_entities SET purpose = 'RESEARCH'"
            " WHERE tenant_id = %s AND ae_title = 'ARCHIVE'",
            (tenant.id,),
        )
    sample = make_ct(PatientID=f"R{uuid4().hex}")
    store(sample)

    with running_jobs(worker):
        assert eventually(lambda: [d["status"] for d in listed()] == ["WITHHELD"])

    assert archive.received == set()


def test_the_destination_is_asked_to_keep_what_it_got(
    destination: Any, rule: Any, store: Any, make_ct: Any, listed: Any, worker: WorkerServices,
    our_port: int, services: Any, tenant: Tenant,
) -> None:  # fmt: skip
    """pynetdicom as an archive that commits itself on the association that asks."""
    entity, got, stored = AE("ARCHIVE"), [], []
    entity.add_supported_context(CT)
    entity.add_supported_context(PUSH_MODEL_SOP_CLASS, scu_role=True, scp_role=True)

    def on_action(event: Any) -> tuple[int, None]:
        got.append(event.action_information)
        return 0x0000, None

    def on_store(event: Any) -> int:
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    server = entity.start_server(
        ("127.0.0.1", 0), block=False,
        evt_handlers=[(evt.EVT_C_STORE, on_store), (evt.EVT_N_ACTION, on_action)],
    )  # fmt: skip
    destination(server.server_address[1])
    rule(with_commitment=True)
    good, bad = make_ct(), make_ct()
    try:
        store(good, bad)
        with running_jobs(worker):
            assert eventually(lambda: len(got) == 1, 30)
            assert [d["commitment"] for d in listed()] == ["REQUESTED"] * 2
            report_to_us(our_port, got[0], bad.sop_instance_uid)
            expected = {good.sop_instance_uid: "COMMITTED", bad.sop_instance_uid: "NOT_COMMITTED"}
            assert eventually(lambda: commitments(listed()) == expected)

            with services.database.connection(tenant.id) as connection:
                assert deliveries.retry(connection, tenant.id) == 1
            assert eventually(lambda: len(got) == 2, 30)
            report_to_us(our_port, got[1])
            assert eventually(lambda: set(commitments(listed()).values()) == {"COMMITTED"})
    finally:
        server.shutdown()

    assert sorted(stored) == sorted([good.sop_instance_uid, *[bad.sop_instance_uid] * 2])
    with services.database.connection(tenant.id) as connection:
        assert deliveries.retry(connection, tenant.id) == 0


def commitments(found: list[dict[str, Any]]) -> dict[str, str]:
    return {one["sop_instance_uid"]: one["commitment"] for one in found}


def report_to_us(port: int, asked: Any, failing: str | None = None) -> None:
    """The archive's N-EVENT-REPORT on an association of its own, without role selection."""
    told = type(asked)()
    told.TransactionUID = asked.TransactionUID
    told.ReferencedSOPSequence = [
        one for one in asked.ReferencedSOPSequence if one.ReferencedSOPInstanceUID != failing
    ]
    failed = [one for one in asked.ReferencedSOPSequence if one.ReferencedSOPInstanceUID == failing]
    for one in failed:
        one.FailureReason = 0x0110
    if failed:
        told.FailedSOPSequence = failed
    association = AE("ARCHIVE").associate(
        "127.0.0.1", port, [build_context(PUSH_MODEL_SOP_CLASS)], "INTEROP"
    )
    assert association.is_established
    status, _ = association.send_n_event_report(
        told, 2 if failed else 1, PUSH_MODEL_SOP_CLASS, PUSH_MODEL_SOP_CLASS + ".1"
    )
    association.release()
    assert status.Status == 0


def test_a_worker_that_is_killed_loses_and_repeats_nothing(
    tmp_path: Path, destination: Any, rule: Any, store: Any, make_ct: Any, listed: Any,
    worker: WorkerServices, services: Any, tenant: Tenant, object_store: Any,
) -> None:  # fmt: skip
    """The first worker is a process of its own, killed while the peer is slow to answer."""
    got: list[str] = []

    def on_store(event: Any) -> int:
        got.append(str(event.request.AffectedSOPInstanceUID))
        time.sleep(0.3)
        return 0x0000

    entity = AE("ARCHIVE")
    entity.add_supported_context(CT)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)]
    )
    destination(server.server_address[1])
    rule()
    study = generate_uid()
    samples = [make_ct(study=study) for _ in range(6)]
    try:
        store(*samples)
        first = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.dimse.killed_worker"],
            env=os.environ
            | {
                "TEST_DATABASE": services.database.conninfo,
                "TEST_OBJECTS": str(services.objects_root),
                "TEST_DATA": str(tmp_path / "killed"),
            },
        )
        try:
            assert eventually(lambda: len(got) >= 2, 60)
        finally:
            os.kill(first.pid, signal.SIGKILL)
            first.wait(10)
        assert {d["status"] for d in listed()} == {"PENDING"}
        with services.database.connection(tenant.id) as connection:
            # What the dead worker holds is free after a minute; the test does not wait for that.
            connection.execute(
                "UPDATE dicom_deliveries SET claimed_until = now() WHERE tenant_id = %s",
                (tenant.id,),
            )
            deliveries.retry(connection, tenant.id)
        with services.database.platform_connection() as connection:
            connection.execute("UPDATE procrastinate_jobs SET worker_id = NULL")
        with running_jobs(worker):
            assert eventually(lambda: {d["status"] for d in listed()} == {"DELIVERED"}, 60)
    finally:
        server.shutdown()

    assert set(got) == {sample.sop_instance_uid for sample in samples}
