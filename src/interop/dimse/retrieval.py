"""What a C-MOVE or C-GET asks for, and what of it the caller gets (PS3.4 C.4.2.2, C.4.3.2).

The identifier is read by our own walk under its limits. What it names is looked up once, in viewing
order, and audited. Where it is more than a page, only the ids of the rows are kept, and they are
read page by page while objects go out: neither a large study nor a slow destination holds more, and
no transaction stays open.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from struct import error as StructError
from typing import Any, Final
from uuid import UUID

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from interop.access import Caller, decide
from interop.access.audit import audit_parameters
from interop.dicom.failures import Failure
from interop.dicom.filemeta import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.query.matching import Parameters
from interop.dicom.query.visibility import condition
from interop.dicom.uids import is_uid
from interop.dicom.walker import UNDEFINED, HeadTooShort, Walk
from interop.dimse.outgoing import OutgoingObject
from storage.database import Connection, Database

logger = logging.getLogger(__name__)

RESOURCE_TYPE: Final = "ImagingStudy"
EVENT: Final = "IMAGES_SENT"
# Rows that are held while their objects go out.
PAGE: Final = 500
_LARGEST_IDENTIFIER_VALUE: Final = 1 << 20

_QUERY_RETRIEVE_LEVEL: Final = 0x00080052
_PATIENT_ID: Final = 0x00100020
_ISSUER_OF_PATIENT_ID: Final = 0x00100021
# The unique keys that are UIDs, with the columns that they match.
_UID_KEYS: Final = {
    0x0020000D: ("Study Instance UID", "s.study_uid"),
    0x0020000E: ("Series Instance UID", "e.series_uid"),
    0x00080018: ("SOP Instance UID", "o.sop_instance_uid"),
}
# The unique key of each level (PS3.4 C.6.1.1, C.6.2.1).
_KEY_OF_LEVEL: Final = {
    "PATIENT": _PATIENT_ID, "STUDY": 0x0020000D, "SERIES": 0x0020000E, "IMAGE": 0x00080018,
}  # fmt: skip

_FROM: Final = (
    " FROM imaging_studies s"
    " JOIN imaging_series e ON e.tenant_id = %(tenant_id)s AND e.study_id = s.id"
    " JOIN imaging_objects o ON o.tenant_id = %(tenant_id)s AND o.series_id = e.id"
    " WHERE s.tenant_id = %(tenant_id)s AND o.sop_instance_uid IS NOT NULL"
    " AND o.object_type = 'DICOM' AND o.dataset_offset IS NOT NULL"
)
_ORDER: Final = (
    "s.study_date, s.study_time, s.study_uid, e.series_number, e.series_uid, o.instance_number,"
    " o.sop_instance_uid"
)
_COLUMNS: Final = (
    "o.sop_class_uid, o.sop_instance_uid, o.transfer_syntax_uid, o.storage_uri, o.dataset_offset,"
    " o.byte_size"
)
_PAGE: Final = (
    f"SELECT {_COLUMNS} FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS wanted (id, n)"
    " JOIN imaging_objects o ON o.tenant_id = %(tenant_id)s AND o.id = wanted.id ORDER BY wanted.n"
)


class InvalidIdentifier(Exception):
    """The identifier does not match the SOP class (status A900, PS3.4 Table C.4-2)."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """The unique keys of a request. Those above its level narrow it; they may be left out."""

    level: str
    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    # Matched column -> UIDs.
    uids: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_identifier(
    data_set: bytes | None, transfer_syntax_uid: str, *, has_patient_level: bool
) -> Identifier:
    """Read the identifier of a C-MOVE or C-GET. Raises InvalidIdentifier."""
    if data_set is None:
        raise InvalidIdentifier("there is no identifier")
    values = _values(data_set, transfer_syntax_uid)
    level = values.get(_QUERY_RETRIEVE_LEVEL, "")
    if level not in _KEY_OF_LEVEL or (level == "PATIENT" and not has_patient_level):
        known = [name for name in _KEY_OF_LEVEL if name != "PATIENT" or has_patient_level]
        raise InvalidIdentifier(f"Query/Retrieve Level {level[:16]!r}: {', '.join(known)}")
    uids = {}
    for tag, (name, column) in _UID_KEYS.items():
        if given := tuple(dict.fromkeys(uid for uid in _split(values.get(tag, "")) if uid)):
            wrong = next((uid for uid in given if not is_uid(uid)), None)
            if wrong is not None:
                raise InvalidIdentifier(f"{name} {wrong[:24]!r} is no UID")
            uids[column] = given
    identifier = Identifier(
        level,
        values.get(_PATIENT_ID) or None,
        values.get(_ISSUER_OF_PATIENT_ID) or None,
        uids,
    )
    key = _KEY_OF_LEVEL[level]
    if key == _PATIENT_ID and identifier.patient_id is None:
        raise InvalidIdentifier("Patient ID is missing, the unique key of the level PATIENT")
    if key != _PATIENT_ID and _UID_KEYS[key][1] not in uids:
        raise InvalidIdentifier(f"{_UID_KEYS[key][0]} is missing, unique key of level {level}")
    return identifier


def _values(data_set: bytes, transfer_syntax_uid: str) -> dict[int, str]:
    """The text of the unique keys and of the level."""
    walk = Walk(
        data_set,
        len(data_set),
        DEFAULT_LIMITS,
        implicit=transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN,
        big_endian=transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN,
    )
    try:
        walk.run(0)
    except (Failure, HeadTooShort, StructError) as error:
        raise InvalidIdentifier(f"the identifier cannot be read: {error}") from error
    found = {}
    for tag in (_QUERY_RETRIEVE_LEVEL, _PATIENT_ID, _ISSUER_OF_PATIENT_ID, *_UID_KEYS):
        if tag in walk.top:
            _, offset, length = walk.top[tag]
            if length == UNDEFINED or length > _LARGEST_IDENTIFIER_VALUE:
                raise InvalidIdentifier(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is no text")
            found[tag] = walk.decoder(data_set[offset : offset + length]).strip(" \0")
    if any("\0" in value for value in found.values()):
        raise InvalidIdentifier("a value of the identifier has a NUL inside")
    return found


def _split(value: str) -> list[str]:
    return [uid.strip(" \0") for uid in value.split("\\")]


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Who asks, by which operation, and who will get the objects.

    `receiver` stands for the latter where it is somebody else: what it may not see, whoever asks
    for it may not have sent there.
    """

    caller: Caller
    operation: str
    receiving_ae_title: str
    receiver: Caller | None = None


