"""Seconds until OHIF shows the first image of a cone beam CT, ours beside Debian's Orthanc.

    python -m benchmarks.first_image [--slices 400] [--rounds 3]

Needs `make viewer` and Chromium, which draws in software here. Both serve the same files of the
same viewer at their own origin: ours at /viewer, compressed, behind a session and with its policy;
Orthanc by its plugin ServeFolders, with OHIF set up alike and without any token. The clock is the
page's own: from the navigation to the first picture drawn, and to the last slice of the volume.
`cold` is a browser that has nothing of the viewer, `warm` the same browser once more.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from playwright.sync_api import Browser, Page, StorageState, sync_playwright
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from benchmarks.live_server import CLI, LiveServer
from benchmarks.orthanc import PLUGIN, Orthanc, is_installed
from interop.settings import Settings
from interop.viewer.package import Viewer, ViewerFolder
from interop.viewer.tenant_page import SETUP

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ARGUMENTS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]  # fmt: skip
SERVE_FOLDERS = PLUGIN.with_name("libServeFolders.so")
EMAIL, PASSWORD = "bench@clinic.example", "a long enough passphrase 7"
ROWS, SPACING = 400, 0.2
SECONDS = 180.0
WATCH = """
performance.setResourceTimingBufferSize(20000);
localStorage.setItem("shownTours", JSON.stringify(["basicViewerTour"]));
const drawn = () => { window.drawnAt ??= performance.now(); };
addEventListener("CORNERSTONE_IMAGE_RENDERED", drawn, true);
"""
LOADED = """(() => {
  const ends = performance.getEntriesByType("resource")
    .filter((entry) => entry.name.includes("/frames/") && entry.responseEnd > 0)
    .map((entry) => entry.responseEnd);
  return [ends.length, ends.length ? Math.max(...ends) : 0];
})()"""
# OHIF asks for a token; this peer needs none, and serves no other method for a page.
NO_TOKEN = """
const realFetch = window.fetch;
window.fetch = (url, options) => String(url).startsWith("no-token")
  ? Promise.resolve(new Response('{"access_token":"none","expires_in":36000,"user":"x"}'))
  : realFetch(url, options);
history.replaceState(null, "", "/app/viewer" + location.search);
"""


@dataclass
class Side:
    """A server with the study, where its viewer opens it, and how its browser is signed in."""

    name: str
    viewer_url: str
    state: StorageState | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)


def slices(count: int) -> Iterator[bytes]:
    """The files of one series: a noisy ball, as large as slices of a clinic are."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    noise = np.random.default_rng(1).integers(0, 60, (ROWS, ROWS))
    y, x = np.mgrid[0:ROWS, 0:ROWS] - ROWS / 2
    for number in range(count):
        inside = x**2 + y**2 + (number - count / 2) ** 2 < (ROWS * 0.4) ** 2
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.FrameOfReferenceUID = frame
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, number + 1
        dataset.PatientName, dataset.PatientID = "Bench^Ben", "BENCH"
        dataset.StudyDate, dataset.StudyTime = "20261101", "101500"
        dataset.StudyDescription = dataset.SeriesDescription = "Cone beam CT"
        dataset.ImagePositionPatient = [0, 0, round(number * SPACING, 3)]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [SPACING, SPACING], SPACING
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
        dataset.WindowCenter, dataset.WindowWidth = 500, 1000
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows = dataset.Columns = ROWS
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = (inside * 800 + np.roll(noise, number)).astype("<u2").tobytes()
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        yield file.getvalue()


def store(dicom_web: str, headers: dict[str, str], files: list[bytes]) -> str:
    """Store a study by STOW-RS, twenty instances a request; returns its UID."""
    content_type = 'multipart/related; type="application/dicom"; boundary=x'
    with httpx.Client(timeout=120, headers={**headers, "Content-Type": content_type}) as client:
        for start in range(0, len(files), 20):
            parts = (
                b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n"
                for file in files[start : start + 20]
            )
            client.post(
                f"{dicom_web}/studies", content=b"".join(parts) + b"--x--"
            ).raise_for_status()
        accept = {"Accept": "application/dicom+json"}
        found = client.get(f"{dicom_web}/studies?PatientID=BENCH", headers=accept).json()
    return str(found[0]["0020000D"]["Value"][0])


