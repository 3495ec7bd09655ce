"""The spool holds whole objects, bounded, hashed, with a harmless preamble."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from interop.dicom.failures import Failure
from interop.dicom.filemeta import read_file_meta, write_file_meta
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
    assert spooled.dataset_sha256 == hashlib.sha256(DATA_SET).hexdigest()
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
    assert spooled.dataset_sha256 == hashlib.sha256(raw[spooled.dataset_offset :]).hexdigest()
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
