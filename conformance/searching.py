"""QIDO-RS, the search transaction (PS3.18 10.6), on the objects that this run has stored."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.datadict import tag_for_keyword

from conformance.peer import JSON, XML, Peer, value
from conformance.requirements import Check, NotOffered, Service, expect

SEARCH = Service("QIDO-RS")


def tag(keyword: str) -> str:
    number = tag_for_keyword(keyword)
    assert number is not None
    return f"{number:08X}"


_STUDY, _SERIES, _INSTANCE = map(tag, ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))


def _mine(peer: Peer, **parameters: str) -> list[str]:
    """Of this run's studies those that a search finds, by UID."""
    own = {one.study for one in peer.samples.all}
    found = [value(result, _STUDY) for result in peer.search("/studies", **parameters)]
    return [uid for uid in found if uid in own]


def _matches_the_ct(keyword: str, asked: Callable[[Peer], str]) -> Check:
    def check(peer: Peer) -> None:
        text = asked(peer)
        ct = peer.samples.slices[0].study
        narrowed = {"PatientID": peer.samples.token} if keyword != "PatientID" else {}
        found = _mine(peer, **{keyword: text}, **narrowed)
        expect(ct in found, f"{keyword}={text} does not find the study")
        unlike = {"StudyDate": "19010101", "StudyTime": "000001"}.get(keyword, "0.1")
        other = _mine(peer, **{keyword: unlike})
        expect(not other, f"{keyword}={unlike} finds {other}")

    check.__name__ = f"matches_studies_by_{keyword}"
    return check


# PS3.18 Table 10.6.1-5
for _keyword, _asked in (
    ("StudyDate", lambda peer: "20260102"),
    ("StudyTime", lambda peer: "101530"),
    ("AccessionNumber", lambda peer: str(peer.samples.ct.AccessionNumber)),
    ("ModalitiesInStudy", lambda peer: "CT"),
    ("ReferringPhysicianName", lambda peer: "Grün^Otto"),
    ("PatientName", lambda peer: f"{peer.samples.token}^Zoë^Q"),
    ("PatientID", lambda peer: peer.samples.token),
    ("StudyInstanceUID", lambda peer: peer.samples.slices[0].study),
    ("StudyID", lambda peer: "S7"),
):
    SEARCH.requires("PS3.18 Table 10.6.1-5", f"studies are matched by {_keyword}")(
        _matches_the_ct(_keyword, _asked)
    )


def _matches_below(level: str, keyword: str, asked: Callable[[Peer], str]) -> Check:
    def check(peer: Peer) -> None:
        one = peer.samples.slices[0]
        uid, wanted = (_SERIES, one.series) if level == "series" else (_INSTANCE, one.uid)
        found = peer.search(f"/studies/{one.study}/{level}", **{keyword: asked(peer)})
        expect(wanted in [value(r, uid) for r in found], f"{keyword}={asked(peer)} finds it not")
        none = peer.search(f"/studies/{one.study}/{level}", **{keyword: "99"})
        expect(not none, f"{keyword}=99 finds {len(none)}")

    check.__name__ = f"matches_{level}_by_{keyword.replace('.', '_')}"
    return check


for _level, _keyword, _asked in (
    ("series", "Modality", lambda peer: "CT"),
    ("series", "SeriesInstanceUID", lambda peer: peer.samples.slices[0].series),
    ("series", "SeriesNumber", lambda peer: "1"),
    ("series", "RequestAttributesSequence.ScheduledProcedureStepID", lambda peer: "SPS1"),
    ("series", "RequestAttributesSequence.RequestedProcedureID", lambda peer: "RP1"),
    ("instances", "SOPClassUID", lambda peer: str(peer.samples.ct.SOPClassUID)),
    ("instances", "SOPInstanceUID", lambda peer: peer.samples.slices[0].uid),
    ("instances", "InstanceNumber", lambda peer: "1"),
):
    SEARCH.requires("PS3.18 Table 10.6.1-5", f"{_level} are matched by {_keyword}")(
        _matches_below(_level, _keyword, _asked)
    )


