"""/tenants/{tenant}/quarantine: what was refused and kept, and deciding about it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from interop.access.audit import audit_parameters, mark_audited
from interop.access.principals import Caller
from interop.administration.desk import AtDesk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Page, page, read_key
from interop.administration.values import Body
from interop.dicom import quarantine
from interop.dicom.ingest_types import source_of
from interop.dicom.quarantine import Quarantined
from interop.errors import Forbidden

router = APIRouter(route_class=AdministrationRoute, tags=["quarantine"])

RESOURCE_TYPE = "ImagingStudy"


class QuarantinedShown(BaseModel):
    """An object that was refused and kept."""

    id: UUID
    state: Literal["PENDING", "RELEASED", "DISCARDED"]
    reason_code: str | None = Field(description="FailureReason (0008,1197), hexadecimal.")
    reason: str
    source: str | None
    received_at: datetime
    sop_instance_uid: str | None
    study_instance_uid: str | None
    byte_size: int


class QuarantinedCompared(QuarantinedShown):
    """One of them beside what it contradicts: DICOM JSON (PS3.18 Annex F) without bulk data."""

    received: dict[str, Any]
    stored: dict[str, Any] | None
    differing: list[str] = Field(description="Tags whose values differ.")


class Released(BaseModel):
    """What became of a released object."""

    result: Literal["stored", "duplicate"]
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


class Discarding(Body):
    """How to discard."""

    despite_retention: (
        Annotated[str, StringConstraints(min_length=3, max_length=200, pattern=r"\S")] | None
    ) = Field(
        None,
        description="Why what was a record before is not kept for as long as the organization"
        " keeps images. For who manages the settings.",
    )


@router.get("/tenants/{tenant}/quarantine")
def list_quarantined(
    tenant: str,
    desk: AtDesk,
    limit: Limit = 50,
    after: After = None,
    state: Literal["PENDING", "RELEASED", "DISCARDED"] | None = None,
) -> Page[QuarantinedShown]:
    """What is or was kept, the newest first."""
    key = read_key(after, tuple[datetime, UUID])
    rows = desk.read(
        lambda connection: quarantine.list_objects(
            connection, desk.tenant.id, state=state, after=key, limit=limit + 1
        ),
        RESOURCE_TYPE,
        event_type="QUARANTINE_LISTED",
    )
    return page(rows, limit, lambda one: (one.received_at, one.id), _shown)


@router.get("/tenants/{tenant}/quarantine/{id}")
def get_quarantined(tenant: str, id: UUID, desk: AtDesk) -> QuarantinedCompared:
    """One object, beside the stored one that it contradicts."""
    one = desk.read(
        lambda connection: quarantine.find(connection, desk.tenant.id, id),
        RESOURCE_TYPE,
        id,
        event_type="QUARANTINE_VIEWED",
    )
    compared = quarantine.compare(desk.services, desk.tenant, one)
    return QuarantinedCompared(
        **_shown(one).model_dump(),
        received=compared.received,
        stored=compared.stored,
        differing=compared.differing,
    )


@router.post("/tenants/{tenant}/quarantine/{id}/release")
def release_quarantined(tenant: str, id: UUID, desk: AtDesk) -> Released:
    """Store it in the place of what contradicts it, which goes to quarantine for it."""
    source = source_of(desk.caller, "QUARANTINE")
    outcome = quarantine.let_in(desk.services, desk.tenant, id, source)
    desk.record(
        "QUARANTINE_RELEASED",
        RESOURCE_TYPE,
        outcome.study_instance_uid,
        {"quarantined": str(id), "sop_instance_uid": outcome.sop_instance_uid},
    )
    return Released(
        result=cast(Literal["stored", "duplicate"], outcome.kind),
        study_instance_uid=outcome.study_instance_uid,
        series_instance_uid=outcome.series_instance_uid,
        sop_instance_uid=outcome.sop_instance_uid,
    )


@router.post("/tenants/{tenant}/quarantine/{id}/discard")
def discard_quarantined(tenant: str, id: UUID, how: Discarding, desk: AtDesk) -> QuarantinedShown:
    """Have its bytes erased. What is stored stays."""
    if how.despite_retention is not None and not _manages_settings(desk.caller):
        raise Forbidden("despite_retention: the permission manage_settings is needed")
    audit = audit_parameters(desk.caller, "QUARANTINE_DISCARDED", RESOURCE_TYPE, str(id))
    quarantine.discard(
        desk.database, desk.tenant, id, audit, despite_retention=how.despite_retention
    )
    mark_audited()
    with desk.database.connection(desk.tenant.id) as connection:
        return _shown(quarantine.find(connection, desk.tenant.id, id))


def _manages_settings(caller: Caller) -> bool:
    if caller.actor_type == "SYSTEM":
        return True
    return caller.grants is not None and caller.grants.holds_everywhere("manage_settings")


def _shown(one: Quarantined) -> QuarantinedShown:
    return QuarantinedShown(
        id=one.id,
        state=cast(Literal["PENDING", "RELEASED", "DISCARDED"], one.state),
        reason_code=one.reason_code,
        reason=one.reason,
        source=one.source,
        received_at=one.received_at,
        sop_instance_uid=one.sop_instance_uid,
        study_instance_uid=one.study_instance_uid,
        byte_size=one.byte_size,
    )
