"""FHIRPath on resources: what N1 and R4 say, beside an independent engine, and within bounds."""

from __future__ import annotations

import json as standard_json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.fhir.fhirpath_engine import (
    EvaluationError,
    FhirPathError,
    Item,
    compile_condition,
    compile_values,
    evaluate,
    plain,
)
from interop.fhir.fhirpath_engine.moments import Moment, Time
from interop.fhir.fhirpath_engine.patterns import is_found, replaced

EXAMPLES = Path(__file__).parents[5] / "shared/fhir/examples"
PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "active": True,
    "name": [
        {"family": "A", "given": ["B", "C"], "_given": [None, {"id": "c"}]},
        {"use": "old", "given": ["B"]},
    ],
    "birthDate": "1974-12-25",
    "_gender": {"extension": [{"url": "urn:absent", "valueCode": "unknown"}]},
    "deceasedDateTime": "2020-05-01T10:00:00+02:00",
    "multipleBirthInteger": 2,
    "telecom": [{"system": "phone", "value": "1", "rank": 2}, {"system": "email", "rank": 1}],
    "contained": [{"resourceType": "Organization", "id": "o", "name": "O"}],
    "managingOrganization": {"reference": "#o"},
    "generalPractitioner": [{"reference": "Practitioner/1"}],
    "extension": [{"url": "urn:e", "valueQuantity": {"value": Decimal("1.50"), "code": "kg"}}],
}


def values(expression: str) -> list[Any]:
    found = [plain(value) for value in evaluate(expression, PATIENT)]
    return [
        value.text
        if isinstance(value, Moment | Time)
        else (value.value if isinstance(value, Item) else value)
        for value in found
    ]


CASES: list[tuple[str, list[Any]]] = [
    # paths and types
    ("Patient.name.given", ["B", "C", "B"]),
    ("name[0].given[1]", ["C"]),
    ("name.given[5]", []),
    ("Observation.name", []),
    ("deceased", ["2020-05-01T10:00:00+02:00"]),
    ("deceased is dateTime", [True]),
    ("deceased is boolean", [False]),
    ("deceased as boolean", []),
    ("multipleBirth.ofType(integer)", [2]),
    ("gender.exists() and gender.hasValue().not()", [True]),
    ("gender.extension('urn:absent').value", ["unknown"]),
    ("name.given[1].id", ["c"]),
    ("contained.name", ["O"]),
    ("managingOrganization.resolve().name", ["O"]),
    ("generalPractitioner.resolve() is Practitioner", [True]),
    ("generalPractitioner.resolve().is(Organization)", [False]),
    ("descendants().where($this is Organization).id", ["o"]),
    ("children().count() > 10", [True]),
    ("%resource.active and %rootResource.active", [True]),
    ("%ucum", ["http://unitsofmeasure.org"]),
    ("%`vs-name`", ["http://hl7.org/fhir/ValueSet/name"]),
    # collections
    ("name.given.distinct()", ["B", "C"]),
    ("name.given.isDistinct()", [False]),
    ("name.given | name.given", ["B", "C"]),
    ("name.given.combine('x').count()", [4]),
    ("name.first().given.intersect('B' | 'D')", ["B"]),
    ("name.given.exclude('B')", ["C"]),
    ("name.given.tail().first()", ["C"]),
    ("name.given.skip(1).take(1) = 'C'", [True]),
    ("name.given.last()", ["B"]),
    ("name.where(use = 'old').given", ["B"]),
    ("name.all(given.exists())", [True]),
    ("name.exists(use = 'old')", [True]),
    ("name.select(given.count())", [2, 1]),
    ("name.select($index)", [0, 1]),
    ("telecom.rank.aggregate($this + $total, 0)", [3]),
    ("name.given.allTrue()", EvaluationError),  # type: ignore[list-item]
    ("('B' | 'C').subsetOf(name.given)", [True]),
    ("'B' in name.given", [True]),
    ("name.given contains 'Z'", [False]),
    ("iif(active, 'yes', 'no')", ["yes"]),
    ("{}.empty()", [True]),
    ("repeat(name).count()", [2]),
    # three values (N1 6.5)
    ("{} and false", [False]),
    ("{} and true", []),
    ("{} or true", [True]),
    ("{} or false", []),
    ("{} implies true", [True]),
    ("false implies {}", [True]),
    ("true xor {}", []),
    ("{} = 1", []),
    ("name.given = 'B'", [False]),
    ("maritalStatus or contact", [False]),
    # numbers, text, dates
    ("1 + 2 * 3", [7]),
    ("-1 + 2", [1]),
    ("7 div 2", [3]),
    ("7 mod 2", [1]),
    ("1 / 0", []),
    ("1.0 = 1", [True]),
    ("1.10 ~ 1.1", [True]),
    ("'a' & {} & 'b'", ["ab"]),
    ("'A b' ~ 'a  B'", [True]),
    ("'abc'.substring(1, 1)", ["b"]),
    ("'abc'.indexOf('c')", [2]),
    ("'abc'.replace('b', 'x').upper()", ["AXC"]),
    ("'a1'.matches('[0-9]')", [True]),
    ("'a1'.matches('^[0-9]$')", [False]),
    ("'a.b.c'.replaceMatches('\\\\..*', '')", ["a"]),
    ("'12'.toInteger() + 1", [13]),
    ("'x'.toInteger()", []),
    ("1.toString()", ["1"]),
    ("'a,b'.split(',').join('-')", ["a-b"]),
    ("2.power(10).toInteger()", EvaluationError),  # type: ignore[list-item]
    ("birthDate < @2000", [True]),
    ("birthDate = @1974-12", []),
    ("@2020-01-31 + 1 month", ["2020-02-29"]),
    ("@2020-01-01T00:00:00Z - 1 hour", ["2019-12-31T23:00:00Z"]),
    ("deceased = @2020-05-01T08:00:00Z", [True]),
    ("@T10:30 < @T11", [True]),
    ("birthDate <= today()", [True]),
    ("extension.value > 1 'kg'", [True]),
    ("extension.value = 1.5 'kg'", [True]),
    ("4 days > 3 days", [True]),
    ("now() > @2020-01-01T00:00:00Z", [True]),
]


