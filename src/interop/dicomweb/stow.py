"""STOW-RS, the store transaction (PS3.18 10.5): a body of any size into the one ingest function.

The body is read once. Parts below `SMALL_PART_BYTES` are kept until they are whole; those that
follow one another and are not larger together are written, hashed and ingested in one thread call,
and share a transaction. A larger part goes to disk piece by piece, each written while the next one
arrives. Several ingests of one request run at once; memory stays below
(CONCURRENT_STORES + 2) * SMALL_PART_BYTES a request. Metadata and bulk data parts wait on disk
until the body is complete (`composed.py`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast

from anyio import CapacityLimiter, Lock, Semaphore, create_task_group, to_thread
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import RunVar
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom.failures import (
    CANNOT_UNDERSTAND,
    DATA_SET_MISMATCH_WARNING,
    LIMIT_EXCEEDED,
    OBJECT_TOO_LARGE,
    OUT_OF_RESOURCES,
    Failure,
)
from interop.dicom.ingest_types import ActorType, Outcome, Source
from interop.dicom.json_dataset import Encoded, Identity
from interop.dicom.spool import Spooled, SpoolLimitExceeded, SpoolWriter
from interop.dicomweb.composed import (
    LARGE_BYTES,
    MAX_METADATA_BYTES,
    METADATA,
    Composition,
    DataSet,
    PartFile,
    bulk_part_failure,
)
from interop.dicomweb.errors import RETRY_AFTER_SECONDS, error_response
from interop.dicomweb.media_types import (
    DICOM,
    MULTIPART,
    MediaType,
    accepted,
    parse_media_types,
)
from interop.dicomweb.multipart import (
    MAX_PARTS,
    MultipartParser,
    PartBegin,
    PartData,
    PartEnd,
)
from interop.dicomweb.paths import root_of, uid_of
from interop.dicomweb.reading import admitted, reading, services_of
from interop.dicomweb.responses import json_response
from interop.dicomweb.store_response import StoreReport, choose_report, could_not_spool
from interop.errors import BadRequest, PayloadTooLarge, ServerError, UnsupportedMediaType
from interop.services import Services

logger = logging.getLogger(__name__)

EVENT = "IMAGING_STORE_REFUSED"
SMALL_PART_BYTES = 1 << 20
CONCURRENT_STORES = 8
# Parts that are stored by one call: while it runs, the next ones arrive and are parsed.
PARTS_TOGETHER = 10
# Ingests of all requests of a process together; each waits for its group's commit in a thread.
PROCESS_STORES = 32
_limiter: RunVar[CapacityLimiter] = RunVar("stow_limiter")
# Large metadata is put together one at a time: what is in memory is many times its size.
_large_limiter: RunVar[CapacityLimiter] = RunVar("stow_large_limiter")

Kind = Literal["instance", "metadata", "bulk"]


async def store_instances(request: Request) -> Response:
    """Store every instance in the body; with a study in the path, only those of that study."""
    caller = await admitted(request, "c")
    media_type = choose_report(accepted(request.headers.get("accept"), None))
    content = content_type_of(request)
    services = services_of(request)
    limit = services.settings.max_request_bytes
    refuse_declared_size(request, limit)
    study = uid_of(request, "study") if "study" in request.path_params else None
    batch = Batch(services, caller, study, content, str(request.url))
    error = await batch.run(bounded(request.stream(), limit))
    report = StoreReport(batch.outcomes, error)
    if batch.unlogged or error is not None:
        # Whatever reached the ingest has its audit row in the transaction that stored it.
        async with reading(services, caller, EVENT, study) as read:
            read.details.update(stored=len(report.stored), failed=len(report.failed))
            read.outcome = "FAILURE"
    if error is not None and not batch.outcomes:
        return error_response(error)
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if report.status == 503 else {}
    body = report.body(root_of(request), media_type)
    return json_response(body, media_type, headers, report.status)


def content_type_of(request: Request) -> MediaType:
    """The body's media type. Raises UnsupportedMediaType for all but those of PS3.18 10.5.1."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("a Content-Encoding is not accepted here; send the body plain")
    return _content_type(request.headers.get("content-type", ""))


