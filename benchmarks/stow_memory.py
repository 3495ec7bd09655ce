"""Resident memory of an HTTP worker while requests of gigabytes are stored by STOW-RS.

    python -m benchmarks.stow_memory [--megabytes 2048]

Nothing of a body exists before it is sent: the client makes it piece by piece. Each way of sending
is one request: Part 10 instances of 8 MB, one instance as large as the request, DICOM JSON with
one part of pixel data, and XML documents of instances of 8 MB with a part each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from benchmarks.live_server import LiveServer
from benchmarks.memory import Peak
from interop.dicom.native_model import to_xml

ROWS, COLUMNS = 1024, 512  # 16 bits: a frame is a megabyte
SMALL_FRAMES = 8
BOUNDARY = "stow-memory"
MEGABYTE = 1 << 20
Part = tuple[str, Iterator[bytes]]


def image(frames: int, study: str) -> Dataset:
    """An image without its pixels."""
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7.3"
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, generate_uid()
    dataset.PatientID, dataset.Modality = "MEMORY", "OT"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = ROWS, COLUMNS, frames
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    return dataset


def pixels(frames: int) -> Iterator[bytes]:
    piece = bytes(range(256)) * (MEGABYTE // 256)
    for _ in range(frames):
        yield piece


def part10(frames: int, study: str) -> Iterator[bytes]:
    dataset = image(frames, study)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with BytesIO() as head:
        pydicom.dcmwrite(head, dataset, enforce_file_format=True)
        yield head.getvalue()
    yield b"\xe0\x7f\x10\x00OW\0\0" + (frames * MEGABYTE).to_bytes(4, "little")
    yield from pixels(frames)


def metadata(frames: int, study: str, uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(image(frames, study).to_json())
    return found | {"7FE00010": {"vr": "OW", "BulkDataURI": uri}}


def bodies(megabytes: int) -> dict[str, tuple[str, Iterator[Part]]]:
    """What is sent by each way: the root's type, and the parts with their headers."""
    study = generate_uid()
    instance, octets = "Content-Type: application/dicom", "Content-Type: application/octet-stream"
    in_json, in_xml = (f"Content-Type: application/dicom+{form}" for form in ("json", "xml"))
    # A value of DICOM has a length of 32 bits.
    whole = min(megabytes, 4000)

    def xml_parts() -> Iterator[Part]:
        for n in range(megabytes // SMALL_FRAMES):
            yield in_xml, iter([to_xml(metadata(SMALL_FRAMES, study, f"p{n}"))])
            yield f"{octets}\r\nContent-Location: p{n}", pixels(SMALL_FRAMES)

    array = [json.dumps([metadata(whole, study, "p")]).encode()]
    return {
        "instances of 8 MB": (
            "application/dicom",
            ((instance, part10(SMALL_FRAMES, study)) for _ in range(megabytes // SMALL_FRAMES)),
        ),
        "one instance": ("application/dicom", iter([(instance, part10(whole, study))])),
        "JSON and one part of pixels": (
            "application/dicom+json",
            iter([(in_json, iter(array)), (f"{octets}\r\nContent-Location: p", pixels(whole))]),
        ),
        "XML and pixels, 8 MB each": ("application/dicom+xml", xml_parts()),
    }


def body_of(parts: Iterator[Part]) -> Iterator[bytes]:
    for headers, content in parts:
        yield f"--{BOUNDARY}\r\n{headers}\r\n\r\n".encode()
        yield from content
        yield b"\r\n"
    yield f"--{BOUNDARY}--\r\n".encode()


def measure(server: LiveServer, token: str, megabytes: int) -> list[str]:
    base = f"{server.url}/t/demo/dicom-web"
    rows = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=None) as client:
        client.get(f"{base}/studies?limit=1").raise_for_status()
        for name, (root, parts) in bodies(megabytes).items():
            before = Peak(server).during(lambda: time.sleep(0.3))["http"]

            def send(root: str = root, parts: Iterator[Part] = parts) -> None:
                kind = f'multipart/related; type="{root}"; boundary={BOUNDARY}'
                headers = {"Content-Type": kind}
                answer = client.post(f"{base}/studies", content=body_of(parts), headers=headers)
                assert answer.status_code == 200, answer.text[:500]

            began = time.perf_counter()
            peak = Peak(server).during(send)["http"]
            rate = megabytes / (time.perf_counter() - began)
            rows.append(
                f"| {name} | {before:.0f} | {peak:.0f} | {peak - before:.0f} | {rate:.0f} |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2048)
    arguments = parser.parse_args()
    limits = {"max_request_bytes": str(8 << 30), "max_object_bytes": str(4 << 30)}
    with tempfile.TemporaryDirectory() as folder:
        with LiveServer(Path(folder) / "data", **limits) as server:
            rows = measure(server, server.tenant(), arguments.megabytes)
    print(f"| {arguments.megabytes} MB in one request | before, MB | peak, MB | more | MB/s |")
    print("\n".join(["|---|---|---|---|---|", *rows]))


if __name__ == "__main__":
    main()
