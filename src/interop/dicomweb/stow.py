"""STOW-RS, the store transaction (PS3.18 10.5): a body of any size into the one ingest function.

The body is read once. A part below `SMALL_PART_BYTES` is kept until it is whole and then written,
hashed and ingested in one thread call; a larger one goes to the spool piece by piece, each written
while the next one arrives. Several ingests of one request run at once so that their commits are
grouped; memory stays below (CONCURRENT_STORES + 2) * SMALL_PART_BYTES a request.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import cast

from anyio import CapacityLimiter, Lock, Semaphore, create_task_group, to_thread
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import RunVar
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom.failures import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Failure
from interop.dicom.ingest_types import ActorType, Outcome, Source
from interop.dicom.spool import SpoolWriter
from interop.dicomweb.errors import RETRY_AFTER_SECONDS, error_response
from interop.dicomweb.media_types import (
    DICOM,
    MULTIPART,
    MediaType,
    accepted,
    parse_media_types,
    require_json,
)
from interop.dicomweb.multipart import MultipartParser, PartBegin, PartData, PartEnd
from interop.dicomweb.paths import root_of, uid_of
from interop.dicomweb.reading import admitted, reading, services_of
from interop.dicomweb.responses import json_response
from interop.dicomweb.store_response import StoreReport, could_not_spool
from interop.errors import BadRequest, PayloadTooLarge, ServerError, UnsupportedMediaType
from interop.services import Services

logger = logging.getLogger(__name__)

EVENT = "IMAGING_STORE_REFUSED"
SMALL_PART_BYTES = 1 << 20
CONCURRENT_STORES = 8
# Ingests of all requests of a process together; each waits for its group's commit in a thread.
PROCESS_STORES = 32
_limiter: RunVar[CapacityLimiter] = RunVar("stow_limiter")


async def store_instances(request: Request) -> Response:
    """Store every instance in the body; with a study in the path, only those of that study."""
    caller = await admitted(request, "c")
    media_type = require_json(accepted(request.headers.get("accept"), None))
    content = content_type_of(request)
    services = services_of(request)
    limit = services.settings.max_request_bytes
    refuse_declared_size(request, limit)
    study = uid_of(request, "study") if "study" in request.path_params else None
    batch = Batch(services, caller, study)
    error = await batch.run(content, bounded(request.stream(), limit))
    report = StoreReport(batch.outcomes, error)
    if batch.unlogged or error is not None:
        # Whatever reached the ingest has its audit row in the transaction that stored it.
        async with reading(services, caller, EVENT, study) as read:
            read.details.update(stored=len(report.stored), failed=len(report.failed))
            read.outcome = "FAILURE"
    if error is not None and not batch.outcomes:
        return error_response(error)
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if report.status == 503 else {}
    return json_response(report.module(root_of(request)), media_type, headers, report.status)


def content_type_of(request: Request) -> MediaType:
    """The body's media type. Raises UnsupportedMediaType for all but PS3.10 instances."""
    expected = f'{MULTIPART}; type="{DICOM}"; boundary=..., or {DICOM} for one instance'
    header = request.headers.get("content-type", "")
    try:
        found = parse_media_types(header)
    except BadRequest as error:
        raise UnsupportedMediaType(f"{error.diagnostics}; send {expected}") from None
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("a Content-Encoding is not accepted here; send the body plain")
    if len(found) != 1 or found[0].part_type != DICOM:
        raise UnsupportedMediaType(
            f"Content-Type {header[:120]!r} is not accepted; send {expected}"
        )
    if found[0].is_multipart and not found[0].parameters.get("boundary"):
        raise BadRequest("the Content-Type multipart/related has no boundary parameter")
    return found[0]


def refuse_declared_size(request: Request, limit: int) -> None:
    """Refuse a body that says it is too large before a byte of it is read."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise PayloadTooLarge(f"the body has {declared} bytes; at most {limit} are accepted")


async def bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Pass the body on until it is larger than the limit."""
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(f"the body is larger than the {limit} bytes accepted")
        yield chunk


class Part:
    """One instance on its way to the spool."""

    def __init__(self, index: int, refusal: Failure | None = None) -> None:
        self.index = index
        self.refusal = refusal
        # One buffer, not a list: a body may come in chunks of a few bytes each.
        self.pending = bytearray()
        # Held while a piece is being written: pieces go to the spool in their order.
        self.writing = Lock()
        self.writer: SpoolWriter | None = None


