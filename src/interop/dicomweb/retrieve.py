"""WADO-RS instances (PS3.18 10.4.1.1.1): a study, a series or an instance as PS3.10 files.

As stored wherever the caller's Accept allows, by ranges of the object store in bounded memory; a
bare application/dicom body of one instance in a local store is handed to the server as a file.
Otherwise it is transcoded without loss, one instance at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom import transcode
from interop.dicom.decodable import ENCAPSULATED_TARGETS, can_hold, can_transcode, targets_of
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
from interop.dicomweb.ranged import ranged_response
from interop.dicomweb.reading import Read, admitted, array_text, reading, served, services_of
from interop.dicomweb.responses import (
    CHUNK_BYTES,
    REVALIDATE,
    FileResponse,
    entity_tag,
    in_thread,
    is_current,
    not_modified,
    primed,
    streamed,
    wanted_range,
)
from interop.dicomweb.segments import ObjectRange, Segment, chunks_of, segments_response
from interop.dicomweb.targets import StoredInstance, Target, audited, stored_instances
from interop.errors import NotAcceptable
from interop.services import Services

EVENT = "IMAGING_RETRIEVED"
# Part of the entity tags: raise it when the same instance is transcoded to other bytes.
VERSION = 1
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
    planned, found = await planned_instances(services, caller, target, choice)
    status = 200 if len(planned) == found else 206
    if not choice.multipart:
        return await single_response(request, services, caller.tenant.id, *planned[0])
    headers = {**REVALIDATE, "ETag": f"W/{_tag(planned)}"}
    if is_current(request, headers["ETag"]):
        return not_modified(headers)
    writer = MultipartWriter(DICOM)
    heads = [
        writer.head(
            f"{DICOM}; transfer-syntax={syntax}",
            target.instance_url(instance.series_uid, instance.sop_instance_uid),
        )
        for instance, syntax in planned
    ]
    if status == 206:
        headers["Warning"] = f'299 dicom-web: "{PARTIAL_WARNING}"'
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


async def planned_instances(
    services: Services, caller: Caller, target: Target, choice: DicomChoice
) -> tuple[list[Planned], int]:
    """What is sent of the instances at or below the target, audited, and how many there are.

    Raises NotFound, and NotAcceptable where not one can be sent.
    """
    served_at_once = await _served_instance(services, caller, target, choice)
    if served_at_once:
        return served_at_once, 1
    return await _planned(services, caller, target, choice)


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


async def _planned(
    services: Services, caller: Caller, target: Target, choice: DicomChoice
) -> tuple[list[Planned], int]:
    """The same for any number of instances, statement by statement."""
    async with reading(services, caller, EVENT) as read:
        instances = await stored_instances(read, target)
        plans = [plan_of(instance.transfer_syntax_uid, choice) for instance in instances]
        pixels: dict[str, Pixels] = {}
        if any(plan in ENCAPSULATED_TARGETS for plan in plans):
            # Some pixels do not fit the codec. That must be known before the first byte leaves.
            pixels = await _pixels(read, target)
        planned = []
        for instance in instances:
            kind = pixels.get(instance.storage_uri)
            plan = plan_of(instance.transfer_syntax_uid, choice, kind)
            if plan is not None:
                planned.append((instance, plan))
        audited(read, target, len(planned))
        if not planned:
            raise not_acceptable(instances)
    return planned, len(instances)


class Pixels(NamedTuple):
    """What an instance's pixels are made of; None and 0 where it has none."""

    samples: int | None
    bits_allocated: int | None
    is_float: bool
    number_of_frames: int

    def fit(self, transfer_syntax_uid: str) -> bool:
        if not self.number_of_frames:
            return True
        samples, bits = self.samples or 1, self.bits_allocated or 16
        return not self.is_float and can_hold(transfer_syntax_uid, samples, bits)


_PIXELS = (
    "o.storage_uri, (o.dicom_json::json #>> '{00280002,Value,0}')::numeric::int,"
    " (o.dicom_json::json #>> '{00280100,Value,0}')::numeric::int,"
    " coalesce(o.dicom_json::json -> '7FE00008', o.dicom_json::json -> '7FE00009') IS NOT NULL,"
    " coalesce(o.number_of_frames, 0)"
)


async def _pixels(read: Read, target: Target) -> dict[str, Pixels]:
    rows = await read.rows(target.query(_PIXELS), target.parameters)
    return {key: Pixels(*pixels) for key, *pixels in rows}


def _tag(planned: list[Planned]) -> str:
    """An entity tag: the bytes behind a storage key never change."""
    return entity_tag(VERSION, [(instance.storage_uri, syntax) for instance, syntax in planned])


def whole(instance: StoredInstance) -> ObjectRange:
    """All bytes of an instance."""
    return ObjectRange(instance.storage_uri, 0, instance.byte_size)


def plan_of(stored: str, choice: DicomChoice, pixels: Pixels | None = None) -> str | None:
    """The transfer syntax in which an instance is sent; None when the caller accepts no such.

    Without a named one PS3.18 8.7.3 wants Explicit VR Little Endian, and the stored encoding of
    what is only there in lossy compression. Of what is wanted equally the stored comes first.
    """
    for group in choice.preferences:
        is_default = DEFAULT in group and (stored == EXPLICIT_VR_LITTLE_ENDIAN or is_lossy(stored))
        if ANY in group or stored in group or is_default:
            return stored
        for wanted in group:
            made = wanted or EXPLICIT_VR_LITTLE_ENDIAN
            if can_transcode(stored, made) and (pixels is None or pixels.fit(made)):
                return made
    return None


@lru_cache
def _servable(choice: DicomChoice) -> str | None:
    """The transfer syntaxes, of those that are known, that surely can be sent; None is any."""
    if ANY in choice.preferences[0]:
        return None
    plans = {stored: plan_of(stored, choice) for stored in NATIVE | FRAME_MEDIA_TYPES.keys()}
    return array_text(
        stored
        for stored, plan in plans.items()
        if plan is not None and (plan == stored or plan not in ENCAPSULATED_TARGETS)
    )


def not_acceptable(instances: list[StoredInstance]) -> NotAcceptable:
    """Name what could be had instead."""
    stored = sorted({instance.transfer_syntax_uid for instance in instances})
    possible = [uid for syntax in stored for uid in targets_of(syntax)]
    listed = ", ".join(dict.fromkeys([*stored, *possible]))
    return NotAcceptable(f"available transfer syntaxes: {listed}; or * for each as it is stored")


async def single_response(
    request: Request, services: Services, tenant_id: UUID, instance: StoredInstance, syntax: str
) -> Response:
    """One instance as a bare body, whole or by ranges where it goes out as it is stored."""
    content_type = f"{DICOM}; transfer-syntax={syntax}"
    name = f"{instance.sop_instance_uid}.dcm"
    etag = _tag([(instance, syntax)])
    headers = {
        **REVALIDATE,
        "ETag": etag,
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    if is_current(request, etag):
        return not_modified(headers)
    if syntax != instance.transfer_syntax_uid:
        body = _transcoded_parts(services, tenant_id, [b""], [(instance, syntax)], b"")
        return streamed(await primed(body), content_type, headers)
    path = await to_thread.run_sync(services.objects.local_path, instance.storage_uri)
    if path is not None and wanted_range(request, etag) is None:
        headers["Accept-Ranges"] = "bytes"
        return FileResponse(path, instance.byte_size, content_type, headers)
    return await ranged_response(request, services.objects, whole(instance), content_type, headers)


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