@dataclass(slots=True)
class Plan:
    """The objects of one request."""

    database: Database
    tenant_id: UUID
    # SOP class and transfer syntax of all of them.
    kinds: list[tuple[str, str]]
    # All of them where they fit into a page; else 16 bytes of each row's id.
    first_page: list[OutgoingObject]
    ids: bytes

    @property
    def count(self) -> int:
        return len(self.first_page) or len(self.ids) // 16

    def objects(self) -> Iterator[OutgoingObject]:
        """Them in viewing order, without what was deleted meanwhile.

        Ends early where the database does not answer any more.
        """
        yield from self.first_page
        for start in range(0, len(self.ids), 16 * PAGE):
            page = self.ids[start : start + 16 * PAGE]
            ids = [UUID(bytes=page[at : at + 16]) for at in range(0, len(page), 16)]
            try:
                with self.database.connection(self.tenant_id) as connection:
                    rows = connection.execute(
                        _PAGE, {"tenant_id": self.tenant_id, "ids": ids}
                    ).fetchall()
            except (psycopg.Error, PoolTimeout) as error:
                logger.error("retrieval_cut_off", extra={"error": type(error).__name__})
                return
            for row in rows:
                yield OutgoingObject(*row)


def plan(database: Database, identifier: Identifier, disclosure: Disclosure) -> Plan:
    """Look up what the caller may have of what it asks for; audited. Raises Forbidden.

    What it may not see is not there, and so is another tenant's.
    """
    caller = disclosure.caller
    tenant_id = caller.tenant.id
    parameters = Parameters(tenant_id=tenant_id)
    tests = _tests(identifier, parameters)
    for who in filter(None, (caller, disclosure.receiver)):
        visible = decide(who, "r", RESOURCE_TYPE).require()
        if (seen := condition(visible, parameters)) is not None:
            tests.append(seen)
    source = "".join([_FROM, *(f" AND {test}" for test in tests)])
    with database.connection(tenant_id) as connection:
        found, counts = _look_up(connection, source, parameters)
        # The row of the log is written before anything leaves; only a crash of the database in the
        # next moments can lose it.
        connection.execute("SELECT set_config('synchronous_commit', 'off', true)")
        _audit(connection, disclosure, identifier, counts)
    return Plan(database, tenant_id, *found)


