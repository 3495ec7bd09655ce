"""The DIMSE listener: accepts connections, gives each its thread, drains on SIGTERM.

One process listens with SO_REUSEPORT, so that several share a port and the kernel spreads the
connections. Nothing that a peer can delay happens in the accept thread.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from interop.dicom.ingest import Ingest
from interop.dicom.spool import Spool
from interop.dimse.association import Association, AssociationContext
from interop.dimse.c_store import StorageBackend
from interop.dimse.endpoints import Endpoint, endpoints
from interop.dimse.places import SharedPlaces
from interop.dimse.policy import AssociationLimits, AssociationPolicy
from interop.dimse.refusals import RefusalLog
from interop.dimse.tls import ReloadingContext, TlsFiles
from interop.dimse.transactions import TransactionRecorder
from interop.dimse.transport_guard import LISTEN_BACKLOG, TransportLimits
from interop.settings import Settings
from storage.database import Database
from storage.objects import ObjectStore
from storage.tenancy import TenantDirectory

logger = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 10.0
# An association without a message for this long while the server stops is not waited for.
DRAIN_IDLE_SECONDS: Final = 1.0
# For the threads of cut associations to remove their spool files.
CUT_SECONDS: Final = 2.0
# Connections that have not associated yet. When more come, the oldest makes room: a good sender
# needs milliseconds for its request, a hostile one waits for its deadline (security.md A3).
MAX_PENDING: Final = 1000
_POLL_SECONDS = 0.25


class DimseServices(Protocol):
    """What the listener needs of `interop.services.Services`."""

    @property
    def database(self) -> Database: ...
    @property
    def tenants(self) -> TenantDirectory: ...
    @property
    def spool(self) -> Spool: ...
    @property
    def ingest(self) -> Ingest: ...
    @property
    def objects(self) -> ObjectStore: ...
    @property
    def settings(self) -> Settings: ...


# The context for a connection that comes now; None is plain DICOM.
TlsContext = Callable[[], ssl.SSLContext]


def open_context(
    services: DimseServices,
    *,
    transport_limits: TransportLimits | None = None,
    association_limits: AssociationLimits | None = None,
    places_dir: Path | None = None,
) -> AssociationContext:
    """What the listeners of one process share; close it when they have ended."""
    recorder = TransactionRecorder(services.database)
    refusals = RefusalLog(recorder.record)
    policy = AssociationPolicy(
        services.database,
        services.tenants,
        association_limits or AssociationLimits(),
        refusals,
        SharedPlaces(places_dir) if places_dir is not None else None,
    )
    return AssociationContext(
        policy,
        StorageBackend(
            services.spool,
            services.ingest,
            recorder,
            services.database,
            services.objects,
            services.settings,
        ),
        transport_limits or TransportLimits(),
        refusals,
    )


class Listener:
    """A bound port and the associations that came through it."""

    def __init__(
        self,
        context: AssociationContext,
        host: str,
        port: int,
        *,
        reuse_port: bool = True,
        tls_context: TlsContext | None = None,
    ) -> None:
        self._context = context
        self._tls_context = tls_context
        self._lock = threading.Lock()
        self._connections: OrderedDict[Association, None] = OrderedDict()
        self._socket = _bound_socket(host, port, reuse_port=reuse_port)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def serve_until(self, stop_event: threading.Event) -> None:
        """Accept until `stop_event` is set, then drain. Blocks."""
        try:
            while not stop_event.is_set():
                self._accept_one()
                self._context.refusals.flush()
        finally:
            self._socket.close()
            self._drain()

    def close(self) -> None:
        """Stop listening; `serve_until` does it by itself."""
        self._socket.close()

    def _accept_one(self) -> None:
        try:
            connection, address = self._socket.accept()
        except TimeoutError:
            return
        except OSError as error:
            # Out of descriptors, or the peer is gone already: neither ends the listener.
            logger.warning("accept_failed", extra={"errno": error.errno})
            time.sleep(0.05)
            return
        try:
            if self._tls_context is not None:
                connection = self._tls_context().wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            self._begin(Association(connection, str(address[0]), self._context))
        except (OSError, RuntimeError) as error:
            # RuntimeError: no thread can be started. The connection is the one that pays.
            logger.error("connection_dropped", extra={"error": type(error).__name__})
            connection.close()

    def _begin(self, association: Association) -> None:
        self._admit(association)
        thread = threading.Thread(
            target=self._run, args=(association,), name="dimse-association", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._forget(association)
            raise

    def _admit(self, association: Association) -> None:
        with self._lock:
            self._connections[association] = None
            if len(self._connections) <= MAX_PENDING:
                return
            oldest = next((c for c in self._connections if not c.is_established), None)
        if oldest is not None:
            oldest.interrupt()

    def _run(self, association: Association) -> None:
        try:
            association.run()
        finally:
            self._forget(association)

    def _forget(self, association: Association) -> None:
        with self._lock:
            self._connections.pop(association, None)

    def _drain(self) -> None:
        """Let what is in flight finish; A-ABORT what is left after DRAIN_SECONDS."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while (waiting := self._open_connections()) and time.monotonic() < deadline:
            for association in waiting:
                is_pending = not association.is_established
                association.interrupt(only_when_idle_for=None if is_pending else DRAIN_IDLE_SECONDS)
            time.sleep(0.05)
        for association in self._open_connections():
            logger.warning("association_cut_by_stop")
            association.interrupt()
        deadline = time.monotonic() + CUT_SECONDS
        while self._open_connections() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _open_connections(self) -> list[Association]:
        with self._lock:
            return list(self._connections)


