from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.dicomweb.media_types import (
    ANY,
    DEFAULT,
    DicomChoice,
    accepted,
    choose_dicom,
    choose_frames,
    is_lossy,
    json_or_xml,
    parse_media_types,
)
from interop.errors import BadRequest, NotAcceptable

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
JPEG = "1.2.840.10008.1.2.4.50"
HTJ2K = "1.2.840.10008.1.2.4.201"
J2K = "1.2.840.10008.1.2.4.90"
DICOM_PARTS = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'


def test_parameters_quotes_and_preferences_are_read() -> None:
    found = parse_media_types(
        'image/png;q=0.5, multipart/related; TYPE="image/jpeg"; transfer-syntax=1.2 ,text/*;q=0'
    )

    assert [m.name for m in found] == ["multipart/related", "image/png"]
    assert found[0].part_type == "image/jpeg"
    assert found[0].transfer_syntax == "1.2"


def test_an_unquoted_type_parameter_is_understood() -> None:
    (found,) = parse_media_types("multipart/related; type=application/dicom; boundary=a=b")

    assert found.part_type == "application/dicom"


@pytest.mark.parametrize("text", ["text", "a/b c", "a/b;;q", "/", "a/b, ;", "x" * 5000])
def test_a_broken_accept_value_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_media_types(text)


@given(st.text(alphabet='ab/;=",* .\\q0', max_size=60))
def test_any_accept_value_is_read_or_refused(text: str) -> None:
    try:
        parse_media_types(text)
    except BadRequest:
        return


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/dicom+json"),
        ("*/*", "application/dicom+json"),
        ("application/*", "application/dicom+json"),
        ("application/json", "application/json"),
        ("text/html, application/dicom+json;q=0.1", "application/dicom+json"),
    ],
)
def test_json_is_served_under_the_accepted_name(accept: str | None, expected: str) -> None:
    assert json_or_xml(accepted(accept, None), "it is served") == expected


@pytest.mark.parametrize("accept", ["text/html", 'multipart/related; type="image/png"'])
def test_json_is_not_forced_on_who_wants_something_else(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=r"application/dicom\+json"):
        json_or_xml(accepted(accept, None), "it is served")


def test_the_accept_query_parameter_wins_over_the_header() -> None:
    assert accepted("text/html", "application/json")[0].name == "application/json"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", DicomChoice(True, ((ANY,),))),
        (DICOM_PARTS, DicomChoice(True, ((DEFAULT,),))),
        (f"{DICOM_PARTS}; transfer-syntax=*", DicomChoice(True, ((ANY,),))),
        (
            f"{DICOM_PARTS}; transfer-syntax={J2K}, {DICOM_PARTS}",
            DicomChoice(True, ((J2K, DEFAULT),)),
        ),
        ("application/dicom", DicomChoice(False, ((DEFAULT,),))),
        ("application/dicom; transfer-syntax=*", DicomChoice(False, ((ANY,),))),
        (
            f"{DICOM_PARTS};transfer-syntax={J2K};q=0.5, {DICOM_PARTS}",
            DicomChoice(True, ((DEFAULT,), (J2K,))),
        ),
        (f"application/dicom, {DICOM_PARTS}", DicomChoice(False, ((DEFAULT,),))),
    ],
)
def test_how_an_instance_is_sent(accept: str, expected: DicomChoice) -> None:
    assert choose_dicom(accepted(accept, None), single=True) == expected


def test_several_instances_are_never_a_bare_body() -> None:
    with pytest.raises(NotAcceptable, match="multipart/related"):
        choose_dicom(accepted("application/dicom", None), single=False)


@pytest.mark.parametrize(
    ("accept", "stored", "expected"),
    [
        ("*/*", EXPLICIT, (True, "application/octet-stream", EXPLICIT, False)),
        ("*/*", J2K, (True, "image/jp2", J2K, False)),
        (OCTETS, IMPLICIT, (True, "application/octet-stream", EXPLICIT, False)),
        (OCTETS, J2K, (True, "application/octet-stream", EXPLICIT, True)),
        (f"{OCTETS}; transfer-syntax=*", J2K, (True, "image/jp2", J2K, False)),
        (f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}', JPEG,
         (True, "image/jpeg", JPEG, False)),
        ('multipart/related; type="image/jpeg", ' + OCTETS, J2K,
         (True, "application/octet-stream", EXPLICIT, True)),
        ("image/jp2", J2K, (False, "image/jp2", J2K, False)),
        ("image/jphc, image/jp2;q=0.5", J2K, (False, "image/jphc", HTJ2K, True)),
        ("image/jls", EXPLICIT, (False, "image/jls", "1.2.840.10008.1.2.4.80", True)),
        ("image/jpeg", EXPLICIT, (False, "image/jpeg", "1.2.840.10008.1.2.4.70", True)),
        (f"image/jpeg; transfer-syntax={JPEG}", EXPLICIT, (False, "image/jpeg", JPEG, True)),
        ("image/*", J2K, (False, "image/jp2", J2K, False)),
        ("application/octet-stream", EXPLICIT,
         (False, "application/octet-stream", EXPLICIT, False)),
    ],
)  # fmt: skip
def test_how_a_frame_is_sent(
    accept: str, stored: str, expected: tuple[bool, str, str, bool]
) -> None:
    choice = choose_frames(accepted(accept, None), stored, single=True, can_decode=True)

    is_made = choice.decode or choice.encode
    found = (choice.multipart, choice.media_type, choice.transfer_syntax, is_made)
    assert found == expected


def test_a_frame_that_cannot_be_had_so_is_406_with_what_can() -> None:
    with pytest.raises(NotAcceptable, match=f'type="image/jp2"; transfer-syntax={J2K}'):
        choose_frames(accepted("image/jpeg", None), J2K, single=True, can_decode=False)
    with pytest.raises(NotAcceptable):
        choose_frames(accepted(OCTETS, None), J2K, single=True, can_decode=False)


def test_lossy_and_video_are_not_decompressed_unasked() -> None:
    assert is_lossy(JPEG)
    assert is_lossy("1.2.840.10008.1.2.4.102")
    assert not is_lossy(J2K)
    assert not is_lossy(EXPLICIT)
