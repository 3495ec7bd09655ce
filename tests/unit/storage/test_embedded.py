"""The embedded PostgreSQL: starting, attaching, and every way of dying."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from storage.embedded import EmbeddedPostgres, EmbeddedPostgresError
from storage.postgres_binaries import (
    PostgresBinaries,
    PostgresBinariesNotFound,
    copy_to_cache,
    is_reachable_by_others,
    wheel_folder,
)

SOURCE = Path(__file__).parents[3] / "src"
PACKAGES = Path(psycopg.__file__).parents[1]
OWN_AND_WAIT = """
import sys, time
from pathlib import Path
from storage.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1])).start()
print(server.pid, server.owner_url, flush=True)
time.sleep(float(sys.argv[2]))
server.stop()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "postgres"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("running") / "postgres") as server:
        yield server


def spawn_owner(
    data_dir: Path,
    seconds: float = 60,
    *,
    python: str = sys.executable,
    before: Callable[[], None] | None = None,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-c", OWN_AND_WAIT, os.fspath(data_dir), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{SOURCE}:{PACKAGES}"},
        preexec_fn=before,
        cwd="/",
    )


def python_for_nobody() -> str:
    """Return an interpreter of this version that any user may run, with our packages."""
    minor = f"/usr/bin/python3.{sys.version_info.minor}"
    for python in (sys.executable, minor):
        if Path(python).exists() and is_reachable_by_others(Path(python)):
            break
    else:
        pytest.skip(f"no Python that an unprivileged user may run: {sys.executable}, {minor}")
    if not (is_reachable_by_others(SOURCE) and is_reachable_by_others(PACKAGES)):
        pytest.skip("this checkout is below a folder that an unprivileged user may not enter")
    return python


def read_ready(owner: subprocess.Popen[str]) -> tuple[int, str]:
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    return int(pid), url


def wait_until_gone(pid: int, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # A zombie is dead; who reaps an orphan depends on the machine's init.
        stat_file = Path(f"/proc/{pid}/stat")
        if not stat_file.exists() or stat_file.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} is still there after {seconds} s")


def settings_of(url: str, *names: str) -> list[str]:
    with psycopg.connect(url) as connection:
        found = [connection.execute("SELECT current_setting(%s)", (n,)).fetchone() for n in names]
    return [row[0] for row in found if row]


def test_listens_on_a_private_socket_and_on_no_tcp_port(running: EmbeddedPostgres) -> None:
    assert settings_of(running.owner_url, "listen_addresses") == [""]
    folder = Path(running.owner_url.split("host=")[1].split("&")[0])
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_uid == os.geteuid()
    assert len(f"{folder}/.s.PGSQL.5432") <= 107


def test_keeps_what_it_acknowledges(running: EmbeddedPostgres) -> None:
    names = ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
    assert settings_of(running.owner_url, *names) == ["on"] * 4


def test_owner_role_is_no_superuser(running: EmbeddedPostgres) -> None:
    with psycopg.connect(running.owner_url) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert row == (False, True)


def test_text_sorts_by_code_point_on_every_machine(running: EmbeddedPostgres) -> None:
    with psycopg.connect(running.owner_url) as connection:
        found = connection.execute(
            "SELECT array_agg(x ORDER BY x), current_setting('server_encoding')"
            " FROM unnest(ARRAY['b', 'a', 'B', 'ä']) AS x"
        ).fetchone()
    assert found == (["B", "a", "b", "ä"], "UTF8")


def test_second_process_attaches_and_does_not_stop_the_server(running: EmbeddedPostgres) -> None:
    second = spawn_owner(running.data_dir, 0)

    output, _ = second.communicate(timeout=30)

    assert output.split() == ["None", running.owner_url]
    assert settings_of(running.owner_url, "port") == ["5432"]


def test_attaching_object_of_the_same_process_does_not_stop_the_server(
    running: EmbeddedPostgres,
) -> None:
    with EmbeddedPostgres(running.data_dir) as attached:
        assert not attached.is_owner
        assert attached.owner_url == running.owner_url

    assert settings_of(running.owner_url, "port") == ["5432"]


def test_forked_child_does_not_stop_its_parents_server(running: EmbeddedPostgres) -> None:
    child = os.fork()
    if child == 0:
        try:
            running.stop()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert settings_of(running.owner_url, "port") == ["5432"]


