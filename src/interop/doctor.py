"""`interop doctor`: what the server needs, checked one by one, each with what to change."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass

from interop.connections import open_database
from interop.dimse.certificates import validity_problems
from interop.dimse.endpoints import NoEndpoint, endpoints
from interop.dimse.tls import TlsConfigurationError, TlsFiles
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
        ("dicom tls", _dicom_tls),
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
        *((one.setting, one.host, one.port) for one in endpoints(settings)),
    ):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                busy.append(f"{name}={port} is in use (by this server, if it runs)")
    return Check("ports", not busy, "; ".join(busy) or "free", required=False)


def _listeners(settings: Settings) -> Check:
    try:
        dicom = endpoints(settings)
    except NoEndpoint as error:
        return Check("listeners", False, str(error))
    problems = []
    if not is_loopback(settings.http_host):
        problems.append(
            f"HTTP without TLS beyond this machine on {settings.http_host}: put a TLS proxy in "
            "front, or set INTEROP_HTTP_HOST=127.0.0.1"
        )
    problems += [
        f"plain {one} beyond this machine, where anybody on the way reads and changes it: set "
        "INTEROP_DICOM_PLAIN=loopback and use DICOM TLS (docs/dicom-tls.md)"
        for one in dicom
        if not one.is_tls and not is_loopback(one.host)
    ]
    detail = "; ".join(problems) or "nothing without TLS beyond this machine"
    return Check("listeners", not problems, detail, required=False)


def _dicom_tls(settings: Settings) -> Check:
    if settings.dicom_tls_certificate is None:
        return Check("dicom tls", True, "off: INTEROP_DICOM_TLS_CERTIFICATE is not set")
    try:
        TlsFiles.of(settings).server_context()
    except TlsConfigurationError as error:
        return Check("dicom tls", False, str(error))
    files = [settings.dicom_tls_certificate, settings.dicom_tls_ca]
    found = [problem for path in files if path for problem in validity_problems(path)]
    if found:
        detail = "; ".join(text for _, text in found)
        return Check("dicom tls", False, detail, required=any(invalid for invalid, _ in found))
    shown = settings.dicom_tls_client_certificate
    return Check(
        "dicom tls", True, f"certificates valid for 30 days and more; clients' are {shown}"
    )


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
