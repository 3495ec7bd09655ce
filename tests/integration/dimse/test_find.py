"""C-FIND as pynetdicom's SCU sees it: levels, matching, identifiers, statuses (PS3.4 C.4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from interop.dimse import c_get, c_move, find_statements
from tests.integration.dimse.finding import (
    PATIENT_ROOT,
    STUDY_ROOT,
    Archive,
    associated,
    fill,
    filled,
    find,
    identifier,
    listening,
    query,
)
from tests.waiting import eventually

MATCHES, SOME_KEYS_UNMATCHED = {0xFF00}, {0xFF01}


@pytest.fixture(scope="module")
def archive(services: Any, tenant: Any, other_tenant: Any) -> Archive:
    return filled(services, tenant, other_tenant)


@pytest.fixture(scope="module")
def port(services: Any, archive: Archive) -> Iterator[int]:
    with listening(services) as found:
        yield found


def names(archive: Archive, uids: list[Any]) -> list[str]:
    """The studies of these UIDs, in order of name."""
    known = {study.uid: name for name, study in archive.items()}
    return sorted(known[uid] for uid in uids)


# -- matching -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ["ct", "old", "umlaut"]),
        ({"PatientID": "*"}, ["ct", "old", "umlaut"]),
        ({"PatientID": "P1"}, ["ct", "old"]),
        ({"PatientID": "p1"}, []),
        ({"PatientName": "doe^jane"}, ["ct", "old"]),
        ({"PatientName": "muller*"}, ["umlaut"]),
        ({"PatientName": "*J?rg"}, ["umlaut"]),
        ({"PatientName": "MÜLLER^JÖRG"}, ["umlaut"]),
        ({"AccessionNumber": "A?"}, ["ct", "old", "umlaut"]),
        ({"StudyDate": "20260102"}, ["ct"]),
        ({"StudyDate": "20260101-20261231"}, ["ct", "umlaut"]),
        ({"StudyDate": "-20251231"}, ["old"]),
        ({"StudyTime": "2359-"}, ["old"]),
        ({"ModalitiesInStudy": "IO"}, ["old"]),
        ({"ModalitiesInStudy": ["IO", "CT"]}, ["ct", "old", "umlaut"]),
        ({"NumberOfStudyRelatedInstances": "6"}, ["ct"]),
        ({"PatientName": "DOE*", "StudyDate": "2026010?"}, None),
    ],
)
def test_studies_that_match(
    port: int, archive: Archive, keys: dict[str, Any], expected: list[str] | None
) -> None:
    asked = identifier("STUDY", StudyInstanceUID="", SpecificCharacterSet="ISO_IR 192")
    for keyword, value in keys.items():
        add(asked, keyword, value)

    found = query(port, asked)

    if expected is None:
        assert (found.status.Status, found.matches) == (0xC000, [])
        assert found.status.OffendingElement == 0x00080020
        return
    assert found.status.Status == 0
    assert names(archive, found.values("StudyInstanceUID")) == expected
    assert found.pending <= MATCHES


def add(asked: Dataset, keyword: str, value: Any) -> None:
    """A key whose value may be no value of its VR, as those of queries may."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    asked.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=0))


def test_a_list_of_uids_matches_each(port: int, archive: Archive) -> None:
    uids = [archive["ct"].uid, archive["umlaut"].uid, archive["foreign"].uid, "1.2.3"]

    found = query(port, identifier("STUDY", StudyInstanceUID=uids))

    assert names(archive, found.values("StudyInstanceUID")) == ["ct", "umlaut"]


def test_a_sequence_matches_by_its_item(port: int, archive: Archive) -> None:
    item, other = Dataset(), Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "RP*", ""
    other.RequestedProcedureID = "RP2"
    study = archive["ct"]
    keys = {"StudyInstanceUID": study.uid, "SeriesInstanceUID": ""}

    found = query(port, identifier("SERIES", RequestAttributesSequence=[item], **keys))
    missed = query(port, identifier("SERIES", RequestAttributesSequence=[other], **keys))

    assert sorted(found.values("SeriesInstanceUID")) == sorted(study.series)
    sequence = found.matches[0].RequestAttributesSequence
    assert [one.ScheduledProcedureStepID for one in sequence] == ["SPS1"]
    assert (missed.status.Status, missed.matches) == (0, [])


