"""C-GET and C-MOVE of a study of CBCT slices, against Debian's Orthanc, on the same files.

    python -m benchmarks.retrieve_dimse [--rounds 3] [--slices 400] [--json FILE]

Both servers hold the same study and are asked in turn; each retrieval is one association that asks
for it, and a light peer that takes the objects and throws them away. The first round is not
counted. Instances per second from the request to the final response; and how soon the first object
is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import dimse_sender, orthanc, web_corpus
from benchmarks.dimse_receiver import (
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    Received,
    Requestor,
    Sink,
)
from benchmarks.live_server import LiveServer
from benchmarks.web_corpus import Study

CT = "1.2.840.10008.5.1.4.1.1.2"
OPERATIONS = ("C-GET", "C-MOVE")


@dataclass
class Target:
    """A server under test."""

    port: int
    called: str
    processes: list[psutil.Process]

    def cpu_seconds(self) -> float:
        """Of those that are still there: PostgreSQL's come and go."""
        found = 0.0
        for process in self.processes:
            with suppress(psutil.Error):
                times = process.cpu_times()
                found += times.user + times.system
        return found


@contextmanager
def interop(folder: Path, sink: Sink) -> Iterator[Target]:
    """Our server's DIMSE role with the embedded PostgreSQL."""
    server = LiveServer(folder)
    server.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
    server.cli("ae", "create", "--tenant", "demo", "--ae-title", "BENCH")
    address = ("--host", "127.0.0.1", "--port", str(sink.port))
    server.cli("ae", "create", "--tenant", "demo", "--ae-title", "SINK", *address)
    server.start(role="dicom")
    try:
        assert server.process is not None
        top = psutil.Process(server.process.pid)
        yield Target(server.dicom_port, "INTEROP", [top, *top.children(recursive=True)])
    finally:
        server.stop()


@contextmanager
def peer(folder: Path, sink: Sink) -> Iterator[Target]:
    modalities = {"sink": ["SINK", "127.0.0.1", sink.port], "bench": ["BENCH", "127.0.0.1", 1]}
    with orthanc.Orthanc(folder, is_durable=False, DicomModalities=modalities) as server:
        yield Target(server.dicom_port, "ORTHANC", server.processes())


SERVERS = {"interop": interop, "orthanc": peer}


def fill(port: int, called: str, study: Study) -> None:
    measured = dimse_sender.measure(port, study.files, 2, called=called)
    if measured.failed:
        raise RuntimeError(f"{measured.failed} objects of the study were not stored")


def retrieve(operation: str, port: int, called: str, study: str, sink: Sink) -> Received:
    """One retrieval, timed; its objects may have come to the sink."""
    if operation == "C-GET":
        requestor = Requestor(port, called, "BENCH", STUDY_ROOT_GET, (CT,))
        found = requestor.retrieve(study)
    else:
        requestor = Requestor(port, called, "BENCH", STUDY_ROOT_MOVE)
        sink.received = Received()
        answered = requestor.retrieve(study, "SINK")
        found = sink.received
        found.began, found.ended = answered.began, answered.ended
        found.status = answered.status
    requestor.release()
    return found


def measure(names: list[str], study: Study, rounds: int, work: Path) -> list[dict[str, object]]:
    """All servers hold the study; each round asks each of them in turn."""
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        targets = {}
        for name in names:
            sink = Sink()
            stack.callback(sink.close)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work)))
            target = stack.enter_context(SERVERS[name](folder, sink))
            fill(target.port, target.called, study)
            targets[name] = target, sink
        for number in range(rounds + 1):
            for operation in OPERATIONS:
                for name, (target, sink) in targets.items():
                    row = _row(name, operation, target, study, sink)
                    if number:
                        rows.append(row)
                        print(row, file=sys.stderr, flush=True)
    return rows


def _row(name: str, operation: str, target: Target, study: Study, sink: Sink) -> dict[str, object]:
    cpu = target.cpu_seconds()
    found = retrieve(operation, target.port, target.called, study.study, sink)
    cpu = target.cpu_seconds() - cpu
    seconds = found.ended - found.began
    if found.status != 0 or found.instances != len(study.files):
        raise RuntimeError(
            f"{name} {operation}: status {found.status:04X}, {found.instances} instances"
        )
    return {
        "server": name,
        "operation": operation,
        "instances": found.instances,
        "per_second": found.instances / seconds,
        "megabytes_per_second": found.byte_size / seconds / 1e6,
        "cpu_ms_each": cpu * 1000 / found.instances,
        "first_ms": (found.first_at - found.began) * 1000,
    }


def summary(rows: list[dict[str, object]]) -> str:
    """A table of medians with the spread, as docs/performance.md shows it."""

    def cell(name: str, operation: str, what: str) -> str:
        values = [
            float(str(row[what]))
            for row in rows
            if (row["server"], row["operation"]) == (name, operation)
        ]
        if what != "per_second":
            return f"{statistics.median(values):.1f}"
        return f"{statistics.median(values):.0f} [{min(values):.0f}-{max(values):.0f}]"

    columns = [
        (operation, what, unit)
        for operation in OPERATIONS
        for what, unit in (
            ("per_second", "instances/s"),
            ("cpu_ms_each", "CPU ms each"),
            ("first_ms", "first object, ms"),
        )
    ]
    lines = ["| server | " + " | ".join(f"{o} {unit}" for o, _, unit in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in dict.fromkeys(str(row["server"]) for row in rows):
        cells = (cell(name, operation, what) for operation, what, _ in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--json", type=Path, help="append the rows to this file")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    arguments = parser.parse_args()
    names = [n for n in arguments.servers if n != "orthanc" or orthanc.is_installed()]
    with tempfile.TemporaryDirectory(prefix="interop-bench-") as work:
        corpus = web_corpus.make(Path(work) / "corpus", {"cbct": (1, arguments.slices)})
        rows = measure(names, corpus[0], arguments.rounds, Path(work))
    if arguments.json is not None:
        with arguments.json.open("a") as target:
            target.writelines(json.dumps(row) + "\n" for row in rows)
    print(summary(rows))


if __name__ == "__main__":
    main()
