"""$expand and $validate-code over HTTP: R4's own definitions, a tenant's, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from interop.fhir.xml import from_xml
from storage.database import Database
from storage.tenancy import Tenant

GENDER = "http://hl7.org/fhir/ValueSet/administrative-gender"
GENDERS = "http://hl7.org/fhir/administrative-gender"
# A set of a system without a list, and one of a list that may not be handed on.
MEDIA = {"url": "http://hl7.org/fhir/ValueSet/mimetypes"}
PLAIN_TEXT = MEDIA | {"system": "urn:ietf:bcp:13", "code": "text/plain"}
LOINC = {"url": "http://hl7.org/fhir/ValueSet/c80-doc-typecodes"}
OWN_SYSTEM = "http://clinic.test/shades"
OWN_SET = "http://clinic.test/ValueSet/shades"

SHADES = {
    "resourceType": "CodeSystem",
    "url": OWN_SYSTEM,
    "version": "1",
    "status": "active",
    "content": "complete",
    "caseSensitive": True,
    "concept": [
        {
            "code": "A",
            "display": "Reddish",
            "property": [{"code": "notSelectable", "valueBoolean": True}],
            "concept": [{"code": "A1", "display": "Light"}, {"code": "A2", "display": "Medium"}],
        },
        {
            "code": "X",
            "display": "Gone",
            "property": [{"code": "status", "valueCode": "retired"}],
        },
    ],
    "property": [
        {"code": "notSelectable", "type": "boolean"},
        {"code": "status", "type": "code"},
    ],
}


def value_set(*include: dict[str, Any], url: str = OWN_SET) -> dict[str, Any]:
    return {
        "resourceType": "ValueSet",
        "url": url,
        "status": "active",
        "compose": {"include": list(include)},
    }


def parameters(**values: Any) -> dict[str, Any]:
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": name.partition("__")[0], name.partition("__")[2] or "resource": value}
            for name, value in values.items()
        ],
    }


def post(client: httpx.Client, path: str, **values: Any) -> httpx.Response:
    headers = {"Content-Type": "application/fhir+json"}
    return client.post(path, json=parameters(**values), headers=headers)


def codes(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [row["code"] for row in answer.json()["expansion"].get("contains", [])]


def outcome(answer: httpx.Response) -> tuple[bool, str | None]:
    assert answer.status_code == 200, answer.text
    rows = {row["name"]: row for row in answer.json()["parameter"]}
    return rows["result"]["valueBoolean"], rows.get("message", {}).get("valueString")


@pytest.fixture(scope="module")
def stored(fhir: httpx.Client) -> dict[str, str]:
    """A code system and a value set of the tenant `demo`; their ids."""
    ids = {}
    for resource in (SHADES, value_set({"system": OWN_SYSTEM})):
        answer = fhir.post(f"/{resource['resourceType']}", json=resource)
        assert answer.status_code == 201, answer.text
        ids[str(resource["resourceType"])] = answer.json()["id"]
    return ids


def test_a_value_set_of_r4_is_expanded_by_get_and_by_post(fhir: httpx.Client) -> None:
    by_get = fhir.get("/ValueSet/$expand", params={"url": GENDER})
    by_post = post(fhir, "/ValueSet/$expand", url__valueUri=GENDER)

    assert codes(by_get) == codes(by_post) == ["male", "female", "other", "unknown"]
    expansion = by_get.json()["expansion"]
    assert expansion["total"] == 4
    assert expansion["contains"][0] == {
        "system": GENDERS,
        "version": "4.0.1",
        "code": "male",
        "display": "Male",
    }
    assert by_get.json()["url"] == GENDER


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"filter": "FEM"}, ["female"]),
        ({"offset": "1", "count": "2"}, ["female", "other"]),
        ({"count": "0"}, []),
        ({"offset": "9"}, []),
        ({"activeOnly": "true"}, ["male", "female", "other", "unknown"]),
        ({"displayLanguage": "de"}, ["male", "female", "other", "unknown"]),
    ],
)
def test_an_expansion_is_narrowed_and_paged(
    fhir: httpx.Client, asked: dict[str, str], expected: list[str]
) -> None:
    answer = fhir.get("/ValueSet/$expand", params={"url": GENDER, **asked})

    assert codes(answer) == expected
    assert answer.json()["expansion"]["total"] == (1 if "filter" in asked else 4)


def test_what_a_tenant_stored_is_expanded_by_url_by_id_and_in_hand(
    fhir: httpx.Client, stored: dict[str, str]
) -> None:
    in_hand = value_set(
        {"system": OWN_SYSTEM, "filter": [{"property": "concept", "op": "is-a", "value": "A"}]},
        {"valueSet": [GENDER]},
        url="http://clinic.test/ValueSet/other",
    )

    assert codes(fhir.get("/ValueSet/$expand", params={"url": OWN_SET})) == ["A", "A1", "A2", "X"]
    active = {"activeOnly": "true"}
    assert codes(fhir.get(f"/ValueSet/{stored['ValueSet']}/$expand", params=active)) == [
        "A",
        "A1",
        "A2",
    ]
    for_use = {"url": OWN_SET, "excludeNotForUI": "true", "excludeNested": "true"}
    assert codes(fhir.get("/ValueSet/$expand", params=for_use)) == ["A1", "A2", "X"]
    found = codes(post(fhir, "/ValueSet/$expand", valueSet=in_hand))
    assert found == ["A", "A1", "A2", "male", "female", "other", "unknown"]


def test_another_tenant_knows_nothing_of_it(
    other_fhir: httpx.Client, stored: dict[str, str], assert_outcome: Callable[..., Any]
) -> None:
    by_url = other_fhir.get("/ValueSet/$expand", params={"url": OWN_SET})
    nowhere = other_fhir.get("/ValueSet/$expand", params={"url": f"{OWN_SET}x"})
    by_id = other_fhir.get(f"/ValueSet/{stored['ValueSet']}/$expand")
    system = other_fhir.get("/CodeSystem/$validate-code", params={"url": OWN_SYSTEM, "code": "A1"})

    for answer in (by_url, by_id, system):
        assert_outcome(answer, 404, "not-found")
    assert by_url.text.replace(OWN_SET, f"{OWN_SET}x") == nowhere.text
    own = value_set({"system": OWN_SYSTEM})
    refused = post(other_fhir, "/ValueSet/$expand", valueSet=own)
    assert_outcome(refused, 422, "not-supported")


def test_who_may_not_read_code_systems_has_none_of_the_tenant(
    client_for: Callable[..., httpx.Client],
    tenant: Tenant,
    stored: dict[str, str],
    assert_outcome: Callable[..., Any],
) -> None:
    narrow = client_for(tenant, "system/ValueSet.rs")

    refused = narrow.get("/ValueSet/$expand", params={"url": OWN_SET})

    assert_outcome(refused, 422, "not-supported")
    assert codes(narrow.get("/ValueSet/$expand", params={"url": GENDER}))
    validated = narrow.get("/CodeSystem/$validate-code", params={"url": GENDERS, "code": "male"})
    assert_outcome(validated, 403, "forbidden")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"system": OWN_SYSTEM, "code": "A1"}, (True, None)),
        ({"system": OWN_SYSTEM, "code": "A1", "display": " light "}, (True, None)),
        ({"system": OWN_SYSTEM, "code": "A1", "display": "Dark"}, (False, "'Light'")),
        ({"system": OWN_SYSTEM, "code": "A"}, (False, "abstract")),
        ({"system": OWN_SYSTEM, "code": "A", "abstract": "true"}, (True, None)),
        ({"system": OWN_SYSTEM, "code": "X"}, (True, "inactive")),
        ({"system": OWN_SYSTEM, "code": "a1"}, (False, "not in the value set")),
        ({"system": GENDERS, "code": "male"}, (False, "not in the value set")),
    ],
)
def test_a_code_is_validated_against_a_value_set(
    fhir: httpx.Client,
    stored: dict[str, str],
    asked: dict[str, str],
    expected: tuple[bool, str | None],
) -> None:
    by_url = fhir.get("/ValueSet/$validate-code", params={"url": OWN_SET, **asked})
    by_id = fhir.get(f"/ValueSet/{stored['ValueSet']}/$validate-code", params=asked)

    for answer in (by_url, by_id):
        result, message = outcome(answer)
        assert result is expected[0]
        assert (message is None) if expected[1] is None else (expected[1] in (message or ""))


def test_a_coding_and_a_concept_are_validated_by_post(
    fhir: httpx.Client, stored: dict[str, str]
) -> None:
    good = {"system": OWN_SYSTEM, "code": "A1"}
    bad = {"system": OWN_SYSTEM, "code": "Z9"}
    path = "/ValueSet/$validate-code"
    both = {"coding": [bad, good]}

    def ask(**values: Any) -> bool:
        return outcome(post(fhir, path, url__valueUri=OWN_SET, **values))[0]

    assert ask(coding__valueCoding=good) is True
    assert ask(coding__valueCoding=bad) is False
    assert ask(codeableConcept__valueCodeableConcept=both) is True
    system = f"/CodeSystem/{stored['CodeSystem']}/$validate-code"
    assert outcome(fhir.get(system, params={"code": "A2"})) == (True, None)
    assert outcome(post(fhir, system, coding__valueCoding=bad))[0] is False
    by_coding = post(fhir, "/CodeSystem/$validate-code", coding__valueCoding=good)
    assert outcome(by_coding)[0] is True


@pytest.mark.parametrize(
    ("path", "asked", "status", "code"),
    [
        ("ValueSet/$expand", {}, 400, "invalid"),
        ("ValueSet/$expand", {"url": "http://nowhere.test/v"}, 404, "not-found"),
        ("ValueSet/$expand", {"url": f"{GENDER}|9"}, 404, "not-found"),
        ("ValueSet/$expand", {"url": GENDER, "count": "x"}, 400, "invalid"),
        ("ValueSet/$expand", {"url": GENDER, "count": "-1"}, 400, "invalid"),
        ("ValueSet/$expand", {"url": GENDER, "count": "9" * 40}, 400, "invalid"),
        ("ValueSet/$expand", {"url": GENDER, "nonsense": "1"}, 400, "not-supported"),
        ("ValueSet/$expand", {"url": GENDER, "includeDesignations": "true"}, 400, "not-supported"),
        ("ValueSet/$expand", {"url": GENDER, "activeOnly": "yes"}, 400, "invalid"),
        ("ValueSet/$expand", {"url": GENDER, "valueSet": "x"}, 400, "invalid"),
        ("ValueSet/nothing/$expand", {}, 404, "not-found"),
        ("ValueSet/$expand", MEDIA, 422, "not-supported"),
        ("ValueSet/$expand", LOINC, 422, "not-supported"),
        ("ValueSet/$validate-code", {"url": GENDER, "code": "male"}, 400, "invalid"),
        ("ValueSet/$validate-code", {"url": GENDER}, 400, "invalid"),
        ("ValueSet/$validate-code", PLAIN_TEXT, 422, "not-supported"),
        ("CodeSystem/$validate-code", {"url": "urn:none", "code": "1"}, 404, "not-found"),
        ("CodeSystem/$validate-code", {"code": "1"}, 400, "invalid"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_says_why(
    fhir: httpx.Client,
    assert_outcome: Callable[..., Any],
    path: str,
    asked: dict[str, str],
    status: int,
    code: str,
) -> None:
    assert_outcome(fhir.get(f"/{path}", params=asked), status, code)


def test_an_import_that_never_ends_is_refused(
    fhir: httpx.Client, assert_outcome: Callable[..., Any]
) -> None:
    url = "http://clinic.test/ValueSet/loop"
    stored = fhir.post("/ValueSet", json=value_set({"valueSet": [url]}, url=url))
    assert stored.status_code == 201, stored.text

    assert_outcome(fhir.get("/ValueSet/$expand", params={"url": url}), 422, "not-supported")


def test_an_import_of_thousands_of_sets_is_refused(
    fhir: httpx.Client, assert_outcome: Callable[..., Any]
) -> None:
    wide = value_set(*({"valueSet": [f"http://clinic.test/v/{n}"]} for n in range(3000)))

    def ask(operation: str, **values: Any) -> httpx.Response:
        return post(fhir, f"/ValueSet/{operation}", valueSet=wide, **values)

    coding = {"coding__valueCoding": {"system": "urn:x", "code": "1"}}
    assert_outcome(ask("$expand"), 422)
    assert_outcome(ask("$validate-code", **coding), 422, "too-costly")


def test_elements_that_have_an_extension_in_place_of_a_value_do_no_harm(
    fhir: httpx.Client, assert_outcome: Callable[..., Any]
) -> None:
    absent = {"extension": [{"url": "http://clinic.test/absent", "valueCode": "unknown"}]}
    holed = value_set(
        {"system": OWN_SYSTEM, "concept": [{"_code": absent}]},
        {"valueSet": [None], "_valueSet": [absent]},
    )
    nameless = {"resourceType": "Parameters", "parameter": [{"_name": absent}]}
    headers = {"Content-Type": "application/fhir+json"}

    answers = [
        post(fhir, "/ValueSet/$expand", valueSet=holed),
        post(fhir, "/ValueSet/$validate-code", valueSet=holed, coding__valueCoding={"code": "A"}),
        fhir.post("/ValueSet/$expand", json=nameless, headers=headers),
    ]

    for answer in answers:
        assert answer.status_code in (400, 422), answer.text
        assert_outcome(answer, answer.status_code)


def test_the_answer_is_xml_where_that_is_asked_for(fhir: httpx.Client) -> None:
    xml = {"Accept": "application/fhir+xml"}
    expanded = fhir.get("/ValueSet/$expand", params={"url": GENDER}, headers=xml)
    asked = {"url": GENDER, "system": GENDERS, "code": "male"}
    validated = fhir.get("/ValueSet/$validate-code", params=asked, headers=xml)

    assert from_xml(expanded.content)["expansion"]["total"] == 4
    assert from_xml(validated.content)["parameter"][0] == {"name": "result", "valueBoolean": True}


def test_an_operation_is_one_row_of_the_audit_log(
    fhir: httpx.Client, database: Database, tenant: Tenant, stored: dict[str, str]
) -> None:
    def rows() -> list[tuple[Any, ...]]:
        return events(database, tenant.id)

    before = len(rows())
    fhir.get(f"/ValueSet/{stored['ValueSet']}/$expand")
    fhir.get("/ValueSet/$expand", params={"url": "http://nowhere.test/v"})
    after = rows()[before:]

    assert [(type_, outcome) for type_, outcome, _ in after] == [
        ("FHIR_OPERATION", "SUCCESS"),
        ("FHIR_OPERATION", "FAILURE"),
    ]
    assert after[0][2]["operation"] == "$expand"


def events(database: Database, tenant_id: UUID) -> list[tuple[Any, ...]]:
    with database.connection(tenant_id) as connection:
        return connection.execute(
            "SELECT event_type, outcome, metadata FROM audit_events WHERE tenant_id = %s"
            " ORDER BY timestamp",
            (tenant_id,),
        ).fetchall()