# -- levels -------------------------------------------------------------------------------------


def test_series_of_a_study(port: int, archive: Archive) -> None:
    study = archive["ct"]
    asked = identifier(
        "SERIES", StudyInstanceUID=study.uid, SeriesInstanceUID="", Modality="CT",
        SeriesNumber=None, NumberOfSeriesRelatedInstances=None, BodyPartExamined="",
    )  # fmt: skip

    found = query(port, asked)

    assert found.values("SeriesInstanceUID") == study.series
    assert found.values("SeriesNumber") == [1, 2]
    assert found.values("NumberOfSeriesRelatedInstances") == [3, 3]
    assert found.values("BodyPartExamined") == ["JAW", "JAW"]


@pytest.mark.parametrize("further", [{}, {"BitsAllocated": None, "PatientAge": ""}])
def test_images_of_a_series(port: int, archive: Archive, further: dict[str, Any]) -> None:
    """By columns alone, and by the stored header where it is asked for more."""
    study = archive["ct"]
    asked = identifier(
        "IMAGE", StudyInstanceUID=study.uid, SeriesInstanceUID=study.series[1],
        SOPInstanceUID="", SOPClassUID="", InstanceNumber=None, Rows=None, Columns=None,
        InstanceAvailability="", **further,
    )  # fmt: skip

    found = query(port, asked)

    assert found.pending == MATCHES
    assert found.values("InstanceNumber") == [1, 2, 3]
    assert found.values("Rows") == [4, 4, 4]
    assert found.values("Columns") == [2, 2, 2]
    assert set(found.values("InstanceAvailability")) == {"ONLINE"}
    assert len(set(found.values("SOPInstanceUID"))) == 3
    if further:
        assert found.values("BitsAllocated") == [8, 8, 8]
        assert found.values("PatientAge") == ["045Y"] * 3


def test_patients_of_the_patient_root(port: int, archive: Archive) -> None:
    asked = identifier(
        "PATIENT", PatientID="", PatientName="", IssuerOfPatientID="", PatientSex="",
        NumberOfPatientRelatedStudies=None, NumberOfPatientRelatedInstances=None,
    )  # fmt: skip

    found = query(port, asked, PATIENT_ROOT)

    assert found.values("PatientID") == ["P1", "P2"]
    assert [str(name) for name in found.values("PatientName")] == ["DOE^JANE", "Müller^Jörg"]
    assert found.values("PatientSex") == ["F", "M"]
    assert found.values("NumberOfPatientRelatedStudies") == [2, 1]
    assert found.values("NumberOfPatientRelatedInstances") == [7, 1]


def test_studies_of_a_patient_in_the_patient_root(port: int, archive: Archive) -> None:
    found = query(port, identifier("STUDY", PatientID="P1", StudyInstanceUID=""), PATIENT_ROOT)

    assert names(archive, found.values("StudyInstanceUID")) == ["ct", "old"]


@pytest.mark.parametrize("level", ["PATIENT", "STUDY", "SERIES", "IMAGE"])
def test_every_match_comes_once_however_small_the_pages(
    port: int, archive: Archive, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    keys = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}
    key = keys.get(level, "SOPInstanceUID")
    asked = identifier(level, **{key: ""})

    def ask() -> list[Any]:
        # Relational, so that one query sees all there is.
        return query(port, asked, PATIENT_ROOT, extended=b"\1").values(key)

    whole = ask()
    monkeypatch.setattr("interop.dimse.c_find.FIRST_PAGE", 1)
    monkeypatch.setattr(find_statements, "NEXT_PAGE", 2)

    assert ask() == whole
    assert len(set(whole)) == len(whole) == {"PATIENT": 2, "STUDY": 3, "SERIES": 4}.get(level, 8)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sop_class", "level", "keys", "offending"),
    [
        (STUDY_ROOT, "SERIES", {}, [0x0020000D]),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": ""}, [0x0020000D]),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": ["1.2", "1.3"]}, [0x0020000D]),
        (STUDY_ROOT, "IMAGE", {"SOPInstanceUID": "1.2"}, [0x0020000D, 0x0020000E]),
        (STUDY_ROOT, "IMAGE", {"StudyInstanceUID": "1.2"}, [0x0020000E]),
        (PATIENT_ROOT, "STUDY", {"StudyInstanceUID": "1.2"}, [0x00100020]),
        (PATIENT_ROOT, "STUDY", {"PatientID": "P*"}, [0x00100020]),
        (STUDY_ROOT, "PATIENT", {"PatientID": "P1"}, [0x00080052]),
        (STUDY_ROOT, "INSTANCE", {}, [0x00080052]),
        (STUDY_ROOT, "", {}, [0x00080052]),
    ],
)
def test_an_identifier_that_does_not_fit_the_model_is_a900(
    port: int, sop_class: str, level: str, keys: dict[str, Any], offending: list[int]
) -> None:
    found = query(port, identifier(level, **keys), sop_class)

    assert (found.status.Status, found.matches) == (0xA900, [])
    given = found.status.OffendingElement
    assert [given] == offending or list(given) == offending
    assert 0 < len(found.status.ErrorComment) <= 64


