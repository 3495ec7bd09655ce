"""What one request may cost others: frames one at a time, decoders shared fairly, small chunks."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from pydicom.data import get_testdata_file
from pydicom.uid import UID, ExplicitVRBigEndian, generate_uid

from interop.dicom import frames as stored_frames
from interop.dicom import render, transcode
from interop.dicom.spool import Spool, SpoolWriter
from interop.dicomweb import bulkdata, decoding
from interop.dicomweb import frames as frame_routes

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]
Parts = Callable[[requests.Response], list[tuple[dict[str, str], bytes]]]

OCTETS = 'multipart/related; type="application/octet-stream"'
STORED = "multipart/related; type=*/*; transfer-syntax=*"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
MPEG4 = "1.2.840.10008.1.2.4.102"


def stored_url(answer: requests.Response) -> str:
    assert answer.status_code in (200, 202), answer.text
    url: str = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    return url


@pytest.fixture(scope="module")
def compressed(store: Store, encode: Encode) -> tuple[str, list[bytes]]:
    """A JPEG 2000 object of 40 equal frames; its URL and the frames uncompressed."""
    dataset = pydicom.dcmread(str(get_testdata_file("MR_small_jp2klossless.dcm")))
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    plain = dataset.pixel_array.tobytes()
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = generate_uid(), generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.NumberOfFrames = 40
    dataset.PixelData = pydicom.encaps.encapsulate([frame] * 40)
    return stored_url(store(encode(dataset))), [plain] * 40


@pytest.fixture(scope="module")
def fragmented(store: Store, image: Image, encode: Encode) -> tuple[str, list[bytes]]:
    """Two frames, the first of three fragments and larger than a chunk, the second of one."""
    noise = np.random.default_rng(3).bytes(2_500_000)
    frames = [b"\xff\xd8" + noise, b"\xff\xd8small!"]
    dataset = image(NumberOfFrames=2, BitsAllocated=8, BitsStored=8, HighBit=7)
    dataset.file_meta.TransferSyntaxUID = UID(JPEG_BASELINE)
    fragments = [frames[0][:1_000_000], frames[0][1_000_000:1_000_002], frames[0][1_000_002:]]
    items = [*fragments, frames[1]]
    starts = (0, len(frames[0]) + 3 * 8)
    offsets = b"".join(start.to_bytes(4, "little") for start in starts)
    dataset.PixelData = b"".join(
        b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item for item in [offsets, *items]
    )
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return stored_url(store(encode(dataset))), frames


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a stored object was parsed for its frames."""
    calls = {"parse": 0}
    original = stored_frames.parse_stored

    def counting(*arguments: Any) -> Any:
        calls["parse"] += 1
        return original(*arguments)

    monkeypatch.setattr(stored_frames, "parse_stored", counting)
    return calls


def test_many_decoded_frames_cost_one_parse(
    http: requests.Session, compressed: tuple[str, list[bytes]], parts_of: Parts,
    counted: dict[str, int],
) -> None:  # fmt: skip
    url, frames = compressed
    numbers = ",".join(str(n + 1) for n in range(40))

    answer = http.get(f"{url}/frames/{numbers}", headers={"Accept": OCTETS})

    assert [content for _, content in parts_of(answer)] == frames
    assert counted["parse"] == 1


def test_decoded_frames_are_made_while_they_are_sent(
    http: requests.Session, compressed: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch,
    parts_of: Parts,
) -> None:  # fmt: skip
    url, frames = compressed
    first_was_sent = threading.Event()
    original = stored_frames.OpenedObject.native_frame

    def waits_after_the_first(self: Any, index: int) -> bytes:
        if index > 0:
            assert first_was_sent.wait(10), "the first frame waits for the second"
        return original(self, index)

    monkeypatch.setattr(stored_frames.OpenedObject, "native_frame", waits_after_the_first)
    with http.get(f"{url}/frames/1,2", headers={"Accept": OCTETS}, stream=True) as answer:
        chunks = answer.iter_content(None)
        got = next(chunks)
        first_was_sent.set()
        got += b"".join(chunks)

    assert frames[0] in got
    assert got.count(frames[0]) == 2


