"""How fast the ingest function stores CT slices of 0.3 MB, without any wire.

    .venv/bin/python -m benchmarks.ingest [--threads 8] [--instances 1600] [--durability full]

It starts its own embedded PostgreSQL in a temporary folder. Printed: instances a second, the time
of one store call, the transactions, and the processor time per instance, which stays meaningful
on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from interop.dicom import batch
from interop.dicom.ingest import Ingest, Source
from interop.dicom.spool import Spool
from storage.database import APP_ROLE, Database
from storage.embedded import OWNER_ROLE, EmbeddedPostgres
from storage.migrations import upgrade
from storage.objects import open_object_store
from storage.tenancy import Tenant, TenantDirectory

CHUNK = 1 << 17
PLACEHOLDER = "1.2.826.0.1.3680043.8.498.1" + "0" * 37


def study(instances: int) -> list[bytes]:
    """Return the files of a study of one series, different only in their SOP Instance UID."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, PLACEHOLDER
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientID, made.PatientName = made.StudyInstanceUID[-16:], "Bench^Mark"
    made.StudyDate, made.Modality = "20260101", "CT"
    made.Rows = made.Columns = 400
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    for n in range(40):
        made.add_new(0x00181000 + 2 * n, "LO", f"value {n}")
    made.PixelData = np.zeros((400, 400), "<u2").tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = PLACEHOLDER
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    raw, old = buffer.getvalue(), PLACEHOLDER.encode()
    prefix = PLACEHOLDER[:27]
    return [
        raw.replace(old, (prefix + f"{int.from_bytes(os.urandom(15), 'big'):037d}").encode())
        for _ in range(instances)
    ]


def send(
    ingest: Ingest, spool: Spool, tenant: Tenant, files: list[bytes], times: list[float]
) -> None:
    source = Source("C-STORE", "BENCH", calling_ae_title="BENCH")
    for content in files:
        writer = spool.writer()
        for at in range(0, len(content), CHUNK):
            writer.write(content[at : at + CHUNK])
        spooled = writer.finish()
        began = time.perf_counter()
        outcome = ingest.store(tenant, spooled, source)
        times.append(time.perf_counter() - began)
        if outcome.kind != "stored":
            raise SystemExit(f"not stored: {outcome.failure}")


def cpu_seconds(*roots: int) -> float:
    """Return the processor time of these processes and of what they started."""
    total = 0.0
    for root in roots:
        for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
    return total


def measure(folder: Path, threads: int, instances: int, durability: str) -> str:
    sync = "on" if durability == "full" else "off"
    cluster = EmbeddedPostgres(
        folder / "postgres", settings={"fsync": sync, "synchronous_commit": sync}
    ).start()
    owner, database = Database(cluster.url(OWNER_ROLE)), Database(cluster.url(APP_ROLE))
    spool = Spool(folder / "spool")
    objects = open_object_store(f"file://{folder}/objects", durability=durability)
    ingest = Ingest(database, objects, spool)
    transactions = [0]
    original = batch.store

    def counted(*arguments: object) -> object:
        transactions[0] += 1
        return original(*arguments)  # type: ignore[arg-type]

    batch.store = counted  # type: ignore[assignment]
    try:
        upgrade(owner.url)
        tenant = TenantDirectory(owner).create("bench", ae_title="BENCH")
        send(ingest, spool, tenant, study(5), [])
        sets = [study(instances // threads) for _ in range(threads)]
        times: list[float] = []
        workers = [
            threading.Thread(target=send, args=(ingest, spool, tenant, files, times))
            for files in sets
        ]
        transactions[0], cpu, began = 0, cpu_seconds(os.getpid()), time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took = time.perf_counter() - began
        cpu = cpu_seconds(os.getpid()) - cpu
    finally:
        ingest.close()
        spool.close()
        database.close()
        owner.close()
        cluster.stop()
    times.sort()
    count = len(times)
    return (
        f"{threads} threads, durability {durability}: {count / took:.0f} instances/s,"
        f" store p50 {times[count // 2] * 1e3:.1f} ms p99 {times[count * 99 // 100] * 1e3:.1f} ms,"
        f" {count / max(transactions[0], 1):.1f} objects a transaction,"
        f" {cpu / count * 1e3:.2f} ms of processor an instance, PostgreSQL included"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--instances", type=int, default=1600)
    parser.add_argument("--durability", choices=("full", "relaxed"), default="full")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder:
        print(measure(Path(folder), given.threads, given.instances, given.durability))


if __name__ == "__main__":
    main()
