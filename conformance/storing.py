"""STOW-RS, the store transaction (PS3.18 10.5)."""

from __future__ import annotations

import base64
from typing import Any

import httpx
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from conformance import samples
from conformance.peer import DICOM, JSON, XML, Peer, value
from conformance.requirements import Service, expect, fail

STORE = Service("STOW-RS")

_REFERENCED, _FAILED = "00081199", "00081198"
_REFERENCED_UID, _FAILURE_REASON, _RETRIEVE_URL = "00081155", "00081197", "00081190"
_OCTETS = "application/octet-stream"


def _single(peer: Peer, **attributes: object) -> samples.Sample:
    """Another small image of this run's first patient."""
    dataset = samples.image(
        peer.samples.token, SOPClassUID=samples.CTImageStorage, Modality="CT", **attributes
    )
    return samples.encoded(samples.pixels(dataset, samples.np.zeros((8, 8), samples.np.uint16)))


def _items(response: httpx.Response, tag: str) -> list[dict[str, Any]]:
    return list(response.json().get(tag, {}).get("Value", []))


def _is_stored(peer: Peer, one: samples.Sample) -> bool:
    found = peer.search("/instances", SOPInstanceUID=one.uid)
    return [value(result, "00080018") for result in found] == [one.uid]


@STORE.requires("PS3.18 10.5.1, 10.5.3", "application/dicom parts are stored and answered 200")
def stores_objects(peer: Peer) -> None:
    response = peer.store_objects(*(one.encoded for one in peer.samples.all))
    expect(response.status_code == 200, f"{response.status_code} {response.text[:200]}")
    stored = {value(item, _REFERENCED_UID) for item in _items(response, _REFERENCED)}
    missing = {one.uid for one in peer.samples.all} - stored
    expect(not missing, f"not in Referenced SOP Sequence: {missing}")


@STORE.requires("PS3.18 Table I.1-1", "the answer names the URL of the study and of each instance")
def answers_with_retrieve_urls(peer: Peer) -> None:
    response = peer.store_objects(peer.samples.slices[0].encoded)
    item = _items(response, _REFERENCED)[0]
    url = value(item, _RETRIEVE_URL)
    expect(url and peer.samples.slices[0].uid in url, f"Retrieve URL is {url!r}")
    expect(value(response.json(), _RETRIEVE_URL), "the response has no Retrieve URL of the study")


@STORE.requires("PS3.18 10.5.3", "what is stored already succeeds again and stays one instance")
def stores_again(peer: Peer) -> None:
    one = peer.samples.slices[0]
    response = peer.store_objects(one.encoded)
    expect(response.status_code in (200, 202), str(response.status_code))
    found = peer.search("/instances", SOPInstanceUID=one.uid)
    expect(len(found) == 1, f"{len(found)} instances of one SOP Instance UID")


@STORE.requires("PS3.18 10.5.3.1", "some failed: 202, Failed or Other Failures, and the rest kept")
def stores_partially(peer: Peer) -> None:
    one = _single(peer)
    response = peer.store_objects(one.encoded, b"no DICOM object")
    expect(response.status_code == 202, str(response.status_code))
    stored = {value(item, _REFERENCED_UID) for item in _items(response, _REFERENCED)}
    expect(one.uid in stored, "the good object is not in Referenced SOP Sequence")
    failed = _items(response, _FAILED) + _items(response, "0008119A")
    expect(failed and value(failed[0], _FAILURE_REASON), "no Failure Reason")


@STORE.requires("PS3.18 10.5.3.1", "nothing stored: 409 with a Failure Reason")
def refuses_what_is_no_object(peer: Peer) -> None:
    response = peer.store_objects(b"no DICOM object")
    expect(response.status_code in (400, 409), str(response.status_code))


@STORE.requires("PS3.18 10.5.1", "stored under a study: another study's objects are refused")
def refuses_another_study(peer: Peer) -> None:
    one = _single(peer)
    response = peer.store_objects(one.encoded, study=str(generate_uid()))
    expect(response.status_code == 409, str(response.status_code))
    expect(not _is_stored(peer, one), "it was stored all the same")


@STORE.requires("PS3.18 10.5.1", "stored under its own study")
def stores_under_a_study(peer: Peer) -> None:
    one = _single(peer)
    response = peer.store_objects(one.encoded, study=one.study)
    expect(response.status_code == 200, f"{response.status_code} {response.text[:200]}")
    expect(_is_stored(peer, one), "a search does not find it")


@STORE.requires("PS3.18 8.7", "a body of an unknown media type is answered 415")
def refuses_media_types(peer: Peer) -> None:
    response = peer.http.post(
        f"{peer.root}/studies", content=b"{}", headers={"Content-Type": "text/csv"}
    )
    expect(response.status_code == 415, str(response.status_code))


@STORE.requires("RFC 2387", "a multipart body without a boundary is answered 400")
def refuses_without_boundary(peer: Peer) -> None:
    response = peer.http.post(
        f"{peer.root}/studies",
        content=b"--x\r\n\r\n--x--",
        headers={"Content-Type": f'multipart/related; type="{DICOM}"'},
    )
    expect(response.status_code in (400, 415), str(response.status_code))


