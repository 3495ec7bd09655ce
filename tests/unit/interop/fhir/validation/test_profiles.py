"""Profiles as tenants write them: slices by every discriminator, values, types, extensions."""

from __future__ import annotations

from typing import Any

import pytest

from interop.fhir.validation import library, validate

Json = dict[str, Any]
CORE = "http://hl7.org/fhir/StructureDefinition"
URL = "urn:test:profile"


def definition(type_: str, *elements: Json, base: str | None = None, url: str = URL) -> Json:
    rows = [{"id": row["path"], **row} for row in elements]
    return {
        "resourceType": "StructureDefinition",
        "url": url,
        "type": type_,
        "baseDefinition": base or f"{CORE}/{type_}",
        "differential": {"element": rows},
    }


def errors(resource: Json, *definitions: Json) -> list[tuple[str, str]]:
    known = library().with_own({found["url"]: found for found in definitions})
    found = validate(resource, [definitions[0]["url"]], known=known, with_gate=False)
    return sorted((i.code, i.expression or "") for i in found if i.severity == "error")


def patient(**elements: Any) -> Json:
    return {"resourceType": "Patient", **elements}


def observation(**elements: Any) -> Json:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "x"},
        **elements,
    }


def test_cardinality() -> None:
    profile = definition(
        "Patient",
        {"path": "Patient.name", "min": 2, "max": "2"},
        {"path": "Patient.name.family", "min": 1},
        {"path": "Patient.photo", "max": "0"},
    )

    assert errors(patient(name=[{"family": "A"}, {"family": "B"}]), profile) == []
    assert errors(patient(name=[{"family": "A"}]), profile) == [("required", "Patient.name")]
    assert errors(patient(name=[{"family": "A"}] * 3), profile) == [("structure", "Patient.name")]
    assert errors(patient(name=[{"family": "A"}, {"text": "B"}]), profile) == [
        ("required", "Patient.name[1].family")
    ]
    assert errors(patient(name=[{"family": "A"}] * 2, photo=[{"title": "x"}]), profile) == [
        ("structure", "Patient.photo")
    ]


def test_fixed_values_patterns_and_limits() -> None:
    profile = definition(
        "Observation",
        {"path": "Observation.status", "fixedCode": "final"},
        {
            "path": "Observation.code",
            "patternCodeableConcept": {"coding": [{"system": "urn:s", "code": "c"}]},
        },
        {"path": "Observation.valueInteger", "minValueInteger": 1, "maxValueInteger": 10},
        {"path": "Observation.effectiveDateTime", "maxValueDateTime": "2025-01-01"},
    )
    code = {"coding": [{"system": "urn:other", "code": "d"}, {"system": "urn:s", "code": "c"}]}

    assert errors(observation(code=code, valueInteger=5), profile) == []
    assert errors(observation(code=code, valueInteger=11), profile) == [
        ("value", "Observation.valueInteger")
    ]
    assert errors(observation(code=code, effectiveDateTime="2025-01-02"), profile) == [
        ("value", "Observation.effectiveDateTime")
    ]
    assert errors(observation(status="amended"), profile) == [
        ("value", "Observation.code"),
        ("value", "Observation.status"),
    ]


SLICED: dict[str, tuple[str, Json, list[Json], list[Json], list[Json]]] = {
    # discriminator -> (type, slicing, slice rows, items of the slice, items of none)
    "value": (
        "Patient.identifier",
        {"type": "value", "path": "system"},
        [{"path": "Patient.identifier.system", "fixedUri": "urn:a"}],
        [{"system": "urn:a", "value": "1"}],
        [{"system": "urn:b", "value": "1"}, {"value": "1"}],
    ),
    "value above": (
        "Patient.maritalStatus.coding",
        {"type": "value", "path": "code"},
        [{"path": "Patient.maritalStatus.coding", "patternCoding": {"code": "M"}}],
        [{"system": "urn:x", "code": "M"}],
        [{"system": "urn:x", "code": "S"}],
    ),
    "binding": (
        "Patient.identifier",
        {"type": "value", "path": "type"},
        [
            {
                "path": "Patient.identifier.type",
                "binding": {
                    "strength": "required",
                    "valueSet": "http://hl7.org/fhir/ValueSet/administrative-gender",
                },
            }
        ],
        [
            {
                "type": {
                    "coding": [
                        {"system": "http://hl7.org/fhir/administrative-gender", "code": "male"}
                    ]
                }
            }
        ],
        [{"type": {"coding": [{"system": "urn:x", "code": "male"}]}}],
    ),
    "pattern": (
        "Patient.identifier",
        {"type": "pattern", "path": "type"},
        [
            {
                "path": "Patient.identifier.type",
                "patternCodeableConcept": {"coding": [{"code": "MR"}]},
            }
        ],
        [{"type": {"coding": [{"code": "X"}, {"code": "MR"}]}}],
        [{"type": {"coding": [{"code": "X"}]}}, {"value": "1"}],
    ),
    "exists": (
        "Patient.telecom",
        {"type": "exists", "path": "rank"},
        [{"path": "Patient.telecom.rank", "min": 1}],
        [{"rank": 1}],
        [{"value": "1", "system": "phone"}],
    ),
    "exists not": (
        "Patient.telecom",
        {"type": "exists", "path": "rank"},
        [{"path": "Patient.telecom.rank", "max": "0"}],
        [{"value": "1", "system": "phone"}],
        [{"rank": 1}],
    ),
    "type of a reference": (
        "Patient.generalPractitioner",
        {"type": "type", "path": "resolve()"},
        [
            {
                "path": "Patient.generalPractitioner",
                "type": [{"code": "Reference", "targetProfile": [f"{CORE}/Organization"]}],
            }
        ],
        [{"reference": "Organization/1"}],
        [{"reference": "Practitioner/1"}],
    ),
    "nested": (
        "Patient.contact",
        {"type": "value", "path": "relationship.coding.code"},
        [{"path": "Patient.contact.relationship.coding.code", "fixedCode": "N"}],
        [{"relationship": [{"coding": [{"code": "N"}]}], "name": {"text": "x"}}],
        [{"relationship": [{"coding": [{"code": "C"}]}], "name": {"text": "x"}}],
    ),
}


