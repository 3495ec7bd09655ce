"""Every path of PS3.18 Table 10.1-1 finds its handler; every other path finds an answer."""

from __future__ import annotations

import re

import pytest
from starlette.requests import Request

from interop.dicomweb import bulkdata
from interop.dicomweb.router import GET, METHODS, POST, Resources, routes

RESOURCES = Resources()


def named(template: str) -> tuple[str, dict[str, str]]:
    """A path of the template and the values in it."""
    values = {name: f"1.{n}" for n, name in enumerate(re.findall(r"{(\w+)", template))}
    path = template
    for name, value in values.items():
        path = re.sub(rf"{{{name}[^}}]*}}", value, path)
    return path.lstrip("/"), values


@pytest.mark.parametrize("template", sorted(GET | POST))
def test_a_path_finds_its_values_and_every_method_an_answer(template: str) -> None:
    path, values = named(template)
    nothing, _ = RESOURCES.find("GET", "nothing")

    for method in METHODS:
        handler, found = RESOURCES.find(method, path)
        assert handler is not nothing
        assert found == values


def test_the_path_of_an_element_is_one_value_with_its_slashes() -> None:
    start = "studies/1/series/2/instances/3/bulkdata/"

    for path in ("7FE00010", "00081140/1/00081150", ""):
        handler, values = RESOURCES.find("GET", start + path)
        assert values == {"study": "1", "series": "2", "instance": "3", "path": path}
        assert handler is RESOURCES.find("GET", named(next(
            template for template, known in GET.items() if known is bulkdata.retrieve_bulk_data
        ))[0])[0]  # fmt: skip


@pytest.mark.parametrize(
    "path",
    ["", "/", "studies/", "studies//metadata", "studies/1/", "studies/1/series//instances/3",
     "studies/1/unknown", "STUDIES", "studies/1/series/2/instances/3/bulkdata",
     "studies/1/series/2/instances/3/frames/", "instances/1", "series/1/metadata"],
)  # fmt: skip
def test_every_other_path_is_nothing(path: str) -> None:
    nothing, _ = RESOURCES.find("GET", "nothing")

    assert RESOURCES.find("GET", path) == (nothing, {})


def test_the_one_route_takes_line_breaks_too() -> None:
    (route,) = (route for route in routes() if "dicomweb_path" in route.path)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/t/a/dicom-web/studies/1\n2\n",
        "headers": [],
    }

    _, found = route.matches(scope)

    assert found["path_params"] == {"tenant": "a", "rest": "studies/1\n2\n"}
    assert Request(scope).url.path.startswith("/t/a/")
