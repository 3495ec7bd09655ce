"""WADO-RS, the retrieve transactions (PS3.18 10.4), and WADO-URI (PS3.18 9)."""

from __future__ import annotations

import io

import httpx
import pydicom
from PIL import Image
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from conformance.peer import ABSENT, DICOM, JSON, XML, Peer, parts_of, value
from conformance.requirements import Check, NotOffered, Service, expect
from conformance.samples import Sample

RETRIEVE = Service("WADO-RS")
RENDER = Service("WADO-RS rendered")
URI = Service("WADO-URI")

_OBJECTS = f'multipart/related; type="{DICOM}"'
_OCTETS = "application/octet-stream"
_FRAMES = f'multipart/related; type="{_OCTETS}"'
_PIXEL_DATA, _SOP_INSTANCE_UID = "7FE00010", "00080018"


def _compressed(peer: Peer) -> Sample:
    assert peer.samples.compressed is not None
    return peer.samples.compressed


def _multiframe(peer: Peer) -> Sample:
    assert peer.samples.multiframe is not None
    return peer.samples.multiframe


def _data_set(encoded: bytes) -> bytes:
    """What follows the file meta information, whose length is its first element (PS3.10 7.1)."""
    length = int.from_bytes(encoded[140:144], "little")
    return encoded[144 + length :]


@RETRIEVE.requires("PS3.18 8.7.3.5", "transfer-syntax=* gives the object as it was stored")
def retrieves_as_stored(peer: Peer) -> None:
    for one in (peer.samples.slices[0], _compressed(peer)):
        response = peer.get(one.path, f"{_OBJECTS}; transfer-syntax=*")
        expect(response.status_code == 200, str(response.status_code))
        (part,) = parts_of(response)
        expect(part.media_type == DICOM, f"a part is {part.media_type!r}")
        expect(_data_set(part.content) == _data_set(one.encoded), "the data set's bytes are others")


@RETRIEVE.requires("PS3.18 8.7.3.5.2", "without a transfer syntax compressed objects are decoded")
def retrieves_decoded(peer: Peer) -> None:
    response = peer.get(_compressed(peer).path, _OBJECTS)
    expect(response.status_code == 200, str(response.status_code))
    found = pydicom.dcmread(io.BytesIO(parts_of(response)[0].content))
    syntax = found.file_meta.TransferSyntaxUID
    expect(syntax == "1.2.840.10008.1.2.1", f"transfer syntax {syntax}")
    original = pydicom.dcmread(io.BytesIO(_compressed(peer).encoded))
    original.decompress()
    expect(found.PixelData == original.PixelData, "the pixels are others")


@RETRIEVE.requires("PS3.18 10.4.1.1", "a study and a series give all their instances")
def retrieves_levels(peer: Peer) -> None:
    one = peer.samples.slices[0]
    for path, least in (
        (f"/studies/{one.study}", len(peer.samples.slices) + 1),
        (f"/studies/{one.study}/series/{one.series}", len(peer.samples.slices)),
    ):
        response = peer.get(path, _OBJECTS)
        expect(response.status_code == 200, f"{path}: {response.status_code}")
        uids = {pydicom.dcmread(io.BytesIO(p.content)).SOPInstanceUID for p in parts_of(response)}
        expect(len(uids) >= least, f"{len(uids)} instances, not {least}")


@RETRIEVE.requires("PS3.18 10.4.1.1.2", "metadata in JSON at each level")
def retrieves_metadata(peer: Peer) -> None:
    one = peer.samples.slices[0]
    series = f"/studies/{one.study}/series/{one.series}"
    for path, count in ((one.path, 1), (series, len(peer.samples.slices))):
        response = peer.get(f"{path}/metadata", JSON)
        expect(response.status_code == 200, f"{path}: {response.status_code}")
        found = response.json()
        expect(len(found) == count, f"{len(found)} instances, not {count}")
        expect(value(found[0], _SOP_INSTANCE_UID), "no SOP Instance UID")
    response = peer.get(f"/studies/{one.study}/metadata", JSON)
    expect(response.status_code == 200, f"study: {response.status_code}")


