"""The parameters of rendered resources as text (PS3.18 8.3.5)."""

from __future__ import annotations

import pytest

from interop.dicomweb.media_types import accepted
from interop.dicomweb.rendering import (
    Rendering,
    Viewport,
    Window,
    choose_image,
    parse_rendering,
    require_renderable,
)
from interop.errors import BadRequest, NotAcceptable


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("quality", "1", Rendering(quality=1)),
        ("viewport", "10, 20", Rendering(viewport=Viewport(10, 20))),
        ("viewport", "10,20,1,2,3.5,-4", Rendering(viewport=Viewport(10, 20, (1, 2, 3.5, -4)))),
        ("window", "40,400", Rendering(window=Window(40, 400, "LINEAR"))),
        ("window", "-1e2,0.5,sigmoid", Rendering(window=Window(-100, 0.5, "SIGMOID"))),
        ("window", "0,1,LINEAR-EXACT", Rendering(window=Window(0, 1, "LINEAR_EXACT"))),
        ("annotation", "technique,patient", Rendering(annotation=("patient", "technique"))),
        ("annotation", "patient", Rendering(annotation=("patient",))),
        ("iccprofile", "srgb", Rendering(icc_profile="srgb")),
        ("charset", "utf-8", Rendering()),
    ],
)
def test_a_parameter_is_read(name: str, value: str, expected: Rendering) -> None:
    assert parse_rendering([(name, value)]) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quality", "0"), ("quality", "1" * 5000), ("quality", "\u0665"),
        ("viewport", "1,1,0,0,0,1"), ("viewport", "1,1,0,0,1,1,1"), ("viewport", "9" * 5000 + ",1"),
        ("viewport", "1,1,inf,0,1,1"), ("viewport", "1,1,0,0,nan,1"), ("window", "1,0.5,linear"),
        ("window", "1,-1,sigmoid"), ("annotation", ""), ("annotation", "patient,"),
        ("annotation", "<script>"), ("iccprofile", "rommrgb"), ("presentation", "1"),
    ],
)  # fmt: skip
def test_a_parameter_that_is_not_understood_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_rendering([(name, value)])
    assert len(refused.value.diagnostics) < 300


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "image/jpeg"), ("*/*", "image/jpeg"), ("image/*", "image/jpeg"),
        ("image/gif, image/jpeg;q=0.5", "image/gif"), ("image/webp, image/png", "image/png"),
        ('multipart/related; type="image/png"', "image/png"),
    ],
)  # fmt: skip
def test_the_best_image_type_is_chosen(accept: str | None, expected: str) -> None:
    assert choose_image(accepted(accept, None)) == expected


def test_what_is_no_image_is_refused_early_or_late() -> None:
    require_renderable(accepted("text/html", None))
    with pytest.raises(NotAcceptable, match="image/jpeg, image/png, image/gif"):
        choose_image(accepted("text/html", None))
    with pytest.raises(NotAcceptable, match="application/pdf"):
        require_renderable(accepted("video/mp4", None))
