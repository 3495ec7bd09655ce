"""What clinicians have made of a finding of the AI: its ai_review_events, oldest first.

An edit is in its event (`new_value`, columns of ai_predictions by name) and not in the prediction,
which stays as the model made it. An edit that cannot be read is no judgment of what is shown: the
finding stays preliminary until somebody says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any, Final, LiteralString
from uuid import UUID

from storage.dental import TEETH

# An aggregate for the prediction `p` of the statement around it.
EVENTS: Final[LiteralString] = """(
    SELECT jsonb_agg(jsonb_build_object('action', e.review_action, 'reviewer_id', e.reviewer_id,
        'new_value', e.new_value) ORDER BY e.created_at, e.id DESC)
    FROM ai_review_events AS e WHERE e.tenant_id = p.tenant_id AND e.prediction_id = p.id)"""

_FDI: Final = frozenset(int(tooth.fdi) for tooth in TEETH)
_SURFACES: Final = frozenset("MODBLIFVP")


@dataclass(frozen=True, slots=True)
class Review:
    """`status` is OPEN, ACCEPTED or REJECTED; `edited` are the columns that were corrected."""

    status: str = "OPEN"
    reviewer_id: UUID | None = None
    edited: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_judged(self) -> bool:
        return self.status != "OPEN"

    @property
    def is_corrected(self) -> bool:
        """Whether what the model was certain of is no longer what the finding says."""
        return bool(self.edited)

    def applied_to(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """The prediction as it is after the review. The model's confidence was in its own words."""
        if not self.is_corrected:
            return dict(prediction)
        return {**prediction, **self.edited, "confidence": None}


def judge(events: Iterable[Mapping[str, Any]] | None) -> Review:
    """The state in which the events leave a finding: the last one decides, edits add up."""
    edited: dict[str, Any] = {}
    is_readable = True
    review = Review()
    for event in events or ():
        action = event["action"]
        if action == "EDITED":
            change = _edit(event["new_value"])
            is_readable = change is not None
            edited |= change or {}
        status = "REJECTED" if action == "REJECTED" else "ACCEPTED" if is_readable else "OPEN"
        named = event["reviewer_id"]
        reviewer = UUID(named) if named and status != "OPEN" else None
        review = Review(status, reviewer, dict(edited))
    # Half an edit would be neither the model's finding nor the clinician's.
    return Review() if review.status == "OPEN" else review


def _edit(new_value: Any) -> dict[str, Any] | None:
    """The columns of an edit; None where one of them, or a value, is not for a finding to show."""
    if not isinstance(new_value, dict) or not new_value:
        return None
    if any(not _COLUMNS.get(name, _never)(value) for name, value in new_value.items()):
        return None
    return {
        name: Decimal(str(value)) if name == "value" and value is not None else value
        for name, value in new_value.items()
    }


def _never(value: Any) -> bool:
    return False


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(value.strip()))


def _is_code(value: Any) -> bool:
    """scheme|code; a finding is never without one."""
    scheme, bar, code = value.partition("|") if isinstance(value, str) else ("", "", "")
    return bool(scheme and bar and code)


def _is_tooth(value: Any) -> bool:
    return value is None or (type(value) is int and value in _FDI)


def _is_surface(value: Any) -> bool:
    return value is None or (
        isinstance(value, str) and 0 < len(value) <= 6 and {*value} <= _SURFACES
    )


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and isfinite(value))


def _is_region(value: Any) -> bool:
    points = value.get("coordinates") if isinstance(value, dict) else None
    return isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(_is_coordinate, point))
        for point in points
    )


def _is_coordinate(value: Any) -> bool:
    return value is not None and _is_number(value)


_COLUMNS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "code": _is_code,
    "tooth_number": _is_tooth,
    "surface": _is_surface,
    "value": _is_number,
    "unit": _is_text,
    "severity": _is_text,
    "geometry": _is_region,
}
