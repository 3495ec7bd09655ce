"""What a value set holds, against a slow reading of the official definitions and by small cases."""

from __future__ import annotations

from typing import Any

import pytest

from interop.fhir.terminology import Limits, NotExpandable, Terminology, terminology
from interop.fhir.terminology.code_system import CodeSystem, code_system
from interop.fhir.terminology.value_set import ValueSet, value_set

TEETH = {
    "resourceType": "CodeSystem",
    "url": "urn:test:teeth",
    "version": "1",
    "content": "complete",
    "concept": [
        {
            "code": "tooth",
            "display": "Tooth",
            "property": [{"code": "notSelectable", "valueBoolean": True}],
            "concept": [
                {"code": "molar", "concept": [{"code": "16"}, {"code": "26"}]},
                {"code": "incisor", "concept": [{"code": "11"}]},
            ],
        },
        {"code": "55", "property": [{"code": "parent", "valueCode": "molar"}]},
        {"code": "old", "property": [{"code": "status", "valueCode": "retired"}]},
    ],
}


class Definitions:
    """A layer of definitions from resources."""

    def __init__(self, *resources: dict[str, Any]) -> None:
        self._resources = {resource["url"]: resource for resource in resources}

    def code_system(self, url: str, version: str) -> CodeSystem | None:
        found = self._resources.get(url, {})
        return code_system(found) if found.get("resourceType") == "CodeSystem" else None

    def value_set(self, url: str, version: str) -> ValueSet | None:
        found = self._resources.get(url, {})
        return value_set(found) if found.get("resourceType") == "ValueSet" else None


