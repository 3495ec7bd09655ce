"""The whole HTTP application over the module's database, and callers of every kind."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from interop.access import Scopes
from interop.app import application
from interop.services import Services
from interop.settings import Settings
from interop.smart.clients import create_client
from interop.smart.tokens import Subject
from storage.schema.reference_rows import reference_id
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase, execute_as_owner

FHIR_JSON = {"Content-Type": "application/fhir+json"}
# What differs between two answers to the same question, whoever asks.
_OWN_HEADERS = {"date", "x-request-id"}


def comparable(response: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """An answer as far as two equal answers are equal."""
    headers = {k: v for k, v in response.headers.items() if k.lower() not in _OWN_HEADERS}
    return response.status_code, response.content, headers


@dataclass
class Door:
    """The running server, and clients of its tenants."""

    url: str
    app: Starlette
    owner_url: str
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    def caller(
        self,
        tenant: Tenant,
        scope: str,
        *,
        user: UUID | None = None,
        patient: UUID | None = None,
        client: UUID | None = None,
        door: str = "fhir/R4",
    ) -> httpx.Client:
        """A client with a token of its own."""
        subject = Subject(user_id=user, patient_id=patient)
        scopes = Scopes.parse(scope)
        token = self.services.tokens.issue(tenant, client, "test", scopes, subject)
        made = httpx.Client(
            base_url=f"{self.url}/t/{tenant.slug}/{door}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        self.clients.append(made)
        return made

    def system(self, tenant: Tenant) -> httpx.Client:
        """The operator, who may do everything."""
        return self.caller(tenant, "system/*.cruds")

    def api_client(self, tenant: Tenant, purpose: str = "CARE") -> UUID:
        """A registered client that works for `purpose`."""
        made, _ = create_client(
            self.services.database, tenant, "test", Scopes.parse("system/*.cruds")
        )
        self.execute(
            "UPDATE api_clients SET purpose = %s WHERE tenant_id = %s AND id = %s",
            purpose,
            tenant.id,
            made.id,
        )
        return made.id

    def user(
        self,
        tenant: Tenant,
        *roles: tuple[str, str, UUID | None],
        user_type: str = "DENTIST",
        patient: UUID | None = None,
    ) -> UUID:
        """A member with roles, each as (role code, resource scope, unit)."""
        user_id = uuid4()
        self.execute(
            "INSERT INTO users (id, full_name, email) VALUES (%s, 'A user', %s)",
            user_id,
            f"{user_id}@example.org",
        )
        self.execute(
            "INSERT INTO user_tenants (tenant_id, user_id, user_type, patient_id)"
            " VALUES (%s, %s, %s, %s)",
            tenant.id,
            user_id,
            user_type,
            patient,
        )
        for role, resource_scope, unit in roles:
            self.grant(tenant, user_id, role, resource_scope, unit)
        return user_id

    def grant(
        self, tenant: Tenant, user_id: UUID, role: str, resource_scope: str, unit: UUID | None
    ) -> None:
        self.execute(
            "INSERT INTO user_roles (tenant_id, user_id, role_id, resource_scope, location_id,"
            " team_id) VALUES (%s, %s, %s, %s, %s, %s)",
            tenant.id,
            user_id,
            reference_id("roles", role),
            resource_scope,
            unit if resource_scope == "LOCATION" else None,
            unit if resource_scope == "TEAM" else None,
        )

    def execute(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the database, whom row-level security lets through."""
        return execute_as_owner(self.owner_url, query, values)

    def row_id(self, tenant: Tenant, resource_type: str, resource_id: str) -> UUID:
        """The row behind a resource."""
        rows = self.execute(
            "SELECT row_id FROM fhir_resources WHERE tenant_id = %s AND resource_type = %s"
            " AND resource_id = %s",
            tenant.id,
            resource_type,
            resource_id,
        )
        row_id: UUID = rows[0][0]
        return row_id

    def last_audit(self, tenant: Tenant) -> dict[str, Any]:
        """The newest audit row of a tenant."""
        rows = self.execute(
            "SELECT row_to_json(a) FROM audit_events AS a WHERE tenant_id = %s"
            " ORDER BY timestamp DESC LIMIT 1",
            tenant.id,
        )
        row: dict[str, Any] = rows[0][0]
        return row


def put(client: httpx.Client, resource: dict[str, Any]) -> httpx.Response:
    """Write a resource under its own id."""
    url = f"/{resource['resourceType']}/{resource['id']}"
    response = client.put(url, content=json.dumps(resource), headers=FHIR_JSON)
    assert response.status_code in (200, 201), response.text
    return response


def found(response: httpx.Response, mode: str | None = None) -> set[str]:
    """The "Type/id" of everything in a Bundle."""
    assert response.status_code == 200, response.text
    return {
        f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
        for entry in response.json().get("entry", ())
        if mode is None or entry["search"]["mode"] == mode
    }


@pytest.fixture(scope="module")
def door(
    database: MigratedDatabase, tenant: Tenant, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"), database_url=database.url, http_port=port
    )
    app = application(settings)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    made = Door(f"http://127.0.0.1:{port}", app, database.owner_url)
    yield made
    for client in made.clients:
        client.close()
    server.should_exit = True
    thread.join(20)
