"""The DIMSE services of an accepted association, C-STORE apart, in one table; how one is served.

A service is added by its row. What a peer may have of it is settled in the negotiation, by `offers`
and `storage_offer`; a request that comes in a context of another SOP class or role breaks the
protocol. C-STORE has its own path (`c_store`), where nothing stands in the way of the data.
"""

from __future__ import annotations

import logging
from typing import Final

import psycopg
from psycopg_pool import PoolTimeout

from interop.dimse import c_find, c_get, c_move, commitment
from interop.dimse.c_store import audit_row
from interop.dimse.command_set import C_ECHO_RQ, C_GET_RQ, N_EVENT_REPORT_RQ, Command
from interop.dimse.policy import Admission
from interop.dimse.presentation import VERIFICATION_SOP_CLASS, AcceptedContext, Offer
from interop.dimse.service_requests import (
    MAX_DATA_SET_BYTES,
    Conversation,
    Served,
    Service,
    ServiceRequest,
)
from interop.dimse.transactions import Transaction
from interop.dimse.transport_guard import LinkError, ProtocolViolation
from interop.dimse.upper_layer import UNEXPECTED_PARAMETER
from interop.errors import ServerError

logger = logging.getLogger(__name__)

# PS3.7 Annex C: general statuses; PS3.4 C.4: those of C-FIND, C-MOVE and C-GET.
SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
RESOURCE_LIMITATION: Final = 0x0213
OUT_OF_RESOURCES: Final = 0xA700
UNABLE_TO_PROCESS: Final = 0xC000


def handle_c_echo(request: ServiceRequest) -> Served:
    """C-ECHO: the association works (PS3.7 9.1.5)."""
    request.respond(SUCCESS)
    return Served(SUCCESS)


SERVICES: Final[tuple[Service, ...]] = (
    Service(
        C_ECHO_RQ, "C-ECHO", (VERIFICATION_SOP_CLASS,), handle_c_echo, audit_event="DICOM_ECHO"
    ),
    c_find.SERVICE,
    c_move.SERVICE,
    c_get.SERVICE,
    *commitment.SERVICES,
)


def offers(admission: Admission) -> dict[str, Offer]:
    """By SOP class, what this peer may ask of the services."""
    found: dict[str, Offer] = {}
    for service in SERVICES:
        if service.needs is not None and not admission.may(service.needs):
            continue
        for uid in service.sop_classes:
            known = found.get(uid, Offer(as_scp=False))
            found[uid] = Offer(
                known.as_scp or service.role == "SCP",
                known.as_scu or service.role == "SCU",
                known.extended or service.extended,
            )
    return found


def storage_offer(admission: Admission) -> Offer:
    """Who may send is SCU of storage; who may retrieve by C-GET is its SCP on the same link."""
    retrieval = next((s for s in SERVICES if s.command_field == C_GET_RQ), None)
    may_get = retrieval is not None and (retrieval.needs is None or admission.may(retrieval.needs))
    return Offer(as_scp=admission.may("may_send"), as_scu=may_get)


def serve(conversation: Conversation, context_id: int, command: Command) -> None:
    """Serve one request to its end. Raises LinkError when the association cannot go on."""
    context = conversation.negotiated.contexts[context_id]
    service = _service_of(context, command)
    data_set = None
    if command.has_data_set:
        data_set = conversation.stream.collect_data_set(context_id, MAX_DATA_SET_BYTES)
    request = ServiceRequest(service, conversation, context, command, data_set)
    served = Served(PROCESSING_FAILURE, "the association ended")
    try:
        served = _handle(request)
    except LinkError as error:
        served = Served(PROCESSING_FAILURE, str(error))
        raise
    finally:
        _record(request, served)


def _service_of(context: AcceptedContext, command: Command) -> Service:
    for service in SERVICES:
        if (
            service.command_field == command.command_field
            and context.sop_class_uid in service.sop_classes
            and command.sop_class_uid == context.sop_class_uid
            and _is_our_role(service, context)
        ):
            return service
    raise ProtocolViolation(
        f"command 0x{command.command_field:04X} is not offered in context {context.context_id}",
        UNEXPECTED_PARAMETER,
    )


def _is_our_role(service: Service, context: AcceptedContext) -> bool:
    # Many an SCP reports on an association of its own without selecting its role (PS3.4 J.3.3).
    if service.command_field == N_EVENT_REPORT_RQ:
        return True
    return context.as_scp if service.role == "SCP" else context.as_scu


def _handle(request: ServiceRequest) -> Served:
    """Have the request served; what goes wrong is answered by a status."""
    is_composite = request.command.command_field < N_EVENT_REPORT_RQ
    try:
        return request.service.handle(request)
    except LinkError:
        raise
    except ServerError as error:
        status, comment = error.dicom_status, error.diagnostics
    except (psycopg.Error, PoolTimeout) as error:
        logger.error(
            "service_failed",
            extra={"operation": request.service.operation, "error": type(error).__name__},
        )
        status = OUT_OF_RESOURCES if is_composite else RESOURCE_LIMITATION
        comment = "the database did not answer; try again, or ask for less"
    except Exception:
        logger.exception("service_failed", extra={"operation": request.service.operation})
        status = UNABLE_TO_PROCESS if is_composite else PROCESSING_FAILURE
        comment = "unexpected error; the server's log says more"
    request.respond(status, comment)
    return Served(status, comment)


def _record(request: ServiceRequest, served: Served) -> None:
    """The row of the transaction log, and the audit row where the service writes none itself."""
    admission, recorder = request.admission, request.conversation.backend.recorder
    outcome = outcome_of(served.status)
    recorder.record(
        Transaction(
            tenant_id=admission.tenant.id,
            operation=request.service.operation,
            calling_ae_title=admission.calling_ae_title,
            called_ae_title=admission.called_ae_title,
            remote_address=admission.remote_address,
            status_code=served.status,
            status=outcome,
            message=served.message,
            sop_class_uid=request.context.sop_class_uid,
            sop_instance_uid=served.sop_instance_uid,
            transfer_syntax_uid=request.context.transfer_syntax_uid,
            started_at=request.began,
        )
    )
    if request.service.audit_event is not None:
        event = request.service.audit_event
        is_failure = outcome == "FAILURE"
        recorder.record(audit_row(admission, event, outcome="FAILURE" if is_failure else "SUCCESS"))


def outcome_of(status: int) -> str:
    """The category of a last status (PS3.7 Annex C), in the terms of the transaction log."""
    if status == SUCCESS:
        return "SUCCESS"
    # FE00 is Cancel; 0001, 0107 and 0116 are warnings of N-services.
    if status >> 12 == 0xB or status in (0xFE00, 0x0001, 0x0107, 0x0116):
        return "WARNING"
    return "FAILURE"
