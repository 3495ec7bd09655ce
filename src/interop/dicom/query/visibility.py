"""Whose images a caller may see, as a condition on the study `s` of a query."""

from __future__ import annotations

from interop.access import Filter, Way
from interop.dicom.query.matching import Parameters
from storage import patient_access

_TENANT = "%(tenant_id)s"
_PATIENT = "s.patient_id"


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