@pytest.mark.parametrize("kind", SLICED)
def test_slices_by_each_discriminator(kind: str) -> None:
    path, discriminator, rows, members, others = SLICED[kind]
    slicing = {"discriminator": [discriminator], "rules": "open"}
    inside = [
        {**row, "id": row["path"].replace(path, f"{path}:own")}
        for row in ({"path": path, "min": 1, "max": "1", "sliceName": "own"}, *rows)
    ]
    profile = definition("Patient", {"path": path, "slicing": slicing}, *inside)
    above, _, name = path.rpartition(".")

    def of(items: list[Json]) -> Json:
        return patient(**{name: items} if above == "Patient" else {above[8:]: {name: items}})

    assert errors(of([*members, *others]), profile) == []
    assert errors(of(others), profile) == [("required", f"{path}:own")]
    assert errors(of(members * 2), profile) == [("structure", f"{path}:own")]


def test_slices_by_type_of_a_choice() -> None:
    profile = definition(
        "Observation",
        {
            "path": "Observation.value[x]",
            "slicing": {"discriminator": [{"type": "type", "path": "$this"}], "rules": "closed"},
        },
        {
            "id": "Observation.value[x]:valueQuantity",
            "path": "Observation.value[x]",
            "sliceName": "valueQuantity",
            "type": [{"code": "Quantity"}],
        },
        {
            "id": "Observation.value[x]:valueQuantity.value",
            "path": "Observation.value[x].value",
            "min": 1,
        },
    )

    assert errors(observation(valueQuantity={"value": 1}), profile) == []
    assert errors(observation(valueQuantity={"unit": "kg"}), profile) == [
        ("required", "Observation.valueQuantity.value")
    ]
    assert errors(observation(valueString="x"), profile) == [
        ("structure", "Observation.valueString")
    ]


def test_slices_by_profile_of_what_is_contained() -> None:
    named = definition("Organization", {"path": "Organization.name", "min": 1}, url="urn:named")
    path = "Patient.generalPractitioner"
    profile = definition(
        "Patient",
        {
            "path": path,
            "slicing": {
                "discriminator": [{"type": "profile", "path": "resolve()"}],
                "rules": "open",
            },
        },
        {
            "id": f"{path}:named",
            "path": path,
            "sliceName": "named",
            "min": 1,
            "type": [{"code": "Reference", "targetProfile": ["urn:named"]}],
        },
    )

    def having(**organization: Any) -> Json:
        contained = {"resourceType": "Organization", "id": "o", **organization}
        return patient(contained=[contained], generalPractitioner=[{"reference": "#o"}])

    assert errors(having(name="x"), profile, named) == []
    assert errors(having(active=True, alias=["x"]), profile, named) == [
        ("invariant", "Patient.contained[0]"),
        ("required", f"{path}:named"),
    ]


def test_closed_and_ordered_ends() -> None:
    def of(rules: str) -> Json:
        slicing = {"discriminator": [{"type": "value", "path": "system"}], "rules": rules}
        return definition(
            "Patient",
            {"path": "Patient.identifier", "slicing": slicing},
            {"id": "Patient.identifier:a", "path": "Patient.identifier", "sliceName": "a"},
            {
                "id": "Patient.identifier:a.system",
                "path": "Patient.identifier.system",
                "fixedUri": "urn:a",
            },
        )

    mixed = patient(identifier=[{"system": "urn:b"}, {"system": "urn:a"}])

    assert errors(mixed, of("open")) == []
    assert errors(mixed, of("closed")) == [("structure", "Patient.identifier[0]")]
    assert errors(mixed, of("openAtEnd")) == [("structure", "Patient.identifier[0]")]


