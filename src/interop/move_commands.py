"""`interop tenant move`: a tenant goes to another place while its clients read and write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from interop.command_line import CommandFailed, JsonOption, opened, out, show
from interop.tenant_commands import tenant_app
from storage.database import Database

if TYPE_CHECKING:
    from storage.partitions.moving import Event, Moved
    from storage.partitions.moving_state import State

__all__ = ["tenant_app"]

# What a step of the move means to whoever waits for its end.
SAID = {
    "planned": "making the place",
    "prepared": "place made; noting changes from now on",
    "counted": "copying",
    "copied": "copied; bringing what has changed meanwhile",
    "caught up": "comparing",
    "compared": "last step: clients wait",
    "put off": "put off, so that clients need not wait for too long; trying again",
    "settled": "moved; removing what is left at the old place",
}


@tenant_app.command("move")
def tenant_move(
    slug: Annotated[str | None, typer.Argument(help="Slug of the tenant.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="ROW_LEVEL, SCHEMA or DATABASE.")] = None,
    database_url: Annotated[
        str | None,
        typer.Option(help="An empty database elsewhere, by its owner's URL (DATABASE only)."),
    ] = None,
    abort: Annotated[
        bool, typer.Option("--abort", help="Undo a move that was cut off, or finish it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Move a tenant between shared tables, a schema and a database, while its clients go on.

    Its rows are copied and compared before the switch, which clients notice as a pause of a second
    or so. A move that was cut off is undone, or finished, by the next one or by --abort.
    """
    from storage.partitions.moving import MoveFailed, move, recover
    from storage.partitions.moving_state import MoveUnderWay

    if not abort and (slug is None or to is None):
        raise CommandFailed("SLUG and --to are needed: interop tenant move demo --to SCHEMA")
    with opened() as interop:
        owner = Database(interop.owner_url)
        owner.vault = interop.database.vault
        try:
            if slug is None or to is None:
                _tell_recovered(recover(owner), as_json)
                return
            tenant = interop.tenants.even_closed(slug)
            if tenant is None:
                raise CommandFailed(f"there is no tenant {slug!r}")
            with _Progress(quiet=as_json) as progress:
                moved = move(owner, tenant.id, to, database_url, told=progress.tell)
        except (MoveFailed, MoveUnderWay) as error:
            raise CommandFailed(str(error)) from error
        finally:
            owner.close()
    _tell(slug, moved, as_json)


class _Progress:
    """What the move is doing, on standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True, quiet=quiet),
        )
        self._task = self._progress.add_task("making the place", total=None)

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, event: Event) -> None:
        if event.step == "copying":
            self._progress.update(self._task, description=f"copying {event.table}")
            self._progress.advance(self._task, event.rows)
            return
        if event.step == "counted":
            self._progress.update(self._task, total=event.rows)
        if event.step in SAID:
            self._progress.update(self._task, description=SAID[event.step])


def _tell(slug: str, moved: Moved, as_json: bool) -> None:
    rows = {table: count for table, count in moved.rows.items() if count}
    said: dict[str, Any] = {
        "tenant": slug,
        "from": moved.source.strategy,
        "to": moved.destination.strategy,
        "rows": sum(rows.values()),
        "changes_meanwhile": moved.changes,
        "jobs": moved.jobs,
        "accounts_kept_there": moved.kept_accounts,
        "copy_seconds": round(moved.copy_seconds, 2),
        "held_seconds": round(moved.held_seconds, 2),
        "compared": "in full" if moved.is_compared_in_full else "in full before, changes after",
    }
    if as_json:
        print(json.dumps({**said, "tables": rows}, default=str))
        return
    table = Table("Table", "Rows", box=None)
    table.columns[1].justify = "right"
    for name, count in sorted(rows.items()):
        table.add_row(name, f"{count:,}")
    out.print(table)
    show(said, as_json=False)


def _tell_recovered(state: State | None, as_json: bool) -> None:
    if state is None:
        show({"recovered": "nothing: no move was cut off"}, as_json)
        return
    ended = "finished" if state.phase == "SWITCHED" else "undone"
    lives = state.destination if state.phase == "SWITCHED" else state.source
    show({"tenant_id": state.tenant_id, "recovered": ended, "lives": lives.strategy}, as_json)
