"""WADO-URI against the real server (PS3.18 9)."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from PIL import Image as Pillow
from pydicom.data import get_testdata_file

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]
Ask = Callable[..., requests.Response]

JPEG_LS = "1.2.840.10008.1.2.4.80"


@pytest.fixture(scope="module")
def ask(http: requests.Session, root: str) -> Ask:
    """Asks for an instance by the parameters of a URL; None leaves one out."""

    def get(dataset: pydicom.Dataset, accept: str = "*/*", **parameters: object) -> Any:
        query: dict[str, Any] = {
            "requestType": "WADO",
            "studyUID": dataset.StudyInstanceUID,
            "seriesUID": dataset.SeriesInstanceUID,
            "objectUID": dataset.SOPInstanceUID,
            **parameters,
        }
        url = root.removesuffix("/dicom-web") + "/wado"
        return http.get(url, params=query, headers={"Accept": accept})

    return get


@pytest.fixture(scope="module")
def single(store: Store, image: Image, encode: Encode) -> pydicom.Dataset:
    """An image of 60 by 40, its right half brighter."""
    pixels = np.zeros((40, 60), np.uint16)
    pixels[:, 30:] = 1000
    dataset = image(
        Rows=40, Columns=60, PixelData=pixels.tobytes(), WindowCenter="2000", WindowWidth="4000"
    )
    assert store(encode(dataset)).status_code == 200
    return dataset


@pytest.fixture(scope="module")
def several(store: Store, image: Image, encode: Encode) -> pydicom.Dataset:
    """Three frames, each brighter than the last."""
    pixels = np.repeat(np.array([0, 2000, 4000], np.uint16), 16 * 24)
    dataset = image(
        NumberOfFrames=3, PixelData=pixels.tobytes(), WindowCenter="2000", WindowWidth="4000"
    )
    assert store(encode(dataset)).status_code == 200
    return dataset


def opened(answer: requests.Response) -> Pillow.Image:
    assert answer.status_code == 200, answer.text
    return Pillow.open(io.BytesIO(answer.content))


def test_what_an_instance_is_shows_in_its_own_study_only(
    ask: Ask, single: pydicom.Dataset, several: pydicom.Dataset
) -> None:
    """Who may see one study must not learn of another's instances by what is refused of them."""
    elsewhere = {"studyUID": single.StudyInstanceUID, "seriesUID": single.SeriesInstanceUID}
    own = ask(several, rows=16)

    theirs = ask(several, rows=16, **elsewhere)
    nobodys = ask(several, rows=16, objectUID="1.2.3.4", **elsewhere)

    assert own.status_code == 400
    assert (theirs.status_code, theirs.content) == (404, nobodys.content)


def test_an_image_is_a_jpeg_unless_dicom_is_asked_for(
    ask: Ask, single: pydicom.Dataset, encode: Encode
) -> None:
    shown = opened(ask(single))
    dicom = ask(single, contentType="application/dicom")

    assert (shown.format, shown.size) == ("JPEG", (60, 40))
    assert dicom.content == encode(single)
    assert dicom.headers["Content-Type"].startswith("application/dicom")
    assert dicom.headers["Content-Disposition"].startswith("attachment")


def test_several_frames_are_dicom_unless_one_is_named(ask: Ask, several: pydicom.Dataset) -> None:
    whole = ask(several)
    values = [
        opened(ask(several, frameNumber=n, contentType="image/png")).getpixel((5, 5))
        for n in (1, 2, 3)
    ]

    assert whole.headers["Content-Type"].startswith("application/dicom")
    assert values == sorted(values) and values[2] == 255
    assert ask(several, frameNumber=4).status_code == 404


def test_transfer_syntax_of_the_caller(ask: Ask, single: pydicom.Dataset) -> None:
    answer = ask(single, contentType="application/dicom", transferSyntax=JPEG_LS)

    made = pydicom.dcmread(io.BytesIO(answer.content))
    assert made.file_meta.TransferSyntaxUID == JPEG_LS
    assert np.array_equal(made.pixel_array, single.pixel_array)
    lossy = ask(single, contentType="application/dicom", transferSyntax="1.2.840.10008.1.2.4.50")
    assert lossy.status_code == 406
    assert JPEG_LS in lossy.json()["error"]


