"""Storage Commitment at the door (PS3.4 Annex J): N-ACTION asks us, N-EVENT-REPORT answers us.

A request is only written down here; a job verifies it and reports the result, unless the
association that asked is still open and silent when it is ready (`pending_reports`).
"""

from __future__ import annotations

from struct import Struct
from typing import Final
from uuid import UUID

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.dimse import commitment_records as records
from interop.dimse.command_set import (
    AFFECTED_SOP_INSTANCE_UID,
    N_ACTION_RQ,
    N_EVENT_REPORT_RQ,
)
from interop.dimse.commitment_messages import (
    EVENT_TYPE_ID,
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_ACTION,
    NO_SUCH_INSTANCE,
    PUSH_MODEL_SOP_CLASS,
    PUSH_MODEL_SOP_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    SUCCESS,
    InvalidMessage,
    Request,
    decode_request,
)
from interop.dimse.commitment_records import Parties
from interop.dimse.commitment_reports import receive_report
from interop.dimse.service_requests import Served, Service, ServiceRequest

_REQUESTED_SOP_INSTANCE_UID: Final = 0x1001
_ACTION_TYPE_ID: Final = 0x1008
_US = Struct("<H")


# -- asked of us --------------------------------------------------------------------------------


def handle_n_action(request: ServiceRequest) -> Served:
    """N-ACTION: take a request for storage commitment on (PS3.4 J.3.2)."""
    command = request.command
    action = command.elements.get(_ACTION_TYPE_ID, b"")
    if command.uid(_REQUESTED_SOP_INSTANCE_UID) != PUSH_MODEL_SOP_INSTANCE:
        return _answer(request, NO_SUCH_INSTANCE, "not the well-known instance of the Push Model")
    if action != _US.pack(REQUEST_STORAGE_COMMITMENT):
        return _answer(request, NO_SUCH_ACTION, "the only action is 1, Request Storage Commitment")
    if request.data_set is None:
        return _answer(request, INVALID_ARGUMENT_VALUE, "there is no Action Information")
    try:
        asked = decode_request(request.data_set, request.context.transfer_syntax_uid)
    except InvalidMessage as error:
        return _answer(request, error.status, str(error))
    commitment_id = _accept(request, asked)
    served = _answer(request, SUCCESS)
    request.conversation.reports.expect(request.context, commitment_id)
    return served


def _accept(request: ServiceRequest, asked: Request) -> UUID:
    admission = request.admission
    entity = admission.entity
    parties = Parties(
        admission.calling_ae_title,
        admission.called_ae_title,
        entity.id if entity is not None else None,
    )
    tenant_id = admission.tenant.id
    with request.conversation.backend.database.connection(tenant_id) as connection:
        id_ = records.accept(connection, tenant_id, parties, asked)
        row = audit_parameters(
            admission.caller,
            "DICOM_COMMITMENT_ASKED",
            "StorageCommitment",
            str(id_),
            metadata={
                "calling_ae_title": admission.calling_ae_title,
                "transaction_uid": asked.transaction_uid,
                "objects": len(asked.references),
            },
        )
        connection.execute(INSERT_AUDIT, row)
    return id_


def _answer(request: ServiceRequest, status: int, comment: str = "") -> Served:
    further = {AFFECTED_SOP_INSTANCE_UID: PUSH_MODEL_SOP_INSTANCE.encode()}
    if action := request.command.elements.get(_ACTION_TYPE_ID):
        further[_ACTION_TYPE_ID] = action
    request.respond(status, comment, further=further)
    return Served(status, comment or None)


# -- answered to us -----------------------------------------------------------------------------


def handle_n_event_report(request: ServiceRequest) -> Served:
    """N-EVENT-REPORT: a peer says what it has committed itself to of what we sent it."""
    event = request.command.elements.get(EVENT_TYPE_ID, b"")
    event_type = int(_US.unpack(event)[0]) if len(event) == 2 else None
    status = receive_report(
        request.conversation.backend.database,
        request.admission.tenant,
        request.admission.calling_ae_title,
        event_type,
        request.data_set or b"",
        request.context.transfer_syntax_uid,
    )
    further = {AFFECTED_SOP_INSTANCE_UID: PUSH_MODEL_SOP_INSTANCE.encode()}
    if event_type is not None:
        further[EVENT_TYPE_ID] = event
    request.respond(status, further=further)
    return Served(status)


SERVICES: Final = (
    Service(N_ACTION_RQ, "N-ACTION", (PUSH_MODEL_SOP_CLASS,), handle_n_action, needs="may_send"),
    # Whoever was asked may report; that it was asked, and for what, is looked up.
    Service(
        N_EVENT_REPORT_RQ, "N-EVENT-REPORT", (PUSH_MODEL_SOP_CLASS,), handle_n_event_report,
        role="SCU",
    ),
)  # fmt: skip