@SEARCH.requires("PS3.18 Table 10.6.1-5", "series are matched by the procedure step's start")
def matches_series_by_procedure_step(peer: Peer) -> None:
    one = peer.samples.slices[0]
    asked = {
        "PerformedProcedureStepStartDate": "20260102",
        "PerformedProcedureStepStartTime": "1000-1100",
    }
    found = peer.search(f"/studies/{one.study}/series", **asked)
    expect(one.series in [value(r, _SERIES) for r in found], "not found")


@SEARCH.requires("PS3.18 8.3.4", "a tag as eight hexadecimal digits is as good as a keyword")
def takes_tags(peer: Peer) -> None:
    expect(_mine(peer, **{tag("PatientID"): peer.samples.token}), "nothing found by tag")


@SEARCH.requires("PS3.18 8.3.4.1", "* stands for any text, ? for one character")
def matches_wildcards(peer: Peer) -> None:
    token = peer.samples.token
    expect(len(set(_mine(peer, PatientID=f"{token}*"))) == 3, "token* finds not all three")
    expect(len(set(_mine(peer, PatientID=f"{token}?"))) == 1, "token? finds not the one")


@SEARCH.requires("PS3.4 C.2.2.2.1", "names are matched whatever the case", is_optional=True)
def matches_names_in_any_case(peer: Peer) -> None:
    found = _mine(peer, PatientName=f"{peer.samples.token.lower()}^zoë*")
    if not found:
        raise NotOffered("names are matched by case")


@SEARCH.requires("PS3.4 C.2.2.2.5", "ranges of dates: closed, and open at either end")
def matches_date_ranges(peer: Peer) -> None:
    token = {"PatientID": f"{peer.samples.token}*"}
    for asked, count in (("20250101-20261231", 2), ("20250101-", 2), ("-20241231", 1)):
        found = set(_mine(peer, StudyDate=asked, **token))
        expect(len(found) == count, f"StudyDate={asked} finds {len(found)}, not {count}")


@SEARCH.requires("PS3.4 C.2.2.2.2", "a list of UIDs matches each of them")
def matches_uid_lists(peer: Peer) -> None:
    assert peer.samples.multiframe is not None
    asked = f"{peer.samples.slices[0].study},{peer.samples.multiframe.study}"
    expect(len(set(_mine(peer, StudyInstanceUID=asked))) == 2, "not both are found")


@SEARCH.requires("PS3.18 Table 10.6.3-3", "a study's result has the required attributes")
def answers_study_attributes(peer: Peer) -> None:
    found = peer.search("/studies", StudyInstanceUID=peer.samples.slices[0].study)
    wanted = (
        "StudyDate StudyTime AccessionNumber ModalitiesInStudy ReferringPhysicianName PatientName "
        "PatientID PatientBirthDate PatientSex StudyInstanceUID StudyID "
        "NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances"
    )
    missing = [k for k in wanted.split() if tag(k) not in found[0]]
    expect(not missing, f"missing: {', '.join(missing)}")
    counts = value(found[0], tag("NumberOfStudyRelatedInstances"))
    expect(int(counts) >= len(peer.samples.slices) + 1, f"{counts} instances")
    modalities = set(found[0][tag("ModalitiesInStudy")]["Value"])
    expect({"CT", "SR"} <= modalities, f"ModalitiesInStudy is {modalities}")


@SEARCH.requires("PS3.18 Table 10.6.3-4", "a series' result has the required attributes")
def answers_series_attributes(peer: Peer) -> None:
    one = peer.samples.slices[0]
    found = peer.search(f"/studies/{one.study}/series", SeriesInstanceUID=one.series)
    wanted = "Modality SeriesInstanceUID SeriesNumber NumberOfSeriesRelatedInstances"
    missing = [k for k in wanted.split() if tag(k) not in found[0]]
    expect(not missing, f"missing: {', '.join(missing)}")


