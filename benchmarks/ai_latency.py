"""From the last byte of a panoramic sent by C-STORE to its SR and Observations being visible.

The default quiet window (5 s) is part of the time. Each run is a patient of its own.

    python -m benchmarks.ai_latency [--runs 8]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.live_server import LiveServer
from interop.demo.images import DemoStudy, write_study
from interop.demo.patients import DemoPatient
from interop.demo.records import consent, patient_resource
from interop.dimse import scu


def measure(server: LiveServer, token: str, runs: int, folder: Path) -> list[float]:
    """Seconds of each run."""
    server.cli("tenant", "enable", "demo", "AI_DIAGNOSTICS")
    server.cli("ae", "create", "--tenant", "demo", "--ae-title", "BENCH")
    seconds = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        for number in range(runs):
            subject = DemoPatient(
                f"L-{number}", "Latency", str(number), "1980-01-01", "F", 100 + number,
                "l@example.org", "+1-555-0100",
            )  # fmt: skip
            study = DemoStudy("PX", "Panoramic", subject, "20261122", f"L{number}")
            (path,) = write_study(study, folder)
            base = f"{server.url}/t/demo"
            for resource in (patient_resource(subject), consent(subject)):
                url = f"{base}/fhir/R4/{resource['resourceType']}/{resource['id']}"
                client.put(url, json=resource).raise_for_status()
            seconds.append(_time_one(server, client, base, study, path))
    return seconds


def _time_one(
    server: LiveServer, client: httpx.Client, base: str, study: DemoStudy, path: Path
) -> float:
    report = scu.send([path], "127.0.0.1", server.dicom_port, "INTEROP", "BENCH", lambda _: None)
    assert not report.failed, report.failed
    started = time.perf_counter()
    server.wait_for(lambda: _is_visible(client, base, study), 120, every=0.05)
    return time.perf_counter() - started


def _is_visible(client: httpx.Client, base: str, study: DemoStudy) -> bool:
    found = client.get(f"{base}/fhir/R4/Observation?patient={study.patient.id}&_count=1").json()
    if not found.get("entry"):
        return False
    series = client.get(f"{base}/dicom-web/studies/{study.study_uid}/series?Modality=SR").json()
    return bool(series)


def summary(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return (
        f"{len(ordered)} panoramics, one at a time: p50 {statistics.median(ordered):.1f} s, "
        f"fastest {ordered[0]:.1f} s, slowest {ordered[-1]:.1f} s (5 s of it the quiet window)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with LiveServer(Path(folder) / "data") as server:
            runs = measure(server, server.tenant(), arguments.runs, Path(folder) / "images")
            print(summary(runs))


if __name__ == "__main__":
    main()
