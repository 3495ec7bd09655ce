"""`interop doctor`: what the server needs, checked one by one, each with what to change."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass

from interop.connections import open_database
from interop.settings import Settings, is_loopback
from interop.supervisor import running_database
from storage.objects import open_object_store
from storage.objects.keys import new_key
from storage.tenancy import TenantDirectory

MIN_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class Check:
    """One line of the report. Only a failing `required` check fails the command."""

    name: str
    ok: bool
    detail: str
    required: bool = True


def examine(settings: Settings) -> list[Check]:
    """Run every check; one that raises is a failing line, never a crash."""
    checks: list[tuple[str, Callable[[Settings], Check]]] = [
        ("disk", _disk),
        ("database", _database),
        ("objects", _objects),
        ("ports", _ports),
        ("listeners", _listeners),
        ("ai", _ai),
    ]
    report = []
    for name, check in checks:
        try:
            report.append(check(settings))
        except Exception as error:
            report.append(Check(name, False, f"{type(error).__name__}: {error}"))
    return report


def _disk(settings: Settings) -> Check:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.data_dir).free
    return Check(
        "disk",
        free >= MIN_FREE_BYTES,
        f"{free / 2**30:.1f} GiB free under INTEROP_DATA_DIR ({settings.data_dir})",
    )


def _database(settings: Settings) -> Check:
    with running_database(settings) as running:
        database = open_database(running.settings)
        try:
            with database.platform_connection() as connection:
                row = connection.execute(
                    "SELECT version(), current_user, rolsuper OR rolbypassrls"
                    " FROM pg_roles WHERE rolname = current_user"
                ).fetchone()
            assert row is not None
            tenants = len(TenantDirectory(database).all_active())
        finally:
            database.close()
    kind = "INTEROP_DATABASE_URL" if settings.database_url else "embedded"
    version = " ".join(row[0].split()[:2])
    return Check(
        "database",
        not row[2],
        f"{version} ({kind}), migrated, {tenants} tenants, role {row[1]} "
        + ("CAN BYPASS row-level security" if row[2] else "cannot bypass row-level security"),
    )


def _objects(settings: Settings) -> Check:
    from uuid import UUID

    store = open_object_store(settings.effective_objects_url)
    key, data = new_key(UUID(int=0)), os.urandom(64)
    store.put_bytes(key, data)
    try:
        same = store.get_range(key, 0, len(data)) == data
    finally:
        store.delete(key)
    return Check(
        "objects", same, f"{settings.effective_objects_url}: written, read back and deleted"
    )


def _ports(settings: Settings) -> Check:
    busy = []
    for name, host, port in (
        ("INTEROP_HTTP_PORT", settings.http_host, settings.http_port),
        ("INTEROP_DICOM_PORT", settings.dicom_host, settings.dicom_port),
    ):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                busy.append(f"{name}={port} is in use (by this server, if it runs)")
    return Check("ports", not busy, "; ".join(busy) or "free", required=False)


def _listeners(settings: Settings) -> Check:
    open_to = [h for h in (settings.http_host, settings.dicom_host) if not is_loopback(h)]
    detail = (
        f"listening beyond this machine on {', '.join(open_to)} without TLS: put a TLS proxy in "
        "front, or set INTEROP_HTTP_HOST / INTEROP_DICOM_HOST to 127.0.0.1"
        if open_to
        else "loopback only"
    )
    return Check("listeners", not open_to, detail, required=False)


def _ai(settings: Settings) -> Check:
    missing = [m for m in ("monai", "torch", "scipy") if importlib.util.find_spec(m) is None]
    return Check(
        "ai",
        not missing,
        f"missing {', '.join(missing)}: pip install 'dental-interop[ai]'; until then studies are "
        "stored and AI jobs wait"
        if missing
        else "the ai extra is installed",
        required=False,
    )
