"""`interop doctor`: what the server needs, checked one by one, each with what to change."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import psycopg

from interop.connections import open_database
from interop.dimse.certificates import validity_problems
from interop.dimse.endpoints import NoEndpoint, endpoints
from interop.dimse.tls import TlsConfigurationError, TlsFiles
from interop.settings import Settings, is_loopback
from interop.supervisor import running_database
from interop.viewer.package import HOW_TO_ADD, VERSION, ViewerFolder
from storage.database import Database
from storage.objects import open_object_store
from storage.objects.keys import new_key
from storage.places import Home, PlaceOutdated
from storage.tenancy import TenantDirectory

PLACES_AT_ONCE = 8
MIN_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class Check:
    """One line of the report. A failing check that is not `required` is a note."""

    name: str
    ok: bool
    detail: str
    required: bool = True


def examine(settings: Settings) -> list[Check]:
    """Run every check; one that raises is a failing line, never a crash."""
    checks: list[tuple[str, Callable[[Settings], Check]]] = [
        ("disk", _disk),
        ("database", _database),
        ("places", _places),
        ("objects", _objects),
        ("ports", _ports),
        ("listeners", _listeners),
        ("dicom tls", _dicom_tls),
        ("ai", _ai),
        ("viewer", _viewer),
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


def _places(settings: Settings) -> Check:
    """The schemas and databases of tenants that do not lie in the platform's tables."""
    with running_database(settings) as running:
        platform, owner = open_database(running.settings), Database(running.owner_url, pool_size=1)
        owner.vault = platform.vault
        try:
            apart = owner.router.apart()
            slugs = {tenant.id: tenant.slug for tenant in TenantDirectory(owner).everyone()}
            wanted = _revision(owner)
            with ThreadPoolExecutor(PLACES_AT_ONCE) as pool:
                look = partial(_place_problem, owner, wanted)
                problems = dict(zip(apart, pool.map(look, apart, apart.values()), strict=True))
        finally:
            owner.close()
            platform.close()
    schemas = sum(not home.is_other_database for home in apart.values())
    counted = f"{schemas} schemas and {len(apart) - schemas} databases of tenants"
    said = [f"{slugs[id_]}: {problem}" for id_, problem in problems.items() if problem]
    if said:
        return Check("places", False, f"{counted}; {'; '.join(said)}")
    return Check("places", True, f"{counted}, all reachable and at revision {wanted}")


def _revision(place: Database) -> str:
    with place.connection_apart(None) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else "none"


def _place_problem(owner: Database, wanted: str, tenant_id: UUID, home: Home) -> str | None:
    """What is wrong with one place and how it is mended; None where nothing is."""
    if home.is_moving:
        return (
            "on its way to another place, or being made; if that stays so, run"
            " 'interop tenant move --abort', or 'interop tenant create' again"
        )
    where = home.database_name if home.is_other_database else home.place
    try:
        found = _revision(owner.router.place_of(tenant_id))
    except PlaceOutdated as error:
        return str(error)
    except psycopg.errors.UndefinedTable:
        return f"{where} is not there, or empty: restore it from a backup"
    except Exception as error:
        return f"{where} cannot be reached ({type(error).__name__}): {_first_line(error)}"
    if found != wanted:
        return f"{where} is at revision {found}, not {wanted}: run 'interop migrate'"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _objects(settings: Settings) -> Check:
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
                busy.append(f"{name}={port} is in use: by this server, if it runs")
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


def _viewer(settings: Settings) -> Check:
    folder = settings.effective_viewer_dir
    viewer = ViewerFolder(folder).current()
    if viewer is None:
        return Check(
            "viewer", False, f"nothing in INTEROP_VIEWER_DIR ({folder}): {HOW_TO_ADD}", False
        )
    if problem := viewer.problem():
        return Check("viewer", False, f"{folder}: {problem}; remove it and {HOW_TO_ADD}")
    return Check("viewer", True, f"OHIF {VERSION}, {len(viewer.files)} files with their digests")
