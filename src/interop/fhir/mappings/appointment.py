"""Appointment over encounters: the planning of a visit, whose course is the Encounter's.

One row is both: an Appointment as long as it has a planned start. Booking one makes the row, and
with it a planned Encounter; a change of either shows in the other. Proposals, requests and what
stands on a waiting list are no visits yet, and have no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from interop.errors import Conflict
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.concepts import ConceptText, Reference
from interop.fhir.mappings.converters import Codes, Counted, Moment
from interop.fhir.mappings.encounter import TYPES
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row
from interop.fhir.mappings.path import DATA_ABSENT_REASON, path
from interop.fhir.mappings.places import FirstOf, Within
from interop.fhir.mappings.shared_type import SharedLens, Writable
from interop.fhir.mappings.statements import exists
from interop.fhir.mappings.tables import TableLens
from storage import resources

STATUSES: Final = Codes(
    {
        "booked": "SCHEDULED",
        "arrived": "IN_PROGRESS",
        "checked-in": "IN_PROGRESS",
        "fulfilled": "COMPLETED",
        "cancelled": "CANCELLED",
        "noshow": "NO_SHOW",
    }
)
TAKEN_PLACE: Final = ("IN_PROGRESS", "COMPLETED")
MAX_MINUTES: Final = 10080
_MINUTE: Final = timedelta(minutes=1)
# app-2: an appointment has both start and end. Nobody has said when it ends.
_UNKNOWN: Final = {"extension": [{"url": DATA_ABSENT_REASON, "valueCode": "unknown"}]}


@dataclass(frozen=True, slots=True)
class Slot:
    """(scheduled_start_at, scheduled_minutes) of start and end."""

    label: str = "start; end - start in whole minutes, else minutesDuration"

    def get(self, node: JsonObject) -> tuple[datetime | None, int | None]:
        start, end = Moment().get(node.get("start")), Moment().get(node.get("end"))
        minutes = Counted(low=1).get(node.get("minutesDuration"))
        if start is not None and end is not None and (end - start) % _MINUTE == timedelta(0):
            minutes = (end - start) // _MINUTE
        is_held = minutes is not None and 1 <= minutes <= MAX_MINUTES
        return start, minutes if is_held else None

    def put(self, value: tuple[datetime | None, int | None], node: JsonObject) -> JsonObject:
        start, minutes = value
        dropped = ("start", "end", "minutesDuration")
        rest = {key: item for key, item in node.items() if key.lstrip("_") not in dropped}
        if start is None:
            return {**rest, "minutesDuration": minutes} if minutes else rest
        rest["start"] = Moment().put(start, None)
        if minutes is None:
            return {**rest, "_end": _UNKNOWN}
        return {**rest, "end": Moment().put(start + timedelta(minutes=minutes), None)}


def mapping(public_url: str | None) -> ResourceMapping:
    def actor(resource_type: str) -> FirstOf:
        reference = Reference((resource_type,), public_url)
        return FirstOf(Within("actor", reference, {"status": "accepted"}))

    return ResourceMapping(
        "Appointment",
        "encounters",
        [
            Entry("status", "status", STATUSES, "SCHEDULED", required=True),
            Entry("encounter_type", "serviceType", FirstOf(TYPES), "EXAM"),
            Entry("reason", "reasonCode", FirstOf(ConceptText())),
            Entry(("scheduled_start_at", "scheduled_minutes"), "", Slot()),
            Entry("patient_id", "participant", actor("Patient")),
            Entry("provider_id", "participant", actor("Practitioner")),
            Entry("location_id", "participant", actor("Location")),
        ],
    )


_START = path("start")


def is_visit(resource: JsonObject) -> bool:
    """Whether a visit was planned: booked, or what has become of it."""
    return (
        STATUSES.get(resource.get("status")) is not None
        and Moment().get(_START.get(resource)) is not None
    )


class AppointmentLens(TableLens):
    """The planning of visits; a visit that was never planned is none of its rows."""

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The proposed row, unless it is a visit that is no Appointment: not this client's then."""
        owner = resources.row_owner(connection, tenant_id, self.resource_type, proposed)
        key = {"tenant_id": tenant_id, "id": proposed}
        is_foreign = owner is None and exists(connection, self.mapping.table, key)
        return uuid4() if is_foreign else proposed

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        row = self._select(connection, tenant_id, row_id)
        if row is not None and row["status"] in TAKEN_PLACE:
            raise Conflict("the visit has begun; delete its Encounter instead")
        super().delete(connection, tenant_id, row_id)

    def _select(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> Row | None:
        row = super()._select(connection, tenant_id, row_id)
        return row if row and row["scheduled_start_at"] is not None else None


def lens(public_url: str | None) -> SharedLens:
    needs = ("patient_id", "scheduled_start_at")
    return SharedLens((), (Writable(AppointmentLens(mapping(public_url), needs=needs), is_visit),))
