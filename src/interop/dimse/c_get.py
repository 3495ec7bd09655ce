"""C-GET (PS3.4 C.4.3, SCP): objects come back on the association on which they were asked for.

The requestor takes the SCP role of the storage SOP classes that it proposes (PS3.7 D.3.3.4). An
object goes out as stored where a context for that was accepted, else transcoded to one that was; an
object of a SOP class that was not negotiated is a failed sub-operation like any other.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelGet,
)

from interop.dimse.command_set import C_GET_RQ
from interop.dimse.outgoing import NotReadable
from interop.dimse.retrieval import Plan
from interop.dimse.service_requests import Served, Service, ServiceRequest
from interop.dimse.store_request import Prepared, StoreContexts, StoreRequests, store_status
from interop.dimse.suboperations import (
    Refused,
    SubOperations,
    answer_extended,
    answer_refused,
    planned_of,
    reader_of,
)

PATIENT_ROOT_GET: Final = str(PatientRootQueryRetrieveInformationModelGet)
STUDY_ROOT_GET: Final = str(StudyRootQueryRetrieveInformationModelGet)


def handle_c_get(request: ServiceRequest) -> Served:
    """Send what the identifier names back to the requestor."""
    title = request.admission.calling_ae_title
    try:
        planned = planned_of(request, title, PATIENT_ROOT_GET)
    except Refused as why:
        return answer_refused(request, why)
    counts = SubOperations(request, planned.count, title)
    _return(request, planned, counts)
    return counts.finish(is_cancelled=request.is_cancelled and counts.remaining > 0)


def _return(request: ServiceRequest, planned: Plan, counts: SubOperations) -> None:
    """Send object after object; while the peer has one, the next is read."""
    requests = _requests(request)
    sent: Prepared | None = None
    for outgoing in planned.objects():
        problem, ahead = "", None
        try:
            ahead = requests.prepare(outgoing)
        except NotReadable as error:
            problem = str(error)
        with ExitStack() as stack:
            if ahead is not None:
                stack.callback(ahead.close)
            if sent is not None:
                _take_response(request, sent, counts)
                sent = None
            if request.cancelled():
                return
            if ahead is None:
                counts.note(outgoing.sop_instance_uid, None, problem)
                counts.report()
            else:
                requests.transmit(ahead)
                sent = ahead
    if sent is not None:
        _take_response(request, sent, counts)


def _requests(request: ServiceRequest) -> StoreRequests:
    conversation = request.conversation
    contexts = StoreContexts(
        (context.context_id, context.sop_class_uid, context.transfer_syntax_uid)
        for context in conversation.negotiated.contexts.values()
        if context.is_storage and context.as_scu
    )
    peer_pdu_bytes = conversation.negotiated.peer_pdu_bytes
    return StoreRequests(conversation.link, peer_pdu_bytes, contexts, reader_of(request))


def _take_response(request: ServiceRequest, sent: Prepared, counts: SubOperations) -> None:
    _, response, _ = request.receive_response()
    status, message = store_status(response, sent.message_id)
    counts.note(sent.outgoing.sop_instance_uid, status, message)
    counts.report()


SERVICE: Final = Service(
    C_GET_RQ,
    "C-GET",
    (PATIENT_ROOT_GET, STUDY_ROOT_GET),
    handle_c_get,
    needs="may_query",
    is_streaming=True,
    extended=answer_extended,
)
