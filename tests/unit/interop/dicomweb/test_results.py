from __future__ import annotations

import json

from interop.dicom.query.attributes import Level
from interop.dicom.query.results import Shape, Wanted
from interop.dicomweb.query import read_parameters, understood
from interop.dicomweb.results import result, results

STUDY = json.dumps({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]}})
SERIES = json.dumps({"00080060": {"vr": "CS", "Value": ["IO"]}})
INSTANCE = json.dumps(
    {
        "00080018": {"vr": "UI", "Value": ["1.3"]},
        "00280004": {"vr": "CS", "Value": ["MONOCHROME2"]},
        "00282000": {"vr": "OB", "BulkDataURI": "@@BULK@@/00282000"},
        "00880200": {
            "vr": "SQ",
            "Value": [{"7FE00010": {"vr": "OW", "BulkDataURI": "@@BULK@@/00880200/1/7FE00010"}}],
        },
        "7FE00010": {"vr": "OW", "BulkDataURI": "@@BULK@@/7FE00010"},
    }
)
ROOT = "http://x/t/demo/dicom-web"


def query(*pairs: tuple[str, str]) -> Wanted:
    return understood(read_parameters(Level.INSTANCE, pairs)).wanted


def test_a_study_is_completed_and_in_tag_order() -> None:
    row = ("1.1", STUDY, ["PX", "IO"], ["1.2.3"], 2, 5)

    found = json.loads(result(ROOT, Shape(Level.STUDY, Level.STUDY), row, query()))

    assert list(found) == sorted(found)
    assert found["00080061"]["Value"] == ["IO", "PX"]
    assert found["00201206"]["Value"] == [2]
    assert found["00201208"]["Value"] == [5]
    assert found["00080056"]["Value"] == ["ONLINE"]
    assert found["00081190"]["Value"] == [f"{ROOT}/studies/1.1"]


def test_a_study_of_files_that_are_no_dicom_has_no_empty_values() -> None:
    row = ("1.1", STUDY, [], [], 0, 0)

    found = json.loads(result(ROOT, Shape(Level.STUDY, Level.STUDY), row, query()))

    assert (found["00080061"], found["00080062"]) == ({"vr": "CS"}, {"vr": "UI"})
    assert found["00201208"]["Value"] == [0]


def test_a_level_that_the_url_fixes_is_left_out() -> None:
    below = Shape(Level.SERIES, Level.SERIES)
    over_all = Shape(Level.STUDY, Level.SERIES)

    assert below.columns == "s.study_uid, e.series_uid, e.dicom_json, e.number_of_instances"
    short = json.loads(result(ROOT, below, ("1.1", "1.2", SERIES, 3), query()))
    row = ("1.1", "1.2", STUDY, ["IO"], [], 1, 3, SERIES, 3)
    full = json.loads(result(ROOT, over_all, row, query()))

    assert "00100010" not in short
    assert "00100010" in full
    assert short["0020000D"]["Value"] == ["1.1"]
    assert full["00081190"]["Value"] == [f"{ROOT}/studies/1.1/series/1.2"]


def test_an_instance_has_what_is_required_and_what_is_asked_for() -> None:
    shape = Shape(Level.INSTANCE, Level.INSTANCE)
    row = ("1.1", "1.2", "1.3", INSTANCE, "1.2.840.10008.1.2.1")

    plain = json.loads(result(ROOT, shape, row, query()))
    asked = json.loads(result(ROOT, shape, row, query(("includefield", "00282000,00083002"))))
    whole = json.loads(result(ROOT, shape, row, query(("includefield", "all"))))

    assert set(plain) == {"00080018", "00080056", "00081190", "0020000D", "0020000E"}
    base = f"{ROOT}/studies/1.1/series/1.2/instances/1.3/bulkdata"
    assert asked["00282000"]["BulkDataURI"] == f"{base}/00282000"
    assert asked["00083002"]["Value"] == ["1.2.840.10008.1.2.1"]
    nested = whole["00880200"]["Value"][0]["7FE00010"]["BulkDataURI"]
    assert nested == f"{base}/00880200/1/7FE00010"
    assert "7FE00010" not in whole


def test_results_are_joined_as_an_array() -> None:
    assert results([]) == b"[]"
    assert json.loads(results([b'{"a":1}', b'{"b":2}'])) == [{"a": 1}, {"b": 2}]
