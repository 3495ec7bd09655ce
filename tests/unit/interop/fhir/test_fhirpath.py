"""All R4 search parameter expressions compile, and find what an independent engine finds."""

from __future__ import annotations

import json as standard_json
import re
from pathlib import Path
from typing import Any

import pytest

from interop.fhir.definitions import SearchParameter, definitions
from interop.fhir.fhirpath import FhirPathError, parse
from interop.fhir.fhirpath_compile import compile_expression

EXAMPLES = Path(__file__).parents[5] / "shared/fhir/examples"


def all_parameters() -> list[tuple[str, SearchParameter]]:
    return [
        (type_, parameter)
        for type_, parameters in definitions().search_parameters.items()
        for parameter in parameters.values()
        if parameter.expression
    ]


def test_every_search_parameter_of_every_type_compiles() -> None:
    empty = [
        (type_, parameter.code)
        for type_, parameter in all_parameters()
        if not compile_expression(parameter.expression, type_)
    ]

    assert empty == []


def test_every_component_of_every_composite_compiles() -> None:
    for type_, parameter in all_parameters():
        for base in compile_expression(parameter.expression, type_):
            for _, _, expression in parameter.components:
                assert compile_expression(expression, base.type), (type_, parameter.code)


@pytest.mark.parametrize(
    "expression",
    [
        "Patient.name.given +",
        "Patient.name..given",
        "Patient.unknown",
        "Patient.name.repeat(given)",
        "Patient.name where given",
        "Patient.name[",
        "",
        "(Patient.name",
        "Patient.name.where(text.matches('a'))",
    ],
)
def test_what_is_beyond_the_subset_is_refused(expression: str) -> None:
    with pytest.raises(FhirPathError):
        compile_expression(expression, "Patient")


def test_precedence_binds_as_tighter_than_union() -> None:
    assert parse("A | B as C") == parse("A | (B as C)")
    assert parse("A.b = 'x' and C.exists()") == parse("(A.b = 'x') and (C.exists())")


@pytest.mark.parametrize(
    ("deceased", "expected"),
    [
        ({}, [False]),
        ({"deceasedBoolean": False}, [False]),
        ({"deceasedBoolean": True}, [True]),
        ({"deceasedDateTime": "2015-02-14"}, [True]),
    ],
)
def test_deceased_is_true_for_a_date_and_false_when_absent(
    deceased: dict[str, Any], expected: list[bool]
) -> None:
    expression = definitions().search_parameters["Patient"]["deceased"].expression
    patient = {"resourceType": "Patient", **deceased}

    assert found(expression, patient) == expected


def found(expression: str, resource: dict[str, Any]) -> list[Any]:
    return [
        value
        for stream in compile_expression(expression, resource["resourceType"])
        for value in stream.get([resource], resource)
    ]


def canonical(values: list[Any]) -> list[str]:
    return sorted({standard_json.dumps(value, sort_keys=True, default=float) for value in values})


# A canonical is a uri (datatypes.html), and so is kept by `as uri` (N1 6.3.3: "or a subclass
# thereof"); fhirpathpy's evaluate takes the type by its name only.
OF_A_SUBTYPE = {("ConceptMap", "source-uri"), ("ConceptMap", "target-uri")}


@pytest.mark.slow
@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no official examples at hand")
def test_paths_find_what_fhirpathpy_finds_in_the_official_examples() -> None:
    """`resolve()` is left out: the oracle needs a server for it, we decide from the reference."""
    import fhirpathpy
    from fhirpathpy.models import models

    compared = 0
    for path in sorted(EXAMPLES.glob("*.json")):
        resource = standard_json.loads(path.read_text())
        type_ = resource.get("resourceType")
        for parameter in definitions().search_parameters.get(type_, {}).values():
            expression = own_alternatives(parameter.expression, type_)
            if not expression or "resolve()" in expression or parameter.type == "composite":
                continue
            if (type_, parameter.code) in OF_A_SUBTYPE:
                continue
            expression = for_the_oracle(expression, type_)
            expected = fhirpathpy.evaluate(resource, expression, {}, models["r4"])
            assert canonical(found(parameter.expression, resource)) == canonical(
                [plain(value) for value in expected]
            ), (path.name, parameter.code, expression)
            compared += 1
    assert compared > 2000


def own_alternatives(expression: str, type_: str) -> str:
    """The alternatives of an expression for one type; the oracle does not type its root."""
    parts = [part.strip() for part in expression.split("|")]
    return " | ".join(
        part
        for part in parts
        if part.lstrip("(").split(".")[0].split(" ")[0] in (type_, "Resource", "DomainResource")
    )


def for_the_oracle(expression: str, type_: str) -> str:
    """The oracle takes `as` for one item only, and abstract types for no item at all."""
    expression = re.sub(r"\b(Domain)?Resource\.", f"{type_}.", expression)
    expression = re.sub(r"\(([\w.]+) as (\w+)\)", r"\1.ofType(\2)", expression)
    expression = re.sub(r"([\w.]+) as (\w+)", r"\1.ofType(\2)", expression)
    return re.sub(r"\.as\(", ".ofType(", expression).replace("DateTime)", "dateTime)")


def plain(value: Any) -> Any:
    """fhirpathpy gives quantities and dates as objects of its own."""
    return getattr(value, "asStr", None) or (
        value.to_json() if hasattr(value, "to_json") else value
    )
