"""Who may associate, how many at a time, and how the listener stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from benchmarks.live_server import free_port
from interop.dimse.policy import AssociationLimits
from interop.dimse.transport_guard import TransportLimits
from storage.database import Database

# PS3.8 Table 9-21: (result, source, reason) of an A-ASSOCIATE-RJ behind a reserved byte.
CALLING_UNKNOWN = (3, b"\0\1\1\3")
CALLED_UNKNOWN = (3, b"\0\1\1\7")
APPLICATION_CONTEXT = (3, b"\0\1\1\2")
PROTOCOL_VERSION = (3, b"\0\1\2\2")
LOCAL_LIMIT = (3, b"\0\2\3\2")
CONGESTION = (3, b"\0\2\3\1")


def set_any_calling(running: Any, tenant: Any, allowed: bool) -> None:
    with running.services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE tenant_settings SET allow_any_calling_ae = %s WHERE tenant_id = %s",
            (allowed, tenant.id),
        )


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"called": "NOBODY"}, CALLED_UNKNOWN),
        ({"called": ""}, CALLED_UNKNOWN),
        ({"called": "interop"}, CALLED_UNKNOWN),
        ({"called": "../OTHER"}, CALLED_UNKNOWN),
        ({"calling": "STRANGER"}, CALLING_UNKNOWN),
        ({"calling": ""}, CALLING_UNKNOWN),
        ({"calling": "STRANGER", "called": "NOBODY"}, CALLED_UNKNOWN),
        ({"application_context": "1.2.840.10008.3.1.1.2"}, APPLICATION_CONTEXT),
        ({"version": 2}, PROTOCOL_VERSION),
    ],
)
def test_a9_refusals_are_those_of_the_standard(
    start: Any, connect: Any, changes: dict[str, Any], answer: tuple[int, bytes]
) -> None:
    peer = connect(start().port)

    assert peer.associate(**changes) == answer
    assert peer.receive_pdu() is None


@pytest.mark.parametrize("title", ["INTEROP", "  INTEROP  ", "INTEROP\0\0"])
def test_padding_of_ae_titles_does_not_count(start: Any, connect: Any, title: str) -> None:
    assert connect(start().port).associate(called=title)[0] == 2


@pytest.mark.parametrize(
    ("title", "columns", "is_accepted"),
    [
        ("MUTE", {"may_send": False, "may_query": False}, False),
        ("RETIRED", {"active": False}, False),
        ("ELSEWHERE", {"host": "192.0.2.7"}, False),
        ("NOWHERE", {"host": "no-such-host.invalid"}, False),
        ("HERE", {"host": "127.0.0.1"}, True),
        ("HERE6", {"host": "::ffff:127.0.0.1"}, True),
        ("NAMED", {"host": "localhost"}, True),
        ("NETWORK", {"source_networks": ["192.0.2.0/24", "127.0.0.0/8"]}, True),
        ("OTHERNET", {"source_networks": ["192.0.2.0/24", "::/0"]}, False),
        # Networks stand for the address: behind a NAT a device calls from another than its own.
        ("NATTED", {"host": "192.0.2.7", "source_networks": ["127.0.0.1/32"]}, True),
        ("SOON", {"valid_from": "2999-01-01"}, False),
        ("OVER", {"valid_until": "2020-01-01"}, False),
        ("NOW", {"valid_from": "2020-01-01", "valid_until": "2999-01-01"}, True),
        ("TLSONLY", {"require_tls": True}, False),
        ("PINNED", {"certificate_fingerprints": ["ab" * 32]}, False),
        ("NAMEDPIN", {"certificate_subject": "CN=pano-1"}, False),
    ],
)
def test_a9_what_is_registered_decides(
    start: Any,
    connect: Any,
    registered: Any,
    title: str,
    columns: dict[str, Any],
    is_accepted: bool,
) -> None:
    registered(title, **columns)

    answer = connect(start().port).associate(calling=title)

    assert answer[0] == 2 if is_accepted else answer == CALLING_UNKNOWN


def test_an_entity_that_may_not_send_is_offered_no_storage(
    start: Any, connect: Any, registered: Any
) -> None:
    registered("ASKER", may_send=False)
    peer = connect(start().port)

    accepted = peer.associate(calling="ASKER")

    assert accepted[0] == 2
    # PS3.8 Table 9-18: 3 is "abstract syntax not supported", 0 is acceptance.
    assert _results(accepted[1]) == {1: 3, 3: 0}
    assert peer.echo().status == 0


def _results(accept: bytes) -> dict[int, int]:
    """Result by presentation context id, of the body of an A-ASSOCIATE-AC."""
    at, found = 68, {}
    while at < len(accept):
        kind, length = accept[at], int.from_bytes(accept[at + 2 : at + 4], "big")
        if kind == 0x21:
            found[accept[at + 4]] = accept[at + 6]
        at += 4 + length
    return found


def test_a9_registered_with_one_tenant_is_unknown_to_the_other(
    start: Any, connect: Any, registered: Any
) -> None:
    registered("ONLYDEMO")
    port = start().port

    assert connect(port).associate(calling="ONLYDEMO")[0] == 2
    assert connect(port).associate(calling="ONLYDEMO", called="OTHER") == CALLING_UNKNOWN


def test_an_ae_title_works_as_soon_as_it_is_registered(
    start: Any, connect: Any, registered: Any
) -> None:
    port = start().port
    assert connect(port).associate(calling="NEWCOMER") == CALLING_UNKNOWN

    registered("NEWCOMER")

    assert connect(port).associate(calling="NEWCOMER")[0] == 2


def test_a_tenant_may_allow_any_caller(start: Any, connect: Any, tenant: Any) -> None:
    running = start()
    set_any_calling(running, tenant, True)
    try:
        assert connect(running.port).associate(calling="ANYBODY")[0] == 2
        assert connect(running.port).associate(calling="ANYBODY", called="OTHER")[0] == 3
    finally:
        set_any_calling(running, tenant, False)


def test_a9_refusals_are_written_down_and_a_flood_of_them_is_not(
    start: Any, connect: Any, tenant: Any, eventually: Any
) -> None:
    running = start()
    for _ in range(40):
        assert connect(running.port).associate(calling="FLOOD") == CALLING_UNKNOWN

    def recorded() -> list[tuple[Any, ...]]:
        with running.services.database.connection(tenant.id) as connection:
            found: list[tuple[Any, ...]] = connection.execute(
                "SELECT status, remote_address, called_ae_title FROM dicom_transactions"
                " WHERE tenant_id = %s AND operation = 'A-ASSOCIATE' AND calling_ae_title = %s",
                (tenant.id, "FLOOD"),
            ).fetchall()
        return found

    assert eventually(lambda: len(recorded()) >= 10)
    running.end()
    assert set(recorded()) == {("FAILURE", "127.0.0.1", "INTEROP")}
    assert len(recorded()) < 15
    assert connect(start().port).associate(calling="PEER")[0] == 2


def refused(services: Any, tenant: Any, title: str) -> list[tuple[Any, ...]]:
    with services.database.connection(tenant.id) as connection:
        found: list[tuple[Any, ...]] = connection.execute(
            "SELECT outcome, ip_address, metadata FROM audit_events WHERE tenant_id = %s"
            " AND event_type = 'DICOM_ASSOCIATION_REJECTED'"
            " AND metadata->'calling_ae_titles' ? %s ORDER BY timestamp",
            (tenant.id, title),
        ).fetchall()
    return found


def test_a9_a_flood_of_refusals_is_one_audit_row_at_once_and_one_with_the_count(
    start: Any, connect: Any, tenant: Any, eventually: Any
) -> None:
    running = start()
    for _ in range(30):
        assert connect(running.port).associate(calling="PROBE") == CALLING_UNKNOWN
    assert eventually(lambda: len(refused(running.services, tenant, "PROBE")) == 1)

    running.end()

    rows = refused(running.services, tenant, "PROBE")
    assert [(row[0], row[1], row[2]["count"]) for row in rows] == [
        ("FAILURE", "127.0.0.1", 1),
        ("FAILURE", "127.0.0.1", 29),
    ]
    assert rows[0][2]["code"] == "1/1/3"
    assert rows[0][2]["dicom_event_type"] == "110126"


def test_a9_text_of_a_stranger_is_written_as_text(
    start: Any, connect: Any, tenant: Any, eventually: Any
) -> None:
    running = start()

    connect(running.port).associate(calling="a\0'; DROP --")

    title = "a\N{REPLACEMENT CHARACTER}'; DROP --"
    assert eventually(lambda: len(refused(running.services, tenant, title)) == 1)


def test_a9_a_source_that_invents_titles_is_not_looked_up_for_ever(
    start: Any, connect: Any, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interop.dimse.refusals.MAX_LOOKUPS", 5)
    registered("LATE")
    running = start()
    assert connect(running.port).associate(calling="PEER")[0] == 2
    for number in range(5):
        assert connect(running.port).associate(calling=f"GUESS{number}") == CALLING_UNKNOWN

    assert connect(running.port).associate(calling="GUESS5") == LOCAL_LIMIT
    assert connect(running.port).associate(called="NOBODY") == LOCAL_LIMIT
    # A good device behind the same address: one that was seen goes on, a new one tries again.
    assert connect(running.port).associate(calling="PEER")[0] == 2
    assert connect(running.port).associate(calling="LATE") == LOCAL_LIMIT


def test_an_association_and_its_echo_are_audited_once_each(
    start: Any, connect: Any, registered: Any, tenant: Any, eventually: Any
) -> None:
    registered("BEGINNER")
    running = start()
    peer = connect(running.port)
    peer.associate(calling="BEGINNER")
    peer.echo()
    peer.release()
    running.end()

    with running.services.database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT e.event_type, e.outcome, e.ip_address, a.ae_title"
            " FROM audit_events e JOIN dicom_application_entities a"
            " ON a.tenant_id = e.tenant_id AND a.id::text = e.resource_id"
            " WHERE e.tenant_id = %s AND a.ae_title = 'BEGINNER' ORDER BY e.event_type",
            (tenant.id,),
        ).fetchall()
    assert rows == [
        ("DICOM_ASSOCIATION_BEGAN", "SUCCESS", "127.0.0.1", "BEGINNER"),
        ("DICOM_ECHO", "SUCCESS", "127.0.0.1", "BEGINNER"),
    ]


# -- limits -----------------------------------------------------------------------------------


def test_the_limit_of_an_entity_holds_for_all_its_addresses(
    start: Any, connect: Any, registered: Any
) -> None:
    registered("NARROW", max_associations=2)
    running = start()
    peers = [connect(running.port) for _ in range(2)]
    assert [peer.associate(calling="NARROW")[0] for peer in peers] == [2, 2]

    assert connect(running.port).associate(calling="NARROW") == LOCAL_LIMIT
    assert connect(running.port).associate(calling="PEER")[0] == 2

    peers[0].release()
    assert connect(running.port).associate(calling="NARROW")[0] == 2


def test_the_limit_of_an_entity_may_be_wider_than_the_default(
    start: Any, connect: Any, registered: Any
) -> None:
    registered("WIDE", max_associations=4)
    running = start(associations=AssociationLimits(per_peer=2))
    peers = [connect(running.port) for _ in range(4)]

    assert [peer.associate(calling="WIDE")[0] for peer in peers] == [2, 2, 2, 2]
    assert connect(running.port).associate(calling="WIDE") == LOCAL_LIMIT


def test_a_tenants_quota_of_associations_holds_over_listeners_of_a_machine(
    start: Any, connect: Any, tenant: Any, services: Any, tmp_path: Any, eventually: Any
) -> None:
    with services.database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO tenant_quotas (tenant_id, max_dicom_associations) VALUES (%s, 3)",
            (tenant.id,),
        )
    try:
        # Two processes would be two instances over one folder; here the locks of another process
        # stand for the second one.
        other = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(tmp_path), "demo"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert other.stdout is not None and other.stdout.readline() == "taken\n"
        running = start(places_dir=tmp_path)
        first = connect(running.port)
        assert first.associate()[0] == 2
        assert connect(running.port).associate() == LOCAL_LIMIT
        assert connect(running.port).associate(called="OTHER")[0] == 2

        other.kill()  # no farewell: the kernel gives its places back
        other.communicate()

        assert connect(running.port).associate()[0] == 2
        first.release()
        assert eventually(lambda: connect(running.port).associate()[0] == 2)
    finally:
        with services.database.connection(tenant.id) as connection:
            connection.execute("DELETE FROM tenant_quotas WHERE tenant_id = %s", (tenant.id,))


_HOLDER = """
import sys
from pathlib import Path
from interop.dimse.places import SharedPlaces
places = SharedPlaces(Path(sys.argv[1]))
assert places.take(sys.argv[2], 3) and places.take(sys.argv[2], 3)
print("taken", flush=True)
sys.stdin.read()
"""


def test_objects_beyond_the_limit_of_a_minute_are_refused_and_the_sender_may_try_again(
    start: Any, connect: Any, registered: Any, make_ct: Any
) -> None:
    registered("BUSY", max_objects_per_minute=2)
    running = start()
    peer = connect(running.port)
    peer.associate(calling="BUSY")

    statuses = [peer.store(make_ct(), message_id=number).status for number in (1, 2)]
    refused_response = peer.store(make_ct(), message_id=3)

    assert statuses == [0, 0]
    assert refused_response.status == 0xA700
    assert "2 objects a minute" in refused_response.comment
    other = connect(running.port)
    other.associate(calling="PEER")
    assert other.store(make_ct()).status == 0


def test_bytes_beyond_the_limit_of_a_minute_are_refused(
    start: Any, connect: Any, registered: Any, make_ct: Any
) -> None:
    registered("HEAVY", max_bytes_per_minute=100_000)
    peer = connect(start().port)
    peer.associate(calling="HEAVY")

    # The object that uses up the budget is taken whole.
    assert peer.store(make_ct(256), message_id=1).status == 0
    assert peer.store(make_ct(), message_id=2).status == 0xA700


@pytest.mark.parametrize(
    "limits",
    [
        AssociationLimits(per_process=3, per_tenant=9, per_peer=9),
        AssociationLimits(per_process=9, per_tenant=3, per_peer=9),
        AssociationLimits(per_process=9, per_tenant=9, per_peer=3),
    ],
)
def test_one_association_too_many_is_a_clean_transient_refusal(
    start: Any, connect: Any, limits: AssociationLimits, eventually: Any
) -> None:
    running = start(associations=limits)
    peers = [connect(running.port) for _ in range(3)]
    assert [peer.associate()[0] for peer in peers] == [2, 2, 2]

    assert connect(running.port).associate() == LOCAL_LIMIT

    peers[0].release()
    assert connect(running.port).associate()[0] == 2
    peers[1].close()
    assert eventually(lambda: connect(running.port).associate()[0] == 2)


def test_the_limit_of_one_tenant_leaves_room_for_others(start: Any, connect: Any) -> None:
    running = start(associations=AssociationLimits(per_process=9, per_tenant=1, per_peer=9))
    first, second = connect(running.port), connect(running.port)

    assert first.associate()[0] == 2
    assert second.associate(called="OTHER")[0] == 2


def test_a_database_that_is_down_is_a_transient_refusal(
    start: Any, connect: Any, services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    gone = Database("postgresql://nobody@127.0.0.1:1/none")

    def refuse(*_: Any) -> Any:
        return psycopg.connect(gone.conninfo)

    monkeypatch.setattr(services.database, "connection", refuse)
    monkeypatch.setattr(services.database, "platform_connection", refuse)
    services.tenants.forget()

    assert connect(running.port).associate(calling="UNSEEN") == CONGESTION


# -- stopping ---------------------------------------------------------------------------------


def test_a_stop_ends_idle_associations_and_takes_no_new_ones(start: Any, connect: Any) -> None:
    running = start()
    idle, pending = connect(running.port), connect(running.port)
    idle.associate()
    began = time.monotonic()

    running.stop.set()

    idle.assert_aborted()
    assert pending.receive_pdu() is None
    assert time.monotonic() - began < 5
    running.thread.join(5)
    with pytest.raises(OSError):
        connect(running.port)


def test_a_stop_finishes_the_message_in_flight(
    start: Any, connect: Any, make_ct: Any, wire: Any
) -> None:
    running = start()
    sample = make_ct(300)
    peer = connect(running.port)
    peer.associate()
    half = len(sample.dataset) // 2
    peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq(sample.sop_instance_uid))))
    peer.send(wire.pdu(4, wire.pdv(1, 0, sample.dataset[:half])))
    time.sleep(0.2)

    running.stop.set()
    time.sleep(0.8)
    peer.send(wire.pdu(4, wire.pdv(1, 2, sample.dataset[half:])))

    assert peer.response().status == 0
    peer.assert_aborted()


def test_a_stop_does_not_wait_for_ever(
    start: Any, connect: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interop.dimse.scp.DRAIN_SECONDS", 1.0)
    running = start(TransportLimits())
    peer = connect(running.port)
    peer.associate()
    peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq("1.2.3")) + wire.pdv(1, 0, bytes(10))))
    time.sleep(0.1)

    running.stop.set()

    peer.assert_aborted()
    running.thread.join(5)
    assert not running.thread.is_alive()


_WORKER = """
import sys
from pathlib import Path
from interop.dicom.ingest import Ingest
from interop.dicom.spool import Spool
from interop.dimse import scp
from interop.settings import Settings
from storage.database import Database
from storage.objects import open_object_store
from storage.tenancy import TenantDirectory

