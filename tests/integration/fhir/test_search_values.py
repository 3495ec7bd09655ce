"""Every search parameter type, modifier and prefix against a slow and obvious evaluator.

The evaluator works on plain Python values that the resources were made from: it knows no FHIRPath,
no search rows and no SQL.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from interop.fhir import json

FHIR_JSON = {"Content-Type": "application/fhir+json"}
SEED = 20261122

FAMILIES = ["Müller", "Muller", "MÜLLEr-Lüdenscheidt", "O'Neil", "van der Berg", "Łoś", "Ng", "李"]
GIVENS = ["Ann", "Anna Maria", "anne", "José", "Jose", "Q", "Ännchen"]
DATES = ["1970", "1970-06", "1970-06-15", "1980-02-29", "1999-12-31", "2000", "2000-01-01"]
TIMES = [
    "2020",
    "2020-03",
    "2020-03-10",
    "2020-03-10T10:00:00Z",
    "2020-03-10T10:00:00+02:00",
    "2020-03-10T10:00:00.250Z",
    "2020-03-10T23:59:59-05:00",
]
VALUES = ["5", "5.0", "5.4", "5.40", "5.35", "5.45", "-3", "0", "100", "1e2", "0.001", "99.5"]
CODES = [
    ("http://loinc.org", "32910-2"),
    ("http://loinc.org", "32911-0"),
    ("", "local"),
    ("urn:x", "a|b"),
]


@dataclass
class Person:
    resource: dict[str, Any]
    family: str
    given: list[str]
    birth: str | None
    gender: str | None
    identifiers: list[tuple[str, str]]
    active: bool | None


@dataclass
class Measurement:
    resource: dict[str, Any]
    code: tuple[str, str]
    time: tuple[str | None, str | None]  # start, end of what was said; equal for a dateTime
    value: str | None
    unit: tuple[str, str]
    subject: str | None


def people(chance: random.Random) -> Iterator[Person]:
    for _ in range(60):
        family, given = chance.choice(FAMILIES), chance.sample(GIVENS, chance.randint(1, 2))
        birth = chance.choice([*DATES, None])
        gender = chance.choice(["male", "female", "other", None])
        identifiers = [
            (chance.choice(["urn:mrn", "urn:ssn", ""]), f"{chance.choice('AB')}{number}")
            for number in range(chance.randint(0, 2))
        ]
        active = chance.choice([True, False, None])
        resource: dict[str, Any] = {
            "resourceType": "Patient",
            "name": [{"family": family, "given": given}],
        }
        if birth:
            resource["birthDate"] = birth
        if gender:
            resource["gender"] = gender
        if active is not None:
            resource["active"] = active
        if identifiers:
            resource["identifier"] = [
                {"value": value, **({"system": system} if system else {})}
                for system, value in identifiers
            ]
        yield Person(resource, family, given, birth, gender, identifiers, active)


def measurements(chance: random.Random, patients: list[str]) -> Iterator[Measurement]:
    for _ in range(80):
        system, code = chance.choice(CODES)
        value = chance.choice([*VALUES, None])
        unit = chance.choice(
            [("http://unitsofmeasure.org", "mm"), ("http://unitsofmeasure.org", "cm")]
        )
        subject = chance.choice([*patients, None])
        resource: dict[str, Any] = {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"code": code, **({"system": system} if system else {})}]},
        }
        start = end = chance.choice(TIMES)
        kind = chance.randint(0, 3)
        if kind == 0:
            resource["effectiveDateTime"] = start
        elif kind == 1:
            start, end = "2020-03-01", chance.choice(["2020-03-10", "2021"])
            resource["effectivePeriod"] = {"start": start, "end": end}
        elif kind == 2:
            start, end = chance.choice([("2020-03-10", None), (None, "2020-03-10")])
            period = {"start": start, "end": end}
            resource["effectivePeriod"] = {k: v for k, v in period.items() if v}
        else:
            start = end = None
        if value:
            resource["valueQuantity"] = {
                "value": json.loads(f'{{"v":{value}}}'.encode())["v"],
                "unit": unit[1],
                "system": unit[0],
                "code": unit[1],
            }
        if subject:
            resource["subject"] = {"reference": f"Patient/{subject}"}
        yield Measurement(resource, (system, code), (start, end), value, unit, subject)


@dataclass
class World:
    people: dict[str, Person]
    measurements: dict[str, Measurement]


@pytest.fixture(scope="module")
def world(fhir: httpx.Client) -> World:
    chance = random.Random(SEED)

    def post(resource: dict[str, Any]) -> str:
        response = fhir.post(
            f"/{resource['resourceType']}", content=json.dumps(resource), headers=FHIR_JSON
        )
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    persons = {post(person.resource): person for person in people(chance)}
    chosen = list(persons)[:5]
    observed = {post(one.resource): one for one in measurements(chance, chosen)}
    return World(persons, observed)


def search(fhir: httpx.Client, type_: str, *pairs: tuple[str, str]) -> set[str]:
    response = fhir.get(f"/{type_}", params=[*pairs, ("_count", "500")])
    assert response.status_code == 200, (pairs, response.text)
    return {entry["resource"]["id"] for entry in response.json().get("entry", [])}


# -- the obvious evaluator ------------------------------------------------------------------


def folded(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(c for c in parts if not 0x300 <= ord(c) < 0x370).split())


def interval(text: str) -> tuple[datetime, datetime]:
    """[start, end) of a date of any precision, spelled out by length."""
    if len(text) == 4:
        return datetime(int(text), 1, 1, tzinfo=UTC), datetime(int(text) + 1, 1, 1, tzinfo=UTC)
    if len(text) == 7:
        year, month = int(text[:4]), int(text[5:])
        low = datetime(year, month, 1, tzinfo=UTC)
        return low, (low + timedelta(days=32)).replace(day=1)
    if len(text) == 10:
        low = datetime.fromisoformat(text).replace(tzinfo=UTC)
        return low, low + timedelta(days=1)
    low = datetime.fromisoformat(text).astimezone(UTC)
    step = timedelta(milliseconds=1) if "." in text else timedelta(seconds=1)
    if text.count(":") - (text[-6] in "+-") == 1:
        step = timedelta(minutes=1)
    return low, low + step


FAR = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def span(time: tuple[str | None, str | None]) -> tuple[datetime, datetime] | None:
    start, end = time
    if start is None and end is None:
        return None
    return (interval(start)[0] if start else FAR[0], interval(end)[1] if end else FAR[1])


def date_matches(prefix: str, value: str, target: tuple[datetime, datetime] | None) -> bool:
    """search.html 3.1.1.4.3, word by word."""
    if target is None:
        return False
    low, high = interval(value)
    contains = low <= target[0] and target[1] <= high
    above = target[1] > high  # the range above the value intersects the target
    below = target[0] < low
    return {
        "eq": contains,
        "ne": not contains,
        "gt": above,
        "lt": below,
        "ge": above or contains,
        "le": below or contains,
        "sa": target[0] >= high,
        "eb": target[1] <= low,
    }[prefix]


def number_matches(prefix: str, value: str, target: str | None) -> bool:
    if target is None:
        return False
    stated, found = Decimal(value), Decimal(target)
    half = Decimal(5).scaleb(int(stated.as_tuple().exponent) - 1)
    within = stated - half <= found < stated + half
    return {
        "eq": within,
        "ne": not within,
        "gt": found > stated,
        "lt": found < stated,
        "ge": found >= stated,
        "le": found <= stated,
        "sa": found > stated,
        "eb": found < stated,
        "ap": abs(found - stated) <= abs(stated) / 10,
    }[prefix]


def expected(world: dict[str, Any], test: Callable[[Any], bool]) -> set[str]:
    return {id_ for id_, one in world.items() if test(one)}


# -- the tests ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["mul", "MÜL", "o'n", "van der", "l", "ng", "李", "zzz", "erg"])
def test_strings_match_at_the_beginning_without_case_and_accents(
    fhir: httpx.Client, world: World, value: str
) -> None:
    assert search(fhir, "Patient", ("family", value)) == expected(
        world.people, lambda p: folded(p.family).startswith(folded(value))
    )
    assert search(fhir, "Patient", ("name", value)) == expected(
        world.people,
        lambda p: any(folded(t).startswith(folded(value)) for t in [p.family, *p.given]),
    )


@pytest.mark.parametrize("value", ["ller", "ÜLL", "n", "na m", "der be", "李", "os", "e", "zz"])
def test_contains_matches_anywhere(fhir: httpx.Client, world: World, value: str) -> None:
    assert search(fhir, "Patient", ("name:contains", value)) == expected(
        world.people, lambda p: any(folded(value) in folded(t) for t in [p.family, *p.given])
    )


@pytest.mark.parametrize("value", ["Müller", "Muller", "müller", "Ann", "Anna", "Anna Maria"])
def test_exact_matches_the_whole_as_it_was_sent(
    fhir: httpx.Client, world: World, value: str
) -> None:
    assert search(fhir, "Patient", ("name:exact", value)) == expected(
        world.people, lambda p: value in [p.family, *p.given]
    )


@pytest.mark.parametrize("prefix", ["eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"])
@pytest.mark.parametrize("value", [*DATES, "1970-06-14", "1970-07"])
def test_dates_compare_as_intervals(
    fhir: httpx.Client, world: World, prefix: str, value: str
) -> None:
    assert search(fhir, "Patient", ("birthdate", prefix + value)) == expected(
        world.people,
        lambda p: date_matches(prefix, value, span((p.birth, p.birth))),
    )


@pytest.mark.parametrize("prefix", ["eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"])
@pytest.mark.parametrize("value", [*TIMES, "2020-03-10T10:00Z", "2021"])
def test_times_and_periods_compare_as_intervals(
    fhir: httpx.Client, world: World, prefix: str, value: str
) -> None:
    assert search(fhir, "Observation", ("date", prefix + value)) == expected(
        world.measurements, lambda m: date_matches(prefix, value, span(m.time))
    )


@pytest.mark.parametrize("prefix", ["eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"])
@pytest.mark.parametrize("value", [*VALUES, "5.4e0", "50e-1"])
def test_quantities_compare_with_precision(
    fhir: httpx.Client, world: World, prefix: str, value: str
) -> None:
    assert search(fhir, "Observation", ("value-quantity", prefix + value)) == expected(
        world.measurements, lambda m: number_matches(prefix, value, m.value)
    )


MILLIMETRES = {"mm": Decimal(1), "cm": Decimal(10), "m": Decimal(1000)}


@pytest.mark.parametrize("prefix", ["eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"])
def test_quantities_of_ucum_compare_whatever_their_unit(
    fhir: httpx.Client, world: World, prefix: str
) -> None:
    """The value's precision is that of what was written, in the unit that it was written in."""
    for value, unit in (
        ("5.4", "mm"), ("54", "mm"), ("-3", "mm"), ("0.54", "cm"), ("0.5", "cm"), ("1e1", "cm"),
        ("0.0054", "m"), ("0.05", "m"),
    ):  # fmt: skip

        def matches(one: Measurement, value: str = value, unit: str = unit) -> bool:
            if one.value is None:
                return False
            found = Decimal(one.value) * MILLIMETRES[one.unit[1]] / MILLIMETRES[unit]
            return number_matches(prefix, value, str(found))

        wanted = f"{prefix}{value}|http://unitsofmeasure.org|{unit}"
        assert search(fhir, "Observation", ("value-quantity", wanted)) == expected(
            world.measurements, matches
        ), wanted