def test_ordered_slices() -> None:
    slicing = {
        "discriminator": [{"type": "value", "path": "system"}],
        "rules": "open",
        "ordered": True,
    }
    slices = [
        row
        for name in ("a", "b")
        for row in (
            {"id": f"Patient.identifier:{name}", "path": "Patient.identifier", "sliceName": name},
            {
                "id": f"Patient.identifier:{name}.system",
                "path": "Patient.identifier.system",
                "fixedUri": f"urn:{name}",
            },
        )
    ]
    profile = definition("Patient", {"path": "Patient.identifier", "slicing": slicing}, *slices)
    a, b, other = ({"system": f"urn:{name}"} for name in "abc")

    assert errors(patient(identifier=[a, other, a, b]), profile) == []
    assert errors(patient(identifier=[b, other, a]), profile) == [
        ("structure", "Patient.identifier[2]")
    ]


def test_extensions_are_sliced_by_the_url_of_their_profile_and_checked_by_it() -> None:
    extension = definition(
        "Extension",
        {"path": "Extension.url", "fixedUri": "urn:ext"},
        {"path": "Extension.value[x]", "min": 1, "type": [{"code": "boolean"}]},
        url="urn:ext",
    )
    profile = definition(
        "Patient",
        {
            "id": "Patient.extension:own",
            "path": "Patient.extension",
            "sliceName": "own",
            "min": 1,
            "type": [{"code": "Extension", "profile": ["urn:ext"]}],
        },
    )

    assert (
        errors(patient(extension=[{"url": "urn:ext", "valueBoolean": True}]), profile, extension)
        == []
    )
    assert errors(
        patient(extension=[{"url": "urn:ext", "valueString": "x"}]), profile, extension
    ) == [("structure", "Patient.extension[0].valueString")]
    assert errors(patient(), profile, extension) == [("required", "Patient.extension:own")]


def test_references_go_to_what_the_profile_names() -> None:
    path = "Patient.generalPractitioner"
    profile = definition(
        "Patient",
        {
            "path": path,
            "type": [{"code": "Reference", "targetProfile": [f"{CORE}/Practitioner"]}],
        },
    )

    assert errors(patient(generalPractitioner=[{"reference": "Practitioner/1"}]), profile) == []
    assert errors(patient(generalPractitioner=[{"reference": "Organization/1"}]), profile) == [
        ("value", f"{path}[0]")
    ]


def test_a_profile_over_another_keeps_what_both_ask() -> None:
    base = definition("Patient", {"path": "Patient.name", "min": 1}, url="urn:base")
    profile = definition("Patient", {"path": "Patient.gender", "min": 1}, base="urn:base")

    assert errors(patient(), profile, base) == [
        ("required", "Patient.gender"),
        ("required", "Patient.name"),
    ]


def test_items_inside_items_are_asked_the_same() -> None:
    profile = definition("Questionnaire", {"path": "Questionnaire.item.text", "min": 1})
    inner = {"linkId": "2", "type": "string"}
    item = {"linkId": "1", "type": "group", "text": "x", "item": [inner]}

    found = errors({"resourceType": "Questionnaire", "status": "draft", "item": [item]}, profile)

    assert found == [("required", "Questionnaire.item[0].item[0].text")]


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Nonsense"},
        {"baseDefinition": "urn:nowhere"},
        {"baseDefinition": URL},
        {"differential": {"element": [{"path": "Observation.code"}]}},
        {"differential": {"element": [{}]}},
        {"differential": {"element": ["x"]}},
        {"snapshot": {"element": [{"path": 1}]}},
    ],
)
def test_a_definition_that_cannot_be_read_is_said_to_be_so(change: Json) -> None:
    profile = {**definition("Patient", {"path": "Patient.name", "min": 1}), **change}
    known = library().with_own({URL: profile})

    [issue] = [
        i for i in validate(patient(active=True), [URL], known=known) if i.code == "not-found"
    ]

    assert issue.severity == "error"
    assert "not checked" in issue.diagnostics


def test_rules_that_cannot_be_evaluated_are_warnings() -> None:
    rules = ["name.given = 1 / 'x'", "name.family.first() > 1", "name.family.matches('(a')"]
    constraint = [
        {"key": f"k-{n}", "severity": "error", "human": "x", "expression": rule}
        for n, rule in enumerate(rules)
    ]
    profile = definition("Patient", {"path": "Patient", "constraint": constraint})
    known = library().with_own({URL: profile})

    found = validate(patient(name=[{"family": "A", "given": ["B"]}]), [URL], known=known)

    warned = [i for i in found if "cannot be decided" in i.diagnostics]
    assert [i.severity for i in warned] == ["warning"] * 3
    assert not [i for i in found if i.severity == "error"]