@contextmanager
def ours(folder: Path, viewer: Viewer, browser: Browser, files: list[bytes]) -> Iterator[Side]:
    """`interop serve` with a dentist who is signed in."""
    with LiveServer(folder / "ours", viewer_dir=str(viewer.folder)) as server:
        token = server.tenant()
        made = [
            "user", "create", "--tenant", "demo", "--email", EMAIL, "--type", "DENTIST",
            "--role", "CLINICIAN", "--password-stdin",
        ]  # fmt: skip
        subprocess.run(
            [*CLI, *made], env=server.environment, input=PASSWORD, text=True, check=True,
            capture_output=True,
        )  # fmt: skip
        base = f"{server.url}/t/demo"
        study = store(f"{base}/dicom-web", {"Authorization": f"Bearer {token}"}, files)
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{base}/sign-in")
        page.get_by_label("E-mail").fill(EMAIL)
        page.locator("input[type=password]").fill(PASSWORD)
        page.locator("input[type=password]").press("Enter")
        page.wait_for_url("**/account")
        state = context.storage_state()
        context.close()
        yield Side("ours", f"{base}/viewer/viewer?StudyInstanceUIDs={study}", state)


@contextmanager
def orthanc(folder: Path, viewer: Viewer, files: list[bytes]) -> Iterator[Side]:
    """Debian's Orthanc, which serves the same viewer beside its DICOMweb."""
    app = folder / "app"
    app.mkdir()
    (app / "index.html").write_text(viewer.page("/app/app-config.js"), encoding="utf-8")
    given = {
        "organization": "Orthanc", "root": "/app", "dicomweb": "/dicom-web", "token": "no-token",
        "signIn": "", "signOut": "", "showsNotice": True,
    }  # fmt: skip
    # Orthanc has no thumbnails, and does not read quoted parameters of Accept.
    setup = SETUP.replace(
        'thumbnailRendering: "thumbnail"',
        'omitQuotationForMultipartRequest: true, thumbnailRendering: "rendered"',
    )
    assert setup != SETUP
    script = f"{NO_TOKEN}const INTEROP = {json.dumps(given)};\n{setup}"
    (app / "app-config.js").write_text(script, encoding="utf-8")
    served = {"/app": str(app), viewer.base.rstrip("/"): str(viewer.folder)}
    options: dict[str, object] = {
        "Plugins": [str(PLUGIN), str(SERVE_FOLDERS)],
        "ServeFolders": {**served, "AllowCache": True, "Extensions": {"wasm": "application/wasm"}},
    }
    with Orthanc(folder / "orthanc", **options) as server:
        study = store(server.dicom_web, {}, files)
        yield Side("Orthanc", f"{server.url}/app/index.html?StudyInstanceUIDs={study}")


def measure(browser: Browser, side: Side, count: int) -> None:
    """Open the study in a new browser, once more in the same, and then as a volume."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, storage_state=side.state)
    context.add_init_script(WATCH)
    for kind in ("cold", "warm"):
        page = context.new_page()
        page.goto(side.viewer_url)
        _note(side, kind, _first(page))
        page.close()
    page = context.new_page()
    page.goto(side.viewer_url + "&hangingProtocolId=mpr")
    _note(side, "volume", _last_frame(page, count))
    context.close()


def _first(page: Page) -> float:
    return float(_until(page, "window.drawnAt ?? 0")) / 1000


def _last_frame(page: Page, count: int) -> float:
    _until(page, f"({LOADED})[0] >= {count}")
    return float(page.evaluate(LOADED)[1]) / 1000


def _until(page: Page, expression: str) -> float:
    deadline = time.monotonic() + SECONDS
    while not (value := page.evaluate(expression)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{page.url}: not so within {SECONDS:.0f} s: {expression}")
        time.sleep(0.05)
    return float(value)


def _note(side: Side, kind: str, seconds: float) -> None:
    print(f"{side.name} {kind} {seconds:.2f} s", file=sys.stderr, flush=True)
    side.seconds.setdefault(kind, []).append(seconds)


def table(sides: list[Side]) -> str:
    rows = ["| seconds, median | " + " | ".join(side.name for side in sides) + " |"]
    rows.append("|---|" + "---:|" * len(sides))
    named = {
        "cold": "first image, new browser",
        "warm": "first image, viewer in the browser's cache",
        "volume": "last slice of the volume (three planes)",
    }
    for kind, text in named.items():
        medians = (f"{statistics.median(side.seconds[kind]):.2f}" for side in sides)
        rows.append(f"| {text} | " + " | ".join(medians) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    viewer = ViewerFolder(Settings().effective_viewer_dir).current()
    if viewer is None or CHROMIUM is None:
        sys.exit("needs the viewer ('make viewer') and Chromium")
    files = list(slices(arguments.slices))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        sides = [stack.enter_context(ours(folder, viewer, browser, files))]
        if is_installed() and SERVE_FOLDERS.exists():
            sides.append(stack.enter_context(orthanc(folder, viewer, files)))
        for number in range(arguments.rounds):
            for side in sides if number % 2 == 0 else sides[::-1]:
                measure(browser, side, arguments.slices)
        browser.close()
    print(f"{arguments.slices} slices of {ROWS} x {ROWS}, {arguments.rounds} rounds\n")
    print(table(sides))


if __name__ == "__main__":
    main()
