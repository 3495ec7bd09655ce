"""Three DIMSE processes on one port, three hundred associations that store at the same moment.

One process is killed in the middle. Every object that was acknowledged is there, once and byte for
byte, and the counts that all processes write into the same rows are right.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import psutil
import pytest

from benchmarks.dimse_sender import Association, Instance
from benchmarks.live_server import free_port
from storage.database import Database
from storage.objects import open_object_store
from storage.tenancy import Tenant
from tests.integration.dimse.conftest import register
from tests.waiting import eventually

PROCESSES = 3
ASSOCIATIONS = 300
STUDIES = 5
PLACEHOLDER = "2.25." + "1" * 38
Pair = tuple[Instance, Instance]


@dataclass
class Servers:
    """The DIMSE processes behind one port, over one data folder."""

    port: int
    folder: Path
    processes: list[psutil.Popen]

    def connections(self) -> list[int]:
        """How many associations each process holds."""
        return [
            sum(1 for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED
                and c.laddr.port == self.port)
            for process in self.processes
        ]  # fmt: skip

    def all_listen(self) -> bool:
        return all(
            any(c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp"))
            for process in self.processes
        )


@pytest.fixture
def servers(database: Database, tenant: Tenant, tmp_path: Path) -> Iterator[Servers]:
    with database.connection(tenant.id) as connection:
        register(connection, tenant, "MANY", max_associations=ASSOCIATIONS + 10)
        connection.execute(
            "INSERT INTO tenant_quotas (tenant_id, max_dicom_associations) VALUES (%s, %s)",
            (tenant.id, ASSOCIATIONS + 10),
        )
    port = free_port()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("INTEROP_")},
        "INTEROP_DATABASE_URL": database.url,
        "INTEROP_DATA_DIR": str(tmp_path),
        "INTEROP_DICOM_PORT": str(port),
    }
    command = [sys.executable, "-m", "interop.roles", "dicom"]
    processes = [psutil.Popen(command, env=environment) for _ in range(PROCESSES)]
    try:
        found = Servers(port, tmp_path, processes)
        assert eventually(found.all_listen, 30)
        yield found
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


@pytest.fixture
def pairs(make_ct: Any) -> list[Pair]:
    """Two small objects for each association, of studies that the associations share."""
    templates = [
        make_ct(SOPInstanceUID=PLACEHOLDER, SeriesNumber=number) for number in range(STUDIES)
    ]

    def instance(number: int) -> Instance:
        sample = templates[number % STUDIES]
        uid = f"2.25.{number + 10**37}"
        data = sample.dataset.replace(PLACEHOLDER.encode(), uid.encode())
        return Instance(sample.sop_class_uid, uid, sample.transfer_syntax_uid, data)

    return [(instance(2 * n), instance(2 * n + 1)) for n in range(ASSOCIATIONS)]


def associate(servers: Servers, pair: Pair) -> Association:
    contexts = [(pair[0].sop_class_uid, pair[0].transfer_syntax_uid)]
    return Association(servers.port, contexts, calling="MANY")


def store_all(
    servers: Servers, associations: list[Association], instances: list[Instance], victim: Any = None
) -> set[str]:
    """Store one object over each association at the same moment; the UIDs that were acknowledged.

    With a `victim` that process is killed as soon as some of them are.
    """
    together = Barrier(len(associations))
    acknowledged: set[str] = set()

    def store(association: Association, instance: Instance) -> None:
        together.wait(30)
        try:
            status = association.store(instance)
        except OSError:
            assert victim is not None
            return
        assert status == 0
        acknowledged.add(instance.sop_instance_uid)
        if victim is not None and len(acknowledged) == ASSOCIATIONS // 10:
            victim.send_signal(signal.SIGKILL)

    with ThreadPoolExecutor(len(associations)) as threads:
        list(threads.map(store, associations, instances))
    return acknowledged


def test_three_hundred_associations_store_at_once_and_a_killed_process_loses_nothing(
    servers: Servers, pairs: list[Pair], database: Database, tenant: Tenant
) -> None:
    associations = [associate(servers, pair) for pair in pairs]
    shares = servers.connections()
    assert sum(shares) == ASSOCIATIONS
    assert min(shares) > ASSOCIATIONS // 10

    first = store_all(servers, associations, [pair[0] for pair in pairs])
    assert len(first) == ASSOCIATIONS
    second = store_all(
        servers, associations, [pair[1] for pair in pairs], victim=servers.processes[0]
    )
    assert ASSOCIATIONS // 10 <= len(second) < ASSOCIATIONS

    # Who was cut off comes again, to the processes that are left.
    for association in associations:
        association.close()
    cut = [pair for pair in pairs if pair[1].sop_instance_uid not in second]
    again = [associate(servers, pair) for pair in cut]
    second |= store_all(servers, again, [pair[1] for pair in cut])
    assert len(second) == ASSOCIATIONS
    for association in again:
        association.release()

    sent = {one.sop_instance_uid: one.data_set for pair in pairs for one in pair}
    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT sop_instance_uid, storage_uri FROM imaging_objects"
            " WHERE tenant_id = %s AND source_ae_title = 'MANY'",
            (tenant.id,),
        ).fetchall()
        counts = connection.execute(
            "SELECT count(*)::int, sum(number_of_instances)::int, sum(number_of_series)::int"
            " FROM imaging_studies WHERE tenant_id = %s", (tenant.id,)
        ).fetchone()  # fmt: skip
    assert len(rows) == len(sent)
    assert counts == (STUDIES, len(sent), STUDIES)
    objects = open_object_store(f"file://{servers.folder / 'objects'}")
    assert all(objects.get(key).endswith(sent[uid]) for uid, key in rows)