# A study and its patient -> how many of its objects.
Counts = Counter[tuple[UUID, UUID]]
Found = tuple[list[tuple[str, str]], list[OutgoingObject], bytes]


def _look_up(connection: Connection, source: str, parameters: Parameters) -> tuple[Found, Counts]:
    """Kinds, the first page or the ids; and the counts."""
    counts: Counts = Counter()
    query = f"SELECT s.id, s.patient_id, {_COLUMNS}{source} ORDER BY {_ORDER} LIMIT {PAGE + 1}"
    rows = _fetch(connection, query, parameters)
    if len(rows) <= PAGE:
        objects = [OutgoingObject(*row[2:]) for row in rows]
        counts.update((row[0], row[1]) for row in rows)
        return (list(dict.fromkeys(one.kind for one in objects)), objects, b""), counts
    groups = _fetch(
        connection,
        "SELECT s.id, s.patient_id, o.sop_class_uid, o.transfer_syntax_uid, count(*)"
        f"{source} GROUP BY 1, 2, 3, 4",
        parameters,
    )
    for study_id, patient_id, _, _, count in groups:
        counts[study_id, patient_id] += count
    query = f"SELECT string_agg(uuid_send(o.id), ''::bytea ORDER BY {_ORDER}){source}"
    ids = bytes(_fetch(connection, query, parameters)[0][0])
    kinds = dict.fromkeys((str(group[2]), str(group[3])) for group in groups)
    return (list(kinds), [], ids), counts


def _tests(identifier: Identifier, parameters: Parameters) -> list[str]:
    tests = [
        f"{column} = ANY ({parameters.bind(list(uids))})"
        for column, uids in identifier.uids.items()
    ]
    if identifier.patient_id is not None:
        tests.append(f"s.dicom_patient_id = {parameters.bind(identifier.patient_id)}")
    if identifier.issuer_of_patient_id is not None:
        tests.append(f"s.issuer_of_patient_id = {parameters.bind(identifier.issuer_of_patient_id)}")
    return tests


def _fetch(connection: Connection, query: str, parameters: Parameters) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), parameters.values).fetchall()


def _audit(
    connection: Connection, disclosure: Disclosure, identifier: Identifier, counts: Counts
) -> None:
    """One row for each study and its patient; one without either where nothing was found."""
    metadata = {
        "operation": disclosure.operation,
        "level": identifier.level,
        "calling_ae_title": disclosure.caller.actor_name,
        "receiving_ae_title": disclosure.receiving_ae_title,
    }
    shown: Mapping[Any, int] = counts or {(None, None): 0}
    rows = [
        audit_parameters(
            disclosure.caller,
            EVENT,
            RESOURCE_TYPE,
            str(study_id) if study_id else None,
            metadata={**metadata, "instances": count},
            patient_id=patient_id,
        )
        for (study_id, patient_id), count in shown.items()
    ]
    connection.execute(
        "SELECT write_audit_events(%s, %s::json)",
        (disclosure.caller.tenant.id, orjson.dumps(rows, default=str).decode()),
    )
