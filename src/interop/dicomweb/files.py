"""/t/{tenant}/imaging-objects: pictures, models and videos of dental software that are no DICOM.

`POST` takes one, as the raw body or as `multipart/form-data`; `GET /{id}` gives its bytes back,
`GET /{id}/dicom` gives it as a DICOM object, and `POST /{id}/dicom` stores that beside the others
of its study, where every DICOM door shows it. `DELETE /{id}` follows the rules of images.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interop.access import Caller, Letter
from interop.access.audit import audit_parameters, mark_audited
from interop.dicom import deletion, file_ingest, file_reading
from interop.dicom.documents import StoredFile
from interop.dicom.failures import Failure
from interop.dicom.file_ingest import FileUpload
from interop.dicom.file_kinds import MEDIA_TYPE_OF
from interop.dicom.ingest_types import Outcome, source_of
from interop.dicom.query.matching import Parameters
from interop.dicom.query.visibility import condition
from interop.dicomweb import visibility
from interop.dicomweb.decoding import decode_slots
from interop.dicomweb.deletion import shown_to, waiver_of
from interop.dicomweb.errors import SECURITY_HEADERS, translated
from interop.dicomweb.file_forms import Form, read_form
from interop.dicomweb.ranged import ranged_response
from interop.dicomweb.reading import permitted, reading, services_of
from interop.dicomweb.responses import (
    CHUNK_BYTES,
    in_thread,
    is_current,
    not_modified,
    primed,
    streamed,
)
from interop.dicomweb.segments import ObjectRange, Segment, segments_response
from interop.errors import Conflict, ServerError, Unavailable
from interop.services import Services

ROOT = "/t/{tenant}/imaging-objects"
RESOURCE_TYPE = visibility.RESOURCE_TYPE
READ = "IMAGING_FILE_RETRIEVED"
DICOM = "application/dicom"


async def store_file(request: Request) -> Response:
    """Take one file in; 201 with what it became, 200 where it was known."""
    caller, _ = await permitted(request, "c")
    services = services_of(request)
    try:
        with services.spool.temporary_folder() as folder:
            upload = FileUpload(folder / "file", services.settings.max_object_bytes)
            try:
                form = await read_form(request, upload)
                stored = await to_thread.run_sync(_store, request, caller, upload, form)
            finally:
                upload.close()
    except ServerError as error:
        async with reading(services, caller, file_ingest.EVENT):
            raise error
    mark_audited()
    shown = _described(request, stored)
    return Response(
        orjson.dumps(shown),
        201 if stored.is_new else 200,
        media_type="application/json",
        headers={**SECURITY_HEADERS, "Location": shown["url"]},
    )


def _store(
    request: Request, caller: Caller, upload: FileUpload, form: Form
) -> file_ingest.StoredFile:
    services = services_of(request)
    found = file_ingest.recognised(upload.path, upload.size, form.media_type)
    with services.database.connection(caller.tenant.id) as connection:
        said = form.description(connection, caller.tenant.id)
    audit = audit_parameters(caller, file_ingest.EVENT, RESOURCE_TYPE)
    return file_ingest.store(
        services.database,
        services.objects,
        caller.tenant,
        upload,
        found,
        said,
        audit,
        caller.actor_name,
    )


async def retrieve_file(request: Request) -> Response:
    """The bytes as they came, whole or by ranges."""
    _, file = await _found(request, "r", READ)
    etag = f'"{file.hash}"'
    headers = {
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{file.id}.{file.object_type.lower()}"',
    }
    if is_current(request, etag):
        return not_modified(headers)
    value = ObjectRange(file.storage_uri, 0, file.byte_size)
    media_type = MEDIA_TYPE_OF[file.object_type]
    return await ranged_response(request, services_of(request).objects, value, media_type, headers)


async def retrieve_dicom(request: Request) -> Response:
    """The file as a DICOM object, made while it is sent."""
    caller, file = await _found(request, "r", READ)
    services = services_of(request)
    headers = {
        "Content-Disposition": f'attachment; filename="{file.sop_instance_uid}.dcm"',
    }
    with ExitStack() as stack:
        made = stack.enter_context(services.spool.temporary_folder()) / "object"
        segments = await decode_slots().run(caller.tenant.id, _prepared, services, file, made)
        if segments is not None:
            return await segments_response(services.objects, segments, DICOM, headers)
        length, sending = made.stat().st_size, stack.pop_all()
    return streamed(await primed(_sent(made, sending)), DICOM, headers, length=length)


def _prepared(services: Services, file: StoredFile, made: Path) -> list[Segment] | None:
    """What the object is put together from; None where its pixels had to be decoded.

    Then it is written to `made`: of a slow reader nothing is held in memory. Blocking.
    """
    wrapped = file_reading.as_dicom(services.objects, file)
    if wrapped.native is None:
        stored = ObjectRange(file.storage_uri, 0, file.byte_size)
        return [wrapped.head, stored, wrapped.tail]
    with made.open("xb") as writing:
        writing.writelines((wrapped.head, wrapped.native, wrapped.tail))
    return None


async def _sent(made: Path, sending: ExitStack) -> AsyncIterator[bytes]:
    """The bytes of a file that goes when they are sent."""
    with sending, made.open("rb", buffering=0) as opened:
        async for chunk in in_thread(iter(lambda: opened.read(CHUNK_BYTES), b"")):
            yield chunk


async def store_dicom(request: Request) -> Response:
    """Store the file's DICOM object in its study; 201, or 200 where it is there already."""
    caller, file = await _found(request, "c", "IMAGING_STORE_REFUSED", is_audited=False)
    services = services_of(request)
    outcome = await decode_slots().run(caller.tenant.id, _ingest, request, caller, file)
    if outcome is None:
        is_new = False
        async with reading(services, caller, READ, str(file.id)):
            pass
    elif outcome.failure is None:
        is_new = outcome.kind == "stored"
    elif outcome.kind == "failed":
        raise Unavailable(outcome.failure.message)
    else:
        # Refused: the ingest wrote that down.
        mark_audited()
        raise Conflict(outcome.failure.message)
    mark_audited()
    public = services.settings.effective_public_url.rstrip("/")
    url = (
        f"{public}/t/{caller.tenant.slug}/dicom-web/studies/{file.study_instance_uid}"
        f"/series/{file.series_instance_uid}/instances/{file.sop_instance_uid}"
    )
    return Response(
        orjson.dumps({"url": url, "sop_instance_uid": file.sop_instance_uid}),
        201 if is_new else 200,
        media_type="application/json",
        headers={**SECURITY_HEADERS, "Location": url},
    )


