"""Verification, Storage, Query/Retrieve and Storage Commitment (PS3.4 Annexes A, B, C, J)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context, build_role
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from conformance import samples
from conformance.peer import Peer
from conformance.requirements import NotOffered, Service, expect

DIMSE = Service("DIMSE")

_PENDING = (0xFF00, 0xFF01)
_WAIT_SECONDS = 30
# PS3.4 Table J.3-1, the well-known instance.
_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


def _identifier(level: str, **keys: str) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.QueryRetrieveLevel = level
    for keyword, asked in keys.items():
        setattr(dataset, keyword, asked)
    return dataset


def _find(peer: Peer, root: str, identifier: Dataset) -> list[Dataset]:
    with peer.association(root) as association:
        answers = list(association.send_c_find(identifier, root))
    last = answers[-1][0] if answers else None
    expect(last is not None and "Status" in last, "no final response")
    expect(last.Status == 0x0000, f"final status 0x{last.Status:04X}")
    return [found for status, found in answers if status.Status in _PENDING]


@DIMSE.requires("PS3.4 A.4", "C-ECHO succeeds")
def echoes(peer: Peer) -> None:
    with peer.association(Verification) as association:
        expect(association.send_c_echo().Status == 0x0000, "another status")


@DIMSE.requires("PS3.4 B.2.3", "C-STORE succeeds, and the object is there")
def stores(peer: Peer) -> None:
    dataset = samples.image(peer.samples.token, SOPClassUID=CTImageStorage, Modality="CT")
    samples.pixels(dataset, samples.np.ones((8, 8), samples.np.uint16))
    one = samples.encoded(dataset)
    with peer.association(build_context(CTImageStorage, ExplicitVRLittleEndian)) as association:
        status = association.send_c_store(one.dataset)
    expect(status.get("Status") == 0x0000, f"status {status.get('Status')}")
    expect(peer.search("/instances", SOPInstanceUID=one.uid), "a search does not find it")


@DIMSE.requires("PS3.4 C.6.2.1", "study root C-FIND of studies, with the counts asked for")
def finds_studies(peer: Peer) -> None:
    asked = _identifier(
        "STUDY",
        PatientID=peer.samples.token,
        StudyDate="20260101-20260131",
        StudyInstanceUID="",
        PatientName="",
        NumberOfStudyRelatedInstances="",
        ModalitiesInStudy="",
    )
    found = _find(peer, StudyRootQueryRetrieveInformationModelFind, asked)
    by_uid = {one.StudyInstanceUID: one for one in found}
    study = by_uid.get(peer.samples.slices[0].study)
    expect(study is not None, f"{len(found)} studies, not ours")
    expect(str(study.PatientName) == f"{peer.samples.token}^Zoë^Q", str(study.PatientName))
    count = int(study.NumberOfStudyRelatedInstances or 0)
    expect(count >= len(peer.samples.slices) + 1, f"{count} instances")


@DIMSE.requires("PS3.4 C.6.1.1", "patient root C-FIND of patients")
def finds_patients(peer: Peer) -> None:
    asked = _identifier("PATIENT", PatientID=f"{peer.samples.token}*", PatientName="")
    found = _find(peer, PatientRootQueryRetrieveInformationModelFind, asked)
    uids = sorted(str(one.PatientID) for one in found)
    expect(uids == [peer.samples.token, f"{peer.samples.token}B"], str(uids))


@DIMSE.requires("PS3.4 C.4.1.2", "C-FIND of series and of images below their study")
def finds_series_and_images(peer: Peer) -> None:
    one, root = peer.samples.slices[0], StudyRootQueryRetrieveInformationModelFind
    series = _identifier("SERIES", StudyInstanceUID=one.study, SeriesInstanceUID="", Modality="")
    modalities = sorted(str(found.Modality) for found in _find(peer, root, series))
    expect(modalities == ["CT", "SR"], str(modalities))
    images = _identifier(
        "IMAGE", StudyInstanceUID=one.study, SeriesInstanceUID=one.series, SOPInstanceUID=""
    )
    count = len(_find(peer, root, images))
    expect(count == len(peer.samples.slices), f"{count} images")


@DIMSE.requires("PS3.4 C.2.2.2", "wildcards, and a list of UIDs")
def finds_by_wildcard_and_list(peer: Peer) -> None:
    root, token = StudyRootQueryRetrieveInformationModelFind, peer.samples.token
    wild = _identifier("STUDY", PatientID=f"{token}*", StudyInstanceUID="")
    expect(len({d.StudyInstanceUID for d in _find(peer, root, wild)}) >= 3, "not all three")
    assert peer.samples.multiframe is not None
    listed = _identifier("STUDY")
    listed.StudyInstanceUID = [peer.samples.slices[0].study, peer.samples.multiframe.study]
    expect(len(_find(peer, root, listed)) == 2, "the list does not find both")


@DIMSE.requires("PS3.4 C.4.1.1.4", "an identifier without a level is refused")
def refuses_without_level(peer: Peer) -> None:
    root = StudyRootQueryRetrieveInformationModelFind
    asked = Dataset()
    asked.PatientID = peer.samples.token
    with peer.association(root) as association:
        status = list(association.send_c_find(asked, root))[-1][0].get("Status", 0)
    expect(status not in (0x0000, *_PENDING), f"status 0x{status:04X}")


@DIMSE.requires("PS3.4 C.4.3", "C-GET sends the study on the same association")
def gets(peer: Peer) -> None:
    received: dict[str, bytes] = {}

    def keep(event: Any) -> int:
        received[str(event.request.AffectedSOPInstanceUID)] = event.dataset.PixelData
        return 0x0000

    root = PatientRootQueryRetrieveInformationModelGet
    asked = _identifier(
        "SERIES",
        PatientID=peer.samples.token,
        StudyInstanceUID=peer.samples.slices[0].study,
        SeriesInstanceUID=peer.samples.slices[0].series,
    )
    with peer.association(
        root,
        build_context(CTImageStorage, [ExplicitVRLittleEndian]),
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    ) as association:
        accepted = {str(c.abstract_syntax) for c in association.accepted_contexts}
        if str(root) not in accepted:
            raise NotOffered("the context was refused")
        last = list(association.send_c_get(asked, root))[-1][0]
    expect(last.Status == 0x0000, f"status 0x{last.Status:04X}")
    for one in peer.samples.slices:
        expect(received.get(one.uid) == one.dataset.PixelData, f"{one.uid} did not come whole")


@contextmanager
def _destination(peer: Peer, received: set[str]) -> Iterator[str]:
    """Our own listener, under the title that the server knows."""
    address = peer.dicom
    if address.move_port is None:
        raise NotOffered("no --move-port was given at which the server may send to us")

    def keep(event: Any) -> int:
        received.add(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    entity = AE(address.calling_ae_title)
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    entity.add_supported_context(CTImageStorage, syntaxes)
    listener = entity.start_server(
        ("127.0.0.1", address.move_port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    try:
        yield address.calling_ae_title
    finally:
        listener.shutdown()


@DIMSE.requires("PS3.4 C.4.2", "C-MOVE sends the series to a known destination")
def moves(peer: Peer) -> None:
    received: set[str] = set()
    root = StudyRootQueryRetrieveInformationModelMove
    one = peer.samples.slices[0]
    asked = _identifier("SERIES", StudyInstanceUID=one.study, SeriesInstanceUID=one.series)
    with _destination(peer, received) as title, peer.association(root) as association:
        last = list(association.send_c_move(asked, title, root))[-1][0]
    expect(last.Status == 0x0000, f"status 0x{last.Status:04X}")
    expect(received == {s.uid for s in peer.samples.slices}, f"{len(received)} objects came")


@DIMSE.requires("PS3.4 C.4.2.1.5", "C-MOVE to a destination that is not known: A801")
def refuses_unknown_destinations(peer: Peer) -> None:
    root = StudyRootQueryRetrieveInformationModelMove
    asked = _identifier("STUDY", StudyInstanceUID=peer.samples.slices[0].study)
    with peer.association(root) as association:
        last = list(association.send_c_move(asked, "NOBODYKNOWSME", root))[-1][0]
    expect(last.get("Status") == 0xA801, f"status {last.get('Status')}")


@DIMSE.requires("PS3.4 J.3", "what is stored is committed, what is not is named as failed")
def commits(peer: Peer) -> None:
    reported = threading.Event()
    report: list[Dataset] = []

    def keep(event: Any) -> tuple[int, None]:
        report.append(event.event_information)
        reported.set()
        return 0x0000, None

    asked = Dataset()
    asked.TransactionUID = generate_uid()
    stored, absent = peer.samples.slices[0].uid, str(generate_uid())
    items = []
    for uid in (stored, absent):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
        items.append(item)
    asked.ReferencedSOPSequence = items
    with peer.association(
        StorageCommitmentPushModel, evt_handlers=[(evt.EVT_N_EVENT_REPORT, keep)]
    ) as association:
        status, _ = association.send_n_action(
            asked, 1, StorageCommitmentPushModel, _COMMITMENT_INSTANCE
        )
        expect(status.get("Status") == 0x0000, f"N-ACTION status {status.get('Status')}")
        expect(reported.wait(_WAIT_SECONDS), "no N-EVENT-REPORT on the association")
    committed = {i.ReferencedSOPInstanceUID for i in report[0].get("ReferencedSOPSequence", [])}
    failed = {i.ReferencedSOPInstanceUID for i in report[0].get("FailedSOPSequence", [])}
    expect((committed, failed) == ({stored}, {absent}), f"{committed} and {failed}")
