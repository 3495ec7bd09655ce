"""WADO-RS instances (PS3.18 10.4.1.1.1): a study, a series or an instance as PS3.10 files.

As stored wherever the caller's Accept allows, by ranges of the object store in bounded memory; a
bare application/dicom body of one instance in a local store is handed to the server as a file.
Otherwise it is transcoded to Explicit VR Little Endian, one instance at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from uuid import UUID

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom import transcode
from interop.dicom.decodable import can_transcode, targets_of
from interop.dicomweb.bulkdata import local_file
from interop.dicomweb.decoding import decode_slots
from interop.dicomweb.media_types import (
    ANY,
    DEFAULT,
    DICOM,
    EXPLICIT_VR_LITTLE_ENDIAN,
    FRAME_MEDIA_TYPES,
    NATIVE,
    DicomChoice,
    accepted,
    choose_dicom,
    is_lossy,
)
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.reading import admitted, array_text, reading, served, services_of
from interop.dicomweb.responses import CHUNK_BYTES, FileResponse, in_thread, primed, streamed
from interop.dicomweb.segments import ObjectRange, Segment, chunks_of, segments_response
from interop.dicomweb.targets import StoredInstance, Target, audited, stored_instances
from interop.errors import NotAcceptable
from interop.services import Services

EVENT = "IMAGING_RETRIEVED"
# An instance and the transfer syntax in which it is sent.
Planned = tuple[StoredInstance, str]
PARTIAL_WARNING = "Instances that cannot be sent in an accepted transfer syntax were left out"


async def retrieve_instances(request: Request) -> Response:
    """All instances at or below the path's target."""
    caller = await admitted(request, "r")
    target = Target.of(request)
    choice = choose_dicom(
        accepted(request.headers.get("accept"), request.query_params.get("accept")),
        single=target.instance is not None,
    )
    services = services_of(request)
    planned = await _served_instance(services, caller, target, choice)
    status = 200
    if not planned:
        async with reading(services, caller, EVENT) as read:
            instances = await stored_instances(read, target)
            plans = [plan_of(instance.transfer_syntax_uid, choice) for instance in instances]
            planned = [(i, p) for i, p in zip(instances, plans, strict=True) if p is not None]
            audited(read, target, len(planned))
            if not planned:
                raise not_acceptable(instances)
        status = 200 if len(planned) == len(instances) else 206
    if not choice.multipart:
        return await _single(services, caller.tenant.id, *planned[0])
    writer = MultipartWriter(DICOM)
    heads = [
        writer.head(
            f"{DICOM}; transfer-syntax={syntax}",
            target.instance_url(instance.series_uid, instance.sop_instance_uid),
        )
        for instance, syntax in planned
    ]
    headers = {"Warning": f'299 dicom-web: "{PARTIAL_WARNING}"'} if status == 206 else {}
    if all(instance.transfer_syntax_uid == syntax for instance, syntax in planned):
        segments: list[Segment] = []
        for head, (instance, _) in zip(heads, planned, strict=True):
            segments += [head, whole(instance)]
        segments.append(writer.tail())
        return await segments_response(
            services.objects, segments, writer.content_type, headers, status=status
        )
    body = _transcoded_parts(services, caller.tenant.id, heads, planned, writer.tail())
    return streamed(await primed(body), writer.content_type, headers, status=status)


async def _served_instance(
    services: Services, caller: Caller, target: Target, choice: DicomChoice
) -> list[Planned]:
    """One instance that is there and can be sent, audited; nothing in every other case."""
    if target.instance is None:
        return []
    arguments = {**target.parameters, "syntaxes": _servable(choice)}
    row = await served(services, caller, EVENT, "dicomweb_instance", arguments, target.details)
    if row is None:
        return []
    instance = StoredInstance(*row)
    syntax = plan_of(instance.transfer_syntax_uid, choice)
    assert syntax is not None, "the database was told which transfer syntaxes can be sent"
    return [(instance, syntax)]


def whole(instance: StoredInstance) -> ObjectRange:
    """All bytes of an instance."""
    return ObjectRange(instance.storage_uri, 0, instance.byte_size)


def plan_of(stored: str, choice: DicomChoice) -> str | None:
    """The transfer syntax in which an instance is sent; None when the caller accepts no such.

    Without a named one PS3.18 8.7.3 wants Explicit VR Little Endian, and the stored encoding of
    what is only there in lossy compression.
    """
    for wanted in choice.transfer_syntaxes:
        if wanted in (ANY, stored):
            return stored
        if wanted == DEFAULT and (stored == EXPLICIT_VR_LITTLE_ENDIAN or is_lossy(stored)):
            return stored
        made = wanted or EXPLICIT_VR_LITTLE_ENDIAN
        if can_transcode(stored, made):
            return made
    return None


@lru_cache
def _servable(choice: DicomChoice) -> str | None:
    """The transfer syntaxes, of those that are known, that can be sent; None is any."""
    if ANY in choice.transfer_syntaxes:
        return None
    known = NATIVE | FRAME_MEDIA_TYPES.keys()
    return array_text(stored for stored in known if plan_of(stored, choice) is not None)


def not_acceptable(instances: list[StoredInstance]) -> NotAcceptable:
    """Name what could be had instead."""
    stored = sorted({instance.transfer_syntax_uid for instance in instances})
    possible = [uid for syntax in stored for uid in targets_of(syntax)]
    listed = ", ".join(dict.fromkeys([*stored, *possible]))
    return NotAcceptable(f"available transfer syntaxes: {listed}; or * for each as it is stored")


async def _single(
    services: Services, tenant_id: UUID, instance: StoredInstance, syntax: str
) -> Response:
    """One instance as a bare body."""
    content_type = f"{DICOM}; transfer-syntax={syntax}"
    name = f"{instance.sop_instance_uid}.dcm"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if syntax != instance.transfer_syntax_uid:
        body = _transcoded_parts(services, tenant_id, [b""], [(instance, syntax)], b"")
        return streamed(await primed(body), content_type, headers)
    path = await to_thread.run_sync(services.objects.local_path, instance.storage_uri)
    if path is not None:
        return FileResponse(path, instance.byte_size, content_type, headers)
    return await segments_response(services.objects, [whole(instance)], content_type, headers)


async def _transcoded_parts(
    services: Services,
    tenant_id: UUID,
    heads: list[bytes],
    planned: list[Planned],
    tail: bytes,
) -> AsyncIterator[bytes]:
    """The parts one after the other; a transcoded file lives as long as it is being sent."""
    for head, (instance, syntax) in zip(heads, planned, strict=True):
        if syntax == instance.transfer_syntax_uid:
            async for chunk in chunks_of(services.objects, [head, whole(instance)]):
                yield chunk
            continue
        with services.spool.temporary_folder() as folder:
            made = folder / "object"
            await decode_slots().run(
                tenant_id,
                _transcode,
                services,
                instance,
                made,
                syntax,
                is_patient=head is not heads[0],
            )
            yield head
            with made.open("rb", buffering=0) as file:
                async for chunk in in_thread(iter(lambda: file.read(CHUNK_BYTES), b"")):
                    yield chunk
    if tail:
        yield tail


def _transcode(services: Services, instance: StoredInstance, made: Path, syntax: str) -> None:
    with local_file(services.objects, instance.storage_uri, services.spool) as file:
        transcode.transcode(file, made, syntax)
