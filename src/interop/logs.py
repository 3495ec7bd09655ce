"""Logs as JSON lines on standard error: an event name and ids, never names or values of patients.

Every record's `extra` becomes a key. Exceptions keep their trace, and neither locals nor message: a
message quotes what it complains about (security.md G5), the database's the whole row.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import psycopg

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
}

# These libraries log each statement, header or association at INFO.
NOISY_LOGGERS = (
    "alembic",
    "highdicom",
    "procrastinate",
    "pynetdicom",
    "httpx",
    "botocore",
    "psycopg.pool",
)


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update((k, v) for k, v in vars(record).items() if k not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)

    def formatException(self, ei: Any) -> str:
        """The exceptions of the chain, outermost last, each with where it came from."""
        lines: list[str] = []
        error: BaseException | None = ei[1]
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            frames = traceback.extract_tb(error.__traceback__)
            lines[:0] = [
                _described(error),
                *(f"  {f.filename}:{f.lineno} {f.name}" for f in frames),
            ]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n".join(lines)


def _described(error: BaseException) -> str:
    """The kind of an exception, and of what it says only what no client wrote."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, psycopg.Error):
        diag = error.diag
        parts = (error.sqlstate, diag.table_name, diag.column_name, diag.constraint_name)
        return " ".join([name, *(part for part in parts if part)])
    if isinstance(error, OSError) and error.strerror:
        return f"{name} {error.errno} {error.strerror}"
    return name


def configure_logging(level: str) -> None:
    """Send everything at `level` and above to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
