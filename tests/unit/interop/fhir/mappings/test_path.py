from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from interop.fhir.mappings.path import path

Json = dict[str, Any]
MOBILE = "telecom[system=phone,use=mobile].value"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("birthDate", "1990-01-01"),
        ("period.start", "2024"),
        (MOBILE, "2"),
        ("telecom[system=email].value", None),
        ("note[].text", "first"),
        ("extension[url=http://a.example/b.c].valueString", "x"),
        ("missing.deeper", None),
        ("birthDate.deeper", None),
    ],
)
def test_get_follows_elements_and_slices(place: str, expected: object) -> None:
    resource = {
        "birthDate": "1990-01-01",
        "period": {"start": "2024"},
        "telecom": [
            {"system": "phone", "use": "home", "value": "1"},
            {"system": "phone", "use": "mobile", "value": "2"},
        ],
        "note": [{"text": "first"}, {"text": "second"}],
        "extension": [{"url": "http://a.example/b.c", "valueString": "x"}],
    }

    assert path(place).get(resource) == expected


def test_put_changes_one_node_and_shares_the_rest() -> None:
    resource: Json = {
        "telecom": [
            {"system": "fax", "value": "9"},
            {"system": "phone", "use": "mobile", "value": "2", "rank": 1},
        ],
        "extension": [{"url": "urn:x", "valueDecimal": Decimal("1.50")}],
    }

    changed = path(MOBILE).put(resource, "3")

    assert changed["telecom"][1] == {"system": "phone", "use": "mobile", "value": "3", "rank": 1}
    assert changed["extension"] is resource["extension"]
    assert resource["telecom"][1]["value"] == "2"


def test_put_creates_the_slice_with_what_makes_it_one() -> None:
    changed = path(MOBILE).put({"telecom": [{"system": "fax"}]}, "3")

    made = {"system": "phone", "use": "mobile", "value": "3"}
    assert changed == {"telecom": [{"system": "fax"}, made]}


def test_removing_takes_what_only_held_the_value() -> None:
    bare = {"telecom": [{"system": "phone", "use": "mobile", "value": "2"}], "period": {"end": "1"}}

    assert path("period.end").put(path(MOBILE).put(bare, None), None) == {}


def test_removing_keeps_what_the_client_said_besides() -> None:
    ranked = {"telecom": [{"system": "phone", "use": "mobile", "value": "2", "rank": 1}]}

    kept = path(MOBILE).put(ranked, None)

    assert kept == {"telecom": [{"system": "phone", "use": "mobile", "rank": 1}]}


def test_siblings_of_primitives_stay_but_for_a_reason_of_absence() -> None:
    reason = {
        "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
        "valueCode": "unknown",
    }
    other = {"url": "urn:x", "valueString": "y"}
    resource = {"_birthDate": {"id": "a", "extension": [reason, other]}}

    changed = path("birthDate").put(resource, "1990-01-01")

    assert changed == {"_birthDate": {"id": "a", "extension": [other]}, "birthDate": "1990-01-01"}
    assert path("birthDate").put({"_birthDate": {"extension": [reason]}}, "1990") == {
        "birthDate": "1990"
    }


def test_the_empty_path_is_the_resource_itself() -> None:
    assert path("").get({"a": 1}) == {"a": 1}
    assert path("").put({"a": 1}, {"b": 2}) == {"b": 2}


@pytest.mark.parametrize("text", ["a..b", "a b", "[x=y]", "a[b=c", "a]"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        path(text)
