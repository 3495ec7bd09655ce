"""QIDO-RS as the index grows: an index of N studies is made by SQL, and asked over HTTP.

    .venv/bin/python -m benchmarks.qido_scale [--sizes 10000,60000,1000000] [--seconds 1]

Studies have one series of one instance, each hundredth ten instances; names and days are drawn
from lists. The server is the real one with tokens, policy, row-level security and audit; what
stands behind the instances is never read. Prints a table of the median times, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg

sys.path.insert(0, str(Path(__file__).parent))

import web_client
from web_servers import started

JSON = "application/dicom+json"


def _attributes(*attributes: tuple[str, str, object]) -> str:
    found = {tag: {"vr": vr, "Value": [value]} for tag, vr, value in attributes}
    return json.dumps(found, separators=(",", ":"))


# As `received.STUDY_TAGS` makes it; what stands in angle brackets the database fills in.
STUDY_JSON = _attributes(
    ("00080005", "CS", "ISO_IR 192"),
    ("00080020", "DA", "<day>"),
    ("00080030", "TM", "101500"),
    ("00080050", "SH", "ACC<n>"),
    ("00080061", "CS", "IO"),
    ("00080090", "PN", {"Alphabetic": "HOUSE^GREGORY"}),
    ("00081030", "LO", "Bitewings"),
    ("00100010", "PN", {"Alphabetic": "<name>"}),
    ("00100020", "LO", "PAT<n>"),
    ("00100030", "DA", "19800102"),
    ("00100040", "CS", "F"),
    ("0020000D", "UI", "1.2.826.0.1.9.<n>"),
    ("00200010", "SH", "S<n>"),
    ("00201206", "IS", 1),
    ("00201208", "IS", 1),
)
SERIES_JSON = _attributes(("00080060", "CS", "IO"), ("00200011", "IS", 1))
INSTANCE_JSON = _attributes(
    ("00080016", "UI", "1.2.840.10008.5.1.4.1.1.1.3"),
    ("00080018", "UI", "<uid>"),
    ("00200013", "IS", 1),
    ("00280010", "US", 1300),
    ("00280011", "US", 960),
    ("00280100", "US", 16),
)
NAMES = (
    "(ARRAY['NGUYEN','MUELLER','SMITH','GARCIA','TANAKA','OKAFOR','ROSSI','KOWALSKI','MEYER',"
    "'JOHANSSON','HAAS','ZUBER'])[1 + n * 7 %% 12] || n / 5000 || '^' ||"
    " (ARRAY['ANNA','BEN','CLARA','DAVID','EVA','FELIX','GRETA'])[1 + n %% 7] || n"
)
DAY = "to_char(date '2016-01-01' + (n::bigint * 2654435761 %% 3650)::int, 'YYYYMMDD')"
# In steps, so that no statement holds a gigabyte. A trigger adds the words of the names.
FILL = (
    "CREATE TEMP TABLE made ON COMMIT DROP AS SELECT n, gen_random_uuid() AS study_id,"
    f" gen_random_uuid() AS series_id, {DAY} AS day, {NAMES} AS name"
    " FROM generate_series(%(first)s::int, %(last)s::int) AS n",
    "INSERT INTO patients (tenant_id, id, last_name) SELECT %(tenant)s, study_id, name FROM made",
    "INSERT INTO imaging_studies (tenant_id, id, patient_id, study_uid, modality, study_date,"
    " study_time, accession_number, dicom_study_id, study_description, patient_name,"
    " patient_name_key, dicom_patient_id, issuer_of_patient_id, patient_birth_date, patient_sex,"
    " modalities_in_study, sop_classes_in_study, number_of_series, number_of_instances, dicom_json)"
    " SELECT %(tenant)s, study_id, study_id, '1.2.826.0.1.9.' || n, 'INTRAORAL', day, '101500',"
    " 'ACC' || n, 'S' || n, 'Bitewings', name, name, 'PAT' || n, '', '19800102', 'F', ARRAY['IO'],"
    " ARRAY['1.2.840.10008.5.1.4.1.1.1.3'], 1, 1, replace(replace(replace("
    " %(study_json)s, '<n>', n::text), '<day>', day), '<name>', name) FROM made",
    "INSERT INTO imaging_series (tenant_id, id, study_id, series_uid, modality, series_number,"
    " number_of_instances, dicom_json) SELECT %(tenant)s, series_id, study_id,"
    " '1.2.826.0.1.9.' || n || '.1', 'IO', 1, 1, %(series_json)s FROM made",
    "INSERT INTO imaging_objects (tenant_id, study_id, series_id, sop_instance_uid, sop_class_uid,"
    " transfer_syntax_uid, object_type, storage_uri, hash, byte_size, instance_number, height,"
    " width, number_of_frames, dicom_json) SELECT %(tenant)s, study_id, series_id, uid,"
    " '1.2.840.10008.5.1.4.1.1.1.3', '1.2.840.10008.1.2.1', 'DICOM', uid, repeat('0', 64),"
    " 1000, k, 1300, 960, 1, replace(%(instance_json)s, '<uid>', uid) FROM made"
    " CROSS JOIN LATERAL"
    " (SELECT k, '1.2.826.0.1.9.' || n || '.1.' || k AS uid FROM generate_series(1,"
    " CASE WHEN n %% 100 = 0 THEN 10 ELSE 1 END) AS k) AS of_study",
)
STEP = 50_000


@dataclass
class Server:
    """The server under test, and the database behind it as its owner sees it."""

    base: str
    headers: dict[str, str]
    owner_url: str
    tenant_id: UUID

    def fill(self, first: int, last: int) -> None:
        """Add the studies of these numbers."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            for begin in range(first, last + 1, STEP):
                end = min(begin + STEP - 1, last)
                values = {
                    "tenant": self.tenant_id,
                    "first": begin,
                    "last": end,
                    "study_json": STUDY_JSON,
                    "series_json": SERIES_JSON,
                    "instance_json": INSTANCE_JSON,
                }
                with connection.transaction():
                    connection.execute(
                        "SELECT set_config('app.tenant', %s, true),"
                        " set_config('app.lens', 'on', true)",
                        (str(self.tenant_id),),
                    )
                    for statement in FILL:
                        connection.execute(statement.encode(), values)
            connection.execute("VACUUM (ANALYZE)")

    def next_link(self, path: str) -> str:
        """The path of the page after this one."""
        request = urllib.request.Request(self.base + path, headers=self.headers)
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)
            link: str = answer.headers["Link"]
        return link.partition("<")[2].partition(">")[0].removeprefix(self.base)


