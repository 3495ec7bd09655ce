"""Which of the objects that have just come go on to others: typed conditions, never expressions.

Called inside the ingest transaction, so what is stored and what is still to be sent are one fact.
A tenant without rules costs nothing: `ingest_read` says in passing whether there are any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

import orjson

from interop.dicom.names import matching_key
from storage.database import Connection
from storage.jobs import defer

QUEUE: Final = "dicom"
DELIVER_TASK: Final = "deliver_images"
# What comes within it goes out over one association.
GATHER: Final = timedelta(seconds=1)
_MOST_VALUES, _LONGEST_VALUE = 100, 200

_RULES: LiteralString = (
    "SELECT r.name, r.predicate, r.application_entity_id, r.web_destination_id, r.quiet_seconds,"
    " r.with_commitment, r.required_consent, a.ae_title"
    " FROM dicom_routing_rules AS r LEFT JOIN dicom_application_entities AS a"
    " ON a.tenant_id = r.tenant_id AND a.id = r.application_entity_id"
    " WHERE r.tenant_id = %s AND r.enabled ORDER BY r.quiet_seconds, r.name"
)
_INSERT: LiteralString = (
    "INSERT INTO dicom_deliveries (tenant_id, application_entity_id, web_destination_id,"
    " imaging_object_id, study_id, rule_name, quiet_seconds, with_commitment, required_consent)"
    " SELECT %(tenant_id)s, d.application_entity_id, d.web_destination_id, d.imaging_object_id,"
    " d.study_id, d.rule_name, d.quiet_seconds, d.with_commitment, d.required_consent"
    " FROM json_to_recordset(%(deliveries)s) AS d(application_entity_id uuid,"
    " web_destination_id uuid, imaging_object_id uuid, study_id uuid, rule_name text,"
    " quiet_seconds int, with_commitment bool, required_consent text)"
    " ON CONFLICT DO NOTHING"
)


class InvalidPredicate(ValueError):
    """A rule's predicate names a condition that does not exist, or a value that is none."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a rule may look at in one stored object."""

    imaging_object_id: UUID
    study_id: UUID
    patient_id: UUID
    sop_class_uid: str
    modality: str
    calling_ae_title: str
    study_description: str
    body_part: str
    manufacturer: str
    station_name: str