def _bound_socket(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
        listening.listen(LISTEN_BACKLOG)
        listening.settimeout(_POLL_SECONDS)
    except OSError:
        listening.close()
        raise
    return listening


@dataclass(frozen=True, slots=True)
class Door:
    """One listener to open."""

    host: str
    port: int
    tls_context: TlsContext | None = None


def serve(
    context: AssociationContext,
    doors: Sequence[Door],
    *,
    reuse_port: bool = True,
    stop_event: threading.Event,
) -> None:
    """Serve C-ECHO and C-STORE at all doors until `stop_event`, then drain.

    Raises OSError when a door cannot be opened, and what ended a listener by itself.
    """
    failures: list[BaseException] = []

    def listen(listener: Listener) -> None:
        try:
            listener.serve_until(stop_event)
        except BaseException as error:
            # One door that is shut in silence would be found out by those who stand before it.
            failures.append(error)
            stop_event.set()

    with ExitStack() as opened:
        listeners = []
        for door in doors:
            listener = Listener(
                context, door.host, door.port, reuse_port=reuse_port, tls_context=door.tls_context
            )
            opened.callback(listener.close)
            listeners.append(listener)
            is_tls = door.tls_context is not None
            extra = {"host": door.host, "port": listener.port, "tls": is_tls}
            logger.info("dimse_listening", extra=extra)
        threads = [
            threading.Thread(target=listen, args=(one,), name="dimse-listener")
            for one in listeners[1:]
        ]
        for thread in threads:
            thread.start()
        listen(listeners[0])
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def run(services: DimseServices) -> None:
    """The DIMSE worker's main: serve until SIGTERM or SIGINT. Call it in the main thread."""
    # What start-up made stays: no collection need ever walk it again.
    gc.collect()
    gc.freeze()
    stop_event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_event.set())
    settings = services.settings
    doors = [_door(endpoint, settings) for endpoint in endpoints(settings)]
    context = open_context(
        services,
        transport_limits=TransportLimits(max_message_bytes=settings.max_object_bytes + (64 << 20)),
        places_dir=settings.data_dir / "associations",
    )
    try:
        with suppress(KeyboardInterrupt):
            serve(context, doors, stop_event=stop_event)
    finally:
        context.close()


def _door(endpoint: Endpoint, settings: Settings) -> Door:
    tls_context = ReloadingContext(TlsFiles.of(settings)) if endpoint.is_tls else None
    return Door(endpoint.host, endpoint.port, tls_context)
