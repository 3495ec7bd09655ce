"""The spool holds whole objects, bounded, hashed, with a harmless preamble."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from xxhash import xxh3_128

from interop.dicom.failures import LIMIT_EXCEEDED, Failure
from interop.dicom.filemeta import FileMeta, read_file_meta, write_file_meta
from interop.dicom.spool import Spool, SpoolLimitExceeded

DATA_SET = b"\x08\x00\x16\x00UI\x04\x001.2\x00" + bytes(300)


@pytest.mark.parametrize("chunk", [1, 7, 100, 10_000])
def test_preamble_is_zeroed_and_digests_are_of_the_stored_bytes(tmp_path: Path, chunk: int) -> None:
    spool = Spool(tmp_path)
    meta = write_file_meta("1.2.3", "1.2.3.4", "1.2.840.10008.1.2.1", "SENDER")
    sent = b"MZ" + b"\x90" * 126 + meta[128:] + DATA_SET
    writer = spool.writer()

    for at in range(0, len(sent), chunk):
        writer.write(sent[at : at + chunk])
    spooled = writer.finish()

    stored = spooled.path.read_bytes()
    assert stored == bytes(128) + sent[128:]
    assert spooled.sha256 == hashlib.sha256(stored).hexdigest()
    assert spooled.dataset_hash == xxh3_128(DATA_SET).hexdigest()
    assert spooled.dataset_offset == len(meta)
    assert spooled.byte_size == len(stored)


def test_tiff_preamble_is_kept_only_when_asked(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    sent = b"II*\0" + bytes(124) + write_file_meta("1.2", "1.3", "1.2.840.10008.1.2")[128:]
    sent += DATA_SET

    kept = spool.writer(keep_tiff_preamble=True)
    kept.write(sent)
    zeroed = spool.writer()
    zeroed.write(sent)

    assert kept.finish().path.read_bytes() == sent
    assert zeroed.finish().path.read_bytes()[:4] == bytes(4)


def test_written_meta_is_what_pydicom_reads(tmp_path: Path) -> None:
    import pydicom

    writer = Spool(tmp_path).writer()
    writer.write_meta("1.2.840.10008.5.1.4.1.1.7", "1.2.3.4.5", "1.2.840.10008.1.2.1", "AET")
    writer.write(b"\x08\x00\x18\x00UI\x0a\x001.2.3.4.5\x00")
    spooled = writer.finish()

    data_set = pydicom.dcmread(spooled.path)
    assert data_set.file_meta.MediaStorageSOPInstanceUID == "1.2.3.4.5"
    assert data_set.file_meta.SourceApplicationEntityTitle == "AET"
    assert data_set.SOPInstanceUID == "1.2.3.4.5"
    raw = spooled.path.read_bytes()
    assert spooled.dataset_hash == xxh3_128(raw[spooled.dataset_offset :]).hexdigest()
    assert read_file_meta(raw, complete=True).dataset_offset == spooled.dataset_offset


def test_object_over_the_limit_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    writer = Spool(tmp_path, object_limit=1000).writer()
    writer.write(DATA_SET)

    with pytest.raises(SpoolLimitExceeded) as caught:
        for _ in range(3):
            writer.write(DATA_SET)
    writer.abort()

    assert caught.value.dicom_status & 0xFF00 == 0xA700
    assert not writer.path.exists()


def test_stream_without_a_data_set_is_refused(tmp_path: Path) -> None:
    writer = Spool(tmp_path).writer()
    writer.write(write_file_meta("1.2", "1.3", "1.2.840.10008.1.2"))

    with pytest.raises(Failure):
        writer.finish()

    assert not writer.path.exists()


def test_clean_removes_only_what_dead_processes_left(tmp_path: Path) -> None:
    alive, mine = Spool(tmp_path), Spool(tmp_path)
    dead = tmp_path / "process-dead"
    dead.mkdir()
    (dead / ".lock").touch()
    (dead / "orphan").write_bytes(b"x")
    writer = alive.writer()
    writer.write(DATA_SET)

    removed = mine.clean()

    assert removed == 1
    assert not dead.exists()
    writer.finish()


def long_meta(elements: int, length: int) -> bytes:
    element = pack("<HH2sHI", 2, 0x0102, b"OB", 0, length) + bytes(length)
    return write_file_meta("1.2", "1.3", "1.2.840.10008.1.2") + element * elements


def test_head_in_small_pieces_is_read_a_few_times_and_not_at_every_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def counted(head: bytes, *, complete: bool) -> FileMeta:
        looks.append(len(head))
        return read_file_meta(head, complete=complete)

    monkeypatch.setattr("interop.dicom.spool.read_file_meta", counted)
    sent = long_meta(200, 150) + DATA_SET
    writer = Spool(tmp_path).writer()

    for at in range(0, len(sent), 16):
        writer.write(sent[at : at + 16])
    spooled = writer.finish()

    assert spooled.path.read_bytes() == sent
    assert spooled.dataset_offset == len(sent) - len(DATA_SET)
    assert len(looks) < 20


def test_meta_group_of_many_elements_is_refused(tmp_path: Path) -> None:
    writer = Spool(tmp_path).writer()

    with pytest.raises(Failure) as caught:
        writer.write(long_meta(300, 2) + DATA_SET)
    writer.abort()

    assert caught.value.reason == LIMIT_EXCEEDED.reason


def test_head_that_is_held_back_counts_against_the_limit(tmp_path: Path) -> None:
    writer = Spool(tmp_path, object_limit=1000).writer()
    sent = long_meta(8, 200) + DATA_SET

    with pytest.raises(SpoolLimitExceeded):
        for at in range(0, len(sent), 16):
            writer.write(sent[at : at + 16])
    writer.abort()


def test_folder_is_never_seen_without_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    cleaner = Spool(tmp_path)

    def clean_first(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH:
            cleaner.clean()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", clean_first)
    writer = Spool(tmp_path).writer()
    writer.write(DATA_SET)

    assert writer.finish().path.is_file()


def test_clean_removes_copies_that_were_left_and_keeps_those_in_use(tmp_path: Path) -> None:
    alive, mine = Spool(tmp_path), Spool(tmp_path)
    names = ("transcoded-a", "fetched-b", ".process-c", "process-d")
    for name in names:
        for folder in (tmp_path / name, tmp_path / f"{name}-young"):
            folder.mkdir()
            (folder / "copy").write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)

    with alive.temporary_folder() as folder:
        (folder / "copy").write_bytes(b"x")
        removed = mine.clean()
        assert (folder / "copy").exists()

    assert not folder.exists()
    assert removed == len(names)
    assert not any((tmp_path / name).exists() for name in names)
    assert all((tmp_path / f"{name}-young").exists() for name in names)


def test_temporary_folder_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    dead, mine = Spool(tmp_path), Spool(tmp_path)
    made = dead.temporary_folder()
    (made.__enter__() / "copy").write_bytes(b"x")
    os.close(dead._lock)

    assert mine.clean() == 1
    assert list(tmp_path.rglob("copy")) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["statvfs", "open", "write", "close"])
def test_disk_that_fails_is_a_failure_that_asks_to_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    spool = Spool(tmp_path)
    real = getattr(os, call)
    failures = [OSError(number, "said by a test")]

    def fail(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, fail)

    with pytest.raises(Failure) as caught:
        writer = spool.writer()
        writer.write_meta("1.2", "1.3", "1.2.840.10008.1.2")
        writer.write(DATA_SET)
        writer.finish()

    assert caught.value.dicom_status == 0xA700
