"""The token endpoint: RFC 6749 client credentials, narrowed scopes, errors that reveal nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from interop.access import Scopes
from interop.access.http import Authenticator, caller_from
from interop.errors import ServerError
from interop.settings import Settings
from interop.smart import oauth2
from interop.smart.clients import create_client
from interop.smart.tokens import TokenService
from storage.database import Database
from storage.encryption import MasterKey
from storage.tenancy import Tenant, TenantDirectory


async def whoami(request: Request) -> JSONResponse:
    try:
        caller = await caller_from(request)
    except ServerError as error:
        return JSONResponse({"error": error.diagnostics}, error.http_status, dict(error.headers))
    return JSONResponse({"name": caller.actor_name, "scopes": str(caller.scopes)})


@pytest.fixture(scope="module")
def client(database: Database) -> Iterator[TestClient]:
    tokens = TokenService(database, MasterKey(os.urandom(32)), 300)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await database.open_async()
        app.state.services = SimpleNamespace(
            settings=Settings(http_port=8080),
            database=database,
            tokens=tokens,
            tenants=TenantDirectory(database),
            authenticator=Authenticator(database, tokens),
        )
        yield
        await database.close_async()

    routes = [*oauth2.routes(), Route("/t/{tenant}/whoami", whoami)]
    with TestClient(Starlette(routes=routes, lifespan=lifespan)) as opened:
        yield opened


@pytest.fixture(scope="module")
def credentials(database: Database, tenant: Tenant) -> tuple[str, str]:
    api_client, secret = create_client(
        database, tenant, "pms", Scopes.parse("system/Patient.rs system/ImagingStudy.cruds")
    )
    return api_client.client_id, secret


def ask(client: TestClient, tenant: str = "demo", auth: Any = None, **fields: str) -> Any:
    data = {"grant_type": "client_credentials", **fields}
    return client.post(f"/t/{tenant}/oauth2/token", data=data, auth=auth)


def test_basic_authentication_gives_a_token_that_works(
    client: TestClient, credentials: tuple[str, str]
) -> None:
    answer = ask(client, auth=credentials)

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 300)
    headers = {"Authorization": f"Bearer {body['access_token']}"}
    seen = client.get("/t/demo/whoami", headers=headers)
    assert seen.json() == {"name": "pms", "scopes": body["scope"]}


def test_credentials_in_the_body_work_too(client: TestClient, credentials: tuple[str, str]) -> None:
    answer = ask(client, client_id=credentials[0], client_secret=credentials[1])

    assert answer.status_code == 200


def test_asking_for_scopes_narrows_them(client: TestClient, credentials: tuple[str, str]) -> None:
    answer = ask(client, auth=credentials, scope="system/Patient.cruds system/Claim.rs")

    assert answer.json()["scope"] == "system/Patient.rs"


def test_asking_for_nothing_that_is_granted_is_refused(
    client: TestClient, credentials: tuple[str, str]
) -> None:
    answer = ask(client, auth=credentials, scope="system/Claim.rs")

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


def test_unknown_client_wrong_secret_and_unknown_tenant_answer_alike(
    client: TestClient, credentials: tuple[str, str], other_tenant: Tenant
) -> None:
    answers = [
        ask(client, auth=(credentials[0], "wrong")),
        ask(client, auth=("nobody", credentials[1])),
        ask(client, tenant="nowhere", auth=credentials),
        ask(client, tenant=other_tenant.slug, auth=credentials),
    ]

    assert {a.status_code for a in answers} == {401}
    assert len({a.content for a in answers}) == 1


@pytest.mark.parametrize(
    ("grant", "error"),
    [
        ("password", "unsupported_grant_type"),
        ("", "unsupported_grant_type"),
        ("authorization_code", "unauthorized_client"),
        ("refresh_token", "unauthorized_client"),
    ],
)
def test_other_grants_are_refused(
    client: TestClient, credentials: tuple[str, str], grant: str, error: str
) -> None:
    answer = client.post("/t/demo/oauth2/token", data={"grant_type": grant}, auth=credentials)

    assert answer.json()["error"] == error


def test_a_missing_or_foreign_token_is_401_and_another_tenants_is_404(
    client: TestClient, credentials: tuple[str, str], other_tenant: Tenant
) -> None:
    token = ask(client, auth=credentials).json()["access_token"]

    bare = client.get("/t/demo/whoami")
    wrong = client.get("/t/demo/whoami", headers={"Authorization": "Bearer nonsense"})
    crossed = client.get("/t/other/whoami", headers={"Authorization": f"Bearer {token}"})
    nowhere = client.get("/t/nowhere/whoami", headers={"Authorization": f"Bearer {token}"})

    assert (bare.status_code, wrong.status_code) == (401, 401)
    assert bare.headers["www-authenticate"] == "Bearer"
    assert (crossed.status_code, crossed.content) == (nowhere.status_code, nowhere.content)
    assert crossed.status_code == 404


def test_success_and_failure_leave_one_audit_row_each(
    client: TestClient, credentials: tuple[str, str], database: Database, tenant: Tenant
) -> None:
    def count(event: str) -> int:
        with database.connection(tenant.id) as connection:
            row = connection.execute(
                "SELECT count(*) FROM audit_events WHERE tenant_id = %s AND event_type = %s",
                (tenant.id, event),
            ).fetchone()
        assert row is not None
        return int(row[0])

    before = count("TOKEN_ISSUED"), count("TOKEN_REFUSED")
    ask(client, auth=credentials)
    ask(client, auth=(credentials[0], "wrong"))

    assert (count("TOKEN_ISSUED"), count("TOKEN_REFUSED")) == (before[0] + 1, before[1] + 1)
