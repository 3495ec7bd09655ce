"""Key providers: who wraps the data keys. The local master key, or AWS KMS (see `aws_kms`).

A provider never sees what is sealed, only data keys, each with the context of its tenant, without
which it does not open: {'tenant': id}, which for KMS is the EncryptionContext that a key policy can
demand and CloudTrail records.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from storage.encryption.errors import KeysUnavailable
from storage.encryption.master_key import KEY_BYTES, MasterKey

Context = Mapping[str, str]
PLATFORM = "platform"


class KeyProvider(Protocol):
    """Wraps data keys under a key of its own. Raises KeysUnavailable and SealBroken."""

    name: str

    def generate(self, context: Context) -> tuple[bytearray, bytes, str]:
        """A new data key: in clear, wrapped, and the id of the key that wrapped it."""
        ...

    def wrap(self, key: bytearray, context: Context) -> tuple[bytes, str]:
        """A data key wrapped anew, and the id of the key that wrapped it."""
        ...

    def unwraps(self, key_id: str) -> bool:
        """Whether what `key_id` has wrapped is for this provider to open."""
        ...

    def unwrap(self, wrapped: bytes, key_id: str, context: Context) -> bytearray:
        """A data key in clear, for the caller to overwrite with zeros."""
        ...


class LocalKeyProvider:
    """Data keys wrapped under the master key of this installation."""

    name = "LOCAL"

    def __init__(self, master_key: MasterKey) -> None:
        self._master_key = master_key

    @property
    def key_id(self) -> str:
        return self._master_key.fingerprint

    def generate(self, context: Context) -> tuple[bytearray, bytes, str]:
        key = bytearray(os.urandom(KEY_BYTES))
        return key, *self.wrap(key, context)

    def wrap(self, key: bytearray, context: Context) -> tuple[bytes, str]:
        return self._master_key.seal_bytes(key, _place(context)), self.key_id

    def unwraps(self, key_id: str) -> bool:
        return key_id == self.key_id

    def unwrap(self, wrapped: bytes, key_id: str, context: Context) -> bytearray:
        return bytearray(self._master_key.open_bytes(wrapped, _place(context)))


class KeyProviders:
    """The provider that wraps new data keys, and those that wrapped the older ones."""

    def __init__(self, current: KeyProvider, former: Sequence[KeyProvider] = ()) -> None:
        self.current = current
        self._all = (current, *former)

    def of(self, name: str, key_id: str) -> KeyProvider:
        """The provider that opens what this one wrapped. Raises KeysUnavailable."""
        for provider in self._all:
            if provider.name == name and provider.unwraps(key_id):
                return provider
        raise KeysUnavailable(
            f"a data key was wrapped by {name} key {key_id}, which this process does not have; "
            "set INTEROP_FORMER_MASTER_KEY or INTEROP_KMS_KEY_ID, then run `interop keys rewrap`"
        )


def context_of(tenant_id: UUID | None) -> Context:
    """What binds a wrapped data key to its tenant; None is the platform itself."""
    return {"tenant": str(tenant_id) if tenant_id else PLATFORM}


def _place(context: Context) -> str:
    return "data key of " + ",".join(f"{key}={value}" for key, value in sorted(context.items()))
