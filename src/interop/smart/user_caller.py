"""A signed-in person as the caller of the one policy, and the patients that they may see.

The authorization server shows patients by the same search and read that FHIR serves, so nothing
is listed here that the user could not read there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from anyio import to_thread
from starlette.requests import Request

from interop.access.grants import Grants
from interop.access.http import request_id
from interop.access.policy import decide
from interop.access.principals import PATIENT, Caller
from interop.access.scopes import Scopes
from interop.errors import NotFound, Unauthorized
from interop.fhir import json
from interop.fhir.reading import Reader
from interop.fhir.search.request import parse
from interop.fhir.search.searching import Searcher
from interop.identity.sessions import UserSession
from interop.identity.source_address import source_address
from interop.smart.fhir_user import logical_id, row_of
from storage.database import Database
from storage.memberships import membership
from storage.tenancy import Tenant

if TYPE_CHECKING:
    from interop.services import Services

LISTED = 20
READING = Scopes.parse("user/*.rs")


@dataclass(frozen=True, slots=True)
class PatientShown:
    """A patient as a page names them."""

    row_id: UUID
    resource_id: str
    name: str
    birth_date: str


async def caller_of_session(
    services: Services, tenant: Tenant, session: UserSession, request: Request
) -> Caller:
    """The person with all their rights. Raises Unauthorized when they are no member any more."""
    async with services.database.async_connection(tenant.id) as connection:
        member = await membership(connection, tenant.id, session.user_id)
    if member is None:
        raise Unauthorized("the user is no longer active here")
    own = member.patient_id if member.user_type == PATIENT else None
    return Caller(
        tenant=tenant,
        actor_type="USER",
        actor_id=session.user_id,
        actor_name=session.user_name,
        scopes=READING,
        request_id=request_id(request),
        remote_address=source_address(request, services.settings),
        user_agent=request.headers.get("user-agent"),
        user_id=session.user_id,
        user_type=member.user_type,
        grants=Grants.of(session.user_id, own, member.held),
        patient_id=own,
    )


async def search_patients(services: Services, caller: Caller, words: str) -> list[PatientShown]:
    """The first patients whose names begin with each of the words, of those the user may see."""
    admitted = decide(caller, "s", "Patient").require()
    pairs = [("name", word) for word in words.replace(",", " ").split()[:4]]
    request = parse("Patient", [*pairs, ("_count", str(LISTED))])
    own_base = _own_base(services, caller.tenant)
    bundle = json.loads(
        await Searcher(services.database, caller, own_base, admitted).search(request)
    )
    found = [entry["resource"] for entry in bundle.get("entry", [])]
    return await to_thread.run_sync(_shown, services.database, caller.tenant, found)


async def read_patient(services: Services, caller: Caller, resource_id: str) -> PatientShown:
    """One patient. Raises NotFound when there is none that the user may see."""
    admitted = decide(caller, "r", "Patient").require()
    own_base = _own_base(services, caller.tenant)
    version = await Reader(services.database, caller, own_base, admitted).read(
        "Patient", resource_id
    )
    found = [json.loads(version.body or b"{}")]
    shown = await to_thread.run_sync(_shown, services.database, caller.tenant, found)
    if not shown:
        raise NotFound
    return shown[0]


def patient_id(database: Database, tenant: Tenant, row_id: UUID) -> str:
    """The logical id of a patient's row."""
    with database.connection(tenant.id) as connection:
        return logical_id(connection, tenant.id, "Patient", row_id)


def _shown(
    database: Database, tenant: Tenant, patients: list[dict[str, Any]]
) -> list[PatientShown]:
    with database.connection(tenant.id) as connection:
        rows = [row_of(connection, tenant.id, "Patient", patient["id"]) for patient in patients]
    return [
        PatientShown(
            row, patient["id"], _name(patient) or "(no name)", patient.get("birthDate", "")
        )
        for row, patient in zip(rows, patients, strict=True)
        if row is not None
    ]


def _name(patient: dict[str, Any]) -> str:
    for name in patient.get("name", []):
        if name.get("text"):
            return str(name["text"])
        words = [*name.get("given", []), name.get("family", "")]
        if any(words):
            return " ".join(str(word) for word in words if word)
    return ""


def _own_base(services: Services, tenant: Tenant) -> str:
    return f"{services.settings.effective_public_url}/t/{tenant.slug}/fhir/R4"
