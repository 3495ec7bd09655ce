"""STOW-RS of metadata with bulk data: DICOM JSON and XML against the real server (PS3.18 10.5)."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from interop.dicom.native_model import from_xml, to_xml

Image = Callable[..., pydicom.Dataset]
Json = dict[str, Any]
Part = tuple[dict[str, str], bytes]

DICOM_JSON, DICOM_XML = "application/dicom+json", "application/dicom+xml"
REFERENCED, FAILED, OTHER = "00081199", "00081198", "0008119A"
AS_STORED = {"Accept": "application/dicom; transfer-syntax=*"}
EXPLICIT = "1.2.840.10008.1.2.1"


def metadata(dataset: pydicom.Dataset, pixels: str | None = "bulk/pixels") -> Json:
    """The data set in the DICOM JSON Model; Pixel Data as a reference, or not at all."""
    found: Json = json.loads(dataset.to_json(bulk_data_threshold=1 << 30))
    if pixels is not None and "7FE00010" in found:
        found["7FE00010"] = {"vr": found["7FE00010"]["vr"], "BulkDataURI": pixels}
    return found


def body_of(*parts: Part) -> bytes:
    written = b""
    for headers, content in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        written += b"--frontier\r\n" + lines.encode() + b"\r\n" + content + b"\r\n"
    return written + b"--frontier--\r\n"


def bulk(
    content: bytes, location: str = "bulk/pixels", kind: str = "application/octet-stream"
) -> Part:
    return {"Content-Type": kind, "Content-Location": location}, content


@pytest.fixture(scope="module")
def send(http: requests.Session, root: str) -> Callable[..., requests.Response]:
    """Posts parts; the first one's type is that of the request."""

    def post(*parts: Part, study: str | None = None, accept: str = DICOM_JSON) -> requests.Response:
        kind = parts[0][0]["Content-Type"].partition(";")[0]
        headers = {
            "Content-Type": f'multipart/related; type="{kind}"; boundary=frontier',
            "Accept": accept,
        }
        url = f"{root}/studies" + (f"/{study}" if study else "")
        return http.post(url, body_of(*parts), headers=headers)

    return post


Send = Callable[..., requests.Response]


def as_json(*data_sets: Json) -> Part:
    return {"Content-Type": DICOM_JSON}, json.dumps(data_sets).encode()


def as_xml(data_set: Json) -> Part:
    return {"Content-Type": f"{DICOM_XML}; charset=utf-8"}, to_xml(data_set)


def stored(http: requests.Session, answer: requests.Response, status: int = 200) -> pydicom.Dataset:
    assert answer.status_code == status, answer.text
    (item,) = answer.json()[REFERENCED]["Value"]
    file = http.get(item["00081190"]["Value"][0], headers=AS_STORED)
    assert file.status_code == 200
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(file.content))


def comment(answer: requests.Response, sequence: str = FAILED) -> str:
    item = answer.json()[sequence]["Value"][0]
    assert item["00081197"]["Value"][0] > 0
    lines = [line["00000902"]["Value"][0] for line in item["00741048"]["Value"]]
    assert lines and all(len(line) <= 64 for line in lines)
    return " ".join(lines)


