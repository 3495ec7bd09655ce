"""Nothing of a DIMSE peer is read except through this module (PS3.8 9.1 and 9.3.1).

pynetdicom 3.0.4 on its own allocates whatever PDU length a peer declares before any association
(400 MiB in 0.8 s), waits without end for the rest of a PDU that has begun, and does the TLS
handshake in the accept thread, where one silent client stops the listener (reliability.md M1 to
M3b). `Link` carries the associations that we accept and those on which we send objects,
`GuardedApplicationEntity` those that pynetdicom requests for us; both bound every PDU in bytes and
in time.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from pynetdicom import AE, _config
from pynetdicom.transport import AssociationSocket

# pynetdicom would log the identifiers of queries, which hold patients' names (security.md G5).
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False

_PDU_HEADER = Struct(">BxI")
_TICK_SECONDS = 1.0
_FIRST_BUFFER = 16 << 10
# What is still read of a peer that was answered A-ABORT or A-ASSOCIATE-RJ. Closing a socket that
# holds unread bytes sends RST, which destroys the answer before the peer can read it.
_LINGER_BYTES = 256 << 10
_LINGER_SECONDS = 1.0
_INTERRUPT_SECONDS = 0.2
LISTEN_BACKLOG: Final = 512  # socketserver's default of 5 drops bursts of modalities (M6)


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """What one connection may cost, whoever is on its other end."""

    advertised_pdu_bytes: int = 128 << 10
    max_pdu_bytes: int = 1 << 20
    max_message_bytes: int = (4 << 30) + (64 << 20)
    handshake_seconds: float = 5.0
    # From the connection to the last byte of its A-ASSOCIATE-RQ: the ARTIM timer of PS3.8 9.1.5.
    # Under 200 concurrent associations 3 s rejected good senders (M6).
    associate_seconds: float = 30.0
    # From the first to the last byte of one PDU, and for one answer of ours to be taken.
    pdu_seconds: float = 30.0
    # Silence between two PDUs of an association.
    idle_seconds: float = 60.0
    # A message must keep this pace once its grace is over: a PDU with one byte every 29 seconds
    # would otherwise hold its place for ever.
    message_grace_seconds: float = 60.0
    message_bytes_per_second: int = 1024


class LinkError(Exception):
    """The connection cannot go on."""


class ConnectionLost(LinkError):
    """The peer closed the connection, or the network did."""


class HandshakeFailed(ConnectionLost):
    """TLS was not agreed upon in time: version, cipher suite, certificate (PS3.15 B.12)."""


class DeadlineExceeded(LinkError):
    """The peer was silent or slow for longer than its limit."""


class ProtocolViolation(LinkError):
    """The peer broke PS3.8. `reason` is the Reason/Diag of the A-ABORT (PS3.8 Table 9-26)."""

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(message)
        self.reason = reason


class Link:
    """One connection: a single receive buffer, deadlines, whole answers.

    A view that `read` returns is valid until the next call of `read` or `next_pdu`.
    """

    def __init__(self, connection: socket.socket, limits: TransportLimits) -> None:
        self.limits = limits
        self._socket = connection
        self._sending = threading.Lock()
        self._deadline = time.monotonic() + limits.associate_seconds
        self._adopt(bytearray(_FIRST_BUFFER))
        self._start = self._end = 0
        self._set_options()

    def _set_options(self) -> None:
        shortest = min(self.limits.pdu_seconds, self.limits.idle_seconds, _TICK_SECONDS)
        self._socket.settimeout(max(0.01, shortest))
        with suppress(OSError):  # not every test transport is TCP
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handshake(self) -> None:
        """Finish the TLS handshake, if there is one, in the connection's own thread (M3b)."""
        if not isinstance(self._socket, ssl.SSLSocket):
            return
        ticking = self._socket.gettimeout()
        self._socket.settimeout(self.limits.handshake_seconds)
        try:
            self._socket.do_handshake()
        except TimeoutError as error:
            raise HandshakeFailed("the TLS handshake did not finish in time") from error
        except (ssl.SSLEOFError, ConnectionError) as error:
            # Who only looks whether the port is open says nothing and leaves.
            raise ConnectionLost("the peer left during the TLS handshake") from error
        except OSError as error:
            raise HandshakeFailed(f"the TLS handshake failed: {error}") from error
        self._socket.settimeout(ticking)

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The connection as TLS sees it, after the handshake."""
        return self._socket if isinstance(self._socket, ssl.SSLSocket) else None

    # -- receiving --------------------------------------------------------------------------

    def next_pdu(self, wait_until: float, finish_by: float | None = None) -> tuple[int, int]:
        """Wait for a PDU and return its type and the length of its body.

        All of it must arrive within `pdu_seconds` of its first byte, and before `finish_by`.
        """
        if self._start == self._end:
            self._deadline = wait_until
            self._fill(1)
        self._deadline = time.monotonic() + self.limits.pdu_seconds
        if finish_by is not None:
            self._deadline = min(self._deadline, finish_by)
        kind, length = _PDU_HEADER.unpack(self.read(6))
        if length > self.limits.max_pdu_bytes:
            raise ProtocolViolation(
                f"PDU of {length} bytes; at most {self.limits.max_pdu_bytes} are accepted", 6
            )
        return kind, length

    def wait(self, seconds: float) -> bool:
        """Wait until something of the peer is there to be read; False when not in time.

        Raises ConnectionLost where it is gone, over plain TCP only when it is read.
        """
        if self._start < self._end:
            return True
        is_tls = isinstance(self._socket, ssl.SSLSocket)
        if is_tls and self._socket.pending():  # type: ignore[attr-defined]
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        # TLS 1.3 sends session tickets, which are readable and nothing to be read.
        return not is_tls or self._take_what_is_there()

    def _take_what_is_there(self) -> bool:
        self._start = self._end = 0
        try:
            received = self._socket.recv_into(self._view)
        except TimeoutError:
            return False
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if received == 0:
            raise ConnectionLost("the peer closed the connection")
        self._end = received
        return True

    def read(self, size: int) -> memoryview:
        """Return the next `size` bytes of the current PDU."""
        if self._end - self._start < size:
            self._fill(size)
        at = self._start
        self._start = at + size
        return self._view[at : at + size]

    def reserve(self, size: int) -> None:
        """Make the receive buffer at least this large."""
        if size > len(self._buffer):
            larger = bytearray(size)
            held = self._end - self._start
            larger[:held] = self._view[self._start : self._end]
            self._adopt(larger)
            self._start, self._end = 0, held

    def _adopt(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)

    def _fill(self, size: int) -> None:
        """Receive until `size` bytes are buffered; take more where the socket has more."""
        self.reserve(size)
        held = self._end - self._start
        if held == 0:
            self._start = self._end = 0
        elif self._start + size > len(self._buffer):
            self._view[:held] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, held
        while self._end - self._start < size:
            self._receive_once()

    def _receive_once(self) -> None:
        try:
            received = self._socket.recv_into(self._view[self._end :])
        except TimeoutError:
            received = -1
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if received == 0:
            raise ConnectionLost("the peer closed the connection")
        if received > 0:
            self._end += received
            self._acknowledge_at_once()
        if time.monotonic() > self._deadline:
            raise DeadlineExceeded("the peer did not send in time")

    def _acknowledge_at_once(self) -> None:
        # DCMTK leaves Nagle on: its next write waits for our ACK, which Linux delays by 40 ms
        # unless asked each time (22 against 1,050 instances/s with plain storescu, dicom.md 2.0).
        if hasattr(socket, "TCP_QUICKACK"):
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    # -- sending and ending -----------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> None:
        """Send the whole of `data`, or raise DeadlineExceeded or ConnectionLost."""
        with self._sending:
            self._send(data)

    def _send(self, data: bytes | memoryview) -> None:
        deadline = time.monotonic() + self.limits.pdu_seconds
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except TimeoutError:
                pass
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            # Also of a peer that takes a little each time.
            if rest and time.monotonic() > deadline:
                raise DeadlineExceeded("the peer does not take what is sent to it")

    def interrupt(self, farewell: bytes) -> None:
        """End the connection under its reader, from another thread.

        `farewell` goes out first, unless something else is being sent, or over TLS, where two
        threads may not use one connection.
        """
        is_plain = not isinstance(self._socket, ssl.SSLSocket)
        if farewell and is_plain and self._sending.acquire(timeout=_INTERRUPT_SECONDS):
            with suppress(LinkError):
                self._send(farewell)
            self._sending.release()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, *, linger: bool = False) -> None:
        """Close; with `linger` first let the peer read what was sent last."""
        if linger:
            self._close_tls()
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
                self._discard_rest()
        self._socket.close()

    def _close_tls(self) -> None:
        """Say close_notify: without it the peer must take the end for an attack (RFC 8446 6.1)."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(_LINGER_SECONDS)
            # Waits for the peer's own, and gives up where it sends something else.
            with suppress(OSError, ValueError):
                self._socket = self._socket.unwrap()

    def _discard_rest(self) -> None:
        deadline = time.monotonic() + _LINGER_SECONDS
        left = _LINGER_BYTES
        while left > 0 and (remaining := deadline - time.monotonic()) > 0:
            self._socket.settimeout(remaining)
            received = self._socket.recv_into(self._view)
            if received == 0:
                return
            left -= received