@pytest.mark.parametrize("unit", ["||cm", "|urn:other|mm", "|http://unitsofmeasure.org|kg"])
def test_other_quantities_compare_within_their_unit(
    fhir: httpx.Client, world: World, unit: str
) -> None:
    system, code = unit[1:].split("|")

    assert search(fhir, "Observation", ("value-quantity", f"gt1{unit}")) == expected(
        world.measurements,
        lambda m: (
            number_matches("gt", "1", m.value) and m.unit[1] == code and system in ("", m.unit[0])
        ),
    )


@pytest.mark.parametrize(
    "value",
    ["A0", "urn:mrn|A0", "|A0", "urn:mrn|", "A0,B1", "urn:mrn|A0,|B0", "A0,A1,B0,B1", "nothing"],
)
@pytest.mark.parametrize("negated", [False, True])
def test_tokens_match_by_system_and_code(
    fhir: httpx.Client, world: World, value: str, negated: bool
) -> None:
    def matches(person: Person) -> bool:
        for one in value.split(","):
            system, bar, code = one.rpartition("|")
            for own_system, own_value in person.identifiers:
                if (not bar or own_system == system) and code in ("", own_value):
                    return True
        return False

    name = "identifier:not" if negated else "identifier"
    assert search(fhir, "Patient", (name, value)) == expected(
        world.people, lambda p: matches(p) is not negated
    )


