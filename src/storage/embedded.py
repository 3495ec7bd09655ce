"""The embedded PostgreSQL: a direct child process that lives and dies with its owner.

The first process that starts a data directory owns the server; every later process of the same
data directory attaches to it. Whether a server is running is told by a lock (flock) that the
server's own processes hold on the data folder, so neither a crash nor a reused process id misleads.
There is no TCP port: the server listens on a Unix socket in a private folder.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from storage.database import APP_ROLE
from storage.guarded_process import spawn, spawn_lasting
from storage.postgres_binaries import PostgresBinaries, ServerUser, wheel_binaries

logger = logging.getLogger(__name__)

DATABASE = "interop"
SUPERUSER = "interop_superuser"
OWNER_ROLE = "interop_owner"

# sun_path holds 108 bytes with its final NUL; "/.s.PGSQL.5432" and the suffix of its lock file fit.
LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432")
START_SECONDS = 60.0
STOP_SECONDS = 30.0
LARGEST_LOG = 16 << 20

# Written once, when the cluster is made: an operator may tune them in postgresql.conf afterwards.
INITIAL_SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_buffers": "16MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Committers wait for companions only when several are under way: one flush serves them all.
    "commit_delay": "100",
    "commit_siblings": "8",
    # Plans made before the first statistics scan a whole tenant; they are made anew after ANALYZE.
    "autovacuum_naptime": "15s",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    # A statement in the log would carry PHI in its literals and parameters.
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL could not be started."""


