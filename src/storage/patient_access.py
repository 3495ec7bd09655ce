"""SQL conditions on a patient: whose patient it is, and what it has consented to.

Each takes the SQL expression of a `patients.id` and a `bind` that makes place holders, so that
FHIR searches and QIDO queries hold the same condition inside the query. The tenant is `tenant`, an
expression as well. What is not known counts as no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from storage.database import Connection

# A place holder for a value of the named SQL type.
Bind = Callable[[object, str], str]


def is_of_locations(bind: Bind, tenant: str, patient: str, location_ids: Iterable[UUID]) -> str:
    """The patient's primary location is one of these, or a visit (not cancelled) was there."""
    places = _array(bind, location_ids)
    return (
        f"(EXISTS (SELECT FROM patients AS of_place WHERE of_place.tenant_id = {tenant}"
        f" AND of_place.id = {patient} AND of_place.primary_location_id = ANY ({places}))"
        f" OR EXISTS (SELECT FROM encounters AS visit WHERE visit.tenant_id = {tenant}"
        f" AND visit.patient_id = {patient} AND visit.status <> 'CANCELLED'"
        f" AND visit.location_id = ANY ({places})))"
    )


def is_of_teams(bind: Bind, tenant: str, patient: str, team_ids: Iterable[UUID]) -> str:
    """A member of one of the teams, now, has the patient in a visit that was not cancelled.

    A member for one location only counts for visits there.
    """
    teams = _array(bind, team_ids)
    return (
        "EXISTS (SELECT FROM encounters AS visit JOIN team_members AS member"
        f" ON member.tenant_id = {tenant} AND member.user_id = visit.provider_id"
        " AND (member.location_id IS NULL OR member.location_id = visit.location_id)"
        " AND (member.valid_from IS NULL OR member.valid_from <= now())"
        " AND (member.valid_until IS NULL OR member.valid_until > now())"
        " JOIN teams AS team ON team.tenant_id = member.tenant_id AND team.id = member.team_id"
        f" AND team.is_active AND team.id = ANY ({teams})"
        f" WHERE visit.tenant_id = {tenant} AND visit.patient_id = {patient}"
        " AND visit.status <> 'CANCELLED')"
    )


def is_treated_by(bind: Bind, tenant: str, patient: str, user_id: UUID) -> str:
    """The user is the provider of a visit that was not cancelled, or of a procedure."""
    user = bind(user_id, "uuid")
    return (
        f"(EXISTS (SELECT FROM encounters AS visit WHERE visit.tenant_id = {tenant}"
        f" AND visit.patient_id = {patient} AND visit.provider_id = {user}"
        " AND visit.status <> 'CANCELLED')"
        f" OR EXISTS (SELECT FROM procedures AS done WHERE done.tenant_id = {tenant}"
        f" AND done.patient_id = {patient} AND done.provider_id = {user}))"
    )


def give_home(
    connection: Connection, tenant_id: UUID, patient_id: UUID, location_ids: Iterable[UUID]
) -> None:
    """Make a patient without a primary location one of that above all others of these.

    Where these lie under several, whose patient it is does not follow, and nothing is done.
    """
    connection.execute(
        "UPDATE patients AS p SET primary_location_id = home.id FROM ("
        "SELECT min(l.id::text)::uuid AS id FROM locations AS l WHERE l.tenant_id = %(tenant_id)s"
        " AND l.id = ANY (%(places)s) AND (l.parent_location_id IS NULL"
        " OR l.parent_location_id <> ALL (%(places)s)) HAVING count(*) = 1) AS home"
        " WHERE p.tenant_id = %(tenant_id)s AND p.id = %(patient_id)s"
        " AND p.primary_location_id IS NULL",
        {"tenant_id": tenant_id, "patient_id": patient_id, "places": list(location_ids)},
    )


def has_given(tenant: str, patient: str, consent: str) -> str:
    """The newest thing that the patient said of this kind of consent is an unexpired grant.

    A refusal or a revocation ends every older grant, in whichever row that stands; of what was said
    at the same time, the no counts. `consent` is an SQL expression.
    """
    return (
        "coalesce((SELECT said.allows FROM consents AS c CROSS JOIN LATERAL (VALUES"
        " (c.granted_at, c.expires_at IS NULL OR c.expires_at > now()),"
        " (c.revoked_at, false), (c.refused_at, false)) AS said (at, allows)"
        f" WHERE c.tenant_id = {tenant} AND c.subject_type = 'PATIENT'"
        f" AND c.subject_id = {patient} AND c.consent_type = {consent}"
        " AND said.at <= now() ORDER BY said.at DESC, said.allows LIMIT 1), false)"
    )


def has_consent(connection: Connection, tenant_id: UUID, patient_id: UUID, consent: str) -> bool:
    """Whether one patient has consented, as it stands now."""
    query = "SELECT " + has_given("%(tenant_id)s", "%(patient_id)s", "%(consent)s")
    row = connection.execute(
        query.encode(), {"tenant_id": tenant_id, "patient_id": patient_id, "consent": consent}
    ).fetchone()
    return row is not None and bool(row[0])


def _array(bind: Bind, ids: Iterable[UUID]) -> str:
    """A list of ids as one value."""
    return bind("{" + ",".join(sorted(str(one) for one in ids)) + "}", "uuid[]")
