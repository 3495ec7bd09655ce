"""/tenants/{tenant}/clients: the apps and services of an organization."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.scopes import InvalidScope, Scopes
from interop.administration.desk import AtDesk, Desk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Page, page, read_key
from interop.administration.values import Body, JsonObject, LongLine, Name
from interop.errors import BadRequest
from interop.smart import clients, registered_clients
from storage.database import Connection

router = APIRouter(route_class=AdministrationRoute, tags=["clients"])

Authentication = Literal["CLIENT_SECRET", "PRIVATE_KEY_JWT", "NONE"]
GrantType = Literal["authorization_code", "refresh_token", "client_credentials"]


class ClientShown(BaseModel):
    """An app or service, without its secret."""

    id: UUID
    client_id: str
    name: str
    scopes: list[str]
    authentication: str
    grant_types: list[str]
    redirect_uris: list[str]
    jwks_uri: str | None
    client_uri: str | None
    launch_uri: str | None
    purpose: str
    rate_limit_per_minute: int | None
    status: str
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class ClientMade(ClientShown):
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


@router.get("/tenants/{tenant}/clients")
def list_clients(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[ClientShown]:
    """The apps and services, in the order of their registration."""
    key = read_key(after, tuple[datetime, UUID])
    rows = desk.read(
        lambda connection: registered_clients.list_clients(
            connection, desk.tenant.id, after=key, limit=limit + 1
        ),
        "ApiClient",
    )
    return page(rows, limit, lambda one: (one.created_at.isoformat(), one.id), _shown)


@router.post("/tenants/{tenant}/clients", status_code=201)
def register_client(tenant: str, client: NewClient, desk: AtDesk) -> ClientMade:
    """Register an app or service."""
    return desk.change(lambda connection: _register(connection, desk, client), "ApiClient")


@router.get("/tenants/{tenant}/clients/{id}")
def get_client(tenant: str, id: UUID, desk: AtDesk) -> ClientShown:
    """One app or service."""
    return _shown(
        desk.read(
            lambda connection: registered_clients.get_client(connection, desk.tenant.id, id),
            "ApiClient",
            id,
        )
    )


@router.post("/tenants/{tenant}/clients/{id}/disable")
def disable_client(tenant: str, id: UUID, desk: AtDesk) -> ClientShown:
    """Give it no token any more; those that it holds end within a minute."""
    return _shown(
        desk.change(
            lambda connection: registered_clients.disable_client(
                connection, desk.tenant.id, id, desk.caller
            ),
            "ApiClient",
            id,
        )
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
    shown = _shown(registered_clients.get_client(connection, desk.tenant.id, made.id))
    return ClientMade(**shown.model_dump(), client_secret=secret)


def _shown(client: registered_clients.RegisteredClient) -> ClientShown:
    return ClientShown.model_validate(client, from_attributes=True)
