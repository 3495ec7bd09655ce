"""Debian's Orthanc with its DICOMweb plugin as a peer to measure against.

It is helped where it needs help: `TCP_NODELAY=1` in its environment, without which every reply
waits 40 ms for a delayed ACK, the largest PDU, and as many threads as senders. Its own SQLite index
leaves its journal to the operating system; with its PostgreSQL plugin what it acknowledges is as
durable as what we acknowledge.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.live_server import free_port
from storage.embedded import SUPERUSER, EmbeddedPostgres

BINARY = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
POSTGRES_PLUGIN = PLUGIN.with_name("libOrthancPostgreSQLIndex.so")
START_SECONDS = 60.0


def is_installed() -> bool:
    return Path(BINARY).exists() and PLUGIN.exists()


def has_postgres() -> bool:
    return is_installed() and POSTGRES_PLUGIN.exists()


class Orthanc:
    """One Orthanc on free ports of the loopback interface, with SQLite and a folder of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        is_durable: bool = True,
        has_nodelay: bool = True,
        postgres: EmbeddedPostgres | None = None,
        **options: object,
    ) -> None:
        self.folder = folder
        self._postgres = postgres
        if postgres is not None:
            options["PostgreSQL"] = {
                "EnableIndex": True,
                "EnableStorage": False,
                "ConnectionUri": postgres.url(SUPERUSER, "postgres"),
                "Lock": False,
            }
        self.http_port, self.dicom_port = free_port(), free_port()
        self._has_nodelay = has_nodelay
        self._configuration = {
            "Name": "peer",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN), *([str(POSTGRES_PLUGIN)] if postgres else [])],
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "MaximumPduLength": 131072,
            "HttpThreadsCount": 50,
            "StorageCompression": False,
            # Whether files are synced to disk before the acknowledgement.
            "SyncStorageArea": is_durable,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **options,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicom_web(self) -> str:
        return f"{self.url}/dicom-web"

    def start(self) -> Self:
        (self.folder / "storage").mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self._configuration, indent=1))
        environment = {k: v for k, v in os.environ.items() if k != "TCP_NODELAY"}
        if self._has_nodelay:
            environment["TCP_NODELAY"] = "1"
        with (self.folder / "orthanc.log").open("ab") as log:
            # In a session of its own, as our server is: Linux shares the processor among sessions
            # first (autogroup), and what is in the session of its client is served twice as fast
            # beside other load.
            self.process = subprocess.Popen(
                [BINARY, str(configuration)],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        for port in (self.http_port, self.dicom_port):
            while not _accepts(port):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = (self.folder / "orthanc.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Orthanc did not start: {tail}")
                time.sleep(0.05)
        return self

    def processes(self) -> list[psutil.Process]:
        assert self.process is not None
        found = [psutil.Process(self.process.pid)]
        if self._postgres is not None and self._postgres.pid is not None:
            database = psutil.Process(self._postgres.pid)
            found += [database, *database.children(recursive=True)]
        return found

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
