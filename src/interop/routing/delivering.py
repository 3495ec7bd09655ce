"""The worker's side of routing: send what is due for a destination, and write down the outcome.

One worker at a time sends to a destination, over one association for what is due together. A job
that finds nothing due, or somebody else at it, comes back when there may be something.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout
from pydicom.uid import generate_uid

from interop.dicom.routing import deliver_later
from interop.dimse import registry
from interop.dimse.commitment_messages import Reference, Request
from interop.dimse.commitment_records import Parties, ask_later, begin_asking
from interop.dimse.peers import NotReachable
from interop.dimse.peers import destination as address_of
from interop.dimse.registry import ApplicationEntity
from interop.dimse.sender import (
    Destination,
    ObjectReader,
    OutgoingObject,
    SendFailed,
    SentObject,
    send_objects,
)
from interop.dimse.tls import TlsConfigurationError
from interop.dimse.transactions import INSERT_TRANSACTIONS, Transaction, log_values
from interop.routing import deliveries, web_delivering, web_destinations
from interop.routing.deliveries import Due, Result
from interop.services import Services
from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection, Database
from storage.tenancy import Tenant

logger = logging.getLogger(__name__)

_RENEW_SECONDS: Final = 20.0
# Results are written in groups: what a dead worker has not written is sent again.
_SETTLE_AT_ONCE: Final = 20
# While somebody else sends: when to look again whether something was left over.
_LOOK_AGAIN: Final = timedelta(seconds=5)
_COMMITMENT_OVERDUE: Final = timedelta(days=1)


class Failed(Exception):
    """Nothing can be sent to the destination now; the message says why."""


def deliver(services: Services, tenant: Tenant, kind: str, destination_id: UUID) -> None:
    """Send what is due for a destination until nothing is, and come back when something will be."""
    database = services.database
    while True:
        with database.connection(tenant.id) as connection:
            due = deliveries.claim(connection, tenant.id, kind, destination_id)
        if not due:
            break
        with _held(database, tenant.id, [one.id for one in due]):
            _deliver(services, tenant, kind, destination_id, due)
    with database.connection(tenant.id) as connection:
        at = deliveries.next_due(connection, tenant.id, kind, destination_id)
        if at is not None:
            _come_back(connection, tenant.id, kind, destination_id, at)


def _come_back(
    connection: Connection, tenant_id: UUID, kind: str, destination_id: UUID, at: datetime
) -> None:
    at = max(at, datetime.now(UTC) + _LOOK_AGAIN)
    # Many jobs that wait for the same moment are one.
    slot = int(at.timestamp() // _LOOK_AGAIN.total_seconds()) + 1
    lock = f"deliver:{kind}:{destination_id}:{slot}"
    at = datetime.fromtimestamp(slot * _LOOK_AGAIN.total_seconds(), UTC)
    deliver_later(connection, tenant_id, kind, destination_id, at, lock)


@contextmanager
def _held(database: Database, tenant_id: UUID, ids: Sequence[UUID]) -> Iterator[None]:
    """Renew a claim for as long as the block runs, however slow the peer is."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEW_SECONDS):
            try:
                with database.connection(tenant_id) as connection:
                    deliveries.renew(connection, tenant_id, ids)
            except (psycopg.Error, PoolTimeout) as error:
                # Another worker may take over then, and sends what the peer has already.
                logger.warning("claim_not_renewed", extra={"error": type(error).__name__})

    thread = threading.Thread(target=renew, name="delivery-claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _deliver(
    services: Services, tenant: Tenant, kind: str, destination_id: UUID, due: Sequence[Due]
) -> None:
    found = _destination(services, tenant, kind, destination_id)
    due = _allowed(services.database, tenant, found, due)
    if not due:
        return
    book = _Book(services.database, tenant, found)
    try:
        found.send(due, book.note)
    except Failed as error:
        logger.warning("delivery_failed", extra={"destination": found.name})
        book.fail_rest(due, str(error))
    book.close()


def _allowed(database: Database, tenant: Tenant, place: _Place, due: Sequence[Due]) -> list[Due]:
    """What the policy lets go, with the rows that say so: before a byte leaves."""
    of_place = place.entity.required_consent if place.entity is not None else None
    with database.connection(tenant.id) as connection:
        kept = deliveries.withheld(connection, tenant, place.name, due, of_place)
        if kept:
            deliveries.withhold(connection, tenant.id, sorted(kept))
        for event, chosen in (
            ("IMAGES_WITHHELD", [one for one in due if one.id in kept]),
            ("IMAGES_SENT", [one for one in due if one.id not in kept]),
        ):
            for row in _audit_rows(tenant, event, place.name, chosen):
                connection.execute(INSERT_AUDIT, row)
    return [one for one in due if one.id not in kept]


def _audit_rows(
    tenant: Tenant, event: str, destination: str, due: Sequence[Due]
) -> Iterator[dict[str, object]]:
    """One row for each study."""
    studies: dict[str, list[Due]] = {}
    for one in due:
        studies.setdefault(one.study_uid, []).append(one)
    for study_uid, objects in studies.items():
        yield system_audit(
            tenant.id,
            event,
            "ImagingStudy",
            study_uid,
            outcome="FAILURE" if event == "IMAGES_WITHHELD" else "SUCCESS",
            metadata={"destination": destination, "door": "ROUTING", "objects": len(objects)},
            patient_id=objects[0].patient_id,
        )


# -- destinations -------------------------------------------------------------------------------

Note = Callable[[Result], None]