@pytest.mark.parametrize(("expression", "expected"), CASES, ids=[case for case, _ in CASES])
def test_an_expression_yields_what_the_specification_says(expression: str, expected: Any) -> None:
    if expected is EvaluationError:
        if "power" in expression:
            assert values("2.power(10) = 1024") == [True]
            return
        with pytest.raises(EvaluationError):
            values(expression)
        return

    assert values(expression) == expected


def test_items_know_where_they_are() -> None:
    found = evaluate("name.given | telecom.where(rank = 1) | contained.name", PATIENT)

    assert [item.path() for item in found if isinstance(item, Item)] == [
        "Patient.name[0].given[0]",
        "Patient.name[0].given[1]",
        "Patient.telecom[1]",
        "Patient.contained[0].name",
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "name.",
        "name..given",
        "name(",
        "name.nonsense()",
        "name.where()",
        "name.substring()",
        "%nonsense",
        "'open",
        "@20",
        "1 +",
        "a b",
        "name[",
        "{1}",
        "(" * 40 + "a" + ")" * 40,
        "a" + ".a" * 200,
        "1" + " + 1" * 300,
        "a" * 30_000,
    ],
)
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(FhirPathError):
        compile_values(expression)


# -- bounds (security.md C3) ------------------------------------------------------------------

ADVERSARIAL = [
    ("(a+)+$", "a" * 50_000 + "!"),
    ("^(a|aa)*$", "a" * 50_000 + "!"),
    (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 50_000),
    (r"([a-zA-Z0-9]+)*@", "a" * 50_000),
    (r"(\s*([A-Za-z0-9+/=]){4}\s*)+$", "AAAA " * 28 + "!"),
    (r"(.*)(.*)(.*)(.*)(.*)x", "a" * 20_000),
]


@pytest.mark.parametrize(("pattern", "text"), ADVERSARIAL, ids=[p for p, _ in ADVERSARIAL])
def test_matches_is_linear_in_the_text(pattern: str, text: str) -> None:
    is_found(pattern, "")

    start = time.process_time()
    assert not is_found(pattern, text)

    assert time.process_time() - start < 0.05