def test_window_size_region_quality_and_annotation(ask: Ask, single: pydicom.Dataset) -> None:
    png = {"contentType": "image/png"}
    windowed = opened(ask(single, windowCenter=500, windowWidth=1000, **png))
    small = opened(ask(single, rows=20, columns=20, **png))
    large = opened(ask(single, rows=400, **png))
    right = opened(ask(single, region="0.5,0,1,0.5", **png))
    low, high = (ask(single, imageQuality=quality).content for quality in (1, 100))
    named = opened(ask(single, annotation="patient", **png))

    assert windowed.getpixel((50, 20)) == 255
    assert small.size == (20, 13)
    # The most that it may have: an image is not blown up.
    assert large.size == (60, 40)
    assert right.size == (30, 20)
    assert np.ptp(np.asarray(right)) == 0
    assert len(low) < len(high)
    assert np.asarray(named).max() == 255


def test_reports_are_html_and_pdf_is_pdf(
    ask: Ask, store: Store, image: Image, encode: Encode
) -> None:
    path = get_testdata_file("reportsi.dcm", download=False)
    assert isinstance(path, str)
    with open(path, "rb") as file:
        assert store(file.read()).status_code in (200, 202)
    pdf = b"%PDF-1.4\n" + b"x" * 3000
    document = image(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", Modality="DOC", PixelData=b"",
        MIMETypeOfEncapsulatedDocument="application/pdf", EncapsulatedDocumentLength=len(pdf),
    )  # fmt: skip
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(document, keyword)
    document.EncapsulatedDocument = pdf + b"\0"
    assert store(encode(document)).status_code == 200

    report, answer = ask(pydicom.dcmread(path)), ask(document)

    assert report.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.content == pdf
    for document_answer in (report, answer):
        assert document_answer.headers["Content-Disposition"].startswith("attachment")
        assert "sandbox" in document_answer.headers["Content-Security-Policy"]
        assert document_answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"requestType": "WADO2"}, 400),
        ({"requestType": None}, 400),
        ({"seriesUID": None}, 400),
        ({"studyUID": "../etc"}, 400),
        ({"studyUID": "1.2.3"}, 404),
        ({"objectUID": "1.2.3"}, 404),
        ({"objectUID": "1.2.3", "contentType": "image/jpeg"}, 404),
        ({"anonymize": "yes"}, 400),
        ({"presentationUID": "1.2.3", "presentationSeriesUID": "1.2.3"}, 400),
        ({"rows": "0"}, 400),
        ({"rows": "x"}, 400),
        ({"region": "0,0,2,1"}, 400),
        ({"region": "1,1,0,0"}, 400),
        ({"windowCenter": "5"}, 400),
        ({"windowCenter": "5", "windowWidth": "nan"}, 400),
        ({"imageQuality": "101"}, 400),
        ({"frameNumber": "0"}, 400),
        ({"contentType": "application/dicom", "rows": "5"}, 400),
        ({"contentType": "application/dicom", "transferSyntax": "x"}, 400),
        ({"contentType": "image/jpeg", "transferSyntax": JPEG_LS}, 400),
        ({"contentType": "video/mp4"}, 406),
        ({"contentType": "text/html"}, 406),
        ({"nothing": "known"}, 400),
    ],
)
def test_what_cannot_be_is_refused(
    ask: Ask, single: pydicom.Dataset, parameters: dict[str, Any], status: int
) -> None:
    answer = ask(single, **parameters)

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_it_asks_for_a_token_and_a_permission_and_writes_one_audit_row(
    server: Any, tenant: Any, other_tenant: Any, root: str, single: pydicom.Dataset, ask: Ask
) -> None:
    url = ask(single).url
    marker = pydicom.uid.generate_uid()

    def get(session: Any, address: str = url) -> int:
        return int(session.get(address, headers={"X-Request-Id": marker}).status_code)

    assert requests.get(url, timeout=30).status_code == 401
    assert get(server.session(tenant, "system/Patient.rs")) == 403
    theirs = url.replace(f"/t/{tenant.slug}/", f"/t/{other_tenant.slug}/")
    assert get(server.session(other_tenant), theirs) == 404
    assert get(server.session(tenant)) == 200
    with server.services.database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT event_type, outcome FROM audit_events WHERE tenant_id = %s AND request_id = %s"
            " ORDER BY outcome",
            (tenant.id, marker),
        ).fetchall()
    assert rows == [("ACCESS_DENIED", "FAILURE"), ("IMAGING_RENDERED", "SUCCESS")]