@dataclass(frozen=True, slots=True)
class Predicate:
    """All stated conditions must hold; an empty one holds always. Of a condition one value must.

    Descriptions may hold `*` and `?`, and are compared as queries are: without case and accents.
    """

    modalities: tuple[str, ...] = ()
    sop_class_uids: tuple[str, ...] = ()
    calling_ae_titles: tuple[str, ...] = ()
    study_descriptions: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    manufacturers: tuple[str, ...] = ()
    station_names: tuple[str, ...] = ()
    # The patient's primary location.
    location_ids: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Predicate:
        """Read a rule's JSON. Raises InvalidPredicate, naming what there is."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise InvalidPredicate(
                f"unknown conditions {', '.join(unknown)}; there are {', '.join(known)}"
            )
        for name, values in data.items():
            if (
                not isinstance(values, list)
                or len(values) > _MOST_VALUES
                or not all(isinstance(v, str) and 0 < len(v) <= _LONGEST_VALUE for v in values)
            ):
                raise InvalidPredicate(
                    f"{name}: a list of up to {_MOST_VALUES} texts of 1 to {_LONGEST_VALUE} "
                    "characters"
                )
        for text in data.get("location_ids", ()):
            try:
                UUID(text)
            except ValueError as error:
                raise InvalidPredicate(f"location_ids: {text!r} is no id of a location") from error
        return cls(**{name: tuple(values) for name, values in data.items()})

    def to_json(self) -> dict[str, list[str]]:
        """The stated conditions."""
        return {f.name: list(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name)}

    def matches(self, arrival: Arrival, location_id: UUID | None) -> bool:
        return (
            _one_of(arrival.modality, self.modalities)
            and (not self.sop_class_uids or arrival.sop_class_uid in self.sop_class_uids)
            and (not self.calling_ae_titles or arrival.calling_ae_title in self.calling_ae_titles)
            and _like_one(arrival.study_description, self.study_descriptions)
            and _one_of(arrival.body_part, self.body_parts)
            and _like_one(arrival.manufacturer, self.manufacturers)
            and _like_one(arrival.station_name, self.station_names)
            and (not self.location_ids or str(location_id) in self.location_ids)
        )


def _one_of(value: str, accepted: Sequence[str]) -> bool:
    return not accepted or value.casefold() in {x.casefold() for x in accepted}


def _like_one(value: str, patterns: Sequence[str]) -> bool:
    """PS3.4 C.2.2.2.4: `*` is any text, `?` any character."""
    if not patterns:
        return True
    key = matching_key(value)
    return any(_wildcard(matching_key(pattern)).fullmatch(key) for pattern in patterns)


def _wildcard(pattern: str) -> re.Pattern[str]:
    """Each piece between stars is found once and never again: atomic groups (security.md C3)."""
    first, *others = (
        "".join("." if c == "?" else re.escape(c) for c in piece) for piece in pattern.split("*")
    )
    between = "".join(f"(?>.*?{piece})" for piece in others[:-1] if piece)
    last = f".*{others[-1]}" if others else ""
    return re.compile(first + between + last, re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    predicate: Predicate
    application_entity_id: UUID | None
    web_destination_id: UUID | None
    quiet_seconds: int
    with_commitment: bool
    required_consent: str | None
    ae_title: str | None

    def sends(self, arrival: Arrival, location_id: UUID | None) -> bool:
        # Never back to the one that it comes from: two servers with rules would send for ever.
        if self.ae_title is not None and self.ae_title == arrival.calling_ae_title:
            return False
        return self.predicate.matches(arrival, location_id)


def enqueue(connection: Connection, tenant_id: UUID, arrivals: Sequence[Arrival]) -> None:
    """Add the deliveries of objects that were just stored, in their transaction."""
    rules = [
        _Rule(row[0], Predicate.from_json(row[1]), *row[2:])
        for row in connection.execute(_RULES, (tenant_id,)).fetchall()
    ]
    homes = _locations(connection, tenant_id, arrivals) if _look_at_locations(rules) else {}
    deliveries: list[dict[str, object]] = []
    due: dict[tuple[str, UUID], int] = {}
    for arrival in arrivals:
        for rule in rules:
            if not rule.sends(arrival, homes.get(arrival.patient_id)):
                continue
            deliveries.append(
                {
                    "application_entity_id": rule.application_entity_id,
                    "web_destination_id": rule.web_destination_id,
                    "imaging_object_id": arrival.imaging_object_id,
                    "study_id": arrival.study_id,
                    "rule_name": rule.name,
                    "quiet_seconds": rule.quiet_seconds,
                    "with_commitment": rule.with_commitment,
                    "required_consent": rule.required_consent,
                }
            )
            place = destination_key(rule.application_entity_id, rule.web_destination_id)
            due[place] = max(due.get(place, 0), rule.quiet_seconds)
    if not deliveries:
        return
    connection.execute(
        _INSERT, {"tenant_id": tenant_id, "deliveries": orjson.dumps(deliveries).decode()}
    )
    for (kind, id_), quiet_seconds in sorted(due.items()):
        at = datetime.now(UTC) + max(GATHER, timedelta(seconds=quiet_seconds))
        deliver_later(connection, tenant_id, kind, id_, at)


def deliver_later(
    connection: Connection,
    tenant_id: UUID,
    kind: str,
    destination_id: UUID,
    at: datetime | None,
    queueing_lock: str | None = None,
) -> None:
    """Have a worker send what is due for a destination then."""
    defer(
        connection,
        DELIVER_TASK,
        {"tenant_id": str(tenant_id), "kind": kind, "destination_id": str(destination_id)},
        queue=QUEUE,
        schedule_at=at,
        queueing_lock=queueing_lock,
    )


def destination_key(
    application_entity_id: UUID | None, web_destination_id: UUID | None
) -> tuple[str, UUID]:
    """A destination by its kind, `ae` or `web`, and its id."""
    if application_entity_id is not None:
        return "ae", application_entity_id
    assert web_destination_id is not None
    return "web", web_destination_id


def _look_at_locations(rules: Sequence[_Rule]) -> bool:
    return any(rule.predicate.location_ids for rule in rules)


def _locations(
    connection: Connection, tenant_id: UUID, arrivals: Sequence[Arrival]
) -> dict[UUID, UUID | None]:
    rows = connection.execute(
        "SELECT id, primary_location_id FROM patients WHERE tenant_id = %s AND id = ANY (%s)",
        (tenant_id, list({arrival.patient_id for arrival in arrivals})),
    ).fetchall()
    return dict(rows)
