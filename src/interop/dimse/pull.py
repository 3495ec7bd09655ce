"""Fetching what a clinic's PACS has: C-FIND says what is there, C-GET or C-MOVE bring it (PS3.4 C).

What is stored already is not asked for, so repeating continues and a pull that was cut off loses
nothing. Everything comes in by the one ingest path: with C-GET on our own association, with C-MOVE
at the listener of the running server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pydicom.dataset import Dataset
from pynetdicom import _config, evt
from pynetdicom.presentation import build_context, build_role
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as FindModel,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet as GetModel,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelMove as MoveModel,
)

from interop.dicom.failures import OUT_OF_RESOURCES, Failure
from interop.dicom.ingest import Ingest, Source
from interop.dicom.spool import Spool
from interop.dimse.presentation import STORAGE_TRANSFER_SYNTAXES
from interop.dimse.requestor import MAX_CONTEXTS, Destination, SendFailed
from interop.dimse.scu import associated
from interop.dimse.transactions import INSERT_TRANSACTIONS, Transaction, log_values
from storage.database import Database
from storage.tenancy import Tenant

logger = logging.getLogger(__name__)

Method = Literal["get", "move"]
# Called with how many objects are done now, and once, with 0, how many there are.
Progress = Callable[..., object]
# PS3.4 C.4.1.1.4 and C.4.3.1.4: more results follow.
_PENDING: Final = (0xFF00, 0xFF01)
_MOST_RESULTS: Final = 100_000
_UIDS_AT_ONCE: Final = 200
_COPY_BYTES: Final = 1 << 20
_REPORTED: Final = 100
# Proposed for each SOP class: what nearly every archive can send. Explicit first, as most store it.
_WANTED_SYNTAXES: Final = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.5",
)
assert set(_WANTED_SYNTAXES) <= STORAGE_TRANSFER_SYNTAXES


class PullFailed(Exception):
    """The peer did not answer, or with a failure; the message has its status."""


class PullServices(Protocol):
    """The part of interop.services.Services that a pull needs."""

    @property
    def database(self) -> Database: ...
    @property
    def ingest(self) -> Ingest: ...
    @property
    def spool(self) -> Spool: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. Dates are DICOM ranges: 20260101, 20260101-, 20260101-20260131."""

    patient_id: str = ""
    study_uids: tuple[str, ...] = ()
    dates: str = ""
    accession_number: str = ""
    modality: str = ""

    @property
    def is_empty(self) -> bool:
        return self == Wanted()


@dataclass(slots=True)
class SeriesThere:
    """A series of the peer: the instances by SOP Instance UID, with their SOP class if it says."""

    series_uid: str
    instances: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def is_wholly_missing(self) -> bool:
        return len(self.missing) == len(self.instances)


@dataclass(slots=True)
class StudyThere:
    """A study of the peer, and what of it is not here."""

    study_uid: str
    study_date: str
    description: str
    modalities: list[str]
    series: list[SeriesThere] = field(default_factory=list)

    @property
    def number_of_instances(self) -> int:
        return sum(len(one.instances) for one in self.series)

    @property
    def missing(self) -> list[str]:
        return [uid for one in self.series for uid in one.missing]

    def described(self) -> dict[str, Any]:
        """For people and for JSON; nothing of it names the patient."""
        return {
            "study_instance_uid": self.study_uid,
            "study_date": self.study_date,
            "study_description": self.description,
            "modalities": self.modalities,
            "instances": self.number_of_instances,
            "to_fetch": len(self.missing),
        }


@dataclass(slots=True)
class PullReport:
    """What became of a pull. `problems` holds the first hundred."""

    studies: int = 0
    instances: int = 0
    stored_before: int = 0
    fetched: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if len(self.problems) < _REPORTED:
            self.problems.append(text)


# -- what is there ------------------------------------------------------------------------------