class EmbeddedPostgres:
    """One PostgreSQL cluster in `data_dir`; the context manager starts or attaches, and stops."""

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: PostgresBinaries | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._cluster = self.data_dir / "pgdata"
        self._endpoint_file = self.data_dir / "endpoint.json"
        self._binaries = binaries
        self._settings = dict(settings or {})
        self._socket_folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starter_pid = -1

    # -- what others ask for -------------------------------------------------------------------

    @property
    def owner_url(self) -> str:
        """URL of the role that owns and migrates the schema; no superuser, as on a managed server.

        It may bypass row-level security, which a complete `pg_dump` needs.
        """
        return self.url(OWNER_ROLE)

    @property
    def app_url(self) -> str:
        """URL of the application role, which the migration creates."""
        return self.url(APP_ROLE)

    @property
    def is_owner(self) -> bool:
        """True when the server is a child of this process, which therefore stops it."""
        return self._process is not None and self._starter_pid == os.getpid()

    @property
    def pid(self) -> int | None:
        """Process id of the server when this process owns it."""
        return self._process.pid if self._process is not None and self.is_owner else None

    @property
    def log_file(self) -> Path:
        return self.data_dir / "postgres.log"

    def url(self, role: str, database: str = DATABASE) -> str:
        if self._socket_folder is None:
            raise EmbeddedPostgresError(
                "the embedded PostgreSQL is not started: call start() first"
            )
        return _url(self._socket_folder, role, database)

    def start(self) -> Self:
        """Start the server, or attach to the one that runs on this data directory already."""
        began = time.monotonic()
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _exclusive(self.data_dir / "start.lock", START_SECONDS):
            lock = self._wait_for_lock_or_server(began + START_SECONDS)
            if lock is not None:
                self._launch(lock)
        logger.info(
            "embedded_postgres_ready",
            extra={"owner": self.is_owner, "seconds": round(time.monotonic() - began, 3)},
        )
        return self

    def stop(self) -> None:
        """Stop the server when this process started it; otherwise only let go of it."""
        process, owner, folder = self._process, self.is_owner, self._socket_folder
        self._process = self._socket_folder = None
        if process is None or not owner:
            return
        atexit.unregister(self.stop)
        for stop_signal in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
                break
        # The next start makes new ones; left behind by a crash, both are used again.
        self._endpoint_file.unlink(missing_ok=True)
        if folder is not None:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- starting ------------------------------------------------------------------------------

    def _wait_for_lock_or_server(self, deadline: float) -> int | None:
        """Return the locked data folder's descriptor, or None once attached to a running server."""
        user = self._get_binaries().server_user()
        if not (self._cluster / "PG_VERSION").exists():
            return self._initialise(user)
        self._refuse_other_major_version()
        while True:
            descriptor = os.open(self._cluster, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            os.close(descriptor)
            # Locked: a server runs, or one whose owner died is still writing its last checkpoint.
            folder = self._read_endpoint()
            if folder is not None and _accepts_connections(folder):
                self._socket_folder = folder
                return None
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"a PostgreSQL server holds {self._cluster} but does not answer within "
                    f"{START_SECONDS:.0f} s; see {self.log_file}"
                )
            time.sleep(0.02)

    def _initialise(self, user: ServerUser | None) -> int:
        """Make a new cluster and return its locked descriptor.

        It is built beside its final name and renamed when complete, so that a crash during initdb
        never leaves a half-made cluster under that name. The descriptor follows the rename.
        """
        building = self.data_dir / "pgdata.new"
        if building.exists():
            self._discard(building)
        building.mkdir(mode=0o700)
        if user is not None:
            os.chown(building, user.uid, user.gid)
        descriptor = os.open(building, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        path = _path_for_server(building, descriptor, user)
        command = [os.fspath(self._get_binaries().initdb), "-D", path, "-U", SUPERUSER]
        # Collation and encoding do not depend on the machine: C order, UTF-8.
        command += ["-E", "UTF8", "--no-locale", "--data-checksums", "--auth-local=trust"]
        with self._open_log() as log:
            process = spawn(command, user=user, descriptors=(descriptor,), log=log)
            if process.wait(START_SECONDS) != 0:
                raise EmbeddedPostgresError(f"initdb failed: {self._log_tail()}")
        (building / "pg_hba.conf").write_text("local all all trust\n")
        with (building / "postgresql.conf").open("a") as configuration:
            configuration.write("\n# Set when the cluster was made by the dental server\n")
            configuration.writelines(f"{k} = '{v}'\n" for k, v in INITIAL_SETTINGS.items())
            configuration.flush()
            os.fsync(configuration.fileno())
        building.rename(self._cluster)
        return descriptor

    def _discard(self, building: Path) -> None:
        """Remove what an interrupted initdb left, once its last process is gone."""
        with _opened_folder(building) as descriptor:
            _lock(descriptor, START_SECONDS, f"an earlier initdb still writes {building}")
            shutil.rmtree(building)

    def _launch(self, descriptor: int) -> None:
        """Run the server as a child that inherits the lock, and wait until it accepts."""
        user = self._get_binaries().server_user()
        self._remove_stale_pid_file()
        folder = self._prepare_socket_folder(user)
        socket_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fixed = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": _path_for_server(folder, socket_descriptor, user),
            "unix_socket_permissions": "0700",
        }
        data_path = _path_for_server(self._cluster, descriptor, user)
        command = [os.fspath(self._get_binaries().postgres), "-D", data_path]
        for name, value in {**self._settings, **fixed}.items():
            command += ["-c", f"{name}={value}"]
        try:
            with self._open_log() as log:
                self._process = spawn_lasting(
                    command, user=user, descriptors=(descriptor, socket_descriptor), log=log
                )
        finally:
            os.close(descriptor)
            os.close(socket_descriptor)
        self._starter_pid = os.getpid()
        self._socket_folder = folder
        atexit.register(self.stop)
        try:
            self._wait_until_accepting(folder)
            _ensure_roles(folder)
        except BaseException:
            self.stop()
            raise

    def _wait_until_accepting(self, folder: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _accepts_connections(folder):
            if self._process is None or self._process.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL stopped at start: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL does not accept connections after {START_SECONDS:.0f} s: "
                    f"{self._log_tail()}"
                )
            time.sleep(0.01)

    # -- files ---------------------------------------------------------------------------------

    def _get_binaries(self) -> PostgresBinaries:
        if self._binaries is None:
            self._binaries = wheel_binaries()
        return self._binaries

    def _refuse_other_major_version(self) -> None:
        made_by = int((self._cluster / "PG_VERSION").read_text())
        offered = self._get_binaries().major_version()
        if made_by != offered:
            raise EmbeddedPostgresError(
                f"{self._cluster} was made by PostgreSQL {made_by}, the server here is {offered}; "
                f"dump it with version {made_by} and restore it into a new data directory"
            )

    def _remove_stale_pid_file(self) -> None:
        """Remove a crashed server's postmaster.pid, whose number another process may have by now.

        We hold the lock, so only a server started by hand, without it, can still be there.
        """
        pid_file = self._cluster / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(pid_file.read_text().split("\n", 1)[0])
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cwd").samefile(self._cluster):
                    raise EmbeddedPostgresError(
                        f"PostgreSQL process {pid} uses {self._cluster} but was not started by "
                        "this program; stop it first"
                    )
            pid_file.unlink()

    def _prepare_socket_folder(self, user: ServerUser | None) -> Path:
        """Return the private folder of the socket; a crashed server's folder is used again.

        The outer folder is this user's alone. The inner one belongs to the server user, which gets
        at it through an inherited descriptor, so that other processes of `nobody` cannot.
        """
        folder = self._read_endpoint()
        if folder is None:
            parent = Path(tempfile.gettempdir())
            if len(os.fsencode(parent)) > LONGEST_SOCKET_FOLDER - len("/interop-pg-12345678/s"):
                parent = Path("/tmp")  # noqa: S108  mkdtemp below makes an unguessable 0700 folder
            folder = Path(tempfile.mkdtemp(prefix="interop-pg-", dir=parent)) / "s"
            folder.mkdir(mode=0o700)
        if user is not None:
            os.chown(folder, user.uid, user.gid)
        temporary = self._endpoint_file.with_suffix(".new")
        temporary.write_text(json.dumps({"socket_folder": os.fspath(folder)}))
        temporary.replace(self._endpoint_file)
        return folder

    def _read_endpoint(self) -> Path | None:
        try:
            folder = Path(json.loads(self._endpoint_file.read_text())["socket_folder"])
            outer = folder.parent.lstat()
        except (FileNotFoundError, PermissionError, KeyError, ValueError):
            return None
        is_private = outer.st_mode & 0o170777 == 0o040700 and outer.st_uid == os.geteuid()
        return folder if is_private and folder.is_dir() else None

    def _open_log(self) -> IO[bytes]:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LARGEST_LOG:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
        return self.log_file.open("ab")

    def _log_tail(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return " | ".join(self.log_file.read_text(errors="replace").splitlines()[-8:])
        return f"{self.log_file} is empty"


def _url(folder: Path, role: str, database: str) -> str:
    return f"postgresql://{role}@/{database}?host={quote(os.fspath(folder), safe='/')}&port=5432"


def _path_for_server(path: Path, descriptor: int, user: ServerUser | None) -> str:
    """Return the path by which the server reaches an inherited folder.

    After dropping from root the server may not pass through private parents such as /root; the
    descriptor's link under /proc leads straight to the folder.
    """
    if user is not None and sys.platform == "linux":
        return f"/proc/self/fd/{descriptor}"
    return os.fspath(path)


def _accepts_connections(folder: Path) -> bool:
    if not (folder / ".s.PGSQL.5432").exists():
        return False
    try:
        psycopg.connect(_url(folder, SUPERUSER, "postgres"), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _ensure_roles(folder: Path) -> None:
    """Create the owner role and the database; repeats change nothing."""
    with psycopg.connect(_url(folder, SUPERUSER, "postgres"), autocommit=True) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = %s),"
            " (SELECT count(*) FROM pg_database WHERE datname = %s)",
            (OWNER_ROLE, DATABASE),
        ).fetchone()
        has_role, has_database = row or (0, 0)
        owner = sql.Identifier(OWNER_ROLE)
        if not has_role:
            statement = "CREATE ROLE {} LOGIN CREATEDB CREATEROLE BYPASSRLS"
            connection.execute(sql.SQL(statement).format(owner))
        if not has_database:
            statement = "CREATE DATABASE {} OWNER {}"
            connection.execute(sql.SQL(statement).format(sql.Identifier(DATABASE), owner))


@contextlib.contextmanager
def _exclusive(path: Path, seconds: float) -> Iterator[None]:
    """Hold an flock on path; released by the kernel when the process dies."""
    with path.open("a") as handle:
        _lock(handle.fileno(), seconds, f"another process is starting PostgreSQL and holds {path}")
        yield


@contextlib.contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, seconds: float, obstacle: str) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"{obstacle}, for {seconds:.0f} s now") from None
            time.sleep(0.02)
        else:
            return
