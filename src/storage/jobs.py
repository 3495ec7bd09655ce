"""Background jobs: put into the queue by the transaction that causes them, run by procrastinate.

A job is at least once: a worker that dies, or stops answering for `STALLED_SECONDS`, loses its jobs
to another one, so a task must stand being repeated. Arguments hold ids only, the tenant's among
them. Domain rows are the truth about a piece of work; the queue only makes it happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, TypeVar

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from procrastinate.worker import Worker
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from storage.database import Connection, Database

logger = logging.getLogger(__name__)

DEFAULT_QUEUE = "default"
# Finds scheduled jobs when their time comes; new ones are announced by a notification.
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
STALLED_SECONDS = 25.0
SWEEP_SECONDS = 5.0
ATTEMPTS = 3
# Seconds before the second, third ... attempt; the last one serves all further attempts.
BACKOFF: Sequence[float] = (2.0, 15.0, 60.0, 300.0)
KEEP_FAILED = timedelta(days=30)
FORGET_SECONDS = 3600.0
# How long a connection is waited for before the database counts as away.
DATABASE_SECONDS = 5.0
LONGEST_REASON = 500

Function = TypeVar("Function", bound=Callable[..., None])

DEFER: LiteralString = """
SELECT unnest(procrastinate_defer_jobs_v1(ARRAY[
    ROW(%(queue)s, %(task)s, %(priority)s, %(lock)s, %(queueing_lock)s, %(args)s, %(schedule_at)s)
]::procrastinate_job_to_defer_v1[]))
"""

# A notification on this channel says that a job was queued (procrastinate's schema).
NEW_JOB_CHANNEL: LiteralString = "procrastinate_any_queue_v1"

HAS_WORK: LiteralString = """
SELECT EXISTS (
    SELECT FROM procrastinate_jobs
    WHERE queue_name = ANY (%(queues)s) AND (status = 'doing'
        OR status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now())))
"""

# One statement decides and acts: when two workers sweep at once, or a job was taken up again in
# between, the row is looked at anew under its lock. The status trigger writes the event.
REQUEUE_STALLED: LiteralString = """
UPDATE procrastinate_jobs AS job
SET status = (CASE
        WHEN job.attempts + 1 >= %(attempts)s THEN 'failed'
        -- Only one job of a queueing lock may wait; the one that does will do the same work.
        WHEN EXISTS (
            SELECT FROM procrastinate_jobs AS waiting
            WHERE waiting.queueing_lock = job.queueing_lock AND waiting.status = 'todo'
        ) THEN 'failed'
        ELSE 'todo'
    END)::procrastinate_job_status,
    attempts = job.attempts + 1,
    abort_requested = false
WHERE job.status = 'doing' AND job.task_name = %(task)s
    AND (job.worker_id IS NULL OR EXISTS (
        SELECT FROM procrastinate_workers AS worker
        WHERE worker.id = job.worker_id
            AND worker.last_heartbeat < now() - make_interval(secs => %(stalled_seconds)s)))
RETURNING job.id, job.task_name, job.attempts, job.status = 'failed'
"""

# From its start on a job keeps no other from waiting; a retry would collide with that one.
RELEASE_QUEUEING_LOCK: LiteralString = """
UPDATE procrastinate_jobs SET queueing_lock = NULL WHERE id = %(job_id)s
"""

RECORD_FAILURE: LiteralString = """
INSERT INTO procrastinate_job_failures (job_id, task_name, attempts, reason)
VALUES (%(job_id)s, %(task)s, %(attempts)s, %(reason)s)
ON CONFLICT (job_id) DO UPDATE
SET attempts = excluded.attempts, reason = excluded.reason, failed_at = now()
"""

FORGET_OLD: LiteralString = """
WITH gone AS (
    DELETE FROM procrastinate_jobs AS job
    WHERE job.status IN ('failed', 'cancelled', 'aborted') AND NOT EXISTS (
        SELECT FROM procrastinate_events AS event
        WHERE event.job_id = job.id AND event.at > now() - %(keep)s)
    RETURNING job.id
)
DELETE FROM procrastinate_job_failures AS failure
WHERE failure.job_id IN (SELECT id FROM gone)
    OR NOT EXISTS (SELECT FROM procrastinate_jobs AS job WHERE job.id = failure.job_id)
