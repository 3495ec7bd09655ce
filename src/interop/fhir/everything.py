"""$everything: the record of a patient or an encounter (R4 patient-operation-everything.html).

One search over all types of the compartment, authorized and paged as any other, with what they
refer to of those who treat and where. Other patients are never brought along.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache

from interop.access import Caller, Filter, decide
from interop.errors import BadRequest
from interop.fhir.definitions import definitions
from interop.fhir.search.clauses import clause
from interop.fhir.search.compartments import members
from interop.fhir.search.includes import IncludeRequest
from interop.fhir.search.request import Cursor, SearchRequest, clamped
from interop.fhir.search.terms import APART, AllOf, AnyOf, Member, Term, term
from interop.fhir.search.values import date_interval
from interop.fhir.terminology.inputs import Inputs, Kind
from interop.fhir.versions import instant

PATIENT, ENCOUNTER = "Patient", "Encounter"
CURSOR = "_cursor"
# Parameter -> its type; start and end are for patients alone.
COMMON: Mapping[str, Kind] = {
    "_since": "dateTime",
    "_type": "string",
    "_count": "integer",
    CURSOR: "string",
}
PARAMETERS: Mapping[str, Mapping[str, Kind]] = {
    PATIENT: {"start": "dateTime", "end": "dateTime", **COMMON},
    ENCOUNTER: COMMON,
}
# Who treats, where, and with what: no record of a patient, so they come along with what names them.
SUPPORTING = (
    "Device", "Endpoint", "HealthcareService", "Location", "Medication", "Organization",
    "Practitioner", "PractitionerRole", "Substance",
)  # fmt: skip
# The date of care of types whose parameter is not called `date`.
_CARE_DATES = {
    "Account": "period",
    "ChargeItem": "occurrence",
    "Claim": "created",
    "ClaimResponse": "created",
    "Communication": "sent",
    "CommunicationRequest": "occurrence",
    "Condition": "onset-date",
    "CoverageEligibilityRequest": "created",
    "CoverageEligibilityResponse": "created",
    "DetectedIssue": "identified",
    "DeviceRequest": "event-date",
    "ExplanationOfBenefit": "created",
    "Goal": "start-date",
    "ImagingStudy": "started",
    "Media": "created",
    "MedicationAdministration": "effective-time",
    "MedicationDispense": "whenhandedover",
    "MedicationRequest": "authoredon",
    "MedicationStatement": "effective",
    "NutritionOrder": "datetime",
    "QuestionnaireResponse": "authored",
    "RequestGroup": "authored",
    "ServiceRequest": "authored",
    "Specimen": "collected",
    "Task": "authored-on",
    "VisionPrescription": "datewritten",
}


def request_of(
    caller: Caller, focus: str, resource_id: str, inputs: Inputs
) -> tuple[SearchRequest, dict[str, Filter]]:
    """The search that answers, and what of each type the caller may see.

    `resource_id` is empty for every patient. Raises BadRequest and Forbidden.
    """
    decide(caller, "r", focus).require()
    wanted = _types(inputs.text("_type"), focus)
    filters: dict[str, Filter] = {}
    asked: dict[str, list[Term]] = {}
    for type_ in sorted(compartment(focus)):
        filter_ = decide(caller, "r", type_).filter
        if filter_.ways and type_ in wanted and type_ not in APART:
            filters[type_] = filter_
            asked[type_] = [_member(type_, focus, resource_id), *_narrowed(type_, inputs)]
    path = "/".join(part for part in (focus, resource_id, "$everything") if part)
    request = SearchRequest(path, asked, event="FHIR_OPERATION", read_as=focus)
    supporting = (*SUPPORTING, PATIENT) if focus == ENCOUNTER else SUPPORTING
    request.includes = [
        IncludeRequest("", None, type_, False) for type_ in supporting if type_ in wanted
    ]
    request.applied = [
        (name, str(text)) for name in PARAMETERS[focus] if (text := inputs.text(name))
    ]
    request.options = tuple(PARAMETERS[focus])
    _page(request, inputs)
    return request, filters


@cache
def compartment(focus: str) -> Mapping[str, tuple[str, ...]]:
    """Type -> the parameters by which its resources belong to a patient's or encounter's record.

    Besides the compartment of an encounter, whatever else names it as its encounter.
    """
    found = dict(members(focus))
    for type_, parameters in definitions().search_parameters.items() if focus == ENCOUNTER else ():
        one = parameters.get("encounter")
        if one is not None and (not one.targets or ENCOUNTER in one.targets):
            found.setdefault(type_, ("encounter",))
    return found


def _types(listed: str | None, focus: str) -> frozenset[str]:
    known = definitions().resource_types
    if listed is None:
        return known
    wanted = frozenset(part.strip() for part in listed.split(","))
    if unknown := sorted(wanted - known):
        raise BadRequest(f"_type={unknown[0][:64]!r}; expected names of resource types, by commas")
    return wanted


def _member(type_: str, focus: str, resource_id: str) -> Term:
    """The resource belongs to the record: of one, or of any that the caller may see."""
    if resource_id:
        return Member(focus, resource_id, compartment(focus)[type_], type_ == focus)
    if type_ == focus:
        return AllOf(())
    # Of a patient who is there: any was changed after the beginning of time.
    reached = [
        term(type_, f"{one}:{focus}._lastUpdated", "gt1900") for one in compartment(focus)[type_]
    ]
    return AnyOf(tuple(reached))


def _narrowed(type_: str, inputs: Inputs) -> list[Term]:
    found: list[Term] = []
    if since := inputs.text("_since"):
        moment = _interval("_since", since)[0]
        found.append(clause(type_, "_lastUpdated", f"ge{instant(moment)}"))
    code = _CARE_DATES.get(type_, "date")
    if code not in definitions().search_parameters[type_]:
        return found
    for name, prefix in (("start", "ge"), ("end", "le")):
        if text := inputs.text(name):
            _interval(name, text)
            # What has no date of care is part of the record at any time.
            dated = clause(type_, code, f"{prefix}{text}")
            found.append(AnyOf((dated, clause(type_, f"{code}:missing", "true"))))
    return found


def _interval(name: str, text: str) -> tuple[datetime, datetime]:
    try:
        return date_interval(text)
    except ValueError:
        raise BadRequest(f"{name}={text[:32]!r}; expected a date or moment") from None


def _page(request: SearchRequest, inputs: Inputs) -> None:
    count = inputs.number("_count")
    if count is not None:
        request.count = max(clamped(str(count)), 1)
    if cursor := inputs.text(CURSOR):
        request.cursor = Cursor.decode(cursor)
