from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from interop.dicom.query.attributes import Level
from interop.dicom.query.matching import (
    Parameters,
    after_prefix,
    like,
    predicates,
    prefix_of,
    readable_json,
)
from interop.dicomweb.query import read_parameters, understood


def sql(*pairs: tuple[str, str], level: Level = Level.INSTANCE) -> tuple[list[str], list[object]]:
    parameters = Parameters()
    tests = predicates(understood(read_parameters(level, pairs)).tests, parameters)
    return tests, list(parameters.values.values())


@given(prefix=st.text(min_size=1, max_size=8), rest=st.text(max_size=4), other=st.text(max_size=8))
def test_a_prefix_range_holds_exactly_what_begins_with_it(
    prefix: str, rest: str, other: str
) -> None:
    upper = after_prefix(prefix)
    assume(upper is not None)
    assert upper is not None

    assert prefix <= prefix + rest < upper
    assert (prefix <= other < upper) == other.startswith(prefix)


def test_a_prefix_without_an_upper_bound() -> None:
    assert after_prefix("\U0010ffff") is None
    assert after_prefix("a\U0010ffff") == "b"
    assert after_prefix("\ud7ff") == "\ue000"


def test_a_trailing_star_is_a_range_only() -> None:
    assert sql(("PatientID", "AB*")) == (
        ["s.dicom_patient_id >= %(v0)s AND s.dicom_patient_id < %(v1)s"],
        ["AB", "AC"],
    )


def test_an_infix_pattern_filters_behind_its_prefix_range() -> None:
    tests, values = sql(("PatientName", "do*an?"))

    assert tests == [
        "s.patient_name_key >= %(v0)s AND s.patient_name_key < %(v1)s"
        " AND split_part(s.patient_name_key, '=', 1) LIKE %(v2)s"
    ]
    assert values == ["DO", "DP", "DO%AN_"]


def test_sql_wildcards_and_quotes_in_a_value_are_only_text() -> None:
    tests, values = sql(("PatientID", "*50%_'; DROP TABLE patients--\\*"))

    assert tests == ["s.dicom_patient_id LIKE %(v0)s"]
    assert values == ["%50\\%\\_'; DROP TABLE patients--\\\\%"]


def test_a_time_range_includes_its_end_at_the_precision_given() -> None:
    tests, values = sql(("StudyTime", "08-0930"))

    assert tests == ["s.study_time >= %(v0)s AND s.study_time < %(v1)s"]
    assert values == ["08", "0931"]
    assert "0930" <= "093059.99" < "0931"


def test_an_open_range_leaves_out_what_has_no_value() -> None:
    tests, values = sql(("StudyDate", "-20261231"))

    assert tests == ["s.study_date >= %(v0)s AND s.study_date < %(v1)s"]
    assert values == ["0", "20261232"]
    assert not "" >= "0"


def test_a_sequence_key_is_matched_in_the_stored_json() -> None:
    tests, values = sql(("RequestAttributesSequence.RequestedProcedureID", "R1"))

    assert f"jsonb_path_query({readable_json('e.dicom_json')}::jsonb, %(v2)s::jsonpath)" in tests[0]
    assert values == ['$."00401001".Value[*]', "R1", '$."00400275".Value[*]']


@given(st.text(max_size=10))
def test_a_pattern_without_wildcards_is_all_prefix(text: str) -> None:
    assume("*" not in text and "?" not in text)
    assert prefix_of(text) == text
    assert like(text).replace("\\\\", "\\").replace("\\%", "%").replace("\\_", "_") == text