def test_relational_queries_need_no_unique_keys_above(port: int, archive: Archive) -> None:
    found = query(port, identifier("IMAGE", SOPInstanceUID="", Modality="IO"), extended=b"\1")

    assert len(found.matches) == 1


@pytest.mark.parametrize(
    ("keys", "offending"),
    [
        ({"StudyDate": "yesterday"}, 0x00080020),
        ({"StudyInstanceUID": "1.2.x"}, 0x0020000D),
        ({"PatientBirthDate": "19800230"}, 0x00100030),
        ({"PatientName": "DOE\x07"}, 0x00100010),
    ],
)
def test_a_value_that_cannot_be_understood_is_named(
    port: int, keys: dict[str, Any], offending: int
) -> None:
    asked = identifier("STUDY")
    for keyword, value in keys.items():
        add(asked, keyword, value)

    found = query(port, asked)

    assert (found.status.Status, found.matches) == (0xC000, [])
    assert found.status.OffendingElement == offending


# -- what is returned -----------------------------------------------------------------------------


def test_a_response_says_what_was_asked_and_where_it_comes_from(
    port: int, archive: Archive
) -> None:
    asked = identifier("STUDY", StudyInstanceUID=archive["ct"].uid, StudyDescription="")

    match = query(port, asked).matches[0]

    assert {element.keyword: element.value for element in match} == {
        "QueryRetrieveLevel": "STUDY",
        "RetrieveAETitle": "INTEROP",
        "StudyDescription": "CBCT of the jaw",
        "StudyInstanceUID": archive["ct"].uid,
    }


def test_keys_that_are_not_kept_are_left_out_and_said_so(port: int, archive: Archive) -> None:
    asked = identifier("STUDY", StudyInstanceUID="", Modality="XX", GantryID="")

    found = query(port, asked)

    # An optional key that cannot be matched does not count (PS3.4 C.2.2.1.3).
    assert names(archive, found.values("StudyInstanceUID")) == ["ct", "old", "umlaut"]
    assert found.pending == SOME_KEYS_UNMATCHED
    assert not any("Modality" in match or "GantryID" in match for match in found.matches)


def test_attributes_of_the_first_instance_are_returned_with_study_and_series(
    port: int, archive: Archive
) -> None:
    study = archive["ct"].uid

    of_study = query(port, identifier("STUDY", StudyInstanceUID=study, PatientAge=""))
    of_series = query(
        port, identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", InstitutionName="")
    )

    assert of_study.values("PatientAge") == ["045Y"]
    assert of_series.values("InstitutionName") == ["Praxis Dr. Groß"] * 2


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_transfer_syntax_has_the_same_answer(
    port: int, archive: Archive, syntax: str
) -> None:
    study = archive["ct"]
    asked = identifier(
        "IMAGE", StudyInstanceUID=study.uid, SeriesInstanceUID=study.series[0],
        SOPInstanceUID="", Rows=None, BitsAllocated=None, RequestAttributesSequence=[],
    )  # fmt: skip

    other = query(port, asked, transfer_syntax=syntax).matches
    usual = query(port, asked).matches

    assert [match.to_json_dict() for match in other] == [match.to_json_dict() for match in usual]
    assert usual[0].RequestAttributesSequence[0].RequestedProcedureID == "RP1"


