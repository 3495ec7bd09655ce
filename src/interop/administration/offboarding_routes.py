"""/tenants/{tenant}/offboarding: deleting everything that an organization owns, asked for twice.

The first request changes nothing: it says what would go and gives a confirmation, which the second
brings back within minutes. That one closes the organization for good. The deletion itself needs the
login that owns the tables, which no HTTP process has: `interop tenant offboard` carries it out.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, LiteralString

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from interop.access.audit import mark_audited
from interop.administration.desk import AtDesk, Desk
from interop.administration.door import AdministrationRoute
from interop.administration.problems import HeldByLaw, HoldShown
from interop.administration.values import Body, Line
from interop.errors import Conflict
from storage import legal_holds, quotas
from storage.database import Connection
from storage.encryption import SealBroken
from storage.tenants import deletion
from storage.tenants.deletion import Progress

router = APIRouter(route_class=AdministrationRoute, tags=["tenant"])

LIFETIME = timedelta(minutes=10)
WHAT = "TENANT_DELETION"
_HELD: LiteralString = (
    "SELECT (SELECT count(*) FROM patients WHERE tenant_id = %(id)s),"
    " (SELECT count(*) FROM imaging_studies WHERE tenant_id = %(id)s)"
)


class Offboarding(BaseModel):
    """How far the deletion of an organization is."""

    state: Literal["NOT_REQUESTED", "REQUESTED", "OBJECTS", "KEYS", "ROWS", "VERIFYING", "DONE"]
    not_before: datetime | None = None
    requested_by: str | None = None
    deleted_objects: int = 0
    deleted_bytes: int = 0
    deleted_rows: dict[str, int] = Field({}, description="By table.")
    certificate: str | None = Field(None, description="A signed JWS, once nothing is left.")
    holds: list[HoldShown] = Field([], description="Legal holds that stop it where it is.")


class Prepared(BaseModel):
    """What would be deleted, and the word that confirms it."""

    confirmation: str
    expires_at: datetime
    users: int
    patients: int
    imaging_studies: int
    storage_bytes: int


class Confirmed(Body):
    """That everything is to be deleted. It cannot be undone."""

    slug: Line = Field(description="The organization's slug again.")
    confirmation: Annotated[str, StringConstraints(min_length=1, max_length=500)]


@router.get("/tenants/{tenant}/offboarding")
def get_offboarding(tenant: str, desk: AtDesk) -> Offboarding:
    """How far the deletion of the organization is. For the operator."""
    return desk.read(lambda connection: _shown(connection, desk), WHAT, desk.tenant.id)


@router.post("/tenants/{tenant}/offboarding")
def prepare_offboarding(tenant: str, desk: AtDesk) -> Prepared:
    """Ask to delete everything that the organization owns: nothing changes yet. For the operator.

    Refused while a legal hold stands.
    """
    return desk.read(lambda connection: _prepared(connection, desk), WHAT, desk.tenant.id)


@router.post("/tenants/{tenant}/offboarding/confirm", status_code=202)
def confirm_offboarding(tenant: str, given: Confirmed, desk: AtDesk) -> Offboarding:
    """Close the organization for good and note that it is to be deleted. For the operator.

    `interop tenant offboard`, on the machine, then deletes and signs the certificate.
    """
    _require_confirmation(desk, given)
    with desk.database.connection(desk.tenant.id) as connection:
        _require_no_hold(connection, desk)
        known = deletion.progress(connection, desk.tenant.id)
    if known is None:
        deletion.request(desk.database, desk.tenant.id, desk.changer)
        mark_audited()
        desk.services.tenants.forget()
    else:
        desk.record(
            "CONFIG_CHANGED", WHAT, desk.tenant.id, {"changes": {"deletion": "requested before"}}
        )
    with desk.database.connection(desk.tenant.id) as connection:
        return _shown(connection, desk)


def _shown(connection: Connection, desk: Desk) -> Offboarding:
    found: Progress | None = deletion.progress(connection, desk.tenant.id)
    holds = _holds(connection, desk)
    if found is None:
        return Offboarding(state="NOT_REQUESTED", holds=holds)
    return Offboarding.model_validate(
        {
            "state": found.state,
            "not_before": found.not_before,
            "requested_by": found.requested_by,
            "deleted_objects": found.objects,
            "deleted_bytes": found.bytes,
            "deleted_rows": found.rows,
            "certificate": found.certificate,
            "holds": holds,
        }
    )


def _prepared(connection: Connection, desk: Desk) -> Prepared:
    _require_no_hold(connection, desk)
    used = quotas.usage(connection, desk.tenant.id)
    row = connection.execute(_HELD, {"id": desk.tenant.id}).fetchone()
    assert row is not None
    expires_at = datetime.now(UTC) + LIFETIME
    said = json.dumps({"expires_at": expires_at.timestamp()})
    return Prepared(
        confirmation=desk.services.master_key.seal(said, _place(desk)),
        expires_at=expires_at,
        users=used.users,
        patients=row[0],
        imaging_studies=row[1],
        storage_bytes=used.storage_bytes,
    )


def _require_confirmation(desk: Desk, given: Confirmed) -> None:
    """Raise Conflict unless somebody has just been told what would be deleted here."""
    if given.slug != desk.tenant.slug:
        raise Conflict(f"slug: {desk.tenant.slug!r} confirms that this organization is meant")
    try:
        said = json.loads(desk.services.master_key.open(given.confirmation, _place(desk)))
    except (SealBroken, ValueError):
        said = {"expires_at": 0}
    if said["expires_at"] < datetime.now(UTC).timestamp():
        raise Conflict(
            "confirmation: what POST /offboarding of this organization gave within the last "
            f"{LIFETIME.seconds // 60} minutes"
        )


def _require_no_hold(connection: Connection, desk: Desk) -> None:
    holds = _holds(connection, desk)
    if holds:
        raise HeldByLaw(holds)


def _holds(connection: Connection, desk: Desk) -> list[HoldShown]:
    return [
        HoldShown.model_validate(hold, from_attributes=True)
        for hold in legal_holds.standing(connection, desk.tenant.id)
    ]


def _place(desk: Desk) -> str:
    """What a confirmation is good for: the value opens for nothing else."""
    return f"offboarding:{desk.tenant.id}"
