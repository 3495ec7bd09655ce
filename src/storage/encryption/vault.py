"""Sealed values: AES-256-GCM under a data key of their tenant, and blind indexes to find them by.

A sealed value is text: `sealed:<version of the data key>:<base64 of nonce, ciphertext and tag>`.
Its associated data are the tenant and the place (table, column and row): it opens nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.database import lender_of
from storage.encryption import data_keys
from storage.encryption.cache import KeyCache
from storage.encryption.columns import PREFIX
from storage.encryption.data_keys import INDEX, SEAL, WrappedKey
from storage.encryption.errors import KeyDestroyed, SealBroken
from storage.encryption.master_key import NONCE_BYTES
from storage.encryption.providers import KeyProviders, context_of

if TYPE_CHECKING:
    from storage.database import Connection, Database

# How long a process may go on sealing under a data key that was rotated.
CURRENT_SECONDS = 2.0
INDEX_BYTES = 16
BLIND = "blind:"
# One lock for each of so many groups of tenants: nobody unwraps the same key twice at once, and
# tenants seldom wait for each other.
_STRIPES = 32


class Sealer:
    """The values of one tenant, or of the platform (None): what a MasterKey does, by a Vault."""

    def __init__(self, vault: Vault, tenant_id: UUID | None) -> None:
        self._vault = vault
        self._tenant_id = tenant_id

    def seal(self, plain: str, place: str) -> str:
        return self._vault.seal(self._tenant_id, place, plain)

    def open(self, sealed: str, place: str) -> str:
        return self._vault.open(self._tenant_id, place, sealed)


# (domain, value) -> blind index
BlindIndex = Callable[[str, str], str]


class Vault:
    """Seals and opens the values of the tenants of one database."""

    def __init__(
        self,
        database: Database,
        providers: KeyProviders,
        *,
        cache: KeyCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.providers = providers
        self._database = database
        self._cache = KeyCache() if cache is None else cache
        self._clock = clock
        self._newest: dict[UUID | None, tuple[float, int]] = {}
        self._locks = tuple(threading.Lock() for _ in range(_STRIPES))

    # -- values -----------------------------------------------------------------------------

    def seal(
        self, tenant_id: UUID | None, place: str, plain: str, connection: Connection | None = None
    ) -> str:
        """Seal a value for one place. `connection`: the caller's, bound to the tenant.

        Raises KeysUnavailable and KeyDestroyed.
        """
        version = self._sealing_version(tenant_id, connection)
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._key(tenant_id, SEAL, version, connection).encrypt(
            nonce, plain.encode(), _bound(tenant_id, place)
        )
        return f"{PREFIX}{version}:{base64.b64encode(nonce + sealed).decode()}"

    def open(
        self, tenant_id: UUID | None, place: str, sealed: str, connection: Connection | None = None
    ) -> str:
        """Open a sealed value. Raises SealBroken, KeysUnavailable and KeyDestroyed."""
        version, raw = _parts(place, sealed)
        return _opened(self._key(tenant_id, SEAL, version, connection), tenant_id, place, raw)

    def open_now(self, tenant_id: UUID | None, place: str, sealed: str) -> str | None:
        """The same for an event loop: None where the key must be fetched first, which waits."""
        version, raw = _parts(place, sealed)
        key = self._cache.get((tenant_id, SEAL, version))
        return None if key is None else _opened(key, tenant_id, place, raw)

    # -- blind indexes ------------------------------------------------------------------------

    def blind_index(
        self, tenant_id: UUID, domain: str, value: str, connection: Connection | None = None
    ) -> str:
        """What equal values of a domain (a column) have in common, and only within the tenant.

        HMAC-SHA-256 cut to 128 bits, under a key that is never rotated: every index would change.
        """
        key = self._index_key(tenant_id, connection)
        if key is None:
            self._create(tenant_id, INDEX, None)
            key = self._key(tenant_id, INDEX, 1, connection)
        return _blinded(key, domain, value)

    def index_of(self, tenant_id: UUID) -> BlindIndex | None:
        """Makes blind indexes to search for; None where this tenant has never indexed a value."""
        key = self._index_key(tenant_id, None)
        return None if key is None else partial(_blinded, key)

    def index_now(self, tenant_id: UUID) -> BlindIndex | None:
        """The same for an event loop: None also where the key must be fetched first."""
        key = self._cache.get((tenant_id, INDEX, 1))
        return None if key is None else partial(_blinded, key)

    # -- keys -------------------------------------------------------------------------------------

    def rotate(self, tenant_id: UUID | None) -> int:
        """Make a new data key, with which all processes seal within `CURRENT_SECONDS`.

        Returns its version. The older ones go on opening what they have sealed.
        """
        with self._connection(tenant_id, None) as connection:
            newest = data_keys.newest(connection, tenant_id, SEAL)
        return self._create(tenant_id, SEAL, newest)

    def newest_version(self, tenant_id: UUID | None) -> int | None:
        """The version that seals from now on in this process; None where nothing was ever sealed.

        Raises KeyDestroyed.
        """
        self._newest.pop(tenant_id, None)
        with self._connection(tenant_id, None) as connection:
            newest = data_keys.newest(connection, tenant_id, SEAL)
        if newest is not None and newest.wrapped is None:
            raise KeyDestroyed
        return newest.version if newest is not None else None

    def rewrap(self, tenant_id: UUID | None) -> int:
        """Wrap the data keys under the current master key or KMS key. Returns how many."""
        context = context_of(tenant_id)
        with self._connection(tenant_id, None) as connection:
            keys = data_keys.living(connection, tenant_id)
            for key in keys:
                plain = self._unwrap(tenant_id, key)
                try:
                    wrapped, key_id = self.providers.current.wrap(plain, context)
                finally:
                    _wipe(plain)
                name = self.providers.current.name
                data_keys.replace_wrapping(connection, tenant_id, key, wrapped, name, key_id)
        return len(keys)

    def forget(self, tenant_id: UUID | None) -> None:
        """Drop what this process remembers of a tenant's keys."""
        self._newest.pop(tenant_id, None)
        self._cache.forget(tenant_id)

    def _sealing_version(self, tenant_id: UUID | None, connection: Connection | None) -> int:
        known = self._newest.get(tenant_id)
        if known is not None and known[0] > self._clock():
            return known[1]
        with self._connection(tenant_id, connection) as bound:
            newest = data_keys.newest(bound, tenant_id, SEAL)
        version = self._create(tenant_id, SEAL, None) if newest is None else newest.version
        if newest is not None and newest.wrapped is None:
            raise KeyDestroyed
        self._newest[tenant_id] = (self._clock() + CURRENT_SECONDS, version)
        return version

    def _index_key(self, tenant_id: UUID, connection: Connection | None) -> Any:
        """The key of the blind indexes; None where there is none yet."""
        key = self._cache.get((tenant_id, INDEX, 1))
        if key is None:
            with self._connection(tenant_id, connection) as bound:
                if data_keys.newest(bound, tenant_id, INDEX) is not None:
                    key = self._key(tenant_id, INDEX, 1, bound)
        return key

    def _key(
        self, tenant_id: UUID | None, purpose: str, version: int, connection: Connection | None
    ) -> Any:
        name = (tenant_id, purpose, version)
        key = self._cache.get(name)
        if key is not None:
            return key
        with self._connection(tenant_id, connection) as bound:
            stored = data_keys.find(bound, tenant_id, purpose, version)
        if stored is None:
            raise SealBroken(f"there is no data key {purpose} {version} of {tenant_id}")
        with self._lock(tenant_id):
            key = self._cache.get(name)
            if key is None:
                plain = self._unwrap(tenant_id, stored)
                try:
                    key = AESGCM(plain) if purpose == SEAL else hmac.new(plain, digestmod="sha256")
                finally:
                    _wipe(plain)
                self._cache.put(name, key)
        return key

    def _unwrap(self, tenant_id: UUID | None, stored: WrappedKey) -> bytearray:
        if stored.wrapped is None:
            raise KeyDestroyed
        provider = self.providers.of(stored.provider, stored.key_id)
        return provider.unwrap(stored.wrapped, stored.key_id, context_of(tenant_id))

    def _create(self, tenant_id: UUID | None, purpose: str, after: WrappedKey | None) -> int:
        """The version after `after`, made by this process or by one that was quicker.

        In a transaction of its own: what was sealed with a key that is rolled back is lost. On a
        connection of its own: who holds one of the pool must not wait here for another.
        """
        with self._database.connection_apart(tenant_id) as connection:
            data_keys.lock(connection, tenant_id, purpose)
            newest = data_keys.newest(connection, tenant_id, purpose)
            if newest is not None and newest.wrapped is None:
                raise KeyDestroyed
            if newest is not None and (after is None or newest.version > after.version):
                return newest.version
            version = 1 if newest is None else newest.version + 1
            plain, wrapped, key_id = self.providers.current.generate(context_of(tenant_id))
            _wipe(plain)
            name = self.providers.current.name
            data_keys.insert(connection, tenant_id, purpose, version, wrapped, name, key_id)
            data_keys.retire_before(connection, tenant_id, purpose, version)
        self._newest.pop(tenant_id, None)
        return version

    def _lock(self, tenant_id: UUID | None) -> threading.Lock:
        return self._locks[hash(tenant_id) % _STRIPES]

    def _is_ours(self, given: Connection) -> bool:
        """Whether the platform's keys are where this connection leads."""
        lent_by = lender_of(given)
        return lent_by is None or lent_by.url == self._database.url

    @contextmanager
    def _connection(self, tenant_id: UUID | None, given: Connection | None) -> Iterator[Connection]:
        if given is not None and (tenant_id is not None or self._is_ours(given)):
            yield given
        elif tenant_id is None:
            with self._database.platform_connection() as connection:
                yield connection
        else:
            with self._database.connection(tenant_id) as connection:
                yield connection