def test_warm_start_takes_less_than_a_second(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server, psycopg.connect(server.owner_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")

    # The best of three: the machine may be busy with other tests.
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        with EmbeddedPostgres(data_dir) as server:
            seconds.append(time.monotonic() - began)
            with psycopg.connect(server.owner_url) as connection:
                assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)

    assert min(seconds) < 1.0


def test_stop_leaves_no_process_and_no_socket_folder(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir).start()
    pid, folder = server.pid, Path(server.owner_url.split("host=")[1].split("&")[0])
    assert pid is not None

    server.stop()

    wait_until_gone(pid, 0.5)
    assert not folder.parent.exists()


def test_processes_starting_at_once_share_one_server(data_dir: Path) -> None:
    processes = [spawn_owner(data_dir, 3) for _ in range(4)]

    answers = [process.communicate(timeout=60)[0].split() for process in processes]

    assert len({url for _, url in answers}) == 1
    assert sum(pid != "None" for pid, _ in answers) == 1


def test_killed_owner_takes_the_server_down_cleanly(data_dir: Path) -> None:
    owner = spawn_owner(data_dir)
    pid, url = read_ready(owner)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")

    owner.kill()
    owner.communicate()
    wait_until_gone(pid)

    assert "database system is shut down" in (data_dir / "postgres.log").read_text()
    with EmbeddedPostgres(data_dir) as server, psycopg.connect(server.owner_url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        # The same address, so that the pools of other processes find it again.
        assert server.owner_url == url


def test_start_waits_for_the_shutdown_of_a_killed_owners_server(data_dir: Path) -> None:
    owner = spawn_owner(data_dir)
    pid, url = read_ready(owner)
    with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT i FROM generate_series(1, 200000) AS i")
        owner.kill()
        owner.communicate()

        with EmbeddedPostgres(data_dir) as server:
            assert server.is_owner
            assert server.pid != pid


def test_killed_server_recovers_at_the_next_start(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir).start()
    with psycopg.connect(server.owner_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()

    with (
        EmbeddedPostgres(data_dir) as again,
        psycopg.connect(again.owner_url) as connection,
    ):
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_stale_pid_file_naming_another_living_process_is_no_obstacle(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        pid_file = data_dir / "pgdata" / "postmaster.pid"
        lines = pid_file.read_text().split("\n", 1)[1]
    owner_uid = (data_dir / "pgdata").stat().st_uid
    bystander = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: os.setuid(owner_uid))
    pid_file.write_text(f"{bystander.pid}\n{lines}")
    os.chown(pid_file, owner_uid, -1)

    try:
        with EmbeddedPostgres(data_dir) as server:
            assert server.is_owner
    finally:
        bystander.kill()
        bystander.wait()


def test_kill_during_initdb_leaves_a_data_directory_that_starts(data_dir: Path) -> None:
    owner = spawn_owner(data_dir)
    deadline = time.monotonic() + 20
    while not (data_dir / "pgdata.new" / "PG_VERSION").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    owner.kill()
    owner.communicate()
    assert not (data_dir / "pgdata").exists()

    with EmbeddedPostgres(data_dir) as server:
        assert settings_of(server.owner_url, "port") == ["5432"]


def test_server_outlives_the_thread_that_started_it(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()

    time.sleep(0.3)

    assert settings_of(server.owner_url, "port") == ["5432"]
    server.stop()


def test_data_of_another_major_version_is_refused_by_name(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        pass
    (data_dir / "pgdata" / "PG_VERSION").write_text("13\n")

    with pytest.raises(EmbeddedPostgresError, match="was made by PostgreSQL 13"):
        EmbeddedPostgres(data_dir).start()


def test_server_that_cannot_start_says_why(data_dir: Path) -> None:
    broken = EmbeddedPostgres(data_dir, settings={"shared_buffers": "many"})

    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        broken.start()


def test_long_temporary_folder_still_gives_a_socket_that_fits(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", os.fspath(long))

    with EmbeddedPostgres(data_dir) as server:
        assert settings_of(server.owner_url, "port") == ["5432"]


@pytest.mark.skipif(os.geteuid() != 0, reason="asks what root does")
class TestAsRoot:
    def test_server_runs_as_nobody_below_folders_that_stay_private(self, data_dir: Path) -> None:
        data_dir.parent.chmod(0o700)

        with EmbeddedPostgres(data_dir) as server:
            assert os.stat(f"/proc/{server.pid}").st_uid == pwd.getpwnam("nobody").pw_uid

        assert data_dir.parent.stat().st_mode & 0o777 == 0o700
        assert data_dir.stat().st_mode & 0o777 == 0o700

    def test_another_process_of_nobody_cannot_reach_the_socket(
        self, running: EmbeddedPostgres
    ) -> None:
        code = "import psycopg, sys; psycopg.connect(sys.argv[1])"
        nobody = pwd.getpwnam("nobody")

        answer = subprocess.run(
            [python_for_nobody(), "-c", code, running.owner_url],
            env={"PYTHONPATH": os.fspath(PACKAGES)},
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            cwd="/",
        )

        assert answer.returncode != 0
        assert "Permission denied" in answer.stderr

    def test_wheel_below_a_private_folder_is_copied_and_works(
        self, tmp_path: Path, data_dir: Path
    ) -> None:
        installed = wheel_folder()
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        for folder in (installed, installed.with_name(f"{installed.name}.libs")):
            shutil.copytree(folder, private / folder.name, symlinks=True)
        cache = Path("/var/tmp") / f"interop-test-{os.getpid()}"

        try:
            package = copy_to_cache(private / installed.name, cache)
            binaries = PostgresBinaries(package / "pginstall" / "bin")
            with EmbeddedPostgres(data_dir, binaries=binaries) as server:
                assert settings_of(server.owner_url, "port") == ["5432"]
            assert copy_to_cache(private / installed.name, cache) == package
        finally:
            shutil.rmtree(cache)

    def test_cache_that_nobody_cannot_reach_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)

        with pytest.raises(PostgresBinariesNotFound, match="cannot be reached"):
            copy_to_cache(wheel_folder(), tmp_path / "cache")

    def test_unprivileged_user_starts_its_own(self) -> None:
        python = python_for_nobody()
        nobody = pwd.getpwnam("nobody")
        home = Path("/var/tmp") / f"interop-test-{os.getpid()}-nobody"
        home.mkdir(mode=0o700)
        os.chown(home, nobody.pw_uid, nobody.pw_gid)

        def become_nobody() -> None:
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)

        try:
            owner = spawn_owner(home / "data", python=python, before=become_nobody)
            pid, url = read_ready(owner)
            assert os.stat(f"/proc/{pid}").st_uid == nobody.pw_uid
            assert settings_of(url, "port") == ["5432"]
            owner.kill()
            owner.communicate()
            wait_until_gone(pid)
            assert "database system is shut down" in (home / "data/postgres.log").read_text()
            shutil.rmtree(Path(url.split("host=")[1].split("&")[0]).parent)
        finally:
            shutil.rmtree(home)
