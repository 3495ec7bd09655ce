"""Calling a peer: echo, sending files, and pynetdicom's associations for what is rare.

Objects go out by `sender`; every other service that we request is pynetdicom's, behind the
transport guard.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.presentation import build_context

from interop.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from interop.dimse.presentation import VERIFICATION_SOP_CLASS
from interop.dimse.sender import (
    Destination,
    NotReadable,
    ObjectReader,
    SendFailed,
    SentObject,
    outgoing_file,
    send_objects,
)
from interop.dimse.transport_guard import GuardedApplicationEntity

CONNECT_SECONDS: Final = 10.0
RESPONSE_SECONDS: Final = 120.0
_PDU_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one file. `status` is the peer's; None when it was not sent."""

    path: Path
    status: int | None
    message: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""

    @property
    def is_success(self) -> bool:
        """PS3.7 C: 0000 is success, Bxxx a warning with which the object was stored."""
        return self.status is not None and (self.status == 0 or self.status >> 12 == 0xB)


@dataclass(slots=True)
class SendReport:
    """The outcome of one `send`."""

    sent: list[Sent] = field(default_factory=list)

    @property
    def failed(self) -> list[Sent]:
        return [entry for entry in self.sent if not entry.is_success]


# Called with 1 after each file, sent or not.
Progress = Callable[[int], object]


def echo(
    host: str,
    port: int,
    called_ae_title: str,
    calling_ae_title: str,
    *,
    tls_context: ssl.SSLContext | None = None,
) -> int:
    """Send C-ECHO; return its status. Raises SendFailed."""
    contexts = [build_context(VERIFICATION_SOP_CLASS)]
    called = Destination(host, port, called_ae_title, calling_ae_title, tls_context)
    with associated(called, contexts) as association:
        response = association.send_c_echo()
        if "Status" not in response:
            raise SendFailed(f"{called} did not answer the C-ECHO")
        return int(response.Status)


def send(
    paths: Iterable[Path | str],
    host: str,
    port: int,
    called_ae_title: str,
    calling_ae_title: str,
    progress: Progress | None = None,
    *,
    tls_context: ssl.SSLContext | None = None,
) -> SendReport:
    """Send files by C-STORE; folders are walked. Raises SendFailed when there is no association.

    A file that is no DICOM object or that the peer refuses is in the report, and the rest goes on.
    """
    report = SendReport()

    def note(entry: Sent) -> None:
        report.sent.append(entry)
        if progress is not None:
            progress(1)

    def note_sent(found: SentObject) -> None:
        outgoing = found.outgoing
        uids = outgoing.sop_class_uid, outgoing.sop_instance_uid
        note(Sent(Path(outgoing.location), found.status, found.message, *uids))

    objects = []
    for path in files_below(paths):
        try:
            objects.append(outgoing_file(path))
        except NotReadable as error:
            note(Sent(path, None, str(error)))
    if objects:
        called = Destination(host, port, called_ae_title, calling_ae_title, tls_context)
        send_objects(called, objects, ObjectReader(None, _temporary_folder), note=note_sent)
    return report


def files_below(paths: Iterable[Path | str]) -> Iterator[Path]:
    """The files named, and those in the folders named; also what is not there, to be said so."""
    for entry in paths:
        path = Path(entry)
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file())
        else:
            yield path


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="interop-send-") as folder:
        yield Path(folder)


@contextmanager
def associated(
    called: Destination,
    contexts: list[Any],
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[tuple[Any, Callable[[Any], Any]]] = (),
) -> Iterator[Any]:
    """pynetdicom's association with the peer, released at the end. Raises SendFailed.

    `roles` are SCP/SCU role selections (PS3.7 D.3.3.4), `handlers` serve what the peer asks of us.
    """
    entity = GuardedApplicationEntity(called.calling_ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = CONNECT_SECONDS
    entity.dimse_timeout = RESPONSE_SECONDS
    entity.network_timeout = RESPONSE_SECONDS
    connected = threading.Event()
    association = entity.associate(
        called.addresses()[0],
        called.port,
        contexts=contexts,
        ae_title=called.called_ae_title,
        max_pdu=_PDU_BYTES,
        ext_neg=list(roles),
        evt_handlers=[(evt.EVT_CONN_OPEN, lambda _: connected.set()), *handlers],
        tls_args=(called.tls_context, called.host) if called.tls_context else None,
    )
    if not association.is_established:
        raise SendFailed(
            _why(association, called) if connected.is_set() else _why_not_connected(called)
        )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _why_not_connected(called: Destination) -> str:
    failure = getattr(called.tls_context, "failure", None)
    return f"no TLS with {called}: {failure}" if failure else f"no connection to {called}"


def _why(association: Any, called: Destination) -> str:
    if association.is_rejected:
        answer = association.acceptor.primitive
        return (
            f"{called} rejected the association: {answer.result_str}, {answer.reason_str}; "
            "check both AE titles"
        )
    if association.rejected_contexts:
        # It associated; pynetdicom aborts where nothing can be done on the association.
        services = dict.fromkeys(one.abstract_syntax.name for one in association.rejected_contexts)
        return f"{called} does not offer {', '.join(services)}"
    # In TLS 1.3 a peer hears of our certificate after we have taken the connection as made.
    hint = "; it may not accept our certificate" if called.tls_context else ""
    return f"{called} aborted the association{hint}"
