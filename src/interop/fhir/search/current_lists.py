"""Functional lists: what is current of a patient, `_list=$current-...` (R4 lifecycle.html#current).

Each is a search of the type that is asked, so it is never older than the record itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from interop.errors import UnsupportedParameter

Criteria = tuple[tuple[str, str], ...]

_NOT_TAKEN_BACK: Final = ("verification-status:not", "refuted,entered-in-error")
_ALLERGIES: Final[Criteria] = (("clinical-status", "active"), _NOT_TAKEN_BACK)
LISTS: Final[Mapping[str, Mapping[str, Criteria]]] = {
    "$current-problems": {
        "Condition": (("clinical-status", "active,recurrence,relapse"), _NOT_TAKEN_BACK)
    },
    "$current-medications": {
        "MedicationRequest": (("status", "active"),),
        "MedicationStatement": (("status", "active"),),
    },
    "$current-allergies": {"AllergyIntolerance": _ALLERGIES},
    "$current-drug-allergies": {
        "AllergyIntolerance": (*_ALLERGIES, ("category", "medication")),
    },
}


def criteria(resource_type: str, name: str) -> Criteria:
    """What a resource of the type must be like to be in the list. Raises UnsupportedParameter."""
    found = LISTS.get(name)
    if found is None:
        raise UnsupportedParameter(
            f"_list={name[:64]}: accepted: the id of a List, or {', '.join(LISTS)}"
        )
    if resource_type not in found:
        raise UnsupportedParameter(
            f"_list={name}: a list of {' and '.join(found)}, not of {resource_type}"
        )
    return found[resource_type]
