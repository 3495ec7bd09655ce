"""Who calls: the principal of one request, as every door knows it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from interop.access.grants import Grants
from interop.access.scopes import Scopes
from storage.tenancy import Tenant

PATIENT = "PATIENT"  # user_tenants.user_type


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated principal acting in one tenant for one request."""

    tenant: Tenant
    actor_type: str  # audit_events.actor_type: USER, SYSTEM, API_CLIENT
    actor_id: UUID | None
    actor_name: str
    scopes: Scopes
    request_id: str
    remote_address: str | None = None
    user_agent: str | None = None
    client_id: UUID | None = None  # api_clients.id through which it acts
    user_id: UUID | None = None  # users.id
    user_type: str | None = None
    grants: Grants | None = None  # None: no user stands behind the call
    # patients.id: the patient in context, by the launch or because the user is that patient.
    patient_id: UUID | None = None
    # The consent that patients must have given to whom this client works for; None: to nobody.
    required_consent: str | None = None
    # emergency_accesses.id and its patient: what was opened by breaking the glass.
    emergency: UUID | None = None
    emergency_patient_id: UUID | None = None
