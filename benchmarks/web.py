"""DICOMweb against Debian's Orthanc on the same files in the same run: medians and ratios.

    .venv/bin/python benchmarks/web.py [--rounds 3] [--quick] [--out docs/performance-web.md]

Rounds alternate between the servers, so that a busy moment of the machine hits both. Orthanc
listens on every address, so the whole run moves into a network namespace of its own where it may
(`unshare`), with only a loopback device.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import web_client
import web_corpus
from web_client import Figures
from web_corpus import Study
from web_servers import Running, move_apart, orthanc, orthanc_on_postgres, ours

JSON = "application/dicom+json"
DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
OCTETS = 'multipart/related; type="application/octet-stream"'
JPEG = "image/jpeg"

Case = Callable[[Running], Figures]


def of(studies: list[Study], kind: str) -> list[Study]:
    return [study for study in studies if study.kind == kind]


def reading_cases(studies: list[Study], seconds: float) -> dict[str, Case]:
    """Everything that is asked once the files are stored."""

    def get(paths: list[str], accept: str, jobs: int = 1, count: int = 10**6) -> Case:
        return lambda server: web_client.get(
            server.base, server.headers, paths, accept, jobs=jobs, seconds=seconds, count=count
        )

    tiny, io = of(studies, "tiny"), of(studies, "io")
    (cbct,), (multiframe,) = of(studies, "cbct"), of(studies, "multiframe")
    slices = [cbct.path(n) for n in range(len(cbct.sops))]
    frames = [f"{multiframe.path(0)}/frames/{n}" for n in range(1, 401, 7)]
    series = f"/studies/{cbct.study}/series/{cbct.series}"
    by_uid = [f"/studies?StudyInstanceUID={study.study}" for study in tiny]
    return {
        "QIDO study by UID": get(by_uid, JSON),
        "QIDO study by UID, 4 clients": get(by_uid, JSON, 4),
        "QIDO study by PatientID": get([f"/studies?PatientID={s.patient_id}" for s in tiny], JSON),
        "QIDO list of 25": get(["/studies?limit=25"], JSON),
        "QIDO list of 25, 4 clients": get(["/studies?limit=25"], JSON, 4),
        "QIDO list of 25, offset 90 %": get(
            [f"/studies?limit=25&offset={len(tiny) * 9 // 10}"], JSON
        ),
        "QIDO PatientName=NGU*, 25": get(["/studies?PatientName=NGU*&limit=25"], JSON),
        "QIDO instances of a study of 10": get(
            [f"/studies/{s.study}/instances" for s in tiny], JSON
        ),
        "metadata of a CT slice": get([f"{path}/metadata" for path in slices], JSON),
        "metadata of a series of 400": get([f"{series}/metadata"], JSON),
        "frame of a CT slice": get([f"{path}/frames/1" for path in slices], OCTETS),
        "frame of 400 in one object": get(frames, OCTETS),
        "frame of 400 in one object, 4 clients": get(frames, OCTETS, 4),
        "instance, CT slice 0.3 MB": get(slices, DICOM),
        "instance, CT slice 0.3 MB, 4 clients": get(slices, DICOM, 4),
        "instance, IO 2.5 MB": get([s.path(0) for s in io], DICOM),
        "instance, IO 2.5 MB, 4 clients": get([s.path(0) for s in io], DICOM, 4),
        "instance of 128 MB": get([multiframe.path(0)], DICOM, 1, 8),
        "series of 400 slices, 128 MB": get([series], DICOM, 1, 8),
        "rendered IO": get([f"{s.path(0)}/rendered" for s in io], JPEG),
    }


def storing_cases(studies: list[Study]) -> dict[str, Case]:
    """What fills the stores, measured while it does; each file is sent once."""

    def stow(files: list[Path], jobs: int, each: int) -> Case:
        return lambda server: web_client.stow(
            server.base, server.headers, files, jobs=jobs, each=each
        )

    io = [file for study in of(studies, "io") for file in study.files]
    (cbct,), (multiframe,) = of(studies, "cbct"), of(studies, "multiframe")
    tiny = [file for study in of(studies, "tiny") for file in study.files]
    half = len(io) // 2
    return {
        "STOW IO 2.5 MB, one a request": stow(io[:half], 1, 1),
        "STOW IO 2.5 MB, one a request, 4 clients": stow(io[half:], 4, 1),
        "STOW CT slices, one a request": stow(cbct.files[:200], 1, 1),
        "STOW CT slices, 20 a request": stow(cbct.files[200:], 1, 20),
        "STOW 128 MB object": stow(multiframe.files, 1, 1),
        "STOW small, 20 a request, 4 clients": stow(tiny, 4, 20),
    }


def in_and_out(server: Running, folder: Path) -> str:
    """A study of a gigabyte in one request, and back in one answer; the memory that it took."""
    (study,) = web_corpus.make(folder / "large", {"io": (1, 400)}, seed=2)
    before = server.peak_bytes
    size = sum(file.stat().st_size for file in study.files)
    stored = measure(
        "STOW 1 GB, one request",
        lambda at: web_client.stow(at.base, at.headers, study.files, each=400),
        server,
    )
    read = measure(
        "study of 1 GB",
        lambda at: web_client.get(at.base, at.headers, [f"/studies/{study.study}"], DICOM, count=1),
        server,
    )
    assert set(stored.statuses) == set(read.statuses) == {200}
    return (
        f"A study of {size / 1e9:.2f} GB in one request in and out: largest resident set of a "
        f"process of ours {server.peak_bytes / 1e6:.0f} MB ({before / 1e6:.0f} MB before); in at "
        f"{stored.megabytes_per_second:.0f} MB/s, out at {read.megabytes_per_second:.0f} MB/s."
    )


def measure(name: str, case: Case, server: Running) -> Figures:
    spent = server.cpu_seconds()
    figures = case(server)
    figures.cpu_ms = (server.cpu_seconds() - spent) * 1000 / sum(figures.statuses.values())
    print(
        f"{server.name:10} {name:44} {figures.p50_ms:9.2f} ms {figures.per_second:9.1f}/s"
        f" {figures.megabytes_per_second:8.1f} MB/s {figures.cpu_ms:8.2f} ms CPU"
        f"  {figures.statuses}",
        flush=True,
    )
    if set(figures.statuses) != {200}:
        raise SystemExit(f"{server.name}: {name}: not every answer was 200: {figures.statuses}")
    return figures


def report(results: dict[str, dict[str, list[Figures]]], servers: list[Running]) -> str:
    """A markdown table of medians; the last columns are how many times ours is faster."""
    mine, *peers = [server.name for server in servers]
    names = [mine, *peers]
    heads = [f"{n} p50 ms" for n in names] + [f"{n} CPU ms" for n in names]
    heads += [f"times {peer}" for peer in peers]
    lines = [f"| case | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, by_server in results.items():
        p50 = [_median(by_server[n], "p50_ms") for n in names]
        cpu = [_median(by_server[n], "cpu_ms") for n in names]
        rate = [_median(by_server[n], "per_second") for n in names]
        cells = [f"{value:.2f}" for value in (*p50, *cpu)]
        cells += [f"{rate[0] / other:.1f}" for other in rate[1:]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    memory = ", ".join(f"{s.name} {s.peak_bytes / 1e6:.0f} MB" for s in servers)
    return "\n".join([*lines, "", f"Largest resident set of one process: {memory}."])


def _median(figures: list[Figures], name: str) -> float:
    return statistics.median(getattr(found, name) for found in figures)


def run(options: argparse.Namespace, folder: Path) -> str:
    tiny = 100 if options.quick else 1000
    plan = {"io": (96, 1), "cbct": (1, 400), "multiframe": (1, 1), "tiny": (tiny, 10)}
    studies = web_corpus.make(folder / "files", plan)
    results: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        mine = stack.enter_context(ours(folder / "ours", options.app, options.workers))
        servers = [mine]
        if not options.only_ours:
            servers.append(stack.enter_context(orthanc(folder / "orthanc")))
            servers.append(stack.enter_context(orthanc_on_postgres(folder / "orthanc-postgres")))
        for name, case in storing_cases(studies).items():
            for server in servers:
                results[name][server.name].append(measure(name, case, server))
        for _ in range(options.rounds):
            for name, case in reading_cases(studies, options.seconds).items():
                if options.case in name:
                    for server in servers:
                        results[name][server.name].append(measure(name, case, server))
        lines = [report(results, servers)]
        if options.gigabyte:
            lines.append(in_and_out(mine, folder))
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--app", default="interop.app:create")
    parser.add_argument("--case", default="", help="only reading cases with this in their name")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--quick", action="store_true", help="1,000 small instances, not 10,000")
    parser.add_argument("--gigabyte", action="store_true", help="also a 1 GB study in and out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    move_apart()
    with tempfile.TemporaryDirectory(prefix="web-bench-") as folder:
        table = run(options, Path(folder))
    print(table)
    if options.out is not None:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