@contextmanager
def running(folder: Path, workers: int) -> Iterator[Server]:
    """Our server, open to the owner of the database."""
    with started(folder, "interop.app:create", workers) as server:
        yield Server(server.root, server.headers, server.owner_url, server.tenant_id)


def cases(server: Server, size: int) -> dict[str, list[str]]:
    """What is asked of an index of `size` studies."""
    drawn = [1 + n * size // 97 for n in range(97)]
    deep = size * 9 // 10
    tens = [n // 100 * 100 for n in drawn if n >= 100]
    return {
        "study by UID": [f"/studies?StudyInstanceUID=1.2.826.0.1.9.{n}" for n in drawn],
        "study by PatientID": [f"/studies?PatientID=PAT{n}" for n in drawn],
        "study by accession number": [f"/studies?AccessionNumber=ACC{n}" for n in drawn],
        "PatientName=NGU*, 25": ["/studies?PatientName=NGU*&limit=25"],
        "PatientName=NGUYEN0^BEN8*": ["/studies?PatientName=NGUYEN0^BEN8*&limit=25"],
        "fuzzy name, one patient": [
            f"/studies?PatientName=clara{n // 7 * 7 + 2}&fuzzymatching=true&limit=25" for n in drawn
        ],
        "one date, 25": [f"/studies?StudyDate=2020{m:02d}11&limit=25" for m in range(1, 13)],
        "one month, 25": [
            f"/studies?StudyDate=2020{m:02d}01-2020{m:02d}28&limit=25" for m in range(1, 13)
        ],
        "list, 25": ["/studies?limit=25"],
        "list, 25 at 90 % offset": [f"/studies?limit=25&offset={deep}"],
        "list, 25 after 90 % by link": [server.next_link(f"/studies?limit=25&offset={deep}")],
        "instances of a study of 10": [f"/studies/1.2.826.0.1.9.{n}/instances" for n in tens],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,60000,1000000")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each case")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    sizes = sorted(int(size) for size in options.sizes.split(","))
    folder = Path(tempfile.mkdtemp(prefix="interop-qido-"))
    table: dict[str, list[str]] = {}
    try:
        with running(folder, options.workers) as server:
            filled = 0
            for size in sizes:
                server.fill(filled + 1, size)
                filled = size
                print(f"{size} studies", file=sys.stderr, flush=True)
                for name, paths in cases(server, size).items():
                    figures = web_client.get(
                        server.base, server.headers, paths, JSON, jobs=1,
                        seconds=options.seconds, count=10**6,
                    )  # fmt: skip
                    assert set(figures.statuses) == {200}, (name, figures.statuses)
                    table.setdefault(name, []).append(f"{figures.p50_ms:.2f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"| p50 ms | {' | '.join(f'{size:,} studies' for size in sizes)} |")
    print("|---" * (len(sizes) + 1) + "|")
    for name, values in table.items():
        print(f"| {name} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
