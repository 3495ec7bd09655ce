"""The one decision: may this caller do this to resources of this type, and to which of them.

What a token's scopes, a user's permissions with their units, the patient in context and the
patients' consents allow is put together here and nowhere else; FHIR, DICOMweb and every other door
ask `decide` and apply its filter inside their queries. Several scopes add up; each of them is
narrowed by everything else. What is not understood is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from interop.access.compartments import is_in_compartment
from interop.access.grants import Grants, Units
from interop.access.permissions import MEMBER, READ_LETTERS, Group, group_of
from interop.access.principals import PATIENT, Caller
from interop.access.scopes import Letter, Scope
from interop.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Way:
    """One way in: a resource is within it when all that is stated holds; () and None state nothing.

    `constraints` are search parameters with their values. The others speak of the patient to whose
    compartment the resource belongs: `patient_id` (patients.id) names that patient, `units` cover
    the patient, and every patient of the resource has given `consent`.
    """

    constraints: tuple[tuple[str, str], ...] = ()
    patient_id: UUID | None = None
    units: Units | None = None
    consent: str | None = None

    @property
    def is_whole_tenant(self) -> bool:
        return self == _WHOLE

    def covers(self, other: Way) -> bool:
        """Whether all that is within `other` is within this one, as far as that is plain."""
        return (
            set(self.constraints) <= set(other.constraints)
            and self.patient_id in (None, other.patient_id)
            and self.units in (None, other.units)
            and self.consent in (None, other.consent)
        )


_WHOLE = Way()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which resources of one type: those within any of the ways. No ways: none."""

    ways: tuple[Way, ...] = ()

    @property
    def is_whole_tenant(self) -> bool:
        return any(way is _WHOLE or way.is_whole_tenant for way in self.ways)

    @property
    def asks_consent(self) -> bool:
        return any(way.consent is not None for way in self.ways)

    def without_consent(self) -> Filter:
        """The same, had every patient consented: what tells why something was refused."""
        return Filter(_simplified(replace(way, consent=None) for way in self.ways))

    def or_(self, other: Filter) -> Filter:
        return Filter(_simplified((*self.ways, *other.ways)))


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. `reason` says why not: of a scope or role the caller may know it."""

    filter: Filter
    reason: str = ""

    @property
    def is_allowed(self) -> bool:
        return bool(self.filter.ways)

    def require(self) -> Filter:
        """The filter to apply. Raises Forbidden where scopes or role alone say no."""
        if not self.filter.ways:
            raise Forbidden(self.reason)
        return self.filter


_EVERYTHING = Decision(Filter((_WHOLE,)))


def decide(caller: Caller, letter: Letter, resource_type: str) -> Decision:
    """May `caller` do `letter` (cruds) to resources of a type, and to which."""
    group = group_of(resource_type)
    if group is None:
        return Decision(Filter(), f"{resource_type[:64]!r} is no resource type of FHIR R4")
    scopes = caller.scopes.permitting(resource_type, letter)
    if caller.user_id is None and caller.required_consent is None:
        # The way of nearly every request of a system, said without making one.
        for scope in scopes:
            if scope.level == "system" and not scope.constraints:
                return _EVERYTHING
    if not scopes:
        level = "user" if caller.user_id else "system"
        return Decision(
            Filter(),
            f"the token's scopes do not permit '{letter}' on {resource_type}; "
            f"a scope such as {level}/{resource_type}.{letter} is needed",
        )
    ways = [way for scope in scopes for way in _ways(caller, scope, group, letter, resource_type)]
    if ways:
        return Decision(Filter(_simplified(ways)))
    return Decision(Filter(), _why_not(caller, group, letter, resource_type))


def authorize(caller: Caller, resource_type: str, letter: Letter) -> None:
    """Raise Forbidden unless `caller` may do `letter` to every resource of the type.

    For doors that cannot filter: less than the whole tenant is refused there.
    """
    if not decide(caller, letter, resource_type).require().is_whole_tenant:
        raise Forbidden(
            f"'{letter}' on {resource_type} needs access to the whole organization here"
        )


def _ways(
    caller: Caller, scope: Scope, group: Group, letter: Letter, resource_type: str
) -> list[Way]:
    """What one scope opens, narrowed by the rights behind it."""
    way = _of_level(caller, scope)
    if way is None:
        return []
    if caller.user_id is None:
        return _of_group(replace(way, consent=caller.required_consent), group, resource_type)
    granted = _granted(caller.grants, group.permission(letter), way)
    if granted is None:
        return []
    consent = None if _is_own_record(caller, granted) else caller.required_consent
    found = _of_group(replace(granted, consent=consent), group, resource_type)
    urgent = caller.emergency_patient_id if letter in READ_LETTERS else None
    if urgent is not None and way.patient_id in (None, urgent):
        # The user's permissions still say what kinds of data may be read, though not of whom.
        found += _of_group(replace(way, patient_id=urgent), group, resource_type)
    return found


def _of_level(caller: Caller, scope: Scope) -> Way | None:
    """What the scope's level means for this caller; None where it means nothing."""
    match scope.level:
        case "system" if caller.user_id is None:
            return Way(scope.constraints)
        case "user" if caller.user_id is not None:
            return Way(scope.constraints)
        case "patient" if caller.patient_id is not None:
            return Way(scope.constraints, patient_id=caller.patient_id)
    return None


def _granted(grants: Grants | None, permission: str, way: Way) -> Way | None:
    """The way as far as the user's permission reaches."""
    if not grants or not grants.holds(permission):
        return None
    if permission == MEMBER or grants.holds_everywhere(permission):
        return way
    return replace(way, units=grants.units(permission))


def _of_group(way: Way, group: Group, resource_type: str) -> list[Way]:
    """The way as it applies to a type: what speaks of a patient needs a type that names one."""
    if group.is_shared:
        return [Way(way.constraints)]
    if is_in_compartment(resource_type):
        return [way]
    speaks_of_patients = way.patient_id or way.consent or way.units is not None
    return [] if speaks_of_patients else [way]


def _is_own_record(caller: Caller, way: Way) -> bool:
    """A patient needs nobody's consent to the own record."""
    own = caller.grants.own_patient_id if caller.grants else None
    if own is None or caller.user_type != PATIENT:
        return False
    return way.patient_id == own or way.units == Units(patient_id=own)


def _why_not(caller: Caller, group: Group, letter: Letter, resource_type: str) -> str:
    if caller.user_id is not None and not (
        caller.grants and caller.grants.holds(group.permission(letter))
    ):
        return f"the user's roles do not permit '{letter}' on {resource_type}"
    return f"'{letter}' on {resource_type} is not open to this token: no patient is in context"


def _simplified(ways: Iterable[Way]) -> tuple[Way, ...]:
    """The same in fewer: none that another covers."""
    distinct = list(dict.fromkeys(ways))
    return tuple(
        way for way in distinct if not any(o is not way and o.covers(way) for o in distinct)
    )
