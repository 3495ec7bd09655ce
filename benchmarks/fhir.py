"""FHIR read, search and create on the real server with token, row-level security and audit on.

No peer stands beside it: Orthanc has no FHIR. wrk (Debian) makes the load on the same two cores.

    python -m benchmarks.fhir [--seconds 5] [--patients 500]
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx

from benchmarks.live_server import LiveServer

CONNECTIONS = (1, 16)
ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """One row of the table: medians over the rounds."""

    name: str
    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float


def patient(number: int) -> dict[str, object]:
    return {
        "resourceType": "Patient",
        "id": str(UUID(int=number + 1)),
        "identifier": [{"system": "urn:bench", "value": f"B-{number}"}],
        "name": [{"family": f"Family{number % 97}", "given": ["Bench"]}],
        "birthDate": f"19{number % 90 + 10}-01-{number % 28 + 1:02}",
        "gender": "female" if number % 2 else "male",
    }


def observation(number: int, patients: int) -> dict[str, object]:
    return {
        "resourceType": "Observation",
        "id": str(UUID(int=1_000_000 + number)),
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": f"85{number % 40:02}-1"}]},
        "subject": {"reference": f"Patient/{UUID(int=number % patients + 1)}"},
        "effectiveDateTime": f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}",
        "valueQuantity": {"value": number % 200 / 10, "unit": "mm", "code": "mm",
                          "system": "http://unitsofmeasure.org"},
    }  # fmt: skip


def fill(base: str, token: str, patients: int) -> float:
    """PUT the resources over four connections; return resources per second."""
    resources = [patient(n) for n in range(patients)]
    resources += [observation(n, patients) for n in range(3 * patients)]
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(headers=headers, timeout=60) as client:

        def put(resource: dict[str, object]) -> None:
            url = f"{base}/{resource['resourceType']}/{resource['id']}"
            answer = client.put(url, json=resource)
            answer.raise_for_status()

        started = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(put, resources))
        return len(resources) / (time.perf_counter() - started)


def load(url: str, token: str, connections: int, seconds: int) -> tuple[float, float, float]:
    """One run of wrk: requests per second, p50 and p99 in milliseconds."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
         "-H", f"Authorization: Bearer {token}", url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in done:
        raise RuntimeError(f"{url} did not answer 200: {done}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1])  # type: ignore[index]
    return rate, _milliseconds(done, "50%"), _milliseconds(done, "99%")


def _milliseconds(text: str, percentile: str) -> float:
    found = re.search(rf"{re.escape(percentile)}\s+([\d.]+)(us|ms|s)", text)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def measure(server: LiveServer, token: str, patients: int, seconds: int) -> list[Measured]:
    base = f"{server.url}/t/demo/fhir/R4"
    rate = fill(base, token, patients)
    rows = [Measured("create (PUT), Patient and Observation", 4, rate, 0.0, 0.0)]
    subject = UUID(int=7)
    cases = {
        "read Patient": f"{base}/Patient/{subject}",
        "search Observation?patient&code, 10": (
            f"{base}/Observation?patient={subject}&code=http://loinc.org%7C8506-1&_count=10"
        ),
        "search Patient?name, 10": f"{base}/Patient?name=family12&_count=10",
        "search Observation?patient&_include, 10": (
            f"{base}/Observation?patient={subject}&_include=Observation:patient&_count=10"
        ),
    }
    for name, url in cases.items():
        for connections in CONNECTIONS:
            runs = [load(url, token, connections, seconds) for _ in range(ROUNDS)]
            medians = [statistics.median(values) for values in zip(*runs, strict=True)]
            rows.append(Measured(name, connections, *medians))
    return rows


def table(rows: list[Measured]) -> str:
    lines = ["| case | connections | requests/s | p50 ms | p99 ms |", "|---|---|---|---|---|"]
    for row in rows:
        times = f"{row.p50_ms:.1f} | {row.p99_ms:.1f}" if row.p50_ms else "- | -"
        lines.append(f"| {row.name} | {row.connections} | {row.per_second:,.0f} | {times} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--patients", type=int, default=500)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder)) as server:
        print(table(measure(server, server.tenant(), arguments.patients, arguments.seconds)))


if __name__ == "__main__":
    main()