# Kept: a sender says the same each time, but for a boundary.
@lru_cache(maxsize=256)
def _content_type(header: str) -> MediaType:
    roots = " or ".join(f'"{name}"' for name in (DICOM, *METADATA))
    expected = f"{MULTIPART}; type={roots}; boundary=..., or one of these types without parts"
    try:
        found = parse_media_types(header)
    except BadRequest as error:
        raise UnsupportedMediaType(f"{error.diagnostics}; send {expected}") from None
    if len(found) != 1 or found[0].part_type not in (DICOM, *METADATA):
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
    """One part on its way to the disk: an instance into the spool, all else into a file."""

    def __init__(
        self,
        kind: Kind,
        index: int,
        media_type: MediaType,
        headers: dict[str, str],
        refusal: Failure | None = None,
    ) -> None:
        self.kind = kind
        self.index = index
        self.media_type = media_type
        self.headers = headers
        self.refusal = refusal
        # One buffer, not a list: a body may come in chunks of a few bytes each.
        self.pending = bytearray()
        # Held while a piece is being written: pieces go to the disk in their order.
        self.writing: Lock | None = None
        self.writer: SpoolWriter | PartFile | None = None


class Batch:
    """The instances of one request; `outcomes` has one entry an instance, in their order."""

    def __init__(
        self, services: Services, caller: Caller, study: str | None, content: MediaType, url: str
    ) -> None:
        self._services = services
        self._tenant = caller.tenant
        self._study = study
        self._content = content
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
        self._parts = self._instances = self._composed_bytes = 0
        self._open: Part | None = None
        # Whole instances that wait for those that are stored with them, or for the end.
        self._waiting: list[Part] = []
        self._waiting_bytes = 0
        self._stack = AsyncExitStack()
        self._group: TaskGroup | None = None
        self._composition = Composition(url) if content.part_type in METADATA else None
        # The folder of what waits for the end of the body, and what removes it.
        self._folder: Path | None = None
        self._cleaning = ExitStack()
        # Parts that were refused before the ingest saw them.
        self.unlogged = 0

    @property
    def outcomes(self) -> list[Outcome]:
        return [self._outcomes[index] for index in sorted(self._outcomes)]

    async def run(self, body: AsyncIterator[bytes]) -> ServerError | None:
        """Store all of `body`; the error that ended it early, once what was begun is stored."""
        error: ServerError | None = None
        try:
            async with AsyncExitStack() as stack:
                self._stack = stack
                try:
                    if self._content.is_multipart:
                        await self._multipart(self._content.parameters["boundary"], body)
                    else:
                        await self._single(body)
                except ServerError as raised:
                    error = raised
                except ClientDisconnect:
                    # Nobody waits for the answer; what came whole is stored, the rest is not.
                    error = BadRequest("the connection ended before the body did")
                await self._store_last()
                if self._composition is not None:
                    await self._compose(self._composition, await self._tasks())
            if self._composition is not None:
                self._refuse_unused(self._composition)
        finally:
            # Only now is nothing of it being written any more.
            self._forget_open_part()
            if self._folder is not None:
                await to_thread.run_sync(self._cleaning.close)
        return error

    async def _tasks(self) -> TaskGroup:
        """The tasks of this request; begun when there are two things to do at once."""
        if self._group is None:
            self._group = await self._stack.enter_async_context(create_task_group())
        return self._group

    async def _multipart(self, boundary: str, body: AsyncIterator[bytes]) -> None:
        parser = MultipartParser(boundary)
        async for chunk in body:
            for event in parser.feed(chunk):
                match event:
                    case PartBegin(headers):
                        self._open = self._begin(headers)
                    case PartData(data):
                        await self._add(data)
                    case PartEnd():
                        await self._complete()
        parser.close()
        if self._parts == 0:
            raise BadRequest("the multipart body has no parts")

    async def _single(self, body: AsyncIterator[bytes]) -> None:
        self._open = self._begin({})
        async for chunk in body:
            await self._add(chunk)
        await self._complete()

    def _begin(self, headers: dict[str, str]) -> Part:
        self._parts += 1
        kind, media_type, refusal = judge_part(headers, self._content.part_type)
        return Part(kind, self._next(), media_type, headers, refusal)

    def _next(self) -> int:
        self._instances += 1
        return self._instances

    async def _add(self, data: bytes) -> None:
        part = self._open
        assert part is not None
        if part.refusal is not None:
            return
        part.pending += data
        if len(part.pending) >= SMALL_PART_BYTES:
            piece, part.pending = part.pending, bytearray()
            if part.writing is None:
                part.writing = Lock()
            # Goes on as soon as the piece before is written: one is on its way, one arrives.
            await (await self._tasks()).start(self._spool_piece, part, piece)

    async def _spool_piece(
        self, part: Part, piece: bytearray, *, task_status: TaskStatus[None]
    ) -> None:
        """Write a piece while the body goes on; what fails refuses the part."""
        assert part.writing is not None
        async with part.writing:
            task_status.started()
            try:
                if part.refusal is None:
                    await to_thread.run_sync(self._spool, part, piece, limiter=process_limiter())
            except Failure as failure:
                part.refusal = failure

    async def _complete(self) -> None:
        part, self._open = self._open, None
        assert part is not None
        if part.writing is not None:
            async with part.writing:
                pass  # the last piece is written, or has failed
        if part.refusal is None and part.kind != "instance":
            try:
                await to_thread.run_sync(self._keep, part, limiter=process_limiter())
            except Failure as failure:
                part.refusal = failure
        if part.refusal is not None:
            self._refuse(part.index, part.refusal)
        elif part.kind == "instance":
            await self._add_instance(part)

    async def _add_instance(self, part: Part) -> None:
        """Have the instance wait for its companions; store those before it that are enough."""
        size = self._waiting_bytes + len(part.pending)
        if self._waiting and (len(self._waiting) >= PARTS_TOGETHER or size > SMALL_PART_BYTES):
            parts, self._waiting, self._waiting_bytes = self._waiting, [], 0
            await self._slots.acquire()
            (await self._tasks()).start_soon(self._store_parts, parts)
        self._waiting.append(part)
        self._waiting_bytes += len(part.pending)

    async def _store_last(self) -> None:
        """Store the last parts here: a request of few instances, the usual one, needs no task."""
        parts, self._waiting = self._waiting, []
        if parts:
            if self._group is not None:
                await self._slots.acquire()
            await self._store_parts(parts)

    async def _store_parts(self, parts: list[Part]) -> None:
        try:
            await to_thread.run_sync(self._store, parts, limiter=process_limiter())
        finally:
            if self._group is not None:
                self._slots.release()

    async def _compose(self, composition: Composition, tasks: TaskGroup) -> None:
        """Store what came as metadata, several at once where they are small."""
        data_sets = composition.data_sets()
        count = 0
        try:
            while True:
                data_set = await to_thread.run_sync(
                    next, data_sets, None, limiter=process_limiter()
                )
                if data_set is None:
                    return
                count += 1
                if count > MAX_PARTS:
                    raise Failure.of(
                        LIMIT_EXCEEDED,
                        f"The request has more than {MAX_PARTS} instances; send the rest apart.",
                    )
                if isinstance(data_set, Failure):
                    self._refuse(self._next(), data_set)
                    continue
                await self._slots.acquire()
                tasks.start_soon(self._store_data_set, composition, data_set, self._next())
        except Failure as failure:
            self._refuse(self._next(), failure)

    async def _store_data_set(
        self, composition: Composition, data_set: DataSet, index: int
    ) -> None:
        is_large = data_set.size > LARGE_BYTES
        limiter = large_limiter() if is_large else process_limiter()
        try:
            self._outcomes[index] = await to_thread.run_sync(
                self._store_composed, composition, data_set, limiter=limiter
            )
        finally:
            self._slots.release()

    def _refuse(self, index: int, failure: Failure) -> None:
        self.unlogged += 1
        self._outcomes[index] = could_not_spool(failure)

    def _refuse_unused(self, composition: Composition) -> None:
        """Name the bulk data that belongs to nothing, unless what it belongs to was refused."""
        if any(not outcome.is_success for outcome in self._outcomes.values()):
            return
        for location in composition.unused():
            self._refuse(
                self._next(),
                Failure.of(
                    CANNOT_UNDERSTAND, f"No metadata has the BulkDataURI {location[:80]!r}."
                ),
            )

    # -- in a thread ------------------------------------------------------------------------

    def _spool(self, part: Part, piece: bytearray) -> None:
        """Write a piece of the part; on failure its file is gone."""
        try:
            if part.writer is None:
                part.writer = self._writer(part)
            part.writer.write(piece)
        except (Failure, OSError) as error:
            abandon(part)
            raise spool_failure(error) from error

    def _writer(self, part: Part) -> SpoolWriter | PartFile:
        spool = self._services.spool
        if part.kind == "instance":
            return spool.writer()
        if self._folder is None:
            self._folder = self._cleaning.enter_context(spool.temporary_folder())
        limit = MAX_METADATA_BYTES if part.kind == "metadata" else spool.object_limit
        return PartFile(spool, self._folder, limit)

    def _keep(self, part: Part) -> None:
        """Finish a part that waits for the end of the body. Raises Failure."""
        self._spool(part, part.pending)
        part.pending = bytearray()
        assert isinstance(part.writer, PartFile) and self._composition is not None
        try:
            path = part.writer.finish()
        except OSError as error:
            raise spool_failure(error) from error
        size = part.writer.size
        if part.kind == "metadata":
            self._composition.add_metadata(part.media_type, path, size)
        else:
            self._composition.add_bulk(part.headers, part.media_type, path, size)

    def _store(self, parts: list[Part]) -> None:
        ready: dict[int, Spooled] = {}
        for part in parts:
            try:
                ready[part.index] = self._finish(part)
            except Failure as failure:
                self._refuse(part.index, failure)
        outcomes = self._services.ingest.store_all(
            self._tenant, list(ready.values()), self._source, expected_study_uid=self._study
        )
        self._outcomes.update(zip(ready, outcomes, strict=True))

    def _finish(self, part: Part) -> Spooled:
        """Write what is left of the part. Raises Failure."""
        self._spool(part, part.pending)
        part.pending = bytearray()
        assert isinstance(part.writer, SpoolWriter)
        try:
            return part.writer.finish()
        except (Failure, OSError) as error:
            abandon(part)
            raise spool_failure(error) from error

    def _store_composed(self, composition: Composition, data_set: DataSet) -> Outcome:
        try:
            found, encoded = composition.encode(data_set)
        except (Failure, OSError) as error:
            self.unlogged += 1
            return could_not_spool(spool_failure(error))
        identity = Identity.of(found)
        if isinstance(encoded, Failure):
            self.unlogged += 1
            return could_not_spool(encoded, identity)
        # What it was made of is not needed any more, and may be many times its size.
        del found
        self._composed_bytes += encoded.size
        most = self._services.settings.max_request_bytes
        if self._composed_bytes > most:
            # One part may belong to many instances: what is sent once would be stored for ever.
            text = f"The instances of the request have more than {most} bytes together."
            return could_not_spool(SpoolLimitExceeded.of(OBJECT_TOO_LARGE, text), identity)
        return self._write_and_store(encoded, identity)

    def _write_and_store(self, encoded: Encoded, identity: Identity) -> Outcome:
        writer: SpoolWriter | None = None
        try:
            writer = self._services.spool.writer()
            encoded.write(writer)
            spooled = writer.finish()
        except (Failure, OSError) as error:
            if writer is not None:
                with suppress(OSError):
                    writer.abort()
            self.unlogged += 1
            return could_not_spool(spool_failure(error), identity)
        outcome = self._services.ingest.store(
            self._tenant, spooled, self._source, expected_study_uid=self._study
        )
        if outcome.is_success and outcome.warning is None and encoded.warnings:
            text = "; ".join(encoded.warnings[:10]) + "."
            return replace(outcome, warning=Failure.of(DATA_SET_MISMATCH_WARNING, text))
        return outcome

    def _forget_open_part(self) -> None:
        part, self._open = self._open, None
        if part is not None:
            abandon(part)


