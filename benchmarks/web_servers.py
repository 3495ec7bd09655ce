"""The two servers of the web benchmark as processes: ours with all it does, Debian's Orthanc.

Both sync files. Of Orthanc there are two: with SQLite, as shipped, whose index is not synced, and
with its index in PostgreSQL, which is as durable as ours. It gets `TCP_NODELAY=1`, without which it
waits 40 ms for a delayed ACK, and no authentication; ours checks a token, writes an audit row for
each request and runs under row-level security.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil

from benchmarks.orthanc import Orthanc
from interop.access import Scopes
from interop.services import open_tokens
from interop.settings import Settings
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrations import upgrade
from storage.tenancy import TenantDirectory


@dataclass
class Running:
    """A server under load: where it is, and the memory of its processes."""

    name: str
    base: str
    headers: dict[str, str]
    pid: int
    database_pid: int | None = None
    peak_bytes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        """Note the largest resident set of any one process: a worker is what has a budget.

        The kernel keeps each process's peak; to look often would cost the servers a third of a CPU.
        """
        while not self.stop.wait(1.0):
            for process in self._processes(self.pid):
                self.peak_bytes = max(self.peak_bytes, peak_of(process.pid))

    def cpu_seconds(self) -> float:
        """What its processes have used so far, the database's and those that ended included."""
        spent = 0.0
        for process in self._processes(self.pid, self.database_pid):
            try:
                spent += sum(process.cpu_times()[:4])
            except psutil.Error:
                continue
        return spent

    @staticmethod
    def _processes(*pids: int | None) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for pid in pids:
            try:
                top = psutil.Process(pid) if pid is not None else None
                found += [top, *top.children(recursive=True)] if top is not None else []
            except psutil.Error:
                continue
        return found


def peak_of(pid: int) -> int:
    """The largest resident set that a process has had, in bytes; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(argv: list[str], port: int, log: Path, env: dict[str, str]) -> Iterator[int]:
    """Run a server until the block ends."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            argv, stdout=out, stderr=out, env=os.environ | env, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start; see {log}") from None
                time.sleep(0.05)
        yield child.pid
    finally:
        try:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@dataclass(frozen=True)
class Started:
    """Our server, with the database open to its owner too."""

    root: str
    headers: dict[str, str]
    pid: int
    database_pid: int | None
    owner_url: str
    tenant_id: UUID


@contextmanager
def started(folder: Path, app: str, workers: int) -> Iterator[Started]:
    """Embedded PostgreSQL, local objects, granian workers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with EmbeddedPostgres(folder / "postgres") as postgres:
        upgrade(postgres.owner_url)
        owner = Database(postgres.owner_url)
        tenant = TenantDirectory(owner).create("bench", ae_title="BENCH")
        owner.close()
        settings = Settings(
            data_dir=folder,
            database_url=postgres.app_url,
            http_port=port,
            http_workers=workers,
            public_url=url,
        )
        database = Database(postgres.app_url)
        scopes = Scopes.parse("system/*.cruds")
        token = open_tokens(settings, database).issue(tenant, None, "benchmark", scopes)
        database.close()
        argv = [
            sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--host",
            "127.0.0.1", "--port", str(port), "--workers", str(workers), "--loop", "uvloop",
            "--log-level", "warning", app,
        ]  # fmt: skip
        env = {
            "INTEROP_DATA_DIR": str(folder),
            "INTEROP_DATABASE_URL": postgres.app_url,
            "INTEROP_HTTP_PORT": str(port),
            "INTEROP_PUBLIC_URL": url,
        }
        with process(argv, port, folder / "http.log", env) as pid:
            bearer = {"Authorization": f"Bearer {token}"}
            root = f"{url}/t/bench/dicom-web"
            yield Started(root, bearer, pid, postgres.pid, postgres.owner_url, tenant.id)


@contextmanager
def ours(folder: Path, app: str, workers: int) -> Iterator[Running]:
    """The same, its memory watched."""
    with started(folder, app, workers) as server:
        running = Running("ours", server.root, server.headers, server.pid, server.database_pid)
        yield running
        running.stop.set()


@contextmanager
def orthanc(folder: Path) -> Iterator[Running]:
    """Debian's Orthanc with its DICOMweb plugin and, as shipped, an index that is not synced."""
    with Orthanc(folder) as server:
        yield from _peer("Orthanc", server)


@contextmanager
def orthanc_on_postgres(folder: Path) -> Iterator[Running]:
    """The same with its index in PostgreSQL: as durable as ours."""
    with (
        EmbeddedPostgres(folder / "postgres") as postgres,
        Orthanc(folder, postgres=postgres) as server,
    ):
        yield from _peer("Orthanc/PG", server, postgres.pid)


def _peer(name: str, server: Orthanc, database_pid: int | None = None) -> Iterator[Running]:
    assert server.process is not None
    running = Running(name, server.dicom_web, {}, server.process.pid, database_pid)
    yield running
    running.stop.set()


def move_apart() -> None:
    """Go on in a network namespace of our own, where that can be had; a SIGTERM ends it cleanly."""
    signal.signal(signal.SIGTERM, _end)
    if "WEB_BENCH_NAMESPACE" not in os.environ and os.geteuid() == 0 and shutil.which("unshare"):
        os.environ["WEB_BENCH_NAMESPACE"] = "1"
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        os.execvp(command[0], [*command, sys.executable, *sys.argv])


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
