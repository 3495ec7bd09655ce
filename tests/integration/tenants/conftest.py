"""The whole HTTP application over the module's database, on a free port of the loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn

from benchmarks.live_server import free_port
from interop.access import Scopes
from interop.app import application
from interop.services import Services, open_services
from interop.settings import Settings
from interop.smart.clients import create_client
from storage.database import Database
from storage.tenancy import Tenant
from storage.tenants import configuration
from tests.conftest import MakePlacedTenant

FHIR_JSON = {"Content-Type": "application/fhir+json"}


@dataclass
class Live:
    """A running application."""

    url: str
    services: Services

    def client(
        self, tenant: Tenant, client_id: UUID | None = None, scope: str = "system/*.cruds"
    ) -> httpx.Client:
        """A client with a token of the tenant, at the tenant's root."""
        token = self.services.tokens.issue(tenant, client_id, "test", Scopes.parse(scope))
        return httpx.Client(
            base_url=f"{self.url}/t/{tenant.slug}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )


@pytest.fixture(scope="module")
def live(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    port = free_port()
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"), database_url=database.url, http_port=port
    )
    app = application(settings, open_services)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="on")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield Live(f"http://127.0.0.1:{port}", app.state.services)
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def make_tenant(
    database: Database, placed_tenant: MakePlacedTenant, strategies: tuple[str, str]
) -> Callable[..., Tenant]:
    """Makes tenants, with quotas; one below another lives by the second of the strategies."""

    def make(parent: Tenant | None = None, **quota: Any) -> Tenant:
        slug = f"t{uuid4().hex[:12]}"
        strategy = strategies[0] if parent is None else strategies[1]
        tenant = placed_tenant(slug, slug.upper()[:16], strategy, parent)
        with database.connection(tenant.id) as connection:
            configuration.change(connection, tenant.id, "quota", quota)
        return tenant

    return make


@pytest.fixture
def api_client(database: Database) -> Callable[..., UUID]:
    """Registers API clients."""

    def make(tenant: Tenant, rate_limit_per_minute: int | None = None) -> UUID:
        client, _ = create_client(database, tenant, "c", Scopes.parse("system/*.cruds"))
        with database.connection(tenant.id) as connection:
            connection.execute(
                "UPDATE api_clients SET rate_limit_per_minute = %s WHERE tenant_id = %s",
                (rate_limit_per_minute, tenant.id),
            )
        return client.id

    return make
