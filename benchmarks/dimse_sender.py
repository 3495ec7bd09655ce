"""A C-STORE sender that costs little beside the server that it loads.

It encodes PDUs itself, never parses a data set, sends each message in one system call, and runs
one process per association. Not a toolkit: it speaks just enough to measure a server.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from struct import pack, unpack_from
from typing import Any

CONNECT_SECONDS = 30.0
RESPONSE_SECONDS = 120.0
_MAX_PDU = 131072


@dataclass(frozen=True)
class Instance:
    """One object, ready to send."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes


def load(path: Path) -> Instance:
    """Read a Part 10 file that has a complete File Meta Information."""
    raw = path.read_bytes()
    end = 144 + unpack_from("<I", raw, 140)[0]
    at, meta = 144, {}
    while at < end:
        element, vr = unpack_from("<2xH2s", raw, at)
        is_long = vr in (b"OB", b"UN", b"OW")
        length = unpack_from("<I", raw, at + 8)[0] if is_long else unpack_from("<H", raw, at + 6)[0]
        at += 12 if is_long else 8
        meta[element] = raw[at : at + length].rstrip(b"\0 ").decode()
        at += length
    return Instance(meta[0x02], meta[0x03], meta[0x10], raw[end:])


class Association:
    """A requestor's end. Raises ConnectionError when there is no association, or no more."""

    def __init__(
        self,
        port: int,
        contexts: Sequence[tuple[str, str]],
        *,
        called: str = "INTEROP",
        calling: str = "BENCH",
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
        self._socket.settimeout(RESPONSE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")
        self._message_id = 0
        self._contexts = {pair: 2 * number + 1 for number, pair in enumerate(contexts)}
        try:
            self._peer_pdu = self._negotiate(called, calling)
        except BaseException:
            self.close()
            raise

    def _negotiate(self, called: str, calling: str) -> int:
        """Associate; return the largest PDU to send."""
        self._socket.sendall(_associate_rq(self._contexts, called, calling))
        kind, body = self._pdu()
        if kind != 2:
            raise ConnectionError(f"the association was refused: PDU {kind} {body.hex()}")
        return min(_peer_max_pdu(body), _MAX_PDU)

    def store(self, instance: Instance) -> int:
        """Send one instance; return the status of its response."""
        context = self._contexts[instance.sop_class_uid, instance.transfer_syntax_uid]
        self._message_id = self._message_id % 65535 + 1
        request = _store_rq(instance, self._message_id)
        room, view = self._peer_pdu - 6, memoryview(instance.data_set)
        parts: list[bytes | memoryview] = [_pdv(context, 3, len(request)), request]
        for at in range(0, len(view), room):
            piece = view[at : at + room]
            parts += [_pdv(context, 2 * (at + room >= len(view)), len(piece)), piece]
            if len(parts) > 500:
                self._send(parts)
                parts = []
        self._send(parts)
        kind, body = self._pdu()
        if kind != 4:
            raise ConnectionError(f"PDU {kind} instead of a response")
        return _status(body)

    def release(self) -> None:
        self._socket.sendall(pack(">BxI4x", 5, 4))
        self._pdu()
        self.close()

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def _send(self, parts: list[bytes | memoryview]) -> None:
        if parts:
            total = sum(len(part) for part in parts)
            sent = self._socket.sendmsg(parts)
            if sent < total:
                self._socket.sendall(b"".join(parts)[sent:])

    def _pdu(self) -> tuple[int, bytes]:
        head = self._reader.read(6)
        if len(head) < 6:
            raise ConnectionError("the association ended")
        length = unpack_from(">I", head, 2)[0]
        body = self._reader.read(length)
        if len(body) < length:
            raise ConnectionError("the association ended")
        return head[0], body


def _item(kind: int, value: bytes) -> bytes:
    return pack(">BxH", kind, len(value)) + value


def _associate_rq(contexts: dict[tuple[str, str], int], called: str, calling: str) -> bytes:
    items = _item(0x10, b"1.2.840.10008.3.1.1.1")
    for (abstract, transfer), number in contexts.items():
        syntaxes = _item(0x30, abstract.encode()) + _item(0x40, transfer.encode())
        items += _item(0x20, bytes((number, 0, 0, 0)) + syntaxes)
    items += _item(0x50, _item(0x51, pack(">I", _MAX_PDU)) + _item(0x52, b"2.25.1"))
    titles = called.encode().ljust(16) + calling.encode().ljust(16)
    body = b"\0\1\0\0" + titles + bytes(32) + items
    return pack(">BxI", 1, len(body)) + body


def _peer_max_pdu(accept: bytes) -> int:
    at = 68
    while at < len(accept):
        kind, length = unpack_from(">BxH", accept, at)
        if kind == 0x50 and accept[at + 4] == 0x51:
            return int(unpack_from(">I", accept, at + 8)[0]) or _MAX_PDU
        at += 4 + length
    return 16384


def _pdv(context: int, control: int, length: int) -> bytes:
    return pack(">BxIIBB", 4, length + 6, length + 2, context, control)


def _store_rq(instance: Instance, message_id: int) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return pack("<HHI", 0, number, len(value)) + value

    body = (
        element(0x0002, instance.sop_class_uid.encode())
        + element(0x0100, b"\1\0")
        + element(0x0110, pack("<H", message_id))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\0\0")
        + element(0x1000, instance.sop_instance_uid.encode())
    )
    return element(0x0000, pack("<I", len(body))) + body


def _status(body: bytes) -> int:
    at = 6
    while at < len(body):
        number, length = unpack_from("<2xHI", body, at)
        if number == 0x0900:
            return int(unpack_from("<H", body, at + 8)[0])
        at += 8 + length
    raise ConnectionError("a response without status")


@dataclass(frozen=True)
class Measured:
    """One run over all associations."""

    associations: int
    instances: int
    failed: int
    seconds: float
    megabytes: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.instances / self.seconds


def measure(port: int, files: Sequence[Path], associations: int, **titles: str) -> Measured:
    """Send `files` over so many associations at once; the clock runs from the first byte sent."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(associations), context.Queue()
    processes = [
        context.Process(
            target=_send_all, args=(port, files[n::associations], titles, barrier, results)
        )
        for n in range(associations)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    if any(isinstance(entry, str) for entry in found):
        raise ConnectionError(next(entry for entry in found if isinstance(entry, str)))
    times = sorted(t for entry in found for t in entry[2])
    return Measured(
        associations=associations,
        instances=len(times),
        failed=sum(entry[3] for entry in found),
        seconds=max(entry[1] for entry in found) - min(entry[0] for entry in found),
        megabytes=sum(entry[4] for entry in found) / 1e6,
        p50_ms=statistics.median(times) * 1000,
        p99_ms=times[min(len(times) - 1, int(0.99 * len(times)))] * 1000,
    )


def _send_all(
    port: int, files: Sequence[Path], titles: dict[str, str], barrier: Barrier, results: Any
) -> None:
    try:
        instances = [load(path) for path in files]
        contexts = sorted({(i.sop_class_uid, i.transfer_syntax_uid) for i in instances})
        association = Association(port, contexts, **titles)
        barrier.wait(RESPONSE_SECONDS)
        began = time.time()
        times, failed = [], 0
        for instance in instances:
            at = time.perf_counter()
            failed += association.store(instance) != 0
            times.append(time.perf_counter() - at)
        ended = time.time()
        association.release()
        size = sum(len(instance.data_set) for instance in instances)
        results.put((began, ended, times, failed, size))
    except Exception as error:  # every kind of failure must reach the parent, or it waits for ever
        barrier.abort()
        results.put(f"{type(error).__name__}: {error}")


def main() -> None:
    """`python -m benchmarks.dimse_sender PORT ASSOCIATIONS FILE...`"""
    port, associations, *paths = sys.argv[1:]
    files = [
        file
        for path in map(Path, paths)
        for file in (sorted(path.rglob("*.dcm")) if path.is_dir() else [path])
    ]
    measured = measure(int(port), files, int(associations))
    print(json.dumps(asdict(measured) | {"per_second": round(measured.per_second, 1)}))


if __name__ == "__main__":
    main()
