"""QIDO-RS against the real server, and its matching against a slow and obvious matcher."""

from __future__ import annotations

import fnmatch
import random
import re
import unicodedata
from collections.abc import Callable
from itertools import chain
from typing import Any

import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from interop.dicom.query import results
from interop.dicomweb import qido

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]

NAMES = ["Müller^Jürgen", "MULLER^ANNA", "Doe^Jane^^Dr", "Doe", "O'Neil^Pat", "50%_off^x\\y"]
DATES = ["20260101", "20260115", "20251231", "20240229", ""]
TIMES = ["101530", "1015", "235959.99", "000000", ""]


class Instances(list[pydicom.Dataset]):
    """A list that hypothesis can show."""

    def __repr__(self) -> str:
        return f"<{len(self)} instances>"


@pytest.fixture(scope="module")
def stored(store: Store, image: Image, encode: Encode) -> list[pydicom.Dataset]:
    """Forty studies of one or two series of one to three instances, drawn with a fixed seed."""
    draw = random.Random(7)
    instances = []
    for n in range(40):
        study = generate_uid()
        common = {
            "StudyInstanceUID": study,
            "PatientName": draw.choice(NAMES[:5]),
            "PatientID": f"P{draw.randrange(6)}",
            "StudyDate": draw.choice(DATES),
            "StudyTime": draw.choice(TIMES),
            "AccessionNumber": f"ACC{n:03d}",
            "StudyID": draw.choice(["S1", "s1", "S%", "S_"]),
            "StudyDescription": draw.choice(["Bitewings", "bitewings left", "Pano", ""]),
        }
        for number in range(draw.randint(1, 2)):
            series = generate_uid()
            modality = draw.choice(["IO", "PX"]) if number == 0 else "CT"
            for instance in range(draw.randint(1, 3)):
                dataset = image(
                    **common,
                    SeriesInstanceUID=series,
                    SeriesNumber=number,
                    Modality=modality,
                    InstanceNumber=instance,
                )
                if number:
                    request = pydicom.Dataset()
                    request.ScheduledProcedureStepID = f"STEP{n % 3}"
                    request.RequestedProcedureID = "R1"
                    dataset.RequestAttributesSequence = [request]
                instances.append(dataset)
    answer = store(*[encode(dataset) for dataset in instances])
    assert answer.status_code in (200, 202), answer.text
    assert len(answer.json()["00081199"]["Value"]) == len(instances)
    return Instances(instances)


def uids(results: list[dict[str, Any]], tag: str) -> list[str]:
    return [result[tag]["Value"][0] for result in results]


STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"


def test_every_level_is_found_with_what_it_must_have(
    client: DICOMwebClient, stored: list[pydicom.Dataset]
) -> None:
    dataset = stored[0]
    study = dataset.StudyInstanceUID
    series = dataset.SeriesInstanceUID
    of_study = [d for d in stored if d.StudyInstanceUID == study]
    of_series = [d for d in of_study if d.SeriesInstanceUID == series]

    (found,) = client.search_for_studies(search_filters={"StudyInstanceUID": study})
    # PS3.18 Table 10.6.3-3
    assert set(found) >= {
        "00080020", "00080030", "00080050", "00080056", "00080061", "00080090", "00081190",
        "00100010", "00100020", "00100030", "00100040", "0020000D", "00200010", "00201206",
        "00201208",
    }  # fmt: skip
    assert list(found) == sorted(found)
    assert found["00201208"]["Value"] == [len(of_study)]
    assert found["00201206"]["Value"] == [len({d.SeriesInstanceUID for d in of_study})]
    assert found["00080061"]["Value"] == sorted({d.Modality for d in of_study})

    found_series = client.search_for_series(study)
    assert set(uids(found_series, SERIES)) == {d.SeriesInstanceUID for d in of_study}
    (one,) = [s for s in found_series if s[SERIES]["Value"] == [series]]
    # PS3.18 Table 10.6.3-4
    assert set(one) >= {"00080060", "0008103E", "00081190", "0020000E", "00200011", "00201209"}
    assert one["00201209"]["Value"] == [len(of_series)]

    found_instances = client.search_for_instances(study, series)
    assert uids(found_instances, INSTANCE) == [d.SOPInstanceUID for d in of_series]
    # PS3.18 Table 10.6.3-5
    assert set(found_instances[0]) >= {
        "00080016", "00080018", "00080056", "00081190", "00200013", "00280010", "00280011",
        "00280100",
    }  # fmt: skip
    assert len(client.search_for_instances(study)) == len(of_study)


