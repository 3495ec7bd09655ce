"""`interop keys`: the keys that seal what is especially sensitive, beside those that sign."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import psycopg
import typer
from psycopg_pool import PoolTimeout

from interop.command_line import CommandFailed, JsonOption, Opened, opened, require
from interop.command_line import show as show_row
from interop.smart.commands import keys_app
from storage.encryption import EncryptionError, MasterKey, SealBroken
from storage.encryption.providers import PLATFORM

__all__ = ["keys_app"]

DataOwner = Annotated[str | None, typer.Option("--tenant", help="Slug of the tenant.")]
PlatformOption = Annotated[
    bool, typer.Option("--platform", help="The keys of what belongs to no tenant (MFA secrets).")
]


@keys_app.command("rotate-data")
def keys_rotate_data(
    tenant: DataOwner = None,
    platform: PlatformOption = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Seal anew here and now, not by a worker.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new data key; a worker seals anew what older keys have sealed."""
    from storage.encryption.rotation import reseal, rotate

    with opened() as interop:
        owner = _owner(interop, tenant, platform)
        try:
            version = rotate(interop.database, owner)
            resealed = reseal(interop.database, owner) if wait else None
        except EncryptionError as error:
            raise CommandFailed(str(error)) from error
    shown = {"tenant": tenant or PLATFORM, "version": version}
    show_row(shown if resealed is None else {**shown, "resealed": resealed}, as_json)


@keys_app.command("reseal")
def keys_reseal(
    tenant: DataOwner = None, platform: PlatformOption = False, as_json: JsonOption = False
) -> None:
    """Seal under the newest data key what older ones have sealed; repeating continues."""
    from storage.encryption.rotation import reseal

    with opened() as interop:
        owner = _owner(interop, tenant, platform)
        try:
            resealed = reseal(interop.database, owner)
        except EncryptionError as error:
            raise CommandFailed(str(error)) from error
    show_row({"tenant": tenant or PLATFORM, "resealed": resealed}, as_json)


def _owner(interop: Opened, slug: str | None, is_platform: bool) -> UUID | None:
    """Whose data keys are meant; None: those of the platform."""
    if (slug is None) != is_platform:
        raise CommandFailed("name either --tenant SLUG or --platform")
    return None if slug is None else require(interop.tenants, slug).id


@keys_app.command("rewrap")
def keys_rewrap(as_json: JsonOption = False) -> None:
    """Wrap all data keys under the present master key or KMS key, and the signing keys' seal.

    Before it, set INTEROP_KMS_KEY_ID, or the new INTEROP_MASTER_KEY with the old one as
    INTEROP_FORMER_MASTER_KEY; after it, the former is not needed any more.
    """
    with opened() as interop:
        vault = interop.database.vault
        with interop.database.platform_connection() as connection:
            rows = connection.execute("SELECT id, slug FROM tenants ORDER BY id").fetchall()
        wrapped, away = 0, []
        try:
            for tenant_id, slug in [(None, PLATFORM), *rows]:
                try:
                    wrapped += vault.rewrap(tenant_id)
                except (psycopg.Error, PoolTimeout):
                    away.append(slug)
        except EncryptionError as error:
            raise CommandFailed(
                f"{error}; what was wrapped until here stays so, run the command again"
            ) from error
        signing = _reseal_signing_keys(interop)
    if away:
        raise CommandFailed(
            f"the databases of {', '.join(away)} did not answer: keep the former key and run the"
            " command again; all others are done"
        )
    show_row({"data_keys": wrapped, "signing_keys": signing}, as_json)


def _reseal_signing_keys(interop: Opened) -> int:
    """Seal the private signing keys under the new master key. Returns how many were under the old.

    As the owner of the database: the application may not change a signing key.
    """
    from interop.connections import open_master_key
    from interop.smart.keys import place_of

    if interop.settings.former_master_key is None:
        return 0
    former = MasterKey.from_base64(interop.settings.former_master_key.get_secret_value())
    present = open_master_key(interop.settings)
    changed = 0
    with psycopg.connect(interop.owner_url) as connection:
        keys = connection.execute(
            "SELECT kid, private_jwk FROM signing_keys ORDER BY kid FOR UPDATE"
        ).fetchall()
        for kid, sealed in keys:
            try:
                plain = former.open(sealed, place_of(kid))
            except SealBroken:
                present.open(sealed, place_of(kid))
                continue
            connection.execute(
                "UPDATE signing_keys SET private_jwk = %s WHERE kid = %s",
                (present.seal(plain, place_of(kid)), kid),
            )
            changed += 1
    return changed