@RETRIEVE.requires("PS3.18 F.2.2", "text of other alphabets arrives in metadata as it was written")
def retrieves_text(peer: Peer) -> None:
    found = peer.get(f"{peer.samples.slices[0].path}/metadata", JSON).json()[0]
    name = value(found, "00100010")
    expect(name == {"Alphabetic": f"{peer.samples.token}^Zoë^Q"}, f"the name is {name}")


@RETRIEVE.requires("PS3.18 10.4.1.1.5", "pixel data stands in metadata by a URI that can be read")
def retrieves_bulk_data(peer: Peer) -> None:
    one = peer.samples.slices[0]
    found = peer.get(f"{one.path}/metadata", JSON).json()[0]
    uri = found.get(_PIXEL_DATA, {}).get("BulkDataURI")
    expect(uri, f"PixelData is {found.get(_PIXEL_DATA)}")
    if not uri.startswith("http"):
        uri = f"{peer.root}{one.path}/{uri}" if not uri.startswith("/") else uri
    response = peer.get(uri, _FRAMES)
    expect(response.status_code == 200, f"{uri}: {response.status_code}")
    expect(bytes(one.dataset.PixelData) in response.content, "other bytes")


@RETRIEVE.requires("RFC 9110 14", "a range of bulk data", is_optional=True)
def retrieves_ranges(peer: Peer) -> None:
    one = peer.samples.slices[0]
    found = peer.get(f"{one.path}/metadata", JSON).json()[0]
    uri = str(found.get(_PIXEL_DATA, {}).get("BulkDataURI"))
    headers = {"Accept": _OCTETS, "Range": "bytes=10-19"}
    response = peer.http.get(uri if uri.startswith("http") else peer.root + uri, headers=headers)
    if response.status_code != 206:
        raise NotOffered(f"{response.status_code} for a range")
    expect(response.content == bytes(one.dataset.PixelData)[10:20], "other bytes")


@RETRIEVE.requires("PS3.18 10.4.1.1.6", "one frame, and a list of frames in the order asked for")
def retrieves_frames(peer: Peer) -> None:
    one = _multiframe(peer)
    size = len(one.dataset.PixelData) // int(one.dataset.NumberOfFrames)
    frames = [one.dataset.PixelData[n * size : (n + 1) * size] for n in range(3)]
    for asked, wanted in (("2", [frames[1]]), ("1,3", [frames[0], frames[2]])):
        response = peer.get(f"{one.path}/frames/{asked}", _FRAMES)
        expect(response.status_code == 200, f"frames/{asked}: {response.status_code}")
        expect([p.content for p in parts_of(response)] == wanted, f"frames/{asked}: other bytes")


@RETRIEVE.requires("PS3.18 10.4.1.1.6", "a frame that is not there is answered 404 (or 400)")
def refuses_absent_frames(peer: Peer) -> None:
    response = peer.get(f"{_multiframe(peer).path}/frames/99", _FRAMES)
    expect(response.status_code in (400, 404), str(response.status_code))


@RETRIEVE.requires("PS3.18 10.4.3", "what does not exist is answered 404")
def refuses_absent_instances(peer: Peer) -> None:
    for path in ("/studies/1.2.3.4.5.6", "/studies/1.2.3.4.5.6/metadata"):
        response = peer.get(path)
        expect(response.status_code == 404, f"{path}: {response.status_code}")


@RETRIEVE.requires("PS3.18 8.7.4", "an Accept that cannot be met is answered 406")
def refuses_media_types(peer: Peer) -> None:
    response = peer.get(peer.samples.slices[0].path, "text/csv")
    expect(response.status_code == 406, str(response.status_code))


@RETRIEVE.requires("PS3.18 8.7.5", "an instance as one body, not in parts", is_optional=True)
def retrieves_a_single_part(peer: Peer) -> None:
    one = peer.samples.slices[0]
    response = peer.offered(peer.get(one.path, f"{DICOM}; transfer-syntax=*"), "single part")
    kind = response.headers.get("content-type", "")
    if not kind.startswith(DICOM):
        raise NotOffered(f"Content-Type is {kind!r}")
    expect(_data_set(response.content) == _data_set(one.encoded), "other bytes")


