"""The turns of one launch after sign-in: which patient, agreed or not, and the code at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.access.audit import audit_parameters
from interop.access.principals import Caller
from interop.access.scopes import Scopes
from interop.errors import Forbidden, Gone, NotFound
from interop.identity.sessions import COOKIE, UserSession
from interop.smart import authorizations, consents, launch_contexts, pages, scope_negotiation
from interop.smart.authorization_request import Addressee, AuthorizationRequest, RefusedToApp
from interop.smart.authorizations import CODE_SECONDS, Approval
from interop.smart.clients import REFRESH
from interop.smart.keys import LEEWAY_SECONDS
from interop.smart.launch_contexts import LaunchContext
from interop.smart.scope_words import in_words
from interop.smart.user_caller import PatientShown, patient_id, read_patient, search_patients
from storage.audit import INSERT_AUDIT
from storage.tenancy import Tenant

if TYPE_CHECKING:
    from interop.services import Services


@dataclass(frozen=True, slots=True)
class Launching:
    """A request of a known app, made by a person who is signed in."""

    services: Services
    tenant: Tenant
    request: Request
    session: UserSession
    caller: Caller
    to: Addressee
    asked: AuthorizationRequest
    form: dict[str, str]

    async def next(self) -> Response | str:
        """The next page, or where to redirect. Raises RefusedToApp."""
        self._check_prompt()
        if self.form.get("decision") == "deny":
            raise RefusedToApp("access_denied", "the user did not agree")
        context = await to_thread.run_sync(self._context) if self.asked.launch else None
        patient = await self._patient(context)
        if patient is None and self._needs_patient():
            return await self._choose_patient()
        scopes = self._scopes(has_patient=patient is not None)
        if self.form.get("decision") == "allow":
            return await to_thread.run_sync(self._approve, scopes, patient, context)
        if await to_thread.run_sync(self._is_remembered, scopes):
            return await to_thread.run_sync(self._approve, scopes, patient, context)
        if "none" in self.asked.prompt:
            raise RefusedToApp("consent_required", "the user has to agree first")
        return self._consent_page(scopes, patient)

    def _check_prompt(self) -> None:
        prompt, max_age = self.asked.prompt, self.asked.max_age
        if "none" in prompt and len(prompt) > 1:
            raise RefusedToApp("invalid_request", "prompt=none stands alone")
        age = (datetime.now(UTC) - self.session.signed_in_at).total_seconds()
        if max_age is not None and age > max_age:
            raise RefusedToApp("login_required", "the user signed in longer ago than max_age")

    # -- context ----------------------------------------------------------------------------

    def _context(self) -> LaunchContext:
        assert self.asked.launch is not None
        with self.services.database.connection(self.tenant.id) as connection:
            found = launch_contexts.find(
                connection,
                self.tenant,
                self.asked.launch,
                self.asked.client.id,
                self.session.user_id,
            )
        if found is None:
            raise RefusedToApp(
                "invalid_request",
                "launch is not one of this app and user, was used, or is older than five minutes",
            )
        return found

    def _needs_patient(self) -> bool:
        """Whether a patient is to be chosen: never after an EHR launch, which says what is open."""
        return self.asked.launch is None and self.asked.scopes.has("launch/patient")

    async def _patient(self, context: LaunchContext | None) -> PatientShown | None:
        """The patient in context, whom this user may see. Raises RefusedToApp."""
        if context is not None:
            row_id = context.patient_id
        else:
            # A user who is a patient has no other record to choose.
            row_id = self.caller.patient_id
        chosen: str | None
        if row_id is not None:
            chosen = await to_thread.run_sync(
                patient_id, self.services.database, self.tenant, row_id
            )
        elif context is None and self._needs_patient():
            chosen = self.form.get("patient")
        else:
            return None
        if chosen is None:
            return None
        try:
            return await read_patient(self.services, self.caller, chosen)
        except (NotFound, Gone, Forbidden) as error:
            raise RefusedToApp("access_denied", "the user may not see this patient") from error

    def _scopes(self, *, has_patient: bool) -> Scopes:
        scopes = scope_negotiation.for_app(
            self.asked.client.scopes, self.asked.scopes, has_patient=has_patient
        )
        dropped = set() if self.asked.launch else {"launch"}
        if REFRESH not in self.asked.client.grant_types:
            dropped |= {"offline_access", "online_access"}
        kept = tuple(name for name in scopes.context if name not in dropped)
        scopes = replace(scopes, context=kept)
        if not scopes.granted and not scopes.has("openid"):
            raise RefusedToApp(
                "invalid_scope",
                "none of the scopes can be given to this app and user: "
                f"registered are {self.asked.client.scopes}"
                + ("" if has_patient else "; patient/ needs launch/patient or a launch"),
            )
        return scopes

    # -- agreement --------------------------------------------------------------------------

    def _is_remembered(self, scopes: Scopes) -> bool:
        """RFC 8252 8.6: a public app behind a loopback or own scheme may be anybody: always ask."""
        is_known = self.asked.redirect_uri.startswith("https://") or not self.asked.client.is_public
        if "consent" in self.asked.prompt or not is_known:
            return False
        with self.services.database.connection(self.tenant.id) as connection:
            return consents.is_remembered(
                connection, self.tenant, self.session.user_id, self.asked.client, scopes
            )

    def _approve(
        self, scopes: Scopes, patient: PatientShown | None, context: LaunchContext | None
    ) -> str:
        """Store the approval and its code; returns the redirect to the app."""
        is_offline = scopes.has("offline_access")
        approval = Approval(
            client=self.asked.client,
            user_id=self.session.user_id,
            session_id=None if is_offline else self.session.id,
            scopes=scope_negotiation.spelled(scopes, self.asked.scope_text),
            patient_id=patient.row_id if patient else None,
            encounter_id=context.encounter_id if context else None,
            need_patient_banner=context.need_patient_banner if context else True,
            intent=context.intent if context else None,
            authenticated_at=self.session.signed_in_at,
            redirect_uri=self.asked.redirect_uri,
            code_challenge=self.asked.code_challenge,
            nonce=self.asked.nonce,
            lifetime_seconds=self._lifetime(scopes),
        )
        with self.services.database.connection(self.tenant.id) as connection:
            if context and not launch_contexts.use(connection, self.tenant, context.id):
                raise RefusedToApp("invalid_request", "launch was used meanwhile")
            if self.form.get("decision") == "allow":
                consents.remember(
                    connection, self.tenant, self.session.user_id, self.asked.client, scopes
                )
            grant_id, code = authorizations.approve(connection, self.tenant, approval)
            connection.execute(INSERT_AUDIT, self._audit(grant_id))
        return self.to.answer(code=code)

    def _lifetime(self, scopes: Scopes) -> float:
        if scopes.has("offline_access"):
            return self.services.settings.offline_access_days * 86400.0
        if scopes.has("online_access"):
            return max(1.0, (self.session.expires_at - datetime.now(UTC)).total_seconds())
        return CODE_SECONDS + self.services.tokens.lifetime_seconds + LEEWAY_SECONDS

    def _audit(self, grant_id: UUID) -> dict[str, object]:
        metadata = {"grant_id": str(grant_id)}
        values = audit_parameters(self.caller, "APP_AUTHORIZED", metadata=metadata)
        return {**values, "api_client_id": self.asked.client.id}

    # -- pages ------------------------------------------------------------------------------

    async def _choose_patient(self) -> Response:
        words = self.form.get("search", "")[:200]
        try:
            found = await search_patients(self.services, self.caller, words)
        except Forbidden as error:
            raise RefusedToApp("access_denied", "the user may not see patients") from error
        if "none" in self.asked.prompt:
            raise RefusedToApp("interaction_required", "the user has to choose a patient")
        rows = "".join(
            f'<button class="row" name="patient" value="{escape(one.resource_id)}">'
            f'{escape(one.name)} <span class="quiet">{escape(one.birth_date)}</span></button>'
            for one in found
        )
        return self._page(
            "Choose a patient",
            f"<p>{escape(self.asked.client.name)} opens the record of one patient.</p>"
            f"{self._form_start()}"
            f'<p><label>Name <input type="search" name="search" value="{escape(words)}"></label> '
            f"<button>Search</button></p></form>{self._form_start()}"
            f"{rows or '<p>No patient was found.</p>'}"
            '<p><button name="decision" value="deny">Cancel</button></p></form>',
        )

    def _consent_page(self, scopes: Scopes, patient: PatientShown | None) -> Response:
        client = self.asked.client
        host = urlsplit(self.asked.redirect_uri).netloc or self.asked.redirect_uri
        sentences = "".join(f"<li>{escape(text)}</li>" for text in in_words(scopes))
        about = f"<dt>Patient</dt><dd>{escape(patient.name)}</dd>" if patient else ""
        chosen = pages.hidden("patient", patient.resource_id) if patient else ""
        return self._page(
            f"Open {client.name}?",
            f"<dl><dt>App</dt><dd>{escape(client.name)} <span class='quiet'>({escape(host)})</span>"
            f"</dd><dt>Organization</dt><dd>{escape(self.tenant.name)}</dd>"
            f"<dt>You</dt><dd>{escape(self.session.user_name)}</dd>{about}</dl>"
            f"<p>The app will be able to:</p><ul>{sentences}</ul>"
            "<p class='quiet'>It never sees more than you may see yourself.</p>"
            f"{self._form_start()}{chosen}"
            '<button class="primary" name="decision" value="allow">Allow</button> '
            '<button name="decision" value="deny">Deny</button></form>',
        )

    def _page(self, title: str, body: str) -> Response:
        return pages.page(title, body, form_targets=[pages.form_target(self.asked.redirect_uri)])

    def _form_start(self) -> str:
        query = self.request.url.query
        cookie = self.request.cookies.get(COOKIE, "")
        action = f"/t/{self.tenant.slug}/oauth2/authorize/decision?{query}"
        return (
            f'<form method="post" action="{escape(action)}">'
            f"{pages.hidden('csrf', pages.csrf_token(cookie, query))}"
        )