url, data, port = sys.argv[1:]
class Services:
    settings = Settings(data_dir=Path(data), dicom_port=int(port))
    database = Database(url)
    tenants = TenantDirectory(database)
    spool = Spool(settings.spool_dir)
    objects = open_object_store(settings.effective_objects_url)
    ingest = Ingest(database, objects, spool)
scp.run(Services())
Services.ingest.close()
Services.spool.close()
Services.database.close()
print("drained", flush=True)
"""


def test_sigterm_drains_a_worker_and_workers_share_a_port(
    connect: Any, services: Any, make_ct: Any, tmp_path: Any, eventually: Any, wire: Any
) -> None:
    port = free_port()
    argv = [sys.executable, "-c", _WORKER, services.database.url, str(tmp_path), str(port)]
    workers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert eventually(lambda: _listening(port) == 2, 60)
        peers = [connect(port) for _ in range(12)]
        assert {peer.associate()[0] for peer in peers} == {2}
        samples = [make_ct() for _ in peers]
        assert {p.store(s).status for p, s in zip(peers, samples, strict=True)} == {0}

        for worker in workers:
            worker.send_signal(signal.SIGTERM)

        for peer in peers:
            peer.assert_aborted()
        assert [worker.communicate(timeout=20)[0] for worker in workers] == ["drained\n"] * 2
        assert [worker.returncode for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()


def _listening(port: int) -> int:
    """How many sockets listen on this loopback port."""
    wanted = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as table:
        return sum(line.split()[1] == wanted and line.split()[3] == "0A" for line in table)


def test_threads_end_with_their_connections(start: Any, connect: Any, eventually: Any) -> None:
    running = start()
    for _ in range(50):
        peer = connect(running.port)
        peer.associate()
        peer.close()

    assert eventually(
        lambda: "dimse-association" not in {thread.name for thread in threading.enumerate()}
    )
