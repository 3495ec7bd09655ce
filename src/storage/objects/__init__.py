"""Object storage: one port, and the stores behind it (local files, S3)."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from storage.objects.store import (
    ChecksumMismatch,
    ObjectExists,
    ObjectNotFound,
    ObjectStat,
    ObjectStore,
    ObjectStoreError,
    ObjectStoreFull,
    ObjectStoreUnavailable,
)

__all__ = [
    "ChecksumMismatch",
    "ObjectExists",
    "ObjectNotFound",
    "ObjectStat",
    "ObjectStore",
    "ObjectStoreError",
    "ObjectStoreFull",
    "ObjectStoreUnavailable",
    "open_object_store",
]

S3_OPTIONS = ("endpoint_url", "region", "create_bucket")


def open_object_store(url: str, *, durability: str = "full") -> ObjectStore:
    """Open `file:///path` or `s3://bucket/prefix?endpoint_url=...&region=...&create_bucket=true`.

    S3 credentials come from where AWS tools look for them, never from the URL. With durability
    `relaxed`, local files are left to the operating system to write; S3 decides for itself.
    """
    if durability not in ("full", "relaxed"):
        raise ValueError(f"durability {durability!r}: use 'full' or 'relaxed'")
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from storage.objects.files import LocalObjectStore

        return LocalObjectStore(Path(unquote(parts.path)), is_durable=durability == "full")
    if parts.scheme == "s3" and parts.netloc:
        from storage.objects.s3 import S3ObjectStore

        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        unknown = sorted(set(options) - set(S3_OPTIONS))
        if unknown:
            raise ValueError(f"unknown option {unknown} in the S3 URL; known: {list(S3_OPTIONS)}")
        return S3ObjectStore(
            parts.netloc,
            unquote(parts.path).strip("/"),
            endpoint_url=options.get("endpoint_url"),
            region=options.get("region"),
            create_bucket=options.get("create_bucket", "false").lower() in ("1", "true", "yes"),
        )
    raise ValueError(
        f"objects URL {parts.scheme}://{parts.hostname or ''}: use file:///absolute/path or "
        "s3://bucket/prefix?endpoint_url=https://host"
    )
