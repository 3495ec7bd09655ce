"""An association that we request (PS3.8 9.2, requestor's side), on a link of our own.

pynetdicom encodes the A-ASSOCIATE-RQ and decodes the answer; its reactor never starts, so that
whoever sends objects has the socket to itself. Connecting, TLS and every answer have deadlines.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from interop.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from interop.dimse.messages import MessageStream
from interop.dimse.presentation import APPLICATION_CONTEXT_NAME
from interop.dimse.transport_guard import (
    Link,
    LinkError,
    TransportLimits,
)
from interop.dimse.upper_layer import A_ABORT, NOT_SPECIFIED, abort_pdu
from interop.events.egress_policy import EgressPolicy

CONNECT_SECONDS: Final = 10.0
RESPONSE_SECONDS: Final = 120.0
RELEASE_SECONDS: Final = 5.0
# PS3.8 9.3.2.2: ids are odd numbers in one byte.
MAX_CONTEXTS: Final = 128

_A_ASSOCIATE_AC, _A_ASSOCIATE_RJ, _A_RELEASE_RP = 0x02, 0x03, 0x06
_A_RELEASE_RQ: Final = b"\x05\0\0\0\0\4\0\0\0\0"
_FIXED_BYTES: Final = 68  # of an A-ASSOCIATE-AC (PS3.8 9.3.3)
# 128 contexts answer in 10 KB; user information may repeat what it was asked.
_LONGEST_ANSWER: Final = 256 << 10
LIMITS: Final = TransportLimits(
    advertised_pdu_bytes=64 << 10, associate_seconds=30.0, idle_seconds=RESPONSE_SECONDS
)

# An SOP class UID and transfer syntax UIDs, the preferred first.
Proposal = tuple[str, tuple[str, ...]]


class SendFailed(Exception):
    """The association with the peer was not established or broke."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A peer that is called, by plain DICOM where there is no TLS context."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    tls_context: ssl.SSLContext | None = None
    # Where it may be, if somebody else than the operator says where it is.
    policy: EgressPolicy | None = None

    def addresses(self) -> list[str]:
        """What its name means now, IPv4 first. Raises SendFailed where it may not be called."""
        if self.policy is None:
            return [self.host]
        try:
            entries = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise SendFailed(f"no connection to {self}: {error}") from error
        found = self.policy.admitted(entries)
        if not found:
            raise SendFailed(
                f"{self} has an address that may not be called; INTEROP_DICOM_PEER_NETWORKS can"
                " allow its network"
            )
        return [str(address) for address in sorted(found, key=lambda one: one.version)]

    def __str__(self) -> str:
        return f"{self.called_ae_title} at {self.host}:{self.port}"


class RequestedAssociation:
    """An established association. Release or abort it."""

    def __init__(self, link: Link, answer: Any, proposals: Sequence[Proposal]) -> None:
        self.link = link
        # Of each accepted context: its id, SOP class UID and transfer syntax UID.
        self.accepted: list[tuple[int, str, str]] = []
        for result in answer.presentation_context_definition_results_list:
            number = (result.context_id - 1) // 2
            if result.result != 0 or not 0 <= number < len(proposals) or not result.transfer_syntax:
                continue
            sop_class_uid, syntaxes = proposals[number]
            chosen = str(result.transfer_syntax[0])
            if chosen in syntaxes:
                self.accepted.append((result.context_id, sop_class_uid, chosen))
        self.peer_pdu_bytes = 0
        for entry in answer.user_information:
            if isinstance(entry, MaximumLengthNotification):
                self.peer_pdu_bytes = entry.maximum_length_received or 0
        self.stream = MessageStream(link, {number for number, _, _ in self.accepted})

    @classmethod
    def open(
        cls,
        called: Destination,
        proposals: Sequence[Proposal],
        limits: TransportLimits = LIMITS,
    ) -> Self:
        """Connect and associate. Raises SendFailed."""
        link = _connected(called, limits)
        try:
            link.send(_request(called, proposals, limits))
            return cls(link, _answer(link, called, limits), proposals)
        except LinkError as error:
            link.close()
            raise SendFailed(f"{called} does not associate: {error}") from error
        except BaseException:
            link.close()
            raise

    def release(self) -> None:
        """A-RELEASE, which the peer may answer or not."""
        with suppress(LinkError):
            self.link.send(_A_RELEASE_RQ)
            deadline = time.monotonic() + RELEASE_SECONDS
            self.link.next_pdu(deadline, deadline)
        self.link.close()

    def abort(self) -> None:
        """A-ABORT by the service user (PS3.8 9.3.8)."""
        with suppress(LinkError):
            self.link.send(abort_pdu(NOT_SPECIFIED, source=0))
        self.link.close()


