"""The policy against a plain model: everything narrows, nothing widens, nothing means no."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.access import Caller, Filter, Scope, Scopes, Way, decide
from interop.access.compartments import is_in_compartment, patient_parameters
from interop.access.grants import Grants, Units
from interop.access.permissions import BREAK_GLASS, GROUPS, MEMBER, NOBODY, group_of
from interop.access.policy import authorize
from interop.access.scopes import LETTERS, LEVELS
from interop.errors import Forbidden
from interop.fhir.definitions import definitions
from storage.memberships import HeldPermission
from storage.schema.reference_rows import PERMISSIONS, ROLES
from storage.tenancy import Tenant

TENANT = Tenant(uuid4(), "demo", "Demo", None, "ACTIVE", "ROW_LEVEL")
USER, ANNA, BRUNO, NORTH, SOUTH, TEAM = (UUID(int=n) for n in range(1, 7))
# One type of each kind: in the compartment, an image, shared, and neither.
TYPES = ["Observation", "ImagingStudy", "Practitioner", "Device", "Claim", "AuditEvent"]


def caller(scopes: Scopes, **more: object) -> Caller:
    return Caller(TENANT, "SYSTEM", None, "test", scopes, "request", **more)  # type: ignore[arg-type]


letters = st.sets(st.sampled_from(LETTERS), min_size=1).map(
    lambda s: "".join(sorted(s, key=LETTERS.index))
)
constraints = st.sampled_from([(), (("code", "x"),), (("code", "x"), ("date", "2026"))])
scopes = st.builds(
    Scope, st.sampled_from(LEVELS), st.sampled_from([*TYPES, "*"]), letters, constraints
)
held = st.builds(
    HeldPermission,
    st.sampled_from([*PERMISSIONS, "unknown"]),
    st.sampled_from(["ALL_LOCATIONS", "LOCATION", "TEAM", "SELF", "GALAXY"]),
    st.sampled_from([None, TEAM]),
    st.sampled_from([(), (NORTH,), (NORTH, SOUTH)]),
)
grants = st.lists(held, max_size=4).map(lambda some: Grants.of(USER, None, some))
callers = st.builds(
    lambda some, user, granted, patient, consent: caller(
        Scopes(tuple(some)),
        user_id=USER if user else None,
        grants=granted if user else None,
        patient_id=patient,
        required_consent=consent,
    ),
    st.lists(scopes, max_size=3),
    st.booleans(),
    grants,
    st.sampled_from([None, ANNA, BRUNO]),
    st.sampled_from([None, "DATA_SHARING"]),
)


def expected(who: Caller, letter: str, type_: str) -> set[Way]:
    """What a caller may do, said as plainly as can be: the ways before any is left out."""
    group = group_of(type_)
    assert group is not None
    found: set[Way] = set()
    for scope in who.scopes.granted:
        if letter not in scope.letters or scope.resource_type not in ("*", type_):
            continue
        if {
            "system": who.user_id is not None,
            "user": who.user_id is None,
            "patient": who.patient_id is None,
        }[scope.level]:
            continue
        patient = who.patient_id if scope.level == "patient" else None
        units = None
        if who.user_id is not None:
            permission = group.read if letter in "rs" else group.write
            assert who.grants is not None
            if permission == MEMBER:
                if not who.grants:
                    continue
            elif permission not in who.grants.everywhere:
                units = who.grants.within.get(permission)
                if units is None:
                    continue
        consent = who.required_consent
        if group.is_shared:
            patient, units, consent = None, None, None
        elif not is_in_compartment(type_) and (patient or units or consent):
            continue
        found.add(Way(scope.constraints, patient, units, consent))
    return found


@given(callers, st.sampled_from(LETTERS), st.sampled_from(TYPES))
def test_a_decision_is_what_the_model_says(who: Caller, letter: str, type_: str) -> None:
    ways = set(decide(who, letter, type_).filter.ways)  # type: ignore[arg-type]
    model = expected(who, letter, type_)

    assert ways <= model
    # What was left out another way covers.
    assert all(any(way.covers(left_out) for way in ways) for left_out in model)


@given(callers, scopes, st.sampled_from(LETTERS), st.sampled_from(TYPES))
def test_fewer_scopes_never_open_more(who: Caller, more: Scope, letter: str, type_: str) -> None:
    wider = caller(
        Scopes((*who.scopes.granted, more)),
        user_id=who.user_id,
        grants=who.grants,
        patient_id=who.patient_id,
        required_consent=who.required_consent,
    )

    narrow = decide(who, letter, type_).filter.ways  # type: ignore[arg-type]
    wide = decide(wider, letter, type_).filter.ways  # type: ignore[arg-type]

    assert all(any(way.covers(one) for way in wide) for one in narrow)


@given(callers, st.sampled_from(LETTERS), st.sampled_from(TYPES))
def test_authorize_lets_only_the_whole_tenant_through(who: Caller, letter: str, type_: str) -> None:
    if decide(who, letter, type_).filter.is_whole_tenant:  # type: ignore[arg-type]
        authorize(who, type_, letter)  # type: ignore[arg-type]
    else:
        with pytest.raises(Forbidden):
            authorize(who, type_, letter)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "nothing",
    [
        lambda: caller(Scopes(())),
        lambda: caller(Scopes.parse("openid launch/patient")),
        lambda: caller(Scopes.parse("user/*.cruds"), user_id=USER),
        lambda: caller(Scopes.parse("user/*.cruds"), user_id=USER, grants=Grants()),
        lambda: caller(Scopes.parse("patient/*.cruds")),
        lambda: caller(Scopes.parse("user/*.cruds")),
        lambda: caller(Scopes.parse("system/*.cruds"), user_id=USER, grants=Grants()),
    ],
)
def test_d9_nothing_means_no(nothing: Callable[[], Caller]) -> None:
    for type_ in definitions().resource_types:
        for letter in LETTERS:
            assert not decide(nothing(), letter, type_).is_allowed  # type: ignore[arg-type]


def test_what_is_no_resource_type_is_refused_to_everybody() -> None:
    for name in ("Nonsense", "patient", "*", ""):
        assert not decide(caller(Scopes.parse("system/*.cruds")), "r", name).is_allowed


def test_every_resource_type_of_r4_is_in_one_group() -> None:
    named = [type_ for group in GROUPS for type_ in group.types]

    assert sorted(named) == sorted(definitions().resource_types)
    for group in GROUPS:
        for needed in (group.read, group.write):
            assert needed in {MEMBER, NOBODY, *PERMISSIONS}
        for type_ in group.types:
            assert not (group.is_shared and is_in_compartment(type_)), type_
    assert BREAK_GLASS in PERMISSIONS


def test_d7_the_compartment_is_the_official_one() -> None:
    assert patient_parameters("Observation") == ("subject", "performer")
    assert "focus" not in patient_parameters("Observation")
    assert patient_parameters("Practitioner") == ()
    for type_ in definitions().resource_types:
        known = definitions().search_parameters[type_]
        assert all(known[code].type == "reference" for code in patient_parameters(type_))


def test_roles_name_permissions_that_there_are() -> None:
    for _, permissions in ROLES.values():
        assert set(permissions) <= set(PERMISSIONS)


def test_an_emergency_opens_one_record_for_reading() -> None:
    granted = Grants.of(USER, None, [HeldPermission("view_patient", "LOCATION", None, (NORTH,))])
    urgent = caller(
        Scopes.parse("user/*.cruds"),
        user_id=USER,
        grants=granted,
        required_consent="DATA_SHARING",
        emergency=uuid4(),
        emergency_patient_id=ANNA,
    )
    north = Units(location_ids=frozenset((NORTH,)))

    assert set(decide(urgent, "r", "Observation").filter.ways) == {
        Way(units=north, consent="DATA_SHARING"),
        Way(patient_id=ANNA),
    }
    assert not decide(urgent, "u", "Observation").is_allowed
    assert not decide(urgent, "r", "Claim").is_allowed
    bruno = caller(
        Scopes.parse("patient/*.rs"),
        user_id=USER,
        grants=granted,
        patient_id=BRUNO,
        emergency=uuid4(),
        emergency_patient_id=ANNA,
    )
    assert Way(patient_id=ANNA) not in decide(bruno, "r", "Observation").filter.ways


def test_ways_that_others_cover_are_left_out() -> None:
    whole = Filter((Way(), Way(patient_id=ANNA)))

    assert whole.is_whole_tenant
    assert whole.or_(Filter((Way(patient_id=BRUNO),))).ways == (Way(),)
    assert Filter((Way(consent="RESEARCH"),)).without_consent().is_whole_tenant
    assert not Filter().is_whole_tenant
