"""`make viewer`: takes OHIF from its npm package, checks it, and makes it fit to be served here.

Needs npm, or the archive itself by --archive where this machine has no registry.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from interop.settings import Settings
from interop.viewer.package import (
    APP_CONFIG,
    CODINGS,
    INTEGRITY,
    MANIFEST,
    PACKAGE,
    PAGE,
    VERSION,
    Viewer,
    ViewerFile,
    ViewerFolder,
)
from viewer_rewrites import CannotRewrite, Files, inline_scripts, kept, rewritten

ROOT = "package/dist/"
LICENSE = "package/LICENSE"
COMPRESSIBLE = (".js", ".css", ".wasm", ".svg", ".json", ".ico")
# Brotli at 11 takes eighteen times as long as at 9 and saves a tenth.
GZIP_LEVEL = 9
BROTLI = """
const fs = require('fs'), zlib = require('zlib'), { BROTLI_PARAM_QUALITY } = zlib.constants;
for (const name of fs.readFileSync(0, 'utf8').split('\\n').filter(Boolean)) {
  const params = { [BROTLI_PARAM_QUALITY]: 9 };
  fs.writeFileSync(name + '.br', zlib.brotliCompressSync(fs.readFileSync(name), { params }));
}
"""


class CannotFetch(Exception):
    """Something is missing; the text says what to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, help=f"the archive of {PACKAGE} {VERSION}")
    parser.add_argument("--to", type=Path, help="folder; default: INTEROP_VIEWER_DIR")
    arguments = parser.parse_args()
    target = arguments.to or Settings().effective_viewer_dir
    present = ViewerFolder(target).current()
    if present is not None and present.problem() is None:
        print(f"{PACKAGE} {VERSION} is in {target} already")
        return
    started = time.monotonic()
    try:
        viewer = install(target, arguments.archive)
    except (CannotFetch, CannotRewrite) as error:
        sys.exit(f"error: {error}")
    seconds = time.monotonic() - started
    print(f"{PACKAGE} {VERSION}: {len(viewer.files)} files in {target}, {seconds:.0f} s")


def install(target: Path, archive: Path | None) -> Viewer:
    """Fetch, check, rewrite, compress; the finished folder takes the place of what was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="viewer-") as work:
        folder = Path(work, "new")
        folder.mkdir()
        checked = checked_archive(archive or packed(Path(work)))
        viewer = written(kept(unpacked(checked)), folder)
        (folder / "LICENSE").write_bytes(license_of(checked))
        manifest = json.dumps(viewer.manifest(), indent=1)
        (folder / MANIFEST).write_text(manifest + "\n", encoding="utf-8")
        if target.exists():
            target.rename(Path(work, "old"))
        folder.chmod(0o755)
        folder.rename(target)
    return viewer


def packed(work: Path) -> Path:
    """The archive, from the registry that npm is configured for."""
    npm = shutil.which("npm")
    if npm is None:
        raise CannotFetch(
            f"npm is not here: install it (Debian: apt install npm), or give the archive of "
            f"{PACKAGE} {VERSION} by --archive"
        )
    name = f"{PACKAGE}@{VERSION}"
    command = [npm, "pack", name, "--ignore-scripts", "--json", "--pack-destination", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotFetch(f"'npm pack {name}' failed: {done.stderr.strip()[-500:]}")
    return work / json.loads(done.stdout)[0]["filename"]


def checked_archive(path: Path) -> Path:
    """The archive, if it is the one that was looked at when its digest was written down."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != INTEGRITY:
        raise CannotFetch(f"{path.name} has the digest {found}, not {INTEGRITY}: do not use it")
    return path


def unpacked(archive: Path) -> Files:
    """The files of the package that a browser might ask for, by their names."""
    with tarfile.open(archive) as tar:
        return {
            member.name.removeprefix(ROOT): _content(tar, member)
            for member in tar
            if member.isfile() and member.name.startswith(ROOT)
        }


def license_of(archive: Path) -> bytes:
    with tarfile.open(archive) as tar:
        return _content(tar, tar.getmember(LICENSE))


def written(files: Files, folder: Path) -> Viewer:
    """The files as they are served, written with what each compresses to."""
    build = f"{VERSION}-{digest_of(rewritten(files, '/viewer/'))[:12]}"
    base = f"/viewer/{build}/"
    ready = rewritten(files, base)
    for name, data in ready.items():
        path = folder / name
        # The archive's digest was right, so its names are: this only says so.
        assert path.resolve().is_relative_to(folder.resolve())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    names = [name for name in ready if name.endswith(COMPRESSIBLE)]
    with ThreadPoolExecutor() as pool:
        brotli = pool.submit(_brotli, [folder / name for name in names])
        list(pool.map(_gzip, (folder / name for name in names)))
        brotli.result()
    described = {name: _described(folder, name) for name in ready if name != PAGE}
    if APP_CONFIG.encode() not in ready[PAGE]:
        raise CannotRewrite(f"{PAGE} does not name its configuration")
    return Viewer(folder, build, INTEGRITY, inline_scripts(ready[PAGE]), described)


def digest_of(files: Files) -> str:
    """One digest of all names and contents."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return whole.hexdigest()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    return file.read()


def _gzip(path: Path) -> None:
    packed = gzip.compress(path.read_bytes(), GZIP_LEVEL, mtime=0)
    path.with_name(path.name + CODINGS["gzip"]).write_bytes(packed)


def _brotli(paths: list[Path]) -> None:
    """By Node.js, which comes with npm; without it browsers get gzip."""
    node = shutil.which("node")
    if node is not None:
        names = "\n".join(map(str, paths))
        subprocess.run([node, "-e", BROTLI], input=names, text=True, check=True)


def _described(folder: Path, name: str) -> ViewerFile:
    return ViewerFile(_sha256(folder / name), dict(_smaller(folder, name)))


def _smaller(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """The codings of a file that are worth their while, with their digests."""
    size = (folder / name).stat().st_size
    for coding, suffix in CODINGS.items():
        path = folder / (name + suffix)
        if not path.exists():
            continue
        if path.stat().st_size < size:
            yield coding, _sha256(path)
        else:
            path.unlink()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