def _connection(called: Destination) -> socket.socket:
    """A connection to the first address that takes one. Raises SendFailed."""
    problem: OSError | None = None
    for address in called.addresses():
        try:
            return socket.create_connection((address, called.port), CONNECT_SECONDS)
        except OSError as error:
            problem = error
    raise SendFailed(f"no connection to {called}: {problem}") from problem


def _connected(called: Destination, limits: TransportLimits) -> Link:
    """A link over which nothing was said yet but TLS."""
    connection = _connection(called)
    context = called.tls_context
    try:
        if context is not None:
            connection = context.wrap_socket(
                connection, server_hostname=called.host, do_handshake_on_connect=False
            )
        link = Link(connection, limits)
        link.handshake()
    except (OSError, ValueError, LinkError) as error:
        connection.close()
        why = getattr(context, "failure", None) or error
        raise SendFailed(f"no TLS with {called}: {why}") from error
    return link


def _request(called: Destination, proposals: Sequence[Proposal], limits: TransportLimits) -> bytes:
    request = A_ASSOCIATE()
    request.application_context_name = UID(APPLICATION_CONTEXT_NAME)
    request.calling_ae_title = called.calling_ae_title
    request.called_ae_title = called.called_ae_title
    contexts = []
    for number, (sop_class_uid, syntaxes) in enumerate(proposals):
        context = build_context(sop_class_uid, list(syntaxes))
        context.context_id = 2 * number + 1
        contexts.append(context)
    request.presentation_context_definition_list = contexts
    length = MaximumLengthNotification()
    length.maximum_length_received = limits.advertised_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    request.user_information = [length, implementation, version]
    return bytes(A_ASSOCIATE_RQ(request).encode())


def _answer(link: Link, called: Destination, limits: TransportLimits) -> Any:
    """The A-ASSOCIATE-AC as pynetdicom's primitive. Raises SendFailed, LinkError."""
    deadline = time.monotonic() + limits.associate_seconds
    kind, length = link.next_pdu(deadline, deadline)
    if kind == A_ABORT:
        # In TLS 1.3 a peer hears of our certificate after we have taken the connection as made.
        hint = "; it may not accept our certificate" if called.tls_context else ""
        raise SendFailed(f"{called} aborted the association{hint}")
    shortest = {_A_ASSOCIATE_AC: _FIXED_BYTES, _A_ASSOCIATE_RJ: 4}.get(kind)
    if shortest is None or not shortest <= length <= _LONGEST_ANSWER:
        raise SendFailed(f"{called} answers with PDU type 0x{kind:02X} of {length} bytes")
    body = bytes(link.read(length))
    pdu = A_ASSOCIATE_AC() if kind == _A_ASSOCIATE_AC else A_ASSOCIATE_RJ()
    try:
        pdu.decode(bytes((kind, 0)) + length.to_bytes(4, "big") + body)
        answer = pdu.to_primitive()
        reasons = (answer.result_str, answer.reason_str) if kind == _A_ASSOCIATE_RJ else ()
    except Exception as error:  # pynetdicom raises whatever its decoders meet
        raise SendFailed(f"the answer of {called} cannot be decoded: {error}") from error
    if reasons:
        raise SendFailed(
            f"{called} rejected the association: {', '.join(reasons)}; check both AE titles"
        )
    return answer
