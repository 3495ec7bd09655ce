"""Peers that retrieve, and destinations: what tests of C-MOVE, C-GET and sending share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelMove

from tests.dcmtk import free_port

DCIODVFY = shutil.which("dciodvfy")


@dataclass(frozen=True)
class Stored:
    """Two studies of one patient in the archive: one of two series, one of a single object."""

    study: str
    series: tuple[str, str]
    samples: list[Any]
    other_study: str
    other: Any


def rows(services: Any, tenant: Any, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with services.database.connection(tenant.id) as connection:
        found: list[tuple[Any, ...]] = connection.execute(
            sql, {"tenant_id": tenant.id, **values}
        ).fetchall()
    return found


def dcmtk(command: str | None, port: int, keys: dict[str, str], *options: str) -> Any:
    assert command is not None
    named = [word for key, value in keys.items() for word in ("-k", f"{key}={value}")]
    titles, peer = ["-aet", "PEER", "-aec", "INTEROP"], ["127.0.0.1", str(port)]
    return subprocess.run(
        [command, "-v", *titles, *options, *named, *peer],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def title_of(request: pytest.FixtureRequest) -> str:
    """An AE title of a test's own."""
    return f"D{abs(hash(request.node.name)) % 10**12:012d}"


@contextmanager
def accepting(
    handle: Callable[[Any], int], classes: tuple[Any, ...] = (CTImageStorage,)
) -> Iterator[int]:
    """A pynetdicom storage SCP."""
    entity = AE("ANY")
    for uid in classes:
        entity.add_supported_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    port = free_port()
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)]
    )
    try:
        yield port
    finally:
        server.shutdown()


def noting(
    found: list[Any], what: Callable[[Any], Any] = lambda event: event
) -> Callable[[Any], int]:
    """A handler of C-STORE that writes down what came, and takes it."""

    def handle(event: Any) -> int:
        found.append(what(event))
        return 0

    return handle


def study_identifier(study: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    return identifier


def move(
    port: int, title: str, study: str | Dataset, *, model: Any = None, message_id: int = 7
) -> list[Any]:
    """All responses of a C-MOVE of pynetdicom; the last identifier stands in `identifier`."""
    model = model or StudyRootQueryRetrieveInformationModelMove
    identifier = study if isinstance(study, Dataset) else study_identifier(study)
    entity = AE("PEER")
    entity.add_requested_context(model)
    association = entity.associate("127.0.0.1", port, ae_title="INTEROP")
    assert association.is_established
    found = []
    for status, answer in association.send_c_move(identifier, title, model, msg_id=message_id):
        status.answer = answer
        found.append(status)
    association.release()
    return found


def identifier_of(**values: Any) -> Dataset:
    identifier = Dataset()
    for name, value in values.items():
        setattr(identifier, name, value)
    return identifier


def retrieve_rq(wire: Any, model: str, field: int, title: str = "", message_id: int = 1) -> bytes:
    elements = [
        (0x0002, wire.even(model)),
        (0x0100, pack("<H", field)),
        (0x0110, pack("<H", message_id)),
    ]
    if title:
        elements.append((0x0600, title.encode().ljust(16)))
    elements += [(0x0700, pack("<H", 0)), (0x0800, pack("<H", 1))]
    return bytes(wire.command(*elements))


def errors(path: Path) -> set[str]:
    assert DCIODVFY is not None
    done = subprocess.run([DCIODVFY, str(path)], capture_output=True, text=True, timeout=60)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}
