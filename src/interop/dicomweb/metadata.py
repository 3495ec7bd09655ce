"""WADO-RS metadata: the DICOM JSON that ingest stored, with its bulk data URLs completed.

PS3.18 10.4.1.1.2 and Annex F. Nothing is parsed or rendered: stored documents are joined as bytes.
The metadata of a series that has been quiet is kept compressed in `imaging_series.metadata_gzip`,
headed by its ETag and by the root that its URLs begin with; ingest empties the column when
an instance arrives. As XML (PS3.19 A.1) each instance is a part that is made while it is sent.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from anyio import to_thread
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom import native_model
from interop.dicomweb.media_types import DICOM_XML, accepted, json_or_xml
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.reading import Read, Row, admitted, reading, served, services_of
from interop.dicomweb.responses import (
    GZIP_LEVEL,
    GZIP_THRESHOLD,
    REVALIDATE,
    accepts_gzip,
    compress,
    is_current,
    json_response,
    not_modified,
    streamed,
)
from interop.dicomweb.results import BULK_DATA_BASE
from interop.dicomweb.targets import Target, audited
from interop.errors import NotFound
from interop.services import Services

EVENT = "IMAGING_METADATA_VIEWED"
# A series that received nothing for this long is taken for complete; a late instance costs one
# more rebuild, never a wrong answer.
QUIET = timedelta(seconds=5)
# XML is made and sent in pieces of about this size.
XML_CHUNK_BYTES = 256 << 10
_PLACEHOLDER = BULK_DATA_BASE.encode()
_INSTANCE_COLUMNS = "s.id, e.series_uid, o.sop_instance_uid, o.hash, o.dicom_json"
_SERIES_OF_STUDY = (
    "SELECT s.id, e.id, e.series_uid, e.number_of_instances, s.last_received_at, e.metadata_gzip"
    " FROM imaging_studies s JOIN imaging_series e ON e.tenant_id = %(tenant_id)s"
    " AND e.study_id = s.id WHERE s.tenant_id = %(tenant_id)s AND s.study_uid = %(study)s"
)
# The rows of a series do not change what FHIR shows when only this cache is filled. One instance
# that was deleted meanwhile and another that came leave the number as it was.
_KEEP_METADATA = (
    "UPDATE imaging_series AS e SET metadata_gzip = %(cached)s WHERE e.tenant_id = %(tenant_id)s"
    " AND e.id = %(series_id)s AND e.number_of_instances = %(instances)s"
    " AND e.metadata_gzip IS NULL AND NOT EXISTS (SELECT FROM imaging_studies AS s"
    " WHERE s.tenant_id = %(tenant_id)s AND s.id = e.study_id"
    " AND s.last_received_at > now() - interval '5 seconds')"
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """A JSON array and its entity tag, compressed or not."""

    etag: str
    body: bytes
    is_gzip: bool

    def plain(self) -> bytes:
        return gzip.decompress(self.body) if self.is_gzip else self.body

    def compressed(self) -> bytes:
        return self.body if self.is_gzip else compress(self.body)

    def cached(self, root: str) -> bytes:
        """The form kept in the database."""
        return f"{self.etag}\n{root}\n".encode() + self.compressed()


def from_cache(cached: bytes | None, root: str) -> Metadata | None:
    """Read the kept form back; None when there is none or its URLs have another root."""
    if not cached:
        return None
    etag, kept_root, body = bytes(cached).split(b"\n", 2)
    return Metadata(etag.decode(), body, True) if kept_root.decode() == root else None


def build(target: Target, rows: Iterable[Row]) -> Metadata:
    """Join stored documents from (series UID, instance UID, hash, JSON) rows."""
    digest = sha256(target.root.encode())
    parts: list[bytes] = []
    for series, instance, content_hash, document in rows:
        digest.update(content_hash.encode())
        url = target.instance_url(series, instance) + "/bulkdata"
        parts.append(document.encode().replace(_PLACEHOLDER, url.encode()))
    return Metadata(digest.hexdigest()[:32], b"[" + b",".join(parts) + b"]", False)


async def retrieve_metadata(request: Request) -> Response:
    """The metadata of a series or an instance."""
    caller = await admitted(request, "r")
    media_type = json_or_xml(
        accepted(request.headers.get("accept"), request.query_params.get("accept")),
        "metadata is served",
    )
    target = Target.of(request)
    services = services_of(request)
    background: BackgroundTask | None = None
    metadata = await _served(services, caller, target)
    if metadata is None:
        async with reading(services, caller, EVENT) as read:
            if target.instance is not None:
                metadata = await _of_instances(read, target)
            else:
                metadata, background = await _of_series(read, target, services, caller)
    response = await _answer(request, metadata, media_type)
    response.background = background
    return response


async def retrieve_study_metadata(request: Request) -> Response:
    """The metadata of a study, series by series, so that memory holds one series at a time."""
    caller = await admitted(request, "r")
    media_type = json_or_xml(
        accepted(request.headers.get("accept"), request.query_params.get("accept")),
        "metadata is served",
    )
    target = Target.of(request)
    services = services_of(request)
    async with reading(services, caller, EVENT) as read:
        rows = await read.rows(
            _SERIES_OF_STUDY.replace("e.metadata_gzip", "e.created_at")
            + " AND e.number_of_instances > 0 ORDER BY e.series_number, e.series_uid",
            target.parameters,
        )
        if not rows:
            raise NotFound()
        read.resource_id = str(rows[0][0])
        audited(read, target, sum(row[3] for row in rows))
        # Before the bodies are read: what arrives meanwhile is newer than its tag, never older.
        hashes = f"SELECT md5(string_agg(hash, '')) FROM ({target.query('o.hash')}) AS instance"
        state = await read.row(hashes, target.parameters)
    digest = sha256(f"{target.root}\n{state}".encode()).hexdigest()[:32]
    bodies = _series_bodies(services, caller, target, [row[2] for row in rows])
    return _streamed(request, digest, bodies, media_type)


async def _served(services: Services, caller: Caller, target: Target) -> Metadata | None:
    """The audited metadata of an instance, or of a series whose metadata is kept."""
    arguments: dict[str, Any] = {"study": target.study, "series": target.series}
    if target.instance is not None:
        function, arguments["instance"] = "dicomweb_instance_metadata", target.instance
    else:
        function, arguments["root"] = "dicomweb_series_metadata", target.root
    row = await served(services, caller, EVENT, function, arguments, target.details)
    if row is None:
        return None
    return build(target, [row]) if target.instance else from_cache(row[0], target.root)


async def _of_instances(read: Read, target: Target) -> Metadata:
    rows = await read.rows(target.query(_INSTANCE_COLUMNS), target.parameters)
    if not rows:
        raise NotFound()
    read.resource_id = str(rows[0][0])
    audited(read, target, len(rows))
    return build(target, [row[1:] for row in rows])


async def _of_series(
    read: Read, target: Target, services: Services, caller: Caller
) -> tuple[Metadata, BackgroundTask | None]:
    row = await read.row(_SERIES_OF_STUDY + " AND e.series_uid = %(series)s", target.parameters)
    if row is None:
        raise NotFound()
    _, series_id, _, instances, last_received_at, cached = row
    metadata = from_cache(cached, target.root)
    if metadata is not None:
        read.resource_id = str(row[0])
        audited(read, target, instances)
        return metadata, None
    metadata = await _of_instances(read, target)
    is_quiet = last_received_at is not None and datetime.now(UTC) - last_received_at > QUIET
    if not is_quiet or cached is not None:
        return metadata, None
    return metadata, BackgroundTask(
        _keep, services, caller, series_id, instances, metadata, target.root
    )


async def _keep(
    services: Services,
    caller: Caller,
    series_id: UUID,
    instances: int,
    metadata: Metadata,
    root: str,
) -> None:
    cached = await to_thread.run_sync(metadata.cached, root)
    async with services.database.async_connection(caller.tenant.id) as connection:
        await connection.execute(
            "SELECT set_config('app.lens', 'on', true),"
            " set_config('synchronous_commit', 'off', true)"
        )
        await connection.execute(
            _KEEP_METADATA,
            {
                "cached": cached,
                "tenant_id": caller.tenant.id,
                "series_id": series_id,
                "instances": instances,
            },
        )


async def _answer(request: Request, metadata: Metadata, media_type: str) -> Response:
    if media_type == DICOM_XML:
        return _streamed(request, metadata.etag, _one_body(metadata), media_type)
    may_zip = accepts_gzip(request.headers.get("accept-encoding"))
    use_gzip = may_zip and (metadata.is_gzip or len(metadata.body) >= GZIP_THRESHOLD)
    headers = _headers(metadata.etag, media_type, use_gzip=use_gzip)
    if is_current(request, headers["ETag"]):
        return _not_modified(headers)
    if not use_gzip:
        return json_response(await _plain(metadata), media_type, headers)
    return json_response(await to_thread.run_sync(metadata.compressed), media_type, headers)


def _streamed(
    request: Request, digest: str, bodies: AsyncIterator[bytes], media_type: str
) -> Response:
    """A body of many arrays that are made one after the other."""
    use_gzip = accepts_gzip(request.headers.get("accept-encoding"))
    headers = _headers(digest, media_type, use_gzip=use_gzip)
    if is_current(request, headers["ETag"]):
        return _not_modified(headers)
    if media_type == DICOM_XML:
        # Of the digest: a strong entity tag means the same octets.
        writer = MultipartWriter(DICOM_XML, boundary=digest)
        body, content_type = _as_parts(bodies, writer), writer.content_type
    else:
        body, content_type = _joined(bodies), media_type
    return streamed(_zipped(body) if use_gzip else body, content_type, headers)


def _headers(digest: str, media_type: str, *, use_gzip: bool) -> dict[str, str]:
    """The tag tells the representations of one state apart (RFC 9110 8.8.3.3)."""
    tag = digest + ("-xml" if media_type == DICOM_XML else "") + ("-gzip" if use_gzip else "")
    headers = {**REVALIDATE, "ETag": f'"{tag}"'}
    return {**headers, "Content-Encoding": "gzip"} if use_gzip else headers


def _not_modified(headers: dict[str, str]) -> Response:
    kept = {name: value for name, value in headers.items() if name != "Content-Encoding"}
    return not_modified(kept)


async def _plain(metadata: Metadata) -> bytes:
    return await to_thread.run_sync(metadata.plain) if metadata.is_gzip else metadata.body


async def _one_body(metadata: Metadata) -> AsyncIterator[bytes]:
    yield await _plain(metadata)


async def _series_bodies(
    services: Services, caller: Caller, target: Target, series: list[str]
) -> AsyncIterator[bytes]:
    """The JSON array of each series."""
    for uid in series:
        one = Target(target.study, uid, None, target.root)
        async with services.database.async_connection(caller.tenant.id) as connection:
            read = Read(connection, caller.tenant.id)
            row = await read.row(
                _SERIES_OF_STUDY + " AND e.series_uid = %(series)s", one.parameters
            )
            metadata = from_cache(row[5] if row else None, target.root)
            if metadata is None:
                metadata = await _of_instances(read, one)
        yield await _plain(metadata)


async def _joined(bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"["
    separator = b""
    async for body in bodies:
        yield separator + body[1:-1]
        separator = b","
    yield b"]"


async def _as_parts(bodies: AsyncIterator[bytes], writer: MultipartWriter) -> AsyncIterator[bytes]:
    """The instances of JSON arrays as XML, some together, made in a thread."""
    async for body in bodies:
        documents = native_model.documents(body)
        while some := await to_thread.run_sync(_some_parts, documents, writer):
            yield some
    yield writer.tail()


def _some_parts(documents: Iterator[bytes], writer: MultipartWriter) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < XML_CHUNK_BYTES and (document := next(documents, None)) is not None:
        parts += [writer.head(DICOM_XML), document]
        size += len(document)
    return b"".join(parts)


async def _zipped(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    stream = zlib.compressobj(GZIP_LEVEL, wbits=31)
    async for chunk in chunks:
        zipped = await to_thread.run_sync(stream.compress, chunk)
        if zipped:
            yield zipped
    yield stream.flush()
