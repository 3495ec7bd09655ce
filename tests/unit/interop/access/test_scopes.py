"""SMART scopes: the letters mean what SMART 2.2 says, and asking narrows, never widens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.access.scopes import LETTERS, InvalidScope, Scope, Scopes

TYPES = ["Patient", "Observation", "ImagingStudy", "*"]
scopes = st.builds(
    Scope,
    st.just("system"),
    st.sampled_from(TYPES),
    st.sets(st.sampled_from(LETTERS), min_size=1).map(
        lambda s: "".join(sorted(s, key=LETTERS.index))
    ),
)
scope_lists = st.lists(scopes, max_size=4).map(lambda found: Scopes(tuple(found)))


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("system/Patient.rs", "rs"),
        ("system/*.cruds", "cruds"),
        ("system/Patient.read", "rs"),
        ("system/Patient.write", "cud"),
        ("system/Patient.*", "cruds"),
    ],
)
def test_both_versions_of_the_syntax_are_read(text: str, letters: str) -> None:
    assert Scope.parse(text).letters == letters


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
        "system/Patient.rs?category=x",
        "system/**.rs",
        "patient/*.rs",
        "user/Patient.rs",
    ],
)
def test_a_malformed_scope_is_refused_with_what_would_be_accepted(text: str) -> None:
    with pytest.raises(InvalidScope, match=r"system/|order"):
        Scope.parse(text)


def test_no_scopes_permit_nothing() -> None:
    assert not Scopes.parse("").permits("Patient", "r")


@given(scope_lists, st.sampled_from(TYPES[:3]), st.sampled_from(LETTERS))
def test_permission_is_exactly_what_some_scope_states(
    granted: Scopes, resource_type: str, letter: str
) -> None:
    expected = any(
        letter in s.letters and s.resource_type in ("*", resource_type) for s in granted.granted
    )

    assert granted.permits(resource_type, letter) == expected


@given(scope_lists, scope_lists, st.sampled_from(TYPES[:3]), st.sampled_from(LETTERS))
def test_narrowing_never_widens(
    own: Scopes, wanted: Scopes, resource_type: str, letter: str
) -> None:
    narrowed = own.narrowed_to(wanted)

    if narrowed.permits(resource_type, letter):
        assert own.permits(resource_type, letter)
        assert wanted.permits(resource_type, letter)


@given(scope_lists)
def test_the_text_form_reads_back(found: Scopes) -> None:
    assert Scopes.parse(str(found)) == found
