"""Storage Commitment as SCP: what is promised is verified to the byte (PS3.4 Annex J)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context, build_role

from benchmarks.live_server import free_port
from interop.dimse.commitment_messages import (
    MAX_REFERENCES,
    PUSH_MODEL_SOP_CLASS,
    PUSH_MODEL_SOP_INSTANCE,
    Reference,
    Request,
    request_data_set,
)
from storage.tenancy import Tenant
from tests.integration.dimse.dicom_jobs import WorkerServices, running_jobs

pytestmark = pytest.mark.timeout(120)

CT, MR = str(CTImageStorage), str(MRImageStorage)
NO_SUCH_INSTANCE, CONFLICT, DAMAGED, DUPLICATE = 0x0112, 0x0119, 0x0110, 0x0131


@dataclass
class Told:
    """A report that arrived."""

    transaction_uid: str
    event_type: int
    committed: set[str]
    failed: dict[str, int]
    on_own_association: bool


@dataclass
class Device:
    """A modality with pynetdicom: sends, asks for commitment, and listens for reports."""

    ae_title: str
    port: int
    reports: list[Told] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)

    def on_report(self, event: Any) -> tuple[int, None]:
        if self.answers:
            return self.answers.pop(0), None
        told = event.event_information
        self.reports.append(
            Told(
                str(told.TransactionUID),
                event.event_type,
                {str(i.ReferencedSOPInstanceUID) for i in told.get("ReferencedSOPSequence", [])},
                {
                    str(i.ReferencedSOPInstanceUID): int(i.FailureReason)
                    for i in told.get("FailedSOPSequence", [])
                },
                event.assoc.is_requestor,
            )
        )
        self.arrived.set()
        return 0x0000, None

    def ask(
        self,
        port: int,
        references: list[tuple[str, str]],
        uid: str | None = None,
        *,
        wait: float = 0.0,
        called: str = "INTEROP",
        request: Dataset | None = None,
        action: int = 1,
        instance: str = PUSH_MODEL_SOP_INSTANCE,
    ) -> tuple[str, int]:
        """N-ACTION; then stay for `wait` seconds or until a report is there."""
        uid = uid or generate_uid()
        asked = Request(uid, tuple(Reference(*one) for one in references))
        entity = AE(self.ae_title)
        association = entity.associate(
            "127.0.0.1", port, [build_context(PUSH_MODEL_SOP_CLASS)], called,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.on_report)],
        )  # fmt: skip
        assert association.is_established
        status, _ = association.send_n_action(
            request if request is not None else request_data_set(asked),
            action, PUSH_MODEL_SOP_CLASS, instance,
        )  # fmt: skip
        self.arrived.wait(wait)
        association.release()
        return uid, int(status.Status)


@pytest.fixture
def device(registered: Callable[..., None], services: Any, tenant: Tenant) -> Iterator[Device]:
    """Registered as DEVICE with its address, and listening there."""
    made = Device("DEVICE", free_port())
    entity = AE("DEVICE")
    context = build_context(PUSH_MODEL_SOP_CLASS)
    entity.add_supported_context(PUSH_MODEL_SOP_CLASS, scu_role=True, scp_role=True)
    assert context
    server = entity.start_server(
        ("127.0.0.1", made.port), block=False,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, made.on_report)],
    )  # fmt: skip
    registered("DEVICE", host="127.0.0.1", port=made.port)
    with services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE dicom_application_entities SET port = %s WHERE tenant_id = %s"
            " AND ae_title = 'DEVICE'",
            (made.port, tenant.id),
        )
    yield made
    server.shutdown()


def state(services: Any, tenant: Tenant, uid: str) -> str:
    with services.database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT status FROM storage_commitments WHERE tenant_id = %s AND transaction_uid = %s"
            " ORDER BY created_at DESC LIMIT 1",
            (tenant.id, uid),
        ).fetchone()
    return str(row[0]) if row else ""


def test_what_is_stored_is_committed_on_the_association_that_asked(
    start: Any, connect: Any, make_ct: Any, device: Device, worker: WorkerServices, tenant: Tenant,
    eventually: Any,
) -> None:  # fmt: skip
    running = start()
    samples = [make_ct(), make_ct()]
    peer = connect(running.port)
    peer.associate()
    for sample in samples:
        assert peer.store(sample).status == 0
    peer.release()

    with running_jobs(worker):
        references = [(CT, sample.sop_instance_uid) for sample in samples]
        uid, status = device.ask(running.port, references, wait=20)

        assert status == 0x0000
        assert eventually(lambda: state(worker, tenant, uid) == "REPORTED")
    (told,) = device.reports
    assert told == Told(uid, 1, {s.sop_instance_uid for s in samples}, {}, True)


def test_each_way_to_fail_has_its_reason_on_a_new_association(
    start: Any, connect: Any, make_ct: Any, device: Device, worker: WorkerServices,
    tenant: Tenant, services: Any, eventually: Any,
) -> None:  # fmt: skip
    running = start()
    good, damaged, lost, other_class = make_ct(), make_ct(), make_ct(), make_ct()
    peer = connect(running.port)
    peer.associate()
    for sample in (good, damaged, lost, other_class):
        assert peer.store(sample).status == 0
    peer.release()
    flip_a_byte(worker, tenant, damaged.sop_instance_uid)
    worker.objects.delete(key_of(worker, tenant, lost.sop_instance_uid))
    unknown = generate_uid()

    with running_jobs(worker):
        uid, status = device.ask(
            running.port,
            [
                (CT, good.sop_instance_uid),
                (CT, damaged.sop_instance_uid),
                (CT, lost.sop_instance_uid),
                (MR, other_class.sop_instance_uid),
                (CT, unknown),
            ],
        )
        assert status == 0x0000
        assert eventually(lambda: state(worker, tenant, uid) == "REPORTED")

    (told,) = device.reports
    assert told == Told(
        uid,
        2,
        {good.sop_instance_uid},
        {
            damaged.sop_instance_uid: DAMAGED,
            lost.sop_instance_uid: DAMAGED,
            other_class.sop_instance_uid: CONFLICT,
            unknown: NO_SUCH_INSTANCE,
        },
        False,
    )
    # The damage is in the audit trail, and nothing else is called damaged.
    with services.database.connection(tenant.id) as connection:
        found = connection.execute(
            "SELECT metadata ->> 'sop_instance_uid' FROM audit_events WHERE tenant_id = %s"
            " AND event_type = 'DICOM_INSTANCE_DAMAGED'",
            (tenant.id,),
        ).fetchall()
    assert {row[0] for row in found} == {damaged.sop_instance_uid, lost.sop_instance_uid}


def test_a12_another_tenants_objects_answer_as_random_ones(
    start: Any, connect: Any, make_ct: Any, device: Device, worker: WorkerServices,
    tenant: Tenant, eventually: Any,
) -> None:  # fmt: skip
    running = start()
    theirs = make_ct()
    peer = connect(running.port)
    peer.associate(called="OTHER")
    assert peer.store(theirs).status == 0
    peer.release()
    random = generate_uid()

    with running_jobs(worker):
        uid, status = device.ask(running.port, [(CT, theirs.sop_instance_uid), (CT, random)])
        assert status == 0x0000
        assert eventually(lambda: state(worker, tenant, uid) == "REPORTED")

    (told,) = device.reports
    assert told.committed == set()
    assert told.failed == {theirs.sop_instance_uid: NO_SUCH_INSTANCE, random: NO_SUCH_INSTANCE}


def test_a_transaction_uid_in_use_by_other_objects_fails_with_0131(
    start: Any, connect: Any, make_ct: Any, device: Device, worker: WorkerServices, tenant: Tenant,
    eventually: Any,
) -> None:  # fmt: skip
    running = start()
    first, second = make_ct(), make_ct()
    peer = connect(running.port)
    peer.associate()
    for sample in (first, second):
        assert peer.store(sample).status == 0
    peer.release()

    with running_jobs(worker):
        uid, _ = device.ask(running.port, [(CT, first.sop_instance_uid)], wait=20)
        assert eventually(lambda: state(worker, tenant, uid) == "REPORTED")
        # The very same request is no other transaction: it is verified and reported once more.
        device.arrived.clear()
        device.ask(running.port, [(CT, first.sop_instance_uid)], uid, wait=20)
        assert eventually(lambda: len(device.reports) == 2)
        device.arrived.clear()
        device.ask(running.port, [(CT, second.sop_instance_uid)], uid, wait=20)
        assert eventually(lambda: len(device.reports) == 3)

    assert device.reports[1].committed == {first.sop_instance_uid}
    assert device.reports[2].failed == {second.sop_instance_uid: DUPLICATE}


def test_a_peer_that_is_away_is_told_when_it_is_back(
    start: Any, connect: Any, make_ct: Any, device: Device, worker: WorkerServices, tenant: Tenant,
    eventually: Any,
) -> None:  # fmt: skip
    running = start()
    sample = make_ct()
    peer = connect(running.port)
    peer.associate()
    assert peer.store(sample).status == 0
    peer.release()
    device.answers = [0x0110]  # the first report meets a device that cannot take it

    uid, _ = device.ask(running.port, [(CT, sample.sop_instance_uid)])
    assert state(worker, tenant, uid) == "ACCEPTED"
    # The worker comes, does half of it, and another one goes on.
    with running_jobs(worker):
        assert eventually(lambda: device.answers == [], 30)
    with running_jobs(worker):
        assert eventually(lambda: state(worker, tenant, uid) == "REPORTED", 30)

    assert [told.committed for told in device.reports] == [{sample.sop_instance_uid}]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"action": 2}, 0x0123),
        ({"instance": "1.2.3"}, 0x0112),
        ({"request": request_data_set(Request("1.2.3.4", ()))}, 0x0115),
        ({"request": request_data_set(Request("", (Reference(CT, "1"),)))}, 0x0115),
    ],
)
def test_requests_that_are_none_are_refused(
    start: Any, device: Device, change: dict[str, Any], status: int
) -> None:
    running = start()

    assert device.ask(running.port, [(CT, "1.2.3")], **change)[1] == status


def test_a_request_of_too_many_objects_is_refused(start: Any, device: Device) -> None:
    running = start()
    # Short UIDs, so that the count is over the limit before the size is.
    references = [("1.2", f"1.{n}") for n in range(MAX_REFERENCES + 1)]

    assert device.ask(running.port, references)[1] == 0x0213


def test_who_may_not_send_is_offered_no_commitment(
    start: Any, registered: Callable[..., None]
) -> None:
    running = start()
    registered("READER", may_send=False)

    association = AE("READER").associate(
        "127.0.0.1", running.port,
        [build_context(PUSH_MODEL_SOP_CLASS), build_context("1.2.840.10008.1.1")], "INTEROP",
        ext_neg=[build_role(PUSH_MODEL_SOP_CLASS, scu_role=True)],
    )  # fmt: skip
    accepted = {
        str(context.abstract_syntax) for context in association.accepted_contexts if context.as_scu
    }
    association.release()

    assert accepted == {"1.2.840.10008.1.1"}


def key_of(services: WorkerServices, tenant: Tenant, uid: str) -> str:
    with services.database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT storage_uri FROM imaging_objects WHERE tenant_id = %s"
            " AND sop_instance_uid = %s",
            (tenant.id, uid),
        ).fetchone()
    assert row is not None
    return str(row[0])


def flip_a_byte(services: WorkerServices, tenant: Tenant, uid: str) -> None:
    """Bit rot: same length, same row, another byte."""
    path = services.objects.local_path(key_of(services, tenant, uid))
    assert path is not None
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(raw)
