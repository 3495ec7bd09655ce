"""The object store in an S3 bucket, through boto3.

Objects are written with `If-None-Match: *`, so that no key is ever replaced, and with a SHA-256
that the store checks before it answers. Requests have time-outs and a bounded number of attempts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from storage.objects.keys import check_key, check_prefix, parse_key
from storage.objects.store import (
    CHUNK,
    ChecksumMismatch,
    ObjectExists,
    ObjectNotFound,
    ObjectStat,
    ObjectStoreFull,
    ObjectStoreUnavailable,
    check_range,
)

logger = logging.getLogger(__name__)

# Above the first, an object goes up in parts of the second: bounded memory and retries of a part.
LARGEST_SINGLE_PUT = 64 << 20
PART_SIZE = 16 << 20
# A large object over a slow line takes hours; one that began earlier than this has been given up.
LONGEST_UPLOAD = timedelta(hours=24)
ATTEMPTS = 4
# Marks an object with the call that wrote it, to recognise our own write after a lost answer.
WRITER = "writer"

NOT_FOUND_CODES = {"NoSuchKey", "404", "NotFound"}
EXISTS_CODES = {"PreconditionFailed", "412", "ConditionalRequestConflict"}
CHECKSUM_CODES = {
    "BadDigest",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "IncompleteBody",
}
FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "507"}

_Parts = list[dict[str, Any]]

# What the network can do to a body that is being read.
_BROKEN_BODY = (BotoCoreError, HTTPError, http.client.HTTPException, OSError)


class S3ObjectStore:
    """Objects in one bucket, below an optional prefix."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        create_bucket: bool = False,
        connect_timeout: float = 5,
        read_timeout: float = 30,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region or os.environ.get("AWS_REGION") or "us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if endpoint_url else "auto"},
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                connect_timeout=connect_timeout,
                read_timeout=read_timeout,
                max_pool_connections=64,
                # We name the checksum ourselves; the default would add a CRC to every request.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                tcp_keepalive=True,
            ),
        )
        if create_bucket:
            self._create_bucket()

    def put_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        check_key(key)
        with path.open("rb") as body:
            size = os.fstat(body.fileno()).st_size
            if size > LARGEST_SINGLE_PUT:
                self._put_parts(key, body, size, sha256)
            else:
                self._put(key, body, sha256 or hashlib.file_digest(body, "sha256").hexdigest())
        # Stored already: a source that cannot be removed is not a failure of the store.
        with contextlib.suppress(OSError):
            path.unlink()

    def put_bytes(self, key: str, data: bytes, sha256: str | None = None) -> None:
        check_key(key)
        self._put(key, data, sha256 or hashlib.sha256(data).hexdigest())

    def get(self, key: str) -> bytes:
        return b"".join(self.open_range(key))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return b"".join(self.open_range(key, offset, length, chunk=max(length, 1)))

    def open_range(
        self, key: str, offset: int = 0, length: int | None = None, chunk: int = CHUNK
    ) -> Iterator[bytes]:
        check_range(offset, length)
        if length == 0:
            self.stat(key)
            return iter(())
        return self._read(key, offset, length, chunk, self._open(key, offset, length))

    def stat(self, key: str) -> ObjectStat:
        with _translated(key):
            head = self._client.head_object(**self._where(key))
        return ObjectStat(key, head["ContentLength"], head["LastModified"])

    def delete(self, key: str) -> None:
        with _translated(key):
            self._client.delete_object(**self._where(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + check_prefix(prefix)
        )
        with _translated(prefix):
            for page in pages:
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self._prefix)
                    yield ObjectStat(key, entry["Size"], entry["LastModified"])

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None

    def remove_abandoned(self, before: datetime) -> int:
        removed = 0
        before = min(before, datetime.now(UTC) - LONGEST_UPLOAD)
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        with _translated("uploads"):
            for page in pages:
                for upload in page.get("Uploads", ()):
                    # Without a prefix the whole bucket is listed, other people's uploads as well.
                    key = upload["Key"].removeprefix(self._prefix)
                    if upload["Initiated"] < before and parse_key(key) is not None:
                        self._abort(upload["Key"], upload["UploadId"])
                        removed += 1
        return removed

    # -- writing -------------------------------------------------------------------------------

    def _put(self, key: str, body: IO[bytes] | bytes, sha256: str) -> None:
        writer = str(uuid4())
        if not isinstance(body, bytes):
            body.seek(0)
        try:
            self._client.put_object(
                **self._where(key),
                Body=body,
                IfNoneMatch="*",
                ChecksumSHA256=_base64(bytes.fromhex(sha256)),
                Metadata={WRITER: writer, "sha256": sha256.lower()},
            )
        except (BotoCoreError, ClientError) as error:
            translated = _translate(error, key)
            if isinstance(translated, ObjectExists) and self._is_written_by(key, writer):
                # An earlier attempt of this very call arrived, and its answer was lost.
                return
            raise translated from error

    def _is_written_by(self, key: str, writer: str) -> bool:
        with _translated(key):
            head = self._client.head_object(**self._where(key))
        return bool(head.get("Metadata", {}).get(WRITER) == writer)

    def _put_parts(self, key: str, body: IO[bytes], size: int, sha256: str | None) -> None:
        """Send a large file in checked parts; S3 has no SHA-256 of the whole, so we compare it."""
        with _translated(key):
            # Some stores take the condition only on a single PUT, so look before sending much.
            with contextlib.suppress(ObjectNotFound):
                self.stat(key)
                raise ObjectExists(f"an object with key {key} exists")
            upload = self._client.create_multipart_upload(
                **self._where(key), ChecksumAlgorithm="SHA256", Metadata={WRITER: str(uuid4())}
            )["UploadId"]
            try:
                parts = self._send_parts(key, upload, body, size, sha256)
                self._client.complete_multipart_upload(
                    **self._where(key),
                    UploadId=upload,
                    IfNoneMatch="*",
                    MultipartUpload={"Parts": parts},
                )
            except BaseException:
                self._abort(self._prefix + key, upload)
                raise

    def _send_parts(
        self, key: str, upload: str, body: IO[bytes], size: int, sha256: str | None
    ) -> _Parts:
        whole = hashlib.sha256()
        parts: _Parts = []
        sent = 0
        while data := body.read(PART_SIZE):
            whole.update(data)
            sent += len(data)
            checksum = _base64(hashlib.sha256(data).digest())
            number = len(parts) + 1
            answer = self._client.upload_part(
                **self._where(key),
                UploadId=upload,
                PartNumber=number,
                Body=data,
                ChecksumSHA256=checksum,
            )
            parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
        if sent != size or (sha256 is not None and whole.hexdigest() != sha256.lower()):
            raise ChecksumMismatch(
                f"sent {sent} bytes with SHA-256 {whole.hexdigest()} for {key}, "
                f"expected {size} bytes with {sha256}"
            )
        return parts

    def _abort(self, full_key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=full_key, UploadId=upload)
        except (BotoCoreError, ClientError) as error:
            # The sweep removes it later; the error that led here matters more.
            logger.warning("multipart_abort_failed", extra={"error": type(error).__name__})

    # -- reading -------------------------------------------------------------------------------

    def _open(self, key: str, offset: int, length: int | None) -> Any:
        """Return the body of the range, or None when it begins at or after the end."""
        last = "" if length is None else str(offset + length - 1)
        ranged = {} if offset == 0 and length is None else {"Range": f"bytes={offset}-{last}"}
        try:
            return self._client.get_object(**self._where(key), **ranged)["Body"]
        except (BotoCoreError, ClientError) as error:
            if _code(error) in ("InvalidRange", "416", "RequestedRangeNotSatisfiable"):
                return None
            raise _translate(error, key) from error

    def _read(
        self, key: str, offset: int, length: int | None, chunk: int, body: Any
    ) -> Iterator[bytes]:
        """Yield the body's chunks; where the connection breaks, go on from there."""
        position = offset
        failures = 0
        try:
            while body is not None:
                try:
                    data = body.read(chunk)
                except _BROKEN_BODY as error:
                    failures += 1
                    body.close()
                    if failures >= ATTEMPTS:
                        raise ObjectStoreUnavailable(
                            f"reading {key} broke off {failures} times"
                        ) from error
                    left = None if length is None else offset + length - position
                    body = self._open(key, position, left)
                    continue
                if not data:
                    return
                position += len(data)
                yield data
        finally:
            if body is not None:
                body.close()

    # -- bucket --------------------------------------------------------------------------------

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _create_bucket(self) -> None:
        try:
            self._client.create_bucket(Bucket=self._bucket)
        except (BotoCoreError, ClientError) as error:
            if _code(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise _translate(error, self._bucket) from error


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")


def _code(error: Exception) -> str:
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def _translate(error: Exception, key: str) -> Exception:
    """Say in the port's own terms what S3 or the network answered."""
    code = _code(error)
    if code in NOT_FOUND_CODES:
        return ObjectNotFound(f"no object has key {key}")
    if code in EXISTS_CODES:
        return ObjectExists(f"an object with key {key} exists")
    if code in CHECKSUM_CODES:
        return ChecksumMismatch(f"the store received other bytes than announced for {key}")
    if code in FULL_CODES:
        return ObjectStoreFull(f"the object store has no space left ({code})")
    return ObjectStoreUnavailable(f"the object store answered {code or type(error).__name__}")


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, *_BROKEN_BODY) as error:
        raise _translate(error, key) from error
