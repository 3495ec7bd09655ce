"""C-STORE of CBCT slices, against Debian's Orthanc, on the same files in the same run.

    python -m benchmarks.store [--rounds 3] [--slices 400] [--json FILE]

Every round runs every server once, each on an empty store, so that what else the machine does
falls on all of them. With the same durability on both sides: `full` syncs the file before the
acknowledgement, `relaxed` does not. We sync the index as well; Orthanc does only with its
PostgreSQL plugin (on the same PostgreSQL as ours), and leaves SQLite's journal to the operating
system. Senders: our own light one over 1, 4 and 8 associations, and DCMTK's unmodified storescu.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import dimse_sender, orthanc, web_corpus
from benchmarks.live_server import LiveServer
from storage.embedded import EmbeddedPostgres

ASSOCIATIONS = (1, 4, 8)
STORESCU = shutil.which("storescu")
STORESCU_FILES = 100


@dataclass
class Watch:
    """CPU time and peak memory of some processes while a run lasts."""

    processes: Callable[[], list[psutil.Process]]
    cpu_seconds: float = 0.0
    peak_bytes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        watched = self.processes()
        before = self._cpu(watched)
        thread = threading.Thread(target=self._sample, args=(watched, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.cpu_seconds = self._cpu(watched) - before

    def _sample(self, watched: list[psutil.Process], stop: threading.Event) -> None:
        while not stop.wait(0.05):
            for process in watched:
                try:
                    name, rss = process.name(), process.memory_info().rss
                except psutil.Error:
                    continue
                key = f"{name} {process.pid}"
                self.peak_bytes[key] = max(self.peak_bytes.get(key, 0), rss)

    @staticmethod
    def _cpu(watched: list[psutil.Process]) -> float:
        total = 0.0
        for process in watched:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        return total


@dataclass
class Target:
    """A server under test, started on an empty store."""

    port: int
    titles: dict[str, str]
    processes: Callable[[], list[psutil.Process]]
    main_process: Callable[[], list[psutil.Process]]


@contextmanager
def interop(folder: Path, durability: str) -> Iterator[Target]:
    """Our server's DIMSE role with the embedded PostgreSQL."""
    with ExitStack() as stack:
        server = LiveServer(folder, durability=durability)
        server.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
        for title in ("BENCH", "STORESCU"):
            server.cli("ae", "create", "--tenant", "demo", "--ae-title", title)
        server.start(role="dicom")
        stack.callback(server.stop)

        def everything() -> list[psutil.Process]:
            assert server.process is not None
            top = psutil.Process(server.process.pid)
            return [top, *top.children(recursive=True)]

        yield Target(
            server.dicom_port,
            {"called": "INTEROP"},
            everything,
            lambda: server.processes()["dicom"],
        )


@contextmanager
def peer(folder: Path, *, is_durable: bool, has_nodelay: bool) -> Iterator[Target]:
    server = orthanc.Orthanc(folder, is_durable=is_durable, has_nodelay=has_nodelay)
    with server:
        yield Target(server.dicom_port, {"called": "ORTHANC"}, server.processes, server.processes)


@contextmanager
def peer_on_postgres(folder: Path) -> Iterator[Target]:
    with (
        EmbeddedPostgres(folder / "postgres") as postgres,
        orthanc.Orthanc(folder, postgres=postgres) as server,
    ):
        yield Target(
            server.dicom_port,
            {"called": "ORTHANC"},
            server.processes,
            lambda: server.processes()[:1],
        )


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Target]]] = {
    "interop full": lambda folder: interop(folder, "full"),
    "orthanc full": lambda folder: peer(folder, is_durable=True, has_nodelay=True),
    "orthanc full, index in PostgreSQL": peer_on_postgres,
    "interop relaxed": lambda folder: interop(folder, "relaxed"),
    "orthanc relaxed": lambda folder: peer(folder, is_durable=False, has_nodelay=True),
    "orthanc full, as shipped": lambda folder: peer(folder, is_durable=True, has_nodelay=False),
}


def storescu_rate(port: int, called: str, files: list[Path]) -> float:
    """Instances per second of DCMTK's own sender, its start-up included."""
    assert STORESCU is not None
    command = [STORESCU, "-aec", called, "127.0.0.1", str(port), *map(str, files)]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return len(files) / (time.perf_counter() - began)


def run_round(files: list[Path], work: Path, names: list[str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name in names:
        for associations in ASSOCIATIONS:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                with SERVERS[name](Path(folder)) as target:
                    watch = Watch(target.processes)
                    with watch.running():
                        measured = dimse_sender.measure(
                            target.port, files, associations, **target.titles
                        )
                    rss = sum(p.memory_info().rss for p in target.main_process())
            row = {
                "server": name,
                "sender": f"x{associations}",
                "per_second": measured.per_second,
                "megabytes_per_second": measured.megabytes / measured.seconds,
                "p50_ms": measured.p50_ms,
                "p99_ms": measured.p99_ms,
                "failed": measured.failed,
                "cpu_ms_each": watch.cpu_seconds * 1000 / measured.instances,
                "rss_mb": rss / 1e6,
            }
            found.append(row)
            show(row)
        if STORESCU is not None:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                with SERVERS[name](Path(folder)) as target:
                    rate = storescu_rate(
                        target.port, target.titles["called"], files[:STORESCU_FILES]
                    )
            row = {"server": name, "sender": "storescu", "per_second": rate}
            found.append(row)
            show(row)
    return found


def show(row: dict[str, object]) -> None:
    """One line of progress; the summary alone goes to standard output."""
    numbers = " ".join(
        f"{key} {value:.1f}" for key, value in row.items() if isinstance(value, float)
    )
    print(f"{row['server']:34} {row['sender']:9} {numbers}", file=sys.stderr, flush=True)


def summary(rows: list[dict[str, object]]) -> str:
    """A table of medians with the spread, as docs/performance.md shows it."""
    senders = [f"x{n}" for n in ASSOCIATIONS] + ["storescu"]
    lines = ["| server | " + " | ".join(senders) + " | CPU ms/slice | RSS MB |"]
    lines.append("|---" * (len(senders) + 3) + "|")
    for name in dict.fromkeys(str(row["server"]) for row in rows):
        cells = []
        for sender in senders:
            rates = [
                float(str(row["per_second"]))
                for row in rows
                if row["server"] == name and row["sender"] == sender
            ]
            cells.append(
                f"{statistics.median(rates):.0f} [{min(rates):.0f}-{max(rates):.0f}]"
                if rates
                else "-"
            )
        mine = [row for row in rows if row["server"] == name and "cpu_ms_each" in row]
        cpu = statistics.median(float(str(row["cpu_ms_each"])) for row in mine)
        rss = max(float(str(row["rss_mb"])) for row in mine)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {cpu:.1f} | {rss:.0f} |")
    return "\n".join(lines)


def is_available(name: str) -> bool:
    if name.startswith("interop"):
        return True
    return orthanc.has_postgres() if "PostgreSQL" in name else orthanc.is_installed()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--json", type=Path, help="append the rows to this file")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    arguments = parser.parse_args()
    names = [n for n in arguments.servers if is_available(n)]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="interop-bench-") as work:
        corpus = web_corpus.make(Path(work) / "corpus", {"cbct": (1, arguments.slices)})
        for _ in range(arguments.rounds):
            rows += run_round(corpus[0].files, Path(work), names)
    if arguments.json is not None:
        with arguments.json.open("a") as target:
            target.writelines(json.dumps(row) + "\n" for row in rows)
    print(summary(rows))


if __name__ == "__main__":
    main()
