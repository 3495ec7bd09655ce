"""Search rows of a resource: their numbering, their number, and what they cost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from interop.errors import TooCostly
from interop.fhir.search.extraction import extract


def observation(components: int) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "many"},
        "component": [
            {
                "code": {"coding": [{"system": "http://loinc.org", "code": f"c{number % 7}"}]},
                "valueQuantity": {"value": number % 5, "unit": "mm"},
            }
            for number in range(components)
        ],
    }


def test_composites_cost_what_their_number_says() -> None:
    """The rows kept were read again for each element: 2,000 components took 20 s."""
    resource = observation(4000)
    extract(observation(1))  # compiles
    start = time.process_time()

    rows = extract(resource)

    assert time.process_time() - start < 4
    clusters = {
        row[2] for row in rows.tables["token"] if row[0] == "component-code-value-quantity.1"
    }
    assert clusters == set(range(4000))


def test_the_ordinals_of_a_parameter_have_no_gap_and_the_same_row_is_kept_once() -> None:
    rows = extract(observation(50))

    for table in rows.tables.values():
        by_parameter: dict[str, list[int]] = {}
        for parameter, ordinal, *_ in table:
            by_parameter.setdefault(parameter, []).append(ordinal)
        for ordinals in by_parameter.values():
            assert ordinals == list(range(len(ordinals)))
    plain = [row[3:] for row in rows.tables["token"] if row[0] == "component-code"]
    assert plain == [["http://loinc.org", f"c{number}"] for number in range(7)]


def test_more_rows_than_a_resource_may_have_are_refused() -> None:
    with pytest.raises(TooCostly, match="at most 100 "):
        extract(observation(60), limit=100)

    assert extract(observation(60))
