"""FHIR search on the real server: token, row-level security and audit on, by number of resources.

wrk (Debian) makes the load on the same cores, and asks of each kind for many values in turn, so
that no page is asked for twice in a row. The rows are written by benchmarks.fhir_rows.

    python -m benchmarks.fhir_search [--sizes 10000,100000,1000000] [--seconds 5] [--only token]
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from benchmarks.fhir_rows import CODES, FAMILIES, Corpus, identity, load
from benchmarks.live_server import LiveServer
from storage.embedded import OWNER_ROLE, EmbeddedPostgres

CONNECTIONS = (1, 16)
ROUNDS = 3
VARIANTS = 200

SCRIPT = """
local paths = {{ {paths} }}
local at = 0
request = function()
  at = at % #paths + 1
  return wrk.format("GET", paths[at])
end
done = function(summary, latency)
  for _, p in ipairs({{50, 95, 99}}) do
    io.write(string.format("percentile %d %f\\n", p, latency:percentile(p) / 1000))
  end
end
"""


@dataclass(frozen=True)
class Measured:
    """One row of the table: medians over the rounds."""

    resources: int
    name: str
    connections: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def cases(corpus: Corpus) -> dict[str, Callable[[int], str]]:
    """Kinds of search, each as the n-th URL of its kind. Every page has at most 10 matches."""

    def patient(number: int) -> str:
        return identity(3, number * 37 % corpus.patients)

    def doctor(number: int) -> int:
        return number * 7 % corpus.practitioners

    def family(number: int) -> str:
        return FAMILIES[number % len(FAMILIES)].lower()

    def common(number: int) -> str:
        return CODES[number % len(CODES)][0]

    def rare(number: int) -> str:
        return f"9{number:03}-1"

    return {
        "token, common code": lambda n: f"Observation?code=http://loinc.org|{common(n)}",
        "token, rare code": lambda n: f"Observation?code=http://loinc.org|{rare(n)}",
        "token, identifier": lambda n: f"Observation?identifier=urn:bench:obs|O{n}",
        "token, three codes": lambda n: f"Observation?code={common(n)},{rare(n)},{rare(n + 1)}",
        "reference and token": lambda n: f"Observation?patient={patient(n)}&code={common(n)}",
        "string": lambda n: f"Patient?name={family(n)}{n}",
        "by date, newest first": lambda n: f"Observation?patient={patient(n)}&_sort=-date",
        "all of a code, newest first": lambda n: f"Observation?code={common(n)}&_sort=-date",
        "include": lambda n: f"Observation?code={common(n)}&_include=Observation:patient",
        "chain, few": lambda n: f"Observation?patient.identifier=urn:bench:mrn|M{n}",
        "chain, many": lambda n: f"Observation?subject:Patient.name={family(n)}",
        "chain of three": lambda n: (
            f"Observation?patient.general-practitioner.identifier=N{doctor(n)}"
        ),
        "chain and token": lambda n: (
            f"Observation?subject:Patient.name={family(n)}&code={rare(n)}"
        ),
        "_has, few": lambda n: f"Patient?_has:Observation:patient:code={rare(n)}",
        "_has, many": lambda n: f"Patient?_has:Observation:patient:code={common(n)}",
        "_has over a chain": lambda n: (
            f"Patient?_has:Observation:patient:performer.identifier=N{doctor(n)}"
        ),
        "compartment": lambda n: f"Patient/{patient(n)}/*?",
    }  # fmt: skip


def measure(
    server: LiveServer, token: str, resources: int, seconds: int, only: str
) -> list[Measured]:
    rows: list[Measured] = []
    for name, make in cases(Corpus(resources)).items():
        if only not in name:
            continue
        paths = [
            f"/t/demo/fhir/R4/{quote(make(n), safe='/?=&:*')}&_count=10" for n in range(VARIANTS)
        ]
        for connections in CONNECTIONS:
            runs = [run_wrk(server.url, token, paths, connections, seconds) for _ in range(ROUNDS)]
            medians = [statistics.median(values) for values in zip(*runs, strict=True)]
            rows.append(Measured(resources, name, connections, *medians))
            print(line(rows[-1]), file=sys.stderr, flush=True)
    return rows


def run_wrk(
    url: str, token: str, paths: list[str], connections: int, seconds: int
) -> tuple[float, float, float, float]:
    """One run: requests per second; p50, p95 and p99 in milliseconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        listed = ", ".join(f'"{path}"' for path in paths)
        script.write(SCRIPT.format(paths=listed))
        script.flush()
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name,
             "-H", f"Authorization: Bearer {token}", url],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    if "Non-2xx" in done:
        raise RuntimeError(f"{paths[0]} did not answer 200: {done}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1])  # type: ignore[index]
    found = dict(re.findall(r"percentile (\d+) ([\d.]+)", done))
    return rate, float(found["50"]), float(found["95"]), float(found["99"])


def fill(server: LiveServer, resources: int) -> float:
    """Write the rows into the tenant `demo`; return resources per second."""
    postgres = EmbeddedPostgres(server.data_dir).start()
    try:
        owner = postgres.url(OWNER_ROLE)
        with psycopg.connect(owner) as connection:
            row = connection.execute("SELECT id FROM tenants WHERE slug = 'demo'").fetchone()
        assert row is not None
        started = time.perf_counter()
        written = load(owner, row[0], Corpus(resources).make())
        return written / (time.perf_counter() - started)
    finally:
        postgres.stop()


def line(row: Measured) -> str:
    times = f"{row.p50_ms:.1f} | {row.p95_ms:.1f} | {row.p99_ms:.1f}"
    return (
        f"| {row.resources:,} | {row.name} | {row.connections} | {row.per_second:,.0f} | {times} |"
    )


def table(rows: list[Measured]) -> str:
    head = "| resources | search of 10 | connections | requests/s | p50 ms | p95 ms | p99 ms |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *map(line, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", default="", help="a part of the name of a kind of search")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    rows: list[Measured] = []
    for size in map(int, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder)) as server:
            token = server.tenant()
            print(f"{fill(server, size):,.0f} resources/s written", file=sys.stderr)
            rows += measure(server, token, size, arguments.seconds, arguments.only)
    print(table(rows))


if __name__ == "__main__":
    main()
