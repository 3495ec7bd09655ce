"""Where an EHR registers what is open before it starts an app: POST /t/{tenant}/oauth2/launch.

The caller must itself be allowed to read the patient, and the app is then opened by a person who
may, too: a launch never shows more than either could see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.audit import audit_parameters
from interop.access.policy import decide
from interop.access.principals import Caller
from interop.errors import ServerError
from interop.fhir.reading import Reader
from interop.smart import launch_contexts
from interop.smart.administrators import audited, bearer_or_session, json_body
from interop.smart.clients import ApiClient, find
from interop.smart.errors import NO_STORE, OAuthError, translated
from interop.smart.fhir_user import row_of
from interop.smart.launch_contexts import LAUNCH_SECONDS, NewLaunch
from interop.smart.token_response import issuer
from storage.audit import INSERT_AUDIT
from storage.database import Connection

if TYPE_CHECKING:
    from interop.services import Services

FIELDS = ("patient", "encounter", "client_id", "need_patient_banner", "intent")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The body of a request: logical ids, and for which app."""

    patient: str
    encounter: str | None
    client_id: str | None
    need_patient_banner: bool
    intent: str | None

    @classmethod
    def read(cls, body: dict[str, Any]) -> Wanted:
        unknown = sorted(body.keys() - set(FIELDS))
        texts = {name: body.get(name) for name in ("patient", "encounter", "client_id", "intent")}
        banner = body.get("need_patient_banner", True)
        wrong = [k for k, v in texts.items() if v is not None and not isinstance(v, str)]
        if unknown or wrong or not isinstance(banner, bool) or not texts["patient"]:
            raise OAuthError(
                "invalid_request",
                "a JSON object with patient (logical id) and optionally encounter, client_id, "
                "intent and need_patient_banner (true or false)",
            )
        return cls(
            _id(str(texts["patient"]), "Patient"),
            _id(texts["encounter"], "Encounter") if texts["encounter"] else None,
            texts["client_id"],
            banner,
            texts["intent"],
        )


@translated
async def launch(request: Request) -> Response:
    """POST /t/{tenant}/oauth2/launch"""
    services: Services = request.app.state.services
    caller = await bearer_or_session(request)
    async with audited(request, caller, "LAUNCH_CREATED"):
        wanted = Wanted.read(await json_body(request))
        await _require_visible(services, caller, wanted)
        body = await to_thread.run_sync(_create, services, caller, wanted)
    return JSONResponse(body, 201, NO_STORE)


async def _require_visible(services: Services, caller: Caller, wanted: Wanted) -> None:
    """Raise unless the caller may read what is to be opened."""
    base = f"{issuer(services, caller.tenant)}/fhir/R4"
    for resource_type, resource_id in (
        ("Patient", wanted.patient),
        ("Encounter", wanted.encounter),
    ):
        if resource_id is not None:
            admitted = decide(caller, "r", resource_type).require()
            reader = Reader(services.database, caller, base, admitted)
            try:
                await reader.read(resource_type, resource_id)
            except ServerError as error:
                text = f"there is no {resource_type}/{resource_id[:64]}"
                raise OAuthError("invalid_request", text) from error


def _create(services: Services, caller: Caller, wanted: Wanted) -> dict[str, Any]:
    tenant = caller.tenant
    with services.database.connection(tenant.id) as connection:
        client = _client(connection, caller, wanted)
        patient_id = row_of(connection, tenant.id, "Patient", wanted.patient)
        encounter_id = None
        if wanted.encounter is not None:
            encounter_id = row_of(connection, tenant.id, "Encounter", wanted.encounter)
            if encounter_id is None or not _is_of(connection, caller, encounter_id, patient_id):
                raise OAuthError("invalid_request", "the encounter is not one of this patient")
        new = NewLaunch(
            patient_id,
            encounter_id,
            client.id if client else None,
            caller.user_id,
            wanted.need_patient_banner,
            wanted.intent,
        )
        value = launch_contexts.create(connection, tenant, new)
        connection.execute(
            INSERT_AUDIT, audit_parameters(caller, "LAUNCH_CREATED", "Patient", wanted.patient)
        )
    base = f"{issuer(services, tenant)}/fhir/R4"
    answer: dict[str, Any] = {"launch": value, "iss": base, "expires_in": LAUNCH_SECONDS}
    if client and client.launch_uri:
        joint = "&" if "?" in client.launch_uri else "?"
        query = urlencode({"iss": base, "launch": value})
        answer["launch_url"] = f"{client.launch_uri}{joint}{query}"
    return answer


def _client(connection: Connection, caller: Caller, wanted: Wanted) -> ApiClient | None:
    if wanted.client_id is None:
        return None
    client = find(connection, caller.tenant.id, wanted.client_id)
    if client is None:
        raise OAuthError("invalid_request", "client_id is not that of an app registered here")
    return client


def _is_of(connection: Connection, caller: Caller, encounter_id: Any, patient_id: Any) -> bool:
    row = connection.execute(
        "SELECT 1 FROM encounters WHERE tenant_id = %s AND id = %s AND patient_id = %s",
        (caller.tenant.id, encounter_id, patient_id),
    ).fetchone()
    return row is not None


def _id(text: str, resource_type: str) -> str:
    return text.removeprefix(f"{resource_type}/")


def routes() -> list[Route]:
    return [Route("/t/{tenant}/oauth2/launch", launch, methods=["POST"])]