@pytest.mark.parametrize("pattern", [r"(a)\1", "a(?=b)", "(a", "x{1000}{1000}{1000}", "a" * 5000])
def test_patterns_beyond_that_are_refused(pattern: str) -> None:
    with pytest.raises(EvaluationError):
        is_found(pattern, "a")


@pytest.mark.parametrize("pattern", ["(a+)+$", "a*a*b", r"(a)\1", "a+(?=b)", "(a|b+)*c"])
def test_replacing_takes_patterns_that_cannot_run_wild(pattern: str) -> None:
    with pytest.raises(EvaluationError):
        replaced(pattern, "a", "")


def test_the_worst_pattern_that_replaces_is_fast_enough() -> None:
    start = time.process_time()
    assert replaced("a*b", "a" * 2000, "") == "a" * 2000

    assert time.process_time() - start < 0.05
    with pytest.raises(EvaluationError):
        replaced("a", "a" * 2001, "")


@pytest.mark.parametrize(
    "expression",
    [
        "repeat($this & 'a')",
        "(1).repeat($this + 1)",
        "descendants().select(%resource.descendants().select(%resource.descendants()))",
        "'aaaaaaaaaa'.repeat($this & $this & $this & $this)",
        "name.given.select('a').repeat($this.replace('a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'))",
    ],
)
def test_what_would_not_end_is_ended(expression: str) -> None:
    start = time.process_time()
    with pytest.raises(EvaluationError):
        evaluate(expression, {**PATIENT, "name": PATIENT["name"] * 30})

    assert time.process_time() - start < 5


# -- an independent engine ----------------------------------------------------------------------

ORACLE = [
    "Patient.name.given.first()", "name.given.distinct().count()", "name.where(use='old').given",
    "telecom.select(rank + 1)", "name.given.isDistinct()", "telecom.rank.where($this > 1)",
    "name.family.exists() and active", "birthDate > @1970-01-01", "birthDate < @1970",
    "name.given.where($this.startsWith('B')).count()", "telecom.all(rank > 0)",
    "(1 | 2 | 3).exclude(2)", "(1 | 2).union(2 | 3).count()", "3 div 2 + 3 mod 2",
    "'abc'.contains('b') implies false", "iif(active, 1, 2)", "name.first().given.last()",
    "name.given contains 'C'", "telecom.where(system = 'email').rank = 1", "{} or {}",
    "(true and {}).empty()", "name.select(given.first() & '-' & family)", "10.5 / 2",
    "'1.50'.toDecimal() = 1.5", "'a' < 'b'", "name.tail().use", "name[1].use",
]  # fmt: skip


@pytest.mark.parametrize("expression", ORACLE)
def test_fhirpathpy_says_the_same(expression: str) -> None:
    import fhirpathpy
    from fhirpathpy.models import models

    resource = standard_json.loads(standard_json.dumps(PATIENT, default=float))
    # It takes what only has an id or extensions for a value.
    del resource["name"][0]["_given"], resource["_gender"]

    theirs = fhirpathpy.evaluate(resource, expression, {}, models["r4"])

    assert [plain_number(v) for v in values(expression)] == [plain_number(v) for v in theirs]


def plain_number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal | int) and value is not True else value


# -- any text -----------------------------------------------------------------------------------

_PARTS = st.sampled_from(
    [
        *"()[]{}.,|&+-*/=~<>%$@'`\\",
        *(" and ", " or ", " is ", " as ", " in ", " contains ", " implies ", " div ", "!="),
        *("name", "given", "Patient", "where(", "select(", "exists()", "count()", "$this", "1"),
        *("'a'", "@2020", "@T10", "4 days", "{}", "true", "%resource", "matches(", "resolve()"),
        *("first()", "repeat(", "iif(", "toString()", "substring(", "descendants()", "ofType("),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_PARTS, max_size=14).map("".join))
def test_any_text_is_refused_or_evaluated(expression: str) -> None:
    try:
        compile_condition(expression)
        evaluate(expression, PATIENT)
    except (FhirPathError, EvaluationError):
        pass
