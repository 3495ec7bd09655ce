"""C-MOVE (PS3.4 C.4.2, SCP): objects go to a registered application entity, over an association of
its own.

Only to one that the tenant has registered as somebody who may be sent to, at the address of its
registration: whoever else is named gets no connection from us (security.md A11).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from typing import Final

from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelMove,
)

from interop.access import Caller
from interop.access.devices import device
from interop.dimse import peers, registry
from interop.dimse.command_set import C_MOVE_RQ
from interop.dimse.outgoing import OutgoingObject
from interop.dimse.registry import ApplicationEntity
from interop.dimse.requestor import Destination
from interop.dimse.retrieval import Plan
from interop.dimse.sender import Originator, SendCancelled, Sender, SendFailed
from interop.dimse.service_requests import Served, Service, ServiceRequest
from interop.dimse.suboperations import (
    MOVE_DESTINATION_UNKNOWN,
    UNABLE_TO_PERFORM,
    Refused,
    SubOperations,
    answer_extended,
    answer_refused,
    planned_of,
    reader_of,
)
from interop.dimse.tls import TlsConfigurationError
from storage.tenancy import AE_TITLE

logger = logging.getLogger(__name__)

PATIENT_ROOT_MOVE: Final = str(PatientRootQueryRetrieveInformationModelMove)
STUDY_ROOT_MOVE: Final = str(StudyRootQueryRetrieveInformationModelMove)

_MOVE_DESTINATION: Final = 0x0600


def handle_c_move(request: ServiceRequest) -> Served:
    """Send what the identifier names to the Move Destination."""
    title = request.command.elements.get(_MOVE_DESTINATION, b"").decode("latin-1").strip(" \0")
    try:
        entity = _registered(request, title)
        destination = _address(request, entity)
        planned = planned_of(request, title, PATIENT_ROOT_MOVE, _receiver(request, entity))
    except Refused as why:
        return answer_refused(request, why)
    counts = SubOperations(request, planned.count, title)
    is_cancelled = _send(request, destination, planned, counts)
    return counts.finish(is_cancelled=is_cancelled)


def _registered(request: ServiceRequest, title: str) -> ApplicationEntity:
    """The registered peer of this AE title. Raises Refused where nothing may be sent to it."""
    unknown = Refused(MOVE_DESTINATION_UNKNOWN, f"{title[:16]!r} is no registered destination")
    if not AE_TITLE.fullmatch(title):
        raise unknown
    tenant, backend = request.admission.tenant, request.conversation.backend
    found = registry.find(backend.database, tenant, title)
    now = datetime.now(UTC)
    if (
        found is None
        or not (found.active and found.may_be_sent_to)
        or (found.valid_from is not None and now < found.valid_from)
        or (found.valid_until is not None and now >= found.valid_until)
    ):
        raise unknown
    return found


def _receiver(request: ServiceRequest, entity: ApplicationEntity) -> Caller:
    """The destination as somebody who sees images: only of whom has consented to its purpose."""
    return device(
        request.admission.tenant,
        entity.ae_title,
        "",
        may_send=False,
        may_query=True,
        required_consent=entity.required_consent,
    )


def _address(request: ServiceRequest, entity: ApplicationEntity) -> Destination:
    """Where the destination listens. Raises Refused."""
    settings = request.conversation.backend.settings
    try:
        return peers.destination(settings, request.admission.tenant, entity)
    except TlsConfigurationError as error:
        logger.error("tls_files_not_usable", extra={"detail": str(error)})
        raise Refused(UNABLE_TO_PERFORM, "TLS is not configured for the destination") from error


def _send(
    request: ServiceRequest, destination: Destination, planned: Plan, counts: SubOperations
) -> bool:
    """Send object after object; whether the peer cancelled."""

    def is_cancelled() -> bool:
        counts.report()
        return request.cancelled()

    originator = Originator(request.admission.calling_ae_title, request.command.message_id)
    sender = Sender(
        destination, planned.kinds, reader_of(request), originator=originator,
        is_cancelled=is_cancelled,
    )  # fmt: skip
    # Those that the sender has taken and not said anything of.
    taken: deque[OutgoingObject] = deque()
    objects = planned.objects()

    def taking() -> Iterator[OutgoingObject]:
        for outgoing in objects:
            taken.append(outgoing)
            yield outgoing

    try:
        with sender, suppress(SendCancelled):
            for sent in sender.send(taking()):
                taken.popleft()
                counts.note(sent.outgoing.sop_instance_uid, sent.status, sent.message)
                counts.report()
                if request.cancelled():
                    break
    except SendFailed as error:
        for outgoing in chain(taken, objects):
            counts.note(outgoing.sop_instance_uid, None, str(error))
    return request.is_cancelled and counts.remaining > 0


SERVICE: Final = Service(
    C_MOVE_RQ,
    "C-MOVE",
    (PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE),
    handle_c_move,
    needs="may_query",
    is_streaming=True,
    extended=answer_extended,
)