def judge_part(headers: dict[str, str], root: str) -> tuple[Kind, MediaType, Failure | None]:
    """What a part of a request is, and why it is not taken.

    A part without a type has the type of the whole (RFC 2387 3.1).
    """
    header = headers.get("content-type", "")
    name = header.partition(";")[0].strip().lower() or root
    if root == DICOM:
        refusal = None
        if name != DICOM:
            refusal = Failure.of(
                CANNOT_UNDERSTAND, f"Part of type {name[:40]}: {DICOM} is accepted."
            )
        return "instance", MediaType(DICOM), refusal
    if name == root:
        return "metadata", MediaType(root), None
    if name in (DICOM, *METADATA):
        refused = Failure.of(CANNOT_UNDERSTAND, f"Part of type {name} in a request of {root}.")
        return "metadata", MediaType(name), refused
    try:
        media_type = (parse_media_types(header) or [MediaType(name)])[0]
    except BadRequest as error:
        return "bulk", MediaType(name), Failure.of(CANNOT_UNDERSTAND, error.diagnostics)
    return "bulk", media_type, bulk_part_failure(headers, media_type)


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


def process_limiter() -> CapacityLimiter:
    """The limit of all STOW threads of this process (one event loop)."""
    return _limiter_of(_limiter, PROCESS_STORES)


def large_limiter() -> CapacityLimiter:
    """The limit of those that hold large metadata."""
    return _limiter_of(_large_limiter, 1)


def _limiter_of(variable: RunVar[CapacityLimiter], tokens: int) -> CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        limiter = CapacityLimiter(tokens)
        variable.set(limiter)
        return limiter
