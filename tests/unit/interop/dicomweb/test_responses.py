from __future__ import annotations

import json
import logging

import psycopg
import pytest

from interop.dicom.failures import CANNOT_UNDERSTAND, Failure
from interop.dicomweb.converted import swapped
from interop.dicomweb.errors import error_response
from interop.dicomweb.metadata import Metadata, build, from_cache
from interop.dicomweb.responses import accepts_gzip, compress, warning_headers
from interop.dicomweb.targets import Target
from interop.errors import NotFound, Unauthorized
from storage.objects import ObjectNotFound, ObjectStoreUnavailable


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False), ("", False), ("gzip", True), ("br, GZIP;q=0.5", True), ("*", True),
        ("gzip;q=0", False), ("gzip; q=0.0", False), ("identity", False),
    ],
)  # fmt: skip
def test_whether_gzip_is_accepted(header: str | None, expected: bool) -> None:
    assert accepts_gzip(header) is expected


def test_equal_bodies_compress_to_equal_bytes() -> None:
    assert compress(b"x" * 5000) == compress(b"x" * 5000)


def test_warnings_are_one_header() -> None:
    assert warning_headers([], "a") == {}
    assert warning_headers(["one", "two"], "a") == {"Warning": '299 a: "one", 299 a: "two"'}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound(), 404),
        (Failure.of(CANNOT_UNDERSTAND, "x"), 422),
        (ObjectStoreUnavailable("secret-host"), 503),
        (psycopg.errors.QueryCanceled("SELECT secret"), 503),
        (psycopg.OperationalError("connection to secret-host failed"), 503),
    ],
)
def test_an_error_is_translated_once_and_tells_no_internals(error: Exception, status: int) -> None:
    response = error_response(error)

    assert response.status_code == status
    body = json.loads(response.body)
    assert body["status"] == status
    assert "secret" not in str(body)
    assert ("retry-after" in response.headers) == (status == 503)
    assert response.headers["x-content-type-options"] == "nosniff"


def test_an_unknown_error_is_an_incident_id_and_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        response = error_response(RuntimeError("the patient's name"))

    body = json.loads(response.body)
    assert body == {"status": 500, "error": "internal error", "incident": body["incident"]}
    assert caplog.records[0].incident == body["incident"]  # type: ignore[attr-defined]


def test_missing_bytes_are_a_404_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    assert error_response(ObjectNotFound("no object has key k")).status_code == 404
    assert "stored_object_missing" in caplog.text


def test_the_challenge_of_a_401_goes_out() -> None:
    response = error_response(Unauthorized("x", headers={"WWW-Authenticate": "Bearer"}))

    assert response.headers["www-authenticate"] == "Bearer"


def test_metadata_is_joined_with_urls_and_kept_with_its_root() -> None:
    target = Target("1.1", "1.2", None, "http://x")
    rows = [("1.2", "1.3", "h1", '{"a":"@@BULK@@/7FE00010"}'), ("1.2", "1.4", "h2", "{}")]

    made = build(target, rows)
    kept = from_cache(made.cached("http://x"), "http://x")

    url = "http://x/studies/1.1/series/1.2/instances/1.3/bulkdata/7FE00010"
    assert json.loads(made.body) == [{"a": url}, {}]
    assert isinstance(kept, Metadata)
    assert (kept.etag, kept.plain()) == (made.etag, made.body)
    assert from_cache(made.cached("http://x"), "http://other") is None
    assert from_cache(None, "http://x") is None
    assert build(target, rows[:1]).etag != made.etag


def test_words_are_swapped_and_a_rest_stays() -> None:
    assert swapped(b"\x01\x02\x03\x04\x05", 2) == b"\x02\x01\x04\x03\x05"
    assert swapped(bytes(range(8)), 8) == bytes(reversed(range(8)))
