"""`interop pull` against archives of others: DCMTK's dcmqrscp and Orthanc."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from benchmarks.live_server import free_port
from benchmarks.orthanc import Orthanc, is_installed
from interop.dimse import scu
from interop.dimse.pull import PullFailed, Wanted, fetch, look
from interop.dimse.sender import Destination, SendFailed
from storage.tenancy import Tenant
from tests.waiting import eventually

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("dcmqrscp") is None, reason="DCMTK is not installed"),
]


class Archive:
    """dcmqrscp, which knows us at one port as INTEROP."""

    def __init__(self, folder: Path, our_port: int) -> None:
        self.port = free_port()
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        (folder / "qr.cfg").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 65536\nMaxAssociations = 16\n"
            f"HostTable BEGIN\ninterop = (INTEROP, 127.0.0.1, {our_port})\nHostTable END\n"
            "VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nPACS {folder}/data RW (200, 1024mb) ANY\nAETable END\n"
        )
        self.process = subprocess.Popen(
            ["dcmqrscp", "-c", str(folder / "qr.cfg")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert eventually(self.answers)

    def answers(self) -> bool:
        try:
            return scu.echo("127.0.0.1", self.port, "PACS", "INTEROP") == 0
        except SendFailed:
            return False

    @property
    def destination(self) -> Destination:
        return Destination("127.0.0.1", self.port, "PACS", "INTEROP")

    def hold(self, *samples: Any) -> None:
        report = scu.send([s.path for s in samples], "127.0.0.1", self.port, "PACS", "INTEROP")
        assert report.failed == []

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def archive(tmp_path: Path, start: Any, registered: Callable[..., None]) -> Iterator[Archive]:
    registered("PACS")
    made = Archive(tmp_path / "pacs", start().port)
    yield made
    made.close()


def study_of(make_ct: Any, number: int = 2, **attributes: Any) -> list[Any]:
    """The slices of one series."""
    series, study = generate_uid(), generate_uid()
    return [
        make_ct(study=study, SeriesInstanceUID=series, InstanceNumber=n + 1, **attributes)
        for n in range(number)
    ]


def stored_bytes(services: Any, object_store: Any, tenant: Tenant, sample: Any) -> bytes:
    with services.database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT storage_uri, dataset_offset FROM imaging_objects WHERE tenant_id = %s"
            " AND sop_instance_uid = %s",
            (tenant.id, sample.sop_instance_uid),
        ).fetchone()
    return b"" if row is None else bytes(object_store.get(row[0])[row[1] :])


@pytest.mark.parametrize("method", ["get", "move"])
def test_a_study_comes_whole_and_is_asked_for_once(
    archive: Archive, services: Any, object_store: Any, tenant: Tenant, make_ct: Any, method: Any
) -> None:
    first, second = study_of(make_ct, 3), study_of(make_ct)
    archive.hold(*first, *second)
    wanted = Wanted(study_uids=(first[0].study_instance_uid,))
    shown: list[int] = []

    def progress(advance: int = 1, total: int | None = None) -> None:
        shown.append(total if total is not None else advance)

    studies = look(services, tenant, archive.destination, wanted)
    assert [(s.study_uid, len(s.missing)) for s in studies] == [(first[0].study_instance_uid, 3)]
    report = fetch(services, tenant, archive.destination, studies, method, progress)

    assert (report.fetched, report.failed, report.stored_before) == (3, 0, 0), report
    assert shown[0] == 3
    assert sum(shown[1:]) == 3
    for sample in first:
        assert stored_bytes(services, object_store, tenant, sample) == sample.dataset
    assert stored_bytes(services, object_store, tenant, second[0]) == b""
    again = look(services, tenant, archive.destination, wanted)
    assert again[0].missing == []
    assert fetch(services, tenant, archive.destination, again, method).stored_before == 3


@pytest.mark.parametrize("method", ["get", "move"])
def test_what_was_cut_off_goes_on_where_it_was(
    archive: Archive, services: Any, tenant: Tenant, make_ct: Any, connect: Any, start: Any,
    method: Any,
) -> None:  # fmt: skip
    samples = study_of(make_ct, 3)
    archive.hold(*samples)
    peer = connect(start().port)
    peer.associate()
    assert peer.store(samples[1]).status == 0
    peer.release()

    studies = look(
        services, tenant, archive.destination, Wanted(study_uids=(samples[0].study_instance_uid,))
    )
    assert studies[0].described()["to_fetch"] == 2
    report = fetch(services, tenant, archive.destination, studies, method)

    assert (report.fetched, report.failed, report.stored_before) == (2, 0, 1), report
    # Only what was missing went over the wire: a duplicate would be a transaction as well.
    with services.database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT count(*) FROM dicom_transactions WHERE tenant_id = %s"
            " AND direction = 'INBOUND' AND sop_instance_uid = %s",
            (tenant.id, samples[1].sop_instance_uid),
        ).fetchone()
    assert rows == (1,)


def test_what_is_asked_narrows_what_comes(
    archive: Archive, services: Any, tenant: Tenant, make_ct: Any
) -> None:
    patient = f"P{generate_uid()[-8:]}"
    mine = study_of(make_ct, 1, PatientID=patient, StudyDate="20260301")
    earlier = study_of(make_ct, 1, PatientID=patient, StudyDate="20250301")
    archive.hold(*mine, *earlier)

    def found(**wanted: Any) -> set[str]:
        listed = look(services, tenant, archive.destination, Wanted(**wanted))
        return {study.study_uid for study in listed}

    both = {mine[0].study_instance_uid, earlier[0].study_instance_uid}
    assert found(patient_id=patient) == both
    assert found(patient_id=patient, dates="20260101-20261231") == {mine[0].study_instance_uid}
    assert found(patient_id="NOBODY") == set()


def test_an_archive_that_does_not_know_us_is_named(
    archive: Archive, services: Any, tenant: Tenant, make_ct: Any
) -> None:
    (sample,) = study_of(make_ct, 1)
    archive.hold(sample)
    stranger = Destination("127.0.0.1", archive.port, "PACS", "STRANGER")
    wanted = Wanted(study_uids=(sample.study_instance_uid,))

    report = fetch(services, tenant, stranger, look(services, tenant, stranger, wanted), "move")

    assert (report.fetched, report.failed) == (0, 1)
    assert any("0xA801" in problem for problem in report.problems)


def test_nothing_is_asked_for_without_saying_what(services: Any, tenant: Tenant) -> None:
    with pytest.raises(PullFailed, match="say what to pull"):
        look(services, tenant, Destination("127.0.0.1", 1, "PACS", "INTEROP"), Wanted())


@pytest.mark.skipif(not is_installed(), reason="Orthanc is not installed")
def test_orthanc_gives_what_it_holds_as_it_holds_it(
    tmp_path: Path, services: Any, object_store: Any, tenant: Tenant, make_ct: Any,
    start: Any, registered: Callable[..., None],
) -> None:  # fmt: skip
    registered("ORTHANC")
    port = start().port
    sample = make_ct()
    peer = Orthanc(
        tmp_path / "orthanc",
        DicomModalities={"interop": ["INTEROP", "127.0.0.1", port]},
        DicomAlwaysAllowGet=True, DicomAlwaysAllowFind=True, DicomAlwaysAllowMove=True,
    ).start()  # fmt: skip
    try:
        destination = Destination("127.0.0.1", peer.dicom_port, "ORTHANC", "INTEROP")
        samples = [sample, make_ct(study=sample.study_instance_uid)]
        sent = scu.send(
            [s.path for s in samples], "127.0.0.1", peer.dicom_port, "ORTHANC", "INTEROP"
        )
        assert sent.failed == []
        for method, one in (("get", samples[0]), ("move", samples[1])):
            studies = look(
                services, tenant, destination, Wanted(study_uids=(sample.study_instance_uid,))
            )
            for series in studies[0].series:
                series.missing = [uid for uid in series.missing if uid == one.sop_instance_uid]
            report = fetch(services, tenant, destination, studies, method)  # type: ignore[arg-type]
            assert (report.fetched, report.failed) == (1, 0), report
            assert stored_bytes(services, object_store, tenant, one)
    finally:
        peer.stop()