def test_tokens_of_codes_know_their_system(fhir: httpx.Client, world: World) -> None:
    female = expected(world.people, lambda p: p.gender == "female")
    system = "http://hl7.org/fhir/administrative-gender"

    assert search(fhir, "Patient", ("gender", "female")) == female
    assert search(fhir, "Patient", ("gender", f"{system}|female")) == female
    assert search(fhir, "Patient", ("gender", "urn:other|female")) == set()
    assert search(fhir, "Patient", ("active", "true")) == expected(
        world.people, lambda p: p.active is True
    )


def test_escaped_bars_and_commas_are_part_of_the_value(fhir: httpx.Client, world: World) -> None:
    odd = expected(world.measurements, lambda m: m.code == ("urn:x", "a|b"))

    assert odd
    assert search(fhir, "Observation", ("code", r"a\|b")) == odd
    assert search(fhir, "Observation", ("code", r"urn:x|a\|b,no\,code")) == odd


@pytest.mark.parametrize(
    ("type_", "name", "has"),
    [
        ("Patient", "birthdate", lambda p: p.birth is not None),
        ("Patient", "gender", lambda p: p.gender is not None),
        ("Patient", "identifier", lambda p: bool(p.identifiers)),
        ("Patient", "family", lambda p: True),
        ("Observation", "value-quantity", lambda m: m.value is not None),
        ("Observation", "subject", lambda m: m.subject is not None),
        ("Observation", "code-value-quantity", lambda m: m.value is not None),
        ("Observation", "_profile", lambda m: False),
    ],
)
def test_missing_finds_what_says_nothing(
    fhir: httpx.Client, world: World, type_: str, name: str, has: Callable[[Any], bool]
) -> None:
    all_of_type: dict[str, Any] = world.people if type_ == "Patient" else world.measurements

    assert search(fhir, type_, (f"{name}:missing", "false")) == expected(all_of_type, has)
    assert search(fhir, type_, (f"{name}:missing", "true")) == expected(
        all_of_type, lambda one: not has(one)
    )


