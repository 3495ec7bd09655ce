"""What every object store promises, asked of each of them."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from storage.objects import ChecksumMismatch, ObjectExists, ObjectNotFound, ObjectStore
from storage.objects.keys import new_key

LARGE = (64 << 20) + 12345


def make_file(folder: Path, data: bytes) -> Path:
    path = folder / f"spooled-{uuid4()}"
    path.write_bytes(data)
    return path


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def key() -> str:
    return new_key(uuid4())


def test_file_comes_back_byte_for_byte(store: ObjectStore, key: str, tmp_path: Path) -> None:
    data = os.urandom(300_000)

    store.put_file(key, make_file(tmp_path, data), sha256_of(data))

    assert store.get(key) == data


def test_stored_file_is_consumed(store: ObjectStore, key: str, tmp_path: Path) -> None:
    path = make_file(tmp_path, b"DICM")

    store.put_file(key, path)

    assert not path.exists()


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
def test_bytes_come_back(store: ObjectStore, key: str, data: bytes) -> None:
    store.put_bytes(key, data, sha256_of(data))

    assert store.get(key) == data
    assert store.stat(key).size == len(data)


def test_object_larger_than_one_request_comes_back(
    store: ObjectStore, key: str, tmp_path: Path
) -> None:
    data = os.urandom(1 << 20) * (LARGE >> 20) + os.urandom(LARGE & 0xFFFFF)

    store.put_file(key, make_file(tmp_path, data), sha256_of(data))

    digest = hashlib.sha256()
    for chunk in store.open_range(key):
        digest.update(chunk)
    assert digest.hexdigest() == sha256_of(data)
    assert store.get_range(key, LARGE - 10, 100) == data[-10:]


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, 0), (10, 90), (99_990, 10), (99_990, 11), (99_999, 500), (100_000, 1), (10**9, 5)],
)
def test_range_is_what_a_slice_is(store: ObjectStore, key: str, offset: int, length: int) -> None:
    data = os.urandom(100_000)
    store.put_bytes(key, data)

    assert store.get_range(key, offset, length) == data[offset : offset + length]
    assert b"".join(store.open_range(key, offset, length)) == data[offset : offset + length]


def test_open_range_gives_chunks_of_the_size_asked_for(store: ObjectStore, key: str) -> None:
    data = os.urandom(100_000)
    store.put_bytes(key, data)

    chunks = list(store.open_range(key, 5, chunk=30_000))

    assert b"".join(chunks) == data[5:]
    assert max(map(len, chunks)) <= 30_000


def test_range_may_be_left_unfinished(store: ObjectStore, key: str) -> None:
    store.put_bytes(key, os.urandom(1_000_000))

    first = next(iter(store.open_range(key, chunk=1000)))
    store.open_range(key)

    assert len(first) == 1000


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -5)])
def test_negative_range_is_refused(store: ObjectStore, key: str, offset: int, length: int) -> None:
    store.put_bytes(key, b"data")

    with pytest.raises(ValueError, match="must not be negative"):
        store.get_range(key, offset, length)


def test_missing_object_is_said_to_be_missing(store: ObjectStore, key: str) -> None:
    with pytest.raises(ObjectNotFound):
        store.get(key)
    with pytest.raises(ObjectNotFound):
        store.get_range(key, 0, 10)
    with pytest.raises(ObjectNotFound):
        store.get_range(key, 0, 0)
    with pytest.raises(ObjectNotFound):
        store.stat(key)
    with pytest.raises(ObjectNotFound):
        store.open_range(key)


def test_object_is_never_replaced(store: ObjectStore, key: str, tmp_path: Path) -> None:
    store.put_bytes(key, b"first")
    path = make_file(tmp_path, b"second")

    with pytest.raises(ObjectExists):
        store.put_file(key, path)
    with pytest.raises(ObjectExists):
        store.put_bytes(key, b"third")

    assert store.get(key) == b"first"
    assert path.read_bytes() == b"second"


def test_one_of_many_writers_of_one_key_wins(store: ObjectStore, key: str) -> None:
    gate = threading.Barrier(8)

    def write(number: int) -> bool:
        gate.wait()
        try:
            store.put_bytes(key, bytes([number]) * 50_000)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))

    assert won.count(True) == 1
    assert store.get(key) == bytes([won.index(True)]) * 50_000


def test_many_threads_write_and_read_their_own_objects(store: ObjectStore) -> None:
    tenant_id = uuid4()

    def round_trip(_: int) -> bool:
        key, data = new_key(tenant_id), os.urandom(20_000)
        store.put_bytes(key, data, sha256_of(data))
        return store.get_range(key, 100, 500) == data[100:600]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(60)))
    assert len(list(store.list(f"{tenant_id}/"))) == 60


def test_wrong_checksum_stores_nothing(store: ObjectStore, key: str, tmp_path: Path) -> None:
    path = make_file(tmp_path, b"these bytes")

    with pytest.raises(ChecksumMismatch):
        store.put_file(key, path, sha256_of(b"other bytes"))
    with pytest.raises(ChecksumMismatch):
        store.put_bytes(key, b"these bytes", sha256_of(b"other bytes"))

    assert list(store.list("")) == []
    assert path.read_bytes() == b"these bytes"


@pytest.mark.parametrize("size", [200_000, LARGE])
def test_truncated_source_stores_nothing(
    store: ObjectStore, key: str, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    path = make_file(tmp_path, data[:-1])

    with pytest.raises(ChecksumMismatch):
        store.put_file(key, path, sha256_of(data))

    assert list(store.list("")) == []


def test_source_that_is_not_there_is_no_object_error(
    store: ObjectStore, key: str, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file(key, tmp_path / "never-written")


def test_deleted_object_is_gone_and_may_be_deleted_again(store: ObjectStore, key: str) -> None:
    store.put_bytes(key, b"data")

    store.delete(key)
    store.delete(key)

    with pytest.raises(ObjectNotFound):
        store.get(key)
    store.put_bytes(key, b"written again")
    assert store.get(key) == b"written again"


def test_listing_finds_what_starts_with_the_prefix(store: ObjectStore) -> None:
    keys = ["a/1/x", "a/1/y", "a/10/z", "ab/1/x", "b/1/x"]
    for key in keys:
        store.put_bytes(key, key.encode())

    def names(prefix: str) -> list[str]:
        return sorted(found.key for found in store.list(prefix))

    assert names("") == keys
    assert names("a/") == ["a/1/x", "a/1/y", "a/10/z"]
    assert names("a/1/") == ["a/1/x", "a/1/y"]
    assert names("a/1") == ["a/1/x", "a/1/y", "a/10/z"]
    assert names("a/1/x") == ["a/1/x"]
    assert names("nobody/") == []


def test_listing_reaches_past_one_page(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put_bytes(f"many/{n}", b"x"), range(1010)))

    assert len({found.key for found in store.list("many/")}) == 1010


def test_stat_tells_size_and_time(store: ObjectStore, key: str) -> None:
    store.put_bytes(key, b"12345")

    found = store.stat(key)

    assert (found.key, found.size) == (key, 5)
    assert abs(found.modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert [entry.size for entry in store.list(key)] == [5]


@pytest.mark.parametrize(
    "bad",
    [
        "../outside",
        "a/../../outside",
        "/etc/passwd",
        "a//b",
        "a/./b",
        "a/b/",
        "",
        ".tmp/x",
        "a\x00b",
        "a\\b",
        "a b",
        "é",
        "a\n",
        "a" * 600,
    ],
)
def test_key_that_could_leave_the_store_is_refused(
    store: ObjectStore, bad: str, tmp_path: Path
) -> None:
    path = make_file(tmp_path, b"data")

    for call in (
        lambda: store.put_bytes(bad, b"data"),
        lambda: store.put_file(bad, path),
        lambda: store.get(bad),
        lambda: store.get_range(bad, 0, 1),
        lambda: store.open_range(bad),
        lambda: store.stat(bad),
        lambda: store.delete(bad),
        lambda: store.local_path(bad),
    ):
        with pytest.raises(ValueError, match="object key"):
            call()
    assert path.exists()


@pytest.mark.parametrize("bad", ["..", "../", "/", "a/../", ".tmp/", "a\x00"])
def test_prefix_that_could_leave_the_store_is_refused(store: ObjectStore, bad: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        list(store.list(bad))
