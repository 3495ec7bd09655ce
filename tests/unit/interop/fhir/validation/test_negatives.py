"""One table of what R4 forbids, by the classes of the notes on validators (fhir.md), all caught."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from interop.fhir.validation import validate

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition"
XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'
UCUM = "http://unitsofmeasure.org"
Json = dict[str, Any]

VALID: dict[str, Json] = {
    "Patient": {"name": [{"family": "A", "given": ["B"]}], "gender": "female"},
    "Observation": {
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
        "subject": {"reference": "Patient/1"},
        "effectiveDateTime": "2024-05-17",
        "valueQuantity": {"value": 70, "unit": "kg", "system": UCUM, "code": "kg"},
    },
    "Condition": {
        "clinicalStatus": {
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/condition-clinical",
                    "code": "active",
                }
            ]
        },
        "code": {"text": "x"},
        "subject": {"reference": "Patient/1"},
    },
    "Appointment": {
        "status": "booked",
        "start": "2024-05-17T09:00:00Z",
        "end": "2024-05-17T09:30:00Z",
        "participant": [{"actor": {"reference": "Patient/1"}, "status": "accepted"}],
    },
    "Bundle": {"type": "collection", "entry": [{"resource": {"resourceType": "Basic"}}]},
    "Questionnaire": {"status": "draft", "item": [{"linkId": "1", "type": "string"}]},
    "Organization": {"name": "O"},
    "MedicationRequest": {
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/1"},
        "medicationCodeableConcept": {"text": "x"},
    },
    "Procedure": {"status": "completed", "subject": {"reference": "Patient/1"}},
    "Encounter": {"status": "finished", "class": {"system": "urn:s", "code": "AMB"}},
    "Binary": {"contentType": "text/plain", "data": "AAAA"},
    "CarePlan": {"status": "active", "intent": "plan", "subject": {"reference": "Patient/1"}},
    "Goal": {
        "lifecycleStatus": "active",
        "description": {"text": "x"},
        "subject": {"reference": "Patient/1"},
    },
}
VALID["Bundle"]["entry"][0]["resource"] |= {"code": {"text": "x"}}


def case(type_: str, change: Json, code: str, place: str, said: str = "") -> Any:
    return pytest.param(type_, change, code, place, said, id=f"{type_}-{place}-{said or code}")


STRUCTURE = [
    case("Patient", {"foo": 1}, "structure", "Patient.foo"),
    case("Patient", {"name": [{"fam": "x"}]}, "structure", "Patient.name[0].fam"),
    case("Patient", {"name": {"family": "x"}}, "structure", "Patient.name", "array"),
    case("Patient", {"birthDate": ["1970"]}, "structure", "Patient.birthDate"),
    case("Patient", {"name": []}, "structure", "Patient.name", "empty array"),
    case("Patient", {"contact": [{}]}, "structure", "Patient.contact[0]", "empty object"),
    case("Patient", {"active": None}, "structure", "Patient.active", "null"),
    case(
        "Patient",
        {"deceasedBoolean": True, "deceasedDateTime": "2020"},
        "structure",
        "Patient.deceasedDateTime",
    ),
    case("Observation", {"status": ...}, "required", "Observation.status"),
    case("Observation", {"code": ...}, "required", "Observation.code"),
    case("Encounter", {"class": ...}, "required", "Encounter.class"),
    case("Observation", {"valueMoney": {"value": 1}}, "structure", "Observation.valueMoney"),
    case(
        "Bundle",
        {"entry": [{"resource": {"resourceType": "Nonsense"}}]},
        "structure",
        "Bundle.entry[0].resource",
    ),
    case(
        "Patient",
        {"contained": [{"resourceType": "Basic", "code": {"text": "x"}, "x": 1}]},
        "structure",
        "Patient.contained[0].x",
    ),
]
PRIMITIVE = [
    case("Patient", {"birthDate": "1970-13-01"}, "value", "Patient.birthDate"),
    case("Patient", {"birthDate": "1970-02-30"}, "value", "Patient.birthDate"),
    case("Patient", {"birthDate": "01.02.1970"}, "value", "Patient.birthDate"),
    case("Patient", {"active": "true"}, "structure", "Patient.active"),
    case("Patient", {"id": "a b"}, "value", "Patient.id"),
    case("Patient", {"id": "x" * 65}, "value", "Patient.id"),
    case("Patient", {"gender": " male"}, "value", "Patient.gender"),
    case("Patient", {"multipleBirthInteger": 1.5}, "value", "Patient.multipleBirthInteger"),
    case("Patient", {"telecom": [{"rank": 0}]}, "value", "Patient.telecom[0].rank"),
    case("Patient", {"meta": {"lastUpdated": "2020"}}, "value", "Patient.meta.lastUpdated"),
    case("Patient", {"name": [{"family": ""}]}, "structure", "Patient.name[0].family"),
    case("Appointment", {"start": "2024-05-17T09:00:00"}, "value", "Appointment.start"),
    case("Appointment", {"minutesDuration": -5}, "value", "Appointment.minutesDuration"),
    case("Observation", {"effectiveDateTime": "2024-5"}, "value", "Observation.effectiveDateTime"),
    case("Binary", {"data": "AAA"}, "value", "Binary.data", "base64"),
    case("Observation", {"valueTime": "25:00:00"}, "value", "Observation.valueTime"),
    case("Organization", {"alias": [1]}, "structure", "Organization.alias[0]"),
]
BINDING = [
    case("Patient", {"gender": "x"}, "code-invalid", "Patient.gender"),
    case("Observation", {"status": "done"}, "code-invalid", "Observation.status"),
    case("Patient", {"name": [{"use": "first"}]}, "code-invalid", "Patient.name[0].use"),
    case(
        "Condition",
        {"clinicalStatus": {"coding": [{"system": "urn:x", "code": "active"}]}},
        "code-invalid",
        "Condition.clinicalStatus",
    ),
    case(
        "Condition",
        {
            "verificationStatus": {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/condition-ver-status",
                        "code": "perhaps",
                    }
                ]
            }
        },
        "code-invalid",
        "Condition.verificationStatus",
    ),
    case("MedicationRequest", {"intent": "wish"}, "code-invalid", "MedicationRequest.intent"),
]
INVARIANT = [
    case("Appointment", {"start": ...}, "invariant", "Appointment", "app-2"),
    case("Appointment", {"start": ..., "end": ...}, "invariant", "Appointment", "app-3"),
    case("Patient", {"contact": [{"gender": "male"}]}, "invariant", "Patient.contact[0]", "pat-1"),
    case("Patient", {"telecom": [{"value": "1"}]}, "invariant", "Patient.telecom[0]", "cpt-2"),
    case(
        "Patient",
        {"address": [{"period": {"start": "2024", "end": "2023"}}]},
        "invariant",
        "Patient.address[0].period",
        "per-1",
    ),
    case(
        "Observation",
        {"dataAbsentReason": {"text": "x"}},
        "invariant",
        "Observation",
        "obs-6",
    ),
    case(
        "Observation",
        {"component": [{"code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]}}]},
        "invariant",
        "Observation",
        "obs-7",
    ),
    case(
        "Observation",
        {"valueQuantity": {"value": 1, "code": "kg"}},
        "invariant",
        "Observation.valueQuantity",
        "qty-3",
    ),
    case(
        "Observation",
        {"referenceRange": [{"low": {"value": 2}, "high": {"value": 3, "comparator": "<"}}]},
        "invariant",
        "Observation.referenceRange[0].high",
        "sqty-1",
    ),
    case(
        "Observation",
        {"referenceRange": [{"type": {"text": "x"}}]},
        "invariant",
        "Observation.referenceRange[0]",
        "obs-3",
    ),
    case("Organization", {"name": ..., "active": True}, "invariant", "Organization", "org-1"),
    case(
        "Organization",
        {"telecom": [{"system": "phone", "value": "1", "use": "home"}]},
        "invariant",
        "Organization.telecom[0]",
        "org-3",
    ),
    case("Bundle", {"total": 1}, "invariant", "Bundle", "bdl-1"),
    case(
        "Bundle",
        {
            "entry": [
                {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Basic"}},
                {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Basic"}},
            ]
        },
        "invariant",
        "Bundle",
        "bdl-7",
    ),
    case(
        "Questionnaire",
        {"item": [{"linkId": "1", "type": "string"}, {"linkId": "1", "type": "string"}]},
        "invariant",
        "Questionnaire",
        "que-2",
    ),
    case(
        "Questionnaire",
        {"item": [{"linkId": "1", "type": "display", "required": True}]},
        "invariant",
        "Questionnaire.item[0]",
        "que-6",
    ),
    case(
        "CarePlan",
        {"activity": [{"reference": {"reference": "Task/1"}, "detail": {"status": "in-progress"}}]},
        "invariant",
        "CarePlan.activity[0]",
        "cpl-3",
    ),
    case("Goal", {"target": [{"detailString": "x"}]}, "invariant", "Goal.target[0]", "gol-1"),
    case(
        "Patient",
        {"contained": [{"resourceType": "Basic", "id": "b", "code": {"text": "x"}}]},
        "invariant",
        "Patient",
        "dom-3",
    ),
    case("Patient", {"extension": [{"url": "urn:x"}]}, "invariant", "Patient.extension[0]"),
]
REFERENCE_AND_NARRATIVE = [
    case(
        "Observation",
        {"subject": {"reference": "Practitioner/1"}},
        "value",
        "Observation.subject",
        "Patient",
    ),
    case(
        "Patient",
        {"managingOrganization": {"reference": "#o"}},
        "not-found",
        "Patient.managingOrganization",
    ),
    case(
        "Patient",
        {"text": {"status": "generated", "div": f"<div {XHTML}><script>1</script></div>"}},
        "value",
        "Patient.text.div",
    ),
    case(
        "Bundle",
        {
            "entry": [
                {
                    "fullUrl": "urn:uuid:1",
                    "resource": {"resourceType": "Organization", "name": "x"},
                },
                {
                    "fullUrl": "urn:uuid:2",
                    "resource": {
                        "resourceType": "Observation",
                        "status": "final",
                        "code": {"text": "x"},
                        "subject": {"reference": "urn:uuid:1"},
                    },
                },
            ]
        },
        "value",
        "Bundle.entry[1].resource.subject",
        "Organization",
    ),
]
# Elements of other releases of FHIR.
VERSION = [
    case("Encounter", {"actualPeriod": {"start": "2024"}}, "structure", "Encounter.actualPeriod"),
    case("Observation", {"triggeredBy": []}, "structure", "Observation.triggeredBy"),
    case("Patient", {"animal": {"species": {"text": "cat"}}}, "structure", "Patient.animal"),
    case(
        "MedicationRequest",
        {"medication": {"concept": {"text": "x"}}, "medicationCodeableConcept": ...},
        "required",
        "MedicationRequest.medication[x]",
    ),
]
CLAIMED = [
    case(
        "Patient",
        {"meta": {"profile": [f"{US_CORE}/us-core-patient"]}},
        "required",
        "Patient.identifier",
    ),
    case(
        "Observation",
        {"meta": {"profile": [f"{US_CORE}/us-core-body-weight"]}},
        "required",
        "Observation.category:VSCat",
    ),
    case(
        "Observation",
        {
            "meta": {"profile": [f"{US_CORE}/us-core-body-weight"]},
            "valueQuantity": {"value": 11, "system": UCUM, "code": "[stone_av]"},
        },
        "code-invalid",
        "Observation.valueQuantity.code",
    ),
]
ALL = [
    *STRUCTURE, *PRIMITIVE, *BINDING, *INVARIANT, *REFERENCE_AND_NARRATIVE, *VERSION, *CLAIMED,
]  # fmt: skip


def broken(type_: str, change: Json) -> Json:
    resource = {"resourceType": type_, **copy.deepcopy(VALID[type_]), **copy.deepcopy(change)}
    return {key: value for key, value in resource.items() if value is not ...}


@pytest.mark.parametrize("type_", VALID)
def test_what_the_table_changes_is_valid_as_it_is(type_: str) -> None:
    found = [issue for issue in validate(broken(type_, {})) if issue.severity == "error"]

    assert found == []


@pytest.mark.parametrize(("type_", "change", "code", "place", "said"), ALL)
def test_what_r4_forbids_is_an_error_at_its_place(
    type_: str, change: Json, code: str, place: str, said: str
) -> None:
    found = [issue for issue in validate(broken(type_, change)) if issue.severity == "error"]

    fitting = [issue for issue in found if (issue.code, issue.expression) == (code, place)]
    assert fitting, found
    assert said in " ".join(issue.diagnostics for issue in fitting)


def test_the_table_covers_every_class_of_the_notes() -> None:
    least = {"structure": 12, "primitive": 12, "binding": 4, "invariant": 11, "reference": 3,
             "version": 2, "profile": 2}  # fmt: skip
    cases = (STRUCTURE, PRIMITIVE, BINDING, INVARIANT, REFERENCE_AND_NARRATIVE, VERSION, CLAIMED)

    assert [len(group) >= count for group, count in zip(cases, least.values(), strict=True)] == (
        [True] * len(least)
    )
