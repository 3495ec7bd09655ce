"""The viewer that `make viewer` brings: which package, and what of it lies on this machine.

`viewer.json` beside the files says what each of them is; nothing is served that it does not name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = "@ohif/app"
VERSION = "3.13.2"
# Of the package's archive, as npm writes it (Subresource Integrity).
INTEGRITY = (
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5P"
    "Pe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
)
MANIFEST = "viewer.json"
PAGE = "index.html"
# Where the page of a tenant names its own script.
APP_CONFIG = "@@APP_CONFIG@@"
# Content codings, the smallest first, and how the name of a file ends that is kept in it.
CODINGS = {"br": ".br", "gzip": ".gz"}
HOW_TO_ADD = "run 'make viewer' (npm brings it, 50 MB); a running server finds it"


@dataclass(frozen=True, slots=True)
class ViewerFile:
    """One file, and the SHA-256 of it in each coding that is kept (`""`: as it is)."""

    sha256: str
    codings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Viewer:
    """The files of one viewer. `build` names their content and stands in their addresses."""

    folder: Path
    build: str
    integrity: str
    inline_scripts: tuple[str, ...]  # digests of the page's inline scripts, as CSP writes them
    files: Mapping[str, ViewerFile]

    @property
    def base(self) -> str:
        """The address below which the files are served."""
        return f"/viewer/{self.build}/"

    def page(self, app_config: str) -> str:
        """The page, with the address of the script that configures it."""
        text = (self.folder / PAGE).read_text(encoding="utf-8")
        return text.replace(APP_CONFIG, app_config)

    def problem(self) -> str | None:
        """What is wrong with the files on disk, None where nothing is."""
        if self.integrity != INTEGRITY:
            return f"another package than {PACKAGE} {VERSION}"
        for name, file in self.files.items():
            kept = {name: file.sha256}
            kept |= {name + CODINGS[coding]: digest for coding, digest in file.codings.items()}
            for path, digest in kept.items():
                if _sha256(self.folder / path) != digest:
                    return f"{path} is missing or was changed"
        return None

    def manifest(self) -> dict[str, Any]:
        """What `viewer.json` holds."""
        return {
            "package": PACKAGE,
            "version": VERSION,
            "integrity": self.integrity,
            "build": self.build,
            "inline_scripts": list(self.inline_scripts),
            "files": {
                name: {"sha256": file.sha256, "codings": dict(file.codings)}
                for name, file in sorted(self.files.items())
            },
        }


class ViewerFolder:
    """A folder that may hold a viewer; one that is put there or exchanged is found."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_at: int | None = None
        self._viewer: Viewer | None = None

    def current(self) -> Viewer | None:
        """The viewer that is there now, None where there is none."""
        try:
            changed_at = (self._folder / MANIFEST).stat().st_mtime_ns
        except OSError:
            return None
        if changed_at != self._read_at:
            self._viewer = read(self._folder)
            self._read_at = changed_at
        return self._viewer


def read(folder: Path) -> Viewer | None:
    """The viewer in a folder, None where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Viewer(
            folder,
            manifest["build"],
            manifest["integrity"],
            tuple(manifest["inline_scripts"]),
            {
                name: ViewerFile(file["sha256"], file["codings"])
                for name, file in manifest["files"].items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
