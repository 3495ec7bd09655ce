"""CareTeam over teams and team_members: a team of the organization and who is in it.

Whose records a member may see follows from teams, so they are changed in administration and shown
here. The team of one patient (US Core CareTeam) is a client's own and kept whole. A member for one
location only says so in an extension; R4 has no place for it.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import Concept
from interop.fhir.mappings.converters import Codes, Text, instant
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.practitioner import KINDS, NOT_PRESENTED
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import own, own_extension
from interop.fhir.mappings.views import Shown, ViewLens

LOCATION: Final = own_extension("care-team-location")
KINDS_OF_TEAM: Final = Concept(
    {
        "CLINICAL": own("team-type", "clinical", "Clinical team"),
        "ADMINISTRATIVE": own("team-type", "administrative", "Administrative team"),
        "RESEARCH": own("team-type", "research", "Research team"),
    }
)

MAPPING: Final = ResourceMapping(
    "CareTeam",
    "teams",
    [
        Entry("status", "status", Codes({"active": "ACTIVE", "inactive": "INACTIVE"})),
        Entry("team_type", "category", FirstOf(KINDS_OF_TEAM)),
        Entry("name", "name", Text()),
        Entry(
            "participants",
            "participant",
            Shown("each member: role (kind of user, role_in_team), member, period"),
        ),
        Entry("organization", "managingOrganization", Shown("the tenant's Organization")),
        Entry("description", "note", Shown("description")),
    ],
)


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    teams = query(
        connection,
        "SELECT name, description, team_type, is_active FROM teams"
        " WHERE tenant_id = %s AND id = %s",
        tenant_id,
        row_id,
    )
    if not teams:
        return None
    members = query(
        connection,
        "SELECT m.user_id, m.location_id, m.role_in_team, m.valid_from, m.valid_until, u.user_type"
        " FROM team_members AS m JOIN user_tenants AS u"
        " ON u.tenant_id = m.tenant_id AND u.user_id = m.user_id"
        " WHERE m.tenant_id = %s AND m.team_id = %s AND u.user_type <> ALL (%s) ORDER BY m.id",
        tenant_id,
        row_id,
        list(NOT_PRESENTED),
    )
    team = teams[0]
    row = {
        "status": "ACTIVE" if team["is_active"] else "INACTIVE",
        "team_type": team["team_type"],
        "name": team["name"],
        "participants": _participants(connection, tenant_id, members) or None,
        "organization": [{"reference": f"Organization/{tenant_id}"}],
        "description": [{"text": team["description"]}] if team["description"] else None,
    }
    return Rows(row)


def _participants(connection: Connection, tenant_id: UUID, members: list[Row]) -> list[JsonObject]:
    users = [member["user_id"] for member in members]
    places = [member["location_id"] for member in members]
    people = references.literals(connection, tenant_id, "Practitioner", users)
    locations = references.literals(connection, tenant_id, "Location", places)
    return [_participant(member, people, locations) for member in members]


def _participant(member: Row, people: dict[UUID, str], locations: dict[UUID, str]) -> JsonObject:
    role: JsonObject = KINDS.put(member["user_type"], None)
    if member["role_in_team"]:
        role = {**role, "text": member["role_in_team"]}
    shown: dict[str, Any] = {"role": [role], "member": {"reference": people[member["user_id"]]}}
    if member["location_id"]:
        place = {"reference": locations[member["location_id"]]}
        shown["extension"] = [{"url": LOCATION, "valueReference": place}]
    if within := period(member["valid_from"], member["valid_until"]):
        shown["period"] = within
    return shown


def period(start: Any, end: Any) -> JsonObject | None:
    """A Period of two moments, either of which may be open."""
    named = {"start": start, "end": end}
    return {name: instant(moment) for name, moment in named.items() if moment} or None


def lens(public_url: str | None) -> ViewLens:
    return ViewLens(MAPPING, _load, "a team of this organization; it is changed in administration")
