"""FHIRPath Patch: the cases that HL7 publishes for fhirpatch.html, by their names, and more."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from interop.errors import BadRequest, ServerError, TooCostly, Unprocessable
from interop.fhir.json import dumps, loads
from interop.fhir.patch import apply_fhirpath_patch

Json = dict[str, Any]


def part(name: str, **value: Any) -> Json:
    return {"name": name, **value}


def operation(type_: str, path: str, **parts: Any) -> Json:
    """An operation; value is given as {"valueX": ...} or a list of parts."""
    listed = [part("type", valueCode=type_), part("path", valueString=path)]
    for name, given in parts.items():
        if name == "value":
            listed.append(part("value", **(given if isinstance(given, dict) else {"part": given})))
        elif name == "name":
            listed.append(part("name", valueString=given))
        else:
            listed.append(part(name, valueInteger=given))
    return {"name": "operation", "part": listed}


def patch(*operations: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": list(operations)}


def numbered(*numbers: int) -> Json:
    return {"identifier": [{"system": "urn:x", "value": f"value {n}"} for n in numbers]}


CONTACT = {"contact": [{"name": {"text": "a name"}, "gender": "male"}]}
THREE = {"valueIdentifier": {"system": "urn:x", "value": "value 3"}}
OFFICIAL: list[tuple[str, Json, list[Json], Json]] = [
    ("No Difference", {"birthDate": "1920-01-01"}, [], {"birthDate": "1920-01-01"}),
    (
        "Replace Primitive",
        {"birthDate": "1920-01-01"},
        [operation("replace", "Patient.birthDate", value={"valueDate": "1930-01-01"})],
        {"birthDate": "1930-01-01"},
    ),
    ("Delete Primitive", {"birthDate": "1920"}, [operation("delete", "Patient.birthDate")], {}),
    (
        "Add Primitive",
        {},
        [operation("add", "Patient", name="birthDate", value={"valueDate": "1930-01-01"})],
        {"birthDate": "1930-01-01"},
    ),
    (
        "Replace Nested Primitive #1",
        CONTACT,
        [operation("replace", "Patient.contact[0].gender", value={"valueCode": "female"})],
        {"contact": [{"name": {"text": "a name"}, "gender": "female"}]},
    ),
    (
        "Replace Nested Primitive #2",
        CONTACT,
        [operation("replace", "Patient.contact[0].name.text", value={"valueString": "the name"})],
        {"contact": [{"name": {"text": "the name"}, "gender": "male"}]},
    ),
    (
        "Delete Nested Primitive #1",
        CONTACT,
        [operation("delete", "Patient.contact[0].gender")],
        {"contact": [{"name": {"text": "a name"}}]},
    ),
    (
        "Delete Nested Primitive #2",
        CONTACT,
        [operation("delete", "Patient.contact[0].name.text")],
        {"contact": [{"gender": "male"}]},
    ),
    (
        "Add Nested Primitive",
        {"contact": [{"name": {"text": "a name"}}]},
        [operation("add", "Patient.contact[0]", name="gender", value={"valueCode": "male"})],
        CONTACT,
    ),
    (
        "Add Complex",
        {},
        [operation("add", "Patient", name="maritalStatus",
                   value={"valueCodeableConcept": {"text": "married"}})],
        {"maritalStatus": {"text": "married"}},
    ),
    (
        "Replace Complex",
        {"maritalStatus": {"id": "1", "text": "married"}},
        [operation("replace", "Patient.maritalStatus",
                   value={"valueCodeableConcept": {"id": "2", "text": "not married"}})],
        {"maritalStatus": {"id": "2", "text": "not married"}},
    ),
    ("Delete Complex", {"maritalStatus": {"text": "married"}},
     [operation("delete", "Patient.maritalStatus")], {}),
    (
        "Add Anonymous Type",
        {},
        [operation("add", "Patient", name="contact",
                   value=[part("name", valueHumanName={"text": "a name"})])],
        {"contact": [{"name": {"text": "a name"}}]},
    ),
    ("Delete Anonymous Type", {"contact": [{"name": {"text": "a name"}}]},
     [operation("delete", "Patient.contact[0]")], {}),
    (
        "List unchanged, contents changed",
        numbered(1, 2),
        [
            operation("replace", "Patient.identifier[0].value", value={"valueString": "value 2"}),
            operation("replace", "Patient.identifier[1].value", value={"valueString": "value 1"}),
        ],
        numbered(2, 1),
    ),
    ("Add to list", numbered(1, 2),
     [operation("insert", "Patient.identifier", index=2, value=THREE)], numbered(1, 2, 3)),
    ("Insert in list #1", numbered(1, 2),
     [operation("insert", "Patient.identifier", index=1, value=THREE)], numbered(1, 3, 2)),
    ("Insert in list #2", numbered(1, 2),
     [operation("insert", "Patient.identifier", index=0, value=THREE)], numbered(3, 1, 2)),
    ("Delete from List #1", numbered(1, 2, 3),
     [operation("delete", "Patient.identifier[0]")], numbered(2, 3)),
    ("Delete from List #2", numbered(1, 2, 3),
     [operation("delete", "Patient.identifier[1]")], numbered(1, 3)),
    ("Delete from List #3", numbered(1, 2, 3),
     [operation("delete", "Patient.identifier[2]")], numbered(1, 2)),
    ("Reorder List #1", numbered(1, 2, 3, 4),
     [operation("move", "Patient.identifier", source=3, destination=1)], numbered(1, 4, 2, 3)),
    ("Reorder List #2", numbered(1, 2, 3, 4),
     [operation("move", "Patient.identifier", source=3, destination=0)], numbered(4, 1, 2, 3)),
    ("Reorder List #3", numbered(1, 2, 3, 4),
     [operation("move", "Patient.identifier", source=3, destination=2)], numbered(1, 2, 4, 3)),
    ("Reorder List #4", numbered(1, 2, 3, 4),
     [operation("move", "Patient.identifier", source=0, destination=3)], numbered(2, 3, 4, 1)),
]  # fmt: skip

TWO_NAMES = {
    "name": [
        {"use": "official", "given": ["Peter", "James"], "_given": [None, {"id": "g"}]},
        {"use": "usual", "given": ["Jim"]},
    ]
}
FURTHER: list[tuple[str, Json, list[Json], Json]] = [
    (
        "where",
        TWO_NAMES,
        [operation("delete", "Patient.name.where(use = 'usual' and given.exists())")],
        {"name": TWO_NAMES["name"][:1]},
    ),
    (
        "where, or, not",
        TWO_NAMES,
        [operation("delete", "name.where((use = 'old' or given = 'Jim').not())")],
        {"name": TWO_NAMES["name"][1:]},
    ),
    (
        "a primitive in a list takes its extensions along",
        TWO_NAMES,
        [operation("move", "Patient.name.first().given", source=1, destination=0)],
        {"name": [{"use": "official", "given": ["James", "Peter"], "_given": [{"id": "g"}, None]},
                  TWO_NAMES["name"][1]]},
    ),
    (
        "the last primitive with an extension",
        TWO_NAMES,
        [operation("delete", "Patient.name[0].given[1]")],
        {"name": [{"use": "official", "given": ["Peter"]}, TWO_NAMES["name"][1]]},
    ),
    (
        "$this",
        TWO_NAMES,
        [operation("replace", "Patient.name[0].given.where($this = 'Peter')",
                   value={"valueString": "Pieter"})],
        {"name": [{**TWO_NAMES["name"][0], "given": ["Pieter", "James"]}, TWO_NAMES["name"][1]]},
    ),
    (
        "an extension of a primitive that had none",
        {"birthDate": "1920"},
        [operation("add", "Patient.birthDate", name="extension",
                   value=[part("url", valueUri="urn:u"), part("valueString", valueString="x")])
         ],
        {"birthDate": "1920", "_birthDate": {"extension": [{"url": "urn:u", "valueString": "x"}]}},
    ),
    (
        "the last extension of a primitive",
        {"birthDate": "1920", "_birthDate": {"extension": [{"url": "urn:u", "valueString": "x"}]}},
        [operation("delete", "Patient.birthDate.extension('urn:u')")],
        {"birthDate": "1920"},
    ),
    (
        "a choice takes the type of the value",
        {"deceasedBoolean": False},
        [operation("replace", "Patient.deceased", value={"valueDateTime": "2024-01-01"})],
        {"deceasedDateTime": "2024-01-01"},
    ),
    (
        "a choice is added under its name without a type",
        {},
        [operation("add", "Patient", name="deceased", value={"valueBoolean": True})],
        {"deceasedBoolean": True},
    ),
    (
        "a choice is added under its full name",
        {},
        [operation("add", "Patient", name="multipleBirthInteger", value={"valueInteger": 2})],
        {"multipleBirthInteger": 2},
    ),
    (
        "a choice of one type only",
        {"deceasedBoolean": False},
        [operation("delete", "Patient.deceased.ofType(dateTime)")],
        {"deceasedBoolean": False},
    ),
    (
        "parts in parts, several of one name",
        {},
        [operation("add", "Patient", name="contact", value=[
            part("relationship", valueCodeableConcept={"text": "a"}),
            part("relationship", valueCodeableConcept={"text": "b"}),
            part("name", part=[part("given", valueString="Ada"), part("given", valueString="B")]),
        ])],
        {"contact": [{"relationship": [{"text": "a"}, {"text": "b"}],
                      "name": {"given": ["Ada", "B"]}}]},
    ),
    (
        "a contained resource",
        {},
        [{"name": "operation", "part": [
            part("type", valueCode="add"), part("path", valueString="Patient"),
            part("name", valueString="contained"),
            part("value", resource={"resourceType": "Organization", "id": "o", "name": "O"})]},
         operation("replace", "Patient.contained[0].name", value={"valueString": "P"})],
        {"contained": [{"resourceType": "Organization", "id": "o", "name": "P"}]},
    ),
    (
        "the second operation sees what the first did",
        {},
        [operation("add", "Patient", name="name", value={"valueHumanName": {"text": "a"}}),
         operation("add", "Patient.name[0]", name="family", value={"valueString": "F"})],
        {"name": [{"text": "a", "family": "F"}]},
    ),
    ("deleting what is not there", {}, [operation("delete", "Patient.name.where(use='old')")], {}),
    ("inserting into no list", {},
     [operation("insert", "Patient.identifier", index=0, value=THREE)], numbered(3)),
]  # fmt: skip
CASES = OFFICIAL + FURTHER


@pytest.mark.parametrize(("before", "operations", "after"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_operations_do_what_the_page_says(
    before: Json, operations: list[Json], after: Json
) -> None:
    resource = {"resourceType": "Patient", "id": "1", **before}
    untouched = copy.deepcopy(resource)

    patched = apply_fhirpath_patch(resource, patch(*operations))

    assert patched == {"resourceType": "Patient", "id": "1", **after}
    assert resource == untouched


def test_digits_of_numbers_stay() -> None:
    observation = loads(b'{"resourceType":"Observation","id":"1","valueQuantity":{"value":1.50}}')
    parameters = loads(
        b'{"resourceType":"Parameters","parameter":[{"name":"operation","part":['
        b'{"name":"type","valueCode":"replace"},{"name":"path","valueString":"Observation.value"},'
        b'{"name":"value","valueQuantity":{"value":2.500,"unit":"mm"}}]}]}'
    )

    patched = apply_fhirpath_patch(observation, parameters)

    assert dumps(patched["valueQuantity"]) == b'{"value":2.500,"unit":"mm"}'


@pytest.mark.parametrize(
    ("one", "error", "said"),
    [
        (operation("replace", "Patient.gender", value={"valueCode": "x"}), Unprocessable,
         "finds 0 elements"),
        (operation("add", "Patient.name", name="family", value={"valueString": "x"}), Unprocessable,
         "finds 2 elements"),
        (operation("delete", "Patient.name"), Unprocessable, "finds 2 elements"),
        (operation("delete", "Patient"), Unprocessable, "the resource itself"),
        (operation("add", "Patient", name="active", value={"valueBoolean": True}), Unprocessable,
         "is there already"),
        (operation("insert", "Patient.name", index=3, value={"valueHumanName": {}}), Unprocessable,
         "accepted here: 0 to 2"),
        (operation("insert", "Patient.active", index=0, value={"valueBoolean": True}),
         Unprocessable, "takes one value"),
        (operation("move", "Patient.name", source=2, destination=0), Unprocessable,
         "accepted here: 0 to 1"),
        (operation("replace", "Patient.id", value={"valueId": "2"}), Unprocessable, "change id"),
        (operation("add", "Patient", name="nonsense", value={"valueString": "x"}), BadRequest,
         "Patient has no element 'nonsense'; accepted: id, meta"),
        (operation("add", "Patient", name="name", value={"valueString": "x"}), BadRequest,
         "takes no valueString; expected valueHumanName"),
        (operation("add", "Patient", name="deceased", value={"valueString": "x"}), BadRequest,
         "expected valueBoolean or valueDateTime"),
        (operation("erase", "Patient"), BadRequest, "accepted: add, insert, delete, replace, move"),
        (operation("replace", "Patient.active"), BadRequest, "needs the part 'value'"),
        (operation("delete", "Patient.name.resolve()"), BadRequest, "resolve(); accepted: where"),
        (operation("delete", "Patient.name["), BadRequest, "is expected"),
        (operation("delete", "Patient.name;"), BadRequest, "not understood from ';'"),
        (operation("delete", "Patient.name.where(use)" + "(" * 3), BadRequest, "is expected"),
        (operation("delete", "Patient.where(" + "(" * 50), BadRequest, "at most 20 levels"),
        ({"name": "op"}, BadRequest, "named 'operation'"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_names_the_operation(
    one: Json, error: type[ServerError], said: str
) -> None:
    resource = {"resourceType": "Patient", "id": "1", "active": False, **TWO_NAMES}

    with pytest.raises(error) as raised:
        apply_fhirpath_patch(resource, patch(operation("delete", "Patient.photo"), one))

    assert type(raised.value) is error
    assert said in raised.value.diagnostics
    if "change id" not in said:
        assert raised.value.diagnostics.startswith("Parameters.parameter[1]: ")


def test_a_patch_that_costs_too_much_is_refused() -> None:
    with pytest.raises(TooCostly):
        apply_fhirpath_patch(
            {"resourceType": "Patient"}, patch(*[operation("delete", "Patient.photo")] * 1001)
        )
    wide = {"resourceType": "Patient", "name": [{"given": ["x"] * 300} for _ in range(300)]}
    search = "Patient.name.where(" + " or ".join(["given = 'y'"] * 100) + ")"
    with pytest.raises(TooCostly):
        apply_fhirpath_patch(wide, patch(*[operation("delete", search)] * 1000))
