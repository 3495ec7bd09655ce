from __future__ import annotations

from uuid import uuid4

import pytest

from interop.dicom.query import conditions as query_core
from interop.dicom.query.attributes import Attribute, Kind, Level, path_of
from interop.dicom.query.conditions import (
    AllOf,
    AnyOf,
    Between,
    Condition,
    Empty,
    Matcher,
    Moment,
    Rules,
    Wildcard,
    Words,
    condition_of,
    words_of,
)
from interop.dicom.query.statements import Position, read_position
from interop.errors import BadRequest, UnsupportedParameter

FUZZY = Rules(fuzzy=True)
EMPTY = Rules(empty_values=True)
MANY = Rules(multiple_values=True)


def matcher(name: str, value: str, rules: Rules = Rules()) -> Matcher | None:
    found = condition_of(Level.INSTANCE, path_of(name), value, rules)
    return found.matcher if found else None


@pytest.mark.parametrize(
    ("name", "value", "rules", "expected"),
    [
        ("PatientName", "Meyer Stefan", FUZZY, Words(("MEYER", "STEFAN"))),
        ("PatientName", "O'Néil^Pat*", FUZZY, Words(("O", "NEIL", "PAT"))),
        ("PatientName", "m?yer", FUZZY, Wildcard("M?YER")),
        ("PatientName", "me*er x", FUZZY, Wildcard("ME*ER X")),
        ("PatientName", "^", FUZZY, AnyOf(("",))),
        ("StudyDescription", "Meyer", FUZZY, AnyOf(("Meyer",))),
        ("PatientID", '""', EMPTY, Empty()),
        ("SeriesNumber", '""', EMPTY, Empty()),
        ("PatientID", "", EMPTY, None),
        ("PatientID", '""', Rules(), None),
        ("ModalitiesInStudy", "CT,IO", MANY, AllOf(("CT", "IO"))),
        ("ModalitiesInStudy", "CT\\CT", MANY, AnyOf(("CT", "CT"))),
        ("PatientID", "A,B", MANY, AnyOf(("A,B",))),
        ("PatientName", "a^b\\c", MANY, AllOf(("A^B", "C"))),
        ("InstanceAvailability", "ONLINE", Rules(), AnyOf(("ONLINE",))),
        ("00400275.00400008.00080100", "C1", Rules(), AnyOf(("C1",))),
        ("00400275.0020000D", "1.2,1.3", Rules(), AnyOf(("1.2", "1.3"))),
    ],
)
def test_a_value_is_read_by_the_rules_that_were_asked_for(
    name: str, value: str, rules: Rules, expected: Matcher | None
) -> None:
    assert matcher(name, value, rules) == expected


def test_values_that_must_all_match_have_no_wildcards() -> None:
    with pytest.raises(BadRequest, match="no wildcards"):
        matcher("ModalitiesInStudy", "C*,IO", MANY)


def test_a_query_tag_is_matched_by_its_kind_and_never_above_its_level() -> None:
    age = Attribute("PatientAge", Level.SERIES, Kind.TEXT, "q.value", tag_id=uuid4())
    weight = Attribute("PatientWeight", Level.STUDY, Kind.NUMBER, "q.value", tag_id=uuid4())
    acquired = Attribute(
        "AcquisitionDateTime", Level.STUDY, Kind.DATETIME, "q.value", tag_id=uuid4()
    )
    tags = {one.path: one for one in (age, weight, acquired)}

    def read(name: str, value: str, rules: Rules = Rules()) -> Condition | None:
        return condition_of(Level.STUDY, path_of(name), value, rules, tags)

    assert read("PatientWeight", "070.50") == Condition(weight, AnyOf(("70.5",)))
    with pytest.raises(UnsupportedParameter, match="attribute of series"):
        read("PatientAge", "041Y")
    with pytest.raises(BadRequest, match="a number"):
        read("PatientWeight", "heavy")
    zoned = read("AcquisitionDateTime", "202607050100-202607050200+0000", Rules(offset=120))
    assert zoned == Condition(acquired, Between("202607042300", "202607050200"))


def test_words_are_what_stands_between_the_marks_of_names() -> None:
    assert words_of("van der Berg-Meyer^Ümit^^Dr.") == ("VAN", "DER", "BERG", "MEYER", "UMIT", "DR")
    assert words_of("^^ = *") == ()


def conditions(**values: str) -> list[Condition]:
    found = [condition_of(Level.STUDY, path_of(name), value) for name, value in values.items()]
    return [one for one in found if one is not None]


@pytest.mark.parametrize(
    ("date", "time", "is_one"),
    [
        ("20260101-20260102", "08-09", True),
        ("20260101-", "08-", True),
        ("-20260102", "-09", True),
        ("20260101-20260102", "08-", False),
        ("20260101", "08-09", False),
        ("20260101-20260102", "08", False),
        ("20260101-20260102", "08-08", True),
    ],
)
def test_ranges_of_one_form_are_one_range(date: str, time: str, is_one: bool) -> None:
    asked = conditions(StudyDate=date, StudyTime=time, PatientID="X")

    combined = query_core.tests_of(asked)

    assert any(isinstance(test, Moment) for test in combined) == is_one
    assert len(combined) == (2 if is_one else 3)
    # C-FIND without the negotiation.
    assert query_core.tests_of(asked, combined=False) == tuple(asked)


def test_in_a_zone_each_date_and_each_time_is_a_moment() -> None:
    asked = conditions(StudyDate="20260101", StudyTime="08-09")

    date, time = query_core.tests_of(asked, Rules(offset=60))

    assert isinstance(date, Moment) and isinstance(time, Moment)
    assert (date.date, date.time) == (Between("20260101", "20260101"), None)
    assert (time.date, time.time) == (None, Between("08", "09"))


@pytest.mark.parametrize(
    "position",
    [
        Position(("20260101", "10", "1.2")),
        Position((None, None, "1.2"), (None, "1.3")),
        Position(("20260101", None, "1.2"), (7, "1.3"), (-1, "1.4")),
    ],
)
def test_a_position_is_read_back_from_its_token(position: Position) -> None:
    depth = (position.series is not None) + (position.instance is not None)

    assert read_position(Level(depth), position.token()) == position
    with pytest.raises(BadRequest, match="continuation"):
        read_position(Level((depth + 1) % 3), position.token())