def test_more_decoded_bytes_than_the_limit_are_413(
    http: requests.Session, compressed: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, frames = compressed
    monkeypatch.setattr(frame_routes, "MAX_MADE_BYTES", 3 * len(frames[0]))

    allowed = http.get(f"{url}/frames/1,1,1", headers={"Accept": OCTETS})
    refused = http.get(f"{url}/frames/1,1,1,1", headers={"Accept": OCTETS})
    as_stored = http.get(f"{url}/frames/1,1,1,1", headers={"Accept": STORED})

    assert (allowed.status_code, refused.status_code, as_stored.status_code) == (200, 413, 200)
    assert "transfer-syntax=*" in refused.json()["error"]


def test_fragmented_frames_are_joined_as_they_are_sent(
    http: requests.Session, fragmented: tuple[str, list[bytes]], parts_of: Parts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    url, frames = fragmented

    def forbidden(*_: Any) -> bytes:
        raise AssertionError("a whole run of fragments was read into memory")

    monkeypatch.setattr("storage.objects.files.LocalObjectStore.get_range", forbidden)
    both = http.get(f"{url}/frames/2,1", headers={"Accept": STORED})
    small = http.get(f"{url}/frames/2", headers={"Accept": "image/jpeg"})

    assert [content for _, content in parts_of(both)] == [frames[1], frames[0]]
    assert small.content == frames[1]
    assert small.headers["Content-Length"] == str(len(frames[1]))


def test_encapsulated_bulk_data_is_sent_fragment_by_fragment(
    http: requests.Session, fragmented: tuple[str, list[bytes]]
) -> None:
    url, frames = fragmented
    whole = b"".join(frames)
    bare = {"Accept": "application/octet-stream"}
    first, last = 999_990, 1_000_020  # over all three fragments of the first frame

    answer = http.get(f"{url}/bulkdata/7FE00010", headers=bare)
    part = http.get(f"{url}/bulkdata/7FE00010", headers=bare | {"Range": f"bytes={first}-{last}"})
    tail = http.get(f"{url}/bulkdata/7FE00010", headers=bare | {"Range": "bytes=-10"})

    assert answer.content == whole
    assert answer.headers["Content-Length"] == str(len(whole))
    assert part.content == whole[first : last + 1]
    assert tail.content == whole[-10:]
    assert not hasattr(bulkdata, "_joined_fragments")


def test_big_endian_bulk_data_is_swapped_as_it_is_sent(
    http: requests.Session, store: Store, image: Image, encode: Encode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    dataset = image(Rows=1200, Columns=1000)
    little = dataset.PixelData
    dataset.PixelData = np.frombuffer(little, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    url = stored_url(store(encode(dataset)))
    bare = {"Accept": "application/octet-stream"}

    def forbidden(*_: Any) -> bytes:
        raise AssertionError("the whole value was read into memory")

    monkeypatch.setattr("storage.objects.files.LocalObjectStore.get_range", forbidden)
    whole = http.get(f"{url}/bulkdata/7FE00010", headers=bare)
    odd = http.get(f"{url}/bulkdata/7FE00010", headers=bare | {"Range": "bytes=1048575-1048579"})
    one = http.get(f"{url}/bulkdata/7FE00010", headers=bare | {"Range": "bytes=3-3"})

    assert whole.content == little
    assert odd.content == little[1048575:1048580]
    assert one.content == little[3:4]


@pytest.fixture(scope="module")
def video(store: Store, image: Image, encode: Encode) -> str:
    dataset = image(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.4.1", NumberOfFrames=25, BitsAllocated=8,
        BitsStored=8, HighBit=7,
    )  # fmt: skip
    dataset.file_meta.TransferSyntaxUID = UID(MPEG4)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\x00\x00\x00\x18ftypmp42"])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return stored_url(store(encode(dataset)))


@pytest.mark.parametrize(
    ("frames", "status"), [("1", 200), ("2", 404), ("2,1", 404), ("1,25", 404)]
)
def test_a_video_is_one_frame_of_bytes(
    http: requests.Session, video: str, frames: str, status: int
) -> None:
    answer = http.get(f"{video}/frames/{frames}", headers={"Accept": STORED})

    assert answer.status_code == status


@pytest.fixture
def stuck_renders(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Renders that do not end before the event; set it to let them."""
    release = threading.Event()
    original = render.render_frame

    def stuck(*arguments: Any) -> bytes:
        release.wait(20)
        return original(*arguments)

    monkeypatch.setattr(render, "render_frame", stuck)
    yield release
    release.set()


def test_renders_that_wait_for_a_decoder_keep_nobody_else_waiting(
    http: requests.Session, server: Any, tenant: Any, compressed: tuple[str, list[bytes]],
    fragmented: tuple[str, list[bytes]], store: Store, image: Image, encode: Encode,
    stuck_renders: threading.Event,
) -> None:  # fmt: skip
    url, _ = compressed
    headers = dict(http.headers)
    statuses: list[int] = []

    def ask() -> None:
        asked = f"{url}/rendered?quality=51"
        statuses.append(requests.get(asked, headers=headers, timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(45)]
    for thread in threads:
        thread.start()
    try:
        # Each of these takes one of the event loop's common threads.
        stored = requests.get(
            f"{url}/bulkdata/7FE00010", headers={**headers, "Accept": "*/*"}, timeout=5
        )
        new = store(encode(image()))
    finally:
        stuck_renders.set()
        for thread in threads:
            thread.join()

    assert (stored.status_code, new.status_code) == (200, 200)
    assert set(statuses) == {200}


def test_a_render_that_finds_no_decoder_in_time_is_503_with_retry_after(
    http: requests.Session, compressed: tuple[str, list[bytes]], stuck_renders: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    url, _ = compressed
    headers = dict(http.headers)
    answers: list[requests.Response] = []

    def ask() -> None:
        # What was rendered before would be answered without a decoder.
        asked = f"{url}/rendered?quality=52"
        answers.append(requests.get(asked, headers=headers, timeout=60))

    slots = decoding.DecodeSlots(wait_seconds=0.3)
    monkeypatch.setattr("interop.dicomweb.rendered.decode_slots", lambda: slots)
    threads = [threading.Thread(target=ask) for _ in range(decoding.PROCESS_DECODES + 3)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        # All of them: who still waited would be served when the others are.
        if len(answers) == len(threads) - decoding.TENANT_DECODES:
            break
        stuck_renders.wait(0.05)
    refused = [answer for answer in answers if answer.status_code == 503]
    stuck_renders.set()
    for thread in threads:
        thread.join()

    assert refused and refused[0].headers["Retry-After"]
    assert "decoders are busy" in refused[0].json()["error"]
    assert sum(answer.status_code == 200 for answer in answers) == decoding.TENANT_DECODES


def test_tiny_chunks_of_a_body_reach_the_spool_together(
    http: requests.Session, root: str, image: Image, encode: Encode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Each write reads the File Meta Information that is not whole yet once more.
    file = encode(image(Rows=900, Columns=900))
    writes: list[int] = []
    original = SpoolWriter.write

    def counting(self: SpoolWriter, data: Any) -> None:
        writes.append(len(data))
        original(self, data)

    monkeypatch.setattr(SpoolWriter, "write", counting)

    def body() -> Iterator[bytes]:
        for at in range(0, 8_000, 16):
            yield file[at : at + 16]
        yield file[8_000:]

    answer = http.post(f"{root}/studies", body(), headers={"Content-Type": "application/dicom"})

    assert answer.status_code == 200, answer.text
    assert sum(writes) == len(file)
    assert len(writes) <= 2
    url = stored_url(answer)
    assert http.get(url, headers={"Accept": "application/dicom"}).content == file


@pytest.mark.parametrize("step", ["writer", "write", "finish"])
@pytest.mark.parametrize("size", [16, 900], ids=["small", "large"])
def test_a_spool_that_fails_is_the_failure_of_that_part_alone(
    http: requests.Session, root: str, store: Store, image: Image, encode: Encode,
    monkeypatch: pytest.MonkeyPatch, step: str, size: int,
) -> None:  # fmt: skip
    first, second, third = (encode(image(Rows=size, Columns=size)) for _ in range(3))
    owner = Spool if step == "writer" else SpoolWriter
    original = getattr(owner, step)
    calls: list[object] = []

    def fails_once(self: Any, *arguments: Any) -> Any:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return original(self, *arguments)

    monkeypatch.setattr(owner, step, fails_once)
    mixed = store(first, second, third)
    monkeypatch.setattr(owner, step, original)
    monkeypatch.setattr(owner, step, lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
    alone = store(second)

    assert mixed.status_code == 202, mixed.text
    assert len(mixed.json()["00081199"]["Value"]) == 2
    (failed,) = mixed.json()["0008119A"]["Value"]
    assert failed["00081197"]["Value"] == [0xA700]
    assert "Input/output" not in mixed.text
    # The sender may well succeed later, so it is told to try again.
    assert (alone.status_code, "Retry-After" in alone.headers) == (503, True)


def test_a_transcoded_copy_lies_where_the_next_process_cleans_up(
    http: requests.Session, server: Any, compressed: tuple[str, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    url, _ = compressed
    made: list[Path] = []
    original = transcode.transcode

    def noting(source: Path, target: Path, transfer_syntax_uid: str) -> None:
        made.append(target)
        original(source, target, transfer_syntax_uid)

    monkeypatch.setattr(transcode, "transcode", noting)
    answer = http.get(url, headers={"Accept": 'multipart/related; type="application/dicom"'})

    assert answer.status_code == 200
    spool_dir = server.services.settings.spool_dir
    assert made[0].relative_to(spool_dir).parts[0].startswith("process-")
    assert not made[0].exists()