def normalised(value: str) -> str:
    """A number as people write it: 123-45-6789 and 123 45 6789 are one."""
    folded = unicodedata.normalize("NFKC", value).casefold()
    return "".join(filter(str.isalnum, folded)) or folded


def _blinded(key: Any, domain: str, value: str) -> str:
    code = key.copy()
    code.update(f"{domain}\0{normalised(value)}".encode())
    return BLIND + base64.urlsafe_b64encode(code.digest()[:INDEX_BYTES]).decode().rstrip("=")


def _bound(tenant_id: UUID | None, place: str) -> bytes:
    return f"{context_of(tenant_id)['tenant']}|{place}".encode()


def _parts(place: str, sealed: str) -> tuple[int, bytes]:
    try:
        prefix, version, encoded = sealed.split(":", 2)
        if prefix + ":" == PREFIX:
            return int(version), binascii.a2b_base64(encoded)
    except ValueError:
        pass
    raise SealBroken(f"what lies at {place} is not a sealed value")


def _opened(key: AESGCM, tenant_id: UUID | None, place: str, raw: bytes) -> str:
    try:
        plain = key.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _bound(tenant_id, place))
    except (InvalidTag, ValueError) as error:
        raise SealBroken(f"the sealed value of {place} does not open") from error
    return plain.decode()


def _wipe(key: bytearray) -> None:
    """Overwrite a key in clear; copies that the provider's library made are out of reach."""
    key[:] = bytes(len(key))