@pytest.mark.parametrize(
    ("asked_in", "answered_in"),
    [
        (None, "ISO_IR 192"),
        ("ISO_IR 100", "ISO_IR 100"),
        ("ISO_IR 192", "ISO_IR 192"),
        ("ISO_IR 144", "ISO_IR 192"),  # Cyrillic has no umlaut
        ("GB18030", "GB18030"),
    ],
)
def test_names_survive_whatever_character_set_is_asked_for(
    port: int, asked_in: str | None, answered_in: str
) -> None:
    asked = identifier("STUDY", PatientID="P2", PatientName="")
    if asked_in is not None:
        asked.SpecificCharacterSet = asked_in

    match = query(port, asked).matches[0]

    assert str(match.PatientName) == "Müller^Jörg"
    assert match.SpecificCharacterSet == answered_in


@pytest.mark.parametrize("character_set", ["ISO_IR 100", "ISO_IR 192", "GB18030"])
def test_a_key_is_read_in_its_own_character_set(
    port: int, archive: Archive, character_set: str
) -> None:
    asked = identifier("STUDY", StudyInstanceUID="")
    asked.SpecificCharacterSet = character_set
    asked.PatientName = "Müller^Jörg"

    assert names(archive, query(port, asked).values("StudyInstanceUID")) == ["umlaut"]


# -- extended negotiation -------------------------------------------------------------------------


def test_extended_negotiation_is_answered_honestly(port: int) -> None:
    with associated(port, extended=b"\1" * 7) as association:
        answers = association.acceptor.sop_class_extended

    # All but the conversion of enhanced multi-frame images (PS3.4 Table C.5-2).
    assert answers[STUDY_ROOT] == b"\1\1\1\1\0\1\1"


@pytest.mark.parametrize(
    ("extended", "expected"), [(b"\0\0", ["umlaut"]), (b"\0\1", ["ct", "umlaut"])]
)
def test_date_and_time_are_one_range_where_that_was_negotiated(
    port: int, archive: Archive, extended: bytes, expected: list[str]
) -> None:
    asked = identifier("STUDY", StudyInstanceUID="")
    add(asked, "StudyDate", "20260102-20260103")
    add(asked, "StudyTime", "100000-235900" if extended == b"\0\1" else "230000-235900")

    found = query(port, asked, extended=extended)

    assert names(archive, found.values("StudyInstanceUID")) == expected


def test_names_are_matched_by_meaning_where_that_was_negotiated(
    port: int, archive: Archive
) -> None:
    asked = identifier("STUDY", StudyInstanceUID="", PatientName="Jorg Muller")

    plain = query(port, asked)
    fuzzy = query(port, asked, extended=b"\0\0\1")

    assert plain.matches == []
    assert names(archive, fuzzy.values("StudyInstanceUID")) == ["umlaut"]


def test_dates_are_of_the_zone_of_the_query_where_that_was_negotiated(
    port: int, archive: Archive
) -> None:
    # 23:30 on January 3 at +0100 is January 4 in Tokyo.
    asked = identifier("STUDY", StudyInstanceUID="", StudyDate="20260104")
    asked.TimezoneOffsetFromUTC = "+0900"

    assert query(port, asked).matches == []
    found = query(port, asked, extended=b"\0\0\0\1")
    assert names(archive, found.values("StudyInstanceUID")) == ["umlaut"]
    assert found.values("TimezoneOffsetFromUTC") == ["+0100"]


def test_empty_values_are_asked_for_where_that_was_negotiated(port: int, archive: Archive) -> None:
    asked = identifier("STUDY", StudyInstanceUID="", StudyDescription='""')

    found = query(port, asked, extended=b"\0\0\0\0\0\1")

    assert names(archive, found.values("StudyInstanceUID")) == ["old", "umlaut"]
    assert len(query(port, asked).matches) == 3


# -- rights and records ---------------------------------------------------------------------------


