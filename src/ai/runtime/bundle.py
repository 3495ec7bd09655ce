"""Platform bundles: MONAI Bundles that ship with this package, pinned by digest.

A bundle whose files differ by one byte from the manifest is refused (security.md F3, F4). At run
time only metadata.json and the ONNX model are read: no MONAI configuration is parsed, nothing is
unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUNDLES = Path(__file__).resolve().parent.parent / "bundles"
MANIFEST = BUNDLES / "manifest.json"
ALLOWED_SUFFIXES = (".json", ".md", ".onnx", ".pt", ".txt", "")
MAX_BUNDLE_BYTES = 64 << 20


class BundleRefused(Exception):
    """The bundle is not one of the platform's, or its files were changed."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `classes` maps label-mask values to names; `thresholds` are those used."""

    name: str
    version: str
    digest: str
    metadata: Mapping[str, Any]
    classes: Mapping[int, str]
    thresholds: Mapping[str, float]
    path: Path
    model_card_path: Path
    model_path: Path
    model_sha256: str


def bundle_digest(path: Path) -> str:
    """Return sha256 over the sorted files of a bundle: relative name, size and content of each."""
    total = 0
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*"), key=lambda file: file.relative_to(path).as_posix()):
        name = file.relative_to(path).as_posix()
        if file.is_symlink():
            raise BundleRefused(f"{name}: links are not accepted in a bundle")
        if file.is_dir():
            continue
        if file.suffix not in ALLOWED_SUFFIXES:
            accepted = ", ".join(suffix or "no suffix" for suffix in ALLOWED_SUFFIXES)
            raise BundleRefused(f"{name}: only files with {accepted} are accepted in a bundle")
        total += file.stat().st_size
        if total > MAX_BUNDLE_BYTES:
            raise BundleRefused(f"{path.name}: larger than {MAX_BUNDLE_BYTES} bytes")
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def load_bundle(path: Path | str, *, manifest: Path = MANIFEST) -> Bundle:
    """Verify a bundle against the manifest and return it; raise BundleRefused otherwise."""
    path = Path(path)
    if not (path / "configs" / "metadata.json").is_file():
        raise BundleRefused(f"{path}: no MONAI Bundle, configs/metadata.json is missing")
    digest = bundle_digest(path)
    metadata = json.loads((path / "configs" / "metadata.json").read_bytes())
    name = str(metadata["name"])
    pinned = json.loads(manifest.read_bytes())["bundles"].get(name)
    if pinned is None:
        raise BundleRefused(f"{name}: not in the manifest; only platform bundles are run")
    if pinned["digest"] != digest:
        raise BundleRefused(
            f"{name}: the files have digest {digest}, the manifest pins {pinned['digest']}"
        )
    model_path = path / "models" / "model.onnx"
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    section = metadata["postprocessing"]
    return Bundle(
        name=name,
        version=str(metadata["version"]),
        digest=digest,
        metadata=metadata,
        classes={label: str(channels[str(label)]) for label in range(33)},
        thresholds={key: float(value) for key, value in section["thresholds"].items()},
        path=path,
        model_card_path=path / "docs" / "README.md",
        model_path=model_path,
        model_sha256=hashlib.sha256(model_path.read_bytes()).hexdigest(),
    )


def platform_bundle(name: str) -> Bundle:
    """Load a bundle that ships with this package, `panoramic` for one."""
    return load_bundle(BUNDLES / name)


def write_manifest(paths: list[Path], manifest: Path = MANIFEST) -> None:
    """Pin the bundles as they are now. Called by training, never at run time."""
    bundles = {}
    for path in paths:
        metadata = json.loads((path / "configs" / "metadata.json").read_bytes())
        bundles[metadata["name"]] = {
            "path": path.name,
            "version": metadata["version"],
            "digest": bundle_digest(path),
        }
    text = json.dumps({"bundles": bundles}, indent=2, sort_keys=True)
    manifest.write_text(text + "\n")
