"""Sending objects to a peer by C-STORE (PS3.4 Annex B, SCU) on our own data path.

For each SOP class the stored transfer syntax is proposed first, and beside it what can be made of
it: a peer that takes only uncompressed data sets gets a transcoded copy, every other one the stored
bytes. `send_objects` is the whole of it; `Sender` is for who decides between two objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from interop.dimse.command_set import parse_command
from interop.dimse.outgoing import NotReadable, ObjectReader, OutgoingObject, outgoing_file
from interop.dimse.requestor import (
    LIMITS,
    MAX_CONTEXTS,
    Destination,
    Proposal,
    RequestedAssociation,
    SendFailed,
)
from interop.dimse.store_request import (
    Originator,
    Prepared,
    StoreContexts,
    StoreRequests,
    is_stored,
    made_of,
    store_status,
)
from interop.dimse.transport_guard import (
    ConnectionLost,
    DeadlineExceeded,
    LinkError,
    TransportLimits,
)

__all__ = [
    "Destination",
    "NotReadable",
    "ObjectReader",
    "Originator",
    "OutgoingObject",
    "SendCancelled",
    "SendFailed",
    "Sender",
    "SentObject",
    "outgoing_file",
    "send_objects",
]

# How often who waits for a response looks whether it is still wanted.
_LOOK_SECONDS: Final = 0.25


class SendCancelled(Exception):
    """Who asked for the objects does not want them any more."""


@dataclass(frozen=True, slots=True)
class SentObject:
    """What became of one object. `status` is the peer's; None when it was not sent."""

    outgoing: OutgoingObject
    status: int | None
    message: str = ""
    transfer_syntax_uid: str | None = None

    @property
    def is_stored(self) -> bool:
        return is_stored(self.status)


def never() -> bool:
    """Nobody cancels."""
    return False


def send_objects(
    called: Destination,
    objects: Sequence[OutgoingObject],
    reader: ObjectReader,
    *,
    note: Callable[[SentObject], object] | None = None,
    is_cancelled: Callable[[], bool] = never,
    originator: Originator | None = None,
) -> list[SentObject]:
    """Send objects in their order; return what became of each, as `note` heard it one by one.

    An object that the peer refuses or that cannot be read is no reason not to send the rest.
    Raises SendFailed where there is no association with the peer or no more, SendCancelled once
    `is_cancelled`.
    """
    found: list[SentObject] = []
    kinds = dict.fromkeys(outgoing.kind for outgoing in objects)
    with Sender(called, kinds, reader, is_cancelled=is_cancelled, originator=originator) as sender:
        for sent in sender.send(objects):
            found.append(sent)
            if note is not None:
                note(sent)
            if is_cancelled():
                raise SendCancelled
    return found


def proposals(kinds: Iterable[tuple[str, str]]) -> list[list[Proposal]]:
    """What to propose for objects of these kinds, in groups that one association can hold.

    An acceptor settles on one transfer syntax for a context, so each stored one has its own.
    """
    stored: dict[str, list[str]] = {}
    for sop_class_uid, transfer_syntax_uid in dict.fromkeys(kinds):
        stored.setdefault(sop_class_uid, []).append(transfer_syntax_uid)
    groups: list[list[Proposal]] = [[]]
    for sop_class_uid, syntaxes in stored.items():
        wanted: list[Proposal] = [(sop_class_uid, (syntax,)) for syntax in syntaxes]
        instead = dict.fromkeys(made for syntax in syntaxes for made in made_of(syntax))
        if others := tuple(uid for uid in instead if uid not in syntaxes):
            wanted.append((sop_class_uid, others))
        if len(groups[-1]) + len(wanted) > MAX_CONTEXTS:
            groups.append([])
        groups[-1] += wanted
    return groups


