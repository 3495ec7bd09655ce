"""SMART scopes: the letters mean what SMART 2.2 says, and asking narrows, never widens."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.access import Caller, authorize
from interop.access.scopes import CONTEXT_SCOPES, LETTERS, LEVELS, InvalidScope, Scope, Scopes
from interop.errors import Forbidden
from storage.tenancy import Tenant

TYPES = ["Patient", "Observation", "ImagingStudy", "*"]
NAMES = ["category", "code:text", "_tag", "date"]
VALUES = ["a", "http://loinc.org|1-2", "x,y", "ge2026-01-01T00:00:00+01:00", 'q" \\&=%é']
constraints = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.text(min_size=1, max_size=5)),
    max_size=3,
).map(tuple)
letters = st.sets(st.sampled_from(LETTERS), min_size=1).map(
    lambda s: "".join(sorted(s, key=LETTERS.index))
)
scopes = st.builds(
    Scope, st.sampled_from(LEVELS), st.sampled_from(TYPES), letters, st.just(()) | constraints
)
scope_lists = st.builds(
    Scopes,
    st.lists(scopes, max_size=4, unique=True).map(tuple),
    st.lists(st.sampled_from(CONTEXT_SCOPES), max_size=3, unique=True).map(tuple),
)
# A resource, to these tests, is the set of constraints that it meets.
resources = st.frozensets(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=len(NAMES) * len(VALUES)
)


def admits(
    scopes: Scopes,
    level: str,
    resource_type: str,
    letter: str,
    resource: frozenset[tuple[str, str]],
) -> bool:
    """What a list of scopes means, said in one line."""
    return any(
        s.level == level
        and s.resource_type in ("*", resource_type)
        and letter in s.letters
        and set(s.constraints) <= resource
        for s in scopes.granted
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("Patient.rs", "rs"),
        ("*.cruds", "cruds"),
        ("Patient.read", "rs"),
        ("Patient.write", "cud"),
        ("Patient.*", "cruds"),
    ],
)
def test_both_versions_of_the_syntax_are_read(level: str, text: str, letters: str) -> None:
    scope = Scope.parse(f"{level}/{text}")

    assert (scope.level, scope.letters, scope.constraints) == (level, letters, ())


def test_constraints_are_read_and_written_as_the_specification_shows_them() -> None:
    text = (
        "patient/Observation.rs?category="
        "http://terminology.hl7.org/CodeSystem/observation-category|laboratory&date=ge2026"
    )

    scope = Scope.parse(text)

    assert scope.constraints == (
        ("category", "http://terminology.hl7.org/CodeSystem/observation-category|laboratory"),
        ("date", "ge2026"),
    )
    assert str(scope) == text
    assert Scope.parse("user/Patient.rs?name=a%20b&name=c").constraints == (
        ("name", "a b"),
        ("name", "c"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "system/Patient",
        "system/Patient.",
        "Patient.rs",
        "system/Patient.sr",
        "system/Patient.rr",
        "system/Patient.x",
        "admin/*.cruds",
        "system/patient.rs",
        "system/**.rs",
        "launch/encounter",
        "patient/Observation.read?category=x",
        "patient/Observation.rs?",
        "patient/Observation.rs?category",
        "patient/Observation.rs?category=",
        "patient/Observation.rs?=x",
        "patient/Observation.rs?a=1&",
        "patient/Observation.rs?subject.name=x",
        "patient/Observation.rs?code=%ff",
        "patient/Observation.rs?" + "&".join(f"code={n}" for n in range(17)),
    ],
)
def test_a_malformed_scope_is_refused_with_what_would_be_accepted(text: str) -> None:
    with pytest.raises(InvalidScope, match=r"system/|order|only letters|<value>|UTF-8|at most"):
        Scope.parse(text)


def test_scopes_without_a_resource_are_kept_apart_and_permit_nothing() -> None:
    found = Scopes.parse("openid fhirUser launch/patient offline_access patient/*.rs")

    assert found.context == ("openid", "fhirUser", "launch/patient", "offline_access")
    assert [str(scope) for scope in found.granted] == ["patient/*.rs"]
    assert found.has("openid")
    assert not found.has("launch")
    assert not Scopes.parse("openid launch/patient").permits("Patient", "r")


def test_unknown_scopes_are_left_out_only_where_that_is_asked() -> None:
    with pytest.raises(InvalidScope):
        Scopes.parse("email patient/Patient.rs")
    assert str(Scopes.parse("email patient/Patient.rs", ignore_unknown=True)) == (
        "patient/Patient.rs"
    )


def test_no_scopes_permit_nothing() -> None:
    assert not Scopes.parse("").permits("Patient", "r")
    assert not Scopes.parse("")


@pytest.mark.parametrize(
    ("own", "wanted", "both"),
    [
        ("system/*.cruds", "system/Patient.rs", "system/Patient.rs"),
        ("system/Patient.rs", "system/*.cruds", "system/Patient.rs"),
        ("system/Patient.r system/Patient.s", "system/Patient.rs", "system/Patient.rs"),
        ("user/*.cruds", "system/Patient.rs", ""),
        ("user/*.cruds", "patient/Patient.rs", ""),
        ("openid user/*.rs", "openid profile user/*.rs", "openid user/*.rs"),
        (
            "patient/Observation.rs?category=a",
            "patient/Observation.cruds",
            "patient/Observation.rs?category=a",
        ),
        (
            "patient/Observation.rs?category=a",
            "patient/Observation.rs?category=b",
            "patient/Observation.rs?category=a&category=b",
        ),
        (
            "patient/*.rs patient/Observation.rs?category=a",
            "patient/Observation.rs",
            "patient/Observation.rs",
        ),
    ],
)
def test_narrowing_keeps_what_both_admit(own: str, wanted: str, both: str) -> None:
    assert str(Scopes.parse(own).narrowed_to(Scopes.parse(wanted))) == both


@given(scope_lists, st.sampled_from(TYPES[:3]), st.sampled_from(LETTERS))
def test_permission_is_exactly_what_some_scope_states(
    granted: Scopes, resource_type: str, letter: str
) -> None:
    expected = any(
        letter in s.letters and s.resource_type in ("*", resource_type) for s in granted.granted
    )

    assert granted.permits(resource_type, letter) == expected
    assert bool(granted.permitting(resource_type, letter)) == expected


@given(
    scope_lists,
    scope_lists,
    st.sampled_from(LEVELS),
    st.sampled_from(TYPES[:3]),
    st.sampled_from(LETTERS),
    resources,
)
def test_narrowing_is_the_intersection_for_every_resource(
    own: Scopes,
    wanted: Scopes,
    level: str,
    resource_type: str,
    letter: str,
    resource: frozenset[tuple[str, str]],
) -> None:
    asked = (level, resource_type, letter, resource)

    narrowed = own.narrowed_to(wanted)

    assert admits(narrowed, *asked) == (admits(own, *asked) and admits(wanted, *asked))
    assert set(narrowed.context) == set(own.context) & set(wanted.context)


@given(scope_lists)
def test_the_text_form_reads_back(found: Scopes) -> None:
    assert Scopes.parse(str(found)) == found
    assert str(found).isascii()


@pytest.mark.parametrize("scope", ["patient/*.cruds", "user/*.cruds", "system/Patient.rs?name=x"])
def test_only_unconstrained_system_scopes_mean_the_whole_tenant(scope: str) -> None:
    tenant = Tenant(uuid4(), "demo", "Demo", None, "ACTIVE", "ROW_LEVEL")
    caller = Caller(tenant, "SYSTEM", None, "test", Scopes.parse(scope), "request")

    with pytest.raises(Forbidden):
        authorize(caller, "Patient", "r")
