"""Rendered images, large instances and transcoding against Debian's Orthanc, on the same files.

    .venv/bin/python benchmarks/rendered.py [--rounds 3] [--quick] [--only-ours] [--out FILE]

"first look" asks with windows that nobody asked for before, so that hardly anything is answered
from what was kept; "second look" asks for the same images again and again. Orthanc keeps no
rendered images: its figure is the same both times. Transcoding to what Orthanc of Debian cannot
make (JPEG-LS, HTJ2K) is measured on ours alone. As web.py, the run moves into a network namespace
of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import web_client
import web_corpus
from web import DICOM, JPEG, Case, measure, of, report
from web_client import Figures
from web_corpus import Study
from web_servers import Running, move_apart, orthanc, ours

BARE = "application/dicom"
JPEG_LS = 'multipart/related; type="image/jls"'
HTJ2K = 'multipart/related; type="image/jphc"'
OURS_ALONE = "ours alone: "


def cases(studies: list[Study], seconds: float, number: int) -> dict[str, Case]:
    """What is asked in one round; `number` makes what is rendered first look different."""

    def get(paths: list[str], accept: str, jobs: int = 1, count: int = 10**6) -> Case:
        return lambda server: web_client.get(
            server.base, server.headers, paths, accept, jobs=jobs, seconds=seconds, count=count
        )

    io, px = of(studies, "io"), of(studies, "px")
    (cbct,), (multiframe,) = of(studies, "cbct"), of(studies, "multiframe")
    # A window that nobody has asked for before.
    widths = range(4000 + number * 1000, 5000 + number * 1000)
    images, panoramics = [s.path(0) for s in io], [s.path(0) for s in px]
    slices = [cbct.path(n) for n in range(len(cbct.sops))]
    frames = [f"{multiframe.path(0)}/frames/{n}" for n in range(1, 401, 7)]

    def looks(name: str, paths: list[str], query: str) -> dict[str, Case]:
        new = [f"{p}/rendered?window=2000,{width},linear{query}" for width in widths for p in paths]
        return {
            f"rendered {name}, first look": get(new, JPEG),
            f"rendered {name}, second look": get(
                [f"{path}/rendered?quality=85{query}" for path in paths], JPEG
            ),
        }

    return {
        **looks("IO 1300 x 960", images, ""),
        **looks("IO, 256 pixels", images, "&viewport=256,256"),
        **looks("PX 1320 x 3000", panoramics, ""),
        **looks("CT slice", slices[:100], ""),
        **looks("frame of 400 in one object", frames[:20], ""),
        "instance, IO 2.5 MB": get(images, DICOM),
        "instance, IO 2.5 MB, 4 clients": get(images, DICOM, 4),
        f"{OURS_ALONE}instance, IO 2.5 MB, one part": get(images, BARE),
        "instance, PX 7.9 MB": get(panoramics, DICOM),
        "instance, PX 7.9 MB, 4 clients": get(panoramics, DICOM, 4),
        f"{OURS_ALONE}instance, PX 7.9 MB, one part": get(panoramics, BARE),
        "instance of 128 MB": get([multiframe.path(0)], DICOM, 1, 8),
        f"{OURS_ALONE}instance of 128 MB, one part": get([multiframe.path(0)], BARE, 1, 8),
        f"{OURS_ALONE}frame of a CT slice as JPEG-LS": get(
            [f"{path}/frames/1" for path in slices], JPEG_LS
        ),
        f"{OURS_ALONE}frame of a CT slice as HTJ2K": get(
            [f"{path}/frames/1" for path in slices], HTJ2K
        ),
        f"{OURS_ALONE}IO as HTJ2K": get(images, f"{BARE}; transfer-syntax=1.2.840.10008.1.2.4.201"),
        f"{OURS_ALONE}IO as JPEG-LS": get(
            images, f"{BARE}; transfer-syntax=1.2.840.10008.1.2.4.80"
        ),
    }


def stored(server: Running, studies: list[Study]) -> Figures:
    """Send every file, one a request."""
    files = [file for study in studies for file in study.files]
    return web_client.stow(server.base, server.headers, files, jobs=2, each=1)


def run(options: argparse.Namespace, folder: Path) -> str:
    images = 12 if options.quick else 48
    plan = {"io": (images, 1), "px": (images // 3, 1), "cbct": (1, 400), "multiframe": (1, 1)}
    studies = web_corpus.make(folder / "files", plan)
    results: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        mine = stack.enter_context(ours(folder / "ours", options.app, options.workers))
        servers: list[Running] = [mine]
        if not options.only_ours:
            servers.append(stack.enter_context(orthanc(folder / "orthanc")))
        for server in servers:
            measure("STOW of the corpus", lambda at: stored(at, studies), server)
        for number in range(options.rounds):
            for name, case in cases(studies, options.seconds, number).items():
                if options.case not in name:
                    continue
                asked = servers[:1] if name.startswith(OURS_ALONE) else servers
                for server in asked:
                    results[name][server.name].append(measure(name, case, server))
        shared = {n: r for n, r in results.items() if not n.startswith(OURS_ALONE)}
        alone = {n: r for n, r in results.items() if n.startswith(OURS_ALONE)}
        return f"{report(shared, servers)}\n\n{report(alone, servers[:1])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--app", default="interop.app:create")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--quick", action="store_true", help="12 intra-oral images, not 48")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    move_apart()
    with tempfile.TemporaryDirectory(prefix="rendered-bench-") as folder:
        table = run(options, Path(folder))
    print(table)
    if options.out is not None:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
