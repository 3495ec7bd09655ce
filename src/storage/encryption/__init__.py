"""Envelope encryption: values under data keys of their tenant, those under a master or KMS key."""

from __future__ import annotations

from storage.encryption.columns import SEALED, open_row, place, seal_row
from storage.encryption.errors import EncryptionError, KeyDestroyed, KeysUnavailable, SealBroken
from storage.encryption.master_key import KEY_BYTES, MasterKey
from storage.encryption.shredding import shred

__all__ = [
    "KEY_BYTES",
    "SEALED",
    "EncryptionError",
    "KeyDestroyed",
    "KeysUnavailable",
    "MasterKey",
    "SealBroken",
    "open_row",
    "place",
    "seal_row",
    "shred",
]