def test_references_match_in_each_form(fhir: httpx.Client, world: World) -> None:
    wanted = next(m.subject for m in world.measurements.values() if m.subject)
    found = expected(world.measurements, lambda m: m.subject == wanted)

    for value in (wanted, f"Patient/{wanted}", f"{fhir.base_url}Patient/{wanted}"):
        assert search(fhir, "Observation", ("subject", value)) == found
        assert search(fhir, "Observation", ("patient", value)) == found
    assert search(fhir, "Observation", ("subject:Patient", wanted)) == found
    assert search(fhir, "Observation", ("subject:Group", wanted)) == set()
    assert search(fhir, "Observation", ("subject", f"Group/{wanted}")) == set()
    assert search(fhir, "Observation", ("subject", f"http://other.test/Patient/{wanted}")) == set()


@pytest.mark.parametrize("prefix", ["eq", "gt", "le"])
def test_composites_match_within_one_element(fhir: httpx.Client, world: World, prefix: str) -> None:
    found = search(
        fhir, "Observation", ("code-value-quantity", f"http://loinc.org|32910-2${prefix}5.4")
    )

    assert found == expected(
        world.measurements,
        lambda m: m.code[1] == "32910-2" and number_matches(prefix, "5.4", m.value),
    )


def test_components_of_different_elements_do_not_combine(fhir: httpx.Client) -> None:
    def component(code: str, value: int) -> dict[str, Any]:
        return {
            "code": {"coding": [{"system": "urn:c", "code": code}]},
            "valueQuantity": {"value": value},
        }

    resource = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "panel"},
        "component": [component("systolic", 120), component("diastolic", 80)],
    }
    response = fhir.post("/Observation", content=json.dumps(resource), headers=FHIR_JSON)
    own = ("_id", response.json()["id"])
    name = "component-code-value-quantity"

    assert search(fhir, "Observation", own, (name, "urn:c|systolic$gt100"))
    assert not search(fhir, "Observation", own, (name, "urn:c|diastolic$gt100"))
    assert search(fhir, "Observation", own, ("combo-code-value-quantity", "diastolic$80"))