def test_a_search_over_all_series_and_instances_has_the_levels_above(
    client: DICOMwebClient, stored: list[pydicom.Dataset]
) -> None:
    dataset = stored[-1]

    (series,) = client.search_for_series(
        search_filters={"SeriesInstanceUID": dataset.SeriesInstanceUID}
    )
    (instance,) = client.search_for_instances(
        search_filters={"SOPInstanceUID": dataset.SOPInstanceUID, "PatientID": dataset.PatientID}
    )

    assert series["00100020"]["Value"] == [dataset.PatientID]
    assert instance["00100020"]["Value"] == [dataset.PatientID]
    assert instance["0008103E"]["Value"] == [dataset.SeriesDescription]


def test_pages_join_to_the_whole_in_one_order_newest_first(
    client: DICOMwebClient, stored: list[pydicom.Dataset]
) -> None:
    whole = client.search_for_studies()
    pages = [client.search_for_studies(limit=7, offset=offset) for offset in range(0, 49, 7)]

    assert [study for page in pages for study in page] == whole
    dates = [study["00080020"].get("Value", [""])[0] for study in whole]
    assert dates == sorted(dates, reverse=True)
    assert len(whole) >= 40


def test_more_results_than_the_limit_are_announced(
    http: requests.Session, root: str, stored: list[pydicom.Dataset]
) -> None:
    some = http.get(f"{root}/studies?limit=3")
    rest = http.get(f"{root}/studies?limit=1000")

    assert some.headers["Warning"].startswith("299 ")
    assert "offset=3" in some.headers["Warning"]
    assert "Warning" not in rest.headers
    assert http.get(f"{root}/studies?limit=0").json() == []


def test_no_match_is_200_with_an_empty_list(http: requests.Session, root: str) -> None:
    for path in ("studies?PatientID=nobody", "studies/9.9.9/series", "studies/9.9/instances",
                 "series?Modality=ZZ", "instances?SOPInstanceUID=9.9"):  # fmt: skip
        answer = http.get(f"{root}/{path}")
        assert (answer.status_code, answer.content) == (200, b"[]"), path


def test_included_attributes_of_an_instance(
    client: DICOMwebClient, stored: list[pydicom.Dataset]
) -> None:
    study = stored[0].StudyInstanceUID

    plain = client.search_for_instances(study)[0]
    more = client.search_for_instances(study, fields=["PhotometricInterpretation", "00280101"])[0]
    everything = client.search_for_instances(study, fields=["all"])[0]

    assert "00280004" not in plain
    assert {"00280004", "00280101"} <= set(more)
    assert {"00280004", "00280102", "00280103"} <= set(everything)
    assert "7FE00010" not in everything


def test_ohif_gets_its_first_page(http: requests.Session, root: str, stored: list[Any]) -> None:
    answer = http.get(
        f"{root}/studies?limit=101&offset=0&fuzzymatching=false"
        "&includefield=00081030,00080060,00080090,00100030"
    )

    assert answer.status_code == 200
    assert len(answer.json()) >= 40
    assert "Warning" not in answer.headers


def test_fuzzy_matching_of_what_is_no_name_is_literal_and_says_so(
    http: requests.Session, root: str, stored: list[pydicom.Dataset]
) -> None:
    answer = http.get(f"{root}/studies?StudyDescription=Pano&fuzzymatching=true")

    assert "Only literal matching has been performed" in answer.headers["Warning"]
    assert {r["00081030"]["Value"][0] for r in answer.json()} == {"Pano"}


