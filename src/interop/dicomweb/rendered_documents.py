"""Instances that are rendered as documents: reports as HTML, encapsulated PDF (PS3.18 8.7.4).

Both are a stranger's content: attachments, never sniffed, in a sandbox (security.md C7, C10).
"""

from __future__ import annotations

import base64
from typing import NamedTuple

import orjson
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.dicom.report_html import is_report, report_html
from interop.dicomweb.bulkdata import locate
from interop.dicomweb.media_types import Accepted
from interop.dicomweb.ranged import Value, cut, ranged_response
from interop.dicomweb.reading import Read
from interop.dicomweb.rendering import HTML, PDF, require_document
from interop.dicomweb.responses import (
    REVALIDATE,
    entity_tag,
    is_current,
    not_modified,
)
from interop.dicomweb.targets import StoredInstance, Target
from interop.errors import NotAcceptable, Unprocessable
from interop.services import Services

# Part of the entity tags: raise it when the same report comes out differently.
VERSION = 1
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_PRESENTATION_STATES = "1.2.840.10008.5.1.4.1.1.11."
_DOCUMENT = "00420011"
_DOCUMENT_LENGTH = "00420015"
_CONTENT = (
    "SELECT coalesce(o.dicom_json, '{}') FROM imaging_objects o"
    " WHERE o.tenant_id = %(tenant_id)s AND o.storage_uri = %(key)s"
)


class Document(NamedTuple):
    """An instance that is a document, and what its attributes say."""

    instance: StoredInstance
    media_type: str
    dicom_json: str


async def document_of(
    read: Read,
    target: Target,
    instance: StoredInstance,
    types: Accepted,
    *,
    is_thumbnail: bool,
) -> Document:
    """The document that the target's instance is. Raises NotAcceptable where it is none."""
    sop_class = instance.sop_class_uid
    if sop_class.startswith(_PRESENTATION_STATES):
        raise NotAcceptable(
            "a presentation state has no image of its own, and is not applied here; render the"
            " images that it references"
        )
    media_type = HTML if is_report(sop_class) else PDF if sop_class == ENCAPSULATED_PDF else None
    if media_type is None or is_thumbnail or target.instance is None:
        raise NotAcceptable("there is no image to render here; retrieve the instance itself")
    require_document(types, media_type)
    row = await read.row(_CONTENT, {"key": instance.storage_uri})
    return Document(instance, media_type, row[0] if row else "{}")


async def document_response(request: Request, services: Services, document: Document) -> Response:
    """The document as an attachment, whole or by ranges."""
    instance = document.instance
    etag = entity_tag(VERSION, instance.storage_uri, document.media_type)
    suffix = "pdf" if document.media_type == PDF else "html"
    name = f"{instance.sop_instance_uid}.{suffix}"
    headers = {
        **REVALIDATE,
        "ETag": etag,
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    if is_current(request, etag):
        return not_modified(headers)
    if document.media_type == PDF:
        value = await to_thread.run_sync(_pdf, services, document)
        return await ranged_response(request, services.objects, value, PDF, headers)
    body = await to_thread.run_sync(report_html, document.dicom_json)
    content_type = f"{HTML}; charset=utf-8"
    return await ranged_response(request, services.objects, body, content_type, headers)


def _pdf(services: Services, document: Document) -> Value:
    """The bytes of the encapsulated document, without the padding of its element; blocking."""
    attributes = orjson.loads(document.dicom_json)
    element = attributes.get(_DOCUMENT, {})
    value: Value | None
    if "InlineBinary" in element:
        value = base64.b64decode(element["InlineBinary"])
    else:
        value = locate(services.objects, document.instance, _DOCUMENT, services.spool)
    if value is None or not len(value):
        raise Unprocessable("the instance holds no encapsulated document (0042,0011)")
    declared = (attributes.get(_DOCUMENT_LENGTH, {}).get("Value") or [None])[0]
    length = len(value)
    if isinstance(declared, int) and 0 < length - declared <= 1:
        length = declared
    return cut(value, 0, length)
