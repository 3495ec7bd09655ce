"""What can go wrong with a sealed value.

EncryptionError
 +- SealBroken         the value was moved or changed, or was sealed under another key
 +- KeysUnavailable    the key provider does not answer, or may not: passes when it does again
 +- KeyDestroyed       the keys were destroyed on purpose (crypto-shred): never opens again

Each of them ends the read or write that needs the value: nothing is stored in clear instead, and
nothing is shown in place of what does not open.
"""

from __future__ import annotations


class EncryptionError(Exception):
    """A sealed value cannot be written or read."""


class SealBroken(EncryptionError):
    """A sealed value does not open: wrong key, or the value was moved or changed."""


class KeysUnavailable(EncryptionError):
    """The service that keeps the encryption keys does not answer."""


class KeyDestroyed(EncryptionError):
    """The keys of this tenant were destroyed; what they sealed cannot be opened by anybody."""
