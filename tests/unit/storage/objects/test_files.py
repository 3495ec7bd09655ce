"""What only the local store meets: crashes, full disks, other file systems."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from storage.objects import ObjectExists, ObjectStoreFull, ObjectStoreUnavailable
from storage.objects.files import TEMPORARY, LocalObjectStore
from storage.objects.keys import new_key

SOURCE = Path(__file__).parents[4] / "src"
SHM = Path("/dev/shm")
WRITE_FOR_EVER = """
import hashlib, sys
from pathlib import Path
from storage.objects.files import LocalObjectStore
store = LocalObjectStore(Path(sys.argv[1]))
n = 0
while True:
    data = hashlib.sha256(str(n).encode()).digest() * 20_000
    if n % 2:
        store.put_bytes(f"tenant/{sys.argv[3]}/{n}", data)
    else:
        spooled = Path(sys.argv[2]) / str(n)
        spooled.write_bytes(data)
        store.put_file(f"tenant/{sys.argv[3]}/{n}", spooled)
    print(n, flush=True)
    n += 1
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


def test_file_of_the_same_file_system_is_moved_and_not_copied(
    store: LocalObjectStore, tmp_path: Path
) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"data")
    inode = path.stat().st_ino

    store.put_file("a/b", path)

    found = store.local_path("a/b")
    assert found is not None and found.stat().st_ino == inode


def test_file_of_another_file_system_is_copied(store: LocalObjectStore) -> None:
    if not SHM.is_dir() or SHM.stat().st_dev == store.root.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    path = SHM / f"interop-test-{uuid4()}"
    path.write_bytes(b"data" * 1000)

    store.put_file("a/b", path, hashlib.sha256(b"data" * 1000).hexdigest())

    assert store.get("a/b") == b"data" * 1000
    assert not path.exists()
    assert list((store.root / TEMPORARY).iterdir()) == []


def test_copy_from_another_file_system_never_replaces(store: LocalObjectStore) -> None:
    if not SHM.is_dir() or SHM.stat().st_dev == store.root.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    store.put_bytes("a/b", b"first")
    path = SHM / f"interop-test-{uuid4()}"
    path.write_bytes(b"second")

    try:
        with pytest.raises(ObjectExists):
            store.put_file("a/b", path)
        assert path.exists()
    finally:
        path.unlink()
    assert store.get("a/b") == b"first"


def test_symbolic_link_is_no_source(store: LocalObjectStore, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/etc/passwd")

    with pytest.raises(FileNotFoundError):
        store.put_file("a/b", link)


def test_killed_writer_leaves_whole_objects_and_nothing_that_the_sweep_keeps(
    tmp_path: Path,
) -> None:
    root, spool = tmp_path / "objects", tmp_path / "spool"
    spool.mkdir()
    acknowledged: set[str] = set()
    for attempt in range(5):
        acknowledged |= write_until_killed(root, spool, f"attempt{attempt}")

    store = LocalObjectStore(root)
    found = {entry.key for entry in store.list("tenant/")}
    store.remove_abandoned(datetime.now(UTC) + timedelta(hours=1))

    assert acknowledged and acknowledged <= found
    for key in found:
        number = key.rpartition("/")[2]
        assert store.get(key) == hashlib.sha256(number.encode()).digest() * 20_000
    assert list((root / TEMPORARY).iterdir()) == []


def write_until_killed(root: Path, spool: Path, folder: str) -> set[str]:
    """Return the keys that the writer said were stored."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, os.fspath(root), os.fspath(spool), folder],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": os.fspath(SOURCE)},
    )
    assert writer.stdout is not None
    first = writer.stdout.readline()
    time.sleep(0.05 + int.from_bytes(os.urandom(1)) / 2000)
    writer.send_signal(signal.SIGKILL)
    # A line cut short by the kill acknowledges nothing.
    rest, _ = writer.communicate()
    return {f"tenant/{folder}/{line}" for line in (first + rest).split("\n")[:-1]}


def test_only_old_temporary_files_are_removed(store: LocalObjectStore) -> None:
    old, young = store.root / TEMPORARY / "old", store.root / TEMPORARY / "young"
    for path in (old, young):
        path.write_bytes(b"half a write")
    os.utime(old, (time.time() - 7200,) * 2)

    removed = store.remove_abandoned(datetime.now(UTC) - timedelta(hours=1))

    assert removed == 1
    assert (old.exists(), young.exists()) == (False, True)


def test_temporary_files_are_never_listed(store: LocalObjectStore) -> None:
    (store.root / TEMPORARY / "half").write_bytes(b"half a write")
    store.put_bytes("a/b", b"data")

    assert [found.key for found in store.list("")] == ["a/b"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_full_disk_is_said_to_be_full_and_works_again_when_it_is_not(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small])
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        store = LocalObjectStore(small / "objects")
        store.put_bytes("a/first", bytes(500_000))

        with pytest.raises(ObjectStoreFull):
            store.put_bytes("a/second", bytes(900_000))

        assert len(store.get("a/first")) == 500_000
        assert list((store.root / TEMPORARY).iterdir()) == []
        store.delete("a/first")
        store.put_bytes("a/second", bytes(900_000))
    finally:
        subprocess.run(["umount", small], check=True)


def test_broken_folder_is_an_outage_and_not_a_missing_object(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(ObjectStoreUnavailable, match="Input/output error"):
        store.put_bytes(new_key(uuid4()), b"data")


def test_object_is_durable_before_the_call_returns(
    store: LocalObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"data")
    synced: list[int] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    inode = path.stat().st_ino

    store.put_file("tenant/hour/object", path)

    folders = [store.root, store.root / "tenant", store.root / "tenant" / "hour"]
    assert inode in synced
    assert {folder.stat().st_ino for folder in folders} <= set(synced)
    assert synced[-1] == folders[-1].stat().st_ino


def test_folder_that_another_process_made_is_made_durable_once_by_this_one(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Made, but not yet synced by its maker: a crash now would take the folder away.
    (store.root / "tenant" / "hour").mkdir(parents=True)
    synced: list[int] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    above = {store.root.stat().st_ino, (store.root / "tenant").stat().st_ino}

    store.put_bytes("tenant/hour/first", b"data")
    at_first = set(synced)
    synced.clear()
    store.put_bytes("tenant/hour/second", b"data")

    assert above <= at_first
    assert not above & set(synced)


def test_folder_that_was_removed_and_made_anew_is_made_durable_again(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_bytes("tenant/hour/first", b"data")
    (store.root / "tenant" / "hour").rename(store.root / "elsewhere")
    (store.root / "tenant" / "hour").mkdir()
    synced: list[int] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)

    store.put_bytes("tenant/hour/second", b"data")

    assert (store.root / "tenant").stat().st_ino in synced


@pytest.mark.parametrize("is_made_before", [True, False])
def test_store_behind_a_symbolic_link_works(tmp_path: Path, is_made_before: bool) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    if is_made_before:
        (tmp_path / "disk" / "objects").mkdir()

    store = LocalObjectStore(tmp_path / "link" / "objects")
    store.put_bytes("tenant/hour/object", b"data")

    assert (tmp_path / "disk" / "objects" / "tenant" / "hour" / "object").read_bytes() == b"data"
