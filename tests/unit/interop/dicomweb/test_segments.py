from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import StreamingResponse

from interop.dicomweb import segments
from interop.dicomweb.responses import CHUNK_BYTES
from interop.dicomweb.segments import (
    ObjectRange,
    Segment,
    ShortObject,
    chunks_of,
    is_cached,
    segments_response,
)
from storage.objects import ObjectNotFound, ObjectStore, open_object_store
from storage.objects.keys import new_key


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_object_store((tmp_path / "objects").as_uri())


class Remote:
    """A local store that hides its files, as S3 does."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def local_path(self, key: str) -> None:
        return None

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def collect(objects: ObjectStore, wanted: list[Segment]) -> bytes:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in chunks_of(objects, wanted)])

    return anyio.run(read)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 2_500_000)), max_size=5),
    remote=st.booleans(),
)
def test_ranges_and_bytes_come_out_in_order(
    objects: ObjectStore, cuts: list[tuple[int, int]], remote: bool
) -> None:
    data = bytes(range(256)) * 12_000
    key = new_key(uuid4())
    objects.put_bytes(key, data)
    wanted: list[Segment] = []
    for at, length in cuts:
        wanted += [b"head", ObjectRange(key, at, min(length, len(data) - at))]
    store: ObjectStore = Remote(objects) if remote else objects  # type: ignore[assignment]

    expected = b"".join(
        data[s.offset : s.offset + s.length] if isinstance(s, ObjectRange) else b"head"
        for s in wanted
    )
    assert collect(store, wanted) == expected


def test_a_missing_object_is_known_before_anything_is_sent(objects: ObjectStore) -> None:
    wanted: list[Segment] = [ObjectRange(new_key(uuid4()), 0, 3 * CHUNK_BYTES)]

    async def respond() -> None:
        await segments_response(objects, wanted, "application/dicom")

    with pytest.raises(ObjectNotFound):
        anyio.run(respond)


def test_an_object_shorter_than_its_row_is_an_error_and_not_a_short_body(
    objects: ObjectStore,
) -> None:
    key = new_key(uuid4())
    objects.put_bytes(key, b"x" * 100)

    for store in (objects, Remote(objects)):
        with pytest.raises(ShortObject, match="gave 100 of 200"):
            collect(store, [ObjectRange(key, 0, 200)])  # type: ignore[arg-type]


def test_a_large_body_is_streamed_with_its_length(objects: ObjectStore) -> None:
    key = new_key(uuid4())
    objects.put_bytes(key, bytes(5 * CHUNK_BYTES))

    async def respond() -> object:
        wanted: list[Segment] = [b"head", ObjectRange(key, 0, 5 * CHUNK_BYTES)]
        return await segments_response(objects, wanted, "application/dicom")

    response = anyio.run(respond)
    assert isinstance(response, StreamingResponse)
    assert response.headers["content-length"] == str(5 * CHUNK_BYTES + 4)


def test_what_cannot_be_told_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    file = os.open(path, os.O_RDONLY)
    try:
        assert is_cached(file, 0, 3)
        assert not is_cached(file, 0, 4)
        assert not is_cached(file, 0, 0)
        monkeypatch.setattr(segments, "_NOWAIT", 0)
        assert not is_cached(file, 0, 3)
    finally:
        os.close(file)


def test_a_small_body_is_the_same_read_at_once_or_in_pieces(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, gone = new_key(uuid4()), new_key(uuid4())
    objects.put_bytes(key, bytes(range(200)))
    wanted: list[Segment] = [b"head", ObjectRange(key, 10, 50), b"", ObjectRange(key, 190, 10)]

    async def respond(store: object, segments: list[Segment]) -> bytes:
        response = await segments_response(store, segments, "application/dicom")  # type: ignore[arg-type]
        assert response.headers["content-length"] == str(len(bytes(response.body)))
        return bytes(response.body)

    expected = b"head" + bytes(range(10, 60)) + bytes(range(190, 200))
    for store in (objects, Remote(objects)):
        assert anyio.run(respond, store, wanted) == expected
    too_long: list[Segment] = [ObjectRange(key, 195, 6)]
    with pytest.raises(ShortObject, match="gave 5 of 6"):
        anyio.run(respond, objects, too_long)
    missing: list[Segment] = [b"head", ObjectRange(gone, 0, 1)]
    with pytest.raises(ObjectNotFound):
        anyio.run(respond, objects, missing)
    monkeypatch.setattr(segments, "_NOWAIT", 0)
    assert anyio.run(respond, objects, wanted) == expected
