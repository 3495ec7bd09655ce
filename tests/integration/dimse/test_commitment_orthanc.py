"""Storage Commitment with Orthanc, which is SCU and SCP of it: it asks us, and we ask it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from benchmarks.orthanc import Orthanc, is_installed
from interop.dimse import commitment_records as records
from interop.dimse import scu
from interop.dimse.commitment_messages import Failed, Reference, Request
from storage.tenancy import Tenant
from tests.integration.dimse.dicom_jobs import WorkerServices, running_jobs
from tests.waiting import eventually

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not is_installed(), reason="Orthanc is not installed"),
]
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def our_port(start: Any) -> int:
    return int(start().port)


@pytest.fixture
def orthanc(
    tmp_path: Path, our_port: int, services: Any, tenant: Tenant, registered: Any
) -> Iterator[Orthanc]:
    us = {"AET": "INTEROP", "Host": "127.0.0.1", "Port": our_port, "AllowStorageCommitment": True}
    peer = Orthanc(tmp_path / "orthanc", DicomModalities={"interop": us}).start()
    registered("ORTHANC", host="127.0.0.1", port=peer.dicom_port, may_be_sent_to=True)
    with services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE dicom_application_entities SET port = %s WHERE tenant_id = %s"
            " AND ae_title = 'ORTHANC'",
            (peer.dicom_port, tenant.id),
        )
    yield peer
    peer.stop()


def call(peer: Orthanc, path: str, body: Any = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(f"{peer.url}{path}", data, timeout=20) as answer:
        return json.load(answer)


def test_orthanc_asks_us(
    orthanc: Orthanc, our_port: int, make_ct: Any, worker: WorkerServices
) -> None:
    sample, unknown = make_ct(), generate_uid()
    assert scu.send([sample.path], "127.0.0.1", our_port, "INTEROP", "PEER").failed == []

    with running_jobs(worker):
        asked = call(
            orthanc,
            "/modalities/interop/storage-commitment",
            {"DicomInstances": [[CT, sample.sop_instance_uid], [CT, unknown]]},
        )
        assert eventually(lambda: call(orthanc, asked["Path"])["Status"] != "Pending", 30)

    told = call(orthanc, asked["Path"])
    assert told["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in told["Success"]] == [sample.sop_instance_uid]
    assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in told["Failures"]] == [
        (unknown, 0x0112)
    ]


def test_we_ask_orthanc(
    orthanc: Orthanc, make_ct: Any, worker: WorkerServices, tenant: Tenant
) -> None:
    sample, unknown = make_ct(), Reference(CT, generate_uid())
    kept = Reference(CT, sample.sop_instance_uid)
    sent = scu.send([sample.path], "127.0.0.1", orthanc.dicom_port, "ORTHANC", "INTEROP")
    assert sent.failed == []
    parties = records.Parties("ORTHANC", "INTEROP", None)

    def ask(*references: Reference) -> Any:
        with worker.database.connection(tenant.id) as connection:
            id_ = records.begin_asking(
                connection, tenant.id, parties, Request(str(generate_uid()), references),
                datetime.now(UTC) + timedelta(days=1),
            )  # fmt: skip
            records.ask_later(connection, tenant.id, id_)
        return id_

    def status(id_: Any) -> str:
        with worker.database.connection(tenant.id) as connection:
            found = records.find(connection, tenant.id, id_)
        assert found is not None
        return found.status

    with running_jobs(worker):
        good, mixed = ask(kept), ask(kept, unknown)
        assert eventually(lambda: status(good) == "COMMITTED", 30)
        assert eventually(lambda: status(mixed) == "PARTLY_COMMITTED", 30)

    with worker.database.connection(tenant.id) as connection:
        assert records.failures_of(connection, tenant.id, mixed) == [Failed(unknown, 0x0112)]