def test_clauses_are_all_required(fhir: httpx.Client, world: World) -> None:
    pairs = [
        ("name", "an"),
        ("gender", "female,other"),
        ("birthdate", "ge1970"),
        ("active", "true"),
    ]

    assert search(fhir, "Patient", *pairs) == expected(
        world.people,
        lambda p: (
            any(folded(t).startswith("an") for t in [p.family, *p.given])
            and p.gender in ("female", "other")
            and p.birth is not None
            and date_matches("ge", "1970", span((p.birth, p.birth)))
            and p.active is True
        ),
    )


def test_approximate_dates_widen_with_their_distance(fhir: httpx.Client, world: World) -> None:
    now = datetime.now(UTC)
    low, high = interval("1975")
    margin = (now - low) / 10

    assert search(fhir, "Patient", ("birthdate", "ap1975")) == expected(
        world.people,
        lambda p: (
            p.birth is not None
            and interval(p.birth)[0] < high + margin
            and interval(p.birth)[1] > low - margin
        ),
    )


def test_near_finds_places_within_a_distance(fhir: httpx.Client) -> None:
    places = {
        "Vienna": (48.2082, 16.3738),
        "Bratislava": (48.1486, 17.1077),
        "Graz": (47.0707, 15.4395),
    }
    ids = {}
    for name, (latitude, longitude) in places.items():
        resource = {
            "resourceType": "Location",
            "name": name,
            "position": {"latitude": latitude, "longitude": longitude},
        }
        response = fhir.post("/Location", content=json.dumps(resource), headers=FHIR_JSON)
        assert response.status_code == 201, response.text
        ids[name] = response.json()["id"]

    def near(value: str) -> set[str]:
        found = search(fhir, "Location", ("near", value))
        return {name for name, id_ in ids.items() if id_ in found}

    assert near("48.2082|16.3738") == {"Vienna"}
    assert near("48.2082|16.3738|60|km") == {"Vienna", "Bratislava"}
    assert near("48.2082|16.3738|40|[mi_us]") == {"Vienna", "Bratislava"}
    assert near("48.2082|16.3738|500000|m") == set(places)
    assert near("-48|16|10") == set()


def test_numbers_compare(fhir: httpx.Client) -> None:
    ids = {}
    for value in ("0.5", "0.50", "0.54", "0.9"):
        body = (
            '{"resourceType":"RiskAssessment","status":"final","subject":{"display":"x"},'
            f'"prediction":[{{"probabilityDecimal":{value}}}]}}'
        )
        response = fhir.post("/RiskAssessment", content=body, headers=FHIR_JSON)
        assert response.status_code == 201, response.text
        ids[response.json()["id"]] = value

    for prefix in ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"):
        for value in ("0.5", "0.50", "0.54", "1"):
            assert search(fhir, "RiskAssessment", ("probability", prefix + value)) == {
                id_ for id_, own in ids.items() if number_matches(prefix, value, own)
            }, (prefix, value)


