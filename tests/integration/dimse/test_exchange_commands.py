"""Send with commitment, route and pull as an operator does: the real server, Orthanc beside it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom.data
import pytest

from benchmarks.live_server import LiveServer
from benchmarks.orthanc import Orthanc, is_installed
from interop.dimse import scu

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not is_installed(), reason="Orthanc is not installed"),
]
FILES = Path(pydicom.data.__file__).parent / "test_files"
CT, MR, SR = (FILES / name for name in ("CT_small.dcm", "MR_small.dcm", "test-SR.dcm"))
CT_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
MR_STUDY = "1.3.6.1.4.1.5962.1.2.4.20040826185059.5457"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    # Beside a server each command is a second, alone it starts the database first.
    with LiveServer(tmp_path_factory.mktemp("server")) as live:
        live.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
        live.cli("ae", "create", "--tenant", "demo", "--ae-title", "PANO")
        yield live


@pytest.fixture(scope="module")
def orthanc(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    us = {"AET": "INTEROP", "Host": "127.0.0.1", "Port": server.dicom_port}
    peer = Orthanc(
        tmp_path_factory.mktemp("orthanc"), DicomModalities={"interop": us},
        DicomAlwaysAllowGet=True, DicomAlwaysAllowFind=True, DicomAlwaysAllowMove=True,
    ).start()  # fmt: skip
    server.cli(
        "ae", "create", "--tenant", "demo", "--ae-title", "ORTHANC", "--host", "127.0.0.1",
        "--port", str(peer.dicom_port),
    )  # fmt: skip
    yield peer
    peer.stop()


Listed = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def listed(server: LiveServer) -> Listed:
    """What /api/v1 lists: asked again and again, each command would be two seconds."""
    token = server.cli("token", "--tenant", "demo").strip()

    def look(kind: str) -> list[dict[str, Any]]:
        request = urllib.request.Request(
            f"{server.url}/api/v1/tenants/demo/{kind}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return list(json.load(answer)["items"])

    return look


def instances(peer: Orthanc) -> int:
    with urllib.request.urlopen(f"{peer.url}/instances", timeout=20) as answer:
        return len(json.load(answer))


def test_what_is_sent_is_committed(server: LiveServer, orthanc: Orthanc, listed: Listed) -> None:
    sent = json.loads(
        server.cli(
            "send", "--tenant", "demo", "--ae-title", "ORTHANC", "--commit", "--json", str(MR)
        )
    )

    assert (sent["stored"], sent["failed"]) == (1, [])
    # Orthanc reports on an association of its own, to the running server.
    server.wait_for(lambda: listed("storage-commitments")[0]["status"] == "COMMITTED")
    [shown] = json.loads(server.cli("commitments", "--tenant", "demo", "--json"))
    assert shown["transaction_uid"] == sent["commitment"]["transaction_uid"]


def test_what_comes_in_is_sent_on(server: LiveServer, orthanc: Orthanc, listed: Listed) -> None:
    before = instances(orthanc)
    server.cli("route", "put", "ct", "--tenant", "demo", "--to-ae", "ORTHANC", "--modality", "CT")
    assert [rule["name"] for rule in json.loads(
        server.cli("route", "list", "--tenant", "demo", "--json")
    )] == ["ct"]  # fmt: skip

    report = scu.send([CT, SR], "127.0.0.1", server.dicom_port, "INTEROP", "PANO")

    assert report.failed == []
    server.wait_for(lambda: [d["status"] for d in listed("deliveries")] == ["DELIVERED"])
    [shown] = json.loads(server.cli("deliveries", "--tenant", "demo", "--json"))
    assert shown["sop_instance_uid"] == CT_UID
    assert instances(orthanc) == before + 1
    server.cli("route", "remove", "ct", "--tenant", "demo")


def test_what_the_archive_has_is_pulled_once(server: LiveServer, orthanc: Orthanc) -> None:
    sent = scu.send([MR], "127.0.0.1", orthanc.dicom_port, "ORTHANC", "ANY")
    assert sent.failed == []

    def pull(*options: str) -> dict[str, Any]:
        printed = server.cli(
            "pull", "--tenant", "demo", "--from", "ORTHANC", "--study-uid", MR_STUDY, "--json",
            *options,
        )  # fmt: skip
        return dict(json.loads(printed))

    planned = pull("--dry-run")
    assert [study["to_fetch"] for study in planned["studies"]] == [1]
    assert "fetched" not in planned
    pulled = pull()
    assert (pulled["fetched"], pulled["stored_before"], pulled["failed"]) == (1, 0, 0)
