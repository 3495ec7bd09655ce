"""Every benchmark in turn; writes build/performance.md with the command of each table.

    python -m benchmarks.run [--quick]

Nothing else should run on the machine meanwhile: it takes about half an hour.
docs/performance.md is written from these tables: it says what they mean, which no program does.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil

TARGET = Path(__file__).parents[1] / "build" / "performance.md"
HEAD = """# Performance

Made by `make bench` (`python -m benchmarks.run`) on {date}: {cores} cores, {memory:.0f} GiB,
Python {python}, {system}. The machine is shared: single figures swing, so read medians and ratios.
The peer is Debian's Orthanc with its DICOMweb plugin and `TCP_NODELAY=1`, on the same files in the
same run, with the same durability; the stock peer without it stalls near 20 replies/s.
Our side always has tokens, row-level security and audit on.
"""
# Title, module, options of the full run, options of the quick one.
SECTIONS = (
    ("C-STORE of CBCT slices", "store", "--rounds 2 --slices 200", "--rounds 1 --slices 100"),
    ("DICOMweb", "web", "--rounds 2 --seconds 1.5", "--rounds 1 --quick"),
    ("STOW-RS", "stow", "--rounds 2", "--rounds 1 --files 100"),
    (
        "QIDO-RS as the index grows",
        "qido_scale",
        "--sizes 10000,100000",
        "--sizes 1000 --seconds 0.3",
    ),
    ("Rendered images", "rendered", "", "--quick"),
    ("First image in OHIF", "first_image", "", "--slices 40 --rounds 1"),
    ("C-FIND", "find", "--instances 10000", "--instances 1000"),
    ("C-MOVE and C-GET", "retrieve_dimse", "--rounds 2", "--rounds 1 --slices 100"),
    ("FHIR", "fhir", "--seconds 4 --patients 250", "--seconds 2 --patients 100"),
    ("FHIR writes", "fhir_write", "--seconds 6 --rounds 2", "--seconds 2 --rounds 1"),
    ("FHIR search", "fhir_search", "--sizes 10000,100000", "--sizes 2000 --seconds 1"),
    ("FHIR validation", "validation", "", ""),
    ("Access", "access", "--calls 2000", "--calls 500"),
    ("Memory", "memory", "--megabytes 1024", "--megabytes 200"),
    ("Memory of STOW-RS", "stow_memory", "--megabytes 1024", "--megabytes 100"),
    ("Image to report", "ai_latency", "--runs 8", "--runs 3"),
)


def section(title: str, module: str, options: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{module}", *options.split()]
    print(f"== {title}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    shown = f"`python -m benchmarks.{module} {options}`"
    if done.returncode != 0:
        return f"## {title}\n{shown}\n\nThis run failed with code {done.returncode}.\n"
    return f"## {title}\n{shown}\n\n{done.stdout.strip()}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small runs, printed and not kept")
    arguments = parser.parse_args()
    parts = [
        HEAD.format(
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
            cores=psutil.cpu_count(),
            memory=psutil.virtual_memory().total / 2**30,
            python=platform.python_version(),
            system=platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        )
    ]
    for title, module, full, quick in SECTIONS:
        parts.append(section(title, module, quick if arguments.quick else full))
    text = "\n".join(parts)
    print(text)
    if not arguments.quick:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
