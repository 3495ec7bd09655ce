"""C-FIND as the archive grows, against Debian's Orthanc with the same objects.

    python -m benchmarks.find [--instances 10000] [--seconds 2] [--servers interop orthanc]
    python -m benchmarks.find --synthetic 1000000

Both servers are filled by C-STORE of the same tiny objects, ten a study, and one series of 400;
one association asks then for each case over and over. With `--synthetic` the index of ours is made
by SQL (`qido_scale`) instead, so many studies, and nobody stands beside it. Figures are the median
of one request in milliseconds, from its first byte to the final response, and of its first match;
and the CPU time of a request, of the server and its database together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from struct import pack, unpack_from

import psutil

from benchmarks import dimse_sender, orthanc, qido_scale, web_corpus
from benchmarks.live_server import LiveServer
from benchmarks.web_corpus import Study
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrations import upgrade
from storage.tenancy import TenantDirectory

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
SERIES_IMAGES = 400
STUDY_IMAGES = 10

Keys = dict[tuple[int, int], str]
LEVEL, MODALITIES = (0x0008, 0x0052), (0x0008, 0x0061)
STUDY_DATE, STUDY_TIME, ACCESSION = (0x0008, 0x0020), (0x0008, 0x0030), (0x0008, 0x0050)
STUDY_DESCRIPTION = (0x0008, 0x1030)
PATIENT_NAME, PATIENT_ID = (0x0010, 0x0010), (0x0010, 0x0020)
STUDY_UID, SERIES_UID = (0x0020, 0x000D), (0x0020, 0x000E)
SOP_CLASS_UID, SOP_INSTANCE_UID = (0x0008, 0x0016), (0x0008, 0x0018)
INSTANCE_NUMBER = (0x0020, 0x0013)
# What a work list asks back.
STUDY_KEYS: Keys = {
    LEVEL: "STUDY", STUDY_DATE: "", STUDY_TIME: "", ACCESSION: "", MODALITIES: "",
    STUDY_DESCRIPTION: "", PATIENT_NAME: "", PATIENT_ID: "", STUDY_UID: "",
}  # fmt: skip
IMAGE_KEYS: Keys = {
    LEVEL: "IMAGE", STUDY_UID: "", SERIES_UID: "", SOP_CLASS_UID: "", SOP_INSTANCE_UID: "",
    INSTANCE_NUMBER: "",
}  # fmt: skip


def encoded(keys: Keys) -> bytes:
    """An identifier in Implicit VR Little Endian."""
    parts = []
    for (group, element), text in sorted(keys.items()):
        value = text.encode()
        if len(value) % 2:
            value += b"\0" if (group, element) in (STUDY_UID, SERIES_UID) else b" "
        parts.append(pack("<HHI", group, element, len(value)) + value)
    return b"".join(parts)


@dataclass
class Answer:
    """One request: its matches, and seconds to the first and to the end."""

    matches: int
    first: float
    seconds: float


class Requestor(dimse_sender.Association):
    """An association for Study Root FIND."""

    def __init__(self, port: int, called: str) -> None:
        context = (STUDY_ROOT_FIND, IMPLICIT_VR_LITTLE_ENDIAN)
        super().__init__(port, [context], called=called)

    def find(self, keys: Keys) -> Answer:
        """Send C-FIND and read every response."""
        self._message_id = self._message_id % 65535 + 1
        identifier = encoded(keys)
        command = _find_rq(self._message_id)
        began = time.perf_counter()
        self._send(
            [
                dimse_sender._pdv(1, 3, len(command)), command,
                dimse_sender._pdv(1, 2, len(identifier)), identifier,
            ]
        )  # fmt: skip
        matches, first = 0, 0.0
        while True:
            kind, body = self._pdu()
            if kind != 4:
                raise ConnectionError(f"PDU {kind} instead of a response")
            status = self._status(body)
            if status is None:
                continue
            first = first or time.perf_counter() - began
            if status >> 8 == 0xFF:
                matches += 1
            elif status:
                raise ConnectionError(f"C-FIND ended with 0x{status:04X}")
            else:
                return Answer(matches, first, time.perf_counter() - began)

    def _status(self, body: bytes) -> int | None:
        """The status of the first command among the PDVs; None when there is none."""
        at = 0
        while at < len(body):
            length, _, control = unpack_from(">IBB", body, at)
            if control & 1:
                return dimse_sender._status(body[at : at + 4 + length])
            at += 4 + length
        return None


def _find_rq(message_id: int) -> bytes:
    uid = STUDY_ROOT_FIND.encode() + b"\0" * (len(STUDY_ROOT_FIND) % 2)
    body = b"".join(
        pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (0x0002, uid),
            (0x0100, pack("<H", 0x0020)),
            (0x0110, pack("<H", message_id)),
            (0x0700, b"\0\0"),
            (0x0800, b"\1\0"),
        )
    )
    return pack("<HHII", 0, 0, 4, len(body)) + body


# -- servers ------------------------------------------------------------------------------------


@dataclass
class Target:
    """A server under test; `roots` are its processes that start the others."""

    port: int
    called: str
    roots: list[psutil.Process]

    def cpu_seconds(self) -> float:
        """Of all its processes that are there now."""
        found = {p for root in self.roots for p in (root, *root.children(recursive=True))}
        times = [process.cpu_times() for process in found]
        return float(sum(one.user + one.system for one in times))


def _interop_target(server: LiveServer, folder: Path) -> Target:
    """Our server, and its database below the folder."""
    assert server.process is not None
    pids = [int(path.read_text().split()[0]) for path in folder.rglob("postmaster.pid")]
    roots = [psutil.Process(pid) for pid in (server.process.pid, *pids)]
    return Target(server.dicom_port, "INTEROP", roots)


@contextmanager
def interop(folder: Path, studies: Sequence[Study]) -> Iterator[Target]:
    server = LiveServer(folder, durability="relaxed")
    server.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
    server.cli("ae", "create", "--tenant", "demo", "--ae-title", "BENCH")
    server.start(role="dicom")
    try:
        _fill(server.dicom_port, "INTEROP", studies)
        yield _interop_target(server, folder)
    finally:
        server.stop()


@contextmanager
def peer(folder: Path, studies: Sequence[Study]) -> Iterator[Target]:
    modalities = {"bench": ["BENCH", "127.0.0.1", 1]}
    with orthanc.Orthanc(folder, is_durable=False, DicomModalities=modalities) as server:
        _fill(server.dicom_port, "ORTHANC", studies)
        yield Target(server.dicom_port, "ORTHANC", server.processes())


SERVERS = {"interop": interop, "orthanc": peer}


def _fill(port: int, called: str, studies: Sequence[Study]) -> None:
    files = [file for study in studies for file in study.files]
    stored = dimse_sender.measure(port, files, 2, called=called)
    if stored.failed:
        raise RuntimeError(f"{stored.failed} objects were not stored")
    print(f"{called}: {stored.per_second:.0f} instances/s stored", file=sys.stderr, flush=True)


@contextmanager
def synthetic(folder: Path, studies: int) -> Iterator[Target]:
    """Our DIMSE role over an index of so many studies, made by SQL."""
    with EmbeddedPostgres(folder / "postgres") as postgres:
        upgrade(postgres.owner_url)
        owner = Database(postgres.owner_url)
        tenant = TenantDirectory(owner).create("bench", ae_title="INTEROP")
        owner.close()
        qido_scale.Server("", {}, postgres.owner_url, tenant.id).fill(1, studies)
        server = LiveServer(
            folder / "data",
            database_url=postgres.app_url,
            database_owner_url=postgres.owner_url,
        )
        server.cli("ae", "create", "--tenant", "bench", "--ae-title", "BENCH")
        server.start(role="dicom")
        try:
            yield _interop_target(server, folder)
        finally:
            server.stop()


# -- cases --------------------------------------------------------------------------------------


def cases(studies: Sequence[Study]) -> dict[str, list[Keys]]:
    """What is asked of an archive of these studies."""
    drawn = studies[:: max(1, len(studies) // 97)]
    large = max(studies, key=lambda study: len(study.sops))
    images = {**IMAGE_KEYS, STUDY_UID: large.study, SERIES_UID: large.series}
    return {
        "study by PatientID": [{**STUDY_KEYS, PATIENT_ID: s.patient_id} for s in drawn],
        "study by UID": [{**STUDY_KEYS, STUDY_UID: s.study} for s in drawn],
        "PatientName=NGU*": [{**STUDY_KEYS, PATIENT_NAME: "NGU*"}],
        "one month": [
            {**STUDY_KEYS, STUDY_DATE: f"2020{month:02}01-2020{month:02}28"}
            for month in range(1, 13)
        ],
        f"images of a series of {len(large.sops)}": [images],
    }


def synthetic_cases(size: int) -> dict[str, list[Keys]]:
    """The same of the index that `qido_scale` makes."""
    drawn = [1 + n * size // 97 for n in range(97)]
    tens = [n // 100 * 100 for n in drawn if n >= 100]
    return {
        "study by PatientID": [{**STUDY_KEYS, PATIENT_ID: f"PAT{n}"} for n in drawn],
        "study by UID": [{**STUDY_KEYS, STUDY_UID: f"1.2.826.0.1.9.{n}"} for n in drawn],
        "PatientName=NGUYEN0*": [{**STUDY_KEYS, PATIENT_NAME: "NGUYEN0*"}],
        "one day": [{**STUDY_KEYS, STUDY_DATE: f"2020{month:02}11"} for month in range(1, 13)],
        "images of a series of 10": [
            {
                **IMAGE_KEYS,
                STUDY_UID: f"1.2.826.0.1.9.{n}",
                SERIES_UID: f"1.2.826.0.1.9.{n}.1",
            }
            for n in tens
        ],
    }


@dataclass
class Measured:
    """The median of one case at one server."""

    server: str
    case: str
    size: int
    matches: int
    p50_ms: float
    first_ms: float
    cpu_ms: float
    requests: int


def measure(
    name: str, target: Target, asked: dict[str, list[Keys]], size: int, seconds: float
) -> list[Measured]:
    found = []
    requestor = Requestor(target.port, target.called)
    for case, several in asked.items():
        for keys in several[:5]:
            requestor.find(keys)
        answers = []
        cpu = target.cpu_seconds()
        until = time.perf_counter() + seconds
        for keys in itertools.cycle(several):
            answers.append(requestor.find(keys))
            if time.perf_counter() > until and len(answers) >= 5:
                break
        found.append(
            Measured(
                name, case, size,
                round(statistics.median(a.matches for a in answers)),
                statistics.median(a.seconds for a in answers) * 1000,
                statistics.median(a.first for a in answers) * 1000,
                (target.cpu_seconds() - cpu) * 1000 / len(answers),
                len(answers),
            )
        )  # fmt: skip
        print(asdict(found[-1]), file=sys.stderr, flush=True)
    requestor.release()
    return found


def summary(rows: Sequence[Measured]) -> str:
    """A table of medians; where Orthanc stands beside us, how many times faster we are."""
    names = list(dict.fromkeys(row.server for row in rows))
    by_case = {(row.case, row.server): row for row in rows}
    head = ["case", "matches"]
    for name in names:
        head += [f"{name} p50 ms", f"{name} first ms", f"{name} CPU ms"]
    if len(names) == 2:
        head.append("times")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in dict.fromkeys(row.case for row in rows):
        of_case = [by_case[case, name] for name in names]
        cells = [case, str(of_case[0].matches)]
        for row in of_case:
            cells += [f"{row.p50_ms:.2f}", f"{row.first_ms:.2f}", f"{row.cpu_ms:.2f}"]
        if len(names) == 2:
            cells.append(f"{of_case[1].p50_ms / of_case[0].p50_ms:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each case")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--synthetic", type=int, metavar="STUDIES")
    parser.add_argument("--json", type=Path, help="append the rows to this file")
    arguments = parser.parse_args()
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="interop-bench-") as work:
        folder = Path(work)
        if arguments.synthetic:
            size = arguments.synthetic
            with synthetic(folder, size) as target:
                rows = measure("interop", target, synthetic_cases(size), size, arguments.seconds)
            print(f"{size:,} studies\n")
        else:
            rows = _side_by_side(folder, arguments)
            print(f"{arguments.instances:,} instances\n")
    if arguments.json is not None:
        with arguments.json.open("a") as target_file:
            target_file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    print(summary(rows))


def _side_by_side(folder: Path, arguments: argparse.Namespace) -> list[Measured]:
    small = max(1, (arguments.instances - SERIES_IMAGES) // STUDY_IMAGES)
    studies = web_corpus.make(folder / "corpus", {"tiny": (small, STUDY_IMAGES)})
    studies += web_corpus.make(folder / "series", {"tiny": (1, SERIES_IMAGES)}, seed=2)
    rows: list[Measured] = []
    for name in arguments.servers:
        if name == "orthanc" and not orthanc.is_installed():
            continue
        with SERVERS[name](folder / name, studies) as target:
            rows += measure(name, target, cases(studies), arguments.instances, arguments.seconds)
    return rows


if __name__ == "__main__":
    main()
