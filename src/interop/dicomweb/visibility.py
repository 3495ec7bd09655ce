"""The policy's filter over studies: whose images a caller may see, as conditions of queries.

A study belongs to the record of its patient. Scopes that are narrowed by search parameters are
FHIR's language and open nothing here, so that they never open more than they say.
"""

from __future__ import annotations

from interop.access import Caller, Filter, Letter, Way, decide
from interop.dicomweb.matching import Parameters
from interop.errors import Forbidden
from storage import patient_access

RESOURCE_TYPE = "ImagingStudy"
_TENANT = "%(tenant_id)s"
_PATIENT = "s.patient_id"


def permitted(caller: Caller, letter: Letter) -> Filter:
    """What the caller may do `letter` to. Raises Forbidden where that is nothing at all.

    Who may not store for the whole organization may not store here: to whom an object belongs
    shows only when it is stored.
    """
    filter_ = decide(caller, letter, RESOURCE_TYPE).require()
    if filter_.is_whole_tenant:
        return filter_
    if letter not in ("r", "s"):
        raise Forbidden("storing instances needs access to the images of the whole organization")
    plain = Filter(tuple(way for way in filter_.ways if not way.constraints))
    if not plain.ways:
        raise Forbidden("a scope with search parameters opens no images; ask for ImagingStudy.rs")
    return plain


def condition(filter_: Filter, parameters: Parameters) -> str | None:
    """The filter as a condition on the study `s`; None where it admits all."""
    if filter_.is_whole_tenant:
        return None
    return "(" + " OR ".join(_way(way, parameters) for way in filter_.ways) + ")"


def _way(way: Way, parameters: Parameters) -> str:
    def bind(value: object, type_: str) -> str:
        return f"{parameters.bind(str(value))}::{type_}"

    parts: list[str] = []
    if way.patient_id is not None:
        parts.append(f"{_PATIENT} = {bind(way.patient_id, 'uuid')}")
    if (units := way.units) is not None:
        of_units: list[str] = []
        if units.location_ids:
            of_units.append(
                patient_access.is_of_locations(bind, _TENANT, _PATIENT, units.location_ids)
            )
        if units.team_ids:
            of_units.append(patient_access.is_of_teams(bind, _TENANT, _PATIENT, units.team_ids))
        if units.user_id is not None:
            of_units.append(patient_access.is_treated_by(bind, _TENANT, _PATIENT, units.user_id))
        if units.patient_id is not None:
            of_units.append(f"{_PATIENT} = {bind(units.patient_id, 'uuid')}")
        parts.append(f"({' OR '.join(of_units) or 'false'})")
    if way.consent is not None:
        parts.append(patient_access.has_given(_TENANT, _PATIENT, bind(way.consent, "text")))
    return f"({' AND '.join(parts) or 'true'})"
