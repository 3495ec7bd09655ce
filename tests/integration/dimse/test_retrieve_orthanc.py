"""Orthanc asks us for a study by C-MOVE, and is the one that it is sent to."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import orthanc
from tests.integration.dimse.retrieving import Stored, move, rows

pytestmark = pytest.mark.skipif(not orthanc.is_installed(), reason="Orthanc is not installed")


@pytest.fixture
def peer(start: Any, tmp_path: Path, registered: Any) -> Iterator[tuple[Any, Any]]:
    """Our listener and an Orthanc that knows it; Orthanc is a registered destination of ours."""
    running = start()
    modalities = {"interop": ["INTEROP", "127.0.0.1", running.port]}
    with orthanc.Orthanc(tmp_path / "orthanc", DicomModalities=modalities) as server:
        registered("ORTHANC", host="127.0.0.1", port=server.dicom_port, may_be_sent_to=True)
        yield running, server


def call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
        return json.loads(answer.read())


def test_orthanc_fetches_a_study_from_us(
    peer: tuple[Any, Any], archive: Stored, services: Any, tenant: Any
) -> None:
    running, server = peer

    call(
        f"{server.url}/modalities/interop/move",
        {"Level": "STUDY", "Resources": [{"StudyInstanceUID": archive.study}], "Timeout": 30},
    )
    stored = call(f"{server.url}/instances?expand")
    again = move(running.port, "ORTHANC", archive.study)[-1]

    found = {one["MainDicomTags"]["SOPInstanceUID"] for one in stored}
    assert found == {sample.sop_instance_uid for sample in archive.samples}
    assert again.Status == 0
    asked = rows(
        services, tenant,
        "SELECT DISTINCT metadata ->> 'calling_ae_title' FROM audit_events"
        " WHERE tenant_id = %(tenant_id)s AND event_type = 'IMAGES_SENT'"
        " AND metadata ->> 'receiving_ae_title' = 'ORTHANC' ORDER BY 1",
    )  # fmt: skip
    assert asked == [("ORTHANC",), ("PEER",)]
