"""An archive of a few studies, a listener before it, and a peer that asks; for tests of C-FIND."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from struct import pack, unpack_from
from typing import Any

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from interop.dicom.ingest import Source
from interop.dimse.scp import Listener, open_context

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
SUCCESS, CANCEL = 0x0000, 0xFE00


def instance(study: str, series: str, **attributes: Any) -> bytes:
    """A small CT image as a file; None takes an attribute away."""
    data = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = study, series
    data.PatientName, data.PatientID, data.IssuerOfPatientID = "DOE^JANE", "P1", "CLINIC"
    data.PatientBirthDate, data.PatientSex = "19800215", "F"
    data.StudyDate, data.StudyTime, data.Modality = "20260102", "101112", "CT"
    data.AccessionNumber, data.StudyID, data.ReferringPhysicianName = "A1", "S1", "REF^ERRER"
    data.SeriesNumber = data.InstanceNumber = 1
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = 4, 2
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = bytes(8)
    data["PixelData"].VR = "OW"
    for name, value in attributes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    whole = BytesIO()
    data.save_as(whole, enforce_file_format=True)
    return whole.getvalue()


def store(services: Any, tenant: Any, file: bytes) -> None:
    """As if it had come in."""
    writer = services.spool.writer()
    writer.write(file)
    source = Source("IMPORT", "test", None, None, None, None)
    outcome = services.ingest.store(tenant, writer.finish(), source)
    assert outcome.kind == "stored", outcome


@dataclass
class Study:
    """One study of the archive."""

    uid: str
    series: list[str] = field(default_factory=list)


def fill(services: Any, tenant: Any, study: Study, series: int, images: int, **values: Any) -> None:
    """Store `series` series of `images` images each."""
    for number in range(1, series + 1):
        study.series.append(generate_uid())
        for image in range(1, images + 1):
            own = {"SeriesNumber": number, "InstanceNumber": image, **values}
            store(services, tenant, instance(study.uid, study.series[-1], **own))


Archive = dict[str, Study]


def filled(services: Any, tenant: Any, other_tenant: Any) -> Archive:
    """Three studies of two patients, and one of another tenant."""
    studies = {name: Study(generate_uid()) for name in ("ct", "old", "umlaut", "foreign")}
    requested = Dataset()
    requested.RequestedProcedureID, requested.ScheduledProcedureStepID = "RP1", "SPS1"
    fill(
        services, tenant, studies["ct"], 2, 3,
        StudyDescription="CBCT of the jaw", RequestAttributesSequence=[requested],
        PatientAge="045Y", InstitutionName="Praxis Dr. Groß", BodyPartExamined="JAW",
    )  # fmt: skip
    fill(
        services, tenant, studies["old"], 1, 1,
        StudyDate="20191224", StudyTime="235959", AccessionNumber="A2", Modality="IO",
    )  # fmt: skip
    fill(
        services, tenant, studies["umlaut"], 1, 1,
        PatientName="Müller^Jörg", PatientID="P2", AccessionNumber="A3", PatientSex="M",
        StudyDate="20260103", StudyTime="233000", TimezoneOffsetFromUTC="+0100",
    )  # fmt: skip
    fill(services, other_tenant, studies["foreign"], 1, 1, PatientName="FOREIGN^CANARY")
    return studies


@contextmanager
def listening(services: Any, **limits: Any) -> Iterator[int]:
    """A listener's port."""
    context = open_context(services, **limits)
    listener = Listener(context, "127.0.0.1", 0)
    stop = threading.Event()

    def serve() -> None:
        listener.serve_until(stop)
        context.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.port
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def associated(
    port: int,
    sop_class: str = STUDY_ROOT,
    *,
    called: str = "INTEROP",
    calling: str = "PEER",
    extended: bytes | None = None,
    transfer_syntax: str | list[str] = ExplicitVRLittleEndian,
) -> Iterator[Any]:
    """An association of pynetdicom for one FIND SOP class."""
    entity = AE(calling)
    entity.add_requested_context(sop_class, transfer_syntax)
    items = []
    if extended is not None:
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid = sop_class
        item.service_class_application_information = extended
        items.append(item)
    association = entity.associate("127.0.0.1", port, ae_title=called, ext_neg=items)
    assert association.is_established, "no association"
    try:
        yield association
    finally:
        association.release()


def identifier(level: str, **keys: Any) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(asked, name, value)
    return asked


@dataclass
class Found:
    """The responses to one request."""

    status: Dataset
    matches: list[Dataset]
    pending: set[int]

    def values(self, keyword: str) -> list[Any]:
        return [match.get(keyword) for match in self.matches]


def find(association: Any, asked: Dataset) -> Found:
    """Send C-FIND and read all responses."""
    sop_class = association.accepted_contexts[0].abstract_syntax
    matches: list[Dataset] = []
    pending: set[int] = set()
    status = Dataset()
    for status, match in association.send_c_find(asked, sop_class):
        if match is not None:
            matches.append(match)
            pending.add(int(status.Status))
    return Found(status, matches, pending)


def query(port: int, asked: Dataset, sop_class: str = STUDY_ROOT, **how: Any) -> Found:
    """One request on an association of its own."""
    with associated(port, sop_class, **how) as association:
        return find(association, asked)


def with_user_item(request: bytes, item: bytes) -> bytes:
    """The A-ASSOCIATE-RQ with one more user information sub-item; those come last in it."""
    at = request.rindex(b"\x50\0", 0, len(request))
    length = unpack_from(">H", request, at + 2)[0]
    body = request[6:at] + pack(">BxH", 0x50, length + len(item)) + request[at + 4 :] + item
    return pack(">BxI", 1, len(body)) + body
