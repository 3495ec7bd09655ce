"""Binary in its own form, and what a browser may do with it (binary.html, security.md C8, C10)."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from interop.fhir import json
from interop.fhir.xml import from_xml, to_xml
from storage.tenancy import Tenant

Outcome = Callable[..., dict[str, Any]]
FHIR_JSON = {"Content-Type": "application/fhir+json"}
AS_FHIR = {"Accept": "application/fhir+json"}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PAGE = b"<html><script>alert(1)</script></html>"
DRAWING = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


def stored(fhir: httpx.Client, content: bytes, content_type: str, **more: Any) -> str:
    body = {
        "resourceType": "Binary", "contentType": content_type,
        "data": base64.b64encode(content).decode(), **more,
    }  # fmt: skip
    made = fhir.post("/Binary", content=json.dumps(body), headers=FHIR_JSON)
    assert made.status_code == 201, made.text
    return f"/Binary/{made.json()['id']}"


@pytest.mark.parametrize(
    ("content", "content_type", "is_picture"),
    [
        (PICTURE, "image/png", True),
        (PAGE, "text/html", False),
        (PAGE, "text/html; charset=utf-7", False),
        (DRAWING, "image/svg+xml", False),
        (b"%PDF-1.7", "application/pdf", False),
        (PAGE, "TEXT/HTML", False),
    ],
)
def test_bytes_are_sent_to_be_saved_and_run_nothing(
    fhir: httpx.Client, content: bytes, content_type: str, is_picture: bool
) -> None:
    url = stored(fhir, content, content_type)

    for accept in ("*/*", content_type.partition(";")[0], "text/html,image/*;q=0.9,*/*;q=0.1"):
        for path in (url, f"{url}/_history/1"):
            answer = fhir.get(path, headers={"Accept": accept})

            assert answer.status_code == 200, answer.text
            assert answer.content == content
            assert answer.headers["content-type"] == content_type
            assert answer.headers["content-disposition"] == "attachment"
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers.get("content-security-policy", "")
            assert is_picture or "sandbox" in policy
            assert answer.headers["cache-control"] == "private, no-store"
            assert answer.headers["etag"] == 'W/"1"'


def test_a_form_of_fhir_is_sent_to_who_names_it(
    fhir: httpx.Client, assert_outcome: Outcome
) -> None:
    url = stored(fhir, PAGE, "text/html")

    as_json = fhir.get(url, headers=AS_FHIR)
    as_xml = fhir.get(url, headers={"Accept": "application/fhir+xml"})
    by_name = fhir.get(url, params={"_format": "json"}, headers={"Accept": "text/html"})

    assert base64.b64decode(as_json.json()["data"]) == PAGE
    assert from_xml(as_xml.content) == json.loads(as_json.content)
    assert by_name.content == as_json.content
    assert_outcome(fhir.get(url, headers={"Accept": "image/png"}), 406, "not-supported")
    assert fhir.get(url, params={"_format": "text/html"}).status_code == 406
    head = fhir.head(url)
    assert head.headers["content-type"] == "text/html"
    assert head.headers["content-length"] == str(len(PAGE)) and head.content == b""
    same = fhir.get(url, headers={"If-None-Match": 'W/"1"'})
    assert same.status_code == 304 and same.content == b""


def test_a_type_that_is_none_is_bytes(fhir: httpx.Client) -> None:
    for declared in ("nonsense", "text/html\u00a0x"):
        body = {"resourceType": "Binary", "contentType": declared, "data": "QQ=="}
        made = fhir.post("/Binary", content=json.dumps(body), headers=FHIR_JSON)
        if made.status_code == 201:
            answer = fhir.get(f"/Binary/{made.json()['id']}")
            assert answer.headers["content-type"] == "application/octet-stream"


def test_bytes_are_stored_by_post_and_put(fhir: httpx.Client, assert_outcome: Outcome) -> None:
    about = {"X-Security-Context": "Patient/somebody"}

    made = fhir.post("/Binary", content=PICTURE, headers={"Content-Type": "image/png", **about})

    assert made.status_code == 201, made.text
    resource = made.json()
    assert resource["contentType"] == "image/png"
    assert base64.b64decode(resource["data"]) == PICTURE
    assert resource["securityContext"] == {"reference": "Patient/somebody"}
    url = f"/Binary/{resource['id']}"
    assert made.headers["location"].endswith(f"{url}/_history/1")
    answer = fhir.get(url)
    assert answer.content == PICTURE
    assert answer.headers["x-security-context"] == "Patient/somebody"
    put = fhir.put(url, content=PAGE, headers={"Content-Type": "text/html", "If-Match": 'W/"1"'})
    assert put.status_code == 200
    assert fhir.get(url).content == PAGE
    stale = {"Content-Type": "text/html", "If-Match": 'W/"1"'}
    assert_outcome(fhir.put(url, content=PAGE, headers=stale), 412)
    as_xml = fhir.post("/Binary", content=to_xml({"resourceType": "Binary", "contentType": "a/b"}),
                       headers={"Content-Type": "application/fhir+xml"})  # fmt: skip
    assert as_xml.status_code == 201
    assert_outcome(fhir.post("/Binary", content=b"", headers={"Content-Type": "a/b"}), 400)
    big = os.urandom(1 << 20) * 8
    assert_outcome(fhir.post("/Binary", content=big, headers={"Content-Type": "a/b"}), 413)
    huge = fhir.post("/Binary", content=big + big, headers={"Content-Type": "a/b"})
    assert_outcome(huge, 413)


def test_the_way_of_bytes_asks_for_the_same_permissions(
    client_for: Callable[..., httpx.Client], tenant: Tenant, fhir: httpx.Client,
    other_fhir: httpx.Client,
) -> None:  # fmt: skip
    url = stored(fhir, PAGE, "text/html")
    reader, other = client_for(tenant, "system/Binary.r"), client_for(tenant, "system/Basic.cruds")
    raw = {"Content-Type": "text/plain"}

    assert reader.get(url).content == PAGE
    assert reader.post("/Binary", content=b"x", headers=raw).status_code == 403
    assert reader.put(url, content=b"x", headers=raw).status_code == 403
    assert other.get(url).status_code == 403
    assert other_fhir.get(url).status_code == 404
    assert other_fhir.get(f"/Binary/{uuid4()}").status_code == 404


def test_c8_ranges_are_not_taken_and_cost_nothing(fhir: httpx.Client) -> None:
    url = stored(fhir, PICTURE * 100, "image/png")
    for count in (1, 17, 5000):
        ranges = ",".join(f"{n}-{n}" for n in range(count))
        answer = fhir.get(url, headers={"Range": f"bytes={ranges}"})
        assert answer.status_code == 200
        assert answer.content == PICTURE * 100
        assert answer.headers["accept-ranges"] == "none"
    with httpx.Client(timeout=10) as client:
        try:
            refused = client.get(
                f"{fhir.base_url}Binary/x", headers={"Range": "bytes=" + "0-0," * 250_000}
            )
            assert refused.status_code in (400, 401, 431)
        except httpx.TransportError:
            pass  # closed before it was read
    assert fhir.get(url).status_code == 200
