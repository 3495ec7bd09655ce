"""Passwords: what is accepted, and how they are hashed and checked (argon2id, RFC 9106).

One hash takes 64 MiB, so a process computes two at a time and lets only a few more wait: a flood
of sign-ins is answered with 503, and never costs memory. Checking the password of a user who does
not exist computes the same hash (security.md E9).
"""

from __future__ import annotations

import os
import threading
import unicodedata
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from interop.errors import Unavailable

ALGORITHM = "ARGON2ID"
MIN_LENGTH = 12
# Enough for any passphrase; a longer one would only be work for the hash.
MAX_LENGTH = 256
CONCURRENT_HASHES = 2
MAX_WAITING = 16
WAIT_SECONDS = 10.0

# The second choice of RFC 9106 4 (64 MiB, three passes), in one lane: one thread a hash.
_hasher = argon2.PasswordHasher(
    time_cost=3, memory_cost=64 * 1024, parallelism=1, hash_len=32, salt_len=16
)
_running = threading.BoundedSemaphore(CONCURRENT_HASHES)
_queued = threading.BoundedSemaphore(CONCURRENT_HASHES + MAX_WAITING)


class PasswordRefused(ValueError):
    """The password is not one that this server accepts."""


def require_acceptable(password: str, email: str, full_name: str) -> None:
    """Raise PasswordRefused for one that is too short or made of the user's own data.

    NIST SP 800-63B 5.1.1.2: length counts, rules of composition do not.
    """
    if len(password) < MIN_LENGTH:
        raise PasswordRefused(f"the password must have at least {MIN_LENGTH} characters")
    if len(password) > MAX_LENGTH:
        raise PasswordRefused(f"the password may have at most {MAX_LENGTH} characters")
    if len(set(password)) < 4:
        raise PasswordRefused("the password must have at least 4 different characters")
    plain = _folded(password)
    for own in _own_words(email, full_name):
        # What is left beside the own word must be a password by itself.
        if own in plain and len(plain.replace(own, "")) < MIN_LENGTH - 4:
            raise PasswordRefused("the password must not be made of your name or e-mail address")


def hash_password(password: str) -> str:
    """The argon2id hash in PHC format. Raises Unavailable when too many wait already."""
    with _capacity():
        return _hasher.hash(_normal(password))


def verify_password(stored: str | None, password: str) -> bool:
    """Whether `password` is the one that was hashed; False, after the same work, for None.

    Raises Unavailable when too many wait already.
    """
    with _capacity():
        try:
            _hasher.verify(stored or _nobodys_hash(), _normal(password[: MAX_LENGTH + 1]))
        except (VerificationError, InvalidHashError):
            return False
    return stored is not None


def needs_rehash(stored: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(stored)


@cache
def _nobodys_hash() -> str:
    """A hash of today's parameters that no password has; checking it takes as long."""
    salt, digest = (b64encode(os.urandom(size)).decode().rstrip("=") for size in (16, 32))
    cost = f"m={_hasher.memory_cost},t={_hasher.time_cost},p={_hasher.parallelism}"
    return f"$argon2id$v=19${cost}${salt}${digest}"


@contextmanager
def _capacity() -> Iterator[None]:
    if not _queued.acquire(blocking=False):
        raise _busy()
    try:
        if not _running.acquire(timeout=WAIT_SECONDS):
            raise _busy()
        try:
            yield
        finally:
            _running.release()
    finally:
        _queued.release()


def _busy() -> Unavailable:
    return Unavailable(
        "too many people sign in at this moment; try again in a few seconds",
        headers={"Retry-After": "5"},
    )


def _normal(password: str) -> str:
    """The same keys typed on two systems give the same text (NIST SP 800-63B 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _own_words(email: str, full_name: str) -> list[str]:
    local, _, _ = email.partition("@")
    words = [email, local, full_name, full_name.replace(" ", ""), *full_name.split()]
    return sorted({_folded(word) for word in words if len(word) >= 4}, key=len, reverse=True)
