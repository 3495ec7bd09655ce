"""The three roles as processes: `python -m interop.roles http|dicom|worker`.

Started by the supervisor with a database that runs and is migrated.
"""

from __future__ import annotations

import sys

from interop.logs import configure_logging
from interop.settings import Settings


def run_http(settings: Settings) -> None:
    """Granian workers over `interop.app:create`."""
    from granian import Granian
    from granian.constants import Interfaces, Loops
    from granian.log import LogLevels

    Granian(
        "interop.app:create",
        address=settings.http_host,
        port=settings.http_port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=settings.http_workers,
        loop=Loops.uvloop,
        log_level=LogLevels.warning,
        backlog=1024,
        respawn_failed_workers=True,
    ).serve()


def run_dicom(settings: Settings) -> None:
    """DIMSE workers on one port."""
    from interop.dimse import scp
    from interop.services import open_services

    services = open_services(settings)
    services.spool.clean()
    try:
        scp.run(services)
    finally:
        services.close()


def run_worker(settings: Settings) -> None:
    """Jobs: study completeness, AI, rendering of stale FHIR resources, sweep."""
    from interop.worker import run

    run(settings)


def main() -> None:
    role = {"http": run_http, "dicom": run_dicom, "worker": run_worker}[sys.argv[1]]
    settings = Settings()
    configure_logging(settings.log_level)
    role(settings)


if __name__ == "__main__":
    main()