@pytest.mark.parametrize("form", [as_json, as_xml], ids=["json", "xml"])
def test_metadata_and_uncompressed_pixels_become_the_instance(
    http: requests.Session, send: Send, image: Image, form: Callable[..., Part]
) -> None:
    original = image(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")

    answer = send(form(metadata(original)), bulk(original.PixelData))

    found = stored(http, answer)
    assert found.file_meta.TransferSyntaxUID == EXPLICIT
    assert found.PixelData == original.PixelData
    assert found.PatientName.ideographic == "山田^太郎"
    assert found.SpecificCharacterSet == "ISO_IR 192"
    del found.PixelData, original.PixelData
    assert found == original


def test_an_array_of_json_is_stored_and_each_fails_alone(
    http: requests.Session, client: DICOMwebClient, send: Send, image: Image
) -> None:
    study = generate_uid()
    images = [image(StudyInstanceUID=study, InstanceNumber=n) for n in range(5)]
    data_sets = [metadata(one, f"bulk/{n}") for n, one in enumerate(images)]
    data_sets[3]["00280010"] = {"vr": "US", "Value": ["many"]}
    parts = [bulk(one.PixelData, f"bulk/{n}") for n, one in enumerate(images)]

    answer = send(as_json(*data_sets), *parts, study=study)

    assert answer.status_code == 202
    uids = [item["00081155"]["Value"][0] for item in answer.json()[REFERENCED]["Value"]]
    assert uids == [one.SOPInstanceUID for n, one in enumerate(images) if n != 3]
    (failed,) = answer.json()[FAILED]["Value"]
    assert failed["00081155"]["Value"] == [images[3].SOPInstanceUID]
    assert comment(answer) == "(0028,0010) has the value 'many', no number of vr US."
    assert len(client.search_for_instances(study)) == 4


def test_several_documents_of_xml_are_several_instances(send: Send, image: Image) -> None:
    study = generate_uid()
    images = [image(StudyInstanceUID=study) for _ in range(3)]
    documents = [as_xml(metadata(one, f"u{n}")) for n, one in enumerate(images)]
    parts = [bulk(one.PixelData, f"u{n}") for n, one in enumerate(images)]

    # Bulk data may come before what refers to it.
    answer = send(documents[0], *parts, *documents[1:], accept=DICOM_XML)

    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == DICOM_XML
    module = from_xml(answer.content)
    assert len(module[REFERENCED]["Value"]) == 3
    assert module["00081190"]["Value"][0].endswith(f"/studies/{study}")


def test_another_study_than_the_url_names_fails_alone(send: Send, image: Image) -> None:
    mine, stray = image(), image()

    answer = send(
        as_json(metadata(mine, "a"), metadata(stray, "b")),
        bulk(mine.PixelData, "a"),
        bulk(stray.PixelData, "b"),
        study=mine.StudyInstanceUID,
    )

    assert answer.status_code == 202
    (failed,) = answer.json()[FAILED]["Value"]
    assert failed["00081155"]["Value"] == [stray.SOPInstanceUID]
    assert failed["00081197"]["Value"] == [0xA900]


def test_a_request_without_parts_holds_one_instance(
    http: requests.Session, root: str, image: Image
) -> None:
    original = image()
    data_set = metadata(original, None)

    headers = {"Content-Type": DICOM_JSON}
    answer = http.post(f"{root}/studies", json.dumps(data_set).encode(), headers=headers)

    assert stored(http, answer).PixelData == original.PixelData
    in_xml = metadata(image(), None)
    headers = {"Content-Type": DICOM_XML}
    assert http.post(f"{root}/studies", to_xml(in_xml), headers=headers).status_code == 200


COMPRESSED = [
    # file of pydicom's corpus, media type, named transfer syntax, stored transfer syntax
    ("SC_rgb_jpeg_dcmtk.dcm", "image/jpeg", None, "1.2.840.10008.1.2.4.50"),
    ("JPGExtended.dcm", "image/jpeg", None, "1.2.840.10008.1.2.4.51"),
    ("SC_rgb_jpeg_gdcm.dcm", "image/jpeg", None, "1.2.840.10008.1.2.4.70"),
    ("MR_small_jpeg_ls_lossless.dcm", "image/jls", None, "1.2.840.10008.1.2.4.80"),
    ("JPEGLSNearLossless_08.dcm", "image/x-jls", None, "1.2.840.10008.1.2.4.81"),
    ("MR_small_jp2klossless.dcm", "image/jp2", None, "1.2.840.10008.1.2.4.90"),
    ("MR_small_jp2klossless.dcm", "image/jp2", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.91"),
    ("JPEG2000.dcm", "image/jp2", None, "1.2.840.10008.1.2.4.91"),
    ("MR_small_RLE.dcm", "image/dicom-rle", None, "1.2.840.10008.1.2.5"),
    ("MR_small_RLE.dcm", "image/x-dicom-rle", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.5"),
    ("MR_small_jp2klossless.dcm", "application/octet-stream", "1.2.840.10008.1.2.4.90",
     "1.2.840.10008.1.2.4.90"),
]  # fmt: skip


def frame_of(name: str) -> tuple[pydicom.Dataset, bytes]:
    dataset = pydicom.dcmread(str(get_testdata_file(name)))
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = generate_uid(), generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    return dataset, frame


@pytest.mark.parametrize(("name", "kind", "named", "syntax"), COMPRESSED)
@pytest.mark.filterwarnings("ignore")
def test_compressed_pixels_are_stored_as_they_came(
    http: requests.Session, send: Send, name: str, kind: str, named: str | None, syntax: str
) -> None:
    dataset, frame = frame_of(name)
    full = f"{kind}; transfer-syntax={named}" if named else kind

    answer = send(as_json(metadata(dataset)), bulk(frame, kind=full))

    assert answer.status_code in (200, 202), answer.text
    found = stored(http, answer, answer.status_code)
    assert found.file_meta.TransferSyntaxUID == syntax
    frames = list(pydicom.encaps.generate_frames(found.PixelData, number_of_frames=1))
    assert [one.rstrip(b"\0") for one in frames] == [frame.rstrip(b"\0")]


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_dcmtk.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
@pytest.mark.filterwarnings("ignore")
def test_the_pixel_description_may_be_left_out_of_what_says_it_itself(
    http: requests.Session, send: Send, name: str
) -> None:
    dataset, frame = frame_of(name)
    expected = dataset.pixel_array
    kind = {"jpeg_d": "image/jpeg", "jp2": "image/jp2", "jpeg_ls": "image/jls"}
    media_type = next(value for key, value in kind.items() if key in name)
    data_set = metadata(dataset)
    for tag in [tag for tag in data_set if tag.startswith("0028")]:
        del data_set[tag]

    answer = send(as_json(data_set), bulk(frame, kind=media_type))

    found = stored(http, answer)
    assert (found.Rows, found.Columns) == (dataset.Rows, dataset.Columns)
    assert found.SamplesPerPixel == dataset.SamplesPerPixel
    if dataset.SamplesPerPixel == 1:
        assert np.array_equal(found.pixel_array.astype(np.int64) & 0xFFFF,
                              expected.astype(np.int64) & 0xFFFF)  # fmt: skip
    url = answer.json()[REFERENCED]["Value"][0]["00081190"]["Value"][0]
    rendered = http.get(f"{url}/rendered")
    assert rendered.status_code == 200, rendered.text


@pytest.mark.parametrize("locations", [["p", "p", "p"], ["p/frames/2", "p/frames/1", "p/frames/3"]])
def test_each_frame_of_several_is_a_part(
    http: requests.Session, send: Send, locations: list[str]
) -> None:
    dataset, frame = frame_of("MR_small_jp2klossless.dcm")
    frames = [frame + bytes([n] * 2) for n in range(3)]
    parts = [bulk(one, at, "image/jp2") for one, at in zip(frames, locations, strict=True)]
    dataset.NumberOfFrames = 3

    answer = send(as_json(metadata(dataset, "p")), *parts)

    found = stored(http, answer)
    order = [0, 1, 2] if locations[0] == "p" else [1, 0, 2]
    got = list(pydicom.encaps.generate_frames(found.PixelData, number_of_frames=3))
    assert got == [frames[n] for n in order]
    url = answer.json()[REFERENCED]["Value"][0]["00081190"]["Value"][0]
    second = http.get(f"{url}/frames/2", headers={"Accept": "image/jp2"})
    assert second.content == frames[order[1]]


def test_a_document_comes_as_its_own_media_type(
    http: requests.Session, send: Send, image: Image
) -> None:
    report = image(Modality="DOC", SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", PixelData=b"")
    del report.PixelData
    data_set = metadata(report)
    data_set["00420012"] = {"vr": "LO", "Value": ["application/pdf"]}
    data_set["00420011"] = {"vr": "OB", "BulkDataURI": "report.pdf"}
    pdf = b"%PDF-1.7 odd"

    answer = send(as_json(data_set), bulk(pdf + b"!", "report.pdf", "application/pdf"))

    assert stored(http, answer).EncapsulatedDocument == pdf + b"!\0"


def test_a_part_may_be_named_by_content_id_or_by_its_whole_url(
    http: requests.Session, root: str, send: Send, image: Image
) -> None:
    by_id, by_url = image(), image()
    url = f"{root}/studies/bulk/pixels"
    parts = [
        as_json(metadata(by_id, "cid:pixels@here"), metadata(by_url, url)),
        ({"Content-Type": "application/octet-stream", "Content-ID": "<pixels@here>"},
         by_id.PixelData),
        bulk(by_url.PixelData, "./studies/bulk/pixels"),
    ]  # fmt: skip
    by_relative = requests.compat.urljoin(f"{root}/studies", "./studies/bulk/pixels")
    assert by_relative == url

    answer = send(*parts)

    assert answer.status_code == 200, answer.text
    assert len(answer.json()[REFERENCED]["Value"]) == 2


def test_what_is_sent_back_is_what_is_served(
    http: requests.Session, send: Send, image: Image
) -> None:
    """The metadata that the server serves, with its bulk data, is an instance for it again."""
    original = image(Rows=40, Columns=50)
    first = send(as_json(metadata(original)), bulk(original.PixelData))
    url = first.json()[REFERENCED]["Value"][0]["00081190"]["Value"][0]
    served = http.get(f"{url}/metadata").json()[0]
    uri = served["7FE00010"]["BulkDataURI"]
    pixels = http.get(uri, headers={"Accept": "application/octet-stream"}).content
    served["00080018"]["Value"] = [generate_uid()]

    again = send(as_json(served), bulk(pixels, uri))

    found = stored(http, again)
    original.SOPInstanceUID = found.SOPInstanceUID
    assert found == original


@pytest.mark.parametrize("form", [as_json, as_xml], ids=["json", "xml"])
def test_every_value_representation_survives(
    http: requests.Session, send: Send, image: Image, form: Callable[..., Part]
) -> None:
    data_set = metadata(image(), None)
    data_set |= {
        "00080062": {"vr": "UI", "Value": ["1.2.3", "1.2.4"]},
        "00081032": {"vr": "SQ", "Value": [
            {"00080100": {"vr": "SH", "Value": ["é"]}}, {}, {"00080120": {"vr": "UR"}}]},
        "00081150": {"vr": "UI"},
        "00091001": {"vr": "OB", "InlineBinary": b64encode(b"\0\1\2\3").decode()},
        "00090010": {"vr": "LO", "Value": ["ACME 1.0"]},
        "00091002": {"vr": "UN", "InlineBinary": b64encode(b"ab").decode()},
        "00181149": {"vr": "IS", "Value": [12, None, -3]},
        "00189073": {"vr": "FD", "Value": [0.1, -1e300]},
        "00187006": {"vr": "LT", "Value": ["two\r\nlines \\ and more"]},
        "00281054": {"vr": "LO", "Value": ["HU"]},
        "00282110": {"vr": "CS", "Value": ["00", None, "01"]},
        "00289001": {"vr": "UL", "Value": [4294967295]},
        "00289002": {"vr": "UL", "Value": [0]},
        "00180050": {"vr": "DS", "Value": ["0.10", None, "2"]},
        "00700022": {"vr": "FL", "Value": [1.5, 2.25]},
        "00720026": {"vr": "AT", "Value": ["00100010", "7FE00010"]},
        "00720082": {"vr": "SV", "Value": [-9007199254740993]},
        "00720083": {"vr": "UV", "Value": [18446744073709551615]},
        "00720060": {"vr": "AE", "Value": ["SCANNER"]},
        "00720065": {"vr": "OB", "InlineBinary": b64encode(bytes(8)).decode()},
        "00720067": {"vr": "OF", "InlineBinary": b64encode(bytes(8)).decode()},
        "00720069": {"vr": "OW", "InlineBinary": b64encode(bytes(8)).decode()},
        "00720073": {"vr": "OD", "InlineBinary": b64encode(bytes(8)).decode()},
        "00720075": {"vr": "OL", "InlineBinary": b64encode(bytes(8)).decode()},
        "00720081": {"vr": "OV", "InlineBinary": b64encode(bytes(8)).decode()},
        "0072006F": {"vr": "UC", "Value": ["a", "b"]},
        "00720070": {"vr": "UT", "Value": ["x" * 70_000]},
        "0072007A": {"vr": "US", "Value": [0, 65535]},
        "0072007C": {"vr": "SL", "Value": [-2147483648]},
        "0072007E": {"vr": "SS", "Value": [-32768]},
    }  # fmt: skip

    answer = send(form(data_set))

    found = stored(http, answer)
    assert found[0x00091001].value == b"\0\1\2\3"
    assert found.private_block(9, "ACME 1.0")[2].value == b"ab"
    assert [item.get("CodeValue") for item in found[0x00081032].value] == ["é", None, None]
    assert [str(v) for v in found[0x00181149].value] == ["12", "", "-3"]
    assert found[0x00180050].value[0].original_string == "0.10"
    assert found[0x00187006].value == "two\r\nlines \\ and more"
    assert found[0x00189073].value == [0.1, -1e300]
    assert found[0x00720026].value == [0x00100010, 0x7FE00010]
    assert found[0x00720082].value == -9007199254740993
    assert found[0x00720083].value == 18446744073709551615
    assert found[0x00720070].value == "x" * 70_000
    assert found[0x0072007A].value == [0, 65535]
    assert found[0x00282110].value == ["00", "", "01"]


MISTAKES: list[tuple[Json, str]] = [
    ({"00100020": {"vr": "LO", "value": ["P"]}}, "a member 'value'; accepted: vr, Value"),
    ({"00100020": {"vr": "ZZ", "Value": ["P"]}}, "(0010,0020) has the unknown vr 'ZZ'"),
    ({"PatientID": {"vr": "LO"}}, "Attribute 'PatientID': 8 hexadecimal digits"),
    ({"00280010": {"vr": "US", "Value": [65536]}}, "'65536', no number of vr US"),
    ({"00280010": {"vr": "US", "Value": [True]}}, "'True', no number of vr US"),
    ({"00100010": {"vr": "PN", "Value": [{"Latin": "X"}]}}, "object of Alphabetic"),
    ({"00100020": {"vr": "LO", "Value": ["a\\b"]}}, "a backslash in a value"),
    ({"00081032": {"vr": "SQ", "Value": ["x"]}}, "A data set is a JSON object"),
    ({"00420011": {"vr": "OB", "InlineBinary": "?"}}, "not base64"),
    ({"00420011": {"vr": "OB", "Value": [1]}}, "expected InlineBinary"),
    ({"00420011": {"vr": "OB", "BulkDataURI": "nowhere"}}, "no part of the request has this"),
    ({"00420011": {"vr": "OB", "BulkDataURI": "http://169.254.169.254/"}}, "no part of the"),
    ({"00420011": {"vr": "OB", "BulkDataURI": "a", "InlineBinary": "YQ=="}}, "more than one of"),
    ({"00080018": {"vr": "UI", "Value": ["not a uid"]}}, "SOP Instance UID (0008,0018) is not"),
    ({"00080016": {"vr": "UI"}}, "SOP Class UID (0008,0016) is missing or empty"),
    ({"00020000": {"vr": "UL"}, "FFFEE000": {"vr": "UN"}}, "(FFFE,E000) is no attribute"),
    ({"7FE00010": {"vr": "OW", "BulkDataURI": "short"}}, "has 4 bytes, its description needs 768"),
    ({"7FE00010": {"vr": "OW", "BulkDataURI": "gif"}}, "comes as image/gif; accepted"),
    ({"7FE00010": {"vr": "OW", "BulkDataURI": "wrong"}}, "image/jp2 in 1.2.840.10008.1.2.4.50"),
    ({"7FE00010": {"vr": "OW", "BulkDataURI": "broken"}}, "does not begin with its start marker"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_a_mistake_is_named_with_what_would_be_taken(
    send: Send, image: Image, wrong: Json, message: str
) -> None:
    data_set = metadata(image(), None) | wrong
    parts = [
        bulk(b"abc", "short"),
        bulk(b"GIF89a", "gif", "image/gif"),
        bulk(b"abc", "wrong", "image/jp2; transfer-syntax=1.2.840.10008.1.2.4.50"),
        bulk(b"abc", "broken", "image/jpeg"),
    ]

    answer = send(as_json(data_set), *parts)

    assert answer.status_code == 409, answer.text
    sequence = FAILED if FAILED in answer.json() else OTHER
    assert message in comment(answer, sequence)


BAD_SYNTAX = [
    (DICOM_JSON, b"[{]"),
    (DICOM_JSON, b""),
    (DICOM_JSON, b"\xff\xfe[]"),
    (DICOM_JSON, b'[{"00100010": {"vr": "PN"}, "00100010": {"vr": "PN"}}]'),
    (DICOM_JSON, b'[{"00100010": NaN}]'),
    (DICOM_XML, b"<NativeDicomModel>"),
    (DICOM_XML, b""),
    (DICOM_XML, b"<html/>"),
    (DICOM_XML, b'<!DOCTYPE x [<!ENTITY a "b">]><NativeDicomModel/>'),
    (DICOM_XML, b'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><NativeDicomModel/>'),
]


@pytest.mark.parametrize(("kind", "content"), BAD_SYNTAX)
def test_c1_c2_metadata_of_bad_syntax_is_400_with_the_place(
    send: Send, kind: str, content: bytes
) -> None:
    answer = send(({"Content-Type": kind}, content))

    assert answer.status_code == 400, answer.text
    assert answer.json()[OTHER]["Value"][0]["00081197"]["Value"] == [0xC006]
    assert comment(answer, OTHER)


@pytest.mark.parametrize("depth", [65, 5_000, 100_000])
@pytest.mark.parametrize("kind", [DICOM_JSON, DICOM_XML])
def test_b3_deep_nesting_is_refused_by_its_limit(send: Send, kind: str, depth: int) -> None:
    if kind == DICOM_JSON:
        content = b'{"00081032":{"vr":"SQ","Value":[' * depth + b"]}}" * depth
    else:
        open_, close = b"<Item number='1'>", b"</Item></DicomAttribute>"
        attribute = b'<DicomAttribute tag="00081032" vr="SQ">' + open_
        content = b"<NativeDicomModel>" + attribute * depth + close * depth
        content += b"</NativeDicomModel>"

    answer = send(({"Content-Type": kind}, content))

    assert answer.status_code in (400, 409), answer.text
    reasons = {item["00081197"]["Value"][0] for item in answer.json()[OTHER]["Value"]}
    assert reasons <= {0xC005, 0xC006, 0xC003}
    assert "nested deeper than 64" in answer.text or "missing or empty" in answer.text


def test_bulk_data_that_nothing_refers_to_is_named(send: Send, image: Image) -> None:
    answer = send(as_json(metadata(image(), None)), bulk(b"lost", "lost/and/found"))

    assert answer.status_code == 202
    assert "'lost/and/found'" in comment(answer, OTHER)


def test_c9_parts_that_cannot_be_bulk_data_fail_alone(send: Send, image: Image) -> None:
    nested = {"Content-Type": "multipart/mixed; boundary=x", "Content-Location": "n"}
    nameless = {"Content-Type": "image/jpeg"}
    instance = {"Content-Type": "application/dicom"}

    answer = send(
        as_json(metadata(image(), None)), (nested, b"--x--"), (nameless, b"x"), (instance, b"DICM")
    )

    assert answer.status_code == 202
    assert len(answer.json()[REFERENCED]["Value"]) == 1
    texts = [item["00000902"]["Value"][0] for item in answer.json()[OTHER]["Value"]]
    for word in ("multipart/mixed", "Content-Location", "application/dicom"):
        assert any(word in text for text in texts), word


def test_a_body_that_ends_early_stores_what_is_complete(
    http: requests.Session, root: str, image: Image
) -> None:
    whole, cut = image(), image()
    body = body_of(
        as_json(metadata(whole, "whole"), metadata(cut, "cut")),
        bulk(whole.PixelData, "whole"),
        bulk(cut.PixelData, "cut"),
    )
    headers = {"Content-Type": f'multipart/related; type="{DICOM_JSON}"; boundary=frontier'}

    answer = http.post(f"{root}/studies", body[:-40], headers=headers)

    assert answer.status_code == 202
    stored_uids = [item["00081155"]["Value"][0] for item in answer.json()[REFERENCED]["Value"]]
    assert stored_uids == [whole.SOPInstanceUID]


def test_what_is_sent_once_is_not_stored_without_end(send: Send, server: Any, image: Image) -> None:
    """Sixteen megabytes that nine instances refer to are more than a request may have."""
    assert server.services.settings.max_request_bytes == 64 << 20
    data_sets = [metadata(image(Rows=4096, Columns=2048, PixelData=b"12")) for _ in range(9)]

    answer = send(as_json(*data_sets), bulk(bytes(16 << 20)))

    assert answer.status_code == 202
    assert len(answer.json()[REFERENCED]["Value"]) <= 4
    assert "more than 67108864 bytes together" in comment(answer)


def test_nothing_is_left_on_disk(server: Any, send: Send, image: Image) -> None:
    assert send(as_json(metadata(image())), bulk(b"x" * 3_000_000)).status_code in (200, 202)
    assert send(as_json({"00080018": {"vr": "UI"}}), bulk(b"x" * 3_000_000)).status_code == 409

    spool: Path = server.services.settings.spool_dir
    assert [path for path in spool.rglob("*") if path.is_file() and path.name != ".lock"] == []


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        (DICOM_JSON, 200, DICOM_JSON),
        (f"{DICOM_XML}, {DICOM_JSON};q=0.5", 200, DICOM_XML),
        ("application/json", 200, "application/json"),
        ("*/*", 200, DICOM_JSON),
        ("text/html", 406, "application/json"),
        (f'multipart/related; type="{DICOM_XML}"', 406, "application/json"),
    ],
)
def test_the_answer_is_of_the_accepted_type(
    send: Send, image: Image, accept: str, status: int, kind: str
) -> None:
    answer = send(as_json(metadata(image(), None)), accept=accept)

    assert (answer.status_code, answer.headers["Content-Type"]) == (status, kind)