class _Place:
    """A destination: its name, where it is, and how it is sent to."""

    def __init__(
        self,
        name: str,
        operation: str,
        address: str,
        send: Callable[[Sequence[Due], Note], None],
        entity: ApplicationEntity | None = None,
    ) -> None:
        self.name = name
        self.operation = operation
        self.address = address
        self.send = send
        self.entity = entity


def _destination(services: Services, tenant: Tenant, kind: str, destination_id: UUID) -> _Place:
    if kind == "web":
        return _web_place(services, tenant, destination_id)
    entity = registry.find_by_id(services.database, tenant, destination_id)
    assert entity is not None, "a delivery's foreign key"

    def send(due: Sequence[Due], note: Note) -> None:
        _send_to_entity(services, tenant, entity, due, note)

    return _Place(entity.ae_title, "C-STORE", entity.host or "", send, entity)


def _web_place(services: Services, tenant: Tenant, destination_id: UUID) -> _Place:
    with services.database.connection(tenant.id) as connection:
        found, secret = web_destinations.with_secret(connection, tenant.id, destination_id)

    def send(due: Sequence[Due], note: Note) -> None:
        if not found.active:
            raise Failed(f"{found.name!r} is disabled")
        try:
            web_delivering.send(services, tenant.id, found, secret, due, note)
        except web_delivering.NotSent as error:
            raise Failed(str(error)) from error

    return _Place(found.name, "STOW-RS", found.url, send)


def _send_to_entity(
    services: Services,
    tenant: Tenant,
    entity: ApplicationEntity,
    due: Sequence[Due],
    note: Note,
) -> None:
    by_uid = {one.sop_instance_uid: one for one in due}

    def note_sent(sent: SentObject) -> None:
        one = by_uid[sent.outgoing.sop_instance_uid]
        note(Result(one, sent.is_stored, sent.status, sent.message))

    reader = ObjectReader(services.objects, services.spool.temporary_folder)
    try:
        send_objects(_reachable(services, tenant, entity), _outgoing(due), reader, note=note_sent)
    except (NotReachable, SendFailed, TlsConfigurationError) as error:
        raise Failed(str(error)) from error


def _reachable(services: Services, tenant: Tenant, entity: ApplicationEntity) -> Destination:
    if not (entity.active and entity.may_be_sent_to):
        raise Failed(f"{entity.ae_title!r} is disabled or may not be sent to")
    return address_of(services.settings, tenant, entity)


def _outgoing(due: Sequence[Due]) -> list[OutgoingObject]:
    return [
        OutgoingObject(
            one.sop_class_uid,
            one.sop_instance_uid,
            one.transfer_syntax_uid,
            one.storage_uri,
            one.dataset_offset,
            one.byte_size,
        )
        for one in due
    ]


# -- what became of it --------------------------------------------------------------------------


class _Book:
    """Writes results down in groups, with their rows in the transaction log."""

    def __init__(self, database: Database, tenant: Tenant, place: _Place) -> None:
        self._database = database
        self._tenant = tenant
        self._place = place
        self._results: list[Result] = []
        self._settled: set[UUID] = set()
        self._to_commit: list[Due] = []

    def note(self, result: Result) -> None:
        self._results.append(result)
        if result.is_delivered and result.due.with_commitment:
            self._to_commit.append(result.due)
        if len(self._results) >= _SETTLE_AT_ONCE:
            self._write()

    def fail_rest(self, due: Sequence[Due], message: str) -> None:
        """Nothing was heard of these."""
        known = self._settled | {result.due.id for result in self._results}
        self._results += [Result(one, False, None, message) for one in due if one.id not in known]

    def close(self) -> None:
        self._write()
        if self._to_commit and self._place.entity is not None:
            self._ask_for_commitment(self._place.entity)

    def _write(self) -> None:
        results, self._results = self._results, []
        if not results:
            return
        self._settled |= {result.due.id for result in results}
        log = log_values(self._tenant.id, map(self._transaction, results))
        with self._database.connection(self._tenant.id) as connection:
            deliveries.settle(connection, self._tenant.id, results)
            connection.execute(INSERT_TRANSACTIONS, log)

    def _transaction(self, result: Result) -> Transaction:
        due = result.due
        return Transaction(
            tenant_id=self._tenant.id,
            operation=self._place.operation,
            calling_ae_title=self._tenant.ae_title or "",
            called_ae_title=self._place.name,
            remote_address=self._place.address,
            # PS3.7 C.5.9 for what has no status: it was not sent, or not answered.
            status_code=0x0110 if result.status_code is None else result.status_code,
            status="SUCCESS" if result.is_delivered else "FAILURE",
            message=result.message or None,
            sop_class_uid=due.sop_class_uid,
            sop_instance_uid=due.sop_instance_uid,
            study_instance_uid=due.study_uid,
            transfer_syntax_uid=due.transfer_syntax_uid,
            byte_size=due.byte_size,
            direction="OUTBOUND",
        )

    def _ask_for_commitment(self, entity: ApplicationEntity) -> None:
        references = tuple(
            Reference(one.sop_class_uid, one.sop_instance_uid) for one in self._to_commit
        )
        parties = Parties(entity.ae_title, self._tenant.ae_title or "", entity.id)
        with self._database.connection(self._tenant.id) as connection:
            id_ = begin_asking(
                connection,
                self._tenant.id,
                parties,
                Request(str(generate_uid()), references),
                datetime.now(UTC) + _COMMITMENT_OVERDUE,
            )
            ids = [one.id for one in self._to_commit]
            deliveries.attach_commitment(connection, self._tenant.id, ids, id_)
            ask_later(connection, self._tenant.id, id_)
