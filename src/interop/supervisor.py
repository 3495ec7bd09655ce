"""`interop serve`: one process that keeps the others alive.

It starts the embedded PostgreSQL when no other is named, migrates, then starts HTTP, DIMSE and
job workers as children that die with it. A child that ends by itself is started again; all state
is in PostgreSQL and the object store, so any role may run many times on many machines.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from interop.connections import open_key_providers
from interop.dimse.endpoints import NoEndpoint, endpoints
from interop.dimse.tls import TlsConfigurationError, TlsFiles
from interop.settings import Settings
from storage import migrations
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.encryption.vault import Vault
from storage.objects import open_object_store

if TYPE_CHECKING:
    from storage.partitions.upgrading import Upgraded

logger = logging.getLogger(__name__)

ROLES = ("http", "dicom", "worker")
READY_SECONDS = 90.0
STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1


class StartFailed(Exception):
    """The server could not start."""


@dataclass
class Child:
    """One role's process, started again with growing delay while it keeps ending."""

    role: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    not_before: float = field(default=0.0)

    def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "interop.roles", self.role],
            env={**os.environ, **self.environment},
            preexec_fn=_die_with_parent,
        )

    def revive(self) -> None:
        """Start again if it ended, not more often than its failures permit."""
        if self.process is None or self.process.poll() is None:
            return
        now = time.monotonic()
        if self.not_before == 0.0:
            self.failures += 1
            self.not_before = now + min(30.0, 0.25 * 2**self.failures)
            logger.error(
                "role_ended", extra={"role": self.role, "exit_code": self.process.returncode}
            )
        if now >= self.not_before:
            self.not_before = 0.0
            self.start()


def _die_with_parent() -> None:
    """In the child: SIGTERM when the supervisor dies, kill -9 included (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class RunningDatabase:
    """A migrated database: the settings that reach it as application, the URL of its owner."""

    settings: Settings
    owner_url: str


@contextmanager
def running_database(settings: Settings) -> Iterator[RunningDatabase]:
    """The database of `settings`, migrated: the one named, or the embedded one, started.

    Where the platform had to be migrated, the places of tenants are too.
    """
    with ExitStack() as stack:
        if settings.database_url is None:
            cluster = stack.enter_context(EmbeddedPostgres(settings.data_dir))
            owner_url, app_url = cluster.owner_url, cluster.app_url
        else:
            app_url = settings.database_url
            owner_url = settings.database_owner_url or app_url
        before, after = migrations.upgrade(owner_url)
        running = RunningDatabase(settings.model_copy(update={"database_url": app_url}), owner_url)
        if before not in (None, after):
            upgrade_places(running)
        yield running


def upgrade_places(running: RunningDatabase) -> list[Upgraded]:
    """Migrate the places of all tenants; what fails is logged, and not served until it succeeds."""
    from storage.partitions.upgrading import upgrade_all  # loads SQLAlchemy's models

    owner = Database(running.owner_url)
    # Some places are known by a sealed URL only.
    owner.vault = Vault(owner, open_key_providers(running.settings))
    try:
        return upgrade_all(owner)
    finally:
        owner.close()


def serve(settings: Settings, roles: tuple[str, ...], announce: Callable[[str], None]) -> None:
    """Run `roles` until SIGTERM or SIGINT. Raises StartFailed when one does not come up."""
    from ai.registry import register_platform_bundles  # loads numpy, which commands do without

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if "dicom" in roles:
        _require_dicom(settings)
    _require_free_ports(settings, roles)
    with running_database(settings) as running:
        register_platform_bundles(running.owner_url)
        upgrade_places(running)
        open_object_store(settings.effective_objects_url)  # refuses a bad URL before any client
        children = [
            Child(role, _environment(running, role))
            for role in roles
            for _ in range(settings.dicom_workers if role == "dicom" else 1)
        ]
        try:
            for child in children:
                child.start()
            if _await_ready(settings, children, stop):
                announce(_ready_line(settings, roles))
            while not stop.wait(0.2):
                for child in children:
                    child.revive()
        finally:
            _stop(children)


def _environment(running: RunningDatabase, role: str) -> dict[str, str]:
    """What a child is told: the owner's login only where rows of the log may go (the worker)."""
    owner_url = running.owner_url if role == "worker" else None
    return running.settings.model_copy(update={"database_owner_url": owner_url}).environment()


def _ready_line(settings: Settings, roles: tuple[str, ...]) -> str:
    parts = []
    if "http" in roles:
        parts.append(f"HTTP {settings.effective_public_url}")
    if "dicom" in roles:
        parts += [str(endpoint) for endpoint in endpoints(settings)]
    return "ready: " + ", ".join([*parts, f"data {settings.data_dir}"])


def _listeners(settings: Settings, roles: tuple[str, ...]) -> list[tuple[str, str, int]]:
    found = []
    if "http" in roles:
        found.append(("INTEROP_HTTP_PORT", settings.http_host, settings.http_port))
    if "dicom" in roles:
        found += [(one.setting, one.host, one.port) for one in endpoints(settings)]
    return found


def _require_dicom(settings: Settings) -> None:
    """Refuse settings by which a DICOM worker would end at once, and again and again."""
    try:
        if any(endpoint.is_tls for endpoint in endpoints(settings)):
            TlsFiles.of(settings).server_context()
    except (NoEndpoint, TlsConfigurationError) as error:
        raise StartFailed(str(error)) from error


def _require_free_ports(settings: Settings, roles: tuple[str, ...]) -> None:
    for name, host, port in _listeners(settings, roles):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise StartFailed(
                    f"{host}:{port} cannot be used ({error.strerror}); "
                    f"stop what listens there or set {name} to a free port"
                ) from error


def _await_ready(settings: Settings, children: list[Child], stop: threading.Event) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    waiting = _listeners(settings, tuple(child.role for child in children))
    while waiting and not stop.is_set():
        for child in children:
            if child.process is not None and child.process.poll() is not None:
                raise StartFailed(
                    f"the {child.role} process ended with code {child.process.returncode}; "
                    "its reason is in the log lines above"
                )
        if time.monotonic() > deadline:
            raise StartFailed(f"{waiting[0][1]}:{waiting[0][2]} did not open in {READY_SECONDS} s")
        waiting = [entry for entry in waiting if not _accepts(entry[1], entry[2])]
        stop.wait(0.05)
    return not stop.is_set()


def _accepts(host: str, port: int) -> bool:
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        socket.create_connection((target, port), timeout=1).close()
    except OSError:
        return False
    return True


def _stop(children: list[Child]) -> None:
    """Ask all to finish what they hold, then insist."""
    running = [c.process for c in children if c.process is not None and c.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.error("role_killed", extra={"pid": process.pid})
            process.kill()
            process.wait()