class Batch:
    """The instances of one request; `outcomes` has one entry a part, in their order."""

    def __init__(self, services: Services, caller: Caller, study: str | None) -> None:
        self._services = services
        self._tenant = caller.tenant
        self._study = study
        self._source = Source(
            door="STOW-RS",
            actor=caller.actor_name,
            remote_address=caller.remote_address,
            request_id=caller.request_id,
            actor_type=cast(ActorType, caller.actor_type),
            actor_id=caller.actor_id,
        )
        self._slots = Semaphore(CONCURRENT_STORES)
        self._outcomes: dict[int, Outcome] = {}
        self._open: Part | None = None
        # Parts that were refused before the ingest saw them.
        self.unlogged = 0

    @property
    def outcomes(self) -> list[Outcome]:
        return [self._outcomes[index] for index in sorted(self._outcomes)]

    async def run(self, content: MediaType, body: AsyncIterator[bytes]) -> ServerError | None:
        """Store all of `body`; the error that ended it early, once what was begun is stored."""
        error: ServerError | None = None
        try:
            async with create_task_group() as tasks:
                try:
                    if content.is_multipart:
                        await self._multipart(content.parameters["boundary"], body, tasks)
                    else:
                        await self._single(body, tasks)
                except ServerError as raised:
                    error = raised
                except ClientDisconnect:
                    # Nobody waits for the answer; what came whole is stored, the rest is not.
                    error = BadRequest("the connection ended before the body did")
        finally:
            # Only now is nothing of it being written any more.
            self._forget_open_part()
        return error

    async def _multipart(self, boundary: str, body: AsyncIterator[bytes], tasks: TaskGroup) -> None:
        parser = MultipartParser(boundary)
        index = 0
        async for chunk in body:
            for event in parser.feed(chunk):
                match event:
                    case PartBegin(headers):
                        self._open = Part(index, wrong_part_type(headers))
                        index += 1
                    case PartData(data):
                        await self._add(data, tasks)
                    case PartEnd():
                        await self._complete(tasks)
        parser.close()
        if index == 0:
            raise BadRequest("the multipart body has no parts")

    async def _single(self, body: AsyncIterator[bytes], tasks: TaskGroup) -> None:
        self._open = Part(0)
        async for chunk in body:
            await self._add(chunk, tasks)
        await self._complete(tasks)

    async def _add(self, data: bytes, tasks: TaskGroup) -> None:
        part = self._open
        assert part is not None
        if part.refusal is not None:
            return
        part.pending += data
        if len(part.pending) >= SMALL_PART_BYTES:
            piece, part.pending = part.pending, bytearray()
            # Goes on as soon as the piece before is written: one is on its way, one arrives.
            await tasks.start(self._spool_piece, part, piece)

    async def _spool_piece(
        self, part: Part, piece: bytearray, *, task_status: TaskStatus[None]
    ) -> None:
        """Write a piece while the body goes on; what fails refuses the part."""
        async with part.writing:
            task_status.started()
            try:
                if part.refusal is None:
                    await to_thread.run_sync(self._spool, part, piece, limiter=process_limiter())
            except Failure as failure:
                part.refusal = failure

    async def _complete(self, tasks: TaskGroup) -> None:
        part, self._open = self._open, None
        assert part is not None
        async with part.writing:
            pass  # the last piece is written, or has failed
        if part.refusal is not None:
            self.unlogged += 1
            self._outcomes[part.index] = could_not_spool(part.refusal)
            return
        await self._slots.acquire()
        tasks.start_soon(self._store_part, part)

    async def _store_part(self, part: Part) -> None:
        try:
            self._outcomes[part.index] = await to_thread.run_sync(
                self._store, part, limiter=process_limiter()
            )
        finally:
            self._slots.release()

    # -- in a thread ------------------------------------------------------------------------

    def _spool(self, part: Part, piece: bytearray) -> None:
        """Write a piece of the part; on failure its file is gone."""
        try:
            if part.writer is None:
                part.writer = self._services.spool.writer()
            part.writer.write(piece)
        except (Failure, OSError) as error:
            abandon(part)
            raise spool_failure(error) from error

    def _store(self, part: Part) -> Outcome:
        try:
            self._spool(part, part.pending)
            assert part.writer is not None
            spooled = part.writer.finish()
        except (Failure, OSError) as error:
            abandon(part)
            self.unlogged += 1
            return could_not_spool(spool_failure(error))
        return self._services.ingest.store(
            self._tenant, spooled, self._source, expected_study_uid=self._study
        )

    def _forget_open_part(self) -> None:
        part, self._open = self._open, None
        if part is not None:
            abandon(part)


def abandon(part: Part) -> None:
    """Remove what was spooled of the part."""
    if part.writer is not None:
        with suppress(OSError):
            part.writer.abort()


def spool_failure(error: Failure | OSError) -> Failure:
    """Why a part could not be spooled; a disk that does not work is no fault of the object."""
    if isinstance(error, Failure):
        return error
    logger.error("stow_spool_failure", extra={"errno": error.errno}, exc_info=error)
    return Failure.of(OUT_OF_RESOURCES, "The spool cannot be written; send again later.")


def wrong_part_type(headers: dict[str, str]) -> Failure | None:
    """Why a part is not taken; a part without a type has the type of the whole (RFC 2387 3.1)."""
    name = headers.get("content-type", DICOM).partition(";")[0].strip().lower()
    if name == DICOM:
        return None
    return Failure.of(CANNOT_UNDERSTAND, f"Part of type {name[:40]}: {DICOM} is accepted.")


def process_limiter() -> CapacityLimiter:
    """The limit of all STOW threads of this process (one event loop)."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(PROCESS_STORES)
        _limiter.set(limiter)
        return limiter
