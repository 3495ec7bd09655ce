"""Normal forms of names, what is a UID, and which kind of study an object makes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.dicom.failures import Failure
from interop.dicom.modality import study_kind
from interop.dicom.names import PersonName, matching_key, person_name
from interop.dicom.part10 import parse
from interop.dicom.received import Demographics, acquired_at, birth_date
from interop.dicom.uids import has_leading_zero, is_uid, require_uid

from .factories import encoded, instance


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Müller^Jörg", "MULLER^JORG"),
        ("  Doe ^ Jane ^^^ ", "DOE^JANE"),
        ("van  der\tBerg", "VAN DER BERG"),
        ("Yamada^Tarou=山田^太郎=", "YAMADA^TAROU=山田^太郎"),
        ("Smi?h*", "SMI?H*"),
        ("", ""),
        ("^^^", ""),
        ("ﬁ①", "FI1"),
    ],
)
def test_matching_key(text: str, key: str) -> None:
    assert matching_key(text) == key


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40))
def test_matching_key_is_stable(text: str) -> None:
    once = matching_key(text)

    assert matching_key(once) == once


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Doe^Jane^Q^Dr^Jr", PersonName("Doe", "Jane", "Q", "Dr", "Jr")),
        ("Doe", PersonName("Doe")),
        ("=山田^太郎", PersonName("山田", "太郎")),
        ("^^=", PersonName()),
    ],
)
def test_person_name(text: str, name: PersonName) -> None:
    assert person_name(text) == name


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "1.02.3", "2.25." + "9" * 39, "1" * 64])
def test_uids(uid: str) -> None:
    assert is_uid(uid)
    assert require_uid(uid, "UID") == uid


@pytest.mark.parametrize("text", ["1.", ".1", "1..2", "1" * 65, "1.2/3", "1.2\n", "1.2 ", "١.٢"])
def test_no_uids(text: str) -> None:
    assert not is_uid(text)
    with pytest.raises(Failure) as caught:
        require_uid(text, "Study Instance UID")
    assert "Study Instance UID" in caught.value.message


def test_leading_zeros() -> None:
    assert has_leading_zero("1.02.3")
    assert not has_leading_zero("1.0.3")


@pytest.mark.parametrize(
    ("modality", "sop_class", "words", "kind"),
    [
        ("IO", "1.2.840.10008.5.1.4.1.1.1.3", "", "INTRAORAL"),
        ("PX", "1.2.840.10008.5.1.4.1.1.1.1", "", "PANORAMIC"),
        ("CT", "1.2.840.10008.5.1.4.1.1.2", "Cone beam", "CBCT"),
        ("CT", "1.2.840.10008.5.1.4.1.1.2", "MANDIBLE", "CBCT"),
        ("CT", "1.2.840.10008.5.1.4.1.1.2", "ABDOMEN", "OTHER"),
        ("DX", "1.2.840.10008.5.1.4.1.1.1.1", "Panoramic view", "PANORAMIC"),
        ("XC", "1.2.840.10008.5.1.4.1.1.77.1.4", "", "PHOTO"),
        ("XC", "1.2.840.10008.5.1.4.1.1.77.1.4.1", "", "VIDEO"),
        ("OT", "1.2.840.10008.5.1.4.1.1.7", "", "PHOTO"),
        ("SR", "1.2.840.10008.5.1.4.1.1.88.34", "", "OTHER"),
        ("SEG", "1.2.840.10008.5.1.4.1.1.66.4", "dental", "OTHER"),
        ("MR", "1.2.840.10008.5.1.4.1.1.4", "TMJ", "OTHER"),
    ],
)
def test_study_kind(modality: str, sop_class: str, words: str, kind: str) -> None:
    assert study_kind(modality, sop_class, words) == kind


@pytest.mark.parametrize(
    ("attributes", "moment"),
    [
        ({}, datetime(2026, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (
            {"TimezoneOffsetFromUTC": "+0200"},
            datetime(2026, 1, 2, 10, 11, 12, tzinfo=timezone(timedelta(hours=2))),
        ),
        (
            {"AcquisitionDateTime": "20251231235959.5-0530"},
            datetime(2025, 12, 31, 23, 59, 59, 500_000, timezone(-timedelta(hours=5, minutes=30))),
        ),
        (
            {"AcquisitionDate": "20250607", "AcquisitionTime": "0809"},
            datetime(2025, 6, 7, 8, 9, tzinfo=UTC),
        ),
        ({"StudyTime": ""}, datetime(2026, 1, 2, tzinfo=UTC)),
        ({"StudyDate": ""}, None),
    ],
)
def test_acquisition_time(attributes: dict[str, str], moment: datetime | None) -> None:
    assert acquired_at(parse(encoded(instance(**attributes)))) == moment


@pytest.mark.parametrize("text", ["", "00000000", "20261301", "18000101", "abc", "2026"])
def test_dates_that_nobody_was_born_on(text: str) -> None:
    assert birth_date(text) is None


def test_only_what_both_know_can_differ() -> None:
    known = Demographics("Doe^Jane", "19800102", "")
    said = Demographics("DOE^JANE^", "", "F")

    assert known.differences(said) == []
    assert known.differences(Demographics("Roe^Jane", "19800103", "M")) == [
        "PatientName",
        "PatientBirthDate",
    ]
