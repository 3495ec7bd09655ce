"""How a C-FIND is answered is worked out once for all requests that ask for the same."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest

from interop.dimse import find_statements
from interop.dimse.find_keys import STUDY_ROOT_FIND, Extended, Find, read_find
from interop.dimse.find_statements import plan

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


def find_of(character_set: str = "", **values: str) -> Find:
    """A request at the level of studies; keys are tags in hexadecimal digits behind an x."""
    keys = {0x00080052: "STUDY", **{int(name[1:], 16): text for name, text in values.items()}}
    if character_set:
        keys[0x00080005] = character_set
    raw = b"".join(
        pack("<HHI", tag >> 16, tag & 0xFFFF, len(text) + len(text) % 2)
        + text.encode()
        + b" " * (len(text) % 2)
        for tag, text in sorted(keys.items())
    )
    return read_find(raw, IMPLICIT, STUDY_ROOT_FIND, Extended(), lambda: {})


def test_other_values_of_the_same_keys_are_answered_in_the_same_form() -> None:
    first = plan(find_of(x00100020="P1", x00081030=""), "INTEROP", IMPLICIT)
    second = plan(find_of(x00100020="P2", x00081030="Bite*"), "INTEROP", IMPLICIT)

    assert first.form is second.form
    assert first.find.tests != second.find.tests


@pytest.mark.parametrize(
    ("find", "called", "syntax"),
    [
        (find_of(x00100020="P1"), "INTEROP", IMPLICIT),
        (find_of(x00100020="P1", x00081030=""), "OTHER", IMPLICIT),
        (find_of(x00100020="P1", x00081030=""), "INTEROP", EXPLICIT),
        (find_of("ISO_IR 100", x00100020="P1", x00081030=""), "INTEROP", IMPLICIT),
    ],
    ids=["other keys", "another AE title", "another transfer syntax", "a character set"],
)
def test_what_differs_in_more_than_values_has_a_form_of_its_own(
    find: Find, called: str, syntax: str
) -> None:
    usual = plan(find_of(x00100020="P1", x00081030=""), "INTEROP", IMPLICIT)

    assert plan(find, called, syntax).form is not usual.form


def test_a_request_with_very_many_keys_is_not_remembered() -> None:
    many: dict[str, Any] = {f"x0009{number:04X}": "" for number in range(0x1000, 0x1050)}
    before = find_statements._form.cache_info().currsize

    first, second = (plan(find_of(**many), "INTEROP", IMPLICIT) for _ in range(2))

    assert first.form is not second.form
    assert find_statements._form.cache_info().currsize == before


def test_a_character_set_that_no_set_is_called_is_taken_as_none() -> None:
    assert find_of("ISO_IR 100").character_set == "ISO_IR 100"
    assert find_of("X" * 300).character_set is None
