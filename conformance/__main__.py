"""`make conformance`: check a running server, ours or another.

    python -m conformance                        # our own, started for this run
    python -m conformance --orthanc              # Debian's Orthanc, started for this run
    python -m conformance --dicom-web URL [--token T] [--dicom HOST:PORT --called AET
                          --calling AET [--move-port PORT]]

The exit status is 1 when a requirement that is not optional is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conformance import dimse, report, retrieving, samples, searching, storing
from conformance.peer import DicomAddress, Peer
from conformance.requirements import Finding, Requirement, Verdict, look

CALLING = "CONFORMANCE"
SERVICES = (
    storing.STORE,
    searching.SEARCH,
    retrieving.RETRIEVE,
    retrieving.RENDER,
    retrieving.URI,
    dimse.DIMSE,
)


def requirements() -> list[Requirement]:
    return [one for service in SERVICES for one in service.requirements]


@contextmanager
def our_own() -> Iterator[tuple[str, Peer]]:
    from benchmarks.live_server import LiveServer, free_port

    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        server = LiveServer(Path(folder) / "data")
        token = server.tenant("demo", "INTEROP")
        move_port = free_port()
        server.cli(
            "ae", "create", "--tenant", "demo", "--ae-title", CALLING,
            "--host", "127.0.0.1", "--port", str(move_port), "--query",
        )  # fmt: skip
        with server:
            address = DicomAddress("127.0.0.1", server.dicom_port, "INTEROP", CALLING, move_port)
            root = f"{server.url}/t/demo/dicom-web"
            yield "this server", Peer(root, samples.make(), token=token, dicom=address)


@contextmanager
def an_orthanc() -> Iterator[tuple[str, Peer]]:
    from benchmarks.live_server import free_port
    from benchmarks.orthanc import Orthanc

    move_port = free_port()
    modality = {"us": [CALLING, "127.0.0.1", move_port]}
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        with Orthanc(Path(folder), DicomModalities=modality) as orthanc:
            address = DicomAddress("127.0.0.1", orthanc.dicom_port, "ORTHANC", CALLING, move_port)
            yield "Orthanc", Peer(orthanc.dicom_web, samples.make(), dicom=address)


@contextmanager
def a_running_one(options: argparse.Namespace) -> Iterator[tuple[str, Peer]]:
    address = None
    if options.dicom:
        host, _, port = options.dicom.rpartition(":")
        address = DicomAddress(host, int(port), options.called, options.calling, options.move_port)
    token = options.token or os.environ.get("INTEROP_TOKEN")
    yield options.dicom_web, Peer(options.dicom_web, samples.make(), token=token, dicom=address)


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if options.dicom_web:
        opened = a_running_one(options)
    else:
        opened = an_orthanc() if options.orthanc else our_own()
    findings: list[Finding] = []
    warnings.simplefilter("ignore")  # pydicom's, of the answers of others
    with opened as (name, peer):
        for finding in look(requirements(), peer):
            findings.append(finding)
            if finding.verdict is not Verdict.MET:
                print(f"{finding.requirement.name}: {finding.verdict.value}: {finding.detail}")
        peer.close()
    if options.output:
        folder = Path(options.output)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(report.as_markdown(name, findings), encoding="utf-8")
        made = json.dumps(report.as_json(name, findings), indent=1)
        (folder / "report.json").write_text(made, encoding="utf-8")
    print(f"{name}: {', '.join(f'{n} {v}' for v, n in report.counts(findings).items())}")
    return int(any(finding.verdict is Verdict.NOT_MET for finding in findings))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__.split("\n")[0])
    parser.add_argument("--dicom-web", help="root of the DICOMweb service of a running server")
    parser.add_argument("--token", help="bearer token; or in INTEROP_TOKEN")
    parser.add_argument("--dicom", help="HOST:PORT of its DIMSE listener")
    parser.add_argument("--called", default="INTEROP", help="its AE title")
    parser.add_argument("--calling", default=CALLING, help="the AE title that we call as")
    parser.add_argument("--move-port", type=int, help="where it can send to that AE title")
    parser.add_argument("--orthanc", action="store_true", help="start and check Debian's Orthanc")
    parser.add_argument("--output", help="folder for report.md and report.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
