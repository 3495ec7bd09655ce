"""What a user may do in a tenant: permissions, each with the units in which it holds.

They come from the roles that the user holds now, and only while the membership and the user are
active; no roles means nothing (security.md D9). What a permission opens is in `permissions`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from interop.access.permissions import MEMBER
from storage.memberships import HeldPermission


@dataclass(frozen=True, slots=True)
class Units:
    """Whose records a permission covers: the patients of any of these. Empty covers none.

    Which columns make a patient one of a location, of a team or of a user is said by
    `storage.patient_access`, where it is asked.
    """

    location_ids: frozenset[UUID] = frozenset()
    team_ids: frozenset[UUID] = frozenset()
    user_id: UUID | None = None  # SELF: those whom this user treats
    patient_id: UUID | None = None  # SELF of a user who is a patient: the own record

    def __bool__(self) -> bool:
        return bool(self.location_ids or self.team_ids or self.user_id or self.patient_id)

    def with_(self, other: Units) -> Units:
        """What either covers."""
        return Units(
            self.location_ids | other.location_ids,
            self.team_ids | other.team_ids,
            self.user_id or other.user_id,
            self.patient_id or other.patient_id,
        )


@dataclass(frozen=True, slots=True)
class Grants:
    """All permissions of a user. `everywhere` hold for the whole tenant, `within` for units."""

    everywhere: frozenset[str] = frozenset()
    within: dict[str, Units] = field(default_factory=dict)
    own_patient_id: UUID | None = None  # the patient that the user is

    @classmethod
    def of(cls, user_id: UUID, patient_id: UUID | None, held: Iterable[HeldPermission]) -> Grants:
        """Put together what a user holds; a scope that is not understood grants nothing.

        `patient_id` is the patient that the user is, for users who are patients.
        """
        everywhere: set[str] = set()
        within: dict[str, Units] = {}
        for one in held:
            match one.resource_scope:
                case "ALL_LOCATIONS":
                    everywhere.add(one.permission)
                    continue
                case "LOCATION":
                    units = Units(location_ids=frozenset(one.location_ids))
                case "TEAM" if one.team_id is not None:
                    units = Units(team_ids=frozenset((one.team_id,)))
                case "SELF" if patient_id is not None:
                    units = Units(patient_id=patient_id)
                case "SELF":
                    units = Units(user_id=user_id)
                case _:
                    continue
            if units:
                within[one.permission] = within.get(one.permission, Units()).with_(units)
        return cls(frozenset(everywhere), within, patient_id)

    def __bool__(self) -> bool:
        return bool(self.everywhere or self.within)

    def holds(self, permission: str) -> bool:
        """Whether the permission is held in any unit."""
        if permission == MEMBER:
            return bool(self)
        return permission in self.everywhere or permission in self.within

    def holds_everywhere(self, permission: str) -> bool:
        """Whether the permission is held for the whole tenant."""
        return permission in self.everywhere

    def units(self, permission: str) -> Units:
        """The units of a permission that is not held everywhere."""
        return self.within.get(permission, Units())