def test_uris_match_character_by_character(fhir: httpx.Client) -> None:
    url = "http://example.test/Questionnaire/Recall"
    body = {"resourceType": "Questionnaire", "status": "active", "url": url}
    response = fhir.post("/Questionnaire", content=json.dumps(body), headers=FHIR_JSON)
    own = response.json()["id"]

    assert search(fhir, "Questionnaire", ("url", url)) == {own}
    assert search(fhir, "Questionnaire", ("url", url.lower())) == set()
    assert search(fhir, "Questionnaire", ("url", url[:-1])) == set()


def test_canonicals_match_with_and_without_version(fhir: httpx.Client) -> None:
    canonical = "http://example.test/Questionnaire/Recall"
    body = {
        "resourceType": "QuestionnaireResponse",
        "status": "completed",
        "questionnaire": f"{canonical}|2.0",
    }
    response = fhir.post("/QuestionnaireResponse", content=json.dumps(body), headers=FHIR_JSON)
    own = response.json()["id"]

    assert search(fhir, "QuestionnaireResponse", ("questionnaire", canonical)) == {own}
    assert search(fhir, "QuestionnaireResponse", ("questionnaire", f"{canonical}|2.0")) == {own}
    assert search(fhir, "QuestionnaireResponse", ("questionnaire", f"{canonical}|1.0")) == set()


def test_identifier_modifiers(fhir: httpx.Client) -> None:
    body = {
        "resourceType": "Coverage",
        "status": "active",
        "beneficiary": {"identifier": {"system": "urn:mrn", "value": "M-77"}},
        "payor": [{"display": "payor"}],
        "identifier": [
            {
                "type": {"coding": [{"system": "urn:types", "code": "MB"}]},
                "system": "urn:plans",
                "value": "P|1",
            }
        ],
    }
    response = fhir.post("/Coverage", content=json.dumps(body), headers=FHIR_JSON)
    assert response.status_code == 201, response.text
    own = response.json()["id"]

    assert search(fhir, "Coverage", ("beneficiary:identifier", "urn:mrn|M-77")) == {own}
    assert search(fhir, "Coverage", ("beneficiary:identifier", "M-77")) == {own}
    assert search(fhir, "Coverage", ("beneficiary:identifier", "urn:x|M-77")) == set()
    assert search(fhir, "Coverage", ("identifier:of-type", r"urn:types|MB|P\|1")) == {own}
    assert search(fhir, "Coverage", ("identifier:of-type", r"urn:types|MC|P\|1")) == set()


def test_phonetic_finds_names_that_sound_alike(fhir: httpx.Client) -> None:
    body = {"resourceType": "Practitioner", "name": [{"family": "Schmidt"}]}
    response = fhir.post("/Practitioner", content=json.dumps(body), headers=FHIR_JSON)
    own = response.json()["id"]

    assert own in search(fhir, "Practitioner", ("phonetic", "Schmitt"))
    assert own not in search(fhir, "Practitioner", ("phonetic", "Baker"))


def test_last_updated_compares(fhir: httpx.Client) -> None:
    response = fhir.post(
        "/Basic", content=b'{"resourceType":"Basic","code":{"text":"x"}}', headers=FHIR_JSON
    )
    moment = response.json()["meta"]["lastUpdated"]
    own = ("_id", response.json()["id"])

    for prefix, hits in {
        "": 1,
        "ge": 1,
        "le": 1,
        "gt": 0,
        "lt": 0,
        "ne": 0,
        "sa": 0,
        "eb": 0,
    }.items():
        assert len(search(fhir, "Basic", own, ("_lastUpdated", prefix + moment))) == hits, prefix
    assert search(fhir, "Basic", own, ("_lastUpdated", "gt2020"), ("_lastUpdated", "lt2100"))
