"""The cache of unwrapped keys is bounded in number and in time."""

from __future__ import annotations

import time
import weakref
from uuid import uuid4

import pytest

from storage.encryption.cache import MAX_SECONDS, KeyCache


class Key:
    """Something that a weak reference can watch."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_oldest_key_goes_when_there_are_too_many() -> None:
    cache = KeyCache(size=2)
    names = [(uuid4(), "SEAL", 1) for _ in range(3)]
    keys = [Key() for _ in names]
    watched = weakref.ref(keys[0])

    for name, key in zip(names, keys, strict=True):
        cache.put(name, key)

    assert len(cache) == 2
    assert cache.get(names[0]) is None and cache.get(names[2]) is keys[2]
    del keys, key
    assert watched() is None, "a dropped key must be freed, which overwrites it"


def test_a_key_that_nobody_asks_for_is_dropped_in_time() -> None:
    cache = KeyCache(seconds=0.05)
    name = (uuid4(), "SEAL", 1)
    key = Key()
    watched = weakref.ref(key)
    cache.put(name, key)
    del key

    deadline = time.monotonic() + 10
    while len(cache) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert len(cache) == 0 and watched() is None


def test_the_reaper_comes_back_for_later_keys() -> None:
    cache = KeyCache(seconds=0.05)
    for _ in range(2):
        cache.put((None, "SEAL", 1), Key())
        deadline = time.monotonic() + 10
        while len(cache) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(cache) == 0


def test_an_expired_key_is_not_given_out_though_it_lies_there_still() -> None:
    clock = Clock()
    cache = KeyCache(seconds=300, clock=clock)
    cache.put((None, "SEAL", 1), Key())

    clock.now = 300.0

    assert cache.get((None, "SEAL", 1)) is None


def test_forgetting_a_tenant_leaves_the_others() -> None:
    cache = KeyCache()
    ours, theirs = (uuid4(), "SEAL", 1), (uuid4(), "SEAL", 1)
    cache.put(ours, Key())
    cache.put(theirs, Key())

    cache.forget(ours[0])

    assert cache.get(ours) is None and cache.get(theirs) is not None


def test_no_key_may_be_kept_longer_than_five_minutes() -> None:
    with pytest.raises(ValueError, match=str(MAX_SECONDS)):
        KeyCache(seconds=MAX_SECONDS + 1)