@STORE.requires("PS3.18 10.5.3.2", "the answer is XML for who accepts only that", is_optional=True)
def answers_in_xml(peer: Peer) -> None:
    response = peer.store_objects(peer.samples.slices[0].encoded, Accept=XML)
    peer.offered(response, XML)
    kind = response.headers.get("content-type", "")
    expect(kind.startswith((XML, "text/xml", "application/xml")), f"Content-Type is {kind!r}")
    expect(b"NativeDicomModel" in response.content, "not a Native DICOM Model")


@STORE.requires("PS3.18 10.5.1.2", "one object as the body itself", is_optional=True)
def stores_a_single_part(peer: Peer) -> None:
    one = _single(peer)
    response = peer.http.post(
        f"{peer.root}/studies",
        content=one.encoded,
        headers={"Content-Type": DICOM, "Accept": JSON},
    )
    peer.offered(response, "single part")
    expect(response.status_code == 200, f"{response.status_code} {response.text[:200]}")
    expect(_is_stored(peer, one), "a search does not find it")


def _metadata(one: samples.Sample, location: str) -> dict[str, Any]:
    whole: dict[str, Any] = one.dataset.to_json_dict(
        bulk_data_threshold=1, bulk_data_element_handler=lambda element: location
    )
    for tag in ("00020010",):
        whole[tag] = {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]}
    return whole


def _pixels_are_back(peer: Peer, one: samples.Sample) -> None:
    response = peer.get(f"{one.path}/frames/1", f'multipart/related; type="{_OCTETS}"')
    expect(response.status_code == 200, f"frame: {response.status_code}")
    expect(bytes(one.dataset.PixelData) in response.content, "the frame's bytes are others")


@STORE.requires(
    "PS3.18 10.5.1.2.2", "metadata in JSON with bulk data in other parts", is_optional=True
)
def stores_json(peer: Peer) -> None:
    one = _single(peer, SeriesDescription="Zoë as JSON")
    location = "urn:bulk:1"
    response = peer.store(
        [
            (f"Content-Type: {JSON}", httpx.Response(200, json=[_metadata(one, location)]).content),
            (
                f"Content-Type: {_OCTETS}\r\nContent-Location: {location}",
                bytes(one.dataset.PixelData),
            ),
        ],
        kind=JSON,
    )
    peer.offered(response, JSON)
    expect(response.status_code == 200, f"{response.status_code} {response.text[:200]}")
    _pixels_are_back(peer, one)


@STORE.requires(
    "PS3.18 10.5.1.2.1", "metadata in XML with bulk data in other parts", is_optional=True
)
def stores_xml(peer: Peer) -> None:
    one = _single(peer)
    location = "urn:bulk:1"
    response = peer.store(
        [
            (f"Content-Type: {XML}", _native_model(one.dataset, location)),
            (
                f"Content-Type: {_OCTETS}\r\nContent-Location: {location}",
                bytes(one.dataset.PixelData),
            ),
        ],
        kind=XML,
    )
    peer.offered(response, XML)
    expect(response.status_code == 200, f"{response.status_code} {response.text[:200]}")
    _pixels_are_back(peer, one)


def _native_model(dataset: Dataset, location: str) -> bytes:
    """PS3.19 A.1, of the elements that the samples have; pixel data by reference."""
    from xml.sax.saxutils import escape, quoteattr

    lines = []
    for element in dataset:
        head = f'tag="{int(element.tag):08X}" vr="{element.VR}" keyword="{element.keyword}"'
        if element.keyword == "PixelData":
            body = f"<BulkData uri={quoteattr(location)}/>"
        elif element.VR == "PN":
            words = str(element.value).split("^")
            body = (
                '<PersonName number="1"><Alphabetic>'
                f"<FamilyName>{escape(words[0])}</FamilyName>"
                f"<GivenName>{escape(words[1])}</GivenName></Alphabetic></PersonName>"
            )
        elif element.VR == "SQ":
            fail("the samples of this check have no sequences")
        else:
            values = element.value if element.VM > 1 else [element.value]
            body = "".join(
                f'<Value number="{n}">{escape(str(one))}</Value>' for n, one in enumerate(values, 1)
            )
        lines.append(f"<DicomAttribute {head}>{body}</DicomAttribute>")
    syntax = '<DicomAttribute tag="00020010" vr="UI" keyword="TransferSyntaxUID">'
    lines.insert(0, f'{syntax}<Value number="1">1.2.840.10008.1.2.1</Value></DicomAttribute>')
    space = 'xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"'
    return f"<NativeDicomModel {space}>{''.join(lines)}</NativeDicomModel>".encode()


@STORE.requires("PS3.18 F.2.7", "metadata in JSON with inline binary values", is_optional=True)
def stores_inline_binary(peer: Peer) -> None:
    one = _single(peer)
    whole = _metadata(one, "")
    pixels = bytes(one.dataset.PixelData)
    whole["7FE00010"] = {"vr": "OW", "InlineBinary": base64.b64encode(pixels).decode()}
    body = httpx.Response(200, json=[whole]).content
    response = peer.store([(f"Content-Type: {JSON}", body)], kind=JSON)
    peer.offered(response, JSON)
    expect(response.status_code == 200, f"{response.status_code} {response.text[:200]}")
    _pixels_are_back(peer, one)
