"""The SQL of a search holds nothing of the client's text (security.md C4)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qsl
from uuid import UUID

import pytest

from interop.access import Caller, Scopes, decide
from interop.errors import BadRequest
from interop.fhir.definitions import definitions
from interop.fhir.search.request import parse
from interop.fhir.search.searching import Query, Searcher
from storage.database import Database
from storage.resource_search import MOST_VALUES

PAYLOADS = [
    "name'--", "') OR 1=1--", "%", "_", "\\", "\\'", "'; DROP TABLE fhir_resources;--", "$1",
    "($2)[1]", "a' UNION SELECT body FROM fhir_resources--", "{}", "x\"y", "/*", "E'\\x27'",
    "\u2019 OR 1=1", "null", "a]b", "ARRAY[1]", "%s", "{0}",
]  # fmt: skip
PLAIN = "zqxjkwvy"


def built(resource_type: str, pairs: list[tuple[str, str]], scope: str = "system/*.cruds") -> Query:
    """The statement of a search, without a database."""
    caller = Caller(
        tenant=cast(Any, SimpleNamespace(id=UUID(int=1), slug="demo")),
        actor_type="API_CLIENT",
        actor_id=None,
        actor_name="test",
        scopes=Scopes.parse(scope),
        request_id="test",
    )
    filter_ = decide(caller, "s", resource_type).filter
    searcher = Searcher(cast(Database, None), caller, "http://here/t/demo/fhir/R4", filter_)
    return searcher._query(parse(resource_type, pairs), None, None)


NAMES = [
    ("Patient", name)
    for name, parameter in definitions().search_parameters["Patient"].items()
    if parameter.type in ("string", "token", "uri", "reference")
] + [
    ("Patient", "name:exact"),
    ("Patient", "name:contains"),
    ("Patient", "identifier:of-type"),
    ("Patient", "_list"),
    ("Patient", "_has:Observation:patient:code"),
    ("Observation", "subject:Patient.name"),
    ("Observation", "patient.organization.name"),
    ("Observation", "code-value-string"),
]


@pytest.mark.parametrize(("type_", "name"), NAMES)
def test_c4_values_are_bound_and_never_written_into_the_statement(type_: str, name: str) -> None:
    shape = "{}$abc" if name == "code-value-string" else "a|b|{}" if "of-type" in name else "{}"
    texts: set[str] = set()
    for payload in PAYLOADS:
        try:
            made = built(type_, [(name, shape.format(f"{payload}{PLAIN}".replace(",", ";")))])
        except BadRequest:
            continue  # a reference, whose values have a form
        assert PLAIN not in made.page.text
        texts.add(made.page.text)
    # Of what is found by its runs of three characters, each is a condition.
    if name not in ("name:contains", "_text", "_content"):
        assert len(texts) <= 2, "a value may have a system before its bar, and no more"


@pytest.mark.parametrize("payload", [p for p in PAYLOADS if '"' not in p and "\\" not in p])
def test_c4_values_of_filters_are_bound(payload: str) -> None:
    for operator in ("eq", "ne", "sw", "co"):
        made = built("Patient", [("_filter", f'family {operator} "{payload}{PLAIN}"')])

        assert PLAIN not in made.page.text
        if operator != "co":
            assert (
                made.page.text
                == built("Patient", [("_filter", f'family {operator} "abc"')]).page.text
            )


@pytest.mark.parametrize("payload", PAYLOADS)
def test_c4_names_that_are_none_are_refused(payload: str) -> None:
    for name, value in (
        (payload, "x"),
        (f"name:{payload}", "x"),
        (f"organization.{payload}", "x"),
        (f"organization:{payload}.name", "x"),
        (f"{payload}.name", "x"),
        (f"_has:{payload}:patient:code", "x"),
        (f"_has:Observation:{payload}:code", "x"),
        (f"_has:Observation:patient:{payload}", "x"),
        ("_sort", payload),
        ("_include", payload),
        ("_include", f"Patient:{payload}"),
        ("_revinclude", f"{payload}:subject"),
        ("_filter", f"{payload} eq x"),
        ("_cursor", payload),
        ("_total", payload),
        ("_count", payload),
    ):
        with pytest.raises(BadRequest):
            built("Patient", [(name, value)])


def test_the_statement_of_a_long_list_of_values_stays_short() -> None:
    """One = ANY for all of them, not a condition each."""
    few = built("Observation", [("code", ",".join(f"c{n}" for n in range(MOST_VALUES + 1)))])
    many = built("Observation", [("code", ",".join(f"c{n}" for n in range(400)))])

    assert many.page.text.count("EXISTS") == few.page.text.count("EXISTS")
    assert len(many.page.text) < 400 * 20


KEPT = [
    "code=a|b", "code=a,b,c", "subject=Patient/1", "code=a&subject=Patient/1", "code=a&_sort=-date",
    "subject:Patient.name=x", "subject:Patient.name=x&code=a", "_include=Observation:subject", "",
]  # fmt: skip
PLANNED = [
    "date=ge2020", "code:not=a", "value-quantity=gt3", "code=a&_total=accurate",
    "_filter=not(code eq a)",
    "code=a&date=ge2020", "subject:Patient.birthdate=ge2020", "subject:Patient.name:contains=x",
]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "is_kept"), [*((q, True) for q in KEPT), *((q, False) for q in PLANNED)]
)
def test_a_plan_is_kept_where_no_value_can_make_it_wrong(query: str, is_kept: bool) -> None:
    assert built("Observation", parse_qsl(query)).page.keeps_plan is is_kept


@pytest.mark.parametrize("query", KEPT)
def test_searches_of_who_may_not_see_all_are_planned(query: str) -> None:
    scope = "system/Observation.rs?status=final system/Patient.rs"

    assert not built("Observation", parse_qsl(query), scope).page.keeps_plan


def test_a_statement_that_is_kept_is_the_same_for_every_value() -> None:
    for name in ("code", "subject", "subject:Patient.name", "subject:Patient.identifier"):
        one, other = (built("Observation", [(name, value)]) for value in ("abc", "xyz"))

        assert one.page.text == other.page.text