@RETRIEVE.requires("PS3.18 10.4.3.2", "metadata as application/dicom+xml", is_optional=True)
def retrieves_metadata_in_xml(peer: Peer) -> None:
    path = f"{peer.samples.slices[0].path}/metadata"
    response = peer.offered(peer.get(path, f'multipart/related; type="{XML}"'), XML)
    expect(b"NativeDicomModel" in response.content, "no Native DICOM Model")


@RETRIEVE.requires("RFC 9110 13", "metadata has an ETag, and 304 answers it", is_optional=True)
def retrieves_conditionally(peer: Peer) -> None:
    path = f"{peer.samples.slices[0].path}/metadata"
    tag = peer.get(path, JSON).headers.get("etag")
    if not tag:
        raise NotOffered("no ETag")
    again = peer.http.get(peer.root + path, headers={"Accept": JSON, "If-None-Match": tag})
    expect(again.status_code == 304, str(again.status_code))


def _transcodes(name: str, uid: str) -> Check:
    def check(peer: Peer) -> None:
        one = peer.samples.slices[0]
        response = peer.get(one.path, f"{_OBJECTS}; transfer-syntax={uid}")
        response = peer.offered(response, name)
        if not response.headers.get("content-type", "").startswith("multipart/related"):
            raise NotOffered(f"{response.status_code} without parts")
        found = pydicom.dcmread(io.BytesIO(parts_of(response)[0].content))
        syntax = found.file_meta.TransferSyntaxUID
        if syntax != uid:
            raise NotOffered(f"sent in {syntax.name}")
        if (
            not UID(uid).is_encapsulated or get_decoder(UID(uid)).is_available
        ):  # else the transfer syntax is all that is seen
            expect((found.pixel_array == one.dataset.pixel_array).all(), "the pixels are others")

    check.__name__ = f"transcodes_to_{name.replace(' ', '_').replace('-', '_').lower()}"
    return check


for _name, _uid in (
    ("Implicit VR Little Endian", "1.2.840.10008.1.2"),
    ("Deflated", "1.2.840.10008.1.2.1.99"),
    ("RLE Lossless", "1.2.840.10008.1.2.5"),
    ("JPEG Lossless SV1", "1.2.840.10008.1.2.4.70"),
    ("JPEG-LS Lossless", "1.2.840.10008.1.2.4.80"),
    ("JPEG 2000 Lossless", "1.2.840.10008.1.2.4.90"),
    ("HTJ2K Lossless", "1.2.840.10008.1.2.4.201"),
):
    RETRIEVE.requires("PS3.18 8.7.3.5", f"sent in {_name} when asked for", is_optional=True)(
        _transcodes(_name, _uid)
    )


def _picture(peer: Peer, path: str, accept: str, **parameters: str) -> Image.Image:
    response = peer.get(path, accept, **parameters)
    expect(response.status_code == 200, f"{response.status_code} {response.text[:100]}")
    kind = response.headers.get("content-type", "")
    expect(kind.startswith(accept), f"Content-Type is {kind!r}")
    return Image.open(io.BytesIO(response.content))


@RENDER.requires("PS3.18 8.7.4.1", "image/jpeg, as the default too, and image/png")
def renders(peer: Peer) -> None:
    path = f"{peer.samples.slices[0].path}/rendered"
    for accept in ("image/jpeg", "image/png"):
        picture = _picture(peer, path, accept)
        expect(picture.size == (48, 64), f"{accept}: {picture.size}")
    kind = peer.get(path, "*/*").headers.get("content-type", "")
    expect(kind.startswith("image/jpeg"), f"the default is {kind!r}")


@RENDER.requires("PS3.18 Table 8.7.4-1", "image/gif", is_optional=True)
def renders_gif(peer: Peer) -> None:
    path = f"{peer.samples.slices[0].path}/rendered"
    peer.offered(peer.get(path, "image/gif"), "image/gif")
    _picture(peer, path, "image/gif")


@RENDER.requires("PS3.18 10.4.1.1.3", "a frame of a multi-frame image")
def renders_frames(peer: Peer) -> None:
    picture = _picture(peer, f"{_multiframe(peer).path}/frames/2/rendered", "image/png")
    expect(picture.size == (16, 16), str(picture.size))


