"""WADO-RS metadata: the DICOM JSON that ingest stored, with its bulk data URLs completed.

PS3.18 10.4.1.1.2 and Annex F. Nothing is parsed or rendered: stored documents are joined as bytes.
The metadata of a series that has been quiet is kept compressed in `imaging_series.metadata_gzip`,
headed by its ETag and by the root that its URLs begin with; ingest empties the column when
an instance arrives.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Iterable
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
from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.media_types import accepted, require_json
from interop.dicomweb.reading import Read, Row, admitted, reading, served, services_of
from interop.dicomweb.responses import (
    GZIP_LEVEL,
    GZIP_THRESHOLD,
    REVALIDATE,
    accepts_gzip,
    compress,
    is_current,
    json_response,
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
_PLACEHOLDER = BULK_DATA_BASE.encode()
_INSTANCE_COLUMNS = "s.id, e.series_uid, o.sop_instance_uid, o.hash, o.dicom_json"
_SERIES_OF_STUDY = (
    "SELECT s.id, e.id, e.series_uid, e.number_of_instances, s.last_received_at, e.metadata_gzip"
    " FROM imaging_studies s JOIN imaging_series e ON e.tenant_id = %(tenant_id)s"
    " AND e.study_id = s.id WHERE s.tenant_id = %(tenant_id)s AND s.study_uid = %(study)s"
)
# The rows of a series do not change what FHIR shows when only this cache is filled.
_KEEP_METADATA = (
    "UPDATE imaging_series SET metadata_gzip = %(cached)s WHERE tenant_id = %(tenant_id)s"
    " AND id = %(series_id)s AND number_of_instances = %(instances)s AND metadata_gzip IS NULL"
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
    media_type = require_json(
        accepted(request.headers.get("accept"), request.query_params.get("accept"))
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
    media_type = require_json(
        accepted(request.headers.get("accept"), request.query_params.get("accept"))
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
    series = [row[2] for row in rows]
    use_gzip = accepts_gzip(request.headers.get("accept-encoding"))
    headers = {**REVALIDATE, "Content-Encoding": "gzip"}
    body = _joined(services, caller, target, series)
    return streamed(_zipped(body) if use_gzip else body, media_type, headers if use_gzip else None)


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
    etag = f'"{metadata.etag}"'
    headers = {**REVALIDATE, "ETag": etag}
    if is_current(request, etag):
        return Response(status_code=304, headers={**SECURITY_HEADERS, **headers})
    if not accepts_gzip(request.headers.get("accept-encoding")):
        return json_response(await _plain(metadata), media_type, headers)
    if not metadata.is_gzip and len(metadata.body) < GZIP_THRESHOLD:
        return json_response(metadata.body, media_type, headers)
    headers["Content-Encoding"] = "gzip"
    return json_response(await to_thread.run_sync(metadata.compressed), media_type, headers)


async def _plain(metadata: Metadata) -> bytes:
    return await to_thread.run_sync(metadata.plain) if metadata.is_gzip else metadata.body


async def _joined(
    services: Services, caller: Caller, target: Target, series: list[str]
) -> AsyncIterator[bytes]:
    yield b"["
    separator = b""
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
        body = await _plain(metadata)
        yield separator + body[1:-1]
        separator = b","
    yield b"]"


async def _zipped(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    stream = zlib.compressobj(GZIP_LEVEL, wbits=31)
    async for chunk in chunks:
        zipped = await to_thread.run_sync(stream.compress, chunk)
        if zipped:
            yield zipped
    yield stream.flush()
