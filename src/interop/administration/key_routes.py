"""/tenants/{tenant}/keys: what signs tokens, and what seals the organization's sensitive values."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from interop.administration.desk import AtDesk
from interop.administration.door import AdministrationRoute
from interop.administration.values import Body
from storage.encryption import rotation

router = APIRouter(route_class=AdministrationRoute, tags=["keys"])


class KeysShown(BaseModel):
    """Public keys, and the version of the data key; never a private part."""

    signing_keys: list[dict[str, Any]] = Field(description="The JWK Set (RFC 7517), public parts.")
    data_key_version: int | None = Field(description="Null: nothing was sealed yet.")


class SigningRotation(Body):
    """How to rotate."""

    at_once: Annotated[bool, Field(strict=True)] = Field(
        False, description="A key became known: every token ends now, this one too."
    )


class SigningKeysMade(BaseModel):
    """The ids of the new keys."""

    key_ids: list[str]


class DataKeyMade(BaseModel):
    """The version that seals from now on."""

    version: int


@router.get("/tenants/{tenant}/keys")
def get_keys(tenant: str, desk: AtDesk) -> KeysShown:
    """The public keys that tokens are verified with, and which data key seals."""
    desk.record("CONFIG_VIEWED", "Key")
    return KeysShown(
        signing_keys=desk.services.tokens.keys.public()["keys"],
        data_key_version=desk.database.vault.newest_version(desk.tenant.id),
    )


@router.post("/tenants/{tenant}/keys/data/rotate", status_code=201)
def rotate_data_key(tenant: str, desk: AtDesk) -> DataKeyMade:
    """Make a new data key; a worker seals anew what older ones have sealed."""
    version = rotation.rotate(desk.database, desk.tenant.id)
    desk.record("CONFIG_CHANGED", "DataKey", None, {"action": "key.rotate", "version": version})
    return DataKeyMade(version=version)


@router.post("/tenants/{tenant}/keys/signing/rotate", status_code=201)
def rotate_signing_keys(tenant: str, how: SigningRotation, desk: AtDesk) -> SigningKeysMade:
    """Make new signing keys for the whole installation. For the operator."""
    tokens = desk.services.tokens
    made = tokens.keys.rotate(tokens.lifetime_seconds, at_once=how.at_once)
    metadata = {"action": "signing_key.rotate", "keys": made, "at_once": how.at_once}
    desk.record("CONFIG_CHANGED", "SigningKey", None, metadata)
    return SigningKeysMade(key_ids=made)
