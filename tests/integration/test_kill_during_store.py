"""kill -9 of the whole server while it receives (reliability.md R1, promise 1 and 2).

A sender keeps a ledger of what was acknowledged; the server's process group is killed at a random
moment; after a restart on the same data every acknowledged instance is there, byte for byte, and
nothing is half there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from struct import unpack_from
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from benchmarks.dimse_sender import Association, Instance
from benchmarks.live_server import LiveServer

CT, EXPLICIT = str(CTImageStorage), str(ExplicitVRLittleEndian)
SIDE = 400  # 320 kB, as a slice of a CBCT


@dataclass
class Instances:
    """CT slices of one study, made by patching the UID and the pixels of one encoding."""

    template: bytes
    placeholder: str
    study_instance_uid: str

    @classmethod
    def make(cls) -> Instances:
        placeholder = "2.25." + "1" * 38
        data = Dataset()
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, placeholder
        data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
        data.PatientName, data.PatientID, data.Modality = "FAULT^FELIX", "FAULT1", "CT"
        data.StudyDate, data.StudyTime = "20260102", "101112"
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows = data.Columns = SIDE
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelRepresentation = 0
        data.PixelData = bytes(2 * SIDE * SIDE)
        data["PixelData"].VR = "OW"
        whole = BytesIO()
        buffer = DicomFileLike(whole)
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, data)
        return cls(whole.getvalue(), placeholder, str(data.StudyInstanceUID))

    def next(self, numbers: random.Random) -> Instance:
        uid = f"2.25.{numbers.randrange(10**37, 10**38)}"
        data = bytearray(self.template.replace(self.placeholder.encode(), uid.encode()))
        data[-4096:] = numbers.randbytes(4096)
        return Instance(CT, uid, EXPLICIT, bytes(data))


# PS3.4 Table B.2-1. The processes die one after the other, and a DIMSE worker that still lives
# when its database is gone says honestly that it stored nothing it can vouch for.
OUT_OF_RESOURCES = 0xA700


@dataclass
class Sender:
    """Sends over one association until the connection breaks; remembers what was acknowledged."""

    port: int
    instances: Instances
    numbers: random.Random
    acknowledged: dict[str, str] = field(default_factory=dict)
    unacknowledged: dict[str, str] = field(default_factory=dict)
    refused: list[tuple[str, int]] = field(default_factory=list)

    def run(self) -> None:
        with contextlib.suppress(OSError):
            association = Association(self.port, [(CT, EXPLICIT)], calling="FAULTS")
            try:
                while True:
                    self._store(association)
            finally:
                association.close()

    def _store(self, association: Association) -> None:
        instance = self.instances.next(self.numbers)
        uid = instance.sop_instance_uid
        digest = hashlib.sha256(instance.data_set).hexdigest()
        self.unacknowledged[uid] = digest
        status = association.store(instance)
        if status == 0:
            self.acknowledged[uid] = digest
            del self.unacknowledged[uid]
        elif status != OUT_OF_RESOURCES:
            self.refused.append((uid, status))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server with the tenant `demo` and an AE that may send."""
    made = LiveServer(tmp_path / "data")
    made.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
    made.cli("ae", "create", "--tenant", "demo", "--ae-title", "FAULTS")
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def dicom_web(server: LiveServer, token: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://127.0.0.1:{server.http_port}/t/demo/dicom-web",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    )


def data_set_digest(part10: bytes) -> str:
    """SHA-256 of the data set behind preamble and file meta information."""
    assert part10[128:132] == b"DICM"
    return hashlib.sha256(part10[144 + unpack_from("<I", part10, 140)[0] :]).hexdigest()


def stored_instances(client: httpx.Client, study: str) -> dict[str, str]:
    """Every instance of the study that QIDO-RS finds: SOP Instance UID to Series Instance UID."""
    found: dict[str, str] = {}
    while True:
        page = client.get(
            f"/studies/{study}/instances", params={"limit": 500, "offset": len(found)}
        )
        if page.status_code == 204:
            return found
        assert page.status_code in (200, 206), page.text
        entries: list[dict[str, Any]] = json.loads(page.content)
        for entry in entries:
            found[entry["00080018"]["Value"][0]] = entry["0020000E"]["Value"][0]
        if len(entries) < 500:
            return found


def retrieve(client: httpx.Client, study: str, series: str, uid: str) -> bytes:
    answer = client.get(
        f"/studies/{study}/series/{series}/instances/{uid}",
        headers={"Accept": "application/dicom; transfer-syntax=*"},
    )
    assert answer.status_code == 200, answer.text
    return answer.content


def check(client: httpx.Client, study: str, ledgers: list[Sender], verified: set[str]) -> int:
    """The oracle: acknowledged is whole and visible, unacknowledged is whole or absent."""
    acknowledged = {uid: d for ledger in ledgers for uid, d in ledger.acknowledged.items()}
    pending = {uid: d for ledger in ledgers for uid, d in ledger.unacknowledged.items()}
    visible = stored_instances(client, study)
    lost = set(acknowledged) - set(visible)
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged instances are lost"
    assert set(visible) <= set(acknowledged) | set(pending)
    for uid, series in visible.items():
        if uid in verified and uid in acknowledged:
            continue
        digest = data_set_digest(retrieve(client, study, series, uid))
        assert digest == acknowledged.get(uid, pending.get(uid)), uid
        verified.add(uid)
    return len(acknowledged)


def run_faults(server: LiveServer, kills: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    # The signing key is in the database, so one token lasts over the restarts.
    token = server.cli("token", "--tenant", "demo", "--scope", "system/*.rs").strip()
    instances = Instances.make()
    study = instances.study_instance_uid
    ledgers: list[Sender] = []
    verified: set[str] = set()
    for _ in range(kills):
        senders = [
            Sender(server.dicom_port, instances, random.Random(numbers.random())) for _ in range(3)
        ]
        ledgers += senders
        threads = [threading.Thread(target=sender.run) for sender in senders]
        for thread in threads:
            thread.start()
        time.sleep(numbers.uniform(0.2, 2.0))
        server.kill()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        server.start()
        with dicom_web(server, token) as client:
            check(client, study, ledgers, verified)
    with dicom_web(server, token) as client:
        total = check(client, study, ledgers, set())
    assert total >= kills, f"only {total} instances were acknowledged in {kills} rounds"
    assert [entry for sender in ledgers for entry in sender.refused] == []


@pytest.mark.timeout(600)
def test_acknowledged_instances_survive_three_kills(server: LiveServer) -> None:
    run_faults(server, kills=3)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_acknowledged_instances_survive_twenty_kills(server: LiveServer) -> None:
    run_faults(server, kills=20)
