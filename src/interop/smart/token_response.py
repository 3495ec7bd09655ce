"""The answer of the token endpoint, with the launch context (SMART App Launch 2.2, 2.0.10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interop.access.scopes import Scopes
from interop.smart.authorizations import Grant, issue_refresh_token
from interop.smart.clients import REFRESH, ApiClient
from interop.smart.fhir_user import fhir_user_of, logical_id
from interop.smart.tokens import Subject
from storage.database import Connection
from storage.tenancy import Tenant

if TYPE_CHECKING:
    from interop.services import Services


@dataclass(frozen=True, slots=True)
class Issue:
    """Everything that decides what an app is given for a grant."""

    grant: Grant
    nonce: str | None
    scopes: Scopes
    scope_text: str
    is_refreshed: bool


def issuer(services: Services, tenant: Tenant) -> str:
    """The issuer of a tenant (RFC 8414, OpenID Connect): the base of its metadata."""
    return f"{services.settings.effective_public_url}/t/{tenant.slug}"


def for_service(
    services: Services, tenant: Tenant, client: ApiClient, scopes: Scopes
) -> dict[str, Any]:
    """The answer to client_credentials."""
    token = services.tokens.issue(tenant, client.id, client.name, scopes)
    return _bearer(services, token, str(scopes))


def for_app(
    services: Services,
    connection: Connection,
    tenant: Tenant,
    client: ApiClient,
    issue: Issue,
) -> dict[str, Any]:
    """The answer to a code or a refresh token, inside the transaction that spends it."""
    grant = issue.grant
    user = fhir_user_of(connection, tenant.id, grant.user_id)
    subject = Subject(
        user_id=grant.user_id,
        patient_id=grant.patient_id,
        session_id=grant.session_id,
        grant_id=grant.id,
        fhir_user=user.reference,
    )
    token = services.tokens.issue(tenant, client.id, user.name, issue.scopes, subject)
    answer = _bearer(services, token, issue.scope_text)
    answer.update(_context(connection, tenant, grant))
    if issue.scopes.has("openid"):
        more: dict[str, Any] = {"auth_time": int(grant.authenticated_at.timestamp())}
        if issue.nonce and not issue.is_refreshed:
            more["nonce"] = issue.nonce
        if issue.scopes.has("profile"):
            more["name"] = user.name
        if user.reference and (issue.scopes.has("fhirUser") or issue.scopes.has("profile")):
            base = f"{issuer(services, tenant)}/fhir/R4"
            more["fhirUser"] = f"{base}/{user.reference}"
        answer["id_token"] = services.tokens.id_token(
            issuer(services, tenant), client.client_id, str(grant.user_id), more
        )
    if grant.is_renewable and REFRESH in client.grant_types:
        days = services.settings.refresh_token_days
        answer["refresh_token"] = issue_refresh_token(connection, tenant, grant, days)
    return answer


def _context(connection: Connection, tenant: Tenant, grant: Grant) -> dict[str, Any]:
    """What was open when the app was launched."""
    found: dict[str, Any] = {}
    if grant.patient_id is not None:
        found["patient"] = logical_id(connection, tenant.id, "Patient", grant.patient_id)
        found["need_patient_banner"] = grant.need_patient_banner
    if grant.encounter_id is not None:
        found["encounter"] = logical_id(connection, tenant.id, "Encounter", grant.encounter_id)
    if grant.intent is not None:
        found["intent"] = grant.intent
    return found


def _bearer(services: Services, token: str, scope: str) -> dict[str, Any]:
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": services.tokens.lifetime_seconds,
        "scope": scope,
    }
