"""C-ECHO and C-STORE with real peers: DCMTK, pynetdicom, and what they leave in the database."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from xxhash import xxh3_128

from interop.dimse import scu, sender
from interop.dimse.c_store import StoreService

STORESCU, ECHOSCU = shutil.which("storescu"), shutil.which("echoscu")
needs_dcmtk = pytest.mark.skipif(
    STORESCU is None or ECHOSCU is None, reason="DCMTK's storescu and echoscu are not installed"
)


def rows(services: Any, tenant: Any, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with services.database.connection(tenant.id) as connection:
        found: list[tuple[Any, ...]] = connection.execute(
            sql, {"tenant_id": tenant.id, **values}
        ).fetchall()
    return found


def stored(services: Any, tenant: Any, *uids: str) -> dict[str, tuple[Any, ...]]:
    """Rows of these instances: dataset hash, transfer syntax, calling AE title."""
    found = rows(
        services,
        tenant,
        "SELECT sop_instance_uid, dataset_hash, transfer_syntax_uid, source_ae_title"
        " FROM imaging_objects WHERE tenant_id = %(tenant_id)s"
        " AND sop_instance_uid = ANY(%(uids)s)",
        uids=list(uids),
    )
    return {row[0]: row[1:] for row in found}


@needs_dcmtk
def test_echoscu_of_dcmtk_is_answered(start: Any) -> None:
    running = start()
    assert ECHOSCU is not None

    done = subprocess.run(
        [ECHOSCU, "-aec", "INTEROP", "127.0.0.1", str(running.port)],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr


@needs_dcmtk
def test_unmodified_storescu_does_not_stall(
    start: Any, make_ct: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DCMTK leaves Nagle on: with delayed ACKs every one of its messages waits about 40 ms."""
    running = start()
    samples = [make_ct() for _ in range(100)]
    gaps: list[float] = []
    last_answer: list[float] = []
    handle = StoreService.handle_c_store

    def timed(self: Any, *args: Any) -> None:
        if last_answer:
            gaps.append(time.monotonic() - last_answer[-1])
        handle(self, *args)
        last_answer.append(time.monotonic())

    monkeypatch.setattr(StoreService, "handle_c_store", timed)
    assert STORESCU is not None

    done = subprocess.run(
        [STORESCU, "-aec", "INTEROP", "127.0.0.1", str(running.port), *[s.path for s in samples]],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert len(stored(running.services, tenant, *[s.sop_instance_uid for s in samples])) == 100
    stalls = sum(gap > 0.035 for gap in gaps)
    assert len(gaps) == 99
    assert stalls < 30, f"{stalls} of 99 messages came late"


@pytest.mark.parametrize("side", [16, 300, 1500])
def test_what_pynetdicom_sends_is_kept_byte_for_byte(
    start: Any, make_ct: Any, tenant: Any, side: int
) -> None:
    running = start()
    sample = make_ct(side)

    report = scu.send([sample.path], "127.0.0.1", running.port, "INTEROP", "PEER")

    assert [entry.status for entry in report.sent] == [0]
    digest = xxh3_128(sample.dataset).hexdigest()
    assert stored(running.services, tenant, sample.sop_instance_uid) == {
        sample.sop_instance_uid: (digest, sample.transfer_syntax_uid, "PEER")
    }


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_an_object_is_kept_in_the_transfer_syntax_it_came_in(
    start: Any, make_ct: Any, tenant: Any, syntax: Any
) -> None:
    running = start()
    sample = make_ct(transfer_syntax=syntax)

    report = scu.send([sample.path], "127.0.0.1", running.port, "INTEROP", "PEER")

    assert [(entry.status, entry.message) for entry in report.sent] == [(0, "")]
    digest = xxh3_128(sample.dataset).hexdigest()
    uid = sample.sop_instance_uid
    assert stored(running.services, tenant, uid) == {uid: (digest, str(syntax), "PEER")}


def test_the_same_bytes_again_succeed_and_other_bytes_are_refused(
    start: Any, connect: Any, make_ct: Any, tenant: Any
) -> None:
    running = start()
    first = make_ct()
    other = make_ct(PatientID="P2")
    peer = connect(running.port)
    peer.associate()

    again = [peer.store(first).status, peer.store(first, message_id=2).status]
    changed = first.dataset.replace(b"101112", b"101113")
    assert changed != first.dataset
    first.dataset = changed
    refused = peer.store(first, message_id=3)
    after = peer.store(other, message_id=4).status
    peer.release()

    assert again == [0, 0]
    assert refused.status == 0x0111
    assert refused.comment
    assert after == 0


def test_the_response_names_the_request(start: Any, connect: Any, make_ct: Any) -> None:
    sample = make_ct()
    peer = connect(start().port)
    peer.associate()

    elements = peer.store(sample, message_id=4711).elements

    assert elements[0x0100] == b"\x01\x80"
    assert elements[0x0120] == (4711).to_bytes(2, "little")
    assert elements[0x0800] == b"\x01\x01"
    assert elements[0x0002].rstrip(b"\0").decode() == sample.sop_class_uid
    assert elements[0x1000].rstrip(b"\0").decode() == sample.sop_instance_uid


def test_fragments_of_any_size_make_the_same_object(
    start: Any, connect: Any, make_ct: Any, tenant: Any, wire: Any
) -> None:
    running = start()
    peer = connect(running.port)
    peer.associate()
    for size in (1, 7, 4096, 70_000, 500_000):
        sample = make_ct(20 if size == 1 else 600)
        request = wire.store_rq(sample.sop_instance_uid)
        for at in range(0, len(request), 50):
            last = 2 if at + 50 >= len(request) else 0
            peer.send(wire.pdu(4, wire.pdv(1, 1 | last, request[at : at + 50])))
        data, stream = sample.dataset, bytearray()
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            stream += wire.pdu(4, wire.pdv(1, 2 * (at + size >= len(data)), piece))
        peer.send(stream)

        assert peer.response().status == 0
        uid = sample.sop_instance_uid
        assert stored(running.services, tenant, uid)[uid][0] == xxh3_128(data).hexdigest()


def test_several_values_in_one_pdu_and_several_messages_in_one_write(
    start: Any, connect: Any, make_ct: Any, wire: Any
) -> None:
    samples = [make_ct() for _ in range(5)]
    peer = connect(start().port)
    peer.associate()
    stream = b""
    for number, sample in enumerate(samples, 1):
        half = len(sample.dataset) // 2
        stream += wire.pdu(
            4,
            wire.pdv(1, 3, wire.store_rq(sample.sop_instance_uid, number))
            + wire.pdv(1, 0, sample.dataset[:half])
            + wire.pdv(1, 2, sample.dataset[half:]),
        )

    peer.send(stream)

    assert [peer.response().status for _ in samples] == [0] * 5
    peer.release()


def test_a_transaction_row_is_written_for_echo_and_store(
    start: Any, connect: Any, make_ct: Any, tenant: Any, eventually: Any
) -> None:
    running = start()
    sample = make_ct()
    peer = connect(running.port)
    peer.associate(calling="STORESCU")
    assert peer.echo().status == 0
    assert peer.store(sample).status == 0
    peer.release()

    def operations() -> set[tuple[Any, ...]]:
        return set(
            rows(
                running.services,
                tenant,
                "SELECT operation, status, called_ae_title, remote_address"
                " FROM dicom_transactions WHERE tenant_id = %(tenant_id)s"
                " AND calling_ae_title = 'STORESCU'",
            )
        )

    assert eventually(
        lambda: (
            {
                ("C-ECHO", "SUCCESS", "INTEROP", "127.0.0.1"),
                ("C-STORE", "SUCCESS", "INTEROP", "127.0.0.1"),
            }
            <= operations()
        )
    ), operations()


@pytest.mark.strategies
def test_the_called_ae_title_selects_the_tenant(
    start: Any, connect: Any, make_ct: Any, tenant: Any, other_tenant: Any
) -> None:
    running = start()
    sample = make_ct()
    peer = connect(running.port)
    peer.associate(called="OTHER")
    assert peer.store(sample).status == 0

    assert stored(running.services, other_tenant, sample.sop_instance_uid)
    assert not stored(running.services, tenant, sample.sop_instance_uid)


def test_many_associations_at_once_lose_nothing(start: Any, make_ct: Any, tenant: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    running = start()
    batches = [[make_ct(64) for _ in range(5)] for _ in range(12)]

    def send(batch: list[Any]) -> list[int | None]:
        paths = [sample.path for sample in batch]
        report = scu.send(paths, "127.0.0.1", running.port, "INTEROP", "PEER")
        return [entry.status for entry in report.sent]

    with ThreadPoolExecutor(12) as pool:
        statuses = [status for found in pool.map(send, batches) for status in found]

    assert statuses == [0] * 60
    uids = [sample.sop_instance_uid for batch in batches for sample in batch]
    assert len(stored(running.services, tenant, *uids)) == 60


# -- our own SCU ------------------------------------------------------------------------------


def test_scu_echo(start: Any) -> None:
    assert scu.echo("127.0.0.1", start().port, "INTEROP", "PEER") == 0


def test_scu_reports_progress_and_files_that_are_no_dicom(
    start: Any, make_ct: Any, tmp_path: Path
) -> None:
    good = make_ct()
    bad = tmp_path / "readme.txt"
    bad.write_text("not DICOM")
    seen: list[Any] = []

    report = scu.send([tmp_path], "127.0.0.1", start().port, "INTEROP", "PEER", seen.append)

    assert {(e.path, e.is_success) for e in report.sent} == {(good.path, True), (bad, False)}
    assert [e.path for e in report.failed] == [bad]
    assert seen == [1, 1]


def test_scu_says_why_it_was_rejected(start: Any) -> None:
    with pytest.raises(scu.SendFailed, match=r"(?i)called AE title not recognised.*AE titles"):
        scu.echo("127.0.0.1", start().port, "NOBODY", "PEER")


def test_scu_says_that_nobody_listens() -> None:
    with pytest.raises(scu.SendFailed, match="no connection"):
        scu.echo("127.0.0.1", 1, "INTEROP", "PEER")


def test_scu_splits_over_associations_when_contexts_do_not_fit(
    start: Any, make_ct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "MAX_CONTEXTS", 1)
    other = "1.2.840.10008.5.1.4.1.1.7"
    samples = [make_ct(), make_ct(SOPClassUID=other), make_ct()]

    report = scu.send([s.path for s in samples], "127.0.0.1", start().port, "INTEROP", "PEER")

    assert [entry.status for entry in report.sent] == [0, 0, 0]
