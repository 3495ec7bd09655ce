"""`interop client ...` and `interop keys ...`: apps and services of a tenant, and signing keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from interop.access.scopes import InvalidScope, Scopes
from interop.audit.commands import record
from interop.command_line import CommandFailed, JsonOption, TenantOption, opened, out, require, show
from interop.smart.clients import (
    AUTHORIZATION_CODE,
    CLIENT_CREDENTIALS,
    CLIENT_SECRET,
    PRIVATE_KEY_JWT,
    PUBLIC,
    REFRESH,
    InvalidRegistration,
    Registration,
    register,
)

client_app = typer.Typer(no_args_is_help=True, help="API clients: apps and services of a tenant.")
keys_app = typer.Typer(
    no_args_is_help=True, help="Keys: those that sign tokens, those that seal sensitive values."
)


@client_app.command("create")
def client_create(
    tenant: TenantOption,
    name: Annotated[str, typer.Option(help="What the client is for.")],
    scope: Annotated[
        str,
        typer.Option(help="SMART scopes: 'system/*.cruds', or 'launch/patient patient/*.rs'."),
    ],
    redirect_uri: Annotated[
        list[str] | None, typer.Option(help="Where an app gets its code; repeatable.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="An app that can keep no secret; PKCE alone.")
    ] = False,
    jwks: Annotated[
        Path | None, typer.Option(help="File with the client's public keys (private_key_jwt).")
    ] = None,
    jwks_uri: Annotated[str | None, typer.Option(help="https address of these keys.")] = None,
    launch_uri: Annotated[str | None, typer.Option(help="Where an EHR starts the app.")] = None,
) -> None:
    """Register a client and print its id and secret as JSON; the secret is shown only here.

    With --redirect-uri it is an app that people launch; without, a service of its own.
    """
    scopes = parse_scopes(scope)
    if public and (jwks or jwks_uri):
        raise CommandFailed("--public goes without --jwks and --jwks-uri")
    has_keys = jwks is not None or jwks_uri is not None
    grants: tuple[str, ...] = (AUTHORIZATION_CODE, REFRESH) if redirect_uri else ()
    if not grants or scopes.of_level("system").granted:
        grants = (*grants, CLIENT_CREDENTIALS)
    registration = Registration(
        name,
        scopes,
        authentication=PUBLIC if public else PRIVATE_KEY_JWT if has_keys else CLIENT_SECRET,
        grant_types=grants,
        redirect_uris=tuple(redirect_uri or ()),
        jwks=_read_jwks(jwks) if jwks else None,
        jwks_uri=jwks_uri,
        launch_uri=launch_uri,
    )
    with opened() as interop:
        try:
            owner = require(interop.tenants, tenant)
            client, secret = register(interop.database, owner, registration)
        except InvalidRegistration as error:
            raise CommandFailed(str(error)) from error
        record(interop, owner, "CLIENT_CREATED", client=str(client.id))
    answer = {"client_id": client.client_id}
    if secret is not None:
        answer["client_secret"] = secret
    print(json.dumps(answer))


@keys_app.command("rotate")
def keys_rotate(
    at_once: Annotated[
        bool, typer.Option("--at-once", help="A key became known: end every token now.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make new signing keys; the old verify until the tokens that they signed have expired."""
    from interop.connections import open_tokens

    with opened() as interop:
        tokens = open_tokens(interop.settings, interop.database)
        made = tokens.keys.rotate(tokens.lifetime_seconds, at_once=at_once)
    show({"keys": made}, True) if as_json else out.print("new keys: " + ", ".join(made))


def parse_scopes(text: str) -> Scopes:
    """The scopes of an option. Raises CommandFailed."""
    try:
        return Scopes.parse(text)
    except InvalidScope as error:
        raise CommandFailed(str(error)) from error


def _read_jwks(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CommandFailed(f"--jwks {path}: not JSON") from error
    if not isinstance(found, dict):
        raise CommandFailed(f'--jwks {path}: expected {{"keys": [...]}}')
    return found