def test_c4_injection_in_names_and_values(
    http: requests.Session, root: str, stored: list[pydicom.Dataset]
) -> None:
    payloads = ["' OR 1=1 --", "%", "_", "\\", "');SELECT 1;--", "%s", "%(tenant_id)s", "{}", "$1"]
    for payload in payloads:
        for key in ("PatientID", "PatientName", "AccessionNumber", "StudyDescription"):
            answer = http.get(f"{root}/studies", params={key: payload})
            assert (answer.status_code, answer.json()) == (200, []), (key, payload)
        for key in ("StudyInstanceUID", "StudyDate", "limit", payload):
            answer = http.get(f"{root}/studies", params={key: payload})
            assert answer.status_code == 400, (key, payload)
    assert http.get(f"{root}/studies?PatientID=a%00b").status_code == 400
    assert http.get(f"{root}/studies/1.2%00/series").json() == []


def test_matching_inside_a_sequence(client: DICOMwebClient, stored: list[pydicom.Dataset]) -> None:
    key = "RequestAttributesSequence.ScheduledProcedureStepID"
    expected = {
        d.SeriesInstanceUID
        for d in stored
        if any(
            i.ScheduledProcedureStepID == "STEP1" for i in d.get("RequestAttributesSequence", [])
        )
    }
    assert expected

    found = client.search_for_series(search_filters={key: "STEP1"})
    by_tag = client.search_for_series(search_filters={"00400275.00400009": "*EP1"})

    assert set(uids(found, SERIES)) == expected
    assert set(uids(by_tag, SERIES)) == expected


# -- the obvious matcher --------------------------------------------------------------------


def normal(name: str) -> str:
    text = unicodedata.normalize("NFKD", name)
    text = "".join(c for c in text if not unicodedata.combining(c)).upper()
    return text.rstrip("^")


def like(value: str, pattern: str) -> bool:
    escaped = "".join("[[]" if c == "[" else c for c in pattern)
    return fnmatch.fnmatchcase(value, escaped)


def within(value: str, asked: str) -> bool:
    """Compare at the precision that each end is written in."""
    low, dash, high = asked.partition("-")
    high = high if dash else low
    return bool(value) and value >= low and (not high or value[: len(high)] <= high)


def is_one_range(filters: dict[str, str]) -> bool:
    """PS3.4 C.2.2.2.5.4: a date and a time that are ranges of one form are one range."""
    days, times = filters.get("StudyDate", ""), filters.get("StudyTime", "")
    if "-" not in days or "-" not in times:
        return False
    (a, _, b), (c, _, d) = days.partition("-"), times.partition("-")
    return bool(a) == bool(c) and bool(b) == bool(d)


def within_moments(dataset: pydicom.Dataset, days: str, times: str) -> bool:
    day, time = str(dataset.StudyDate), str(dataset.StudyTime)
    (first, _, last), (low, _, high) = days.partition("-"), times.partition("-")
    if not day:
        return False
    if first and (day < first or (day == first and time < low)):
        return False
    return not last or day < last or (day == last and time[: len(high)] <= high)


def has_modality(study: str, asked: str, all_: list[Any]) -> bool:
    values = {d.Modality for d in all_ if d.StudyInstanceUID == study}
    return any(like(value, a) for value in values for a in re.split(r"[,\\]", asked))


def matches(dataset: pydicom.Dataset, level: str, filters: dict[str, str], all_: list[Any]) -> bool:
    filters = dict(filters)
    if is_one_range(filters) and not within_moments(
        dataset, filters.pop("StudyDate"), filters.pop("StudyTime")
    ):
        return False
    for keyword, asked in filters.items():
        if asked in ("", "*"):
            continue
        if keyword == "ModalitiesInStudy":
            if not has_modality(dataset.StudyInstanceUID, asked, all_):
                return False
            continue
        value = str(dataset.get(keyword, ""))
        if keyword in ("StudyDate", "StudyTime"):
            found = within(value, asked)
        elif keyword == "Modality":
            found = any(like(value, a) for a in asked.split(","))
        elif keyword == "PatientName":
            found = like(normal(value), normal(asked))
        elif keyword.endswith("UID"):
            found = value in asked.split(",")
        elif keyword.endswith("Number") and keyword != "AccessionNumber":
            found = int(value) == int(asked)
        else:
            found = like(value, asked)
        if not found:
            return False
    return True