@RENDER.requires("PS3.18 8.3.5.1.4", "window: another window, other grey")
def renders_windows(peer: Peer) -> None:
    path = f"{peer.samples.slices[0].path}/rendered"
    dark = _picture(peer, path, "image/png", window="60000,100,linear").convert("L")
    light = _picture(peer, path, "image/png", window="-60000,100,linear").convert("L")
    expect(dark.getextrema() == (0, 0), f"dark is {dark.getextrema()}")
    expect(light.getextrema() == (255, 255), f"light is {light.getextrema()}")


@RENDER.requires("PS3.18 8.3.5.1.3", "viewport: scaled into the rectangle, shape kept")
def renders_viewports(peer: Peer) -> None:
    path = f"{peer.samples.slices[0].path}/rendered"
    picture = _picture(peer, path, "image/png", viewport="24,32")
    expect(picture.size == (24, 32), str(picture.size))


@RENDER.requires("PS3.18 8.3.5.1.2", "quality: less of it, fewer bytes")
def renders_in_qualities(peer: Peer) -> None:
    path = f"{peer.samples.slices[0].path}/rendered"
    small, large = (len(peer.get(path, "image/jpeg", quality=q).content) for q in ("5", "95"))
    expect(small < large, f"{small} bytes at 5, {large} at 95")


@RENDER.requires("PS3.18 8.3.5.1.1", "annotation=patient burns in who it is", is_optional=True)
def renders_annotations(peer: Peer) -> None:
    path = f"{peer.samples.slices[0].path}/rendered"
    plain = peer.get(path, "image/png")
    response = peer.get(path, "image/png", annotation="patient")
    if response.status_code != 200 or response.content == plain.content:
        raise NotOffered(f"{response.status_code}, the same picture")


@RENDER.requires("PS3.18 10.4.1.1.4", "thumbnails of a study, a series and an instance")
def renders_thumbnails(peer: Peer) -> None:
    one = peer.samples.slices[0]
    series = f"/studies/{one.study}/series/{one.series}"
    for path in (one.path, series, f"/studies/{one.study}"):
        response = peer.offered(peer.get(f"{path}/thumbnail", "image/jpeg"), f"{path}/thumbnail")
        expect(response.status_code == 200, f"{path}: {response.status_code}")
        Image.open(io.BytesIO(response.content)).load()


@RENDER.requires("PS3.18 10.4.3", "a report is no image: 406, or a document")
def does_not_render_reports(peer: Peer) -> None:
    assert peer.samples.report is not None
    response = peer.get(f"{peer.samples.report.path}/rendered", "image/jpeg")
    expect(400 <= response.status_code < 500, str(response.status_code))


def _uri(peer: Peer, **parameters: str) -> tuple[Sample, httpx.Response]:
    one = peer.samples.slices[0]
    base = peer.root.rsplit("/", 1)[0]
    query = {
        "requestType": "WADO",
        "studyUID": one.study,
        "seriesUID": one.series,
        "objectUID": one.uid,
        **parameters,
    }
    for url in (f"{peer.root}/wado", f"{base}/wado", peer.root):
        response = peer.http.get(url, params=query)
        if response.status_code not in ABSENT:
            return one, response
    raise NotOffered("no WADO-URI at .../wado")


@URI.requires("PS3.18 9.4", "the object as application/dicom", is_optional=True)
def uri_retrieves_objects(peer: Peer) -> None:
    one, response = _uri(peer, contentType=DICOM)
    expect(response.status_code == 200, str(response.status_code))
    found = pydicom.dcmread(io.BytesIO(response.content))
    expect(found.SOPInstanceUID == one.uid, "another object")


@URI.requires("PS3.18 9.5", "the object as an image, scaled", is_optional=True)
def uri_renders(peer: Peer) -> None:
    _, response = _uri(peer, contentType="image/jpeg", rows="32", columns="24")
    expect(response.status_code == 200, str(response.status_code))
    picture = Image.open(io.BytesIO(response.content))
    expect(picture.width <= 24 and picture.height <= 32, str(picture.size))
