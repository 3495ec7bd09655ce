"""A raw HTTP/1.1 load generator in processes: what is measured is the server, not the client."""

from __future__ import annotations

import multiprocessing
import random
import socket
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Figures:
    """What one case gave."""

    per_second: float
    megabytes_per_second: float
    p50_ms: float
    statuses: dict[int, int]
    kilobytes: float
    cpu_ms: float = 0.0  # of the server, for one request


class Connection:
    """One keep-alive connection, opened again where the server closed it between requests."""

    def __init__(self, base: str, headers: dict[str, str]) -> None:
        parts = urlsplit(base)
        assert parts.hostname
        self.address = (parts.hostname, parts.port or 80)
        self.prefix = parts.path
        self.fixed = f"Host: {parts.netloc}\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in headers.items()
        )
        self._open()

    def _open(self) -> None:
        self.socket = socket.create_connection(self.address, 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb", buffering=1 << 18)

    def get(self, path: str, accept: str) -> tuple[int, int]:
        head = f"GET {self.prefix}{path} HTTP/1.1\r\n{self.fixed}Accept: {accept}\r\n\r\n"
        try:
            self.socket.sendall(head.encode())
            return self.answer()
        except (ConnectionError, IndexError):
            self._open()
            self.socket.sendall(head.encode())
            return self.answer()

    def post(self, path: str, content_type: str, body: list[bytes]) -> tuple[int, int]:
        length = sum(map(len, body))
        head = (
            f"POST {self.prefix}{path} HTTP/1.1\r\n{self.fixed}Content-Type: {content_type}\r\n"
            f"Accept: application/dicom+json\r\nContent-Length: {length}\r\n\r\n"
        )
        self.socket.sendall(head.encode())
        for piece in body:
            self.socket.sendall(piece)
        return self.answer()

    def answer(self) -> tuple[int, int]:
        """Status and size of the body, which is read and thrown away."""
        status, length, chunked = int(self.file.readline().split()[1]), None, False
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.lower().partition(b":")
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = b"chunked" in value
        size = 0
        if chunked:
            while count := int(self.file.readline().split(b";")[0], 16):
                size += self._skip(count)
                self.file.readline()
            self.file.readline()
        elif length is not None:
            size = self._skip(length)
        else:
            # Orthanc ends a streamed answer by closing the connection.
            while got := self.file.read(1 << 18):
                size += len(got)
            self._open()
        return status, size

    def _skip(self, count: int) -> int:
        left = count
        while left:
            got = self.file.read(min(left, 1 << 18))
            if not got:
                raise ConnectionError("the answer ended early")
            left -= len(got)
        return count


def _get_job(
    base: str, headers: dict[str, str], work: Any, seed: int, start: Any, out: Any
) -> None:
    paths, accept, seconds, count = work
    connection, pick = Connection(base, headers), random.Random(seed)
    connection.get(paths[0], accept)
    start.wait()
    times: list[float] = []
    statuses: Counter[int] = Counter()
    size, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds and len(times) < count:
        path = pick.choice(paths)
        at = time.perf_counter()
        status, length = connection.get(path, accept)
        times.append(time.perf_counter() - at)
        statuses[status] += 1
        size += length
    out.put((times, statuses, size, time.perf_counter() - began))


def _stow_job(
    base: str, headers: dict[str, str], work: Any, seed: int, start: Any, out: Any
) -> None:
    batches: list[list[Path]] = work
    connection = Connection(base, headers)
    start.wait()
    times: list[float] = []
    statuses: Counter[int] = Counter()
    size, spent = 0, 0.0
    for files in batches:
        body: list[bytes] = []
        for file in files:
            body += [b"--b\r\nContent-Type: application/dicom\r\n\r\n", file.read_bytes(), b"\r\n"]
        body.append(b"--b--\r\n")
        at = time.perf_counter()
        status, _ = connection.post(
            "/studies", 'multipart/related; type="application/dicom"; boundary=b', body
        )
        times.append(time.perf_counter() - at)
        spent += times[-1]
        statuses[status] += 1
        size += sum(map(len, body))
    out.put((times, statuses, size, spent))


def _guarded(
    target: Any, base: str, headers: Any, share: Any, n: int, start: Any, out: Any
) -> None:
    """Hand an error to the parent, which would wait for figures for ever."""
    try:
        target(base, headers, share, n, start, out)
    except Exception as error:
        start.abort()
        out.put(f"{type(error).__name__}: {error}")


def _run(target: Any, base: str, headers: dict[str, str], shares: list[Any]) -> Figures:
    start, out = multiprocessing.Barrier(len(shares)), multiprocessing.Queue()
    jobs = [
        multiprocessing.Process(
            target=_guarded, args=(target, base, headers, share, n, start, out), daemon=True
        )
        for n, share in enumerate(shares)
    ]
    for job in jobs:
        job.start()
    got = [out.get(timeout=300) for _ in jobs]
    for job in jobs:
        job.join()
    for found in got:
        if isinstance(found, str):
            raise RuntimeError(found)
    times = [t for found in got for t in found[0]]
    statuses = sum((found[1] for found in got), Counter[int]())
    seconds = max(found[3] for found in got)
    size = sum(found[2] for found in got)
    return Figures(
        len(times) / seconds,
        size / seconds / 1e6,
        statistics.median(times) * 1000,
        dict(statuses),
        size / len(times) / 1000,
    )


def get(
    base: str,
    headers: dict[str, str],
    paths: list[str],
    accept: str,
    *,
    jobs: int = 1,
    seconds: float = 3,
    count: int = 100_000,
) -> Figures:
    """GET random paths for some seconds."""
    return _run(_get_job, base, headers, [(paths, accept, seconds, count)] * jobs)


def stow(
    base: str, headers: dict[str, str], files: list[Path], *, jobs: int = 1, each: int = 1
) -> Figures:
    """POST the files, `each` in one request; the rate is in requests."""
    batches = [files[at : at + each] for at in range(0, len(files), each)]
    return _run(_stow_job, base, headers, [batches[n::jobs] for n in range(jobs)])
