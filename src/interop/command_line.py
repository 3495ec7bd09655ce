"""What every command of `interop` needs: settings, database, tenant, and how data is printed.

Apart from interop.cli, so that commands may live beside what they are about: `python -m
interop.cli` is another module than `interop.cli`, and nothing may import from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from interop.logs import configure_logging
from interop.settings import Settings
from storage.database import Database
from storage.tenancy import Tenant, TenantDirectory

out = Console()
err = Console(stderr=True)

TenantOption = Annotated[str, typer.Option("--tenant", help="Slug of the tenant.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class CommandFailed(Exception):
    """The command could not do its work; the message says what to change."""


def read_settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        lines = "; ".join(
            f"INTEROP_{str(e['loc'][0]).upper() if e['loc'] else '?'}: {e['msg']}"
            for e in error.errors()
        )
        raise CommandFailed(f"settings: {lines}") from error


@dataclass(frozen=True)
class Opened:
    """What most commands work on."""

    settings: Settings
    owner_url: str
    database: Database
    tenants: TenantDirectory


@contextmanager
def opened() -> Iterator[Opened]:
    """Settings, database and tenants, with the embedded database started when needed."""
    from interop.connections import open_database
    from interop.supervisor import running_database

    settings = read_settings()
    configure_logging("ERROR")
    with running_database(settings) as running:
        database = open_database(running.settings)
        try:
            yield Opened(running.settings, running.owner_url, database, TenantDirectory(database))
        finally:
            database.close()


def require(tenants: TenantDirectory, slug: str) -> Tenant:
    tenant = tenants.by_slug(slug)
    if tenant is None:
        known = ", ".join(t.slug for t in tenants.all_active()) or "none yet"
        raise CommandFailed(f"there is no tenant {slug!r} (known: {known})")
    return tenant


def show(data: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(data, default=str))
        return
    table = Table(show_header=False, box=None)
    for key, value in data.items():
        table.add_row(f"[bold]{key}[/bold]", str(value))
    out.print(table)
