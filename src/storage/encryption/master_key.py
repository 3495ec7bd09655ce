"""The local master key: AES-256-GCM under 32 bytes that the operator gives or a file holds (0600).

The associated data binds a sealed value to its place, so that moving it to another row or table
makes it unreadable.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.encryption.errors import SealBroken

KEY_BYTES = 32
NONCE_BYTES = 12


class MasterKey:
    """Seals and opens short secrets."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes, this one {len(key)}")
        self._aead = AESGCM(key)
        self._derivation = hmac.digest(b"interop derivation", bytes(key), "sha256")
        # Names the key without telling anything of it: which of two keys has wrapped this?
        self.fingerprint = hashlib.sha256(b"interop master key\0" + bytes(key)).hexdigest()[:16]

    @classmethod
    def from_base64(cls, text: str) -> MasterKey:
        try:
            return cls(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise ValueError("the master key must be base64 of 32 random bytes") from error

    @classmethod
    def from_file(cls, path: Path) -> MasterKey:
        """Read the key, or make it when the file is not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls.from_base64(path.read_text(encoding="ascii").strip())
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(base64.b64encode(os.urandom(KEY_BYTES)).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return cls.from_base64(path.read_text(encoding="ascii").strip())

    def derived(self, purpose: str) -> bytes:
        """A key for one purpose, which tells nothing of this one (as RFC 5869 derives)."""
        return hmac.digest(self._derivation, purpose.encode(), "sha256")

    def seal(self, plain: str, place: str) -> str:
        return base64.b64encode(self.seal_bytes(plain.encode(), place)).decode()

    def open(self, sealed: str, place: str) -> str:
        return self.open_bytes(base64.b64decode(sealed), place).decode()

    def seal_bytes(self, plain: bytes | bytearray, place: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, place.encode())

    def open_bytes(self, sealed: bytes, place: str) -> bytes:
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"the sealed value of {place} does not open") from error