def test_an_entity_without_the_right_gets_no_context(
    services: Any, port: int, tenant: Any, registered: Any
) -> None:
    registered("SENDONLY", may_query=False)
    entity = AE("SENDONLY")
    entity.add_requested_context(STUDY_ROOT)
    entity.add_requested_context("1.2.840.10008.1.1")

    association = entity.associate("127.0.0.1", port, ae_title="INTEROP")

    assert [context.result for context in association.rejected_contexts] == [3]
    association.release()


def test_who_is_not_registered_may_send_where_anybody_may_and_query_nowhere(
    services: Any, port: int, tenant: Any, archive: Archive
) -> None:
    statement = "UPDATE tenant_settings SET allow_any_calling_ae = %s WHERE tenant_id = %s"
    entity = AE("ANYBODY")
    for uid in (STUDY_ROOT, c_move.STUDY_ROOT_MOVE, c_get.PATIENT_ROOT_GET, CTImageStorage):
        entity.add_requested_context(uid)
    try:
        with services.database.connection(tenant.id) as connection:
            connection.execute(statement, (True, tenant.id))
        association = entity.associate("127.0.0.1", port, ae_title="INTEROP")
        accepted = [str(context.abstract_syntax) for context in association.accepted_contexts]
        association.release()
    finally:
        with services.database.connection(tenant.id) as connection:
            connection.execute(statement, (False, tenant.id))

    assert accepted == [CTImageStorage]


def test_an_entity_of_another_purpose_sees_only_patients_who_consented(
    services: Any, port: int, tenant: Any, archive: Archive, registered: Any
) -> None:
    registered("PARTNER", purpose="DATA_SHARING")
    asked = identifier("STUDY", StudyInstanceUID="")
    patients = identifier("PATIENT", PatientID="")

    before = query(port, asked, calling="PARTNER")
    with services.database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO consents (tenant_id, subject_type, subject_id, consent_type, granted_at)"
            " SELECT tenant_id, 'PATIENT', patient_id, 'DATA_SHARING', now() - interval '1 minute'"
            " FROM imaging_studies WHERE tenant_id = %s AND study_uid = %s",
            (tenant.id, archive["umlaut"].uid),
        )
    after = query(port, asked, calling="PARTNER")

    assert (before.status.Status, before.matches) == (0, [])
    assert names(archive, after.values("StudyInstanceUID")) == ["umlaut"]
    assert query(port, patients, PATIENT_ROOT, calling="PARTNER").values("PatientID") == ["P2"]
    # One that is the clinic's own sees all of them.
    assert len(query(port, asked).matches) == 3


def test_who_asked_for_what_is_written_and_whose_data_was_shown(
    services: Any, port: int, tenant: Any, archive: Archive
) -> None:
    asked = identifier("STUDY", PatientName="DOE*", StudyDate="20260102", StudyInstanceUID="")
    with services.database.connection(tenant.id) as connection:
        (began,) = connection.execute("SELECT clock_timestamp()").fetchone()

    query(port, asked)

    with services.database.connection(tenant.id) as connection:
        events = connection.execute(
            "SELECT id, outcome, metadata, ip_address::text, resource_type FROM audit_events"
            " WHERE tenant_id = %s AND event_type = 'DICOM_QUERY' AND timestamp >= %s",
            (tenant.id, began),
        ).fetchall()
        assert len(events) == 1
        event, outcome, metadata, address, resource_type = events[0]
        shown = connection.execute(
            "SELECT l.action, s.study_uid FROM phi_access_logs l JOIN imaging_studies s"
            " ON s.tenant_id = l.tenant_id AND s.patient_id = l.patient_id"
            " WHERE l.tenant_id = %s AND l.audit_event_id = %s",
            (tenant.id, event),
        ).fetchall()
    assert (outcome, resource_type) == ("SUCCESS", "ImagingStudy")
    assert address.startswith("127.0.0.1")
    assert metadata == {
        "calling_ae_title": "PEER",
        "called_ae_title": "INTEROP",
        "sop_class_uid": STUDY_ROOT,
        "level": "STUDY",
        "keys": ["StudyDate", "PatientName"],
    }
    assert ("SEARCH", archive["ct"].uid) in shown
    assert eventually(lambda: _transactions(services, tenant, began) == [("C-FIND", 0, "SUCCESS")])


