"""The real server as a process: for benchmarks and for the tests that need all of it.

It is started as a user starts it, by `interop serve`, on free ports of the loopback interface and
in a folder of its own, as the leader of a process group that can be ended as one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

READY_SECONDS = 180.0  # on a machine that does much else
CLI = [sys.executable, "-m", "interop.cli"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LiveServer:
    """`interop serve` with its data folder."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.http_port, self.dicom_port = free_port(), free_port()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("INTEROP_")},
            "INTEROP_DATA_DIR": str(data_dir),
            "INTEROP_HTTP_PORT": str(self.http_port),
            "INTEROP_DICOM_PORT": str(self.dicom_port),
            **{f"INTEROP_{name.upper()}": value for name, value in settings.items()},
        }
        self.process: subprocess.Popen[str] | None = None
        self.log = data_dir / "server.log"

    def beside(self, data_dir: Path) -> LiveServer:
        """Another server of the same installation: same settings and ports, own data folder."""
        other = LiveServer(data_dir)
        other.http_port, other.dicom_port = self.http_port, self.dicom_port
        other.environment = {**self.environment, "INTEROP_DATA_DIR": str(data_dir)}
        return other

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self, role: str = "all") -> Self:
        """Start and wait for the ready line. Raises RuntimeError with the log's end."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*CLI, "serve", "--role", role],
                env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("ready"):
            self.process.wait(READY_SECONDS)
            tail = self.log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"the server did not start: {line}{tail}")
        return self

    def stop(self) -> None:
        """End it as an operator does."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self._close_output()

    def kill(self) -> None:
        """End every process of it at once, as a power cut of the machine's processes would."""
        assert self.process is not None
        victims = [psutil.Process(self.process.pid)]
        victims += victims[0].children(recursive=True)
        for victim in victims:
            try:
                os.kill(victim.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(30)
        psutil.wait_procs(victims, timeout=30)
        self._close_output()

    def _close_output(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def cli(self, *arguments: str) -> str:
        """Run an `interop` command against this server's settings; return its output."""
        done = subprocess.run(
            [*CLI, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"interop {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def tenant(self, slug: str = "demo", ae_title: str = "INTEROP") -> str:
        """Create a tenant; return a token for it."""
        self.cli("tenant", "create", slug, "--ae-title", ae_title)
        return self.cli("token", "--tenant", slug).strip()

    def client(self, slug: str, scope: str) -> dict[str, Any]:
        made = self.cli("client", "create", "--tenant", slug, "--name", "test", "--scope", scope)
        return dict(json.loads(made))

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The server's processes by role: http, dicom, worker."""
        assert self.process is not None
        found: dict[str, list[psutil.Process]] = {}
        for child in psutil.Process(self.process.pid).children():
            words = child.cmdline()
            if "interop.roles" in words:
                found[words[-1]] = [child, *child.children(recursive=True)]
        return found

    def wait_for(self, condition: Any, seconds: float = 60.0, every: float = 0.1) -> Any:
        """Poll `condition` until it is truthy; return it. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(every)
        raise TimeoutError(f"not so within {seconds} s")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
