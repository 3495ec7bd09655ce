"""Three hundred associations at a time, and many operations at a time on one."""

from __future__ import annotations

import threading
from struct import pack, unpack_from
from typing import Any

from interop.dimse.policy import AssociationLimits
from interop.dimse.transport_guard import TransportLimits
from tests.integration.dimse.finding import STUDY_ROOT, with_user_item

IMPLICIT = "1.2.840.10008.1.2"
VERIFICATION = "1.2.840.10008.1.1"
ASSOCIATIONS = 300
PATIENT = TransportLimits(idle_seconds=120.0)


def test_three_hundred_associations_ask_and_idle(
    start: Any, connect: Any, wire: Any, rss_growth: Any, eventually: Any
) -> None:
    unlimited = AssociationLimits(ASSOCIATIONS + 10, ASSOCIATIONS + 10, ASSOCIATIONS + 10)
    running = start(PATIENT, unlimited)
    before = threading.active_count()
    level = pack("<HHI", 0x0008, 0x0052, 6) + b"STUDY "
    asked = wire.command(
        (0x0002, wire.even(STUDY_ROOT)),
        (0x0100, pack("<H", 0x0020)),
        (0x0110, pack("<H", 1)),
        (0x0800, pack("<H", 1)),
    )
    request = wire.pdu(4, wire.pdv(1, 3, asked)) + wire.pdu(4, wire.pdv(1, 2, level))
    contexts = ((1, STUDY_ROOT, (IMPLICIT,)), (3, VERIFICATION, (IMPLICIT,)))

    with rss_growth() as growth:
        peers = [connect(running.port) for _ in range(ASSOCIATIONS)]
        for peer in peers:
            assert peer.associate(contexts=contexts)[0] == 2
        # All at once: none waits for a connection of the database that another holds.
        for peer in peers:
            peer.send(request)
        assert {peer.response().status for peer in peers} == {0}
        assert {peer.echo().status for peer in peers} == {0}

        # One more watches the memory.
        assert threading.active_count() - before <= ASSOCIATIONS + 1
        # Both ends of every connection are in this process.
        assert growth() < ASSOCIATIONS * (256 << 10)
    for peer in peers:
        peer.release()

    assert eventually(lambda: threading.active_count() <= before)
    assert running.listener.connection_count == 0


def test_objects_that_are_sent_without_waiting_are_answered_in_their_order(
    start: Any, connect: Any, wire: Any, make_ct: Any
) -> None:
    request = wire.associate_rq()
    window = pack(">BxHHH", 0x53, 4, 0, 0)  # as many as one likes
    peer = connect(start().port)
    peer.send(with_user_item(request, window))
    assert pack(">BxHHH", 0x53, 4, 16, 1) in peer.receive_pdu()[1]
    samples = [make_ct(side=64) for _ in range(8)]

    peer.send(
        b"".join(
            wire.pdu(4, wire.pdv(1, 3, wire.store_rq(sample.sop_instance_uid, number)))
            + wire.pdu(4, wire.pdv(1, 2, sample.dataset))
            for number, sample in enumerate(samples, 1)
        )
    )
    answers = [peer.response() for _ in samples]

    assert [unpack_from("<H", answer.elements[0x0120])[0] for answer in answers] == [*range(1, 9)]
    assert [answer.status for answer in answers] == [0] * 8