@pytest.mark.parametrize("pages", [(200, 2000), (1, 2)], ids=["one page", "small pages"])
def test_each_patient_is_written_once_however_many_of_their_images_are_shown(
    services: Any,
    port: int,
    tenant: Any,
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
    pages: tuple[int, int],
) -> None:
    monkeypatch.setattr("interop.dimse.c_find.FIRST_PAGE", pages[0])
    monkeypatch.setattr(find_statements, "NEXT_PAGE", pages[1])
    with services.database.connection(tenant.id) as connection:
        (began,) = connection.execute("SELECT clock_timestamp()").fetchone()

    of_one = identifier("IMAGE", StudyInstanceUID=archive["ct"].uid, SOPInstanceUID="")
    of_all = identifier("IMAGE", SOPInstanceUID="")
    assert len(query(port, of_one, extended=b"\1").matches) == 6
    assert len(query(port, of_all, extended=b"\1").matches) == 8

    with services.database.connection(tenant.id) as connection:
        events = connection.execute(
            "SELECT e.patient_id, array_agg(l.patient_id ORDER BY l.patient_id)"
            " FROM audit_events e JOIN phi_access_logs l ON l.tenant_id = e.tenant_id"
            " AND l.audit_event_id = e.id WHERE e.tenant_id = %s AND e.timestamp >= %s"
            " GROUP BY e.id, e.patient_id, e.timestamp ORDER BY e.timestamp",
            (tenant.id, began),
        ).fetchall()
        patients = connection.execute(
            "SELECT DISTINCT patient_id FROM imaging_studies WHERE tenant_id = %s ORDER BY 1",
            (tenant.id,),
        ).fetchall()
        (of_ct,) = connection.execute(
            "SELECT patient_id FROM imaging_studies WHERE tenant_id = %s AND study_uid = %s",
            (tenant.id, archive["ct"].uid),
        ).fetchone()
    assert events[0] == (of_ct, [of_ct])
    assert events[1][1] == [row[0] for row in patients]
    assert len(events) == 2


def test_days_are_found_whatever_was_asked_before_on_the_same_connection(
    port: int, archive: Archive
) -> None:
    asked = {
        "20260102": ["ct"],
        "20260101-20261231": ["ct", "umlaut"],
        "19000101-": ["ct", "old", "umlaut"],
        "20500101-20501231": [],
        "-20251231": ["old"],
    }
    with associated(port, STUDY_ROOT) as association:
        for _ in range(4):
            for days, expected in asked.items():
                found = find(association, identifier("STUDY", StudyInstanceUID="", StudyDate=days))
                assert names(archive, found.values("StudyInstanceUID")) == expected


def _transactions(services: Any, tenant: Any, began: Any) -> list[tuple[Any, ...]]:
    with services.database.connection(tenant.id) as connection:
        found: list[tuple[Any, ...]] = connection.execute(
            "SELECT operation, status_code, status FROM dicom_transactions"
            " WHERE tenant_id = %s AND operation = 'C-FIND' AND started_at >= %s",
            (tenant.id, began),
        ).fetchall()
    return found


def test_a_refused_query_is_written_too(services: Any, port: int, tenant: Any) -> None:
    def refused() -> int:
        with services.database.connection(tenant.id) as connection:
            return connection.execute(
                "SELECT count(*) FROM audit_events WHERE tenant_id = %s"
                " AND event_type = 'DICOM_QUERY' AND outcome = 'FAILURE'",
                (tenant.id,),
            ).fetchone()[0]

    before = refused()

    query(port, identifier("SERIES"))

    assert eventually(lambda: refused() == before + 1)


def test_an_association_asks_as_often_as_it_likes(
    services: Any, port: int, tenant: Any, archive: Archive
) -> None:
    with associated(port) as association:
        first = find(association, identifier("STUDY", PatientID="P9", StudyInstanceUID=""))
        fill(services, tenant, archive["old"], 1, 1, PatientID="P9", StudyInstanceUID="1.2.9")
        second = find(association, identifier("STUDY", PatientID="P9", StudyInstanceUID=""))

    assert (first.matches, second.values("StudyInstanceUID")) == ([], ["1.2.9"])
