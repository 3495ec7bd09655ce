"""Resident memory of a DIMSE and an HTTP worker while a study of 1 GB goes in and comes out.

In by C-STORE over two associations and by STOW-RS (another study), out by WADO-RS.

    python -m benchmarks.memory [--megabytes 1024]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pydicom

from benchmarks.live_server import LiveServer
from interop.demo.images import DemoStudy, write_study
from interop.demo.patients import PATIENTS, demo_uid
from interop.dimse import scu

FILE_BYTES = 6_600_000  # a panoramic of the demo


class Peak:
    """The largest resident set of each role while the block runs, in MB."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self.megabytes: dict[str, float] = {}

    def during(self, work: Callable[[], None]) -> dict[str, float]:
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(stop,))
        watcher.start()
        try:
            work()
        finally:
            stop.set()
            watcher.join()
        return dict(self.megabytes)

    def _watch(self, stop: threading.Event) -> None:
        processes = self._server.processes()
        while not stop.wait(0.05):
            for role, members in processes.items():
                # The decode child and the granian parent are not the worker that is meant.
                largest = max((_resident(member) for member in members), default=0.0)
                self.megabytes[role] = max(self.megabytes.get(role, 0.0), largest)


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0


def copies(original: Path, folder: Path, name: str, count: int) -> list[Path]:
    """Instances of one study, alike but for their UIDs."""
    dataset = pydicom.dcmread(original)
    dataset.StudyInstanceUID = demo_uid("memory", name)
    dataset.SeriesInstanceUID = demo_uid("memory", name, "series")
    paths = []
    for number in range(count):
        dataset.SOPInstanceUID = demo_uid("memory", name, number)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number + 1
        paths.append(folder / f"{name}-{number}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def multipart(paths: list[Path], boundary: str) -> Iterator[bytes]:
    for path in paths:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        yield path.read_bytes()
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def measure(server: LiveServer, token: str, count: int, folder: Path) -> list[tuple[str, str]]:
    server.cli("ae", "create", "--tenant", "demo", "--ae-title", "BENCH")
    study = DemoStudy("PX", "Panoramic", PATIENTS[0], "20261122", "M-1")
    (original,) = write_study(study, folder)
    sent = copies(original, folder, "dimse", count)
    rows = []

    def c_store() -> None:
        report = scu.send(sent, "127.0.0.1", server.dicom_port, "INTEROP", "BENCH", lambda _: None)
        assert not report.failed, report.failed[0]

    def stow() -> None:
        boundary = "memory"
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        answer = client.post(
            f"{base}/studies", content=multipart(stowed, boundary), headers={"Content-Type": kind}
        )
        assert answer.status_code == 200, answer.text

    def wado() -> None:
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        url = f"{base}/studies/{demo_uid('memory', 'dimse')}"
        size = 0
        with client.stream("GET", url, headers={"Accept": accept}) as answer:
            for chunk in answer.iter_raw(1 << 20):
                size += len(chunk)
        assert size > count * FILE_BYTES * 0.9, size

    base = f"{server.url}/t/demo/dicom-web"
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=None) as client:
        rows.append(("C-STORE in", _row(Peak(server).during(c_store))))
        for path in sent:
            path.unlink()
        stowed = copies(original, folder, "stow", count)
        rows.append(("STOW-RS in, one request", _row(Peak(server).during(stow))))
        rows.append(("WADO-RS out, one request", _row(Peak(server).during(wado))))
    return rows


def _row(peaks: dict[str, float]) -> str:
    return " | ".join(f"{peaks.get(role, 0):.0f}" for role in ("dicom", "http"))


def table(rows: list[tuple[str, str]], megabytes: int) -> str:
    lines = [f"| {megabytes} MB study | DIMSE worker, MB | HTTP worker, MB |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {values} |" for name, values in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    arguments = parser.parse_args()
    count = max(1, arguments.megabytes * 1_000_000 // FILE_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        with LiveServer(Path(folder) / "data") as server:
            rows = measure(server, server.tenant(), count, Path(folder))
            print(table(rows, arguments.megabytes))


if __name__ == "__main__":
    main()
