"""FHIR writes on the real server, with token, row-level security, audit and durable commits.

wrk (Debian) makes the load on the same cores; its scripts choose what is sent. The mix is that of
the published benchmarks of FHIR servers: create 10, read 60, update 25, delete 5 of a hundred. CPU
time is that of the HTTP workers and of PostgreSQL for one request: on a machine that does other
things too it says more than the rate.

    python -m benchmarks.fhir_write [--seconds 8] [--rounds 3] [--connections 16]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil

from benchmarks.fhir import observation, patient
from benchmarks.live_server import LiveServer

# Resources that the mix reads, updates and deletes.
POPULATION = 2000
JSON = {"Content-Type": "application/fhir+json"}

_MIX = """
local base, n = "%(path)s/Basic/mix-", %(population)d
local body = [[%(body)s]]
local seeded = false
request = function()
  if not seeded then math.randomseed(os.time()); seeded = true end
  local id = math.random(n)
  local dice = math.random(100)
  if dice <= 60 then return wrk.format("GET", base .. id) end
  if dice <= 70 then return wrk.format("POST", "%(path)s/Basic", wrk.headers, body) end
  if dice <= 95 then
    local own = body:gsub('"Basic",', '"Basic","id":"mix-' .. id .. '",', 1)
    return wrk.format("PUT", base .. id, wrk.headers, own)
  end
  return wrk.format("DELETE", base .. id)
end
"""


@dataclass(frozen=True)
class Measured:
    """One row of the table: medians over the rounds."""

    name: str
    per_second: float
    p50_ms: float
    p99_ms: float
    http_cpu_ms: float
    database_cpu_ms: float


def new(resource: dict[str, Any]) -> dict[str, Any]:
    """A resource whose id the server is to choose."""
    return {key: value for key, value in resource.items() if key != "id"}


def basic() -> dict[str, Any]:
    return {
        "resourceType": "Basic",
        "identifier": [{"system": "urn:bench", "value": "mix"}],
        "code": {"coding": [{"system": "urn:bench:code", "code": "referral"}]},
        "created": "2026-05-17",
        "author": {"display": "Bench"},
    }


def transaction(entries: int) -> dict[str, Any]:
    """A new patient and what belongs to them."""
    subject = f"urn:uuid:{UUID(int=1)}"
    resources = [(subject, new(patient(1)))]
    for number in range(entries - 1):
        one = {**new(observation(number, 1)), "subject": {"reference": subject}}
        resources.append((f"urn:uuid:{UUID(int=number + 2)}", one))
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": url,
                "resource": resource,
                "request": {"method": "POST", "url": resource["resourceType"]},
            }
            for url, resource in resources
        ],
    }


def post_script(path: str, body: dict[str, Any]) -> str:
    return f'wrk.method = "POST"\nwrk.path = "{path}"\nwrk.body = [[{json.dumps(body)}]]\n'


def mix_script(path: str) -> str:
    body = json.dumps(basic(), separators=(",", ":"))
    return _MIX % {"path": path, "population": POPULATION, "body": body}


class Load:
    """Runs of wrk against a server, with the CPU time that they cost it."""

    def __init__(self, server: LiveServer, token: str, connections: int, seconds: int) -> None:
        self._server = server
        self._token = token
        self._connections = connections
        self._seconds = seconds

    def run(self, script: str) -> tuple[float, float, float, float, float]:
        """Requests per second, p50 and p99 in ms, CPU ms a request: HTTP workers, PostgreSQL."""
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            http, database = self._cpu()
            done = subprocess.run(
                ["wrk", "-t1", f"-c{self._connections}", f"-d{self._seconds}s", "--latency",
                 "-s", file.name, "-H", f"Authorization: Bearer {self._token}",
                 "-H", "Content-Type: application/fhir+json", self._server.url],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            http_after, database_after = self._cpu()
        count = int(_found(r"(\d+) requests in", done))
        rate = float(_found(r"Requests/sec:\s+([\d.]+)", done))
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
        # Of the mix, what was deleted is gone until it is written again.
        if refused is not None and int(refused[1]) > count * 0.2:
            raise RuntimeError(f"{refused[0]} of {count}")
        return (
            rate,
            _milliseconds(done, "50%"),
            _milliseconds(done, "99%"),
            (http_after - http) * 1000 / count,
            (database_after - database) * 1000 / count,
        )

    def _cpu(self) -> tuple[float, float]:
        """CPU seconds of the HTTP workers and of PostgreSQL, their ended children included."""
        assert self._server.process is not None
        http = sum(_seconds(one) for one in self._server.processes().get("http", ()))
        children = psutil.Process(self._server.process.pid).children(recursive=True)
        database = sum(_seconds(one, "postgres") for one in children)
        return http, database


def _seconds(process: psutil.Process, name: str = "") -> float:
    """CPU seconds of a process with such a name; 0 where it has ended meanwhile."""
    try:
        if not process.name().startswith(name):
            return 0.0
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk said: {text}")
    return found[1]


def _milliseconds(text: str, percentile: str) -> float:
    number, unit = re.findall(rf"{re.escape(percentile)}\s+([\d.]+)(us|ms|s)", text)[0]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def measure(server: LiveServer, token: str, arguments: argparse.Namespace) -> list[Measured]:
    path = "/t/demo/fhir/R4"
    headers = {"Authorization": f"Bearer {token}", **JSON}
    with httpx.Client(base_url=server.url + path, headers=headers, timeout=60) as client:
        owner = client.post("/Patient", json=new(patient(0))).raise_for_status().json()["id"]
        fill(client)
    subject = {"reference": f"Patient/{owner}"}
    cases = {
        "create Basic (no table)": post_script(f"{path}/Basic", basic()),
        "create Observation (a measurement)": post_script(
            f"{path}/Observation", {**new(observation(1, 1)), "subject": subject}
        ),
        "create Patient (two tables)": post_script(f"{path}/Patient", new(patient(2))),
        "transaction of 10 (Patient, 9 Observations)": post_script(path, transaction(10)),
        "mix C10 R60 U25 D5": mix_script(path),
    }
    load = Load(server, token, arguments.connections, arguments.seconds)
    rows: list[Measured] = []
    for name, script in cases.items():
        runs = [load.run(script) for _ in range(arguments.rounds)]
        medians = [statistics.median(values) for values in zip(*runs, strict=True)]
        rows.append(Measured(name, *medians))
    return rows


def fill(client: httpx.Client) -> None:
    """What the mix works on, by batches of transactions."""
    for start in range(0, POPULATION, 500):
        entries = [
            {
                "resource": {**basic(), "id": f"mix-{number}"},
                "request": {"method": "PUT", "url": f"Basic/mix-{number}"},
            }
            for number in range(start + 1, start + 501)
        ]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        client.post("", json=bundle).raise_for_status()


def table(rows: list[Measured]) -> str:
    lines = [
        "| case | requests/s | p50 ms | p99 ms | HTTP CPU ms | PostgreSQL CPU ms |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.per_second:,.0f} | {row.p50_ms:.1f} | {row.p99_ms:.1f} |"
        f" {row.http_cpu_ms:.2f} | {row.database_cpu_ms:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--workers", default="2")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    settings = {"http_workers": arguments.workers}
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder), **settings) as server:
        print(table(measure(server, server.tenant(), arguments)))


if __name__ == "__main__":
    main()
