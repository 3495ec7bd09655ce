"""/tenants/{tenant}/clients: the apps and services of an organization."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.scopes import InvalidScope, Scopes
from interop.administration.desk import AtDesk, Desk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Listing, Page
from interop.administration.values import Body, JsonObject, LongLine, Name
from interop.errors import BadRequest
from interop.smart import clients, registered_clients
from interop.smart.registered_clients import RegisteredClient
from storage.database import Connection

router = APIRouter(route_class=AdministrationRoute, tags=["clients"])

Authentication = Literal["CLIENT_SECRET", "PRIVATE_KEY_JWT", "NONE"]
GrantType = Literal["authorization_code", "refresh_token", "client_credentials"]


@dataclass(frozen=True, slots=True)
class ClientMade(RegisteredClient):
    """A new client, with its secret where it has one: shown only here, stored only as a hash."""

    client_secret: str | None = None


class NewSecret(BaseModel):
    """A client's new secret, shown only here."""

    client_id: str
    client_secret: str


class NewClient(Body):
    """An app or service to register."""

    name: Name
    scope: Annotated[str, StringConstraints(min_length=1, max_length=4000)] = Field(
        description="SMART scopes, e.g. system/*.cruds or launch/patient patient/*.rs."
    )
    authentication: Authentication = "CLIENT_SECRET"
    grant_types: tuple[GrantType, ...] = Field(("client_credentials",), min_length=1, max_length=3)
    redirect_uris: tuple[LongLine, ...] = Field((), max_length=clients.MAX_REDIRECT_URIS)
    jwks: JsonObject | None = None
    jwks_uri: LongLine | None = None
    client_uri: LongLine | None = None
    launch_uri: LongLine | None = None


_CLIENTS = Listing(
    "ApiClient",
    registered_clients.list_clients,
    tuple[datetime, UUID],
    key=lambda one: (one.created_at, one.id),
    show=lambda one: one,
)


@router.get("/tenants/{tenant}/clients")
def list_clients(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[RegisteredClient]:
    """The apps and services, in the order of their registration."""
    return _CLIENTS.page(desk, after, limit)


@router.post("/tenants/{tenant}/clients", status_code=201)
def register_client(tenant: str, client: NewClient, desk: AtDesk) -> ClientMade:
    """Register an app or service."""
    return desk.change(lambda connection: _register(connection, desk, client), "ApiClient")


@router.get("/tenants/{tenant}/clients/{id}")
def get_client(tenant: str, id: UUID, desk: AtDesk) -> RegisteredClient:
    """One app or service."""
    return desk.read(
        lambda connection: registered_clients.get_client(connection, desk.tenant.id, id),
        "ApiClient",
        id,
    )


@router.post("/tenants/{tenant}/clients/{id}/disable")
def disable_client(tenant: str, id: UUID, desk: AtDesk) -> RegisteredClient:
    """Give it no token any more; those that it holds end within a minute."""
    return desk.change(
        lambda connection: registered_clients.disable_client(
            connection, desk.tenant.id, id, desk.caller
        ),
        "ApiClient",
        id,
    )


@router.post("/tenants/{tenant}/clients/{id}/secret")
def rotate_secret(tenant: str, id: UUID, desk: AtDesk) -> NewSecret:
    """Give it a new secret; the old one is worth nothing at once."""

    def work(connection: Connection) -> NewSecret:
        secret = registered_clients.rotate_secret(connection, desk.tenant.id, id, desk.caller)
        client = registered_clients.get_client(connection, desk.tenant.id, id)
        return NewSecret(client_id=client.client_id, client_secret=secret)

    return desk.change(work, "ApiClient", id)


def _register(connection: Connection, desk: Desk, client: NewClient) -> ClientMade:
    try:
        scopes = Scopes.parse(client.scope)
    except InvalidScope as error:
        raise BadRequest(str(error)) from error
    registration = clients.Registration(
        name=client.name,
        scopes=scopes,
        authentication=client.authentication,
        grant_types=client.grant_types,
        redirect_uris=client.redirect_uris,
        jwks=client.jwks,
        jwks_uri=client.jwks_uri,
        client_uri=client.client_uri,
        launch_uri=client.launch_uri,
    )
    made, secret = clients.insert(connection, desk.tenant, registration)
    row = audit_parameters(desk.caller, "CLIENT_CREATED", metadata={"client": str(made.id)})
    connection.execute(INSERT_AUDIT, row)
    shown = registered_clients.get_client(connection, desk.tenant.id, made.id)
    return ClientMade(**asdict(shown), client_secret=secret)