wild = st.text(alphabet="PSACMUDOENIR0123*?^%_ üéb", min_size=1, max_size=6).map(str.strip)
filters_of = {
    "PatientID": st.one_of(wild, st.sampled_from(["P1", "P*", "?2", "p1"])),
    "PatientName": st.one_of(
        wild, st.sampled_from(["doe*", "*jane*", "müller^j*", "Doe^Jane^^", "O'NEIL?PAT", "Doe"])
    ),
    "StudyID": st.sampled_from(["S1", "s1", "S%", "S_", "S*", "?%"]),
    "StudyDescription": st.sampled_from(["Bitewings", "bite*", "*left", "Pano?", "*", ""]),
    "AccessionNumber": st.sampled_from(["ACC00*", "ACC01?", "ACC039", "*9"]),
    "StudyDate": st.sampled_from(
        ["20260101", "20260101-", "-20251231", "20240101-20260110", "20260115-20260115", ""]
    ),
    "StudyTime": st.sampled_from(["10", "1015", "101530", "00-10", "2359-", "-0000", "101531-"]),
    "ModalitiesInStudy": st.sampled_from(["IO", "PX", "CT", "IO,CT", "PX\\CT", "C*", "ZZ"]),
}
series_filters_of = {
    "Modality": st.sampled_from(["IO", "CT", "IO,PX", "P*", "io"]),
    "SeriesNumber": st.sampled_from(["0", "1", "01", "2"]),
    "SeriesDescription": st.sampled_from(["upper*", "*LEFT", "upper left"]),
}


def questions(level: str) -> st.SearchStrategy[tuple[str, dict[str, str]]]:
    known = filters_of if level == "studies" else filters_of | series_filters_of
    pairs = [st.tuples(st.just(keyword), values) for keyword, values in known.items()]
    filters = st.lists(st.one_of(pairs), max_size=3, unique_by=lambda pair: pair[0]).map(dict)
    return st.tuples(st.just(level), filters)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(question=st.one_of([questions(level) for level in ("studies", "series", "instances")]))
def test_results_are_those_of_the_obvious_matcher(
    http: requests.Session,
    root: str,
    stored: list[pydicom.Dataset],
    question: tuple[str, dict[str, str]],
) -> None:
    level, asked = question
    # Other tests of this module's server store studies of their own.
    mine = {d.AccessionNumber for d in stored}

    tag, keyword = {
        "studies": (STUDY, "StudyInstanceUID"),
        "series": (SERIES, "SeriesInstanceUID"),
        "instances": (INSTANCE, "SOPInstanceUID"),
    }[level]
    answer = http.get(f"{root}/{level}", params={**asked, "includefield": "AccessionNumber"})
    assert answer.status_code == 200, answer.text
    results = answer.json()

    found = [r[tag]["Value"][0] for r in results if r["00080050"]["Value"][0] in mine]
    expected = {d[keyword].value for d in stored if matches(d, level, asked, stored)}
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize(
    "damage",
    [
        r"\u0000", r"a\u0000\u0000b", r"a\\\u0000", r"a\\u0000", r"\\\\u0000\u0000\\\u0000",
    ],
)  # fmt: skip
def test_an_object_with_nul_in_a_text_does_not_break_the_query_of_its_tenant(
    client: DICOMwebClient, server: Any, tenant: Any, store: Store, image: Image, encode: Encode,
    damage: str,
) -> None:  # fmt: skip
    dataset = image(SeriesDescription="DAMAGED")
    requested = pydicom.Dataset()
    requested.RequestedProcedureID = "RP77"
    dataset.RequestAttributesSequence = [requested]
    assert store(encode(dataset)).status_code == 200
    with server.services.database.connection(tenant.id) as connection:
        # As objects were stored before NUL was left out at the door.
        changed = connection.execute(
            "UPDATE imaging_series SET dicom_json = replace(dicom_json, 'DAMAGED', %s)"
            " WHERE tenant_id = %s AND series_uid = %s AND dicom_json LIKE '%%DAMAGED%%'",
            (damage, tenant.id, dataset.SeriesInstanceUID),
        )
        assert changed.rowcount == 1

    found = client.search_for_series(
        search_filters={
            "RequestAttributesSequence.RequestedProcedureID": "RP77",
            "SeriesInstanceUID": dataset.SeriesInstanceUID,
        }
    )

    assert [f["0020000E"]["Value"][0] for f in found] == [dataset.SeriesInstanceUID]


