"""What becomes of a report of Storage Commitment once it has arrived, there or here."""

from __future__ import annotations

from typing import Any

from interop.dimse import commitment_records as records
from interop.dimse.commitment_messages import (
    NO_SUCH_EVENT_TYPE,
    PROCESSING_FAILURE,
    SUCCESS,
    InvalidMessage,
    decode_report,
)
from interop.dimse.commitment_records import Commitment
from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection, Database
from storage.tenancy import Tenant


def reported(connection: Connection, tenant: Tenant, commitment: Commitment, where: str) -> None:
    """The peer has confirmed our report."""
    records.finish(connection, tenant.id, commitment.id, "REPORTED", SUCCESS)
    audit(connection, tenant, "DICOM_COMMITMENT_REPORTED", commitment, association=where)


def receive_report(
    database: Database,
    tenant: Tenant,
    peer_ae_title: str,
    event_type: int | None,
    data_set: bytes,
    transfer_syntax_uid: str,
) -> int:
    """Take a peer's N-EVENT-REPORT; return the status that answers it."""
    if event_type not in (1, 2):
        return NO_SUCH_EVENT_TYPE
    try:
        told = decode_report(data_set, transfer_syntax_uid)
    except InvalidMessage as error:
        return error.status
    with database.connection(tenant.id) as connection:
        known = records.take_report(connection, tenant.id, peer_ae_title, told)
        if known is not None:
            row = system_audit(
                tenant.id,
                "DICOM_COMMITMENT_REPORTED",
                "StorageCommitment",
                str(known),
                metadata={"by": peer_ae_title, "failed": len(told.failed)},
            )
            connection.execute(INSERT_AUDIT, row)
    return SUCCESS if known is not None else PROCESSING_FAILURE


def audit(
    connection: Connection, tenant: Tenant, event_type: str, commitment: Commitment, **more: Any
) -> None:
    """The audit row of something that happened to a transaction."""
    metadata = {
        "peer": commitment.peer_ae_title,
        "transaction_uid": commitment.transaction_uid,
        **more,
    }
    row = system_audit(
        tenant.id, event_type, "StorageCommitment", str(commitment.id), metadata=metadata
    )
    connection.execute(INSERT_AUDIT, row)
