"""The forms in which search results are sent (PS3.18 8.7.3.2, 10.6.3): a JSON array, or XML parts.

The caller's order decides; who takes anything gets JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.responses import Response

from interop.dicom.native_model import to_xml
from interop.dicomweb.errors import SECURITY_HEADERS
from interop.dicomweb.media_types import DICOM_XML, MULTIPART
from interop.dicomweb.multipart import MultipartWriter
from interop.dicomweb.responses import json_response
from interop.dicomweb.results import results


def search_body(media_type: str, found: Iterable[bytes]) -> tuple[bytes, str]:
    """The body and its Content-Type; `found` are results as DICOM JSON."""
    if media_type != DICOM_XML:
        return results(found), media_type
    writer = MultipartWriter(DICOM_XML)
    parts = [writer.head(DICOM_XML) + to_xml(one) for one in found]
    return b"".join([*parts, writer.tail()]) if parts else b"", writer.content_type


def search_response(body: bytes, content_type: str, headers: Mapping[str, str]) -> Response:
    """A page of results. Multipart cannot be empty (RFC 2046 5.1.1): no results are 204 there."""
    if content_type.startswith(MULTIPART):
        status = 200 if body else 204
        kept = {**SECURITY_HEADERS, **headers, **({"Content-Type": content_type} if body else {})}
        return Response(body or None, status, headers=kept)
    return json_response(body, content_type, headers)
