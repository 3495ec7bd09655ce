"""The cache of rendered images: bounded, apart for each tenant, never in the way."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from uuid import uuid4

import pytest

from interop.dicom import picture_cache
from interop.dicom.picture_cache import LARGEST_BYTES, MOST_AGE_SECONDS, PictureCache
from storage.objects.keys import new_key

TENANT, NEIGHBOUR = uuid4(), uuid4()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_put_is_got_under_its_own_key_only(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path, 1 << 20)
    key = cache.key(TENANT, "object", 1)

    cache.put(key, b"image")

    assert cache.get(key) == b"image"
    assert cache.get(cache.key(TENANT, "object", 2)) is None
    assert cache.get(cache.key(uuid4(), "object", 1)) is None
    assert PictureCache(tmp_path, 1 << 20).get(key) == b"image"


def test_what_memory_holds_is_read_at_once(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path, 1 << 20)
    key = cache.key(TENANT, "object", 1)

    assert cache.at_once(key) is None
    cache.put(key, b"image")

    assert cache.at_once(key) == b"image"
    assert PictureCache(tmp_path, 0).at_once(key) is None


@pytest.mark.parametrize("why", [errno.EAGAIN, errno.EOPNOTSUPP])
def test_what_the_disk_holds_is_waited_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    cache = PictureCache(tmp_path, 1 << 20)
    key = cache.key(TENANT, "object", 1)
    cache.put(key, b"image")
    read = os.preadv

    def preadv(file: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        if flags:
            raise OSError(why, "not now")
        return read(file, buffers, offset, flags)

    monkeypatch.setattr(picture_cache, "_NOWAIT", 8)
    monkeypatch.setattr(os, "preadv", preadv)

    with pytest.raises(BlockingIOError):
        cache.at_once(key)
    assert cache.get(key) == b"image"


def test_the_oldest_make_room(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path, 10_000)
    keys = [cache.key(TENANT, str(n)) for n in range(40)]

    for age, key in enumerate(keys):
        cache.put(key, bytes(1000))
        written = tmp_path / key
        if written.exists():
            os.utime(written, (time.time() - 100 + age, time.time() - 100 + age))

    assert sum(path.stat().st_size for path in files(tmp_path)) <= 10_000
    assert cache.get(keys[-1]) is not None
    assert cache.get(keys[0]) is None


def test_what_is_old_is_neither_given_nor_kept(tmp_path: Path) -> None:
    old, new = PictureCache.key(TENANT, "old"), PictureCache.key(TENANT, "new")
    PictureCache(tmp_path, 1 << 20).put(old, b"image")
    then = time.time() - MOST_AGE_SECONDS - 1
    os.utime(tmp_path / old, (then, then))
    cache = PictureCache(tmp_path, 1 << 20)

    assert cache.get(old) is None
    cache.put(new, b"image")

    assert files(tmp_path) == [tmp_path / new]


def test_nothing_is_kept_where_the_limit_is_none_or_the_image_too_large(tmp_path: Path) -> None:
    key = PictureCache.key(TENANT, "object")

    PictureCache(tmp_path, 0).put(key, b"image")
    PictureCache(tmp_path, 1 << 30).put(key, bytes(LARGEST_BYTES + 1))
    PictureCache(tmp_path, 100).put(key, bytes(101))

    assert files(tmp_path) == []
    assert PictureCache(tmp_path, 0).get(key) is None


def test_a_disk_that_fails_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PictureCache(tmp_path, 1 << 20)
    key = cache.key(TENANT, "object")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picture_cache.Path, "write_bytes", full)
    cache.put(key, b"image")

    assert cache.get(key) is None


def test_images_of_an_object_are_found_and_forgotten_together(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path, 1 << 20)
    gone, other = (new_key(TENANT) for _ in range(2))
    first, second = (cache.key(TENANT, gone, frame) for frame in (1, 2))
    kept, elsewhere = cache.key(TENANT, other, 1), cache.key(NEIGHBOUR, gone, 1)
    for key in (first, second, kept, elsewhere):
        cache.put(key, b"image")

    assert set(cache.tenants()) == {TENANT, NEIGHBOUR}
    assert cache.storage_keys(TENANT) == {gone, other}
    cache.forget(TENANT, {gone})

    assert [cache.get(key) for key in (first, second)] == [None, None]
    assert [cache.get(key) for key in (kept, elsewhere)] == [b"image"] * 2
    assert cache.storage_keys(uuid4()) == set()
