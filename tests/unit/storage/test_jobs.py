"""Jobs: atomic with their cause, at least once, bounded in attempts, explained when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from procrastinate.jobs import Job

from storage.database import Database
from storage.jobs import BoundedBackoff, JobRunner, defer
from storage.tenancy import Tenant

SOURCE = Path(__file__).parents[3] / "src"
# Argument 1: URL, 2: queue, 3: a file to write a line to, 4: seconds that a job takes.
WORKER = """
import os, signal, sys, time
from storage.database import Database
from storage.jobs import JobRunner
url, queue, path, seconds = sys.argv[1:]
database = Database(url)
runner = JobRunner(database, heartbeat_seconds=0.3, stalled_seconds=1.5, sweep_seconds=0.3)
@runner.task("write", queue=queue)
def write(word: str) -> None:
    with open(path, "a") as file:
        file.write(f"start {word} {os.getpid()}\\n")
    time.sleep(float(seconds))
    with open(path, "a") as file:
        file.write(f"end {word} {os.getpid()}\\n")
signal.signal(signal.SIGTERM, lambda *_: runner.stop())
print("ready", flush=True)
runner.run()
database.close()
print("stopped", flush=True)
"""


@pytest.fixture
def queue() -> str:
    return f"queue-{uuid4().hex}"


def quick_runner(database: Database) -> JobRunner:
    """Return a runner that counts a worker as dead after 1.5 s."""
    return JobRunner(database, heartbeat_seconds=0.3, stalled_seconds=1.5, sweep_seconds=0.3)


@contextmanager
def running(runner: JobRunner) -> Iterator[None]:
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield
    finally:
        runner.stop()
        thread.join(20)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def is_longer(found: Sequence[object], length: int) -> bool:
    return len(found) > length


def jobs_of(database: Database, queue: str) -> list[tuple[Any, ...]]:
    with database.platform_connection() as connection:
        return connection.execute(
            "SELECT id, status::text, attempts, args FROM procrastinate_jobs"
            " WHERE queue_name = %s ORDER BY id",
            (queue,),
        ).fetchall()


def statuses(database: Database, queue: str) -> list[str]:
    return [row[1] for row in jobs_of(database, queue)]


def reason_of(database: Database, job_id: int | None) -> tuple[Any, ...] | None:
    with database.platform_connection() as connection:
        return connection.execute(
            "SELECT task_name, attempts, reason FROM procrastinate_job_failures WHERE job_id = %s",
            (job_id,),
        ).fetchone()


def defer_one(database: Database, tenant: Tenant, task: str, queue: str, **more: Any) -> int | None:
    args = more.pop("args", {})
    with database.connection(tenant.id) as connection:
        return defer(connection, task, args, queue=queue, **more)


def spawn_worker(
    database: Database, queue: str, path: Path, seconds: float
) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, database.url, queue, os.fspath(path), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": os.fspath(SOURCE), "PATH": os.environ["PATH"]},
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


# -- putting jobs into the queue ---------------------------------------------------------------


def test_rolled_back_transaction_leaves_no_job(
    database: Database, tenant: Tenant, queue: str
) -> None:
    with pytest.raises(RuntimeError), database.connection(tenant.id) as connection:
        defer(connection, "task", {"id": 1}, queue=queue)
        raise RuntimeError("the cause of the job is not committed")

    assert jobs_of(database, queue) == []


def test_committed_transaction_leaves_its_job(
    database: Database, tenant: Tenant, queue: str
) -> None:
    job_id = defer_one(database, tenant, "task", queue, args={"tenant_id": str(tenant.id)})

    assert jobs_of(database, queue) == [(job_id, "todo", 0, {"tenant_id": str(tenant.id)})]


def test_second_job_of_a_queueing_lock_does_not_wait_beside_the_first(
    database: Database, tenant: Tenant, queue: str
) -> None:
    first = defer_one(database, tenant, "task", queue, queueing_lock=f"study-{queue}")
    with database.connection(tenant.id) as connection:
        second = defer(connection, "task", {}, queue=queue, queueing_lock=f"study-{queue}")
        # The caller's transaction goes on and commits.
        third = defer(connection, "task", {}, queue=queue)

    assert second is None
    assert [row[0] for row in jobs_of(database, queue)] == [first, third]


def test_time_without_a_zone_is_refused(database: Database, tenant: Tenant, queue: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        defer_one(database, tenant, "task", queue, schedule_at=datetime(2026, 11, 22))


# -- running them ------------------------------------------------------------------------------


def test_job_runs_with_its_arguments_and_leaves_the_queue(
    database: Database, tenant: Tenant, queue: str
) -> None:
    seen: list[dict[str, Any]] = []
    runner = quick_runner(database)

    @runner.task("see", queue=queue)
    def see(**args: Any) -> None:
        seen.append(args)

    defer_one(database, tenant, "see", queue, args={"study_id": "s", "count": 3})
    with running(runner):
        wait_for(lambda: jobs_of(database, queue) == [])

    assert seen == [{"study_id": "s", "count": 3}]


def test_job_starts_soon_after_its_commit(database: Database, tenant: Tenant, queue: str) -> None:
    started: list[float] = []
    runner = JobRunner(database)

    @runner.task("see", queue=queue)
    def see() -> None:
        started.append(time.monotonic())

    delays = []
    with running(runner):
        wait_for(lambda: runner._worker is not None and runner._worker.worker_id is not None)
        time.sleep(0.5)
        for _ in range(9):
            before = len(started)
            defer_one(database, tenant, "see", queue)
            committed = time.monotonic()
            wait_for(partial(is_longer, started, before))
            delays.append(started[-1] - committed)
            time.sleep(0.05)

    # The notification wakes the worker; polling alone would take 250 ms in the middle.
    assert sorted(delays)[len(delays) // 2] < 0.1


def test_scheduled_job_waits_for_its_time(database: Database, tenant: Tenant, queue: str) -> None:
    started: list[datetime] = []
    runner = JobRunner(database)

    @runner.task("see", queue=queue)
    def see() -> None:
        started.append(datetime.now(UTC))

    due = datetime.now(UTC) + timedelta(seconds=1)
    defer_one(database, tenant, "see", queue, schedule_at=due)
    with running(runner):
        wait_for(lambda: bool(started))

    assert due <= started[0] < due + timedelta(seconds=3)


def test_failing_job_is_tried_again_and_then_fails_with_its_reason(
    database: Database, tenant: Tenant, queue: str
) -> None:
    tries: list[float] = []
    runner = JobRunner(database)

    @runner.task("fail", queue=queue, attempts=3, backoff=(0.1, 0.2))
    def fail() -> None:
        tries.append(time.monotonic())
        raise RuntimeError("no such study")

    job_id = defer_one(database, tenant, "fail", queue)
    with running(runner):
        wait_for(lambda: statuses(database, queue) == ["failed"])
        time.sleep(0.7)

    assert len(tries) == 3
    assert jobs_of(database, queue)[0][2] == 3
    assert reason_of(database, job_id) == ("fail", 3, "RuntimeError: no such study")


def test_failure_that_no_attempt_can_mend_is_not_repeated(
    database: Database, tenant: Tenant, queue: str
) -> None:
    class Hopeless(Exception):
        retryable = False

    tries: list[int] = []
    runner = JobRunner(database)

    @runner.task("fail", queue=queue, backoff=(0.01,))
    def fail() -> None:
        tries.append(1)
        raise Hopeless("the bundle is broken")

    defer_one(database, tenant, "fail", queue)
    with running(runner):
        wait_for(lambda: statuses(database, queue) == ["failed"])

    assert tries == [1]


def test_job_that_mends_is_done(database: Database, tenant: Tenant, queue: str) -> None:
    tries: list[int] = []
    runner = JobRunner(database)

    @runner.task("mend", queue=queue, backoff=(0.01,))
    def mend() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("try again")

    defer_one(database, tenant, "mend", queue)
    with running(runner):
        wait_for(lambda: jobs_of(database, queue) == [])

    assert len(tries) == 2


def test_failing_job_does_not_collide_with_its_waiting_successor(
    database: Database, tenant: Tenant, queue: str
) -> None:
    tries: list[int] = []
    runner = JobRunner(database)

    @runner.task("fail", queue=queue, attempts=2, backoff=(0.01,))
    def fail() -> None:
        tries.append(1)
        if len(tries) == 1:
            successor = defer_one(database, tenant, "fail", queue, queueing_lock=f"study-{queue}")
            assert successor is not None
            raise ConnectionError("try again")

    defer_one(database, tenant, "fail", queue, queueing_lock=f"study-{queue}")
    with running(runner):
        wait_for(lambda: jobs_of(database, queue) == [])

    assert len(tries) == 3


def test_jobs_of_one_lock_run_one_after_the_other(
    database: Database, tenant: Tenant, queue: str
) -> None:
    active, most, done = 0, 0, 0
    guard = threading.Lock()
    runner = JobRunner(database, concurrency=4)

    @runner.task("work", queue=queue)
    def work() -> None:
        nonlocal active, most, done
        with guard:
            active += 1
            most = max(most, active)
        time.sleep(0.05)
        with guard:
            active -= 1
            done += 1

    for _ in range(6):
        defer_one(database, tenant, "work", queue, lock=queue)
    with running(runner):
        wait_for(lambda: done == 6)

    assert most == 1


def test_jobs_of_unregistered_queues_are_left_for_another_worker(
    database: Database, tenant: Tenant, queue: str
) -> None:
    defer_one(database, tenant, "elsewhere", queue)

    with running(JobRunner(database)):
        time.sleep(1.0)

    assert statuses(database, queue) == ["todo"]


# -- dying -------------------------------------------------------------------------------------


def test_job_of_a_killed_worker_is_finished_by_another(
    database: Database, tenant: Tenant, queue: str, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    killed = spawn_worker(database, queue, path, 60)
    defer_one(database, tenant, "write", queue, args={"word": "once"})
    wait_for(path.exists)
    killed.kill()
    killed.communicate()
    began = time.monotonic()

    other = spawn_worker(database, queue, path, 0)
    try:
        wait_for(lambda: "end once" in path.read_text())
        wait_for(lambda: jobs_of(database, queue) == [])
    finally:
        other.terminate()
        other.communicate(timeout=20)

    assert path.read_text().split("\n")[-2] == f"end once {other.pid}"
    assert time.monotonic() - began < 20


def test_job_that_kills_its_workers_fails_after_its_attempts(
    database: Database, tenant: Tenant, queue: str
) -> None:
    job_id = defer_one(database, tenant, "poison", queue)
    runner = quick_runner(database)
    runner.task("poison", queue=queue, attempts=3)(lambda: None)

    found = []
    for _ in range(3):
        with database.platform_connection() as connection:
            # What a fetching worker does, and then it is killed and pruned.
            connection.execute(
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = NULL WHERE id = %s",
                (job_id,),
            )
        runner.sweep_stalled()
        found += statuses(database, queue)

    assert found == ["todo", "todo", "failed"]
    assert reason_of(database, job_id) == ("poison", 3, "its worker died")


def test_job_of_a_living_worker_is_never_swept(
    database: Database, tenant: Tenant, queue: str
) -> None:
    runs: list[int] = []
    runner = quick_runner(database)

    @runner.task("long", queue=queue)
    def long() -> None:
        runs.append(1)
        time.sleep(4)

    defer_one(database, tenant, "long", queue)
    with running(runner):
        wait_for(lambda: bool(runs))
        wait_for(lambda: jobs_of(database, queue) == [])

    assert runs == [1]


def test_sweep_meets_a_waiting_job_of_the_same_queueing_lock(
    database: Database, tenant: Tenant, queue: str
) -> None:
    stalled = defer_one(database, tenant, "work", queue, queueing_lock=f"study-{queue}")
    with database.platform_connection() as connection:
        connection.execute(
            "UPDATE procrastinate_jobs SET status = 'doing' WHERE id = %s", (stalled,)
        )
    defer_one(database, tenant, "work", queue, queueing_lock=f"study-{queue}")
    runner = JobRunner(database)
    runner.task("work", queue=queue)(lambda: None)

    runner.sweep_stalled()

    assert statuses(database, queue) == ["failed", "todo"]


def test_terminated_worker_finishes_what_it_runs_and_takes_nothing_more(
    database: Database, tenant: Tenant, queue: str, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    worker = spawn_worker(database, queue, path, 1.5)
    defer_one(database, tenant, "write", queue, args={"word": "running"}, lock=queue)
    defer_one(database, tenant, "write", queue, args={"word": "waiting"}, lock=queue)
    wait_for(path.exists)

    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=20)

    assert (output, worker.returncode) == ("stopped\n", 0)
    assert [line.split()[:2] for line in path.read_text().splitlines()] == [
        ["start", "running"],
        ["end", "running"],
    ]
    assert statuses(database, queue) == ["todo"]


def test_idle_worker_stops_at_once(database: Database, queue: str) -> None:
    runner = JobRunner(database)
    runner.task("work", queue=queue)(lambda: None)
    thread = threading.Thread(target=runner.run)
    thread.start()
    wait_for(lambda: runner._worker is not None)

    began = time.monotonic()
    runner.stop()
    thread.join(10)

    assert not thread.is_alive()
    assert time.monotonic() - began < 2


def test_worker_outlives_the_loss_of_its_connections(
    database: Database, tenant: Tenant, queue: str, owner_url: str
) -> None:
    done: list[str] = []
    runner = quick_runner(database)

    @runner.task("note", queue=queue)
    def note(word: str) -> None:
        done.append(word)

    with running(runner):
        defer_one(database, tenant, "note", queue, args={"word": "before"})
        wait_for(lambda: done == ["before"])
        # What a restart of the database does to its clients.
        with psycopg.connect(owner_url, autocommit=True) as connection:
            connection.execute("SET ROLE interop_app")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND usename = 'interop_app'"
            )
        wait_for(lambda: try_to_defer(database, tenant, queue))
        wait_for(lambda: "after" in done)


def try_to_defer(database: Database, tenant: Tenant, queue: str) -> bool:
    try:
        defer_one(database, tenant, "note", queue, args={"word": "after"})
    except psycopg.OperationalError:
        return False
    return True


# -- the waits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("attempts", "wait"), [(0, 1.0), (1, 10.0), (2, 10.0)])
def test_waits_grow_to_the_last_one(attempts: int, wait: float) -> None:
    decision = BoundedBackoff(4, (1.0, 10.0)).get_retry_decision(
        exception=ValueError(), job=job_after(attempts)
    )

    assert decision is not None and decision.retry_at is not None
    seconds = (decision.retry_at - datetime.now(UTC)).total_seconds()
    assert 0.75 * wait < seconds < 1.25 * wait


def test_last_attempt_is_not_followed_by_another() -> None:
    strategy = BoundedBackoff(4, (1.0, 10.0))

    assert strategy.get_retry_decision(exception=ValueError(), job=job_after(3)) is None


def job_after(attempts: int) -> Job:
    return Job(id=1, queue="q", lock=None, queueing_lock=None, task_name="t", attempts=attempts)