def _ingest(request: Request, caller: Caller, file: StoredFile) -> Outcome | None:
    """Store it through the one way in; None where it is stored already."""
    services = services_of(request)
    with services.database.connection(caller.tenant.id) as connection:
        known = connection.execute(
            "SELECT FROM imaging_objects WHERE tenant_id = %s AND sop_instance_uid = %s",
            (caller.tenant.id, file.sop_instance_uid),
        ).fetchone()
    if known is not None:
        return None
    wrapped = file_reading.as_dicom(services.objects, file)
    writer = services.spool.writer()
    try:
        writer.write(wrapped.head)
        if wrapped.native is not None:
            writer.write(wrapped.native)
        else:
            for chunk in services.objects.open_range(file.storage_uri):
                writer.write(chunk)
        writer.write(wrapped.tail)
        spooled = writer.finish()
    except Failure as failure:
        writer.abort()
        raise Unavailable(failure.message) from failure
    except BaseException:
        writer.abort()
        raise
    return services.ingest.store(caller.tenant, spooled, source_of(caller, "UPLOAD"))


async def delete_file(request: Request) -> Response:
    """Delete the file, unless something holds the patient's images."""
    caller, file = await _found(request, "d", deletion.EVENT, is_audited=False)
    services = services_of(request)
    filter_ = visibility.permitted(caller, "d")
    try:
        work = partial(
            deletion.delete,
            services.database,
            caller.tenant,
            deletion.Target(file.study_instance_uid, file_id=file.id),
            audit_parameters(caller, deletion.EVENT, RESOURCE_TYPE),
            waiver=waiver_of(request, caller),
        )
        await to_thread.run_sync(work)
    except ServerError as error:
        async with reading(services, caller, deletion.EVENT):
            raise shown_to(filter_, error) from error
    mark_audited()
    return Response(status_code=204, headers=SECURITY_HEADERS)


async def _found(
    request: Request, letter: Letter, event: str, *, is_audited: bool = True
) -> tuple[Caller, StoredFile]:
    """The file in the path, if the caller may do `letter` to it.

    `is_audited`: that it is looked at is all that happens; else only a failure is written here.
    """
    caller, filter_ = await permitted(request, letter)
    services = services_of(request)
    try:
        wanted: UUID | None = UUID(request.path_params["id"])
    except ValueError:
        wanted = None
    parameters = Parameters(object=wanted, tenant_id=caller.tenant.id)
    visible = condition(filter_, parameters)
    sql = file_reading.FIND + (f" AND {visible}" if visible else "")
    if not is_audited:
        async with services.database.async_connection(caller.tenant.id) as connection:
            cursor = await connection.execute(sql.encode(), parameters.values)
            row = await cursor.fetchone()
        if row is not None:
            return caller, file_reading.stored_file(row)[0]
    async with reading(services, caller, event) as read:
        read.details["object"] = request.path_params["id"][:64]
        file, read.patient_id = file_reading.stored_file(await read.row(sql, parameters.values))
        read.resource_id = str(file.id)
    return caller, file


def _described(request: Request, stored: file_ingest.StoredFile) -> dict[str, Any]:
    public = services_of(request).settings.effective_public_url.rstrip("/")
    slug = request.path_params["tenant"]
    url = f"{public}/t/{slug}/imaging-objects/{stored.id}"
    return {
        "id": str(stored.id),
        "object_type": stored.object_type,
        "study_instance_uid": stored.study_instance_uid,
        "url": url,
        "dicom": f"{url}/dicom",
        "fhir": f"{public}/t/{slug}/fhir/R4/DocumentReference/{stored.id}",
    }


def routes() -> list[Route]:
    """The routes of files that are no DICOM."""
    return [
        Route(ROOT, translated(store_file), methods=["POST"]),
        Route(f"{ROOT}/{{id}}", translated(retrieve_file), methods=["GET"]),
        Route(f"{ROOT}/{{id}}", translated(delete_file), methods=["DELETE"]),
        Route(f"{ROOT}/{{id}}/dicom", translated(retrieve_dicom), methods=["GET"]),
        Route(f"{ROOT}/{{id}}/dicom", translated(store_dicom), methods=["POST"]),
    ]