class Sender:
    """Sends to one peer, over one association at a time. A context manager; not thread-safe."""

    def __init__(
        self,
        called: Destination,
        kinds: Iterable[tuple[str, str]],
        reader: ObjectReader,
        *,
        originator: Originator | None = None,
        is_cancelled: Callable[[], bool] = never,
        limits: TransportLimits = LIMITS,
    ) -> None:
        """`kinds`: SOP class and transfer syntax of all that may come (OutgoingObject.kind)."""
        self._called = called
        self._reader = reader
        self._originator = originator
        self._is_cancelled = is_cancelled
        self._limits = limits
        self._groups = proposals(kinds)
        self._group_of = {
            proposal[0]: number for number, group in enumerate(self._groups) for proposal in group
        }
        self._open: _OpenAssociation | None = None
        self._open_group = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(is_clean=error is None)

    def send(self, objects: Iterable[OutgoingObject]) -> Iterator[SentObject]:
        """Send objects one after the other, and say of each what became of it.

        While the peer has one, the next is read. None is sent before the result of the former was
        taken, so who stops iterating leaves nothing half done. An association that ends in the
        midst of an object is opened again for the next one, unless it ended at its first or the
        peer fell silent. Raises SendFailed, SendCancelled.
        """
        sent: _Sent | None = None
        for outgoing in objects:
            ahead = self._read_ahead(outgoing)
            try:
                if sent is not None:
                    yield self._result(sent)
                    sent = None
                outcome = self._transmitted(outgoing, ahead)
            finally:
                if isinstance(ahead, _Sent):
                    ahead.prepared.close()
            if isinstance(outcome, SentObject):
                yield outcome
            else:
                sent = outcome
        if sent is not None:
            yield self._result(sent)

    def _read_ahead(self, outgoing: OutgoingObject) -> _Sent | SentObject | None:
        """Prepare an object for the association that is open; None where it needs another."""
        if self._open is None or self._group_of.get(outgoing.sop_class_uid) != self._open_group:
            return None
        try:
            return _Sent(self._open.requests.prepare(outgoing), self._open)
        except NotReadable as error:
            return SentObject(outgoing, None, str(error))

    def _transmitted(
        self, outgoing: OutgoingObject, ahead: _Sent | SentObject | None
    ) -> _Sent | SentObject:
        """Send one object; return it as sent, or what became of it where that failed."""
        if ahead is None or (isinstance(ahead, _Sent) and ahead.association is not self._open):
            # Prepared for an association that has ended meanwhile, or for none.
            self._associate(outgoing)
            ahead = self._read_ahead(outgoing)
            assert ahead is not None
        if isinstance(ahead, SentObject):
            return ahead
        try:
            ahead.association.requests.transmit(ahead.prepared, self._look)
        except LinkError as error:
            if self._open is None:
                raise  # what the look raised, which is not of this association
            return self._broken(ahead, error)
        return ahead

    def _result(self, sent: _Sent) -> SentObject:
        """Wait for the response to what was sent."""
        prepared, association = sent.prepared, sent.association
        deadline = time.monotonic() + self._limits.idle_seconds
        while True:
            try:
                if association.link.wait(_LOOK_SECONDS):
                    status, comment = association.response(prepared.message_id)
                    break
            except LinkError as error:
                return self._broken(sent, error)
            self._look()
            if time.monotonic() > deadline:
                silence = f"no response within {self._limits.idle_seconds:.0f} s"
                return self._broken(sent, DeadlineExceeded(silence))
        return SentObject(prepared.outgoing, status, comment, prepared.choice.transfer_syntax_uid)

    def _look(self) -> None:
        """Raise SendCancelled, or whatever the look raises, when nobody waits any more."""
        try:
            if not self._is_cancelled():
                return
        except BaseException:
            self._close(is_clean=False)
            raise
        # A response is still due, so this association carries nothing else.
        self._close(is_clean=False)
        raise SendCancelled

    def _associate(self, outgoing: OutgoingObject) -> None:
        """Have an association open for this object."""
        group = self._group_of.get(outgoing.sop_class_uid)
        if group is None:
            raise ValueError(f"{outgoing.kind} is not among the kinds that were to be sent")
        if self._open is not None and group == self._open_group:
            return
        self._close(is_clean=True)
        opened = RequestedAssociation.open(self._called, self._groups[group], self._limits)
        self._open = _OpenAssociation(opened, self._reader, self._originator)
        self._open_group = group

    def _broken(self, sent: _Sent, error: LinkError) -> SentObject:
        self._close(is_clean=False)
        if sent.association.answered == 0 or isinstance(error, DeadlineExceeded):
            raise SendFailed(f"{self._called} does not take objects: {error}") from error
        message = f"the association ended: {error}"
        prepared = sent.prepared
        return SentObject(prepared.outgoing, None, message, prepared.choice.transfer_syntax_uid)

    def _close(self, *, is_clean: bool) -> None:
        opened, self._open = self._open, None
        if opened is None:
            return
        if is_clean:
            opened.association.release()
        else:
            opened.association.abort()


class _OpenAssociation:
    """An association over which objects are sent one after the other."""

    def __init__(
        self,
        association: RequestedAssociation,
        reader: ObjectReader,
        originator: Originator | None,
    ) -> None:
        self.association = association
        self.link = association.link
        self.requests = StoreRequests(
            association.link,
            association.peer_pdu_bytes,
            StoreContexts(association.accepted),
            reader,
            originator,
        )
        self.answered = 0

    def response(self, message_id: int) -> tuple[int, str]:
        """Status and comment of the response that has begun to come. Raises LinkError."""
        received = self.association.stream.next_command()
        if received is None:
            raise ConnectionLost("the peer released the association instead of answering")
        status = store_status(parse_command(received[1]), message_id)
        self.answered += 1
        return status


@dataclass(frozen=True, slots=True)
class _Sent:
    """An object that was prepared for an association, and then sent over it."""

    prepared: Prepared
    association: _OpenAssociation
