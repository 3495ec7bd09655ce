"""A live FHIR server over the module's database, and clients of two tenants."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from benchmarks.live_server import free_port
from interop.access import Scopes
from interop.access.http import Authenticator
from interop.fhir.router import routes
from interop.settings import Settings
from interop.smart.tokens import TokenService
from storage.database import Database
from storage.encryption import MasterKey
from storage.tenancy import Tenant, TenantDirectory

EXAMPLES = Path(__file__).parents[4] / "shared/fhir/examples"
FHIR_JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture(scope="module")
def live(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The FHIR door on a free port of the loopback: its `url` and `services`."""
    port = free_port()
    data_dir = tmp_path_factory.mktemp("data")
    settings = Settings(data_dir=data_dir, database_url=database.url, http_port=port)
    tokens = TokenService(database, MasterKey.from_file(data_dir / "master.key"), 3600)
    services = SimpleNamespace(
        settings=settings,
        database=database,
        tenants=TenantDirectory(database),
        tokens=tokens,
        authenticator=Authenticator(database, tokens),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await database.open_async()
        app.state.services = services
        yield
        await database.close_async()

    app = Starlette(routes=routes(), lifespan=lifespan)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}", services=services)
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def client_for(
    live: SimpleNamespace,
) -> Iterator[Callable[..., httpx.Client]]:
    """Makes clients of a tenant with the scopes that a test needs."""
    made: list[httpx.Client] = []

    def make(tenant: Tenant, scope: str = "system/*.cruds") -> httpx.Client:
        token = live.services.tokens.issue(tenant, None, "test", Scopes.parse(scope))
        client = httpx.Client(
            base_url=f"{live.url}/t/{tenant.slug}/fhir/R4",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture(scope="module")
def fhir(client_for: Callable[..., httpx.Client], tenant: Tenant) -> httpx.Client:
    """A client that may do everything in the tenant `demo`."""
    return client_for(tenant)


@pytest.fixture(scope="module")
def other_fhir(client_for: Callable[..., httpx.Client], other_tenant: Tenant) -> httpx.Client:
    """A client that may do everything in the tenant `other`."""
    return client_for(other_tenant)


@pytest.fixture(scope="session")
def assert_outcome() -> Callable[..., dict[str, Any]]:
    """Checks the shape that every FHIR error has, and returns it."""

    def check(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"].startswith("application/fhir+json")
        outcome: dict[str, Any] = response.json()
        assert outcome["resourceType"] == "OperationOutcome"
        assert outcome["issue"]
        for issue in outcome["issue"]:
            assert issue["severity"] in ("error", "fatal")
            assert issue["diagnostics"]
        if code is not None:
            assert code in [issue["code"] for issue in outcome["issue"]]
        return outcome

    return check
