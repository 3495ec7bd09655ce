"""Retrievals over TLS and of much: a pinned destination, a large object, many associations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from benchmarks.dimse_receiver import STUDY_ROOT_GET, STUDY_ROOT_MOVE, Requestor, Sink
from interop.dimse import outgoing
from interop.settings import Settings
from tests.dcmtk import STORESCP, storescp
from tests.dicom_pki import Authority
from tests.integration.dimse.retrieving import Stored, move, study_identifier, title_of

Store = Callable[..., None]


@pytest.mark.skipif(STORESCP is None, reason="DCMTK's storescp is not installed")
def test_a_destination_that_requires_tls_is_called_with_our_certificate(
    request: pytest.FixtureRequest, start: Any, archive: Stored, services: Any,
    destination: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    authority = Authority(tmp_path, "ca")
    ours, theirs = authority.issue("ours", is_rsa=True), authority.issue("theirs", is_rsa=True)
    settings = Settings(
        data_dir=services.spool_root,
        dicom_tls_certificate=ours.certificate,
        dicom_tls_key=ours.key,
        dicom_tls_ca=authority.bundle,
    )
    monkeypatch.setattr(services, "settings", settings)
    running = start()
    files = ("+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.bundle))

    with storescp(tmp_path / "received", *files) as scp:
        pinned = destination(
            title_of(request), scp.port, certificate_fingerprints=[theirs.fingerprint]
        )
        sent = move(running.port, pinned, archive.study)[-1]
        received = scp.data_sets()
        strange = destination("STRANGE", scp.port, certificate_fingerprints=[ours.fingerprint])
        refused = move(running.port, strange, archive.study)[-1]
        plain = destination("PLAIN", scp.port)
        unheard = move(running.port, plain, archive.study)[-1]

    assert sent.Status == 0
    assert received == {sample.sop_instance_uid: sample.dataset for sample in archive.samples}
    assert refused.Status == 0xA702
    assert "TLS" in refused.ErrorComment
    assert unheard.Status == 0xA702


@pytest.mark.skipif(STORESCP is None, reason="DCMTK's storescp is not installed")
def test_a_move_to_a_silent_destination_over_tls_can_be_cancelled(
    request: pytest.FixtureRequest, start: Any, archive: Stored, services: Any,
    destination: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    authority = Authority(tmp_path, "ca")
    theirs = authority.issue("theirs", is_rsa=True)
    settings = Settings(data_dir=services.spool_root, dicom_tls_ca=authority.bundle)
    monkeypatch.setattr(services, "settings", settings)
    running = start()
    files = ("+tls", str(theirs.key), str(theirs.certificate), "-ic", "--sleep-during", "8")
    entity = AE("PEER")
    model = StudyRootQueryRetrieveInformationModelMove
    entity.add_requested_context(model)

    with storescp(tmp_path / "received", *files) as scp:
        title = destination(
            title_of(request), scp.port, certificate_fingerprints=[theirs.fingerprint]
        )
        association = entity.associate("127.0.0.1", running.port, ae_title="INTEROP")
        answers = association.send_c_move(study_identifier(archive.study), title, model, msg_id=3)
        next(answers)
        association.send_c_cancel(3, query_model=model)
        last = [status for status, _ in answers][-1]
        association.release()

    assert last.Status == 0xFE00
    assert (last.NumberOfCompletedSuboperations, last.NumberOfRemainingSuboperations) == (0, 6)


def test_a_tls_destination_without_certificates_of_ours_is_a_failure(
    request: pytest.FixtureRequest, start: Any, archive: Stored, services: Any,
    destination: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    settings = Settings(data_dir=services.spool_root, dicom_tls_ca=tmp_path / "missing.pem")
    monkeypatch.setattr(services, "settings", settings)

    answers = move(
        start().port, destination(title_of(request), 104, require_tls=True), archive.study
    )

    assert [answer.Status for answer in answers] == [0xA702]


def test_a_large_object_is_never_held_in_memory(
    start: Any, make_ct: Any, store: Store, rss_growth: Any, destination: Any,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    sample = make_ct(side=3900)
    store(sample.path)
    running, sink = start(), Sink()
    title = destination(title_of(request), sink.port)

    with rss_growth() as grown:
        getter = Requestor(running.port, "INTEROP", "PEER", STUDY_ROOT_GET, (str(CTImageStorage),))
        got = getter.retrieve(sample.study_instance_uid)
        getter.release()
        mover = Requestor(running.port, "INTEROP", "PEER", STUDY_ROOT_MOVE)
        moved = mover.retrieve(sample.study_instance_uid, title)
        mover.release()

    sink.close()
    assert (got.status, got.byte_size) == (0, len(sample.dataset))
    assert (moved.status, sink.received.byte_size) == (0, len(sample.dataset))
    # Of 30 MB, sent and received in this process: buffers of both sides, twice.
    assert grown() < 12 << 20


def test_many_associations_retrieve_at_a_time(start: Any, archive: Stored) -> None:
    running = start()
    found: list[tuple[int, int]] = []

    def get() -> None:
        getter = Requestor(running.port, "INTEROP", "PEER", STUDY_ROOT_GET, (str(CTImageStorage),))
        got = getter.retrieve(archive.study)
        getter.release()
        found.append((got.status, got.instances))

    threads = [threading.Thread(target=get) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert found == [(0, 6)] * 16


def test_objects_of_a_remote_store_are_retrieved(
    start: Any, archive: Stored, services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from S3, which has no files: streamed, and fetched to the spool to be transcoded."""

    class Remote:
        def __getattr__(self, name: str) -> Any:
            return getattr(objects, name)

        def local_path(self, key: str) -> None:
            return None

    objects = services.objects
    monkeypatch.setattr(services, "objects", Remote())
    running, arrived = start(), {}

    def handle(event: Any) -> int:
        arrived[str(event.request.AffectedSOPInstanceUID)] = event.request.DataSet.getvalue()
        return 0

    entity = AE("PEER")
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate(
        "127.0.0.1", running.port, ae_title="INTEROP",
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, handle)],
    )  # fmt: skip
    answers = list(
        association.send_c_get(
            study_identifier(archive.study), StudyRootQueryRetrieveInformationModelGet
        )
    )
    association.release()

    assert answers[-1][0].Status == 0
    assert arrived == {sample.sop_instance_uid: sample.dataset for sample in archive.samples}


def test_what_waits_too_long_for_its_turn_to_be_transcoded_fails_alone(
    start: Any, make_ct: Any, store: Store, monkeypatch: pytest.MonkeyPatch, destination: Any,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    study = generate_uid()
    store(make_ct(study=study).path)
    monkeypatch.setattr(outgoing, "_transcoding", threading.BoundedSemaphore(1))
    monkeypatch.setattr(outgoing, "_TRANSCODE_WAIT_SECONDS", 0.1)
    running = start()
    entity = AE("PEER")
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2")
    association = entity.associate(
        "127.0.0.1", running.port, ae_title="INTEROP",
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)],
    )  # fmt: skip

    with outgoing._transcoding:
        model = StudyRootQueryRetrieveInformationModelGet
        waited = list(association.send_c_get(study_identifier(study), model))[-1][0]
    taken = list(association.send_c_get(study_identifier(study), model))[-1][0]
    association.release()

    assert (waited.Status, taken.Status) == (0xA702, 0)
    assert "being transcoded" in waited.ErrorComment