@SEARCH.requires("PS3.18 Table 10.6.3-5", "an instance's result has the required attributes")
def answers_instance_attributes(peer: Peer) -> None:
    one = peer.samples.slices[0]
    path = f"/studies/{one.study}/series/{one.series}/instances"
    found = peer.search(path, SOPInstanceUID=one.uid)
    wanted = "SOPClassUID SOPInstanceUID InstanceNumber Rows Columns BitsAllocated"
    missing = [k for k in wanted.split() if tag(k) not in found[0]]
    expect(not missing, f"missing: {', '.join(missing)}")


@SEARCH.requires("PS3.18 Table 10.1-1", "series and instances are found without a study too")
def searches_all_levels(peer: Peer) -> None:
    one = peer.samples.slices[0]
    expect(peer.search("/series", SeriesInstanceUID=one.series), "no series")
    expect(peer.search("/instances", SOPInstanceUID=one.uid), "no instances")


@SEARCH.requires("PS3.18 8.3.4.3", "includefield adds attributes, by keyword, by tag, and all")
def includes_fields(peer: Peer) -> None:
    one = peer.samples.slices[0]
    path = f"/studies/{one.study}/series/{one.series}/instances"
    wanted = tag("ImagePositionPatient")
    for asked in ("ImagePositionPatient", wanted, "all"):
        found = peer.search(path, SOPInstanceUID=one.uid, includefield=asked)
        expect(wanted in found[0], f"includefield={asked} adds nothing")


@SEARCH.requires("PS3.18 8.3.4.4", "limit and offset cut the results into pages")
def pages(peer: Peer) -> None:
    one = peer.samples.slices[0]
    path = f"/studies/{one.study}/instances"
    seen: list[str] = []
    for offset in range(len(peer.samples.slices) + 1):
        page = peer.search(path, limit=1, offset=offset)
        expect(len(page) == 1, f"{len(page)} results at limit=1, offset={offset}")
        seen.append(value(page[0], _INSTANCE))
    expect(len(set(seen)) == len(seen), "an instance is in two pages")


@SEARCH.requires("PS3.18 10.6.3.1", "no match is no error")
def finds_nothing(peer: Peer) -> None:
    expect(peer.search("/studies", PatientID="NO SUCH PATIENT") == [], "something was found")


@SEARCH.requires("PS3.18 10.6.3.1", "a parameter that is not understood is answered 400")
def refuses_unknown_parameters(peer: Peer) -> None:
    response = peer.get("/studies", JSON, NoSuchAttribute="1")
    expect(response.status_code == 400, str(response.status_code))


@SEARCH.requires("PS3.18 8.3.4.2", "fuzzymatching is done, or refused with Warning 299")
def matches_fuzzily_or_warns(peer: Peer) -> None:
    asked = {"PatientName": f"{peer.samples.token} zoe", "fuzzymatching": "true"}
    response = peer.get("/studies", JSON, **asked)
    expect(response.status_code in (200, 204), str(response.status_code))
    is_found = response.status_code == 200 and response.json()
    expect(is_found or "299" in response.headers.get("warning", ""), "neither found nor warned")


@SEARCH.requires("PS3.18 10.6.3.2", "results as multipart application/dicom+xml", is_optional=True)
def answers_in_xml(peer: Peer) -> None:
    accept = f'multipart/related; type="{XML}"'
    response = peer.get("/studies", accept, PatientID=peer.samples.token)
    peer.offered(response, XML)
    expect(b"NativeDicomModel" in response.content, "no Native DICOM Model")


@SEARCH.requires("PS3.18 8.7.4", "an Accept that cannot be met is answered 406")
def refuses_media_types(peer: Peer) -> None:
    response = peer.get("/studies", "text/csv")
    expect(response.status_code == 406, str(response.status_code))


@SEARCH.requires("PS3.18 10.6.3.3", "the Retrieve URL of a result can be retrieved")
def answers_with_working_urls(peer: Peer) -> None:
    found = peer.search("/instances", SOPInstanceUID=peer.samples.slices[0].uid)
    url = value(found[0], tag("RetrieveURL"))
    expect(url, "no Retrieve URL")
    response = peer.get(url, 'multipart/related; type="application/dicom"')
    expect(response.status_code == 200, f"{url}: {response.status_code}")