"""


def has_work(connection: Connection, queues: Iterable[str]) -> bool:
    """Whether a job of these queues waits whose time has come, or runs (or its worker died)."""
    row = connection.execute(HAS_WORK, {"queues": sorted(queues)}).fetchone()
    return row is not None and bool(row[0])


def defer(
    connection: Connection,
    task: str,
    args: Mapping[str, Any],
    *,
    queue: str = DEFAULT_QUEUE,
    queueing_lock: str | None = None,
    lock: str | None = None,
    schedule_at: datetime | None = None,
    priority: int = 0,
) -> int | None:
    """Queue a job in the caller's transaction, and return its id.

    Of the jobs with one `queueing_lock` only one waits at a time: None says that one does already.
    Of the jobs with one `lock` only one runs at a time, in the order they came in.
    """
    if schedule_at is not None and schedule_at.tzinfo is None:
        raise ValueError(f"schedule_at {schedule_at} of task {task} needs a time zone")
    values = {
        "queue": queue,
        "task": task,
        "priority": priority,
        "lock": lock,
        "queueing_lock": queueing_lock,
        "args": Jsonb(dict(args)),
        "schedule_at": schedule_at,
    }
    # A savepoint, so that a job that waits already does not end the caller's transaction.
    savepoint = connection.transaction() if queueing_lock else contextlib.nullcontext()
    try:
        with savepoint:
            row = connection.execute(DEFER, values).fetchone()
    except psycopg.errors.UniqueViolation:
        return None
    return int(row[0]) if row else None


class BoundedBackoff(BaseRetryStrategy):
    """Try again after growing waits, unless the exception says that it is no use."""

    def __init__(self, attempts: int = ATTEMPTS, backoff: Sequence[float] = BACKOFF) -> None:
        self.attempts = attempts
        self.backoff = tuple(backoff)

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if job.attempts + 1 >= self.attempts or not getattr(exception, "retryable", True):
            return None
        wait = self.backoff[min(job.attempts, len(self.backoff) - 1)]
        # Jobs that failed together for one cause should not all come back together.
        wait *= random.uniform(0.8, 1.2)  # noqa: S311  no secret
        return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=wait))


class JobRunner:
    """Runs the jobs of the queues whose tasks are registered, until told to stop.

    Jobs lie in `database`: the platform's, or one that a tenant has for itself.

    Tasks are plain functions, run in threads, `concurrency` of them at a time. A queue's tasks must
    be registered all or none: a job of an unknown task fails.
    """

    def __init__(
        self,
        database: Database,
        *,
        concurrency: int = 4,
        stop_seconds: float = 30.0,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stalled_seconds: float = STALLED_SECONDS,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._database = database
        self._concurrency = concurrency
        self._stop_seconds = stop_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._stalled_seconds = stalled_seconds
        self._sweep_seconds = sweep_seconds
        self._strategies: dict[str, BoundedBackoff] = {}
        self._queues: set[str] = set()
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._worker: Worker | None = None
        self._next_forget = 0.0
        self._app = App(connector=PsycopgConnector())

    def task(
        self,
        name: str,
        *,
        queue: str = DEFAULT_QUEUE,
        attempts: int = ATTEMPTS,
        backoff: Sequence[float] = BACKOFF,
    ) -> Callable[[Function], Function]:
        """Register a function under the name that `defer` is given.

        It runs at most `attempts` times; an exception with `retryable = False` is the last.
        """
        strategy = BoundedBackoff(attempts, backoff)

        def register(function: Function) -> Function:
            def run(context: JobContext, /, **args: Any) -> None:
                try:
                    self._release_queueing_lock(context.job)
                    function(**args)
                except Exception as error:
                    self._record_failure(context.job, f"{type(error).__name__}: {error}")
                    raise

            self._app.task(name=name, queue=queue, retry=strategy, pass_context=True)(run)
            self._strategies[name] = strategy
            self._queues.add(queue)
            return function

        return register

    @property
    def queues(self) -> frozenset[str]:
        """The queues whose jobs it runs."""
        return frozenset(self._queues)

    def run(self) -> None:
        """Work until `stop` is called; an outage of the database is waited out."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """Take no more jobs and let `run` return when the running ones are done.

        May be called from a signal handler and from any thread.
        """
        self._stop.set()
        loop = self._loop
        if loop is not None:
            # Closed already: the runner has ended by itself.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()
        if self._worker is not None:
            self._worker.stop()  # type: ignore[no-untyped-call]

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._loop.set_default_executor(
            # Besides the jobs: the sweep.
            ThreadPoolExecutor(self._concurrency + 1, thread_name_prefix="job")
        )
        sweeper = asyncio.create_task(self._sweep_for_ever())
        try:
            while not self._stop.is_set():
                try:
                    await self._work()
                except (ConnectorException, psycopg.Error) as error:
                    logger.warning("jobs_interrupted", extra={"error": type(error).__name__})
                await self._pause(1.0)
        finally:
            sweeper.cancel()
            self._loop = None

    async def _work(self) -> None:
        """Run a worker until it is told to stop, or loses the database and stops by itself."""
        if not self._queues:
            # To procrastinate, no queue means every queue; those jobs wait for another worker.
            await self._pause(3600)
            return
        pool = AsyncConnectionPool(
            self._database.conninfo,
            min_size=1,
            max_size=4,
            open=False,
            timeout=DATABASE_SECONDS,
            check=AsyncConnectionPool.check_connection,
        )
        connector = PsycopgConnector()
        try:
            await pool.open(wait=True, timeout=DATABASE_SECONDS)
            await connector.open_async(pool)
            with self._app.replace_connector(connector):
                await self._run_worker()
        finally:
            await pool.close()

    async def _run_worker(self) -> None:
        self._worker = Worker(
            app=self._app,
            queues=sorted(self._queues),
            concurrency=self._concurrency,
            fetch_job_polling_interval=POLL_SECONDS,
            shutdown_graceful_timeout=self._stop_seconds,
            # What is done shows in the domain rows; a short table keeps fetching fast.
            delete_jobs="successful",
            install_signal_handlers=False,
            update_heartbeat_interval=self._heartbeat_seconds,
            stalled_worker_timeout=self._stalled_seconds,
        )
        try:
            running = asyncio.ensure_future(self._worker.run())  # type: ignore[no-untyped-call]
            # The worker forgets at its start a stop that came before.
            await asyncio.sleep(0)
            if self._stop.is_set():
                self._worker.stop()  # type: ignore[no-untyped-call]
            await running
        finally:
            self._worker = None

    async def _pause(self, seconds: float) -> None:
        if self._woken is not None and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), seconds)

    # -- stalled jobs --------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        """Give the jobs of dead workers back to the queue.

        It waits first, and again after a failure: when the database was away for a while, every
        worker looks dead until it has had the time for a heartbeat.
        """
        while True:
            await asyncio.sleep(max(self._sweep_seconds, self._heartbeat_seconds))
            try:
                await asyncio.to_thread(self.sweep_stalled)
            except Exception as error:
                logger.warning("job_sweep_failed", extra={"error": type(error).__name__})

    def sweep_stalled(self) -> int:
        """Requeue, or fail after its last attempt, each job whose worker is gone; return how many.

        A job that kills its worker counts as a failed attempt, so it cannot do so for ever.
        """
        swept = 0
        with self._database.platform_connection() as connection:
            for task, strategy in self._strategies.items():
                values = {
                    "task": task,
                    "attempts": strategy.attempts,
                    "stalled_seconds": self._stalled_seconds,
                }
                for job_id, name, attempts, is_failed in connection.execute(
                    REQUEUE_STALLED, values
                ).fetchall():
                    self._explain(connection, job_id, name, attempts, "its worker died")
                    logger.warning(
                        "stalled_job", extra={"job_id": job_id, "task": name, "failed": is_failed}
                    )
                    swept += 1
            if time.monotonic() >= self._next_forget:
                connection.execute(FORGET_OLD, {"keep": KEEP_FAILED})
                self._next_forget = time.monotonic() + FORGET_SECONDS
        return swept

    def _release_queueing_lock(self, job: Job) -> None:
        if job.queueing_lock is not None:
            with self._database.platform_connection() as connection:
                connection.execute(RELEASE_QUEUEING_LOCK, {"job_id": job.id})

    def _record_failure(self, job: Job, reason: str) -> None:
        try:
            with self._database.platform_connection() as connection:
                self._explain(connection, job.id, job.task_name, job.attempts + 1, reason)
        except Exception as error:
            # The failure itself is recorded by procrastinate; only its explanation is lost.
            logger.warning("job_failure_unexplained", extra={"error": type(error).__name__})

    @staticmethod
    def _explain(
        connection: Connection, job_id: int | None, task: str, attempts: int, reason: str
    ) -> None:
        connection.execute(
            RECORD_FAILURE,
            {
                "job_id": job_id,
                "task": task,
                "attempts": attempts,
                "reason": reason.replace("\x00", "")[:LONGEST_REASON],
            },
        )