def look(
    services: PullServices, tenant: Tenant, peer: Destination, wanted: Wanted
) -> list[StudyThere]:
    """Ask the peer what it has, down to the instances, and compare with what is here.

    Raises PullFailed and SendFailed.
    """
    if wanted.is_empty:
        raise PullFailed("say what to pull: a patient, studies, dates, an accession number")
    with associated(peer, [build_context(FindModel)]) as association:
        studies = [study for asked in _asked(wanted) for study in _studies(association, asked)]
        for study in studies:
            study.series = _series(association, study.study_uid)
    _log(services.database, tenant, peer, "C-FIND", f"{len(studies)} studies")
    _compare(services.database, tenant, studies)
    return studies


def _asked(wanted: Wanted) -> Iterator[Dataset]:
    """The identifiers of the query: one, or one for some of the studies that are named."""
    for uids in _pieces(wanted.study_uids) if wanted.study_uids else [()]:
        asked = Dataset()
        asked.QueryRetrieveLevel = "STUDY"
        asked.StudyInstanceUID = list(uids) or ""
        asked.PatientID = wanted.patient_id
        asked.StudyDate = wanted.dates
        asked.AccessionNumber = wanted.accession_number
        asked.ModalitiesInStudy = wanted.modality
        asked.StudyDescription = ""
        yield asked


def _studies(association: Any, asked: Dataset) -> Iterator[StudyThere]:
    for found in _find(association, asked):
        uid = str(found.get("StudyInstanceUID", ""))
        if uid:
            yield StudyThere(
                uid,
                str(found.get("StudyDate", "") or ""),
                str(found.get("StudyDescription", "") or ""),
                _texts(found.get("ModalitiesInStudy")),
            )


def _series(association: Any, study_uid: str) -> list[SeriesThere]:
    asked = Dataset()
    asked.QueryRetrieveLevel = "SERIES"
    asked.StudyInstanceUID = study_uid
    asked.SeriesInstanceUID = ""
    series = []
    for found in _find(association, asked):
        one = SeriesThere(str(found.SeriesInstanceUID))
        asked_below = Dataset()
        asked_below.QueryRetrieveLevel = "IMAGE"
        asked_below.StudyInstanceUID = study_uid
        asked_below.SeriesInstanceUID = one.series_uid
        asked_below.SOPInstanceUID = ""
        asked_below.SOPClassUID = ""
        for instance in _find(association, asked_below):
            one.instances[str(instance.SOPInstanceUID)] = str(instance.get("SOPClassUID", "") or "")
        series.append(one)
    return series


def _find(association: Any, asked: Dataset) -> list[Dataset]:
    found: list[Dataset] = []
    level = asked.QueryRetrieveLevel
    try:
        for status, identifier in association.send_c_find(asked, FindModel):
            if "Status" not in status:
                raise PullFailed("the peer did not answer the C-FIND")
            if status.Status in _PENDING and identifier is not None:
                found.append(identifier)
                if len(found) > _MOST_RESULTS:
                    raise PullFailed(f"more than {_MOST_RESULTS} results; ask for less at a time")
            elif status.Status not in _PENDING and status.Status != 0:
                comment = str(status.get("ErrorComment", ""))
                raise PullFailed(
                    f"C-FIND at level {level}: 0x{status.Status:04X} {comment}".strip()
                )
    except ValueError as error:
        raise PullFailed(f"the peer offers no queries: {error}") from error
    return found


def _compare(database: Database, tenant: Tenant, studies: Iterable[StudyThere]) -> None:
    """Find out what of the studies is stored here."""
    for study in studies:
        here = stored_of(database, tenant, [u for s in study.series for u in s.instances])
        for series in study.series:
            series.missing = [uid for uid in series.instances if uid not in here]


def stored_of(database: Database, tenant: Tenant, sop_instance_uids: Sequence[str]) -> set[str]:
    """Those of the instances that are stored."""
    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT sop_instance_uid FROM imaging_objects WHERE tenant_id = %s"
            " AND sop_instance_uid = ANY (%s)",
            (tenant.id, list(sop_instance_uids)),
        ).fetchall()
    return {row[0] for row in rows}


