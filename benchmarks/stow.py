"""STOW-RS rates against Debian's Orthanc, on the same files in the same run, as durable as ours.

    python -m benchmarks.stow [--rounds 3] [--files 400] [--only-ours] [--out FILE]

Small instances (1 KB) and CT slices (0.3 MB), one and twenty a request, by one client and by four.
Every file is sent once; rounds alternate between the servers. Orthanc is measured with its index
in PostgreSQL, which syncs as ours does; ours also checks a token, writes its audit rows and runs
under row-level security.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import web_client
import web_corpus
from web_client import Figures
from web_servers import Running, orthanc_on_postgres, ours

from benchmarks.orthanc import has_postgres

# In a database that has no statistics yet every index of a tenant seems equally good to PostgreSQL,
# also for foreign keys; nobody's store stays that young. Autovacuum comes every 15 s.
WARM_UP_FILES = 100
STATISTICS_SECONDS = 20

CASES = [(kind, each, jobs) for kind in ("tiny", "cbct") for each in (1, 20) for jobs in (1, 4)]
NAMES = {"tiny": "small", "cbct": "CT slice"}


def measure(server: Running, files: list[Path], each: int, jobs: int) -> Figures:
    """Send the files; the rate is in instances."""
    spent = server.cpu_seconds()
    found = web_client.stow(server.base, server.headers, files, jobs=jobs, each=each)
    if set(found.statuses) != {200}:
        raise SystemExit(f"{server.name}: not every answer was 200: {found.statuses}")
    found.cpu_ms = (server.cpu_seconds() - spent) * 1000 / len(files)
    found.per_second *= each
    return found


def run(options: argparse.Namespace, folder: Path) -> str:
    """All rounds; the table of medians."""
    results: dict[tuple[str, int, int], dict[str, list[Figures]]] = defaultdict(
        lambda: defaultdict(list)
    )
    with ExitStack() as stack:
        servers = [stack.enter_context(ours(folder / "ours", options.app, 1))]
        if not options.only_ours and has_postgres():
            servers.append(stack.enter_context(orthanc_on_postgres(folder / "orthanc")))
        [young] = web_corpus.make(folder / "young", {"tiny": (1, WARM_UP_FILES)}, seed=0)
        for server in servers:
            web_client.stow(server.base, server.headers, young.files, jobs=1, each=20)
        time.sleep(STATISTICS_SECONDS)
        count = options.files
        for number in range(options.rounds):
            # Each case has files of its own: what is stored already would be a duplicate.
            plan = {"tiny": (4 * max(1, count // 10), 10), "cbct": (4, count)}
            made = web_corpus.make(folder / f"round{number}", plan, seed=number + 1)
            for kind, each, jobs in CASES:
                files = [file for study in made if study.kind == kind for file in study.files]
                share = len(files) // 4
                at = [(1, 1), (1, 4), (20, 1), (20, 4)].index((each, jobs)) * share
                for server in servers:
                    found = measure(server, files[at : at + share], each, jobs)
                    results[kind, each, jobs][server.name].append(found)
                    line = f"{server.name:12} {NAMES[kind]:9} {each:3} a request, {jobs} clients:"
                    print(
                        f"{line} {found.per_second:7.0f} instances/s, {found.p50_ms:6.2f} ms,"
                        f" {found.cpu_ms:5.2f} ms CPU each", file=sys.stderr, flush=True,
                    )  # fmt: skip
        return table(results, [server.name for server in servers])


def table(results: dict[tuple[str, int, int], dict[str, list[Figures]]], names: list[str]) -> str:
    head = " | ".join(f"{name}, instances/s (CPU ms each)" for name in names)
    lines = [f"| STOW | {head} | ratio |", "|---" * (len(names) + 2) + "|"]
    for (kind, each, jobs), found in results.items():
        rates = [statistics.median(f.per_second for f in found[name]) for name in names]
        cpu = [statistics.median(f.cpu_ms for f in found[name]) for name in names]
        cells = [f"{rate:.0f} ({ms:.2f})" for rate, ms in zip(rates, cpu, strict=True)]
        ratio = f"{rates[0] / rates[1]:.2f}" if len(rates) > 1 else "-"
        name = f"{NAMES[kind]}, {each} a request, {jobs} client{'s' if jobs > 1 else ''}"
        lines.append(" | ".join([f"| {name}", *cells, f"{ratio} |"]))
    return "\n".join(lines)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--app", default="interop.app:create")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stow-bench-") as folder:
        found = run(options, Path(folder))
    print(found)
    if options.out is not None:
        options.out.write_text(found + os.linesep)


if __name__ == "__main__":
    main()