def composed(url: str, *include: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {
        "resourceType": "ValueSet",
        "url": url,
        "compose": {"include": list(include), **rest},
    }


def is_a(code: str, operator: str = "is-a") -> dict[str, Any]:
    return {
        "system": TEETH["url"],
        "filter": [{"property": "concept", "op": operator, "value": code}],
    }


def known(*resources: dict[str, Any]) -> Terminology:
    return Terminology([Definitions(TEETH, *resources)])


def codes(expansion: frozenset[tuple[str, str]] | None) -> set[str] | None:
    return None if expansion is None else {code for _, code in expansion}


@pytest.mark.parametrize(
    ("compose", "expected"),
    [
        (composed("urn:v", {"system": TEETH["url"]}), "tooth molar incisor 16 26 11 55 old"),
        (composed("urn:v", is_a("molar")), "molar 16 26 55"),
        (composed("urn:v", is_a("molar", "descendent-of")), "16 26 55"),
        (composed("urn:v", is_a("molar", "is-not-a")), "tooth incisor 11 old"),
        (composed("urn:v", is_a("16", "generalizes")), "tooth molar 16"),
        (composed("urn:v", is_a("16,11", "in")), "16 11"),
        (composed("urn:v", is_a("tooth"), exclude=[is_a("incisor")]), "tooth molar 16 26 55"),
        (composed("urn:v", {"system": TEETH["url"]}, exclude=[is_a("tooth")]), "old"),
        (composed("urn:v", {"system": TEETH["url"]}, inactive=False, exclude=[is_a("tooth")]), ""),
        (composed("urn:v", {"system": "urn:x", "concept": [{"code": "a"}]}), "a"),
        (composed("urn:v", {"valueSet": ["urn:molars"]}), "molar 16 26 55"),
        (composed("urn:v", {"valueSet": ["urn:molars", "urn:right"]}), "16"),
        (composed("urn:v", is_a("tooth") | {"valueSet": ["urn:right"]}), "16 11"),
    ],
)
def test_expansion_and_membership_agree_with_the_composition(
    compose: dict[str, Any], expected: str
) -> None:
    right = composed(
        "urn:right", {"system": TEETH["url"], "concept": [{"code": "16"}, {"code": "11"}]}
    )
    here = known(compose, composed("urn:molars", is_a("molar")), right)

    found = codes(here.expansion("urn:v"))

    assert found == set(expected.split())
    for code in ("tooth", "molar", "incisor", "16", "26", "11", "55", "nothing"):
        assert here.contains("urn:v", TEETH["url"], code) is (code in expected.split())


@pytest.mark.parametrize(
    ("include", "code", "contains"),
    [
        # Of a system that is not here nothing can be said, of another everything.
        ({"system": "http://snomed.info/sct"}, "1", None),
        (
            {"system": TEETH["url"], "filter": [{"property": "colour", "op": "=", "value": "x"}]},
            "16",
            None,
        ),
        (
            {
                "system": TEETH["url"],
                "filter": [{"property": "code", "op": "regex", "value": "1."}],
            },
            "16",
            None,
        ),
        ({"valueSet": ["urn:unknown"]}, "16", None),
        ({"valueSet": ["urn:v"]}, "16", None),
    ],
)
def test_what_cannot_be_told_is_not_a_no(
    include: dict[str, Any], code: str, contains: bool | None
) -> None:
    here = known(composed("urn:v", include))

    system = include.get("system", TEETH["url"])

    assert here.contains("urn:v", system, code) is contains
    assert here.expansion("urn:v") is None


def test_a_known_part_answers_though_another_part_is_not_known() -> None:
    here = known(composed("urn:v", {"system": "http://snomed.info/sct"}, is_a("molar")))

    assert here.contains("urn:v", TEETH["url"], "16") is True
    assert here.contains("urn:v", TEETH["url"], "11") is False
    assert here.contains("urn:v", "http://snomed.info/sct", "11") is None
    assert here.contains("urn:v", None, "11") is None


def test_a_fragment_knows_its_codes_and_nothing_of_others() -> None:
    part = {"resourceType": "CodeSystem", "url": "urn:p", "content": "fragment"}
    here = known(part | {"concept": [{"code": "a"}]}, composed("urn:v", {"system": "urn:p"}))

    assert here.contains("urn:v", "urn:p", "a") is True
    assert here.contains("urn:v", "urn:p", "b") is None


def test_the_version_after_the_bar_must_be_the_one_that_is_known() -> None:
    here = known(composed("urn:v", {"system": TEETH["url"], "version": "2"}))

    assert here.code_system("urn:test:teeth|1") is not None
    assert here.code_system("urn:test:teeth|2") is None
    assert here.contains("urn:v", TEETH["url"], "16") is None


def test_codes_of_a_system_without_case_are_found_in_any_case() -> None:
    folded = TEETH | {"url": "urn:f", "caseSensitive": False}
    here = known(folded, composed("urn:v", {"system": "urn:f"}))

    assert here.contains("urn:v", "urn:f", "MOLAR") is True
    assert here.contains("urn:v", TEETH["url"], "MOLAR") is False


def test_an_expansion_that_is_the_only_content_counts() -> None:
    stored = {
        "resourceType": "ValueSet",
        "url": "urn:v",
        "expansion": {
            "contains": [
                {
                    "display": "group",
                    "abstract": True,
                    "contains": [{"system": "urn:x", "code": "a"}],
                }
            ]
        },
    }

    assert known(stored).expansion("urn:v") == {("urn:x", "a")}


def test_hierarchies_hold_the_code_itself_and_need_a_known_system() -> None:
    here = known()

    assert here.descendants(TEETH["url"], "molar") == {"molar", "16", "26", "55"}
    assert here.ancestors(TEETH["url"], "16") == {"16", "molar", "tooth"}
    assert here.descendants(TEETH["url"], "nothing") == frozenset()
    assert here.descendants("urn:none", "molar") is None
    assert here.display(TEETH["url"], "tooth") == "Tooth"


def test_value_sets_that_import_each_other_a_thousandfold_cost_little() -> None:
    levels = [composed(f"urn:l{n}", *[{"valueSet": [f"urn:l{n + 1}"]}] * 50) for n in range(10)]
    here = known(*levels, composed("urn:l10", is_a("molar")))

    assert codes(here.expansion("urn:l0")) == {"molar", "16", "26", "55"}
    assert here.contains("urn:l0", TEETH["url"], "11") is False


@pytest.mark.parametrize(
    ("resources", "code"),
    [
        ([composed("urn:v", {"valueSet": ["urn:v"]})], "not-supported"),
        ([composed(f"urn:v{n}", {"valueSet": [f"urn:v{n + 1}"]}) for n in range(30)], "too-costly"),
        ([composed("urn:v", *[is_a("molar")] * 100)], "too-costly"),
    ],
)
def test_what_never_ends_or_takes_too_long_is_refused(
    resources: list[dict[str, Any]], code: str
) -> None:
    here = Terminology([Definitions(TEETH, *resources)], Limits(steps=500))

    with pytest.raises(NotExpandable) as refused:
        here.expand(resources[0]["url"])

    assert refused.value.code == code


def test_a_layer_above_answers_first_and_leaves_the_rest() -> None:
    here = terminology().beneath(Definitions(TEETH, composed("urn:v", is_a("molar"))))

    assert codes(here.expansion("urn:v")) == {"molar", "16", "26", "55"}
    gender = "http://hl7.org/fhir/ValueSet/administrative-gender"
    assert codes(here.expansion(gender)) == {"male", "female", "other", "unknown"}
    assert terminology().expansion("urn:v") is None


def test_parts_without_a_value_are_left_out_or_cannot_be_told() -> None:
    absent = {"extension": [{"url": "urn:x", "valueCode": "unknown"}]}
    system = {
        "resourceType": "CodeSystem",
        "url": "urn:s",
        "content": "complete",
        "concept": [{"_code": absent, "concept": [{"code": "in"}]}, {"code": "a"}],
    }
    here = known(
        system,
        composed("urn:all", {"system": "urn:s"}),
        composed("urn:import", {"valueSet": [None], "_valueSet": [absent]}),
        composed("urn:filter", {"system": "urn:s", "filter": [{"property": "code", "op": "="}]}),
    )

    assert codes(here.expansion("urn:all")) == {"in", "a"}
    assert here.contains("urn:import", "urn:s", "a") is None
    assert here.contains("urn:filter", "urn:s", "a") is None
