from __future__ import annotations

import pytest

from interop.dicom.query.attributes import BY_PATH, Level
from interop.dicom.query.conditions import AnyOf, Between, Matcher, Wildcard
from interop.dicomweb.query import FUZZY_WARNING, MAX_LIMIT, Query, read_parameters, understood
from interop.errors import BadRequest, TooCostly, UnsupportedParameter


def parse(*parameters: tuple[str, str], level: Level = Level.STUDY) -> Query:
    return understood(read_parameters(level, parameters))


def matcher(name: str, value: str, level: Level = Level.INSTANCE) -> Matcher | None:
    query = parse((name, value), level=level)
    return query.conditions[0].matcher if query.conditions else None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("StudyInstanceUID", "1.2.3", AnyOf(("1.2.3",))),
        ("StudyInstanceUID", "1.2.3,1.2.4", AnyOf(("1.2.3", "1.2.4"))),
        ("0020000D", "1.2.3\\1.2.4", AnyOf(("1.2.3", "1.2.4"))),
        ("0020000d", "*", None),
        ("PatientID", "", None),
        ("PatientID", "***", Wildcard("*")),
        ("PatientID", "A,B", AnyOf(("A,B",))),
        ("00100020", "p*?", Wildcard("p*?")),
        ("PatientName", "müller^jürgen*", Wildcard("MULLER^JURGEN*")),
        ("PatientName", "Doe^Jane^^", AnyOf(("DOE^JANE",))),
        ("StudyDate", "20260102", Between("20260102", "20260102")),
        ("StudyDate", "20260102-", Between("20260102", "")),
        ("StudyDate", "-20260102", Between("", "20260102")),
        ("StudyDate", "20260101-20261231", Between("20260101", "20261231")),
        ("StudyTime", "10-1130", Between("10", "1130")),
        ("StudyTime", "101530.5", Between("101530.5", "101530.5")),
        ("ModalitiesInStudy", "CT\\IO", AnyOf(("CT", "IO"))),
        ("ModalitiesInStudy", "C*", Wildcard("C*")),
        ("Modality", "CT,MR", AnyOf(("CT", "MR"))),
        ("SeriesNumber", "07", AnyOf((7,))),
        ("InstanceNumber", "1,-2", AnyOf((1, -2))),
        ("RequestAttributesSequence.ScheduledProcedureStepID", "S1*", Wildcard("S1*")),
        ("00400275.00401001", "R1", AnyOf(("R1",))),
    ],
)
def test_a_value_is_read_by_the_rules_of_its_attribute(
    name: str, value: str, expected: Matcher | None
) -> None:
    assert matcher(name, value) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("StudyInstanceUID", "1.2.x", r"StudyInstanceUID='1\.2\.x'.*UIDs of digits"),
        ("StudyInstanceUID", "1.2,,1.3", "UIDs of digits"),
        ("StudyInstanceUID", "1.2*", "UIDs of digits"),
        ("StudyInstanceUID", "1" * 65, "UIDs of digits"),
        ("StudyDate", "2026-01-02", "YYYYMMDD"),
        ("StudyDate", "20260230", "not a date of the calendar"),
        ("StudyDate", "-", "YYYYMMDD"),
        ("StudyDate", "20260101-20260102-20260103", "YYYYMMDD"),
        ("StudyTime", "1", "HHMMSS"),
        ("SeriesNumber", "one", "a whole number"),
        ("SeriesNumber", "99999999999", "numbers up to"),
        ("PatientID", "a\x00b", "control characters"),
        ("PatientName", "x" * 1025, "at most 1024"),
        ("limit", "-1", "whole number"),
        ("limit", "ten", "whole number"),
        ("limit", "²", "whole number"),
        ("offset", "1e3", "whole number"),
        ("fuzzymatching", "yes", "true or false"),
        ("includefield", "PatientNam", "includefield='PatientNam'"),
        ("NoSuchThing", "1", "unknown parameter 'NoSuchThing'"),
        ("name'--", "1", "unknown parameter"),
        ("A.B.C.D.E", "1", "at most 4 levels"),
        ("PatientAge", "030Y", "PatientAge cannot be matched here.*StudyInstanceUID"),
        ("00091001", "x", "00091001 cannot be matched"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_what_can(
    name: str, value: str, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        parse((name, value), level=Level.INSTANCE)


def test_an_attribute_of_a_lower_level_is_refused_and_the_way_out_named() -> None:
    with pytest.raises(UnsupportedParameter, match="use ModalitiesInStudy"):
        parse(("Modality", "CT"))
    with pytest.raises(UnsupportedParameter, match="attribute of instances"):
        parse(("SOPInstanceUID", "1.2"), level=Level.SERIES)


def test_an_attribute_given_twice_is_refused_by_keyword_and_tag() -> None:
    with pytest.raises(BadRequest, match="PatientID is given twice"):
        parse(("PatientID", "A"), ("00100020", "B"))


def test_the_first_query_of_ohif_is_understood() -> None:
    query = parse(
        ("limit", "101"),
        ("offset", "0"),
        ("fuzzymatching", "false"),
        ("includefield", "00081030,00080060,00080090,00100030"),
    )

    assert query.conditions == ()
    assert (query.limit, query.offset, query.warnings) == (101, 0, ())
    assert query.include == {"00081030", "00080060", "00080090", "00100030"}


def test_options_and_their_warnings() -> None:
    query = parse(("fuzzymatching", "true"), ("limit", "100000"), ("includefield", "all"))

    assert query.limit == MAX_LIMIT[Level.STUDY]
    assert query.include_all
    assert query.warnings[0] == FUZZY_WARNING
    assert "reduced to 1000" in query.warnings[1]
    assert parse(("limit", "0")).limit == 0


def test_too_large_questions_are_too_costly() -> None:
    with pytest.raises(TooCostly, match="offset"):
        parse(("offset", "999999999"))
    with pytest.raises(TooCostly, match="at most 1000 values"):
        parse(("StudyInstanceUID", ",".join(["1.2"] * 1001)))


def test_a_matched_or_empty_key_is_also_returned() -> None:
    query = parse(("StudyDescription", ""), ("PatientSex", "F"))

    assert {"00081030", "00100040"} <= query.include


def test_the_required_matching_keys_of_every_level_are_there() -> None:
    known = {attribute.keyword for attribute in BY_PATH.values()}

    # PS3.18 Table 10.6.1-5
    assert known >= {
        "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName",
        "PatientName", "PatientID", "StudyInstanceUID", "StudyID",
        "Modality", "SeriesInstanceUID", "SeriesNumber", "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime", "RequestAttributesSequence.ScheduledProcedureStepID",
        "RequestAttributesSequence.RequestedProcedureID",
        "SOPClassUID", "SOPInstanceUID", "InstanceNumber",
    }  # fmt: skip