class GuardedAssociationSocket(AssociationSocket):  # type: ignore[misc]
    """pynetdicom's transport with a limit on the PDU length, a deadline and TCP_NODELAY."""

    limits = TransportLimits()

    def _create_socket(self, address: Any) -> socket.socket:
        created: socket.socket = super()._create_socket(address)
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return created

    def _shutdown_socket(self) -> None:
        # pynetdicom's own leaves the descriptor open when the peer was never connected.
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly `nr_bytes`, fewer only at the end of the connection.

        Raises OSError, which pynetdicom takes as a closed connection.
        """
        if nr_bytes > self.limits.max_pdu_bytes:
            raise OSError(f"PDU of {nr_bytes} bytes exceeds {self.limits.max_pdu_bytes}")
        deadline = time.monotonic() + self.limits.pdu_seconds
        data = bytearray(nr_bytes)
        view, filled = memoryview(data), 0
        while filled < nr_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the peer did not send in time")
            self.socket.settimeout(left)
            received = self.socket.recv_into(view[filled:])
            if received == 0:
                break
            filled += received
        self.socket.settimeout(None)
        view.release()
        del data[filled:]
        return data


class GuardedApplicationEntity(AE):  # type: ignore[misc]
    """A pynetdicom AE whose requested associations use the guarded socket.

    It does not listen: pynetdicom's own server is not used here.
    """

    def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> AssociationSocket:
        guarded = GuardedAssociationSocket(assoc, address=address)
        guarded.tls_args = tls_args
        return guarded

    def start_server(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: `interop.dimse.scp` is the listener."""
        raise NotImplementedError("pynetdicom's listener is not guarded; use interop.dimse.scp")
