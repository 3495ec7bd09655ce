"""Set up, send, wait for the AI, tell what happened, keep serving: `python -m interop.demo`."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from interop.access.scopes import Scopes
from interop.command_line import CommandFailed, Opened, opened
from interop.connections import open_tokens
from interop.demo import account, images, records
from interop.demo.clinic import DemoClinic
from interop.demo.images import DemoStudy
from interop.demo.patients import PATIENTS
from interop.demo.person import sign_in_of_dentist
from interop.progress import progress_bar
from interop.settings import Settings
from interop.viewer.package import ViewerFolder

STUDIES = (
    DemoStudy("PX", "Panoramic radiograph", PATIENTS[0], "20260914", "PX-2026-01"),
    DemoStudy("CT", "Cone beam CT of both jaws", PATIENTS[1], "20261005", "CT-2026-02"),
    DemoStudy("IO", "Periapical radiograph", PATIENTS[2], "20261005", "IO-2026-03"),
    DemoStudy("XC", "Intra-oral photograph", PATIENTS[2], "20261005", "XC-2026-04"),
)
err = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="interop.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after printing")
    arguments = parser.parse_args()
    try:
        run(Settings(), once=arguments.once)
    except CommandFailed as error:
        err.print(f"[red]error:[/red] {error}", soft_wrap=True)
        sys.exit(1)


def run(settings: Settings, *, once: bool) -> None:
    with serving(settings) as server, opened() as interop:
        clinic = prepare(interop)
        fill(clinic)
        files = make_images(settings.data_dir / "demo-images")
        send(clinic, files)
        found = clinic.wait_for_ai()
        has_viewer = ViewerFolder(settings.effective_viewer_dir).current() is not None
        sign_in = sign_in_of_dentist(interop, clinic.tenant) if has_viewer else None
        account.tell(clinic, STUDIES, files, found, sign_in)
        if once:
            return
        print("Serving until Ctrl-C.", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            print()


@contextmanager
def serving(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """`interop serve` as a child, ready; ended with the block."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = settings.data_dir / "server.log"
    with log_path.open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "interop.cli", "serve"],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    # A child of `make` gets Ctrl-C too; the server ends when this process says so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        assert server.stdout is not None
        line = server.stdout.readline().strip()
        if not line.startswith("ready"):
            server.wait()
            tail = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            raise CommandFailed("the server did not start: " + " ".join(tail))
        err.print(f"[green]{line}[/green], log {log_path}", soft_wrap=True)
        yield server
    finally:
        server.terminate()
        server.wait()


def prepare(interop: Opened) -> DemoClinic:
    """The tenant with its feature flag and the AE titles of common senders."""
    tenant = interop.tenants.by_slug("demo") or interop.tenants.create(
        "demo", name="Harbour Street Dental", ae_title="INTEROP"
    )
    with interop.database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO tenant_features (tenant_id, feature) VALUES (%s, 'AI_DIAGNOSTICS')"
            " ON CONFLICT DO NOTHING",
            (tenant.id,),
        )
        # The defaults of pynetdicom, of DCMTK's storescu, echoscu and dcmsend.
        for ae_title in ("PYNETDICOM", "STORESCU", "ECHOSCU", "DCMSEND"):
            connection.execute(
                "INSERT INTO dicom_application_entities (tenant_id, ae_title, may_send, may_query,"
                " may_be_sent_to, active) VALUES (%s, %s, true, true, false, true)"
                " ON CONFLICT DO NOTHING",
                (tenant.id, ae_title),
            )
    issuer = open_tokens(interop.settings, interop.database)
    token = issuer.issue(tenant, None, "operator", Scopes.parse("system/*.cruds"))
    return DemoClinic(interop.settings, interop.database, tenant, token)


def fill(clinic: DemoClinic) -> None:
    resources = list(records.resources())
    with progress_bar("patients and records", len(resources) + len(PATIENTS)) as advance:
        for resource in resources:
            clinic.put_resource(resource)
            advance()
        with clinic.database.connection(clinic.tenant.id) as connection:
            records.write_rows(connection, clinic.tenant.id, advance)


def make_images(folder: Path) -> dict[str, list[Path]]:
    total = len(STUDIES) - 1 + images.CBCT_SLICES
    files: dict[str, list[Path]] = {}
    with progress_bar("synthetic images", total) as advance:
        for study in STUDIES:
            files[study.kind] = []
            for path in images.write_study(study, folder):
                files[study.kind].append(path)
                advance()
    return files


def send(clinic: DemoClinic, files: dict[str, list[Path]]) -> None:
    """Radiographs by C-STORE, the photograph by STOW-RS."""
    by_dimse = [path for kind, paths in files.items() if kind != "XC" for path in paths]
    with progress_bar("C-STORE", len(by_dimse)) as advance:
        clinic.c_store(by_dimse, lambda _: advance())
    with progress_bar("STOW-RS", len(files["XC"])) as advance:
        clinic.stow(files["XC"])
        advance(len(files["XC"]))


if __name__ == "__main__":
    main()
