"""What only the S3 store meets: broken connections, outages, foreign credentials."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from storage.objects import ObjectNotFound, ObjectStoreUnavailable, open_object_store
from storage.objects.keys import new_key
from storage.objects.s3 import S3ObjectStore

if TYPE_CHECKING:
    FaultyProxy = Any


@pytest.fixture
def behind_proxy(faulty_proxy: FaultyProxy) -> S3ObjectStore:
    return S3ObjectStore("objects", os.urandom(6).hex(), endpoint_url=faulty_proxy.endpoint)


def test_url_names_bucket_prefix_and_endpoint(seaweedfs: str) -> None:
    prefix = os.urandom(6).hex()
    outer = open_object_store(f"s3://objects?endpoint_url={seaweedfs}")
    inner = open_object_store(f"s3://objects/{prefix}/?endpoint_url={seaweedfs}&region=eu-west-1")

    inner.put_bytes("a/b", b"data")

    assert outer.get(f"{prefix}/a/b") == b"data"
    assert [found.key for found in inner.list("")] == ["a/b"]


def test_write_whose_answer_was_lost_succeeds_at_the_second_attempt(
    faulty_proxy: FaultyProxy, behind_proxy: S3ObjectStore
) -> None:
    key = new_key(uuid4())
    # The server asks for the body, takes it, and its final answer never arrives.
    faulty_proxy.faults.append(len(b"HTTP/1.1 100 Continue\r\n\r\n"))

    behind_proxy.put_bytes(key, b"stored by the first attempt")

    # The first attempt stored the object, the second met it and recognised its own work.
    assert faulty_proxy.connections >= 2
    assert behind_proxy.get(key) == b"stored by the first attempt"


def test_read_that_breaks_off_goes_on_where_it_was(
    faulty_proxy: FaultyProxy, behind_proxy: S3ObjectStore, seaweedfs: str
) -> None:
    data = os.urandom(3_000_000)
    key = new_key(uuid4())
    behind_proxy.put_bytes(key, data)
    reader = S3ObjectStore(
        "objects", behind_proxy._prefix.rstrip("/"), endpoint_url=faulty_proxy.endpoint
    )
    faulty_proxy.faults.extend([700_000, 900_000])

    assert b"".join(reader.open_range(key, 1000, 2_500_000)) == data[1000:2_501_000]
    assert not faulty_proxy.faults


def test_read_that_keeps_breaking_off_is_an_outage(
    faulty_proxy: FaultyProxy, behind_proxy: S3ObjectStore
) -> None:
    key = new_key(uuid4())
    behind_proxy.put_bytes(key, os.urandom(3_000_000))
    reader = S3ObjectStore(
        "objects", behind_proxy._prefix.rstrip("/"), endpoint_url=faulty_proxy.endpoint
    )
    faulty_proxy.faults.extend([500_000] * 20)

    with pytest.raises(ObjectStoreUnavailable):
        reader.get(key)


def test_store_that_is_down_is_an_outage_within_bounded_time(s3_credentials: None) -> None:
    store = S3ObjectStore("objects", endpoint_url="http://127.0.0.1:9", connect_timeout=1)
    began = time.monotonic()

    with pytest.raises(ObjectStoreUnavailable):
        store.put_bytes("a/b", b"data")
    with pytest.raises(ObjectStoreUnavailable):
        list(store.list("a/"))

    assert time.monotonic() - began < 30


def test_wrong_secret_is_refused(seaweedfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    store = open_object_store(f"s3://objects?endpoint_url={seaweedfs}")

    with pytest.raises(ObjectStoreUnavailable, match="SignatureDoesNotMatch"):
        store.put_bytes("a/b", b"data")


def test_failed_large_write_leaves_no_parts_behind(seaweedfs: str, tmp_path: Path) -> None:
    store = S3ObjectStore("objects", os.urandom(6).hex(), endpoint_url=seaweedfs)
    path = tmp_path / "large"
    path.write_bytes(bytes(65 << 20))

    with pytest.raises(Exception, match="expected"):
        store.put_file("a/b", path, "00" * 32)

    left = store._client.list_multipart_uploads(Bucket="objects", Prefix=store._prefix)
    assert "Uploads" not in left
    with pytest.raises(ObjectNotFound):
        store.stat("a/b")


def begin_upload(store: S3ObjectStore, key: str) -> None:
    upload = store._client.create_multipart_upload(**store._where(key))["UploadId"]
    store._client.upload_part(**store._where(key), UploadId=upload, PartNumber=1, Body=b"part")


def test_interrupted_large_write_is_removed_once_it_is_old(
    seaweedfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3ObjectStore("objects", os.urandom(6).hex(), endpoint_url=seaweedfs)
    begin_upload(store, new_key(uuid4()))

    monkeypatch.setattr("storage.objects.s3.LONGEST_UPLOAD", timedelta(0))
    assert store.remove_abandoned(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert store.remove_abandoned(datetime.now(UTC) + timedelta(hours=1)) == 1
    assert store.remove_abandoned(datetime.now(UTC) + timedelta(hours=1)) == 0


def test_large_write_that_takes_hours_is_not_called_interrupted(seaweedfs: str) -> None:
    store = S3ObjectStore("objects", os.urandom(6).hex(), endpoint_url=seaweedfs)
    begin_upload(store, new_key(uuid4()))

    # Now, as the sweep of an hour from now would ask; the upload is younger than a day.
    assert store.remove_abandoned(datetime.now(UTC) + timedelta(hours=1)) == 0


def test_uploads_of_others_in_the_bucket_are_left_alone(
    seaweedfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3ObjectStore("objects", os.urandom(6).hex(), endpoint_url=seaweedfs)
    begin_upload(store, "backups/database.tar")

    monkeypatch.setattr("storage.objects.s3.LONGEST_UPLOAD", timedelta(0))
    assert store.remove_abandoned(datetime.now(UTC) + timedelta(hours=1)) == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/objects",
        "file://host/path",
        "file:relative",
        "s3://",
        "ftp://host/x",
        "s3://b?x=1",
    ],
)
def test_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        open_object_store(url)
