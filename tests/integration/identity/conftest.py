"""A live server with the sign-in pages, and browsers that fill in the forms it shows."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.live_server import free_port
from interop.identity import passwords, roles, users
from interop.identity.actors import Actor
from interop.identity.router import routes
from interop.identity.sessions import current_session
from interop.settings import Settings
from storage.database import Connection, Database
from storage.encryption import MasterKey
from storage.tenancy import Tenant, TenantDirectory

PASSWORD = "correct horse battery staple"
ADDRESSES = (f"203.0.{high}.{low}" for high, low in itertools.product(range(256), range(1, 255)))


async def who_am_i(request: Request) -> JSONResponse:
    """What other doors see of a browser, by the function that they call."""
    services = request.app.state.services
    tenant = await services.tenants.aby_slug(request.path_params["tenant"])
    session = await current_session(services, tenant, request)
    found = None if session is None else {"user_id": str(session.user_id), "amr": session.amr}
    return JSONResponse(found)


@contextmanager
def accounts_of(database: Database) -> Iterator[Connection]:
    """Accounts and delays, without a tenant, where those of `tenant` are."""
    tenant = TenantDirectory(database).by_slug("demo")
    place = database if tenant is None else database.router.place_of(tenant.id)
    with place.platform_connection() as connection:
        yield connection


def serve(database: Database, settings: Settings) -> Iterator[SimpleNamespace]:
    """Run the pages on the settings' port: `url`, `services` and the time they are started with."""
    services = SimpleNamespace(
        settings=settings,
        database=database,
        tenants=TenantDirectory(database),
        master_key=MasterKey.from_file(settings.data_dir / "master.key"),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await database.open_async()
        app.state.services = services
        yield
        await database.close_async()

    app = Starlette(routes=[*routes(), Route("/t/{tenant}/me", who_am_i)], lifespan=lifespan)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=settings.http_port, log_level="warning", proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield SimpleNamespace(url=f"http://127.0.0.1:{settings.http_port}", services=services)
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def live(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The sign-in pages on a free port; each browser has an address of its own."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        database_url=database.url,
        http_port=free_port(),
        trusted_proxies="127.0.0.0/8",
    )
    yield from serve(database, settings)


class FormParser(HTMLParser):
    """The forms of a page: action and the values of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.labelled: set[str] = set()
        self.inputs: list[dict[str, str]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag == "form":
            self.forms.append((values["action"], {}))
        if tag == "label":
            self.labelled.add(values["for"])
        if tag == "input":
            self.inputs.append(values)
            self.forms[-1][1][values["name"]] = values.get("value", "")


def parsed(html: str) -> FormParser:
    parser = FormParser()
    parser.feed(html)
    return parser


class Browser:
    """One browser at an address of its own, which sends what a browser sends."""

    def __init__(self, url: str, slug: str, address: str | None = None) -> None:
        self.origin, self.base = url, f"/t/{slug}"
        self.address = address or next(ADDRESSES)
        self.http = httpx.Client(
            base_url=url,
            timeout=60,
            headers={
                "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0",
                "X-Forwarded-For": self.address,
            },
        )

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path if path.startswith("/") else f"{self.base}/{path}")

    def submit(self, page: httpx.Response, action: str, **fields: str) -> httpx.Response:
        """Send the form of `page` that posts to `action`."""
        wanted = f"{self.base}/{action}"
        hidden = next(values for where, values in parsed(page.text).forms if where == wanted)
        return self.http.post(wanted, data={**hidden, **fields}, headers={"Origin": self.origin})

    def sign_in(self, email: str, password: str = PASSWORD, onward: str = "") -> httpx.Response:
        path = f"sign-in?continue={onward}" if onward else "sign-in"
        return self.submit(self.get(path), "sign-in", email=email, password=password)

    def account(self, action: str, **fields: str) -> httpx.Response:
        return self.submit(self.get("account"), action, **fields)

    def me(self) -> Any:
        return self.get("me").json()

    @property
    def session_token(self) -> str | None:
        return self.http.cookies.get("interop_session")


@pytest.fixture
def browser_of(live: SimpleNamespace) -> Iterator[Callable[..., Browser]]:
    """Makes browsers for a tenant."""
    made: list[Browser] = []

    def make(tenant: Tenant, address: str | None = None) -> Browser:
        made.append(Browser(live.url, tenant.slug, address))
        return made[-1]

    yield make
    for browser in made:
        browser.http.close()


@pytest.fixture
def browser(browser_of: Callable[..., Browser], tenant: Tenant) -> Browser:
    """A browser at the tenant demo."""
    return browser_of(tenant)


NUMBERS = itertools.count(1)
HASHES: dict[str, str] = {}


@pytest.fixture(scope="module")
def new_user(database: Database) -> Callable[..., tuple[UUID, str]]:
    """Makes a user of a tenant; returns id and e-mail address."""

    def make(tenant: Tenant, *held: str, password: str = PASSWORD) -> tuple[UUID, str]:
        email = f"person{next(NUMBERS)}@clinic.example"
        if password not in HASHES:
            HASHES[password] = passwords.hash_password(password)
        with database.connection(tenant.id) as connection:
            user_id = users.create_user(
                connection, tenant.id, Actor.operator(), email=email, full_name="Robin Okafor",
                user_type="DENTIST", password_hash=HASHES[password],
                grants=[roles.Grant(role) for role in held],
            )  # fmt: skip
        return user_id, email

    return make


@pytest.fixture
def audited(database: Database, tenant: Tenant) -> Callable[[], list[tuple[Any, ...]]]:
    """The audit rows that were written since this fixture was made: type, outcome, metadata."""
    query = (
        "SELECT event_type, outcome, metadata, user_id FROM audit_events"
        " WHERE tenant_id = %s ORDER BY timestamp, id"
    )

    def rows() -> list[tuple[Any, ...]]:
        with database.connection(tenant.id) as connection:
            return connection.execute(query, (tenant.id,)).fetchall()

    before = len(rows())
    return lambda: rows()[before:]
