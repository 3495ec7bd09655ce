"""DCMTK's storescp as the peer that objects are sent to, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import unpack_from

from tests.waiting import eventually

STORESCP = shutil.which("storescp")


@dataclass(frozen=True)
class Storescp:
    """A storescp that is listening, and what it has received."""

    port: int
    folder: Path

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def data_sets(self) -> dict[str, bytes]:
        """The data set bytes of what arrived, by SOP Instance UID as the file's name ends."""
        found = {}
        for path in self.files():
            raw = path.read_bytes()
            found[path.name.partition(".")[2]] = raw[144 + unpack_from("<I", raw, 140)[0] :]
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def storescp(folder: Path, *options: str, ae_title: str = "STORESCP") -> Iterator[Storescp]:
    """Run storescp with its options; it writes what it reads, unchanged."""
    assert STORESCP is not None
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [STORESCP, "+B", "-aet", ae_title, "-od", str(folder), *options, str(port)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: _listens(port)), "storescp does not listen"
        yield Storescp(port, folder)
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
