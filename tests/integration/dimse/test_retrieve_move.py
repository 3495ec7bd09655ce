"""C-MOVE with real peers: DCMTK's movescu and storescp, pynetdicom."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, build_role
from pynetdicom.sop_class import (
    CTImageStorage,
    PatientRootQueryRetrieveInformationModelMove,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from interop.dicom import transcode
from tests.dcmtk import STORESCP, free_port, storescp
from tests.integration.dimse.retrieving import (
    DCIODVFY,
    Stored,
    accepting,
    dcmtk,
    errors,
    identifier_of,
    move,
    noting,
    retrieve_rq,
    rows,
    study_identifier,
    title_of,
)
from tests.waiting import eventually

MOVESCU = shutil.which("movescu")
needs_dcmtk = pytest.mark.skipif(
    None in (MOVESCU, STORESCP), reason="DCMTK's movescu and storescp are not installed"
)
Store = Callable[..., None]


# -- C-MOVE -----------------------------------------------------------------------------------


@needs_dcmtk
@pytest.mark.parametrize(
    ("root", "level", "names"),
    [
        ("-P", "PATIENT", ("patient",)),
        ("-P", "STUDY", ("patient", "study")),
        ("-S", "STUDY", ("study",)),
        ("-S", "STUDY", ("studies",)),
        ("-S", "SERIES", ("study", "series")),
        ("-P", "SERIES", ("patient", "study", "series")),
        ("-S", "IMAGE", ("study", "series", "images")),
        ("-S", "IMAGE", ("images",)),
    ],
)
def test_movescu_moves_what_the_identifier_names(
    root: str, level: str, names: tuple[str, ...], request: pytest.FixtureRequest,
    start: Any, archive: Stored, destination: Any, tmp_path: Path,
) -> None:  # fmt: skip
    running = start()
    first, second = archive.samples[0], archive.samples[2]
    patient = str(dcmread(first.path, stop_before_pixels=True).PatientID)
    everything = [*archive.samples, archive.other]
    values = {
        "patient": ("PatientID", patient, everything),
        "study": ("StudyInstanceUID", archive.study, archive.samples),
        "studies": ("StudyInstanceUID", f"{archive.study}\\{archive.other_study}", everything),
        "series": ("SeriesInstanceUID", archive.series[0], archive.samples[::2]),
        "images": (
            "SOPInstanceUID", f"{first.sop_instance_uid}\\{second.sop_instance_uid}",
            [first, second],
        ),
    }  # fmt: skip
    keys = {values[name][0]: values[name][1] for name in names}
    wanted = values[names[-1]][2]

    with storescp(tmp_path / "received") as scp:
        title = destination(title_of(request), scp.port)
        keys = {"QueryRetrieveLevel": level, **keys}
        done = dcmtk(MOVESCU, running.port, keys, root, "-aem", title)
        received = scp.data_sets()

    assert done.returncode == 0, done.stderr
    assert "Received Final Move Response (Success)" in done.stderr
    assert received == {sample.sop_instance_uid: sample.dataset for sample in wanted}


def test_a_destination_of_another_purpose_gets_only_patients_who_consented(
    request: pytest.FixtureRequest, start: Any, archive: Stored, make_ct: Any, store: Store,
    registered: Any, services: Any, tenant: Any,
) -> None:  # fmt: skip
    """Who asks may see everything; who receives may not."""
    willing = make_ct(side=4, PatientID=f"W{generate_uid()[-12:]}")
    store(willing.path)
    rows(
        services, tenant,
        "INSERT INTO consents (tenant_id, subject_type, subject_id, consent_type, granted_at)"
        " SELECT tenant_id, 'PATIENT', patient_id, 'RESEARCH', now() - interval '1 minute'"
        " FROM imaging_studies WHERE tenant_id = %(tenant_id)s AND study_uid = %(study)s"
        " RETURNING id",
        study=willing.study_instance_uid,
    )  # fmt: skip
    running, arrived = start(), []
    title = title_of(request)

    with accepting(noting(arrived, lambda event: event.dataset.SOPInstanceUID)) as port:
        registered(title, host="127.0.0.1", port=port, may_be_sent_to=True, purpose="RESEARCH")
        refused = move(running.port, title, archive.study)
        sent = move(running.port, title, willing.study_instance_uid)

    assert refused[-1].Status == 0
    assert refused[-1].NumberOfCompletedSuboperations == 0
    assert sent[-1].NumberOfCompletedSuboperations == 1
    assert arrived == [willing.sop_instance_uid]


@needs_dcmtk
def test_a_series_arrives_in_viewing_order(
    request: pytest.FixtureRequest, start: Any, make_ct: Any, store: Store, destination: Any
) -> None:
    study, series = generate_uid(), generate_uid()
    samples = [
        make_ct(side=4, study=study, SeriesInstanceUID=series, InstanceNumber=number)
        for number in (3, 1, 2, 10)
    ]
    store(*(sample.path for sample in samples))
    running = start()
    arrived: list[Any] = []

    with accepting(noting(arrived, lambda event: int(event.dataset.InstanceNumber))) as port:
        title = destination(title_of(request), port)
        statuses = move(running.port, title, study)

    assert statuses[-1].Status == 0
    assert arrived == [1, 2, 3, 10]


def test_sub_operations_know_their_originator(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any
) -> None:
    running, originators = start(), []

    def handle(event: Any) -> int:
        originators.append(
            (
                event.request.MoveOriginatorApplicationEntityTitle,
                event.request.MoveOriginatorMessageID,
                event.assoc.requestor.ae_title,
            )
        )
        return 0

    with accepting(handle) as port:
        move(running.port, destination(title_of(request), port), archive.study, message_id=4711)

    assert originators == [("PEER", 4711, "INTEROP")] * 6


def test_counts_and_the_list_of_what_failed(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any
) -> None:
    running = start()
    uids = [sample.sop_instance_uid for sample in archive.samples]
    # Viewing order: the first series, then the second.
    ordered = [*uids[::2], *uids[1::2]]
    statuses = {ordered[1]: 0xA700, ordered[2]: 0xB007, ordered[5]: 0xC001}

    with accepting(lambda event: statuses.get(event.request.AffectedSOPInstanceUID, 0)) as port:
        title = destination(title_of(request), port)
        answers = move(running.port, title, archive.study)

    pending, last = answers[:-1], answers[-1]
    assert [answer.Status for answer in pending] == [0xFF00] * len(pending)
    assert len(pending) >= 1
    assert pending[0].NumberOfRemainingSuboperations == 5
    assert last.Status == 0xB000
    assert (
        last.NumberOfCompletedSuboperations,
        last.NumberOfFailedSuboperations,
        last.NumberOfWarningSuboperations,
    ) == (3, 2, 1)
    assert "NumberOfRemainingSuboperations" not in last
    assert list(last.answer.FailedSOPInstanceUIDList) == [ordered[1], ordered[5]]


def test_a_destination_that_takes_nothing_is_a_failure(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any
) -> None:
    running = start()

    with accepting(lambda event: 0xA700) as port:
        last = move(running.port, destination(title_of(request), port), archive.study)[-1]

    assert last.Status == 0xA702
    assert last.NumberOfFailedSuboperations == 6
    assert len(last.answer.FailedSOPInstanceUIDList) == 6


def test_a_destination_that_is_down(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any,
    services: Any, tenant: Any,
) -> None:  # fmt: skip
    running = start()
    title = destination(title_of(request), free_port())

    last = move(running.port, title, archive.study)[-1]

    assert last.Status == 0xA702
    assert "no connection" in last.ErrorComment
    assert len(last.answer.FailedSOPInstanceUIDList) == 6
    logged = (
        "SELECT metadata ->> 'failed' FROM audit_events WHERE tenant_id = %(tenant_id)s"
        " AND event_type = 'DICOM_TRANSFER_FAILED' AND outcome = 'FAILURE'"
        " AND metadata ->> 'receiving_ae_title' = %(title)s"
    )
    assert eventually(lambda: rows(services, tenant, logged, title=title) == [("6",)])


@needs_dcmtk
def test_a_destination_that_aborts_at_each_object(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any, tmp_path: Path
) -> None:
    running = start()

    with storescp(tmp_path / "received", "--abort-after") as scp:
        last = move(running.port, destination(title_of(request), scp.port), archive.study)[-1]

    assert last.Status == 0xA702


def test_a_sop_class_that_the_destination_refuses_fails_alone(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any,
    make_ct: Any, store: Store,
) -> None:  # fmt: skip
    patient = str(dcmread(archive.other.path).PatientID)
    capture = make_ct(
        study=archive.study, PatientID=patient, SOPClassUID=SecondaryCaptureImageStorage
    )
    store(capture.path)
    running = start()

    with accepting(lambda event: 0) as port:
        last = move(running.port, destination(title_of(request), port), archive.study)[-1]

    assert last.Status == 0xB000
    assert last.NumberOfCompletedSuboperations == 6
    assert last.answer.FailedSOPInstanceUIDList == capture.sop_instance_uid
    assert "was not accepted" in last.ErrorComment


@needs_dcmtk
@pytest.mark.parametrize("option", ["+xi", "+xe"])
def test_a_destination_gets_what_it_can_read(
    option: str, request: pytest.FixtureRequest, start: Any, make_ct: Any, store: Store,
    destination: Any, tmp_path: Path,
) -> None:  # fmt: skip
    study, plain = generate_uid(), make_ct(side=48)
    paths = []
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        paths.append(tmp_path / f"{syntax}.dcm")
        transcode.transcode(make_ct(side=48, study=study).path, paths[-1], syntax)
    store(*paths)
    running = start()

    with storescp(tmp_path / "received", option) as scp:
        last = move(running.port, destination(title_of(request), scp.port), study)[-1]
        files = {path.name.partition(".")[2]: path for path in scp.files()}

    assert last.Status == 0
    pixels = dcmread(plain.path).pixel_array
    wanted = {"+xi": ImplicitVRLittleEndian, "+xe": ExplicitVRLittleEndian}[option]
    for path in paths:
        before = dcmread(path, stop_before_pixels=True)
        after = dcmread(files[before.SOPInstanceUID])
        assert after.file_meta.TransferSyntaxUID == wanted
        assert np.array_equal(pixels, after.pixel_array)
        if DCIODVFY is not None:
            assert errors(files[before.SOPInstanceUID]) <= errors(path)


# -- who may, and to whom ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "title"),
    [
        (None, "NOBODY"),
        ({"may_be_sent_to": False}, None),
        ({"active": False}, None),
        ({"valid_until": "2020-01-01T00:00:00Z"}, None),
    ],
    ids=["not registered", "may not be sent to", "disabled", "expired"],
)
def test_nothing_is_sent_to_who_is_no_registered_destination(
    columns: Any, title: str | None, request: pytest.FixtureRequest, start: Any,
    archive: Stored, destination: Any,
) -> None:  # fmt: skip
    """security.md A11: A801, and no outgoing connection."""
    running = start()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if columns is not None:
            title = destination(title_of(request), listening.getsockname()[1], **columns)
        assert title is not None

        answers = move(running.port, title, archive.study)

        listening.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listening.accept()
    assert [answer.Status for answer in answers] == [0xA801]


def test_a_destination_of_another_tenant_is_none(
    request: pytest.FixtureRequest, start: Any, archive: Stored, services: Any, other_tenant: Any
) -> None:
    title = title_of(request)
    with services.database.connection(other_tenant.id) as connection:
        connection.execute(
            "INSERT INTO dicom_application_entities (tenant_id, ae_title, host, port,"
            " may_be_sent_to) VALUES (%s, %s, '127.0.0.1', 104, true)",
            (other_tenant.id, title),
        )

    answers = move(start().port, title, archive.study)

    assert [answer.Status for answer in answers] == [0xA801]


def test_another_tenants_study_moves_nothing(
    request: pytest.FixtureRequest, start: Any, make_ct: Any, store: Store, destination: Any,
    other_tenant: Any, services: Any, tenant: Any,
) -> None:  # fmt: skip
    theirs = make_ct(PatientID="SECRET")
    store(theirs.path, into=other_tenant)
    running = start()
    arrived: list[Any] = []

    with accepting(noting(arrived)) as port:
        title = destination(title_of(request), port)
        moved = move(running.port, title, theirs.study_instance_uid)
        absent = move(running.port, title, generate_uid())
        of_patient = study_identifier("")
        of_patient.QueryRetrieveLevel, of_patient.PatientID = "PATIENT", "SECRET"
        del of_patient.StudyInstanceUID
        by_patient = move(
            running.port, title, of_patient, model=PatientRootQueryRetrieveInformationModelMove
        )

    assert arrived == []
    shown = [[(e.tag, e.value) for e in answer if e.keyword] for answer in (*moved, *by_patient)]
    assert shown == [[(e.tag, e.value) for e in absent[0] if e.keyword]] * 2
    assert moved[0].Status == 0
    assert moved[0].NumberOfCompletedSuboperations == 0
    logged = "SELECT count(*) FROM phi_access_logs p JOIN audit_events a ON a.tenant_id = %(tenant_id)s AND a.id = p.audit_event_id WHERE p.tenant_id = %(tenant_id)s AND a.metadata ->> 'receiving_ae_title' = %(title)s"  # noqa: E501
    assert rows(services, tenant, logged, title=title) == [(0,)]


def test_who_may_not_query_is_offered_neither(
    request: pytest.FixtureRequest, start: Any, registered: Any
) -> None:
    title = title_of(request)
    registered(title, may_query=False)
    entity = AE(title)
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    entity.add_requested_context(CTImageStorage)
    roles = [build_role(CTImageStorage, scp_role=True, scu_role=True)]

    association = entity.associate("127.0.0.1", start().port, ae_title="INTEROP", ext_neg=roles)

    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    as_scp = [context for context in association.accepted_contexts if context.as_scp]
    association.release()
    assert accepted == {CTImageStorage}
    assert as_scp == []


def test_what_was_sent_is_in_the_audit_log(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any,
    services: Any, tenant: Any,
) -> None:  # fmt: skip
    running = start()
    with accepting(lambda event: 0) as port:
        title = destination(title_of(request), port)
        move(running.port, title, archive.study)

    logged = rows(
        services, tenant,
        "SELECT a.event_type, a.resource_type, s.study_uid, a.outcome, a.metadata ->> 'instances',"
        " a.metadata ->> 'operation', a.metadata ->> 'calling_ae_title', p.action,"
        " p.patient_id = s.patient_id FROM audit_events a"
        " JOIN phi_access_logs p ON p.tenant_id = %(tenant_id)s AND p.audit_event_id = a.id"
        " JOIN imaging_studies s ON s.tenant_id = %(tenant_id)s AND s.id::text = a.resource_id"
        " WHERE a.tenant_id = %(tenant_id)s AND a.metadata ->> 'receiving_ae_title' = %(title)s",
        title=title,
    )  # fmt: skip
    assert logged == [
        ("IMAGES_SENT", "ImagingStudy", archive.study, "SUCCESS", "6", "C-MOVE", "PEER",
         "EXPORT", True)
    ]  # fmt: skip
    transaction = (
        "SELECT status_code, status, message FROM dicom_transactions"
        " WHERE tenant_id = %(tenant_id)s AND operation = 'C-MOVE'"
        " ORDER BY started_at DESC LIMIT 1"
    )
    expected = [(0, "SUCCESS", "6 of 6 instances")]
    assert eventually(lambda: rows(services, tenant, transaction) == expected)


# -- identifiers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identifier",
    [
        identifier_of(StudyInstanceUID="1.2.3"),
        identifier_of(QueryRetrieveLevel="PATIENT", PatientID="P1"),
        identifier_of(QueryRetrieveLevel="NONSENSE", StudyInstanceUID="1.2.3"),
        identifier_of(QueryRetrieveLevel="STUDY"),
        identifier_of(QueryRetrieveLevel="STUDY", StudyInstanceUID=""),
        identifier_of(QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2.3"),
        identifier_of(QueryRetrieveLevel="IMAGE", StudyInstanceUID="1.2.3"),
    ],
    ids=["no level", "a patient in Study Root", "no such level", "no key", "an empty key",
         "no series", "no image"],
)  # fmt: skip
def test_an_identifier_without_its_unique_key_is_refused(
    identifier: Dataset, request: pytest.FixtureRequest, start: Any, destination: Any
) -> None:
    title = destination(title_of(request), free_port())

    answers = move(start().port, title, identifier)

    assert [answer.Status for answer in answers] == [0xA900]
    assert answers[0].ErrorComment


@pytest.mark.parametrize(
    "data_set",
    [
        b"",
        b"\x08\x00",
        b"\x08\x00\x52\x00\xff\xff\xff\x7fSTUDY ",
        b"\x08\x00\x52\x00\x06\0\0\0STUDY " + b"\x20\x00\x0d\x00\x02\0\0\0*\0",
        b"\x08\x00\x52\x00\x06\0\0\0STUDY " + b"\x20\x00\x0d\x00\x06\0\0\0" + b"1\0.2.3",
        (b"\x08\x00\x40\x11\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 200,
    ],
    ids=["nothing", "half an element", "cut off", "a wildcard", "a NUL", "sequences in sequences"],
)
def test_an_identifier_that_cannot_be_read_is_refused(
    data_set: bytes, start: Any, connect: Any, wire: Any, request: pytest.FixtureRequest,
    destination: Any,
) -> None:  # fmt: skip
    title = destination(title_of(request), free_port())
    peer = connect(start().port)
    model = str(StudyRootQueryRetrieveInformationModelMove)
    peer.associate(contexts=((1, model, (str(ImplicitVRLittleEndian),)),))

    peer.send(
        wire.pdu(4, wire.pdv(1, 3, retrieve_rq(wire, model, 0x0021, title)))
        + wire.pdu(4, wire.pdv(1, 2, data_set))
    )

    assert peer.response().status == 0xA900
    peer.release()


# -- C-CANCEL, and peers that leave -----------------------------------------------------------


def test_a_move_that_is_cancelled_stops(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any
) -> None:
    running = start()
    arrived: list[Any] = []
    is_cancelled = threading.Event()

    def handle(event: Any) -> int:
        arrived.append(event)
        if len(arrived) == 2:
            is_cancelled.wait(10)
        return 0

    entity = AE("PEER")
    model = StudyRootQueryRetrieveInformationModelMove
    entity.add_requested_context(model)
    with accepting(handle) as port:
        title = destination(title_of(request), port)
        association = entity.associate("127.0.0.1", running.port, ae_title="INTEROP")
        answers = association.send_c_move(study_identifier(archive.study), title, model, msg_id=9)
        found = [next(answers)[0]]
        association.send_c_cancel(9, query_model=model)
        assert eventually(lambda: len(arrived) == 2)
        is_cancelled.set()
        found += [status for status, _ in answers]
        # The association is as good as before.
        later = list(association.send_c_move(study_identifier("1.2.3"), title, model))
        association.release()

    last = found[-1]
    assert last.Status == 0xFE00
    assert last.NumberOfCompletedSuboperations == len(arrived) == 2
    assert last.NumberOfRemainingSuboperations == 4
    assert later[-1][0].Status == 0


def test_a_move_to_a_silent_destination_can_be_cancelled(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any
) -> None:
    running, is_over = start(), threading.Event()

    def handle(event: Any) -> int:
        is_over.wait(15)
        return 0

    entity = AE("PEER")
    model = StudyRootQueryRetrieveInformationModelMove
    entity.add_requested_context(model)
    with accepting(handle) as port:
        title = destination(title_of(request), port)
        association = entity.associate("127.0.0.1", running.port, ae_title="INTEROP")
        answers = association.send_c_move(study_identifier(archive.study), title, model, msg_id=3)
        first = next(answers)[0]
        association.send_c_cancel(3, query_model=model)
        last = [status for status, _ in answers][-1]
        is_over.set()
        association.release()

    # The peer hears that its request is alive although nothing was done yet.
    assert (first.Status, first.NumberOfCompletedSuboperations) == (0xFF00, 0)
    assert last.Status == 0xFE00
    assert last.NumberOfRemainingSuboperations == 6


def test_a_peer_that_leaves_ends_its_move(
    request: pytest.FixtureRequest, start: Any, archive: Stored, destination: Any
) -> None:
    running, is_gone = start(), threading.Event()
    arrived: list[Any] = []

    def handle(event: Any) -> int:
        arrived.append(event)
        is_gone.wait(10)
        return 0

    with accepting(handle) as port:
        title = destination(title_of(request), port)
        entity = AE("PEER")
        model = StudyRootQueryRetrieveInformationModelMove
        entity.add_requested_context(model)
        association = entity.associate("127.0.0.1", running.port, ae_title="INTEROP")
        answers = association.send_c_move(study_identifier(archive.study), title, model)
        next(answers)
        association.abort()
        assert eventually(lambda: running.listener.connection_count == 0)
        is_gone.set()

    assert len(arrived) == 1
