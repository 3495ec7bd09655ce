"""The matching of PS3.4 C.2.2.2 and PS3.18 8.3.4 beyond single keys, each rule by example."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pydicom
import pytest
import requests
from pydicom.uid import generate_uid

from interop.dicom.query.attributes import Level, path_of
from interop.dicom.query.conditions import Condition, condition_of
from interop.dicom.query.matching import Parameters
from interop.dicom.query.results import EVERYTHING, Shape, merged
from interop.dicom.query.statements import select
from storage.tenancy import Tenant
from tests.integration.dicomweb.conftest import Server, Store

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Ask = Callable[..., list[str]]

# Accession number: what is special about the study.
STUDIES: dict[str, dict[str, Any]] = {
    "MEYER": {"PatientName": "Meyer^Stefan", "PatientID": "M1"},
    "MAIER": {"PatientName": "Maier^Stephan^Karl", "PatientID": "M2"},
    "MUELLER": {"PatientName": "Müller-Lüdenscheid^Anna", "PatientID": "M3"},
    "MILLER": {"PatientName": "MILLER^ANN", "PatientID": "M3"},
    "NGUYEN": {"PatientName": "Nguyễn^Thị Hoa", "ReferringPhysicianName": "Schmidt^Eva"},
    "YAMADA": {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "PatientID": "Y"},
    "EMPTY": {"PatientName": "", "PatientID": "E", "StudyDescription": ""},
    "LATE": {"StudyDate": "20260704", "StudyTime": "2330", "TimezoneOffsetFromUTC": "+0200"},
    "EARLY": {"StudyDate": "20260705", "StudyTime": "003000.5", "TimezoneOffsetFromUTC": "-0500"},
    "LOCAL": {"StudyDate": "20260705", "StudyTime": "0200"},
    "BROKEN": {"StudyDate": "20260231", "StudyTime": "0200", "TimezoneOffsetFromUTC": "+0100"},
}


@pytest.fixture(scope="module")
def studies(store: Store, image: Image, encode: Encode) -> dict[str, pydicom.Dataset]:
    made = {}
    for accession, attributes in STUDIES.items():
        common = {"StudyDate": "20250101", "StudyTime": "1200", "StudyDescription": "Scan"}
        made[accession] = image(
            **{
                **common,
                "AccessionNumber": accession,
                "StudyInstanceUID": generate_uid(),
                "PatientID": accession,
                "PatientName": "Other^One",
                "PatientAge": "041Y",
                **attributes,
            }
        )
    files = [encode(dataset) for dataset in made.values()]
    assert store(*files).status_code == 200
    second = image(
        AccessionNumber="MEYER", StudyInstanceUID=made["MEYER"].StudyInstanceUID,
        PatientName="Meyer^Stefan", PatientID="M1", PatientAge="041Y", Modality="PX",
        StudyDate="20250101", StudyTime="1200", StudyDescription="Scan",
    )  # fmt: skip
    assert store(encode(second)).status_code == 200
    return made


@pytest.fixture
def ask(
    http: requests.Session, root: str, studies: dict[str, pydicom.Dataset]
) -> Callable[..., list[str]]:
    """The accession numbers that a search for studies finds, sorted."""

    def found(**parameters: str) -> list[str]:
        answer = http.get(f"{root}/studies", params={"limit": "1000", **parameters})
        assert answer.status_code == 200, answer.text
        assert "Warning" not in answer.headers
        return sorted(one["00080050"]["Value"][0] for one in answer.json())

    return found


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("meier", ["MAIER", "MEYER"]),  # sounds alike
        ("steven", ["MAIER", "MEYER"]),
        ("maier karl", ["MAIER"]),  # each word must be there
        ("Ann", ["MILLER", "MUELLER"]),  # begins a word
        ("Lüdensch*", ["MUELLER"]),
        ("ludenscheid^anna", ["MUELLER"]),  # in any order
        ("muler", ["MILLER", "MUELLER"]),
        ("nguyen hoa", ["NGUYEN"]),
        ("山田", ["YAMADA"]),
        ("yamada", ["YAMADA"]),
        ("zzz", []),
    ],
)
def test_fuzzy_matching_finds_words_that_begin_or_sound_so(
    ask: Ask, asked: str, expected: list[str]
) -> None:
    assert ask(PatientName=asked, fuzzymatching="true") == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("Yamada^Tarou", ["YAMADA"]),
        ("yamada*", ["YAMADA"]),
        ("*tarou", ["YAMADA"]),
        ("?amada^*", ["YAMADA"]),
        ("Yamada", []),
        ("山田^太郎", ["YAMADA"]),
        ("山田*", ["YAMADA"]),
        ("*太郎", ["YAMADA"]),
        ("太郎*", []),
        ("やまだ^たろう", ["YAMADA"]),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["YAMADA"]),
        ("Yamada^Tarou=*", ["YAMADA"]),
    ],
)
def test_a_name_is_matched_by_any_of_its_component_groups(
    ask: Ask, asked: str, expected: list[str]
) -> None:
    assert ask(PatientName=asked) == expected


def test_fuzzy_matching_of_the_referring_physician(ask: Ask) -> None:
    assert ask(ReferringPhysicianName="smit", fuzzymatching="true") == ["NGUYEN"]


def test_words_follow_a_name_that_becomes_known_later(
    ask: Ask, http: requests.Session, store: Store, image: Image, encode: Encode
) -> None:
    attributes = {"StudyInstanceUID": generate_uid(), "PatientID": "LATER",
                  "AccessionNumber": "LATER", "StudyDate": "20250101"}  # fmt: skip
    assert store(encode(image(**attributes, PatientName=""))).status_code == 200
    assert ask(PatientName="Quastenfloss", fuzzymatching="true") == []

    assert store(encode(image(**attributes, PatientName="Quastenfloss^Q"))).status_code == 200

    assert ask(PatientName="Quastenfloss", fuzzymatching="true") == ["LATER"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        # The half-open ends of each day do not count: one range from the first to the last moment.
        ({"StudyDate": "20260704-20260705", "StudyTime": "2300-0100"}, ["EARLY", "LATE"]),
        ({"StudyDate": "20260704-", "StudyTime": "2331-"}, ["EARLY", "LOCAL"]),
        ({"StudyDate": "20260705-20260705", "StudyTime": "0100-0300"}, ["LOCAL"]),
        # Of another form: each by itself.
        ({"StudyDate": "20260704-20260705", "StudyTime": "0200"}, ["LOCAL"]),
        ({"StudyDate": "20260704-20260705", "StudyTime": "2300-"}, ["LATE"]),
    ],
)
def test_a_range_of_days_and_a_range_of_times_are_one(
    ask: Ask, asked: dict[str, str], expected: list[str]
) -> None:
    assert ask(**asked) == expected


@pytest.mark.parametrize(
    ("zone", "asked", "expected"),
    [
        # 23:30 in +0200 is 21:30 UTC of the 4th; 00:30 in -0500 is 05:30 UTC of the 5th.
        ("+0000", {"StudyDate": "20260705"}, ["EARLY", "LOCAL"]),
        ("+0300", {"StudyDate": "20260705"}, ["EARLY", "LATE", "LOCAL"]),
        ("-0600", {"StudyDate": "20260704"}, ["EARLY", "LATE"]),
        ("+0000", {"StudyTime": "0530"}, ["EARLY"]),
        ("+0530", {"StudyTime": "0300"}, ["LATE"]),
        (
            "+0000",
            {"StudyDate": "20260704-20260705", "StudyTime": "2100-0531"},
            ["EARLY", "LATE", "LOCAL"],
        ),
        ("+0000", {"StudyDate": "20260704-20260705", "StudyTime": "2131-0529"}, ["LOCAL"]),
        ("+0000", {"StudyDate": "20260101-20260301"}, ["BROKEN"]),
    ],
)
def test_days_and_times_are_those_of_the_zone_of_the_query(
    ask: Ask, zone: str, asked: dict[str, str], expected: list[str]
) -> None:
    assert ask(TimezoneOffsetFromUTC=zone, **asked) == expected


def test_a_zone_that_is_none_is_refused(http: requests.Session, root: str) -> None:
    answer = http.get(f"{root}/studies", params={"TimezoneOffsetFromUTC": "CET"})

    assert answer.status_code == 400
    assert "&ZZXX" in answer.json()["error"]


def test_an_empty_value_matches_only_when_asked(ask: Ask) -> None:
    everything = ask(PatientName='""')

    assert ask(PatientName='""', emptyvaluematching="true") == ["EMPTY"]
    assert len(everything) >= len(STUDIES)
    assert ask(StudyDescription='""', AccessionNumber="E*", emptyvaluematching="true") == ["EMPTY"]


def test_several_values_match_any_or_all(ask: Ask) -> None:
    of_both = ask(ModalitiesInStudy="IO\\PX", multiplevaluematching="true")

    assert of_both == ["MEYER"]
    assert "MEYER" in ask(ModalitiesInStudy="PX,CT")
    assert ask(ModalitiesInStudy="PX\\CT", multiplevaluematching="true") == []


def test_what_is_computed_can_be_matched(ask: Ask) -> None:
    assert ask(NumberOfStudyRelatedInstances="2", AccessionNumber="M*") == ["MEYER"]
    assert ask(NumberOfStudyRelatedSeries="2", AccessionNumber="M*") == ["MEYER"]
    assert "MEYER" in ask(InstanceAvailability="ONLINE")
    assert ask(InstanceAvailability="NEARLINE") == []


def test_keys_of_a_sequence_match_within_one_item(
    http: requests.Session, root: str, store: Store, image: Image, encode: Encode
) -> None:
    items = []
    for step, procedure in (("S1", "P1"), ("S2", "P2")):
        item = pydicom.Dataset()
        item.ScheduledProcedureStepID, item.RequestedProcedureID = step, procedure
        code = pydicom.Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = f"C{step}", "99X", "x"
        item.ScheduledProtocolCodeSequence = [code]
        items.append(item)
    dataset = image(SeriesInstanceUID=generate_uid(), RequestAttributesSequence=items)
    assert store(encode(dataset)).status_code == 200

    def found(**keys: str) -> bool:
        parameters = {f"RequestAttributesSequence.{key.replace('__', '.')}": value
                      for key, value in keys.items()}  # fmt: skip
        parameters["SeriesInstanceUID"] = dataset.SeriesInstanceUID
        answer = http.get(f"{root}/series", params={**parameters, "emptyvaluematching": "true"})
        assert answer.status_code == 200, answer.text
        return len(answer.json()) == 1

    assert found(ScheduledProcedureStepID="S1", RequestedProcedureID="P1")
    assert not found(ScheduledProcedureStepID="S1", RequestedProcedureID="P2")
    assert found(ScheduledProtocolCodeSequence__CodeValue="CS2")
    assert found(ScheduledProtocolCodeSequence__CodeValue="C?1", RequestedProcedureID="P1")
    assert found(RequestedProcedureDescription='""')
    assert not found(RequestedProcedureID='""')


def test_more_is_included_where_it_is_asked_for(
    http: requests.Session, root: str, studies: dict[str, pydicom.Dataset]
) -> None:
    url = f"{root}/studies?AccessionNumber=MEYER"

    assert "00101010" not in http.get(url).json()[0]
    for field in ("PatientAge", "00101010", "all", "PatientSize,PatientAge"):
        (found,) = http.get(f"{url}&includefield={field}").json()
        assert found["00101010"] == {"vr": "AS", "Value": ["041Y"]}, field
    series = http.get(f"{root}/series?AccessionNumber=MEYER&includefield=all").json()
    assert all("00080070" in one or "00101010" in one for one in series)


def test_results_as_xml(
    http: requests.Session,
    root: str,
    studies: dict[str, pydicom.Dataset],
    parts_of: Callable[[requests.Response], list[tuple[dict[str, str], bytes]]],
) -> None:
    accept = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    answer = http.get(f"{root}/studies?PatientID=M3", headers=accept)

    parts = parts_of(answer)
    assert {headers["content-type"] for headers, _ in parts} == {"application/dicom+xml"}
    names = set()
    for _, body in parts:
        document = ElementTree.fromstring(body)
        (family,) = document.findall('.//{*}DicomAttribute[@tag="00100010"]//{*}FamilyName')
        names.add(family.text)
    assert names == {"Müller-Lüdenscheid", "MILLER"}
    nothing = http.get(f"{root}/studies?PatientID=nobody", headers=accept)
    assert (nothing.status_code, nothing.content) == (204, b"")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/dicom+json", "application/dicom+json"),
        ("application/json", "application/json"),
        ("*/*", "application/dicom+json"),
        (
            'multipart/related; type="application/dicom+xml"; q=0.5, application/json; q=0.9',
            "application/json",
        ),
        (
            'application/json; q=0.1, multipart/related; type="application/dicom+xml"',
            "multipart/related",
        ),
        ("text/html, multipart/related", "multipart/related"),
        ("application/dicom+xml", None),
        ('multipart/related; type="application/dicom"', None),
        ("text/html", None),
    ],
)
def test_the_form_is_the_callers_choice(
    http: requests.Session, root: str, studies: Any, accept: str, expected: str | None
) -> None:
    answer = http.get(f"{root}/studies?limit=2", headers={"Accept": accept})

    if expected is None:
        assert answer.status_code == 406
        assert "application/dicom+xml" in answer.json()["error"]
    else:
        assert answer.headers["Content-Type"].startswith(expected)


def next_link(answer: requests.Response) -> str | None:
    return answer.links.get("next", {}).get("url")


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
def test_links_lead_through_all_results_in_order(
    http: requests.Session, root: str, studies: Any, level: str
) -> None:
    whole = http.get(f"{root}/{level}?limit=1000").json()
    found: list[Any] = []
    url: str | None = f"{root}/{level}?limit=2"
    while url is not None:
        answer = http.get(url)
        assert answer.status_code == 200, answer.text
        assert ("Warning" in answer.headers) == (next_link(answer) is not None)
        found += answer.json()
        url = next_link(answer)

    assert found == whole


def test_links_miss_and_repeat_nothing_while_studies_arrive(
    http: requests.Session, root: str, store: Store, image: Image, encode: Encode, studies: Any
) -> None:
    days = [f"202404{n:02d}" for n in range(1, 25)]
    before = [image(StudyInstanceUID=generate_uid(), StudyDate=day) for day in days]
    assert store(*[encode(dataset) for dataset in before]).status_code == 200
    stop = threading.Event()

    def arrive() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            day = days[n * 7 % len(days)]
            store(encode(image(StudyInstanceUID=generate_uid(), StudyDate=day)))

    sender = threading.Thread(target=arrive)
    sender.start()
    try:
        found: list[str] = []
        url: str | None = f"{root}/studies?StudyDate=20240401-20240430&limit=3"
        while url is not None:
            answer = http.get(url)
            found += [one["0020000D"]["Value"][0] for one in answer.json()]
            url = next_link(answer)
    finally:
        stop.set()
        sender.join(20)

    assert len(found) == len(set(found))
    assert {dataset.StudyInstanceUID for dataset in before} <= set(found)


def test_a_continuation_that_is_none_is_refused(http: requests.Session, root: str) -> None:
    for token in ("x", "W10", "e30", "W1sxLDIsM11d", "%00"):
        answer = http.get(f"{root}/studies?continuation={token}")
        assert answer.status_code == 400, token
        assert "next" in answer.json()["error"]


def test_rows_without_dates_have_their_place_in_the_order(
    http: requests.Session, root: str, server: Server, tenant: Tenant, studies: Any
) -> None:
    with server.services.database.connection(tenant.id) as connection:
        patient = connection.execute("SELECT id FROM patients LIMIT 1").fetchone()
        assert patient is not None
        for n, (date, time) in enumerate([(None, None), (None, "10"), ("20260101", None)]):
            connection.execute(
                "INSERT INTO imaging_studies (tenant_id, patient_id, study_uid, study_date,"
                " study_time) VALUES (%s, %s, %s, %s, %s)",
                (tenant.id, patient[0], f"1.9.{n}", date, time),
            )
    whole = [s["0020000D"]["Value"][0] for s in http.get(f"{root}/studies?limit=1000").json()]
    found: list[str] = []
    url: str | None = f"{root}/studies?limit=1"
    while url is not None:
        answer = http.get(url)
        found += [one["0020000D"]["Value"][0] for one in answer.json()]
        url = next_link(answer)
    offsets = [
        http.get(f"{root}/studies?limit=1&offset={n}").json()[0]["0020000D"]["Value"][0]
        for n in range(len(whole))
    ]

    assert {"1.9.0", "1.9.1", "1.9.2"} <= set(whole)
    assert found == whole == offsets


def test_patients_are_seen_through_their_studies(
    server: Server, tenant: Tenant, studies: dict[str, pydicom.Dataset]
) -> None:
    def patients(**keys: str) -> dict[str, dict[str, Any]]:
        conditions = [condition_of(Level.PATIENT, path_of(k), v) for k, v in keys.items()]
        shape, parameters = Shape(Level.PATIENT, Level.PATIENT), Parameters(tenant_id=tenant.id)
        known = [one for one in conditions if isinstance(one, Condition)]
        query = select(shape, known, parameters, limit=100)
        with server.services.database.connection(tenant.id) as connection:
            rows = connection.execute(query.encode(), parameters.values).fetchall()
        found = [merged(shape, row, EVERYTHING) for row in rows]
        assert len(found) == len({one["00100020"]["Value"][0] for one in found})
        return {one["00100020"]["Value"][0]: one for one in found}

    found = patients(PatientID="M*")

    assert set(found) == {"M1", "M2", "M3"}
    assert found["M3"]["00201200"]["Value"] == [2]
    assert found["M1"]["00201204"]["Value"] == [2]
    assert "0020000D" not in found["M1"]
    assert set(patients(PatientName="MILLER*")) == {"M3"}