# -- fetching -----------------------------------------------------------------------------------


def fetch(
    services: PullServices,
    tenant: Tenant,
    peer: Destination,
    studies: Sequence[StudyThere],
    method: Method,
    progress: Progress | None = None,
) -> PullReport:
    """Bring what is missing. Raises PullFailed and SendFailed; what has come by then stays."""
    missing = sum(len(study.missing) for study in studies)
    instances = sum(study.number_of_instances for study in studies)
    report = PullReport(len(studies), instances, instances - missing)
    advance = progress if progress is not None else _no_progress
    advance(0, total=missing)
    for study in studies:
        if not study.missing:
            continue
        if method == "get":
            _get_study(services, tenant, peer, study, report, advance)
        else:
            _move_study(peer, study, report, advance)
        failed = _settle(services.database, tenant, study, report)
        text = f"{len(study.missing) - failed} of {len(study.missing)} instances came"
        operation = f"C-{method.upper()}"
        _log(services.database, tenant, peer, operation, text, study.study_uid, failed=failed)
    return report


def _log(
    database: Database,
    tenant: Tenant,
    peer: Destination,
    operation: str,
    message: str,
    study_uid: str | None = None,
    *,
    failed: int = 0,
) -> None:
    """A row of the transaction log for what we asked of the peer."""
    row = Transaction(
        tenant_id=tenant.id,
        operation=operation,
        calling_ae_title=peer.calling_ae_title,
        called_ae_title=peer.called_ae_title,
        remote_address=peer.host,
        status_code=0xB000 if failed else 0x0000,
        status="WARNING" if failed else "SUCCESS",
        message=message,
        study_instance_uid=study_uid,
        direction="OUTBOUND",
    )
    with database.connection(tenant.id) as connection:
        connection.execute(INSERT_TRANSACTIONS, log_values(tenant.id, [row]))


def _settle(database: Database, tenant: Tenant, study: StudyThere, report: PullReport) -> int:
    """Count by what is stored now, whatever the peer said; return how many did not come."""
    missing = study.missing
    here = stored_of(database, tenant, missing)
    report.fetched += len(here)
    report.failed += len(missing) - len(here)
    for uid in missing:
        if uid not in here:
            report.note(f"{uid} did not come")
    return len(missing) - len(here)


def _requests(study: StudyThere) -> Iterator[Dataset]:
    """The identifiers that ask for what is missing, in as few requests as that takes."""
    if all(series.is_wholly_missing for series in study.series):
        yield _identifier("STUDY", study.study_uid)
        return
    for series in study.series:
        if series.is_wholly_missing:
            yield _identifier("SERIES", study.study_uid, series.series_uid)
        elif series.missing:
            for uids in _pieces(series.missing):
                yield _identifier("IMAGE", study.study_uid, series.series_uid, uids)


def _identifier(
    level: str, study_uid: str, series_uid: str = "", uids: Sequence[str] = ()
) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    asked.StudyInstanceUID = study_uid
    if series_uid:
        asked.SeriesInstanceUID = series_uid
    if uids:
        asked.SOPInstanceUID = list(uids)
    return asked


def _move_study(
    peer: Destination, study: StudyThere, report: PullReport, advance: Progress
) -> None:
    """C-MOVE to ourselves: the peer sends to the address that it knows for our AE title."""
    with associated(peer, [build_context(MoveModel)]) as association:
        for asked in _requests(study):
            done = 0
            try:
                answers = association.send_c_move(asked, peer.calling_ae_title, MoveModel)
                for status, _ in answers:
                    done = _advanced(status, done, advance)
                    _note(status, study, report, "C-MOVE")
            except ValueError as error:
                raise PullFailed(f"the peer offers no C-MOVE: {error}") from error