@pytest.fixture(scope="module")
def large_headers(store: Store, image: Image, encode: Encode) -> list[pydicom.Dataset]:
    """Five instances of a series whose headers have 60 KB each, one of them with a word of ours."""
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    made = []
    for number in range(1, 6):
        dataset = image(**uids, InstanceNumber=number, ContentLabel="MARK")
        block = dataset.private_block(0x0011, "INTEROP TEST", create=True)
        for element in range(100):
            block.add_new(element, "LT", f"{element} " + "x" * 600)
        made.append(dataset)
    assert store(*[encode(dataset) for dataset in made]).status_code == 200
    return made


def test_large_headers_are_cut_down_before_they_leave_the_database(
    http: requests.Session, root: str, large_headers: list[pydicom.Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sizes: list[int] = []
    original = results.instance_part

    def measuring(stored: str, *rest: Any) -> Any:
        sizes.append(len(stored))
        return original(stored, *rest)

    monkeypatch.setattr(results, "instance_part", measuring)
    url = f"{root}/studies/{large_headers[0].StudyInstanceUID}/instances"
    found = http.get(f"{url}?includefield=ContentLabel")
    plain = http.get(url)

    assert len(sizes) == 10
    assert max(sizes) < 2_000
    for shown, dataset in zip(found.json(), large_headers, strict=True):
        assert shown["00080018"]["Value"] == [dataset.SOPInstanceUID]
        assert shown["00280010"] == {"vr": "US", "Value": [16]}
        assert shown["00280100"] == {"vr": "US", "Value": [16]}
        assert shown["00700080"]["Value"] == ["MARK"]
    assert "00700080" not in plain.json()[0]
    assert plain.json()[0].keys() == found.json()[0].keys() - {"00700080"}


@pytest.mark.parametrize("level", ["all", "study"])
def test_a_page_ends_where_its_bytes_do_and_says_where_to_go_on(
    http: requests.Session, root: str, large_headers: list[pydicom.Dataset],
    monkeypatch: pytest.MonkeyPatch, level: str,
) -> None:  # fmt: skip
    study = large_headers[0].StudyInstanceUID
    url = f"{root}/instances?StudyInstanceUID={study}"
    if level == "study":
        url = f"{root}/studies/{study}/instances?"
    monkeypatch.setattr(qido, "PAGE_BYTES", 100_000)

    pages: list[list[str]] = []
    warnings = []
    while sum(map(len, pages)) < 5:
        offset = sum(map(len, pages))
        answer = http.get(f"{url}&includefield=all&offset={offset}")
        pages.append([one["00080018"]["Value"][0] for one in answer.json()])
        assert pages[-1], "a page without results would never end"
        assert len(answer.json()[0]) > 100
        warnings.append(answer.headers.get("Warning", ""))

    assert [len(page) for page in pages] == [2, 2, 1]
    assert list(chain(*pages)) == [dataset.SOPInstanceUID for dataset in large_headers]
    assert "offset=2" in warnings[0] and "offset=4" in warnings[1]
    assert warnings[2] == ""


def test_a_page_of_many_instances_is_what_several_small_pages_are(
    http: requests.Session, root: str, stored: list[pydicom.Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(qido, "INLINE_INSTANCES", 3)
    whole = http.get(f"{root}/instances?limit=50").json()

    small = [
        http.get(f"{root}/instances?limit=3&offset={offset}").json() for offset in range(0, 51, 3)
    ]

    assert whole == list(chain(*small))[:50]
    assert len(whole) == 50
