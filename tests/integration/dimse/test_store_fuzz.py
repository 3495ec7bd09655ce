"""Damaged data sets by C-STORE: each gets a status, what was stored is what was sent, and the
listener serves on."""

from __future__ import annotations

import random
from collections.abc import Callable
from io import BytesIO
from typing import Any

from pydicom.filereader import _read_file_meta_info as read_file_meta
from pydicom.filereader import read_preamble

from tests.integration.dicomweb.fuzzing import DAMAGE, bases, renamed

SEED = 7
EXPLICIT = "1.2.840.10008.1.2.1"
# PS3.4 B.2.3 and PS3.7 C.5: success, warnings, and refusals that say why.
RETRY = range(0xA700, 0xA800)


def split(content: bytes) -> tuple[str, str, bytes]:
    """SOP class, transfer syntax and data set of a Part 10 file."""
    with BytesIO(content) as file:
        read_preamble(file, True)
        meta = read_file_meta(file)
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID), file.read()


def test_each_damaged_data_set_gets_a_status_and_nobody_dies(
    start: Any, connect: Callable[[int], Any], services: Any, tenant: Any, wire: Any
) -> None:
    running = start()
    rng = random.Random(SEED)
    statuses: dict[int, int] = {}
    sent: dict[str, bytes] = {}
    for _, content in bases():
        sop_class, syntax, _ = split(content)
        peer = connect(running.port)
        context = (1, sop_class, (syntax,))
        accepted = peer.associate(contexts=(context, (3, "1.2.840.10008.1.1", (EXPLICIT,))))
        assert accepted is not None and accepted[0] == 2
        for damage in DAMAGE:
            _, _, whole = split(renamed(content, rng))
            changed = bytearray(bytes(200) + whole)
            damage(changed, rng)
            data = bytes(changed[200:]) or b"\0"
            uid = f"2.25.{rng.randrange(10**30)}"
            if damage is DAMAGE[0]:
                data, uid = whole, uid_in(whole)
            peer.send(wire.pdu(4, wire.pdv(1, 3, wire.store_rq(uid, sop_class_uid=sop_class))))
            for at in range(0, len(data), 16000):
                is_last = 2 if at + 16000 >= len(data) else 0
                peer.send(wire.pdu(4, wire.pdv(1, is_last, data[at : at + 16000])))
            response = peer.response()
            statuses[response.status] = statuses.get(response.status, 0) + 1
            assert response.status not in RETRY, response.comment
            if response.status == 0 or response.status >> 12 == 0xB:
                sent[uid] = data
            else:
                assert response.comment
        assert peer.echo().status == 0
        peer.release()
    assert statuses[0] >= len(bases())
    assert len(statuses) > 2, statuses
    assert_kept(services, tenant, sent)


def uid_in(data_set: bytes) -> str:
    """The SOP Instance UID of a data set that is whole: the one of ours that follows its tag."""
    for tag in (b"\x08\x00\x18\x00", b"\x00\x08\x00\x18"):
        at = data_set.find(tag)
        if at >= 0:
            begin = data_set.index(b"2.25.", at)
            end = begin
            while end < len(data_set) and chr(data_set[end]) in "0123456789.":
                end += 1
            return data_set[begin:end].decode()
    raise AssertionError("no SOP Instance UID")


def assert_kept(services: Any, tenant: Any, sent: dict[str, bytes]) -> None:
    with services.database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT sop_instance_uid, storage_uri, dataset_offset FROM imaging_objects"
            " WHERE tenant_id = %s AND sop_instance_uid = ANY (%s)",
            (tenant.id, list(sent)),
        ).fetchall()
    assert {row[0] for row in rows} == set(sent)
    for uid, key, offset in rows:
        assert services.objects.get(key)[offset:] == sent[uid], uid
