"""Reports as HTML and encapsulated PDF; content of strangers stays shut in (C7, C10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydicom
import pytest
import requests

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]
Put = Callable[..., str]

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def put(store: Store, image: Image, encode: Encode) -> Put:
    """Stores an object without pixels and returns its URL."""

    def stored(**attributes: object) -> str:
        made = image(**attributes)
        for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
            delattr(made, keyword)
        answer = store(encode(made))
        assert answer.status_code == 200, answer.text
        url = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
        assert isinstance(url, str)
        return url

    return stored


def code(meaning: str, value: str = "1") -> pydicom.Dataset:
    made = pydicom.Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, "99TEST", meaning
    return made


def item(kind: str, name: str, **values: object) -> pydicom.Dataset:
    made = pydicom.Dataset()
    made.RelationshipType, made.ValueType = "CONTAINS", kind
    made.ConceptNameCodeSequence = [code(name)]
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


@pytest.fixture(scope="module")
def report(put: Put) -> str:
    measured = pydicom.Dataset()
    measured.NumericValue = "4.5"
    measured.MeasurementUnitsCodeSequence = [code("millimeter", "mm")]
    finding = item("CONTAINER", "Finding", ContentSequence=[
        item("TEXT", "Comment", TextValue=f"deep pocket {ATTACK}"),
        item("NUM", "Probing depth", MeasuredValueSequence=[measured]),
        item("CODE", "Site", ConceptCodeSequence=[code("Tooth 36")]),
        item("PNAME", "Observer", PersonName="House^Gregory"),
    ])  # fmt: skip
    return put(
        SOPClassUID=COMPREHENSIVE_SR, Modality="SR", PatientName="Doe^Jane<b>",
        ConceptNameCodeSequence=[code("Dental report")], ValueType="CONTAINER",
        CompletionFlag="COMPLETE", VerificationFlag="VERIFIED", ContentSequence=[finding],
    )  # fmt: skip


def test_a_report_is_rendered_as_html(http: requests.Session, report: str) -> None:
    answer = http.get(f"{report}/rendered", headers={"Accept": "text/html"})

    assert answer.status_code == 200
    for text in (
        "<h1>Dental report</h1>",
        "<strong>Probing depth</strong>: 4.5 mm",
        "<strong>Site</strong>: Tooth 36",
        "<strong>Observer</strong>: House Gregory",
        "COMPLETE VERIFIED",
    ):
        assert text in answer.text
    again = http.get(f"{report}/rendered", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_c10_what_a_stranger_wrote_never_runs(http: requests.Session, report: str) -> None:
    for accept in ("text/html", "*/*", "application/xhtml+xml, text/*;q=0.5"):
        answer = http.get(f"{report}/rendered", headers={"Accept": accept})

        assert answer.status_code == 200
        assert ATTACK not in answer.text and "<script" not in answer.text
        assert "&lt;script&gt;" in answer.text and "Jane&lt;b&gt;" in answer.text
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize("size", [200, 3001])
def test_c10_a_pdf_is_an_attachment_whatever_is_in_it(
    http: requests.Session, put: Put, size: int
) -> None:
    content = (b"%PDF-1.7\n<script>alert(1)</script>" + b"x" * size)[:size]
    url = put(
        SOPClassUID=PDF, Modality="DOC", MIMETypeOfEncapsulatedDocument="text/html",
        EncapsulatedDocument=content + b"\0" * (size % 2), EncapsulatedDocumentLength=size,
    )  # fmt: skip

    answer = http.get(f"{url}/rendered", headers={"Accept": "application/pdf"})
    part = http.get(f"{url}/rendered", headers={"Range": "bytes=0-7"})

    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert (part.status_code, part.content) == (206, b"%PDF-1.7")


def test_c10_accept_games_get_no_other_type(http: requests.Session, report: str, put: Put) -> None:
    pdf = put(SOPClassUID=PDF, EncapsulatedDocument=b"%PDF-1.7", EncapsulatedDocumentLength=8)

    for url, accept in (
        (report, "application/pdf"),
        (report, "image/svg+xml"),
        (report, 'multipart/related; type="text/html"'),
        (pdf, "text/html"),
        (pdf, "image/jpeg"),
    ):
        answer = http.get(f"{url}/rendered", headers={"Accept": accept})
        assert answer.status_code == 406, accept
        assert answer.headers["Content-Type"] == "application/json"
    assert http.get(f"{pdf}/rendered?contentType=text/html").status_code == 400


def test_what_is_neither_image_nor_document_is_refused_with_the_reason(
    http: requests.Session, put: Put
) -> None:
    state = put(SOPClassUID=GSPS, Modality="PR")
    empty = put(SOPClassUID=PDF, Modality="DOC")

    refused: Any = http.get(f"{state}/rendered")

    assert refused.status_code == 406
    assert "images that it references" in refused.json()["error"]
    assert http.get(f"{empty}/rendered").status_code == 422


def test_b1_an_object_never_goes_out_as_a_program(
    http: requests.Session, store: Store, image: Image, encode: Encode
) -> None:
    for magic in (b"MZ\x90\0", b"\x7fELF", b"#!/bin/sh\n", b"II*\0", b"\xcf\xfa\xed\xfe"):
        file = magic.ljust(128, b"x") + encode(image())[128:]
        url = store(file).json()["00081199"]["Value"][0]["00081190"]["Value"][0]
        for accept in ("application/dicom; transfer-syntax=*",
                       "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.80"):  # fmt: skip
            answer = http.get(url, headers={"Accept": accept})
            assert answer.content[:132] == bytes(128) + b"DICM"
            assert answer.headers["Content-Type"].startswith("application/dicom")
            assert answer.headers["Content-Disposition"].startswith("attachment")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
