"""The keys that sign what this installation issues, and the JWKS that it publishes (RFC 7517).

Access tokens are signed with ES256; id_tokens with RS256, which OpenID Connect Core 15.1 makes
mandatory. Keys lie in `signing_keys`, the private part sealed under the master key, so that every
process and machine signs and verifies alike. A new key is published before it signs: by then each
process, and each client that reads the JWKS now and then, knows it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from joserfc.jwk import ECKey, KeyParameters, KeySet, RSAKey

from storage.database import Connection, Database
from storage.encryption import MasterKey

ACCESS_TOKEN_ALGORITHM = "ES256"  # noqa: S105 - the name of an algorithm
ID_TOKEN_ALGORITHM = "RS256"  # noqa: S105
ALGORITHMS = (ACCESS_TOKEN_ALGORITHM, ID_TOKEN_ALGORITHM)
# How old what a process knows of the keys may become; an unknown kid is looked up sooner.
REFRESH_SECONDS = 5.0
RELOAD_SECONDS = 2.0
# Longer than REFRESH_SECONDS: a key signs only when every process has read it.
SETTLE_SECONDS = 10.0
LEEWAY_SECONDS = 60  # reliability.md R18: clocks of two machines differ
# Any constant serves; it keeps two first processes from making two keys.
_KEY_LOCK = 0x1A7E_0001

Key = ECKey | RSAKey


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as read from the database, with what decides whether it signs."""

    kid: str
    algorithm: str
    key: Key
    is_retired: bool
    settled_at: float  # on this process's monotonic clock

    @property
    def is_settled(self) -> bool:
        return time.monotonic() >= self.settled_at


class SigningKeys:
    """The key ring of one installation, as this process knows it."""

    def __init__(self, database: Database, master_key: MasterKey) -> None:
        self._database = database
        self._master_key = master_key
        self._keys: dict[str, StoredKey] = {}
        self._loaded_at = -1e9
        self._loading = threading.Lock()

    def signing(self, algorithm: str) -> Key:
        """The key to sign with; made when the installation has none yet."""
        self.refresh()
        if not self._current(algorithm):
            self._create_missing()
        newest_first = self._current(algorithm)
        settled = (stored.key for stored in newest_first if stored.is_settled)
        return next(settled, newest_first[-1].key)

    def verifying(self, algorithm: str, kid: str | None) -> KeySet:
        """Every key of `algorithm` that may have signed a valid token."""
        self.refresh()
        # Anybody can name a key that does not exist; that must not become a query each time.
        if kid not in self._keys:
            self._load_if_older(RELOAD_SECONDS)
        return KeySet([stored.key for stored in self._of(algorithm)])

    @property
    def is_stale(self) -> bool:
        """True when what this process knows of the keys is too old to rely on."""
        return time.monotonic() - self._loaded_at > REFRESH_SECONDS

    def refresh(self) -> None:
        """Read the keys again if what is known of them is stale."""
        if self.is_stale:
            self._load_if_older(REFRESH_SECONDS)

    def verifies(self, kid: str) -> bool:
        """True while the key may have signed a valid token, as far as this process knows."""
        return kid in self._keys

    def public(self) -> dict[str, Any]:
        """The JWKS: current keys and those that retire, public parts only."""
        self.refresh()
        if not all(self._current(algorithm) for algorithm in ALGORITHMS):
            self._create_missing()
        return {"keys": [stored.key.as_dict(private=False) for stored in self._keys.values()]}

    def rotate(self, lifetime_seconds: int, *, at_once: bool = False) -> list[str]:
        """Make new keys and retire the old; returns the new key ids.

        Old keys verify until the last token that they signed has expired; `at_once`, for a key
        that became known, ends every token that is out there.
        """
        grace = 0.0 if at_once else SETTLE_SECONDS + lifetime_seconds + LEEWAY_SECONDS
        with self._locked() as connection:
            connection.execute(
                "UPDATE signing_keys SET retired_at = coalesce(retired_at, now()),"
                " verifies_until = least(verifies_until, now() + make_interval(secs => %s))"
                " WHERE verifies_until IS NULL OR verifies_until > now()",
                (grace,),
            )
            made = [self._insert(connection, algorithm) for algorithm in ALGORITHMS]
            self._read(connection)
        return made

    # -- what is stored ---------------------------------------------------------------------

    def _of(self, algorithm: str) -> list[StoredKey]:
        return [stored for stored in self._keys.values() if stored.algorithm == algorithm]

    def _current(self, algorithm: str) -> list[StoredKey]:
        """Keys that may sign, newest first: retired ones still do until the new have settled."""
        keys = self._of(algorithm)
        if all(stored.is_retired for stored in keys):
            return []
        return keys

    def _load_if_older(self, seconds: float) -> None:
        # Who comes while another thread reads waits for what it finds.
        with self._loading:
            if time.monotonic() - self._loaded_at > seconds:
                with self._database.platform_connection() as connection:
                    self._read(connection)

    def _read(self, connection: Connection) -> None:
        now = time.monotonic()
        rows = connection.execute(
            "SELECT kid, algorithm, private_jwk, retired_at IS NOT NULL,"
            " extract(epoch FROM clock_timestamp() - created_at)::float8 FROM signing_keys"
            " WHERE verifies_until IS NULL OR verifies_until > now() ORDER BY created_at DESC, kid"
        ).fetchall()
        known = self._keys
        self._keys = {
            kid: StoredKey(
                kid,
                algorithm,
                known[kid].key if kid in known else self._opened(kid, algorithm, sealed),
                is_retired,
                now - age + SETTLE_SECONDS,
            )
            for kid, algorithm, sealed, is_retired, age in rows
        }
        self._loaded_at = now

    def _opened(self, kid: str, algorithm: str, sealed: str) -> Key:
        jwk = json.loads(self._master_key.open(sealed, place_of(kid)))
        kind = ECKey if algorithm == ACCESS_TOKEN_ALGORITHM else RSAKey
        key: Key = kind.import_key(jwk)
        return key

    def _create_missing(self) -> None:
        with self._locked() as connection:
            self._read(connection)
            for algorithm in ALGORITHMS:
                if not self._current(algorithm):
                    self._insert(connection, algorithm)
            self._read(connection)

    def _insert(self, connection: Connection, algorithm: str) -> str:
        kid = str(uuid4())
        parameters: KeyParameters = {"kid": kid, "use": "sig", "alg": algorithm}
        key: Key = (
            ECKey.generate_key("P-256", parameters)
            if algorithm == ACCESS_TOKEN_ALGORITHM
            else RSAKey.generate_key(2048, parameters)
        )
        connection.execute(
            "INSERT INTO signing_keys (kid, algorithm, private_jwk, public_jwk)"
            " VALUES (%s, %s, %s, %s)",
            (
                kid,
                algorithm,
                self._master_key.seal(json.dumps(key.as_dict(private=True)), place_of(kid)),
                json.dumps(key.as_dict(private=False)),
            ),
        )
        return kid

    @contextmanager
    def _locked(self) -> Iterator[Connection]:
        """A connection in which no other process makes keys at the same time."""
        with self._database.platform_connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_KEY_LOCK,))
            yield connection


def place_of(kid: str) -> str:
    """What the seal of a private key is bound to."""
    return f"signing_keys.private_jwk:{kid}"
