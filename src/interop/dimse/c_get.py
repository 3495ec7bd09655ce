"""C-GET (PS3.4 C.4.3, SCP): objects come back on the association on which they were asked for.

The requestor takes the SCP role of the storage SOP classes that it proposes (PS3.7 D.3.3.4). An
object goes out as stored where a context for that was accepted, else transcoded to one that was; an
object of a SOP class that was not negotiated is a failed sub-operation like any other.
"""

from __future__ import annotations

from typing import Final

from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelGet,
)

from interop.dimse.command_set import C_GET_RQ
from interop.dimse.outgoing import NotReadable, OutgoingObject
from interop.dimse.retrieval import InvalidIdentifier
from interop.dimse.service_requests import Served, Service, ServiceRequest
from interop.dimse.store_request import StoreContexts, StoreRequests, store_status
from interop.dimse.suboperations import (
    IDENTIFIER_DOES_NOT_MATCH,
    SubOperations,
    answer_extended,
    planned_of,
    reader_of,
    refused,
)

PATIENT_ROOT_GET: Final = str(PatientRootQueryRetrieveInformationModelGet)
STUDY_ROOT_GET: Final = str(StudyRootQueryRetrieveInformationModelGet)


def handle_c_get(request: ServiceRequest) -> Served:
    """Send what the identifier names back to the requestor."""
    title = request.admission.calling_ae_title
    try:
        planned = planned_of(request, title, PATIENT_ROOT_GET)
    except InvalidIdentifier as error:
        return refused(request, IDENTIFIER_DOES_NOT_MATCH, str(error))
    counts = SubOperations(request, planned.count, title)
    returning = _Returning(request)
    for outgoing in planned.objects():
        if request.cancelled():
            break
        status, message = returning.send(outgoing)
        counts.note(outgoing.sop_instance_uid, status, message)
        counts.report()
    return counts.finish(is_cancelled=request.is_cancelled and counts.remaining > 0)


class _Returning:
    """The C-STORE sub-operations of one C-GET."""

    def __init__(self, request: ServiceRequest) -> None:
        self._request = request
        conversation = request.conversation
        self._contexts = StoreContexts(
            (context.context_id, context.sop_class_uid, context.transfer_syntax_uid)
            for context in conversation.negotiated.contexts.values()
            if context.is_storage and context.as_scu
        )
        self._requests = StoreRequests(conversation.link, conversation.negotiated.peer_pdu_bytes)
        self._reader = reader_of(request)
        self._message_id = 0

    def send(self, outgoing: OutgoingObject) -> tuple[int | None, str]:
        """Status and comment of the peer; None and why where it was not sent."""
        choice = self._contexts.choose(outgoing)
        if isinstance(choice, str):
            return None, choice
        message_id = self._message_id = self._message_id % 0xFFFF + 1
        try:
            with self._reader.opened(outgoing, choice.transfer_syntax_uid) as data_set:
                self._requests.send(choice, message_id, outgoing, data_set)
        except NotReadable as error:
            return None, str(error)
        _, response, _ = self._request.receive_response()
        return store_status(response, message_id)


SERVICE: Final = Service(
    C_GET_RQ,
    "C-GET",
    (PATIENT_ROOT_GET, STUDY_ROOT_GET),
    handle_c_get,
    needs="may_query",
    is_streaming=True,
    extended=answer_extended,
)
