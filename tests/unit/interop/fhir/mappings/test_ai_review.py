"""What reviews make of a finding: the last one decides, edits add up, unreadable ones do not."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from interop.fhir.mappings.ai_review import Review, judge

REVIEWER = "6c9e1f0a-0d0c-4b7e-9a43-0a4f4c7f2a10"


def event(action: str, new_value: object = None) -> dict[str, Any]:
    return {"action": action, "reviewer_id": REVIEWER, "new_value": new_value}


@pytest.mark.parametrize(
    ("events", "status", "edited"),
    [
        (None, "OPEN", {}),
        ([event("CONFIRMED")], "ACCEPTED", {}),
        ([event("REJECTED")], "REJECTED", {}),
        ([event("REJECTED"), event("CONFIRMED")], "ACCEPTED", {}),
        ([event("EDITED", {"severity": "deep"})], "ACCEPTED", {"severity": "deep"}),
        (
            [event("EDITED", {"surface": "O"}), event("EDITED", {"value": 2.5})],
            "ACCEPTED",
            {"surface": "O", "value": Decimal("2.5")},
        ),
        ([event("EDITED", {"unit": None}), event("CONFIRMED")], "ACCEPTED", {"unit": None}),
        ([event("EDITED"), event("REJECTED")], "REJECTED", {}),
        ([event("EDITED"), event("EDITED", {"unit": "mm"})], "ACCEPTED", {"unit": "mm"}),
    ],
)
def test_the_last_review_decides(
    events: list[dict[str, Any]] | None, status: str, edited: dict[str, Any]
) -> None:
    review = judge(events)

    assert (review.status, review.edited) == (status, edited)
    assert review.reviewer_id == (UUID(REVIEWER) if review.is_judged else None)


@pytest.mark.parametrize(
    "new_value",
    [
        None,
        {},
        [],
        "x",
        {"code": "caries"},
        {"code": None},
        {"tooth_number": 99},
        {"tooth_number": "36"},
        {"tooth_number": True},
        {"value": "deep"},
        {"value": float("nan")},
        {"surface": "Q"},
        {"severity": 3},
        {"tooth_number": 37, "grade": "III"},
        {"geometry": {"coordinates": [[1, None]]}},
    ],
)
@pytest.mark.parametrize("later", [[], [event("CONFIRMED")]], ids=["", "confirmed"])
def test_an_edit_that_cannot_be_shown_is_no_judgment(
    new_value: object, later: list[dict[str, Any]]
) -> None:
    events = [event("EDITED", {"unit": "mm"}), event("EDITED", new_value), *later]

    assert judge(events) == Review()


def test_the_confidence_was_in_what_the_model_said() -> None:
    prediction = {"code": "SCT|80967001", "confidence": 0.9}

    assert judge([event("CONFIRMED")]).applied_to(prediction) == prediction
    assert judge([event("EDITED", {"code": "SCT|1"})]).applied_to(prediction) == {
        "code": "SCT|1",
        "confidence": None,
    }
