"""The real application on a free port, people with sessions, and apps that launch."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from interop.access import Scopes
from interop.app import application
from interop.identity import sessions
from interop.identity.devices import device_of
from interop.services import Services
from interop.settings import Settings
from interop.smart.clients import ApiClient, Registration, register
from storage.schema.reference_rows import reference_id
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase, execute_as_owner

CALLBACK = "https://app.example.org/callback"
APP_SCOPES = (
    "openid fhirUser profile launch launch/patient online_access offline_access "
    "patient/*.cruds user/*.cruds"
)
FHIR_JSON = {"Content-Type": "application/fhir+json"}


def pkce() -> tuple[str, str]:
    """A code_verifier and its S256 challenge."""
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    return verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass
class Person:
    """A member of a tenant and the browser session that they have."""

    user_id: UUID
    session_id: UUID
    cookie: str


@dataclass
class App:
    """A registered app and its secret."""

    client: ApiClient
    secret: str | None

    @property
    def auth(self) -> tuple[str, str] | None:
        return (self.client.client_id, self.secret) if self.secret else None


@dataclass
class SmartServer:
    """The running server of one tenant, as apps and people use it."""

    url: str
    app: Starlette
    owner_url: str
    tenant: Tenant
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(timeout=60)

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    @property
    def base(self) -> str:
        return f"{self.url}/t/{self.tenant.slug}"

    @property
    def fhir(self) -> str:
        return f"{self.base}/fhir/R4"

    def execute(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the database."""
        return execute_as_owner(self.owner_url, query, values, self.tenant.id)

    # -- who there is -----------------------------------------------------------------------

    def person(
        self,
        *roles: str,
        user_type: str = "DENTIST",
        patient: UUID | None = None,
        resource_scope: str = "ALL_LOCATIONS",
    ) -> Person:
        """A member with roles who is signed in."""
        user_id = uuid4()
        self.execute(
            "INSERT INTO users (id, full_name, email) VALUES (%s, 'Ada <b>User</b>', %s)",
            user_id,
            f"{user_id}@example.org",
        )
        self.execute(
            "INSERT INTO user_tenants (tenant_id, user_id, user_type, patient_id)"
            " VALUES (%s, %s, %s, %s)",
            self.tenant.id,
            user_id,
            user_type,
            patient,
        )
        for role in roles or ("CLINICIAN",):
            self.execute(
                "INSERT INTO user_roles (tenant_id, user_id, role_id, resource_scope)"
                " VALUES (%s, %s, %s, %s)",
                self.tenant.id,
                user_id,
                reference_id("roles", role),
                resource_scope,
            )
        return self.sign_in(user_id)

    def sign_in(self, user_id: UUID) -> Person:
        """A new browser session of a user."""
        with self.services.database.connection(self.tenant.id) as connection:
            session_id, cookie = sessions.create(
                connection, self.tenant.id, user_id, device_of(None, None), ["pwd"],
                timedelta(hours=8),
            )  # fmt: skip
        return Person(user_id, session_id, cookie)

    def register(self, scope: str = APP_SCOPES, **more: Any) -> App:
        """A confidential web app, unless said otherwise."""
        values: dict[str, Any] = {
            "grant_types": ("authorization_code", "refresh_token"),
            "redirect_uris": (CALLBACK,),
            **more,
        }
        registration = Registration("Test <i>app</i>", Scopes.parse(scope), **values)
        return App(*register(self.services.database, self.tenant, registration))

    def operator(self, scope: str = "system/*.cruds") -> dict[str, str]:
        token = self.services.tokens.issue(self.tenant, None, "operator", Scopes.parse(scope))
        return {"Authorization": f"Bearer {token}"}

    def patient(self, family: str) -> tuple[str, UUID]:
        """A patient: the logical id, chosen by the client, and the row's id."""
        resource_id = f"p-{uuid4().hex[:8]}"
        body = {
            "resourceType": "Patient",
            "id": resource_id,
            "name": [{"family": family, "given": ["Pat"]}],
            "birthDate": "1980-02-03",
        }
        answer = self.http.put(
            f"{self.fhir}/Patient/{resource_id}",
            json=body,
            headers={**self.operator(), **FHIR_JSON},
        )
        assert answer.status_code == 201, answer.text
        rows = self.execute(
            "SELECT row_id FROM fhir_resources WHERE tenant_id = %s AND resource_id = %s",
            self.tenant.id,
            resource_id,
        )
        return resource_id, rows[0][0]

    # -- a launch ---------------------------------------------------------------------------

    def ask(self, app: App, challenge: str, **changed: str | None) -> dict[str, str]:
        """The parameters of a good authorization request, with changes; None leaves out."""
        given: dict[str, str | None] = {
            "response_type": "code",
            "client_id": app.client.client_id,
            "redirect_uri": app.client.redirect_uris[0],
            "scope": "openid fhirUser user/Patient.rs",
            "state": "s t&a=te",
            "aud": self.fhir,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **changed,
        }
        return {name: value for name, value in given.items() if value is not None}

    def visit(self, person: Person | None, parameters: dict[str, str]) -> httpx.Response:
        """The authorization endpoint as a browser asks it."""
        return self.http.get(
            f"{self.base}/oauth2/authorize", params=parameters, headers=self.cookie(person)
        )

    def cookie(self, person: Person | None) -> dict[str, str]:
        return {"Cookie": f"{sessions.COOKIE}={person.cookie}"} if person else {}

    def submit(
        self, person: Person, shown: httpx.Response, button: dict[str, str], form: int = -1
    ) -> httpx.Response:
        """Press a button of a form on a page: the last form, unless said otherwise."""
        assert shown.status_code == 200, shown.text
        action, fields = forms_of(shown.text)[form]
        return self.http.post(
            f"{self.url}{action}", data={**fields, **button}, headers=self.cookie(person)
        )

    def launch(self, person: Person, app: App, **changed: str | None) -> tuple[dict[str, str], str]:
        """Go through a launch to the redirect; returns its parameters and the verifier."""
        verifier, challenge = pkce()
        patient = changed.pop("patient", None)
        shown = self.visit(person, self.ask(app, challenge, **changed))
        if patient is not None:
            shown = self.submit(person, shown, {"patient": patient})
        if shown.status_code == 200:
            shown = self.submit(person, shown, {"decision": "allow"})
        return answer_of(shown), verifier

    def exchange(self, app: App, code: str, verifier: str, **changed: str) -> httpx.Response:
        """The token request for a code."""
        data = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": app.client.redirect_uris[0],
            "code_verifier": verifier,
            **({} if app.secret else {"client_id": app.client.client_id}),
            **changed,
        }
        return self.token(data, auth=app.auth)

    def token(self, data: dict[str, str], auth: tuple[str, str] | None = None) -> httpx.Response:
        return self.http.post(f"{self.base}/oauth2/token", data=data, auth=auth)

    def tokens(self, person: Person, app: App, **changed: str | None) -> dict[str, Any]:
        """A whole launch: the token response."""
        answer, verifier = self.launch(person, app, **changed)
        response = self.exchange(app, answer["code"], verifier)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def read(self, token: str, path: str) -> httpx.Response:
        return self.http.get(f"{self.fhir}/{path}", headers={"Authorization": f"Bearer {token}"})