def _get_study(
    services: PullServices,
    tenant: Tenant,
    peer: Destination,
    study: StudyThere,
    report: PullReport,
    advance: Progress,
) -> None:
    """C-GET: the objects come on the association that asks for them."""
    source = Source(
        door="C-STORE",
        actor=peer.called_ae_title,
        calling_ae_title=peer.called_ae_title,
        called_ae_title=peer.calling_ae_title,
        remote_address=None,
    )

    def on_store(event: Any) -> Any:
        status = _take(services, tenant, event.dataset_path, source)
        advance(1)
        return status

    classes = _sop_classes(study)
    contexts = [build_context(GetModel)]
    contexts += [build_context(uid, list(_WANTED_SYNTAXES)) for uid in classes]
    roles = [build_role(uid, scu_role=False, scp_role=True) for uid in classes]
    handlers = [(evt.EVT_C_STORE, on_store)]
    with (
        _received_in_files(),
        associated(peer, contexts, roles=roles, handlers=handlers) as association,
    ):
        for asked in _requests(study):
            try:
                for status, _ in association.send_c_get(asked, GetModel):
                    _note(status, study, report, "C-GET")
            except ValueError as error:
                raise PullFailed(f"the peer offers no C-GET; try --method move: {error}") from error


@contextmanager
def _received_in_files() -> Iterator[None]:
    """Have what comes in go to temporary files and not into memory; a setting of the process."""
    before = _config.STORE_RECV_CHUNKED_DATASET
    _config.STORE_RECV_CHUNKED_DATASET = True
    try:
        yield
    finally:
        _config.STORE_RECV_CHUNKED_DATASET = before


def _sop_classes(study: StudyThere) -> list[str]:
    """Of what is missing, where the peer says it; else of what archives mostly hold."""
    known = {series.instances[uid] for series in study.series for uid in series.missing}
    if known and "" not in known and len(known) < MAX_CONTEXTS:
        return sorted(known)
    from pynetdicom.presentation import StoragePresentationContexts

    return [str(c.abstract_syntax) for c in StoragePresentationContexts][: MAX_CONTEXTS - 1]


def _take(services: PullServices, tenant: Tenant, path: Path, source: Source) -> int:
    """Store one object that came; return its C-STORE status."""
    writer = services.spool.writer()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_COPY_BYTES):
                writer.write(chunk)
        spooled = writer.finish()
    except Failure as failure:
        writer.abort()
        return failure.dicom_status
    except OSError as error:
        writer.abort()
        logger.warning("pull_spool_failed", extra={"errno": error.errno})
        return OUT_OF_RESOURCES.dicom_status
    finally:
        path.unlink(missing_ok=True)  # of a requestor pynetdicom leaves it behind
    return services.ingest.store(tenant, spooled, source).dicom_status


def _advanced(status: Dataset, done: int, advance: Progress) -> int:
    """Show what a C-MOVE response counts."""
    finished = sum(
        int(status.get(f"NumberOf{kind}Suboperations", 0) or 0)
        for kind in ("Completed", "Failed", "Warning")
    )
    if finished > done:
        advance(finished - done)
    return max(done, finished)


def _note(status: Dataset, study: StudyThere, report: PullReport, operation: str) -> None:
    if "Status" not in status:
        raise SendFailed(f"the peer did not answer the {operation}")
    if status.Status in _PENDING or status.Status == 0:
        return
    comment = str(status.get("ErrorComment", "") or "")
    meaning = ""
    if status.Status == 0xA801:
        meaning = "it does not know our AE title as a destination"
    text = f"{operation} of {study.study_uid}: 0x{status.Status:04X} {meaning or comment}".strip()
    report.note(text)


def _texts(value: Any) -> list[str]:
    if value in (None, ""):
        return []
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _pieces(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(uids), _UIDS_AT_ONCE):
        yield uids[at : at + _UIDS_AT_ONCE]


def _no_progress(*_: int, **__: int) -> None:
    """Nobody watches."""
