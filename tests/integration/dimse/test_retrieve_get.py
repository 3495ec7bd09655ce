"""C-GET with real peers: DCMTK's getscu, pynetdicom."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
    PatientRootQueryRetrieveInformationModelGet,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelGet,
)

from interop.dicom import transcode
from interop.dimse import retrieval
from interop.dimse.transport_guard import TransportLimits
from tests.integration.dimse.retrieving import (
    Stored,
    dcmtk,
    identifier_of,
    noting,
    retrieve_rq,
    rows,
    study_identifier,
)
from tests.waiting import eventually

GETSCU = shutil.which("getscu")
needs_dcmtk = pytest.mark.skipif(GETSCU is None, reason="DCMTK's getscu is not installed")
Store = Callable[..., None]


# -- C-GET ------------------------------------------------------------------------------------


@needs_dcmtk
@pytest.mark.parametrize(
    ("root", "level"), [("-S", "STUDY"), ("-P", "STUDY"), ("-S", "SERIES"), ("-P", "PATIENT")]
)
def test_getscu_gets_what_it_names_byte_for_byte(
    root: str, level: str, start: Any, archive: Stored, tmp_path: Path
) -> None:
    running, folder = start(), tmp_path / "received"
    folder.mkdir()
    patient = str(dcmread(archive.other.path).PatientID)
    keys = {
        "STUDY": {"StudyInstanceUID": archive.study},
        "SERIES": {"StudyInstanceUID": archive.study, "SeriesInstanceUID": archive.series[1]},
        "PATIENT": {"PatientID": patient},
    }[level]
    wanted = {
        "STUDY": archive.samples, "SERIES": archive.samples[1::2],
        "PATIENT": [*archive.samples, archive.other],
    }[level]  # fmt: skip

    done = dcmtk(
        GETSCU, running.port, {"QueryRetrieveLevel": level, **keys}, root, "-B", "+B",
        "-od", str(folder),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = {}
    for path in folder.iterdir():
        raw = path.read_bytes()
        end = 144 + int.from_bytes(raw[140:144], "little")
        found[str(dcmread(path).SOPInstanceUID)] = raw[end:]
    assert found == {sample.sop_instance_uid: sample.dataset for sample in wanted}


@dataclass
class Getter:
    """A pynetdicom C-GET SCU with the contexts that it is given."""

    port: int
    contexts: list[tuple[Any, list[UID]]]
    handle: Callable[[Any], int]

    def open(self) -> Any:
        entity = AE("PEER")
        entity.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
        for uid, syntaxes in self.contexts:
            entity.add_requested_context(uid, syntaxes)
        roles = [build_role(uid, scp_role=True) for uid, _ in self.contexts]
        association = entity.associate(
            "127.0.0.1", self.port, ae_title="INTEROP", ext_neg=roles,
            evt_handlers=[(evt.EVT_C_STORE, self.handle)],
        )  # fmt: skip
        assert association.is_established
        return association

    def get(self, study: str) -> list[tuple[Any, Any]]:
        association = self.open()
        found = list(
            association.send_c_get(
                study_identifier(study), StudyRootQueryRetrieveInformationModelGet
            )
        )
        association.release()
        return found


def test_an_object_whose_sop_class_was_not_negotiated_is_a_failed_sub_operation(
    start: Any, archive: Stored, make_ct: Any, store: Store
) -> None:
    patient = str(dcmread(archive.other.path).PatientID)
    capture = make_ct(
        study=archive.study, PatientID=patient, SOPClassUID=SecondaryCaptureImageStorage
    )
    store(capture.path)
    arrived: list[str] = []
    getter = Getter(
        start().port,
        [(CTImageStorage, [ExplicitVRLittleEndian]), (MRImageStorage, [ExplicitVRLittleEndian])],
        noting(arrived, lambda event: str(event.dataset.SOPInstanceUID)),
    )

    last, identifier = getter.get(archive.study)[-1]

    assert last.Status == 0xB000
    assert (last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (6, 1)
    assert identifier.FailedSOPInstanceUIDList == capture.sop_instance_uid
    assert len(arrived) == 6


def test_a_requestor_without_a_storage_context_gets_a_failure(start: Any, archive: Stored) -> None:
    last, identifier = Getter(start().port, [], lambda event: 0).get(archive.study)[-1]

    assert last.Status == 0xA702
    assert len(identifier.FailedSOPInstanceUIDList) == 6


@pytest.mark.parametrize("accepted", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_objects_come_in_what_the_requestor_accepts(
    accepted: UID, start: Any, make_ct: Any, store: Store, tmp_path: Path
) -> None:
    study, plain = generate_uid(), make_ct(side=48)
    for syntax in (RLELossless, JPEG2000Lossless):
        path = tmp_path / f"{syntax}.dcm"
        transcode.transcode(make_ct(side=48, study=study).path, path, syntax)
        store(path)
    store(make_ct(side=48, study=study, transfer_syntax=ImplicitVRLittleEndian).path)
    pixels = dcmread(plain.path).pixel_array
    arrived: list[bool] = []

    def handle(event: Any) -> int:
        data = event.dataset
        data.file_meta = event.file_meta
        arrived.append(
            event.context.transfer_syntax == accepted and np.array_equal(data.pixel_array, pixels)
        )
        return 0

    last, _ = Getter(start().port, [(CTImageStorage, [accepted])], handle).get(study)[-1]

    assert last.Status == 0
    assert arrived == [True] * 3


def test_the_stored_transfer_syntax_is_sent_where_a_context_has_it(
    start: Any, make_ct: Any, store: Store, tmp_path: Path
) -> None:
    study, path = generate_uid(), tmp_path / "rle.dcm"
    transcode.transcode(make_ct(side=48, study=study).path, path, RLELossless)
    store(path)
    arrived: list[tuple[str, bytes]] = []

    def handle(event: Any) -> int:
        arrived.append((event.context.transfer_syntax, event.request.DataSet.getvalue()))
        return 0

    getter = Getter(
        start().port,
        [(CTImageStorage, [ExplicitVRLittleEndian]), (CTImageStorage, [RLELossless])],
        handle,
    )
    last, _ = getter.get(study)[-1]

    raw = path.read_bytes()
    assert last.Status == 0
    assert arrived == [(RLELossless, raw[144 + int.from_bytes(raw[140:144], "little") :])]


def test_a_get_that_is_cancelled_stops(start: Any, archive: Stored) -> None:
    arrived: list[Any] = []
    associations: list[Any] = []

    def handle(event: Any) -> int:
        arrived.append(event)
        if len(arrived) == 2:
            associations[0].send_c_cancel(5, query_model=StudyRootQueryRetrieveInformationModelGet)
        return 0

    getter = Getter(start().port, [(CTImageStorage, [ExplicitVRLittleEndian])], handle)
    associations.append(getter.open())
    answers = list(
        associations[0].send_c_get(
            study_identifier(archive.study), StudyRootQueryRetrieveInformationModelGet, msg_id=5
        )
    )
    associations[0].release()

    last = answers[-1][0]
    assert last.Status == 0xFE00
    assert last.NumberOfCompletedSuboperations == len(arrived) < 6
    assert last.NumberOfRemainingSuboperations == 6 - len(arrived)


def test_a_requestor_that_goes_silent_is_given_up(
    start: Any, archive: Stored, connect: Any, wire: Any
) -> None:
    running = start(TransportLimits(idle_seconds=1.0))
    peer = connect(running.port)
    model = str(StudyRootQueryRetrieveInformationModelGet)
    peer.send(get_associate(wire, model))
    assert peer.receive_pdu()[0] == 2
    raw = (
        b"\x08\x00\x52\x00\x06\0\0\0STUDY "
        + b"\x20\x00\x0d\x00" + pack("<I", len(wire.even(archive.study)))
        + wire.even(archive.study)
    )  # fmt: skip
    peer.send(
        wire.pdu(4, wire.pdv(1, 3, retrieve_rq(wire, model, 0x0010)))
        + wire.pdu(4, wire.pdv(1, 2, raw))
    )

    # One C-STORE-RQ comes, and as it is not answered A-ABORT.
    seen = []
    while (received := peer.receive_pdu(15)) is not None:
        seen.append(received[0])
    assert set(seen[:-1]) == {4}
    assert seen[-1] == 7
    assert eventually(lambda: running.listener.connection_count == 0)


def get_associate(wire: Any, model: str) -> bytes:
    """A-ASSOCIATE-RQ for C-GET with the SCP role of CT Image Storage."""
    whole = bytes(
        wire.associate_rq(
            contexts=(
                (1, model, (str(ImplicitVRLittleEndian),)),
                (3, str(CTImageStorage), (str(ExplicitVRLittleEndian),)),
            )
        )
    )
    uid = str(CTImageStorage).encode()
    role = wire.item(0x54, pack(">H", len(uid)) + uid + b"\0\1")
    at = whole.rindex(b"\x50\0", 0, whole.rindex(b"\x51\0"))
    length = int.from_bytes(whole[at + 2 : at + 4], "big") + len(role)
    body = whole[6 : at + 2] + pack(">H", length) + whole[at + 4 :] + role
    return bytes(wire.pdu(1, body))


def test_patient_root_get_and_relational_retrieval(start: Any, archive: Stored) -> None:
    """The keys above the level may be left out: relational retrieval is offered to all."""
    model = PatientRootQueryRetrieveInformationModelGet
    entity = AE("PEER")
    entity.add_requested_context(model)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    arrived: list[Any] = []
    association = entity.associate(
        "127.0.0.1", start().port, ae_title="INTEROP",
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, noting(arrived))],
    )  # fmt: skip
    identifier = identifier_of(
        QueryRetrieveLevel="IMAGE", SOPInstanceUID=archive.samples[3].sop_instance_uid
    )
    answers = list(association.send_c_get(identifier, model))
    association.release()

    assert answers[-1][0].Status == 0
    assert len(arrived) == 1


def test_a_study_larger_than_a_page_comes_whole_and_in_order(
    start: Any, archive: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "PAGE", 2)
    arrived: list[str] = []
    getter = Getter(
        start().port,
        [(CTImageStorage, [ExplicitVRLittleEndian])],
        noting(arrived, lambda event: str(event.request.AffectedSOPInstanceUID)),
    )

    getter.get(archive.study)

    uids = [sample.sop_instance_uid for sample in archive.samples]
    assert arrived == [*uids[::2], *uids[1::2]]


def test_a_stored_object_that_is_lost_fails_alone(
    start: Any, archive: Stored, services: Any, tenant: Any
) -> None:
    lost, cut = archive.samples[1], archive.samples[2]
    for sample, size in ((lost, None), (cut, 200)):
        ((key,),) = rows(
            services, tenant,
            "SELECT storage_uri FROM imaging_objects WHERE tenant_id = %(tenant_id)s"
            " AND sop_instance_uid = %(uid)s",
            uid=sample.sop_instance_uid,
        )  # fmt: skip
        path = services.objects.local_path(key)
        if size is None:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:size])
    getter = Getter(start().port, [(CTImageStorage, [ExplicitVRLittleEndian])], lambda event: 0)

    last, identifier = getter.get(archive.study)[-1]

    assert last.Status == 0xB000
    failed = set(identifier.FailedSOPInstanceUIDList)
    assert failed == {lost.sop_instance_uid, cut.sop_instance_uid}


def test_a_database_that_does_not_answer(
    start: Any, archive: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    getter = Getter(start().port, [(CTImageStorage, [ExplicitVRLittleEndian])], lambda event: 0)
    monkeypatch.setattr(retrieval, "PAGE", 2)
    monkeypatch.setattr(retrieval, "_PAGE", "SELECT 1 / 0, %(tenant_id)s, %(ids)s")
    cut_off, _ = getter.get(archive.study)[-1]
    monkeypatch.setattr(retrieval, "_FROM", " FROM nowhere WHERE %(tenant_id)s IS NOT NULL")
    not_begun, _ = getter.get(archive.study)[-1]

    assert cut_off.Status == 0xA702
    assert cut_off.NumberOfFailedSuboperations == 6
    assert not_begun.Status == 0xA701