def forms_of(page: str) -> list[tuple[str, dict[str, str]]]:
    """The forms of a page: where each goes, and its hidden fields."""
    found = []
    for action, inner in re.findall(r'<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>', page, re.S):
        hidden = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', inner)
        found.append((html.unescape(action), {k: html.unescape(v) for k, v in hidden}))
    return found


def answer_of(response: httpx.Response) -> dict[str, str]:
    """The parameters of a redirect to the app."""
    assert response.status_code == 303, response.text
    assert response.headers["location"].startswith(("https://app.", "http://127.0.0.1", "com."))
    return dict(parse_qsl(urlsplit(response.headers["location"]).query))


@pytest.fixture(scope="module")
def make_server(
    database: MigratedDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., SmartServer]]:
    """Starts servers over the module's database."""
    running: list[tuple[uvicorn.Server, threading.Thread, SmartServer]] = []
    data_dir = tmp_path_factory.mktemp("data")

    def start(tenant: Tenant, **settings: Any) -> SmartServer:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        app = application(
            Settings(data_dir=data_dir, database_url=database.url, http_port=port, **settings)
        )
        config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        made = SmartServer(f"http://127.0.0.1:{port}", app, database.owner_url, tenant)
        running.append((server, thread, made))
        return made

    yield start
    for server, thread, made in running:
        made.http.close()
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def smart(make_server: Callable[..., SmartServer], tenant: Tenant) -> SmartServer:
    return make_server(tenant)


@pytest.fixture(scope="module")
def dentist(smart: SmartServer) -> Person:
    return smart.person("CLINICIAN")


@pytest.fixture(scope="module")
def web_app(smart: SmartServer) -> App:
    return smart.register()


@pytest.fixture(scope="module")
def public_app(smart: SmartServer) -> App:
    return smart.register(authentication="NONE")
