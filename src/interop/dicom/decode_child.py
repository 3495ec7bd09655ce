"""The child process in which pixels of strangers are decoded: ``python -m ...decode_child``.

It reads requests from standard input and writes answers to standard output, each a length-framed
JSON header and raw bytes, so that a child that was taken over can hand its parent nothing but
bytes. The bytes of a request lie in memory that the parent fills: a pipe would have them copied
twice more, page by page. The child limits itself before it reads anything: address space, processor
time a request, no files, no core dump.
"""

from __future__ import annotations

import mmap
import resource
import sys
from struct import Struct
from typing import Any, BinaryIO

import orjson

FRAME = Struct("<IQ")
ADDRESS_SPACE = 3 << 30
CPU_SECONDS = 20


class Bodies:
    """The bytes of each request, in the file that the parent writes them to; read only here."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped = memoryview(b"")

    def of(self, size: int) -> memoryview:
        """The first ``size`` bytes of the file."""
        if size > len(self._mapped):
            # What was mapped before goes with the last array over it.
            self._mapped = memoryview(mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ))
        return self._mapped[:size]


def read_message(stream: BinaryIO, bodies: Bodies) -> tuple[dict[str, Any], memoryview] | None:
    """Return (header, body), or None at the end of the stream."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    header_size, body_size = FRAME.unpack(head)
    return orjson.loads(stream.read(header_size)), bodies.of(body_size)


def write_message(stream: BinaryIO, header: dict[str, Any], body: bytes) -> None:
    """Write an answer in one piece, so that the parent is woken once."""
    encoded = orjson.dumps(header)
    stream.write(b"".join((FRAME.pack(len(encoded), len(body)), encoded, body)))
    stream.flush()


def main() -> None:
    """Serve until the parent closes the pipe."""
    # Imported before the limits: the libraries' own files are opened now.
    from interop.dicom.decode import CannotDecode
    from interop.dicom.decode_requests import answer

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    bodies = Bodies(int(sys.argv[1]))
    while (message := read_message(stdin, bodies)) is not None:
        _allow_cpu_seconds(CPU_SECONDS)
        try:
            header, body = answer(*message)
        except CannotDecode as error:
            header, body = {"error": str(error)[:300]}, b""
        except MemoryError:
            header, body = {"error": "decoding needs more memory than is allowed"}, b""
        except Exception as error:
            # Whatever numpy or a codec makes of hostile attributes: this frame has no picture.
            header, body = {"error": f"{type(error).__name__}: {error}"[:300]}, b""
        write_message(stdout, header, body)


def _allow_cpu_seconds(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
